"""The `vips` section: each VIP, its VRRP instance and its services."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from components.configuration.health_checks import ConnectingCheck
from components.configuration.model import NUMBER, SECONDS, Address, AddressV6, AnyAddress, Form, HostName, Label, Model, wrong
from components.configuration.services import VirtualService

POOR_VIEW_WEIGHT = -100
"""Added to a director's priority when all services have too few live servers.

The result is lower than every healthy director's priority, so this director takes over only if no healthy one is left.
A director that no witness answers adds it twice, and so ranks below those too.
"""


def _floating_ip(given: object) -> bool | IPv4Address:
    if isinstance(given, (bool, IPv4Address)):
        return given
    try:
        if isinstance(given, str):
            return IPv4Address(given)
    except ValueError:
        pass
    raise wrong()


class Vip(Model):
    """A highly available address: one vrrp_instance and its virtual servers."""

    heading: ClassVar[str] = "vips.NAME"

    address: Address
    """The VIP: on `lo` of every host of the pool, and on the interface of the holder. keepalived: `virtual_ipaddress`."""
    address_v6: AddressV6 | None = None
    """A second, IPv6 address of the VIP, beside an IPv4 `address`. Both always have one holder. keepalived: `virtual_ipaddress` of a `vrrp_instance` named
    `NAME-v6`, in one `vrrp_sync_group` with that of `address`.
    """
    additional_addresses: tuple[Address, ...] = ()
    """Further addresses with the same services, each of a family that the VIP has. They move with the VIP's address of their family and need no VRID of
    their own. A floating IP leads to `address` only. keepalived: `virtual_ipaddress_excluded`.
    """
    pool: Annotated[Label, Form("the name of a pool, such as master")]
    """The pool whose hosts serve the VIP."""
    virtual_router_id: Annotated[int, Field(ge=1, le=255), NUMBER]
    """The VRID: unique in the stack and on the network segment (RFC 9568). An IPv4 and an IPv6 VIP of a pool may have the same. keepalived:
    `virtual_router_id`.
    """
    owner: Annotated[HostName, Form("the name of a host of the pool, such as master0")]
    """The preferred director; a director of the pool. keepalived: `priority`."""
    services: tuple[VirtualService, ...]
    """The ports of the VIP; at least one. keepalived: `virtual_server`."""
    advert_interval: Annotated[float, Field(ge=0.01, le=3), NUMBER, SECONDS] = 0.3
    """Time from one advert to the next. A backup notices a lost holder after 3 x this value + skew (RFC 9568): 0.9 to 1.2 s at the default. Multiples of
    0.01 s; whole seconds with version 2. At most 3, because the check for other routers with this VRID listens for 4 s. keepalived: `advert_int`.
    """
    priorities: Annotated[dict[HostName, Annotated[int, Field(ge=1, le=254), NUMBER]], Form("a mapping HOST: PRIORITY, such as master0: 150")] = Field({})
    """VRRP priority by host. If not set: 150 for the owner, and 140, 130, ... for the other directors in the order of their names. All are different,
    the owner's is the highest, they are less than 100 apart, and with `witnesses` none is below 102. keepalived: `priority`.
    """
    authentication: Literal["PASS", "AH"] | None = None
    """Authentication of adverts, with VRRP version 2 only; the password is the secret `auth_pass.NAME`. keepalived: `auth_type`."""
    unicast: bool = False
    """Send adverts to each director instead of to the multicast group. keepalived: `unicast_peer`."""
    floating_ip: Annotated[
        bool | IPv4Address,
        PlainValidator(_floating_ip, json_schema_input_type=bool | Address),
        Form("true (the program creates one, and the cloud chooses its address), false, or the IPv4 address of one that exists"),
    ] = True
    """The floating IP. `true`: with `network.external`, the program creates a floating IP. An address: the VIP gets this existing floating IP, and `pulumi
    destroy` leaves it in the project. `false`: none. Between `true` and an address, deploy `false` first: a VIP cannot have two (Neutron API).
    """
    garp_master_delay: Annotated[int, Field(ge=0, le=3600), NUMBER, SECONDS] | None = None
    """Delay of the second round of gratuitous ARP or unsolicited neighbour advertisements after a takeover; keepalived's 5 s if not set. keepalived:
    `garp_master_delay`.
    """
    garp_master_refresh: Annotated[int, Field(ge=0, le=86400), NUMBER, SECONDS] = 30
    """Interval in which the holder repeats gratuitous ARP or unsolicited neighbour advertisements; 0: never (keepalived's default). keepalived:
    `garp_master_refresh`.
    """
    smtp_alert: bool | None = None
    """Send mail when the VIP moves. keepalived: `smtp_alert`."""
    answers_within: Annotated[int, Field(ge=0, le=3600), NUMBER, SECONDS] = 120
    """Time after a roll-out within which every TCP service must answer through the VIP, else the deployment fails ([how it is
    tested](#the-test-at-the-end-of-a-roll-out)). `0`: no test, for a cluster that is not installed yet.
    """

    @model_validator(mode="after")
    def _services(self) -> Vip:
        if not self.services:
            raise ValueError("services: empty; give the VIP at least one, such as {port: 80, health_check: {type: tcp}}")
        first: dict[tuple[int, str], int] = {}
        for index, service in enumerate(self.services):
            earlier = first.setdefault((service.port, service.protocol), index)
            if earlier != index:
                raise ValueError(f"services.{index}.port: {service.port}/{service.protocol} is the port of services.{earlier} too; keep one of the two")
        return self

    @model_validator(mode="after")
    def _families(self) -> Vip:
        if self.address_v6 and (self.address.version, self.address_v6.version) != (4, 6):
            raise ValueError(f"address_v6: {self.address_v6} beside address {self.address}; give an IPv4 address there and an IPv6 address here")
        if isinstance(self.floating_ip, IPv4Address) and self.address.version == 6:
            raise ValueError(f"floating_ip: {self.floating_ip}, and address is {self.address}; IPv6 is routed without a floating IP, so remove it")
        versions = {self.address.version} | ({6} if self.address_v6 else set())
        for index, address in enumerate(self.additional_addresses):
            if address in self.additional_addresses[:index]:
                raise ValueError(f"additional_addresses.{index}: {address} is in the list twice; remove one")
            if address.version not in versions:
                other = f"address is {self.address}" + ("; set address_v6 too, or give an IPv4 address" if address.version == 6 else "; give an IPv6 address")
                raise ValueError(f"additional_addresses.{index}: {address} is IPv{address.version}, and {other}")
        for index, service in enumerate(self.services):
            key = f"services.{index}"
            if 6 in versions:
                _possible_with_ipv6(key, service)
            _sorry_servers(key, service, versions)
            check = service.health_check
            if isinstance(check, ConnectingCheck) and check.bindto and {check.bindto.version} != ({check.connect_ip.version} if check.connect_ip else versions):
                raise ValueError(f"{key}.health_check.bindto: {check.bindto} is of another family than an address that the check connects to; remove it")
        return self

    def mark(self, service: VirtualService) -> int:
        """The firewall mark of a service's virtual server, unique in the stack: VIPs of both families may have one VRID."""
        return self.virtual_router_id << 20 | (self.address.version == 6) << 19 | service.mark

    @property
    def addresses(self) -> tuple[AnyAddress, ...]:
        """`address`, and the additional addresses of its family: what one VRRP instance has."""
        return (self.address, *(address for address in self.additional_addresses if address.version == self.address.version))

    def ports(self, name: str) -> dict[str, AnyAddress]:
        """The address that each port reserves, by the name of the port. With or without one address, the ports of the others have the same names."""
        return {f"vip-{name}": self.address, **{additional_port(name, address): address for address in self.addresses[1:]}}

    def second(self) -> Vip:
        """The VIP of `address_v6`, with everything else as `address` has it."""
        services = tuple(service.model_copy(update={"sorry_server": service.sorry_server_v6}) for service in self.services)
        return self.model_copy(update={"address": self.address_v6, "address_v6": None, "services": services, "floating_ip": False})

    @property
    def eviction_seconds(self) -> float:
        """The worst case of all services."""
        return max(service.eviction_seconds for service in self.services)

    @property
    def recovery_seconds(self) -> float:
        """The worst case of all services."""
        return max(service.recovery_seconds for service in self.services)


def additional_port(name: str, address: AnyAddress) -> str:
    """The name of the port that reserves an additional address of a VIP. No VIP has a dot in its name, so no other port has this name."""
    return f"vip-{name}-{address.exploded.replace(':', '.')}"


def _possible_with_ipv6(key: str, service: VirtualService) -> None:
    """Refuse what works with IPv4 only."""
    if service.forwarding_method != "DR":
        raise ValueError(f"{key}.forwarding_method: {service.forwarding_method}, and the VIP has an IPv6 address; that needs DR")
    if service.persistence_timeout:
        raise ValueError(
            f"{key}.persistence_timeout: {service.persistence_timeout}, and the VIP has an IPv6 address; persistence was tried with IPv4 only: use "
            "affinity: client, or remove it"
        )
    if service.health_check.type == "misc":
        raise ValueError(f"{key}.health_check.type: misc, and the VIP has an IPv6 address; scripts were tried with IPv4 only: use tcp, http, ssl or smtp")


def _sorry_servers(key: str, service: VirtualService, versions: set[int]) -> None:
    """Refuse a sorry server of a family that the VIP does not have, and a sorry server for one of two families: they have one quorum."""
    first, second = service.sorry_server, service.sorry_server_v6
    if first and first.version != min(versions):
        raise ValueError(f"{key}.sorry_server: {first} is of another family than the VIP's address; give an IPv{min(versions)} address")
    if second and (second.version != 6 or len(versions) == 1):
        raise ValueError(f"{key}.sorry_server_v6: {second} needs an IPv6 address here and address_v6 in the VIP; remove it, or give both")
    if len(versions) == 2 and (first is None) != (second is None):
        missing, given = ("sorry_server", second) if first is None else ("sorry_server_v6", first)
        raise ValueError(f"{key}.{missing}: missing beside {given}; the VIP has both families: give one for each, or none")
