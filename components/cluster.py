"""The configuration model: what a stack may say, its defaults, and everything that cannot work refused with a remedy.

Names are keepalived's (2.x), Neutron's and the RFCs'. Pure data: no Pulumi, no files, no network.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

MULTICAST = IPv4Network("224.0.0.0/4")
AUTH_PASS_MAX = 8
"""keepalived cuts a longer VRRP password without a word (keepalived.conf(5))."""

POOR_VIEW_WEIGHT = -100
"""What a director adds to its priority when all services have too few live servers: below every healthy director, and above nobody's absence.
Twice that when no witness answers: below those too."""

EVICTION_MAX = 600
"""Seconds: a roll-out waits on each host until every check has had its say, and a command has 20 minutes."""

RENAMED = {
    "lb_algo": "scheduler",
    "lvs_sched": "scheduler",
    "lb_kind": "forwarding_method",
    "lvs_method": "forwarding_method",
    "advert_int": "advert_interval",
    "nb_get_retry": "retry",
    "auth_pass": "the secret openshift-lvs:auth_pass (pulumi config set --secret --path openshift-lvs:auth_pass.VIP)",
    "virtual_ipaddress": "address",
    "misc_path": "script",
    "auth_type": "authentication",
    "priority": "owner, or priorities by host",
}
"""What articles and older files call a key, and what it is here."""

NEEDLESS = {
    "nat_mask": "keepalived 2 does not know it",
    "state": "every instance starts as BACKUP, and `owner` says where the address belongs",
}
"""Keys of articles and older files that have no use here, and why."""

CHECKS = ("tcp", "http", "ssl", "smtp", "misc")

CIDR_LONGEST = 29
WITNESSES = 3
"""At most. One that is silent costs a second, so more would not be asked in time."""

Port = Annotated[int, Field(ge=1, le=65535)]
HostKey = Annotated[
    str,
    Field(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*( .*)?$"),
    BeforeValidator(lambda key: re.sub(r"^\S+ (?=(ssh|ecdsa)-)", "", key) if isinstance(key, str) else key),
]
"""A public key: `ssh-ed25519 AAAA...`. The name or address that known_hosts and ssh-keyscan(1) have before it is left out."""
Seconds = Annotated[float, Field(ge=0.001, le=3600)]
LABEL = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
Label = Annotated[str, Field(pattern=LABEL)]
Word = Annotated[str, Field(pattern=r"^[^\s\"'{}#!]+$", max_length=255)]
"""One word of keepalived.conf: no blank, quote, brace or comment sign."""


def _address_and_port(text: str) -> str:
    address, _, port = text.partition(":")
    try:
        IPv4Address(address)
    except ValueError:
        port = ""
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise PydanticCustomError("witness", "not ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22")
    return text


Witness = Annotated[str, AfterValidator(_address_and_port)]


class ConfigurationError(Exception):
    """The configuration cannot work. The text names the key, the value and what would be right."""


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bastion(Model):
    """The machine through which ssh reaches the nodes."""

    host: str
    port: Port = 22
    user: str = "root"
    host_key: HostKey = Field(description="its public host key: `ssh-ed25519 AAAA...`")


class Ssh(Model):
    """How the nodes are reached."""

    user: str = "debian"
    port: Port = 22
    bastion: Bastion | None = None
    allowed_cidrs: tuple[IPv4Network, ...] | None = Field(None, description="who may ssh to the nodes; the client CIDRs when left out")


class Allow(Model):
    """One more port range that the nodes' security group lets in: etcd, kubelet, whatever the cluster needs between its nodes."""

    protocol: Literal["tcp", "udp"]
    ports: Annotated[str, Field(pattern=r"^\d{1,5}(-\d{1,5})?$")]
    cidr: IPv4Network | None = Field(None, description="from where; the subnet when left out")

    @property
    def port_range(self) -> tuple[int, int]:
        """First and last port."""
        first, _, last = self.ports.partition("-")
        return int(first), int(last or first)

    @model_validator(mode="before")
    @classmethod
    def _one_port(cls, data: Any) -> Any:
        return {**data, "ports": str(data["ports"])} if isinstance(data, Mapping) and isinstance(data.get("ports"), int) else data

    @model_validator(mode="after")
    def _range(self) -> Allow:
        first, last = self.port_range
        if not 1 <= first <= last <= 65535 or (first, last) == (1, 65535):
            raise ValueError(f"ports: {self.ports} must be N or N-M within 1 to 65535, and not all of them (Neutron stores 1-65535 without ports)")
        return self


class Network(Model):
    """The tenant network: made by the program, or an existing one by name."""

    cidr: IPv4Network
    gateway: IPv4Address | None = None
    existing: str | None = Field(None, description="name of a network that is there; its subnet with this cidr is used")
    external: str | None = Field(None, description="name of the external network: gives a router and floating IPs")
    client_cidrs: tuple[IPv4Network, ...] = Field((), description="who may reach the addresses; direct routing needs them as address pairs")
    reserved: dict[Label, IPv4Address] = Field({}, description="addresses kept for machines that are not this stack's: an unbound port each")
    dns_nameservers: tuple[IPv4Address, ...] = ()
    allow: tuple[Allow, ...] = ()

    @model_validator(mode="after")
    def _ranges(self) -> Network:
        if self.cidr.prefixlen > CIDR_LONGEST:
            raise ValueError(f"cidr: {self.cidr} has too few addresses for a cluster; is its length right? such as {self.cidr.network_address}/24")
        if self.gateway and self.gateway not in self.cidr:
            raise ValueError(f"gateway: {self.gateway} is outside the subnet {self.cidr}")
        if self.existing and self.external:
            raise ValueError(f"external: {self.external!r} makes a router, which an existing network ({self.existing!r}) has already; leave one out")
        if self.external and not self.gateway:
            raise ValueError(f"gateway: missing; the router to {self.external!r} needs an address in {self.cidr}, such as {self.cidr[1]}")
        for range_ in self.client_cidrs:
            if range_.overlaps(MULTICAST) and range_.prefixlen:
                raise ValueError(f"client_cidrs: {range_} overlaps multicast, which Neutron refuses; use 0.0.0.0/0 or 0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3")
        return self


class Host(Model):
    """One node of a pool."""

    address: IPv4Address
    host_key: HostKey | None = Field(None, description="public host key of an existing host; the others' keys are derived")
    installed: Annotated[str, Field(pattern=r"^[\w.:+-]{1,40}$")] | None = None
    """Any word, such as a date. Another one says that the host was installed anew: everything is brought to it again."""

    @field_validator("installed", mode="before")
    @classmethod
    def _date(cls, value: object) -> object:
        # A date in YAML is one, and Pulumi adds midnight to it.
        return value if value is None else str(value).partition(" ")[0]


class Pool(Model):
    """Nodes of one kind. Each is a real server; each is a director too unless `directors` names fewer."""

    hosts: dict[Label, Host]
    image: str | None = None
    flavor: str | None = None
    existing: bool = False
    directors: tuple[Label, ...] | None = None
    witnesses: tuple[Witness, ...] | None = Field(None, max_length=WITNESSES)
    """Who tells a director that is cut off from its peers; servers of the other pools when left out, in a pool of two."""
    interface: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] = "eth0"
    availability_zone: str | None = None
    cloud_config: dict[str, Any] = Field({}, description="more cloud-config (YAML as a mapping) for the first boot of these servers")

    @model_validator(mode="before")
    @classmethod
    def _short_hosts(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("hosts"), Mapping):
            hosts = {name: {"address": host} if isinstance(host, str) else host for name, host in data["hosts"].items()}
            return {**data, "hosts": hosts}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Pool:
        if not self.hosts:
            raise ValueError("hosts: a pool needs at least one host")
        for name in self.directors or ():
            if name not in self.hosts:
                raise ValueError(f"directors: {name!r} is not one of this pool's hosts ({', '.join(self.hosts)})")
        if self.existing:
            for name, host in self.hosts.items():
                if not host.host_key:
                    raise ValueError(f"hosts.{name}.host_key: an existing host needs its public host key (ssh-keyscan -t ed25519 {host.address})")
        else:
            for key in ("image", "flavor"):
                if not getattr(self, key):
                    raise ValueError(f"{key}: missing; servers that the program makes need an image and a flavor (or say existing: true)")
        return self


class Check(Model):
    """What all health checks know (keepalived.conf(5), real_server). Times in seconds; the defaults make an eviction of 2 s."""

    connect_timeout: Seconds = 0.7
    retry: Annotated[int, Field(ge=0, le=100)] = 1
    delay_before_retry: Seconds = 0.1
    delay_loop: Seconds = 0.5
    warmup: Annotated[float, Field(ge=0, le=3600)] | None = None
    alpha: bool | None = None

    @property
    def attempt(self) -> float:
        """After how many seconds an attempt without an answer is given up."""
        return self.connect_timeout

    @property
    def cycle(self) -> float:
        """Seconds from one look at the same thing to the next, of a healthy server."""
        return self.delay_loop

    @property
    def wait_when_down(self) -> float:
        """Seconds from a failed look at a server that is out to the look that may bring it back."""
        return self.delay_loop


class ConnectingCheck(Check):
    """A check that opens a connection."""

    connect_ip: IPv4Address | None = None
    connect_port: Port | None = None
    bindto: IPv4Address | None = None
    bind_port: Port | None = None
    bind_if: Word | None = None
    fwmark: Annotated[int, Field(ge=1, le=2**32 - 1)] | None = None
    log_all_failures: bool | None = None


class TcpCheck(ConnectingCheck):
    """TCP_CHECK: the port takes a connection."""

    type: Literal["tcp"]


RegexOption = Literal[
    "allow_empty_class", "alt_bsux", "alt_circumflex", "alt_verbnames", "auto_callout", "caseless", "dollar_endonly", "dotall", "dupnames",
    "extended", "firstline", "match_unset_backref", "multiline", "never_backslash_c", "never_ucp", "never_utf", "no_auto_capture",
    "no_auto_possess", "no_dotstar_anchor", "no_start_optimize", "ucp", "ungreedy", "use_offset_limit", "utf",
]  # fmt: skip
"""What keepalived knows (PCRE2's names, in lower case); another it would ignore without a word."""


class Url(Model):
    """One url of HTTP_GET or SSL_GET. `digest` is genhash's MD5 of the page."""

    path: Word = "/"
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    status_code: Annotated[str, Field(pattern=r"^[1-5]\d\d(-[1-5]\d\d)?( [1-5]\d\d(-[1-5]\d\d)?)*$")] | None = None
    virtualhost: Word | None = None
    regex: Annotated[str, Field(pattern=r'^[^"\n]+$')] | None = None
    regex_no_match: bool = False
    regex_options: tuple[RegexOption, ...] = ()
    regex_stack: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    regex_min_offset: Annotated[int, Field(ge=0)] | None = None
    regex_max_offset: Annotated[int, Field(ge=0)] | None = None

    @property
    def accepted(self) -> str:
        """The status codes that pass, such as `200-299 401`. keepalived's default is HTTP_DEFAULT_STATUS_CODE_MIN to _MAX in check_http.h."""
        return self.status_code or "200-299"

    @model_validator(mode="before")
    @classmethod
    def _one_status(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("status_code"), int):
            return {**data, "status_code": str(data["status_code"])}
        return data

    @model_validator(mode="after")
    def _rising(self) -> Url:
        for part in (self.status_code or "").split():
            first, _, last = part.partition("-")
            if last and last < first:
                raise ValueError(f"status_code: {part} is no range; write {last}-{first}")
        return self

    @model_validator(mode="after")
    def _regex_alone(self) -> Url:
        if not self.regex and (self.regex_no_match or self.regex_options or self.regex_stack or self.regex_min_offset or self.regex_max_offset):
            raise ValueError("regex: missing; the other regex keys say how it is matched")
        if self.regex_min_offset and self.regex_max_offset and self.regex_min_offset > self.regex_max_offset:
            raise ValueError(f"regex_min_offset: {self.regex_min_offset} is beyond regex_max_offset {self.regex_max_offset}")
        return self


class HttpCheck(ConnectingCheck):
    """HTTP_GET or SSL_GET: every url answers as expected. `path` and `status_code` are the short form of one url."""

    type: Literal["http", "ssl"]
    urls: tuple[Url, ...] = ()
    http_protocol: Annotated[Literal["1.0", "1.0C", "1.1"] | None, BeforeValidator(lambda given: str(given) if isinstance(given, float) else given)] = None
    virtualhost: Word | None = None
    enable_sni: bool = False
    fast_recovery: bool = True

    @model_validator(mode="before")
    @classmethod
    def _one_url(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        short = {key: data[key] for key in ("path", "status_code", "digest") if key in data}
        if not short:
            return data
        if data.get("urls"):
            raise ValueError(f"urls: given together with {', '.join(short)}; use the one or the other")
        return {**{key: value for key, value in data.items() if key not in short}, "urls": [short]}

    @model_validator(mode="after")
    def _something_to_get(self) -> HttpCheck:
        if not self.urls:
            raise ValueError("path: missing; an http or ssl check gets at least one path, such as path: /healthz")
        if self.enable_sni and self.type != "ssl":
            raise ValueError("enable_sni: an http check has no TLS; use type: ssl or leave it out")
        return self

    @property
    def cycle(self) -> float:
        """keepalived gets one url after the other, with a whole `delay_loop` between two."""
        return len(self.urls) * self.delay_loop

    @property
    def wait_when_down(self) -> float:
        """The url that failed is tried first, then all again: at once, or at the pace of a healthy server."""
        return max(self.delay_loop, self.delay_before_retry) + (0 if self.fast_recovery else self.cycle)


class SmtpCheck(ConnectingCheck):
    """SMTP_CHECK: a mail server greets and takes HELO."""

    type: Literal["smtp"]
    helo_name: Word | None = None


class MiscCheck(Check):
    """MISC_CHECK: a script of the repository, delivered with the configuration; exit 0 is healthy.

    With `misc_dynamic` exit 2 to 255 sets the weight to the status less two.
    It runs as `user`, with `arguments` and then the real server's address and port.
    """

    type: Literal["misc"]
    script: Annotated[str, Field(pattern=r"^(\w[\w.-]*/)*\w[\w.-]*$", description="path in the repository")]
    arguments: tuple[Word, ...] = ()
    misc_timeout: Annotated[int, Field(ge=1, le=3600)] = 2
    misc_dynamic: bool = False
    user: Word = "nobody"
    retry: Annotated[int, Field(ge=0, le=100)] = 0

    @property
    def attempt(self) -> float:
        """`misc_timeout` takes the place of `connect_timeout`."""
        return self.misc_timeout


HealthCheck = Annotated[TcpCheck | HttpCheck | SmtpCheck | MiscCheck, Field(discriminator="type")]

Scheduler = Literal["mh", "sh", "dh", "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "fo", "ovf", "sed", "nq"]
"""The schedulers of Debian's and Red Hat's kernels (ipvsadm(8)); `twos` comes with neither."""

SCHEDULER_FLAGS = {"mh": ("mh-port", "mh-fallback"), "sh": ("sh-port", "sh-fallback")}


class VirtualService(Model):
    """One virtual_server of keepalived.conf: a port of the address, and how its connections are spread."""

    port: Port
    protocol: Literal["TCP", "UDP"] = "TCP"
    health_check: HealthCheck
    scheduler: Scheduler = "mh"
    affinity: Literal["connection", "client"] = Field("connection", description="client: the same server for a client's every connection, without state")
    fallback: bool = Field(True, description="mh and sh: another server when the chosen one has weight 0")
    persistence_timeout: Annotated[int, Field(ge=1, le=31 * 86400)] | None = None
    persistence_granularity: IPv4Address | None = None
    forwarding_method: Literal["DR", "NAT", "TUN"] = "DR"
    weights: dict[Label, Annotated[int, Field(ge=0, le=65535)]] = {}
    quorum: Annotated[int, Field(ge=1)] | None = Field(None, description="live weight below which a director stands back; the majority when left out")
    hysteresis: Annotated[int, Field(ge=0)] = 0
    alpha: bool = False
    omega: bool = False
    ops: bool = Field(False, description="UDP: schedule every packet by itself")
    inhibit_on_failure: bool = Field(True, description="weight 0 instead of removal: its connections live on, and its place in the hash table is kept")
    uthreshold: Annotated[int, Field(ge=0, le=65535)] | None = None
    lthreshold: Annotated[int, Field(ge=0, le=65535)] | None = None
    sorry_server: IPv4Address | None = Field(default=None, description="who answers on the same port when the quorum is lost")
    virtualhost: Word | None = None
    smtp_alert: bool | None = None

    @model_validator(mode="after")
    def _together(self) -> VirtualService:
        if self.affinity == "client" and self.scheduler not in SCHEDULER_FLAGS:
            raise ValueError(f"affinity: client needs scheduler mh or sh; with {self.scheduler} use persistence_timeout")
        if self.persistence_granularity and not self.persistence_timeout:
            raise ValueError("persistence_granularity: means nothing without persistence_timeout")
        if self.ops and self.protocol != "UDP":
            raise ValueError(f"ops: one-packet scheduling is for UDP, this is {self.protocol}")
        if self.protocol == "UDP" and isinstance(self.health_check, TcpCheck | HttpCheck | SmtpCheck) and not self.health_check.connect_port:
            raise ValueError(f"health_check: a {self.health_check.type} check of a UDP service needs connect_port, or use type: misc")
        if self.uthreshold and self.lthreshold and self.lthreshold >= self.uthreshold:
            raise ValueError(f"lthreshold: {self.lthreshold} must be below uthreshold {self.uthreshold}")
        if self.verdict_seconds > EVICTION_MAX:
            raise ValueError(
                f"health_check: a silent server would be out after {self.verdict_seconds:g} s; a roll-out waits for every check and gives up "
                f"after {EVICTION_MAX} s; lower delay_loop, connect_timeout, retry, delay_before_retry or warmup"
            )
        return self

    @property
    def scheduler_flags(self) -> tuple[str, ...]:
        """The flags that make the scheduler hash as `affinity` and `fallback` say."""
        port, fallback = SCHEDULER_FLAGS.get(self.scheduler, ("", ""))
        return tuple(flag for flag, on in ((port, self.affinity == "connection"), (fallback, self.fallback)) if flag and on)

    def weight(self, host: str) -> int:
        """What that real server weighs."""
        return self.weights.get(host, 1)

    def quorum_of(self, hosts: Iterable[str]) -> int:
        """The live weight below which a director stands back, of these real servers."""
        # With a sorry server keepalived drops every real server below the quorum, so the majority rule would cost the live minority.
        return self.quorum or (1 if self.sorry_server else sum(map(self.weight, hosts)) // 2 + 1)

    @property
    def mark(self) -> int:
        """Which service of an address: unique by port and protocol; with the VRID above it, the firewall mark of the virtual server."""
        # Bits 14 and 15 stay clear: kube-proxy's rules read 0x4000 as "masquerade" and 0x8000 as "drop".
        return (self.protocol == "UDP") << 18 | self.port >> 14 << 16 | self.port & 0x3FFF

    @property
    def eviction_seconds(self) -> float:
        """Worst case from a server's silence to its removal: the wait for the next look, and every attempt timing out.

        Not counted: keepalived's 5 s of SO_LINGER when the server falls silent while a check closes its connection (its issue 2271).
        """
        check = self.health_check
        return round(check.cycle + check.attempt + check.retry * (check.delay_before_retry + check.attempt), 3)

    @property
    def verdict_seconds(self) -> float:
        """Worst case from a start of the check to the removal of a server that fails it."""
        return round(self.eviction_seconds + (self.health_check.warmup or 0), 3)

    @property
    def recovery_seconds(self) -> float:
        """Worst case from a server's recovery to its return: an attempt that was under way times out, and the wait for the next."""
        return round(self.health_check.attempt + self.health_check.wait_when_down, 3)


class Vip(Model):
    """A highly available address: one vrrp_instance and its virtual servers."""

    address: IPv4Address
    pool: Label
    virtual_router_id: Annotated[int, Field(ge=1, le=255)]
    owner: Label
    services: tuple[VirtualService, ...]
    advert_interval: Annotated[float, Field(ge=0.01, le=3)] = 0.3
    priorities: dict[Label, Annotated[int, Field(ge=1, le=254)]] = {}
    authentication: Literal["PASS", "AH"] | None = None
    unicast: bool = Field(False, description="adverts to each director's address instead of the VRRP multicast group")
    floating_ip: bool = True
    garp_master_delay: Annotated[int, Field(ge=0, le=3600)] | None = None
    garp_master_refresh: Annotated[int, Field(ge=0, le=86400)] = 30
    smtp_alert: bool | None = None
    answers_within: Annotated[int, Field(ge=0, le=3600)] = Field(
        120,
        description="seconds after a roll-out by which every service must answer through the address; 0: not asked, for a cluster that is yet to be installed",
    )

    @model_validator(mode="after")
    def _services(self) -> Vip:
        if not self.services:
            raise ValueError("services: an address needs at least one service")
        seen: set[tuple[int, str]] = set()
        for service in self.services:
            if (key := (service.port, service.protocol)) in seen:
                raise ValueError(f"services: port {service.port}/{service.protocol} is there twice; keepalived would use one of the two without a word")
            seen.add(key)
        return self

    def mark(self, service: VirtualService) -> int:
        """The firewall mark of a service's virtual server: no other of the stack has it."""
        return self.virtual_router_id << 20 | service.mark

    @property
    def eviction_seconds(self) -> float:
        """Worst case over its services."""
        return max(service.eviction_seconds for service in self.services)

    @property
    def recovery_seconds(self) -> float:
        """Worst case over its services."""
        return max(service.recovery_seconds for service in self.services)


class Notifications(Model):
    """keepalived's mail: the global notification keys."""

    notification_email: tuple[Word, ...]
    notification_email_from: Word
    smtp_server: Word
    smtp_port: Port = 25
    smtp_connect_timeout: Annotated[int, Field(ge=1, le=600)] = 30
    smtp_helo_name: Word | None = None
    smtp_alert: bool | None = None


class Keepalived(Model):
    """Global keys."""

    vrrp_version: Literal[2, 3] = 3
    notifications: Notifications | None = None
    router_id: Word | None = Field(None, description="the host's name when left out")
    checker_log_all_failures: bool = False


class Node(NamedTuple):
    """A host where it stands: its name, pool and data."""

    name: str
    pool_name: str
    pool: Pool
    host: Host


class Cluster(Model):
    """The whole of a stack's `openshift-lvs:cluster`."""

    network: Network
    ssh: Ssh = Ssh()
    keepalived: Keepalived = Keepalived()
    pools: dict[Label, Pool]
    vips: dict[Label, Vip]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Cluster:
        """The cluster that stack configuration describes. Raises ConfigurationError with every fault found, one a line."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError("\n".join(_explain(cls, fault) for fault in error.errors())) from None

    @property
    def needs_openstack(self) -> bool:
        """Whether the program makes anything in OpenStack; a stack of existing hosts needs no cloud."""
        return any(not pool.existing for pool in self.pools.values())

    def nodes(self) -> Iterator[Node]:
        """Every host, pool by pool, in the order of the configuration."""
        for pool_name, pool in self.pools.items():
            for name, host in pool.hosts.items():
                yield Node(name, pool_name, pool, host)

    def node(self, name: str) -> Node:
        """The host of that name. Raises ConfigurationError that lists the known ones."""
        for node in self.nodes():
            if node.name == name:
                return node
        raise ConfigurationError(f"host: {name!r} is not in this stack; its hosts are {', '.join(n.name for n in self.nodes())}")

    def sync_id(self, pool: str) -> int | None:
        """What tells the pool's connection sync from others' on the segment (ipvsadm(8), syncid): the VRID of its first address."""
        return next((vip.virtual_router_id for vip in self.vips_of(pool).values()), None)

    def vips_of(self, pool_name: str) -> dict[str, Vip]:
        """The addresses that a pool's hosts serve."""
        return {name: vip for name, vip in self.vips.items() if vip.pool == pool_name}

    def directors(self, pool_name: str) -> list[str]:
        """The hosts of a pool that may hold its addresses."""
        pool = self.pools[pool_name]
        return [name for name in pool.hosts if pool.directors is None or name in pool.directors]

    def witnesses(self, pool_name: str) -> tuple[str, ...]:
        """ADDRESS:PORT of who tells a pool's directors whether they are cut off. By default none but in a pool of two, where no majority tells."""
        pool = self.pools[pool_name]
        if pool.witnesses is not None:
            return pool.witnesses
        if len(pool.hosts) != 2 or len(self.directors(pool_name)) != 2:
            return ()
        ports = {vip.pool: service.port for vip in self.vips.values() if vip.pool != pool_name for service in vip.services if service.protocol == "TCP"}
        return tuple(f"{host.address}:{port}" for other, port in ports.items() for host in self.pools[other].hosts.values())[:WITNESSES]

    def priority(self, vip: Vip, host: str) -> int:
        """VRRP priority: the owner 150, the others 140, 130, ... in the order of the pool, unless `priorities` says otherwise."""
        if host in vip.priorities:
            return vip.priorities[host]
        others = [name for name in self.directors(vip.pool) if name != vip.owner]
        step = min(10, (-POOR_VIEW_WEIGHT - 1) // max(1, len(others)))
        return 150 if host == vip.owner else 150 - step * (others.index(host) + 1)

    def step_back_weight(self, pool_name: str) -> int:
        """What a director that has changed adds to its priorities until the roll-out ends, less than 0.

        It comes below all that have not changed and, where priorities are no more than 49 apart, above one whose view is poor. Half of that
        view's weight wherever that will do: the priority of one director is no other's business.
        """
        directors = self.directors(pool_name)
        priorities = [[self.priority(vip, host) for host in directors] for vip in self.vips_of(pool_name).values()]
        spread = max((max(each) - min(each) for each in priorities), default=0)
        return min(POOR_VIEW_WEIGHT // 2, -(spread + 1))

    def takeover_seconds(self, vip: Vip) -> float:
        """Worst case from the owner's silence to a takeover by the first backup: 3 x advert + skew (RFC 9568, 6.1)."""
        backups = [self.priority(vip, name) for name in self.directors(vip.pool) if name != vip.owner]
        skew_of = vip.advert_interval if self.keepalived.vrrp_version == 3 else 1.0
        return round(3 * vip.advert_interval + (256 - max(backups, default=vip.priorities.get(vip.owner, 150))) / 256 * skew_of, 3)

    @model_validator(mode="after")
    def _whole(self) -> Cluster:
        taken: dict[IPv4Address, str] = {self.network.gateway: "network.gateway"} if self.network.gateway else {}
        named = [(f"network.reserved.{name}", address) for name, address in self.network.reserved.items()]
        named += [(f"pools.{n.pool_name}.hosts.{n.name}", n.host.address) for n in self.nodes()]
        named += [(f"vips.{name}.address", vip.address) for name, vip in self.vips.items()]
        for key, address in named:
            if address not in self.network.cidr or address in (self.network.cidr.network_address, self.network.cidr.broadcast_address):
                raise ValueError(f"{key}: {address} is not a host address of the subnet {self.network.cidr}")
            if address in taken:
                raise ValueError(f"{key}: {address} is taken by {taken[address]}; an address pair equal to a bound port's address takes that port down")
            taken[address] = key
        names = [node.name for node in self.nodes()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"pools: the host name {name!r} is used twice; names are unique in a stack")
        routers: dict[int, str] = {}
        for name, vip in self.vips.items():
            self._check_vip(name, vip)
            if vip.virtual_router_id in routers:
                raise ValueError(
                    f"vips.{name}.virtual_router_id: {vip.virtual_router_id} is used by vips.{routers[vip.virtual_router_id]} too; choose another (1 to 255)"
                )
            routers[vip.virtual_router_id] = name
        for pool_name in self.pools:
            vips = self.vips_of(pool_name)
            inside = {host.address: f"pools.{pool_name}.hosts.{name}" for name, host in self.pools[pool_name].hosts.items()}
            inside |= {vip.address: f"vips.{name}.address" for name, vip in vips.items()}
            for index, witness in enumerate(self.pools[pool_name].witnesses or ()):
                if found := inside.get(IPv4Address(witness.partition(":")[0])):
                    raise ValueError(
                        f"pools.{pool_name}.witnesses.{index}: {witness} is {found}; a witness is outside the pool: "
                        "a server of another one, a name server, a gateway that answers"
                    )
        return self

    def _check_vip(self, name: str, vip: Vip) -> None:
        at = f"vips.{name}"
        if vip.pool not in self.pools:
            raise ValueError(f"{at}.pool: {vip.pool!r} is not a pool; the pools are {', '.join(self.pools)}")
        directors = self.directors(vip.pool)
        if vip.owner not in directors:
            raise ValueError(f"{at}.owner: {vip.owner!r} is not a director of pool {vip.pool!r}; it has {', '.join(directors)}")
        for host in vip.priorities:
            if host not in directors:
                raise ValueError(f"{at}.priorities.{host}: not a director of pool {vip.pool!r}; it has {', '.join(directors)}")
        by_priority: dict[int, str] = {}
        for host in directors:
            priority = self.priority(vip, host)
            if priority in by_priority:
                raise ValueError(f"{at}.priorities: {host} and {by_priority[priority]} both have {priority}; equal priorities have no fixed owner")
            by_priority[priority] = host
        if max(by_priority) - min(by_priority) >= -POOR_VIEW_WEIGHT:
            raise ValueError(
                f"{at}.priorities: from {max(by_priority)} down to {min(by_priority)} is {-POOR_VIEW_WEIGHT} or more apart; "
                f"a director that sees too few servers of every service adds {POOR_VIEW_WEIGHT}, and must come to stand below all others"
            )
        if self.witnesses(vip.pool) and min(by_priority) < 2 - POOR_VIEW_WEIGHT:
            raise ValueError(
                f"{at}.priorities: {by_priority[min(by_priority)]} has {min(by_priority)}; with witnesses {2 - POOR_VIEW_WEIGHT} is the least: "
                f"a director that sees too few servers adds {POOR_VIEW_WEIGHT}, and one that is cut off must come to stand below it. "
                f"Set higher priorities, or no witnesses (pools.{vip.pool}.witnesses: [])"
            )
        if by_priority[max(by_priority)] != vip.owner:
            raise ValueError(f"{at}.owner: {vip.owner} has not the highest priority ({by_priority[max(by_priority)]} has {max(by_priority)})")
        if self.keepalived.vrrp_version == 2 and vip.advert_interval != int(vip.advert_interval):
            raise ValueError(f"{at}.advert_interval: {vip.advert_interval} needs VRRP version 3; version 2 counts whole seconds")
        if vip.advert_interval != round(vip.advert_interval, 2):
            raise ValueError(f"{at}.advert_interval: {vip.advert_interval} is no multiple of 0.01, and an advert counts hundredths of a second (RFC 9568)")
        if vip.authentication and self.keepalived.vrrp_version == 3:
            raise ValueError(f"{at}.authentication: VRRP version 3 has none (RFC 9568); set keepalived.vrrp_version: 2 or leave it out")
        needed = self.takeover_seconds(vip) + vip.recovery_seconds
        if 0 < vip.answers_within < needed:
            raise ValueError(
                f"{at}.answers_within: {vip.answers_within} s is less than a takeover and a check take by these timings ({needed:g} s); "
                "give it more, or 0 to ask nothing"
            )
        for index, service in enumerate(vip.services):
            self._check_balance(f"{at}.services.{index}", self.pools[vip.pool].hosts, service)

    @staticmethod
    def _check_balance(at: str, hosts: Mapping[str, Host], service: VirtualService) -> None:
        for host in service.weights:
            if host not in hosts:
                raise ValueError(f"{at}.weights.{host}: not a host of the pool; it has {', '.join(hosts)}")
        total = sum(map(service.weight, hosts))
        if not total:
            raise ValueError(f"{at}.weights: all are 0, so no server would get a connection; give one a weight")
        if service.quorum and service.quorum > total:
            raise ValueError(f"{at}.quorum: {service.quorum} is more than all servers weigh together ({total})")
        if service.hysteresis >= (quorum := service.quorum_of(hosts)):
            raise ValueError(f"{at}.hysteresis: {service.hysteresis} must be below the quorum, which is {quorum}")
        if service.hysteresis + quorum > total:
            raise ValueError(
                f"{at}.hysteresis: {service.hysteresis} above the quorum of {quorum} is more than all servers weigh together ({total}): "
                f"a quorum that was lost once would never come back; {total - quorum} at most"
            )
        for name, server in hosts.items():
            if server.address == service.sorry_server:
                raise ValueError(f"{at}.sorry_server: {server.address} is {name}, a real server of the same service; name another machine")


def check_auth_pass(cluster: Cluster, given: Mapping[str, str]) -> None:
    """Refuse a VRRP password that is missing, unused or longer than keepalived reads. Never quotes one."""
    for name, vip in cluster.vips.items():
        key = f"openshift-lvs:auth_pass.{name}"
        if vip.authentication and name not in given:
            raise ConfigurationError(f"{key}: missing, and vips.{name}.authentication is {vip.authentication}; pulumi config set --secret --path {key}")
        if vip.authentication and len(given[name]) > AUTH_PASS_MAX:
            raise ConfigurationError(f"{key}: has {len(given[name])} characters; keepalived reads {AUTH_PASS_MAX} and drops the rest")
        if vip.authentication and not re.fullmatch(r"[^\s\"'{}#!]+", given[name]):
            raise ConfigurationError(f"{key}: has a blank, quote, brace, # or !, which keepalived.conf cannot carry")
    for name in given:
        if name not in cluster.vips or not cluster.vips[name].authentication:
            raise ConfigurationError(
                f"openshift-lvs:auth_pass.{name}: no address of that name has `authentication`; remove it or set vips.{name}.authentication: PASS"
            )


def _explain(model: type[Model], fault: Any) -> str:
    """One fault of pydantic's as `key: value ... remedy`."""
    # pydantic names the kind of a check as if it were a key.
    location = [str(part) for before, part in itertools.pairwise(("", *fault["loc"])) if before != "health_check" or part not in CHECKS]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_instead(model, location[-1])}"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.type: missing; {', '.join(CHECKS)}"
    if fault["type"] == "string_pattern_mismatch" and fault["ctx"]["pattern"] == LABEL:
        key = key.removesuffix(".[key]").removesuffix(f".{fault['input']}")
        return f"{key}: {fault['input']!r} is no name; lower-case letters, digits and hyphens, 63 at most, a letter first"
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "ip_v4_network":
        return f"{key}: {fault['input']!r} is not a network as ADDRESS/LENGTH with zeros after the length, such as 192.168.0.0/24"
    if fault["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {fault['input']!r}: {message}"


def _instead(model: type[Model], wrong: str) -> str:
    """What may be meant by a key that is not known at its place."""
    if wrong in RENAMED:
        return f"; here it is {RENAMED[wrong]}"
    if wrong in NEEDLESS:
        return f"; leave it out: {NEEDLESS[wrong]}"
    keys = _known_keys(model)
    if wrong in keys:
        return f" here; it belongs to {keys[wrong]} (docs/configuration.md)"
    near = difflib.get_close_matches(wrong, sorted(keys), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _known_keys(model: type[BaseModel]) -> dict[str, str]:
    """Every key of the model and the models in it, and which of them have it: pydantic names the place, this finds the nearest word."""
    whole = model.model_json_schema()
    keys: dict[str, list[str]] = {key: ["HttpCheck"] for key in ("path", "status_code", "digest")}
    for schema in (whole, *whole.get("$defs", {}).values()):
        for key in schema.get("properties", ()):
            keys.setdefault(key, []).append(schema["title"])
    return {key: ", ".join(models) for key, models in keys.items()}
