"""The `network` section: the tenant network, the clients, and what the security group lets in."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from components.configuration.allow import AllowEntry
from components.configuration.model import NUMBER, Address, Form, Label, Model, Name, Range, port_range

MULTICAST = IPv4Network("224.0.0.0/4")

CIDR_LONGEST = 29
"""The longest prefix of the subnet. A longer one has too few addresses for a cluster."""


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
    """The subnet, with a prefix length of 29 at most; every host and VIP lies in it. The allocation pool of a created subnet avoids their addresses. That of
    an existing subnet should avoid them too.
    """
    gateway: Address | None = None
    """Gateway of the subnet; required with `external`, unless the network exists."""
    existing: Name | None = None
    """An existing network: the program uses its subnet with this `cidr` and creates no network or router."""
    external: Name | None = None
    """The external network: each VIP gets a floating IP from it, and a created network gets a router to it. An existing network must have a router to it
    already.
    """
    client_cidrs: tuple[Range, ...] = ()
    """Clients that may connect to the VIPs. If a VIP has a floating IP and this list is empty, the program warns: only the subnet could connect. Direct
    routing forwards with the client's source address, so these ranges are also allowed address pairs on directors. `0.0.0.0/0` works. Neutron refuses
    `128.0.0.0/1`, because it overlaps multicast (Neutron API): use `0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3`.
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
    """How many allowed address pairs Neutron accepts on one port (Neutron API). A port has one for each VIP of the pool, each of the pool's
    `allowed_address_pairs`, and on directors one for the subnet and each of `client_cidrs`. More are refused before anything is created. Clouds differ,
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

    @model_validator(mode="after")
    def _ranges(self) -> Network:
        if self.cidr.prefixlen > CIDR_LONGEST:
            raise ValueError(f"cidr: {self.cidr} has too few addresses for a cluster; is its length right? such as {self.cidr.network_address}/24")
        if self.gateway and self.gateway not in self.cidr:
            raise ValueError(f"gateway: {self.gateway} is outside the subnet {self.cidr}; choose an address in it, such as {self.cidr[1]}")
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
