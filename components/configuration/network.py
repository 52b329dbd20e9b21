"""The `network` section: the tenant network, the clients, and what the security group lets in."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from components.configuration.allow import AllowEntry
from components.configuration.model import NUMBER, Address, AddressV6, AnyAddress, AnyRange, Form, Label, Model, Name, Range, RangeV6, port_range

MULTICAST: dict[int, AnyRange] = {4: IPv4Network("224.0.0.0/4"), 6: IPv6Network("ff00::/8")}

CIDR_LONGEST = {4: 29, 6: 120}
"""The longest prefix of a subnet. A longer one has too few addresses for a cluster."""


_AUTOMATIC_MODES = frozenset({"slaac", "dhcpv6-stateless"})


def automatic_addresses(*modes: str | None) -> str:
    """Why no port of a subnet can have the address that the configuration names; empty if one can.

    `modes`: the subnet's `ipv6_address_mode` and `ipv6_ra_mode` (Neutron API).
    """
    found = sorted(_AUTOMATIC_MODES.intersection(modes))
    return f"this subnet gives each port an address made from its MAC ({found[0]}), and no other; name a subnet with dhcpv6-stateful" if found else ""


class Management(Model):
    """A second network of the created servers: each host with an `ssh_address` gets a port there with this address."""

    heading: ClassVar[str] = "network.management"

    existing: Name
    """An existing network. It has port security, unless `network.port_security` is `false`."""
    cidr: Range
    """The range of its subnet; every `ssh_address` of a created host lies in it. It does not overlap `network.cidr`."""


class Network(Model):
    """The tenant network: created by the program, or an existing one by name."""

    heading: ClassVar[str] = "network"

    cidr: Range
    """The subnet, with a prefix length of 29 at most (IPv6: 120); every host and VIP lies in it. The allocation pool of a created subnet avoids their
    addresses. That of an existing subnet should avoid them too.
    """
    cidr_v6: RangeV6 | None = None
    """A second, IPv6 subnet beside an IPv4 `cidr`: every host has an `address_v6` in it."""
    gateway: Address | None = None
    """Gateway of the subnet; required with `external`, unless the network exists."""
    gateway_v6: AddressV6 | None = None
    """Gateway of `cidr_v6`; required with `external`, unless the network exists."""
    existing: Name | None = None
    """An existing network: the program uses its subnet with this `cidr` and creates no network or router."""
    external: Name | None = None
    """The external network: each VIP gets a floating IP from it, and a created network gets a router to it. An existing network must have a router to it
    already. Required with a created IPv6 subnet.
    """
    client_cidrs: tuple[Range, ...] = ()
    """Clients that may connect to the VIPs. If a VIP has a floating IP and this list is empty, the program warns: only the subnet could connect. Direct
    routing forwards with the client's source address, so these ranges are also allowed address pairs on directors. `0.0.0.0/0` works. Neutron refuses
    `128.0.0.0/1`, because it overlaps multicast (Neutron API): use `0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3`. For IPv6, `2000::/3` has every public address.
    """
    reserved: Annotated[dict[Label, Address], Form("a mapping NAME: ADDRESS, such as bastion: 192.168.0.100")] = Field({})
    """Addresses by name, for machines outside this stack, such as a bastion. The program creates an unbound port for each."""
    management: Management | None = None
    """A second network of the created servers, for ssh."""
    dns_nameservers: tuple[Address, ...] = ()
    """Name servers of the subnet."""
    allow: tuple[AllowEntry, ...] = ()
    """Other traffic that all nodes accept: names of rule sets, and mappings."""
    max_allowed_address_pair: Annotated[int, Field(ge=1, le=1000), NUMBER] = 10
    """How many allowed address pairs Neutron accepts on one port (Neutron API). A port has one for each address of the pool's VIPs, each of the pool's
    `allowed_address_pairs`, and on directors one for each subnet and each of `client_cidrs`. More are refused before anything is created. Clouds differ,
    and only their operators can see or change the value.
    """
    port_security: bool = True
    """Whether the network has port security. `false`: for a network without port security (Neutron API). A created network gets none. An existing network,
    which needs Neutron's extension `port-security`, is refused if this key does not say what it has. No port has a security group or address pairs then, so
    everything reaches the nodes, and `allow`, `allowed_address_pairs` and `ssh.allowed_cidrs` are refused. No port reserves a VIP without a floating IP:
    keep its address out of an existing subnet's allocation pool.
    """
    return_ports: Annotated[str, Field(pattern=r"^\d{4,5}-\d{4,5}$"), Form("a range of ports, such as 32768-60999")] = "32768-60999"
    """Ports within 1024 to 65535 from which nodes open connections (`net.ipv4.ip_local_port_range`). Use `1024-65535` if pods reach the outside by
    masquerading with `fully-random` (flannel, Calico, kube-proxy): they use all of these ports.
    """

    @property
    def return_port_range(self) -> tuple[int, int]:
        """First and last port."""
        return port_range(self.return_ports)

    @property
    def cidrs(self) -> tuple[AnyRange, ...]:
        """The subnets: one for each family."""
        return (self.cidr, self.cidr_v6) if self.cidr_v6 else (self.cidr,)

    def gateway_of(self, cidr: AnyRange) -> AnyAddress | None:
        """The gateway of one of the subnets."""
        return self.gateway if cidr == self.cidr else self.gateway_v6

    @model_validator(mode="after")
    def _subnets(self) -> Network:
        if self.cidr_v6 and (self.cidr.version, self.cidr_v6.version) != (4, 6):
            raise ValueError(f"cidr_v6: {self.cidr_v6} beside cidr {self.cidr}; give an IPv4 network there and an IPv6 network here")
        if self.gateway_v6 and not self.cidr_v6:
            raise ValueError(f"gateway_v6: {self.gateway_v6}, and cidr_v6 is not set; set it too, or remove this")
        for end, cidr in zip(("", "_v6"), self.cidrs, strict=False):
            gateway = self.gateway_of(cidr)
            if cidr.prefixlen > CIDR_LONGEST[cidr.version]:
                length = 24 if cidr.version == 4 else 64
                raise ValueError(f"cidr{end}: {cidr} has too few addresses for a cluster; is its length right? such as {cidr.network_address}/{length}")
            if cidr.version == 6 and (cidr.is_link_local or cidr.is_multicast):
                raise ValueError(f"cidr{end}: {cidr} is no range for hosts; give one of global or unique local addresses, such as fd00::/64")
            if gateway and gateway not in cidr:
                raise ValueError(f"gateway{end}: {gateway} is outside the subnet {cidr}; choose an address in it, such as {cidr[1]}")
            if self.external and not self.existing and not gateway:
                raise ValueError(f"gateway{end}: missing; the router to {self.external!r} needs an address in {cidr}, such as {cidr[1]}")
        return self

    @model_validator(mode="after")
    def _ranges(self) -> Network:
        for cidr in self.cidrs:
            if self.management and self.management.cidr.overlaps(cidr):
                raise ValueError(f"management.cidr: {self.management.cidr} overlaps the subnet {cidr}; give the range of another network")
        first, last = self.return_port_range
        if not 1024 <= first < last <= 65535:
            raise ValueError(f"return_ports: {self.return_ports} must be N-M within 1024 to 65535, such as 32768-60999")
        for range_ in self.client_cidrs:
            multicast = MULTICAST[range_.version]
            if range_.prefixlen and range_.overlaps(multicast):
                instead = "0.0.0.0/0 or 0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3" if range_.version == 4 else "::/0 or 2000::/3, fc00::/7"
                raise ValueError(f"client_cidrs: {range_} overlaps multicast, which Neutron refuses; use {instead}")
        return self
