"""What one version says about one host: `host.json`, written by components/keepalived.py and read by every command.

Both sides use these classes. Addresses are `ipaddress` objects of either family.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_address

from . import state
from .errors import Refused
from .record import Record, plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any, Union

    Address = Union[IPv4Address, IPv6Address]

NAME = "host.json"
VRRP, AH, UDP, IPIP = 112, 51, 17, 4
"""IP protocols (IANA)."""
_WIDTH = 140
_OPTIONAL = ("additional_addresses", "address_v6", "checks_only", "connections_max", "directors_v6", "metrics_directory", "together")
"""Fields that are not in the file while they are empty: a stack without them has the file that it had before they existed."""


class RealServer(Record):
    """A real server of a service. `weight` is the configured one: 0 gets no new connection."""

    name: str
    address: Address
    weight: int


class Service(Record):
    """A virtual server. The kernel knows it by its firewall mark; `quorum` and `hysteresis` are keepalived's."""

    name: str
    protocol: str
    port: int
    mark: int
    forwarding_method: str
    quorum: int
    hysteresis: int
    expected_weight: int
    """The weight of the real servers that are expected to pass their health check at the same time: of all, unless `expected_servers` is set."""
    alpha: bool
    sorry_server: Address | None
    check_script: str | None
    """The MISC_CHECK script, below the version's folder."""
    check_user: str | None
    regexes: tuple[str, ...]
    real_servers: tuple[RealServer, ...]
    # A version that was delivered before a field existed has its default.
    scheduler: str = ""
    scheduler_flags: tuple[str, ...] = ()
    ops: bool = False
    persistence_timeout: int | None = None
    persistence_granularity: Address | None = None
    inhibit_on_failure: bool = True
    uthreshold: int = 0
    lthreshold: int = 0
    dynamic_weights: bool = False
    """Whether the script of a misc_dynamic check sets the weights."""
    fail_open: bool = False
    check_port: int | None = None
    """The TCP port of a real server that its health check connects to; None for a check that does not connect."""

    @property
    def all_expected(self) -> bool:
        """Whether every real server with a weight is expected to pass its health check."""
        return self.expected_weight == sum(server.weight for server in self.real_servers)

    @property
    def version(self) -> int:
        """The family of its addresses: 4 or 6."""
        return self.real_servers[0].address.version if self.real_servers else 4

    def quorum_without(self, drained: set[str]) -> tuple[int, int]:
        """Quorum and hysteresis in force while these real servers are drained: at most the majority of the remaining weight.

        The remaining weight is the expected weight minus the drained weight: any drained server may be one of the expected ones.
        Below the quorum by the hysteresis is a loss, above it by as much a recovery. Both must be within reach.
        """
        out = [server.weight for server in self.real_servers if str(server.address) in drained]
        if not out:
            return self.quorum, self.hysteresis
        left = max(0, self.expected_weight - sum(out))
        quorum = min(self.quorum, left // 2 + 1)
        return quorum, max(0, min(self.hysteresis, quorum - 1, left - quorum))


class Vip(Record):
    """A VIP and its VRRP instance. `owner` is the director with the highest priority."""

    name: str
    address: Address
    virtual_router_id: int
    owner: Address
    answers_expected: bool
    """Whether a new service must have a live server for an activation to succeed."""
    services: tuple[Service, ...]
    advert_protocol: int = VRRP
    """The IP protocol of its adverts: VRRP, or AH with an authentication header around VRRP."""
    unicast: bool = False
    """Whether adverts go to each director's address instead of the multicast group."""
    together: str = ""
    """The first of two VIPs, one of each family, that always have one holder (`vrrp_sync_group`); empty for a VIP that moves alone."""
    additional_addresses: tuple[Address, ...] = ()
    """Further addresses of the same family in the same VRRP instance, with the same services and marks."""

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All its addresses, `address` first."""
        return (self.address, *self.additional_addresses)


class Description(Record):
    """One host. `directors` are the other directors of its pool, for a director."""

    host: str
    pool: str
    program: str
    """The name of the program's folder: a digest of its content."""
    interface: str
    address: Address
    director: bool
    directors: tuple[Address, ...]
    sync_id: int | None
    """What tells this pool's connection sync from another's on the segment."""
    poor_view_weight: int
    step_back_weight: int
    witnesses: tuple[str, ...]
    check_seconds: int
    """Seconds after which every health check has run and a failure has been acted upon."""
    vips: tuple[Vip, ...]
    # Left out of the file where they say nothing.
    address_v6: Address | None = None
    """The IPv6 address beside an IPv4 one."""
    directors_v6: tuple[Address, ...] = ()
    """The IPv6 addresses of `directors`, in the same order."""
    metrics_directory: str | None = None
    """The folder of node_exporter's textfile collector, if metrics are wanted."""
    connections_max: int = 0
    """Entries of the IPVS table from which packets without a handshake create no more, on a director; 0: any number."""
    checks_only: bool = False
    """Whether a server that is no director runs keepalived: with virtual servers and their health checks, without a VRRP instance (decision 0014)."""

    @property
    def runs_keepalived(self) -> bool:
        """Whether keepalived runs on this host, and keeps an IPVS table."""
        return self.director or self.checks_only

    @property
    def instances(self) -> tuple[str, ...]:
        """The VRRP instances that this host runs: none unless it is a director."""
        return tuple(vip.name for vip in self.vips) if self.director else ()

    @property
    def services(self) -> tuple[Service, ...]:
        """The virtual servers of this host's IPVS table: none unless it runs keepalived."""
        return tuple(service for vip in self.vips for service in vip.services) if self.runs_keepalived else ()

    @property
    def owned_by_others(self) -> dict[str, Address]:
        """The owner of each instance that is not this host."""
        return {vip.name: vip.owner for vip in self.vips if vip.owner not in self.addresses} if self.director else {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        """This host's addresses: one for each family."""
        return (self.address, self.address_v6) if self.address_v6 else (self.address,)

    def address_of(self, version: int) -> Address | None:
        """This host's address of a family, 4 or 6."""
        return next((address for address in self.addresses if address.version == version), None)

    @property
    def vip_addresses(self) -> tuple[str, ...]:
        """Every address of the VIPs."""
        return tuple(str(address) for vip in self.vips for address in vip.addresses)

    @property
    def versions(self) -> tuple[int, ...]:
        """The families of the VIPs: 4, 6 or both."""
        return tuple(sorted({vip.address.version for vip in self.vips}))

    @property
    def sync_version(self) -> int:
        """The family over which directors tell each other of connections: IPv4 where the hosts have it. One message may have connections of both."""
        return self.address.version

    def directors_of(self, version: int) -> tuple[Address, ...]:
        """The addresses of the other directors, of a family."""
        return tuple(address for address in (*self.directors, *self.directors_v6) if address.version == version)

    def moving_with(self, instances: Iterable[str]) -> list[str]:
        """These instances, and those that move with them."""
        groups = {vip.together for vip in self.vips if vip.name in instances and vip.together}
        return [*instances, *(vip.name for vip in self.vips if vip.together in groups and vip.name not in instances)]

    def poor_view(self, vip: Vip) -> int:
        """What a poor view of a VIP's services adds to its priority: of two VIPs that move together, each adds a half."""
        return self.poor_view_weight // 2 if vip.together else self.poor_view_weight

    def addresses_of(self, server: str) -> tuple[str, ...]:
        """The addresses of the real server that has this one: one for each family. This one alone where no service names it."""
        servers = [each for vip in self.vips for service in vip.services for each in service.real_servers]
        names = {each.name for each in servers if str(each.address) == server}
        return tuple(dict.fromkeys([server, *(str(each.address) for each in servers if each.name in names)]))

    def service(self, mark: int) -> Service | None:
        """The virtual server with that mark."""
        return next((service for service in self.services if service.mark == mark), None)

    def to_json(self) -> str:
        """Text with a line for each real server, so that a change is one line of a diff."""
        given = {name: value for name, value in vars(self).items() if name not in _OPTIONAL or value}
        data = json.loads(json.dumps({"format": 1, **given}, default=plain))
        data["vips"] = [{name: value for name, value in vip.items() if name not in _OPTIONAL or value} for vip in data["vips"]]
        return _text(data) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The description in that text; fields of a later release are left out. Raises Refused for another format."""
        data: dict[str, Any] = json.loads(text)
        if data.pop("format") != 1:
            raise Refused(f"{NAME}: written for another release of this program; pulumi up")
        vips = tuple(_vip(vip) for vip in data.pop("vips"))
        return cls(
            **{
                **_known(cls, data),
                "address": ip_address(data["address"]),
                "address_v6": ip_address(data["address_v6"]) if data.get("address_v6") else None,
                "directors_v6": tuple(ip_address(each) for each in data.get("directors_v6", ())),
                "directors": tuple(ip_address(each) for each in data["directors"]),
                "witnesses": tuple(data["witnesses"]),
                "vips": vips,
            }
        )

    @classmethod
    def read(cls, folder: str) -> Description:
        """The description in a version's folder."""
        with open(f"{folder}/{NAME}", encoding="utf-8") as file:
            return cls.from_json(file.read())


def endpoint(address: Address | str, port: int) -> str:
    """`ADDRESS:PORT`, or `[ADDRESS]:PORT`."""
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def current() -> Description | None:
    """The description in force; None when no version is in force."""
    return Description.read(state.CURRENT) if os.path.exists(f"{state.CURRENT}/{NAME}") else None


def in_force() -> Description:
    """The description in force. Raises Refused when no version is in force."""
    description = current()
    if description is None:
        raise Refused("no version is in force on this node; pulumi up")
    return description


def _vip(data: dict[str, Any]) -> Vip:
    services = tuple(_service(service) for service in data["services"])
    additional = tuple(ip_address(each) for each in data.get("additional_addresses", ()))
    read = {"address": ip_address(data["address"]), "additional_addresses": additional, "owner": ip_address(data["owner"]), "services": services}
    return Vip(**{**_known(Vip, data), **read})


def _service(data: dict[str, Any]) -> Service:
    servers = tuple(RealServer(server["name"], ip_address(server["address"]), server["weight"]) for server in data["real_servers"])
    sorry = ip_address(data["sorry_server"]) if data["sorry_server"] else None
    # A version that was delivered before this field existed expects every server.
    expected = data.get("expected_weight", sum(server.weight for server in servers))
    read = {"expected_weight": expected, "sorry_server": sorry, "regexes": tuple(data["regexes"]), "real_servers": servers}
    granularity = data.get("persistence_granularity")
    read |= {"scheduler_flags": tuple(data.get("scheduler_flags", ())), "persistence_granularity": ip_address(granularity) if granularity else None}
    return Service(**{**_known(Service, data), **read})


def _known(record: type[Record], data: dict[str, Any]) -> dict[str, Any]:
    """The fields that this release knows: a stack may go back to it from a later one, whose versions it then reads."""
    return {name: value for name, value in data.items() if name in record.__annotations__}


def _text(value: Any, indent: str = "") -> str:
    """JSON in which whatever fits into a line and holds no other mapping or list stands in one line."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    flat = json.dumps(value, ensure_ascii=False)
    if not any(isinstance(each, (dict, list)) for each in inner) and len(indent) + len(flat) <= _WIDTH:
        return flat
    deeper = f"{indent}  "
    if isinstance(value, dict):
        lines = [f"{deeper}{json.dumps(key)}: {_text(each, deeper)}" for key, each in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    return "[\n" + ",\n".join(f"{deeper}{_text(each, deeper)}" for each in value) + f"\n{indent}]"
