"""The `vips` section: each VIP, its VRRP instance and its services."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PlainValidator, model_validator

from components.configuration.model import NUMBER, Address, Form, HostName, Label, Model, wrong
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
    pool: Annotated[Label, Form("the name of a pool, such as master")]
    virtual_router_id: Annotated[int, Field(ge=1, le=255), NUMBER]
    owner: Annotated[HostName, Form("the name of a host of the pool, such as master0")]
    services: tuple[VirtualService, ...]
    advert_interval: Annotated[float, Field(ge=0.01, le=3), NUMBER] = 0.3
    priorities: Annotated[dict[HostName, Annotated[int, Field(ge=1, le=254), NUMBER]], Form("a mapping HOST: PRIORITY, such as master0: 150")] = Field({})
    authentication: Literal["PASS", "AH"] | None = None
    unicast: bool = Field(False, description="adverts to each director's address instead of the VRRP multicast group")
    floating_ip: Annotated[
        bool | IPv4Address,
        PlainValidator(_floating_ip, json_schema_input_type=bool | str),
        Form("true (the program creates one, and the cloud chooses its address), false, or the IPv4 address of one that exists"),
    ] = Field(True, description="true: a new floating IP, if the network has `external`; an address: this existing floating IP; false: none")
    garp_master_delay: Annotated[int, Field(ge=0, le=3600), NUMBER] | None = None
    garp_master_refresh: Annotated[int, Field(ge=0, le=86400), NUMBER] = 30
    smtp_alert: bool | None = None
    answers_within: Annotated[int, Field(ge=0, le=3600), NUMBER] = Field(
        120,
        description="seconds after a roll-out within which every service must answer through the VIP; 0 asks nothing, for a cluster that is not installed yet",
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
