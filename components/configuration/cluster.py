"""`openshift-lvs:cluster` as a whole, and the facts that follow from several sections: directors, priorities, witnesses, takeover time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from typing import Annotated, Any, ClassVar

from pydantic import ValidationError, field_validator, model_validator

from components.configuration import rules
from components.configuration.errors import ConfigurationError, UsageError, explain
from components.configuration.keepalived import Keepalived
from components.configuration.metrics import Metrics
from components.configuration.model import AnyAddress, Form, Label, Model, endpoint
from components.configuration.network import Network
from components.configuration.pools import WITNESSES, Node, Pool
from components.configuration.ssh import Ssh
from components.configuration.vips import POOR_VIEW_WEIGHT, Vip

SECOND = "-v6"
"""The end of the name of the VIP that `address_v6` is."""


class Cluster(Model):
    """All sections of a stack's `openshift-lvs:cluster`."""

    heading: ClassVar[str] = "openshift-lvs:cluster"

    network: Network
    """The tenant network."""
    ssh: Ssh = Ssh()
    """How the program reaches the nodes."""
    keepalived: Keepalived = Keepalived()
    """Global keys of keepalived. keepalived: `global_defs`."""
    metrics: Metrics | None = None
    """Metrics of every host; none if not set."""
    pools: Annotated[dict[Label, Pool], Form("a mapping by name: each pool under its name, such as master")]
    """Hosts of one kind, by the name of the pool."""
    vips: Annotated[dict[Label, Vip], Form("a mapping by name: each VIP under its name, such as master")]
    """The VIPs, by name."""
    protect: bool = False
    """Pulumi refuses to delete or replace the servers, ports, floating IPs and network that the program created ([what it covers](../how-to/protect.md))."""

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Cluster:
        """The cluster that a stack's configuration describes. Raises ConfigurationError with every fault found, one per line."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError("\n".join(explain(cls, data, fault) for fault in error.errors())) from None

    @field_validator("vips", mode="after")
    @classmethod
    def _one_family_each(cls, vips: dict[str, Vip]) -> dict[str, Vip]:
        """A VIP with an address of each family is two VIPs from here on, NAME and NAME-v6: each has a VRRP instance, virtual servers and a port."""
        found: dict[str, Vip] = {}
        for name, vip in vips.items():
            found[name] = vip
            if vip.address_v6:
                second = f"{name}{SECOND}"
                if second in vips:
                    raise ValueError(f"{name}.address_v6: {vip.address_v6} would be VIP {second}, and vips has that name too; rename vips.{second}")
                found[second] = vip.second()
        return found

    @model_validator(mode="after")
    def _rules(self) -> Cluster:
        rules.check(self)
        return self

    @property
    def needs_openstack(self) -> bool:
        """Whether the program creates anything in OpenStack. A stack with only existing hosts needs no cloud."""
        return any(not pool.existing for pool in self.pools.values())

    def new_floating_ips(self) -> list[str]:
        """The VIPs for which the program creates a floating IP."""
        wanted = self.needs_openstack and self.network.external
        return [name for name, vip in self.vips.items() if wanted and vip.floating_ip is True and vip.address.version == 4]

    def existing_floating_ips(self) -> dict[str, IPv4Address]:
        """The existing floating IPs that VIPs get, by the name of the VIP."""
        return {name: vip.floating_ip for name, vip in self.vips.items() if isinstance(vip.floating_ip, IPv4Address)}

    def vips_with_floating_ip(self) -> list[str]:
        """The VIPs that get a floating IP, a new or an existing one."""
        return [*self.new_floating_ips(), *self.existing_floating_ips()]

    def vips_with_port(self) -> list[str]:
        """The VIPs whose address a port reserves: all, but without port security only those with a floating IP.

        Without address pairs, ML2/OVN takes such a port for the one that has the address, and routers send the VIP's packets to it instead of a host.
        """
        return list(self.vips) if self.network.port_security else self.vips_with_floating_ip()

    def vip_ports(self) -> dict[str, AnyAddress]:
        """The address that each port reserves for a VIP, by the name of the port. Without port security no port reserves an additional address."""
        return {
            port: address
            for name in self.vips_with_port()
            for port, address in self.vips[name].ports(name).items()
            if self.network.port_security or address == self.vips[name].address
        }

    @property
    def warnings(self) -> list[str]:
        """What works, but probably not as meant: one message each, with key, value and remedy."""
        return list(rules.warnings(self))

    def nodes(self) -> Iterator[Node]:
        """Every host, pool by pool."""
        for pool_name, pool in self.pools.items():
            for name, host in pool.hosts.items():
                yield Node(name, pool_name, pool, host)

    def managed(self, pool_name: str | None = None) -> list[str]:
        """The hosts of a pool, or of all pools, on which the program installs something."""
        return [node.name for node in self.nodes() if node.host.managed and pool_name in (None, node.pool_name)]

    def node(self, name: str) -> Node:
        """The host of that name. Raises UsageError with a list of the known hosts: no configuration asks for a host that it does not have."""
        for node in self.nodes():
            if node.name == name:
                return node
        raise UsageError(f"host: {name!r} is not in this stack; its hosts are {', '.join(n.name for n in self.nodes())}")

    def ssh_user(self, node: Node) -> str:
        """The login on a host."""
        return node.host.ssh_user or self.ssh.user

    def allowed_address_pairs(self, node: Node) -> list[str]:
        """Addresses and ranges that a created server may send from besides its own address, in a fixed order.

        The VIPs of its pool, plain: ML2/OVN lets only a plain address move between ports. On a director also the ranges of its clients and of its
        neighbours, because direct routing forwards a client's packet with the client's address. And what the pool's `allowed_address_pairs` adds.
        """
        vips = self.vips_of(node.pool_name)
        pairs = {str(address) for vip in vips.values() for address in vip.addresses}
        if vips and node.name in self.directors(node.pool_name):
            versions = {vip.address.version for vip in vips.values()}
            pairs |= {str(range_) for range_ in (*self.network.cidrs, *self.network.client_cidrs) if range_.version in versions}
        return sorted(pairs | {str(range_[0] if range_.num_addresses == 1 else range_) for range_ in node.pool.allowed_address_pairs})

    def sync_id(self, pool: str) -> int | None:
        """The syncid (ipvsadm(8)) that separates this pool's connection sync from others on the segment: the VRID of the pool's first VIP."""
        return next((vip.virtual_router_id for vip in self.vips_of(pool).values()), None)

    def vips_of(self, pool_name: str) -> dict[str, Vip]:
        """The VIPs of a pool, in the order of their names, as its hosts are (`Pool.hosts`)."""
        return {name: vip for name, vip in sorted(self.vips.items()) if vip.pool == pool_name}

    def together(self, name: str) -> tuple[str, ...]:
        """The VIPs that always have one holder: the two addresses of a VIP with both families; else the VIP alone."""
        for first in (name, name.removesuffix(SECOND)):
            if first in self.vips and self.vips[first].address_v6:
                return first, f"{first}{SECOND}"
        return (name,)

    def directors(self, pool_name: str) -> list[str]:
        """The hosts of a pool that may hold its VIPs."""
        pool = self.pools[pool_name]
        return [name for name, host in pool.hosts.items() if host.managed and (pool.directors is None or name in pool.directors)]

    def witnesses(self, pool_name: str) -> tuple[str, ...]:
        """ADDRESS:PORT of each witness. A director that no witness answers is cut off from its peers.

        By default a pool of two directors, which has no majority, uses real servers of the other pools. Every other pool has no witness.
        """
        pool = self.pools[pool_name]
        if pool.witnesses is not None:
            return pool.witnesses
        if len(pool.hosts) != 2 or len(self.directors(pool_name)) != 2:
            return ()
        vips = (vip for _, vip in sorted(self.vips.items()))
        ports = {vip.pool: service.port for vip in vips if vip.pool != pool_name for service in vip.services if service.protocol == "TCP"}
        return tuple(endpoint(host.address, port) for other, port in ports.items() for host in self.pools[other].hosts.values())[:WITNESSES]

    def priority(self, vip: Vip, host: str) -> int:
        """VRRP priority: 150 for the owner, 140, 130, ... for the others in the order of their names, unless `priorities` sets it."""
        if host in vip.priorities:
            return vip.priorities[host]
        others = [name for name in self.directors(vip.pool) if name != vip.owner]
        step = min(10, (-POOR_VIEW_WEIGHT - 1) // max(1, len(others)))
        return 150 if host == vip.owner else 150 - step * (others.index(host) + 1)

    def step_back_weight(self, pool_name: str) -> int:
        """Added to the priorities of a changed director until the roll-out ends. Less than 0.

        A changed director ranks below every unchanged one. If priorities are at most 49 apart, it ranks above a director with a poor view.
        The value is half of POOR_VIEW_WEIGHT where that is enough: then a new priority of one director does not change the files of the others.
        """
        directors = self.directors(pool_name)
        priorities = [[self.priority(vip, host) for host in directors] for vip in self.vips_of(pool_name).values()]
        spread = max((max(each) - min(each) for each in priorities), default=0)
        return min(POOR_VIEW_WEIGHT // 2, -(spread + 1))

    def takeover_seconds(self, vip: Vip) -> float:
        """Worst-case seconds until the first backup replaces a silent owner: 3 x advert interval + skew (RFC 9568, 6.1)."""
        backups = [self.priority(vip, name) for name in self.directors(vip.pool) if name != vip.owner]
        skew_of = vip.advert_interval if self.keepalived.vrrp_version == 3 else 1.0
        return round(3 * vip.advert_interval + (256 - max(backups, default=vip.priorities.get(vip.owner, 150))) / 256 * skew_of, 3)
