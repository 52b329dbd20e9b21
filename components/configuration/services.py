"""The `services` of a VIP: ports, schedulers, weights and the quorum, and how fast a server is removed and returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from components.configuration.health_checks import HealthCheck, HttpCheck, MiscCheck, SmtpCheck, TcpCheck
from components.configuration.model import NUMBER, SECONDS, Address, AddressV6, Form, HostName, Model, Port, Range, Word
from components.configuration.presets import PRESETS, Preset, with_preset

EVICTION_MAX = 600
"""Maximum of `verdict_seconds`. A roll-out waits on each host until every health check has a result, and its command stops after 20 minutes."""

Scheduler = Literal["mh", "sh", "dh", "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "fo", "ovf", "sed", "nq"]
"""The schedulers of Debian's and Red Hat's kernels (ipvsadm(8)). Neither kernel has `twos`."""

SCHEDULER_FLAGS = {"mh": ("mh-port", "mh-fallback"), "sh": ("sh-port", "sh-fallback")}


class VirtualService(Model):
    """One virtual_server of keepalived.conf: a port of the VIP, and how its connections are distributed."""

    heading: ClassVar[str] = "vips.NAME.services"

    port: Port
    """The port, the same on the VIP and on the real servers; not the port of ssh. keepalived: `virtual_server`."""
    preset: Preset | None = None
    """The keys that such a cluster needs on this port, see [presets](#presets); every key that you write replaces the preset's."""
    protocol: Literal["TCP", "UDP"] = "TCP"
    """Protocol of the service. keepalived: `protocol`."""
    health_check: HealthCheck
    """How a director finds out whether a real server works; a preset has one. keepalived: `TCP_CHECK` and others."""
    client_cidrs: tuple[Range, ...] | None = None
    """Clients that may connect to this port, beside the subnet; `network.client_cidrs` if not set. `[]`: only the subnet. The ranges lie within
    `network.client_cidrs`. It changes the security group of created servers; existing hosts are not affected.
    """
    scheduler: Scheduler = "mh"
    """How the director chooses a real server. With `mh` and `sh`, every director chooses the same server for a connection. With another scheduler, or with
    `persistence_timeout`, a new holder knows a connection only from connection sync. That reports a connection up to two seconds late, so younger
    connections are lost when the holder changes ([measured](../appendix/measurements.md#what-another-scheduler-costs)).
    keepalived: `lvs_sched`, formerly `lb_algo`.
    """
    affinity: Literal["connection", "client"] = "connection"
    """`client`: all connections of a client go to one server, by hashing and without state. `mh` and `sh` only. keepalived: `mh-port`, `sh-port`."""
    fallback: bool = True
    """Use another server if the chosen one has weight 0; `mh` and `sh` only. keepalived: `mh-fallback`, `sh-fallback`."""
    persistence_timeout: Annotated[int, Field(ge=1, le=31 * 86400), NUMBER, SECONDS] | None = None
    """How long a client stays on one server; see `scheduler`. keepalived: `persistence_timeout`."""
    persistence_granularity: Annotated[Address, Form("a netmask, such as 255.255.255.0")] | None = None
    """Clients in one network of this size count as one client. keepalived: `persistence_granularity`."""
    forwarding_method: Literal["DR", "NAT", "TUN"] = "DR"
    """How a packet reaches the real server. With `NAT`, the answers must pass through the director. `TUN` needs the kernel module `ipip` on the servers; the
    program loads it. A director hands its VIPs over before it changes the method. If all other directors are drained, it refuses the change. If there is
    no other director, no client is served for about a second. keepalived: `lvs_method`, formerly `lb_kind`.
    """
    weights: Annotated[dict[HostName, Annotated[int, Field(ge=0, le=65535), NUMBER]], Form("a mapping HOST: WEIGHT, such as infra0: 2")] = Field({})
    """Weight by host: 1 if not set; 0: no new connections. keepalived: `weight`."""
    expected_servers: Annotated[int, Field(ge=1), NUMBER] | None = None
    """How many real servers are expected to pass the health check at the same time, [if not all](#services-that-run-on-some-hosts). If not set: all hosts
    with a weight above 0; not more than these.
    """
    quorum: Annotated[int, Field(ge=1), NUMBER] | None = None
    """Minimum live weight. Below it a director lowers its VRRP priority, so that directors with a better view are preferred: by 100 if all services of the
    VIP are below their quorum, by 50 if one of two is, and so on. This alone does not move a VIP away from its holder (`nopreempt`). If not set: more
    than half of the expected weight; 1 with a `sorry_server`. The expected weight is the weight of all servers. With `expected_servers: N` it is the
    weight of the N lightest servers with a weight above 0, and an explicit `quorum` may not be more. keepalived: `quorum`.
    """
    hysteresis: Annotated[int, Field(ge=0), NUMBER] = 0
    """The quorum is lost this far below `quorum`, and gained this far above it; less than the quorum. keepalived: `hysteresis`."""
    alpha: bool = False
    """Servers count as down until their first health check. keepalived: `alpha`."""
    omega: bool = False
    """When keepalived stops, report that the quorum is lost and remove the servers. keepalived: `omega`."""
    ops: bool = False
    """Schedule every packet separately; UDP only. keepalived: `ops`."""
    inhibit_on_failure: bool = True
    """Weight 0 instead of removal when a health check fails: the server's connections continue
    ([why](../explanation/decisions/0011-failed-servers-keep-their-place.md)). keepalived: `inhibit_on_failure`.
    """
    uthreshold: Annotated[int, Field(ge=0, le=65535), NUMBER] | None = None
    """Maximum connections of a server. keepalived: `uthreshold`."""
    lthreshold: Annotated[int, Field(ge=0, le=65535), NUMBER] | None = None
    """Connections below which the server gets new ones again; less than `uthreshold`. keepalived: `lthreshold`."""
    sorry_server: Address | None = Field(default=None)
    """The server that answers, on the same port, when the quorum is lost. A machine outside this stack, because it must have the VIP on `lo` and the ARP
    settings of [a real server](#a-sorry-server-outside-the-stack); a host or VIP of the stack is refused. keepalived: `sorry_server`.
    """
    sorry_server_v6: AddressV6 | None = None
    """The sorry server of the VIP's `address_v6`; either both have one or neither. keepalived: `sorry_server`."""
    fail_open: bool | None = None
    """While no server passes its health check, every server that is not drained and has a weight gets connections: the checks may be wrong
    ([what it does](../explanation/health-checks.md#fail-open)). If not set: on. Off, and refused if set to `true`, with a `sorry_server`, with a
    `misc_dynamic` check, and with fewer `expected_servers` than hosts with a weight.
    """
    virtualhost: Word | None = None
    """The Host that `http` and `ssl` checks send, unless they set `virtualhost`: `Host` of HTTP_GET and SSL_GET. keepalived: `virtualhost`."""
    smtp_alert: bool | None = None
    """Send mail when a server is evicted or returns. keepalived: `smtp_alert`."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return with_preset(data) if isinstance(data, Mapping) and isinstance(data.get("preset"), str) and data["preset"] in PRESETS else data

    @model_validator(mode="before")
    @classmethod
    def _one_port(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and str(data.get("port")) == "0":
            raise ValueError("port: 0 is keepalived's word for every port, and a service here has one; write a service for each port")
        return data

    @model_validator(mode="after")
    def _together(self) -> VirtualService:
        if self.affinity == "client" and self.scheduler not in SCHEDULER_FLAGS:
            raise ValueError(f"affinity: client needs scheduler mh or sh; with {self.scheduler} use persistence_timeout")
        if self.persistence_granularity and not self.persistence_timeout:
            raise ValueError(f"persistence_granularity: {self.persistence_granularity} means nothing without persistence_timeout; set that too, or remove this")
        if self.ops and self.protocol != "UDP":
            raise ValueError(f"ops: true, and protocol is {self.protocol}; remove it, because one-packet scheduling is for UDP only")
        if self.protocol == "UDP" and isinstance(self.health_check, TcpCheck | HttpCheck | SmtpCheck) and not self.health_check.connect_port:
            raise ValueError(f"health_check: a {self.health_check.type} check of a UDP service needs connect_port, or use type: misc")
        check = self.health_check
        if isinstance(check, HttpCheck) and check.enable_sni and not (self.virtualhost or check.virtualhost or all(url.virtualhost for url in check.urls)):
            raise ValueError("health_check.enable_sni: true, and no name of a host to send; set virtualhost in the check, in every url or in the service")
        if self.uthreshold and self.lthreshold and self.lthreshold >= self.uthreshold:
            raise ValueError(f"lthreshold: {self.lthreshold} must be below uthreshold, which is {self.uthreshold}")
        if self.fail_open and self.sorry_server:
            raise ValueError("fail_open: true, and sorry_server answers when no server is healthy; remove one of the two")
        if self.fail_open and self.dynamic_weights:
            raise ValueError("fail_open: true, and the script of a misc_dynamic check decides which server gets connections; leave fail_open out")
        if self.verdict_seconds > EVICTION_MAX:
            raise ValueError(
                f"health_check: a silent server would be out after {self.verdict_seconds:g} s; a roll-out waits for every check and gives up "
                f"after {EVICTION_MAX} s; lower delay_loop, connect_timeout, retry, delay_before_retry or warmup"
            )
        return self

    @property
    def scheduler_flags(self) -> tuple[str, ...]:
        """The flags that make the scheduler follow `affinity` and `fallback`. Only mh and sh have flags."""
        port, fallback = SCHEDULER_FLAGS.get(self.scheduler, ("", ""))
        return tuple(flag for flag, on in ((port, self.affinity == "connection"), (fallback, self.fallback)) if flag and on)

    def weight(self, host: str) -> int:
        """The weight of a real server."""
        return self.weights.get(host, 1)

    def expected_weight(self, hosts: Iterable[str]) -> int:
        """The least weight of the expected servers: that of the lightest hosts, so that any `expected_servers` hosts reach it. Weight 0 does not count."""
        return sum(sorted(weight for weight in map(self.weight, hosts) if weight)[: self.expected_servers])

    @property
    def dynamic_weights(self) -> bool:
        """Whether the health check gives the servers their weights."""
        return isinstance(self.health_check, MiscCheck) and self.health_check.misc_dynamic

    def expects_all(self, hosts: Iterable[str]) -> bool:
        """Whether every host with a weight is expected to pass the health check."""
        hosts = list(hosts)
        return self.expected_weight(hosts) == sum(map(self.weight, hosts))

    def fails_open(self, hosts: Iterable[str]) -> bool:
        """Whether all servers get connections while none passes its check. Off where a server that fails its check may not even have the service."""
        return self.fail_open if self.fail_open is not None else not self.sorry_server and not self.dynamic_weights and self.expects_all(hosts)

    def refusals_dropped(self, hosts: Iterable[str]) -> bool:
        """Whether IPVS's own refusals of this service never leave a director: they could only come from the moment before it fails open.

        A server that is full (`uthreshold`), or the share of a failed one without `fallback`, is refused by IPVS as well: these refusals leave.
        """
        shares = self.scheduler in SCHEDULER_FLAGS and not self.fallback
        return self.protocol == "TCP" and self.fails_open(hosts) and not self.uthreshold and not shares

    def quorum_of(self, hosts: Iterable[str]) -> int:
        """The minimum live weight of these real servers. Below it a director lowers its VRRP priority, so that a healthier one takes over."""
        # With a sorry server, keepalived removes every real server when the quorum is lost. A majority quorum would remove live ones.
        return self.quorum or (1 if self.sorry_server else self.expected_weight(hosts) // 2 + 1)

    @property
    def mark(self) -> int:
        """The bits of the firewall mark below the VRID: different for each port and protocol. `Vip.mark` adds the VRID."""
        # Bits 14 and 15 stay clear: kube-proxy's rules read 0x4000 as "masquerade" and 0x8000 as "drop".
        return (self.protocol == "UDP") << 18 | self.port >> 14 << 16 | self.port & 0x3FFF

    @property
    def eviction_seconds(self) -> float:
        """Worst-case seconds until a silent server is removed: the wait for the next check, and a timeout of every attempt.

        One exception: if the server falls silent while a check closes its connection, keepalived's SO_LINGER adds 5 s (keepalived issue 2271).
        """
        check = self.health_check
        return round(check.cycle + check.attempt + check.retry * (check.delay_before_retry + check.attempt), 3)

    @property
    def verdict_seconds(self) -> float:
        """Worst-case seconds from the start of the health check to the removal of a server that fails it."""
        return round(self.eviction_seconds + (self.health_check.warmup or 0), 3)

    @property
    def recovery_seconds(self) -> float:
        """Worst-case seconds until a recovered server is back: the timeout of a running attempt, and the wait for the next one."""
        return round(self.health_check.attempt + self.health_check.wait_when_down, 3)
