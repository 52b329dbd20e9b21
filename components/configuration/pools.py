"""The `pools` section: the hosts of each pool, the directors among them, and the witnesses."""

from __future__ import annotations

import re
from datetime import date
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from components.configuration.allow import AllowEntry
from components.configuration.model import (
    GIBIBYTES,
    IPV4,
    IPV6,
    NUMBER,
    Address,
    AddressV6,
    AnyAddress,
    Form,
    HostKey,
    HostName,
    Interface,
    Login,
    Model,
    Name,
    Range,
    wrong,
)

WITNESSES = 3
"""Maximum number of witnesses of a pool. A silent witness costs a second, so a director could not ask more of them in time."""


CREATED_ONLY = ("availability_zones", "root_volume", "server_group_policy", "allow", "allowed_address_pairs")
"""Keys of the ports and servers that the program creates. It creates none for existing hosts, so these keys would have no effect."""

CLOUD_CONFIG_OWN = {
    "hostname": "a server's name is its key in hosts",
    "ssh_keys": "the host keys are derived from openshift-lvs:host_key_seed",
}
"""The keys of cloud-config that the program sets itself, and from what. A value in `cloud_config` would have no effect."""


def witness_address(witness: str) -> AnyAddress:
    """The address of ADDRESS:PORT or [ADDRESS]:PORT. Raises ValueError for something else."""
    address, _, _ = witness.rpartition(":")
    found = ip_address(address.removeprefix("[").removesuffix("]"))
    if (found.version == 6) != address.startswith("["):
        raise ValueError(witness)
    return found


def _address_and_port(text: str) -> str:
    port = text.rpartition(":")[2]
    try:
        witness_address(text)
    except ValueError:
        port = ""
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise wrong()
    return text


Witness = Annotated[
    str,
    AfterValidator(_address_and_port),
    WithJsonSchema({"type": "string", "pattern": rf"^({IPV4}|\[{IPV6}\]):\d{{1,5}}$"}),
    Form("ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22", verb="not"),
]
"""ADDRESS:PORT outside the pool. If no witness answers, a director knows that it is cut off from its peers."""


UNMANAGED_NEVER = ("host_key", "interface", "ssh_address", "ssh_user", "availability_zone", "installed")
"""Keys of a host that have no effect on a host that the program does not manage."""

INSTALLED = r"^[\w.:+-]{1,40}$"


class Host(Model):
    """One node of a pool."""

    heading: ClassVar[str] = "pools.NAME.hosts.HOST"

    address: Address
    """Fixed address of the host. keepalived: `real_server`."""
    address_v6: AddressV6 | None = None
    """Fixed address in `network.cidr_v6`; required with that. keepalived: `real_server`."""
    host_key: HostKey | None = None
    """Public ssh host key. Required for an existing host (`ssh-keyscan -t ed25519 ADDRESS`); keys of created servers are derived."""
    managed: bool = True
    """`false`: a real server on which the program changes nothing, such as a host with RHCOS or FCOS. It is no director, and `operations machine-config`
    prints what it needs. If the pool is not `existing`, the program creates its port, and no server ([how](#hosts-that-the-program-does-not-manage)).
    """
    interface: Interface | None = None
    """The interface to the subnet on this host; the pool's if not set. keepalived: `interface`."""
    ssh_address: Address | None = None
    """Where ssh reaches this host; `address` if not set. A created server needs `network.management` for it."""
    ssh_user: Login | None = None
    """The login on this host; `ssh.user` if not set."""
    availability_zone: Name | None = None
    """Availability zone of this server; the pool's if not set. Used only when the server is created."""
    installed: Annotated[str, Field(pattern=INSTALLED), Form("a word of at most 40 letters, digits and _.:+-, such as the date 2026-03-01")] | None = None
    """Change this word after the host was reinstalled under the same name: everything is then delivered to it again."""

    def address_of(self, version: int) -> AnyAddress:
        """The address of a family, 4 or 6. Every host has one of each family that a VIP of its pool has."""
        found = self.address if self.address.version == version else self.address_v6
        assert found
        return found

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """The addresses: one for each family."""
        return (self.address, self.address_v6) if self.address_v6 else (self.address,)

    @field_validator("installed", mode="before", json_schema_input_type=Annotated[str, Field(pattern=INSTALLED)] | float | None)
    @classmethod
    def _date(cls, value: object) -> object:
        # YAML reads a date as a date, and Pulumi adds midnight to it.
        return re.sub(r"^(\d{4}-\d\d-\d\d) .*", r"\1", str(value)) if isinstance(value, (str, int, float, date)) else value


HostOrAddress = Annotated[
    Host,
    BeforeValidator(lambda host: {"address": host} if isinstance(host, str) else host, json_schema_input_type=Address | Host),
]
"""A host whose only key is its address may be written as that address."""


class RootVolume(Model):
    """The volume from which a server boots, for flavors without a disk and for disks that outlive the hypervisor."""

    heading: ClassVar[str] = "pools.NAME.root_volume"

    size: Annotated[int, Field(ge=1, le=65536), NUMBER, GIBIBYTES]
    """Size of the volume."""
    type: Name | None = None
    """Volume type; the cloud's default if not set."""
    delete_on_termination: bool = True
    """Whether the volume goes with its server. `false`: the volume stays when its server is deleted, also after `pulumi destroy`. Nothing deletes it then."""


class Pool(Model):
    """Hosts of one kind. Each is a real server. Each is also a director, unless `directors` names fewer."""

    heading: ClassVar[str] = "pools.NAME"

    hosts: Annotated[dict[HostName, HostOrAddress], Form("a mapping NAME: ADDRESS, such as infra0: 192.168.0.5")]
    """Each host by its name: an address, or a mapping. The order in the file has no effect: Pulumi hands the hosts over by name. Every host is a real
    server of every VIP of the pool. keepalived: `real_server`.
    """
    image: Name | None = None
    """The image of the servers. Required unless `existing`; used only when a server is created."""
    flavor: Name | None = None
    """The flavor of the servers. Required unless `existing`; used only when a server is created, because another flavor would reboot all servers of the pool
    at once.
    """
    existing: bool = False
    """The hosts already exist: the program creates nothing for them in OpenStack. If a host is removed, the program undoes what it did on that host."""
    directors: tuple[HostName, ...] | None = None
    """Hosts that may hold the VIPs; all managed hosts if not set. A director with weight 0 in a service is no real server of it. The other managed hosts
    run keepalived without VRRP: its health checks tell where their own calls go."""
    witnesses: tuple[Witness, ...] | None = Field(None, max_length=WITNESSES)
    """Addresses outside the pool. A director connects to them to find out whether it is cut off from the network. It asks one each second; any answer
    counts, also a refusal. If not set: in a pool of two hosts, the servers of the other pools, because neither of two directors can tell by itself; in
    other pools, none. A witness must be reachable through `interface`. It must fail independently of these hosts, so do not choose one on the same
    hypervisor. If other pools are not enough, name the gateway or a name server. `[]`: none. keepalived: `track_file`.
    """
    connections_max: int = Field(1_000_000, ge=10_000, le=100_000_000)
    """Entries of the IPVS table of a director from which packets without a handshake create no more of them, until a quarter of them is gone. A sender
    with false addresses could fill the memory otherwise: an entry has about 320 bytes and stays for 15 minutes. While it is so, a connection that the
    other directors were not told of does not survive a takeover. Set more where a pool has more connections; those of the last two minutes count too.
    """
    interface: Interface = Field("eth0")
    """The interface to the subnet, on every host of the pool that names no other. A bond or VLAN is named as `ip link` shows it: `bond0`, `bond0.100`.
    keepalived: `interface`.
    """
    availability_zone: Name | None = None
    """Availability zone of the servers; used only when a server is created."""
    availability_zones: Annotated[tuple[Name, ...], Field(min_length=1), Form("a list of at least one name, such as [az1, az2]")] | None = None
    """Availability zones, instead of `availability_zone`: the hosts are spread over these zones, in the order of their names. Used only when a server is
    created: a list that changes moves no server.
    """
    root_volume: RootVolume | None = None
    """Boot from a volume; used only when a server is created."""
    server_group_policy: Literal["soft-anti-affinity", "anti-affinity", "none"] = Field("soft-anti-affinity")
    """How Nova places the servers of the pool. `soft-anti-affinity`: on different hypervisors where that is possible. `anti-affinity`: always, and a server
    without a free hypervisor is not created. `none`: no server group. Used only when the group is created.
    """
    allow: tuple[AllowEntry, ...] = ()
    """Other traffic that the servers of this pool accept, names of rule sets, and mappings; a security group of their own, also stateless."""
    allowed_address_pairs: tuple[Range, ...] = ()
    """More addresses that these servers may send from: a pod network without an overlay, or addresses that another program moves, such as MetalLB's. A plain
    address counts as `/32`. Neutron compares only plain addresses with ports, so a range must contain no address that another machine uses. Traffic
    *from* these ranges enters a node only if `allow` names them as `cidr`. How ML2/OVN answers ARP for an address within a range was not tried.
    """
    cloud_config: Annotated[dict[str, Any], Form("a mapping of cloud-config, such as timezone: UTC")] = Field({})
    """More cloud-config for the first boot; the program sets `hostname` and `ssh_keys` itself, so they are refused here."""

    def zone_of(self, name: str) -> str | None:
        """The availability zone of a host: its own, the next one of `availability_zones`, or the pool's."""
        if zone := self.hosts[name].availability_zone:
            return zone
        if self.availability_zones:
            return self.availability_zones[list(self.hosts).index(name) % len(self.availability_zones)]
        return self.availability_zone

    @field_validator("hosts", mode="after")
    @classmethod
    def _by_name(cls, hosts: dict[str, Host]) -> dict[str, Host]:
        """Priorities and zones follow the order of the hosts. The engine sorts each mapping by name, and `operations` reads the file itself."""
        return dict(sorted(hosts.items()))

    @model_validator(mode="after")
    def _complete(self) -> Pool:
        if not self.hosts:
            raise ValueError("hosts: empty; give the pool at least one host, such as infra0: 192.168.0.5")
        for name in self.directors or ():
            if name not in self.hosts:
                raise ValueError(f"directors: {name!r} is not a host of this pool; choose from {', '.join(self.hosts)}")
            if not self.hosts[name].managed:
                raise ValueError(f"directors: {name!r} has managed: false, so keepalived does not run there; choose a managed host")
        self._check_unmanaged()
        for key, reason in CLOUD_CONFIG_OWN.items():
            if key in self.cloud_config:
                raise ValueError(f"cloud_config.{key}: the program sets it: {reason}; remove it")
        logins = self.cloud_config.get("ssh_authorized_keys", [])
        if not isinstance(logins, (list, tuple)):
            raise ValueError("cloud_config.ssh_authorized_keys: must be a list of public keys: [ssh-ed25519 AAAA...]")
        if self.availability_zone and self.availability_zones:
            raise ValueError(f"availability_zones: given together with availability_zone ({self.availability_zone!r}); use the one or the other")
        if self.existing:
            given = [key for key in CREATED_ONLY if key in self.model_fields_set]
            given += [f"hosts.{name}.availability_zone" for name, host in self.hosts.items() if host.availability_zone]
            for key in given:
                raise ValueError(f"{key}: this pool has existing: true, and the program creates no port or server for it; remove it")
            for name, host in self.hosts.items():
                if host.managed and not host.host_key:
                    raise ValueError(
                        f"hosts.{name}.host_key: missing; an existing host needs its public host key "
                        f"(ssh-keyscan -t ed25519 {host.ssh_address or host.address})"
                    )
        else:
            for key in ("image", "flavor"):
                if not getattr(self, key):
                    raise ValueError(f"{key}: missing; servers that the program creates need an image and a flavor; name one, or set existing: true")
        return self

    def _check_unmanaged(self) -> None:
        unmanaged = {name: host for name, host in self.hosts.items() if not host.managed}
        if len(unmanaged) == len(self.hosts):
            raise ValueError("hosts: every host has managed: false, so no host could hold a VIP; add a host for a director")
        for name, host in unmanaged.items():
            for key in UNMANAGED_NEVER:
                if (value := getattr(host, key)) is not None:
                    remedy = "set it for the pool" if key == "interface" else "remove it"
                    raise ValueError(f"hosts.{name}.{key}: {str(value)!r}, and the program does not manage this host (managed: false); {remedy}")


class Node(NamedTuple):
    """A host together with its name and its pool."""

    name: str
    pool_name: str
    pool: Pool
    host: Host

    @property
    def interface(self) -> str:
        """The interface to the subnet."""
        return self.host.interface or self.pool.interface

    @property
    def created(self) -> bool:
        """Whether the program creates its server."""
        return self.host.managed and not self.pool.existing

    @property
    def ssh_address(self) -> AnyAddress:
        """Where ssh reaches the host."""
        return self.host.ssh_address or self.host.address
