"""The `vips` section: each VIP, its VRRP instance and its services."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from components.configuration.model import NUMBER, SECONDS, Address, Form, HostName, Label, Model, wrong
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
    pool: Annotated[Label, Form("the name of a pool, such as master")]
    """The pool whose hosts serve the VIP."""
    virtual_router_id: Annotated[int, Field(ge=1, le=255), NUMBER]
    """The VRID: unique in the stack and on the network segment (RFC 9568). keepalived: `virtual_router_id`."""
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
    """Delay of the second round of gratuitous ARP after a takeover; keepalived's 5 s if not set. keepalived: `garp_master_delay`."""
    garp_master_refresh: Annotated[int, Field(ge=0, le=86400), NUMBER, SECONDS] = 30
    """Interval in which the holder repeats gratuitous ARP; 0: never (keepalived's default). keepalived: `garp_master_refresh`."""
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

    def mark(self, service: VirtualService) -> int:
        """The firewall mark of a service's virtual server, unique in the stack."""
        return self.virtual_router_id << 20 | service.mark

    @property
    def eviction_seconds(self) -> float:
        """The worst case of all services."""
        return max(service.eviction_seconds for service in self.services)

    @property
    def recovery_seconds(self) -> float:
        """The worst case of all services."""
        return max(service.recovery_seconds for service in self.services)
