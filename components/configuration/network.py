"""The `network` section: the tenant network, the clients, and what the security group lets in."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from components.configuration.allow import Allow
from components.configuration.model import NUMBER, Address, Form, Label, Model, Name, Range

MULTICAST = IPv4Network("224.0.0.0/4")

CIDR_LONGEST = 29
"""The longest prefix of the subnet. A longer one has too few addresses for a cluster."""


class Management(Model):
    """A second network of the created servers: each host with an `ssh_address` gets a port there with this address."""

    heading: ClassVar[str] = "network.management"

    existing: Name = Field(description="name of an existing network")
    cidr: Range = Field(description="its subnet with this range; every `ssh_address` of a created host lies in it")


class Network(Model):
    """The tenant network: created by the program, or an existing one by name."""

    heading: ClassVar[str] = "network"

    cidr: Range
    gateway: Address | None = None
    existing: Name | None = Field(None, description="name of an existing network; the program uses its subnet with this cidr")
    external: Name | None = Field(None, description="name of the external network: floating IPs come from it; a created network gets a router to it")
    client_cidrs: tuple[Range, ...] = Field((), description="clients of the VIPs; direct routing needs them as allowed address pairs")
    reserved: Annotated[dict[Label, Address], Form("a mapping NAME: ADDRESS, such as bastion: 192.168.0.100")] = Field(
        {}, description="addresses kept for machines outside this stack: one unbound port for each"
    )
    management: Management | None = Field(None, description="a second network, for ssh to the created servers")
    dns_nameservers: tuple[Address, ...] = ()
    allow: tuple[Allow, ...] = Field((), description="other traffic that all nodes accept")
    max_allowed_address_pair: Annotated[int, Field(ge=1, le=1000), NUMBER] = Field(
        10, description="how many allowed address pairs this cloud's Neutron accepts on a port (its option of the same name)"
    )
    port_security: bool = Field(True, description="false: a network without port security, so ports without security groups and address pairs")
    return_ports: Annotated[str, Field(pattern=r"^\d{4,5}-\d{4,5}$"), Form("a range of ports, such as 32768-60999")] = Field(
        "32768-60999", description="ports from which nodes and masqueraded pods open connections: the security group lets their answers in"
    )

    @property
    def return_port_range(self) -> tuple[int, int]:
        """First and last port."""
        first, _, last = self.return_ports.partition("-")
        return int(first), int(last)

    @model_validator(mode="after")
    def _ranges(self) -> Network:
        if self.cidr.prefixlen > CIDR_LONGEST:
            raise ValueError(f"cidr: {self.cidr} has too few addresses for a cluster; is its length right? such as {self.cidr.network_address}/24")
        if self.gateway and self.gateway not in self.cidr:
            raise ValueError(f"gateway: {self.gateway} is outside the subnet {self.cidr}")
        if self.external and not self.existing and not self.gateway:
            raise ValueError(f"gateway: missing; the router to {self.external!r} needs an address in {self.cidr}, such as {self.cidr[1]}")
        if self.management and self.management.cidr.overlaps(self.cidr):
            raise ValueError(f"management.cidr: {self.management.cidr} overlaps the subnet {self.cidr}; give the range of another network")
        first, last = self.return_port_range
        if not 1024 <= first < last <= 65535:
            raise ValueError(f"return_ports: {self.return_ports} must be N-M within 1024 to 65535, such as 32768-60999")
        for range_ in self.client_cidrs:
            if range_.overlaps(MULTICAST) and range_.prefixlen:
                raise ValueError(f"client_cidrs: {range_} overlaps multicast, which Neutron refuses; use 0.0.0.0/0 or 0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3")
        return self
