"""What the cluster's nodes and addresses need of Neutron.

Makes the network, its subnet and, with `external`, a router and a floating IP per address; or takes an existing network. Always makes
the nodes' security group with its rules, a port that reserves each address, and one for each reserved address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import Any, NamedTuple, TypeVar

import pulumi
from pulumi.runtime.sync_await import _sync_await
from pulumi_openstack import networking

from components.configuration import Cluster, ConfigurationError, Network
from components.configuration.model import AnyAddress, AnyRange
from components.configuration.network import automatic_addresses
from components.ingress import Rule, ingress_rules, management_rules, pool_rules

Found = TypeVar("Found")

SUBNETS = ("subnet", "subnet-v6")
"""The resources of `network.cidr` and `network.cidr_v6`."""

IPV6_MODE = "dhcpv6-stateful"
"""How hosts get the address of an IPv6 subnet that the program creates (Neutron API, `ipv6_address_mode` and `ipv6_ra_mode`)."""


def allocation_pool(cluster: Cluster, subnet: AnyRange) -> tuple[AnyAddress, AnyAddress]:
    """First and last address of a subnet that Neutron may give away by itself (to its own DHCP and metadata port, say).

    A sixteenth of the subnet, aligned, without any address that the configuration names and as far from them as can be, so that
    the next host or address added beside the others is free as well.
    """
    named = {subnet.network_address, subnet.broadcast_address, cluster.network.gateway_of(subnet)}
    named |= {*cluster.network.reserved.values(), *(address for vip in cluster.vips.values() for address in vip.addresses)}
    named |= {address for node in cluster.nodes() for address in node.host.addresses}
    inside = [address for address in named if address and address in subnet]

    def distance(block: AnyRange) -> int:
        """In blocks, rounded up; 0 when there is a named address inside."""
        nearest = min(max(int(block[0]) - int(address), int(address) - int(block[-1])) for address in inside)
        return -(-max(0, nearest) // block.num_addresses)

    longest = subnet.max_prefixlen
    for prefix in range(min(subnet.prefixlen + 4, longest), min(subnet.prefixlen + 16, longest) + 1):
        blocks: list[AnyRange] = list(subnet.subnets(new_prefix=prefix))
        # max() keeps the first of equals: the same configuration always gives the same pool.
        block = max(blocks, key=distance)
        if distance(block) > 0:
            return block[0], block[-1]
    key = "network.cidr" if subnet == cluster.network.cidr else "network.cidr_v6"
    raise ConfigurationError(f"{key}: {subnet} has no address left for Neutron's own DHCP and metadata port; use a larger subnet")


def look_up(key: str, value: str, kind: str, find: Callable[[], Found]) -> Found:
    """What `find` finds in the cloud. Raises ConfigurationError that names the key, the value and how to see what there is."""
    try:
        return find()
    except Exception as error:
        shown = f"`openstack {kind} list` shows what this cloud has"
        # The words of the provider's data sources; that of floating IPs has its own.
        if "returned no" in str(error) or "No openstack_" in str(error):
            raise ConfigurationError(f"{key}: {value!r}: no such {kind} that this project can see; {shown}") from None
        if "more than one" in str(error).lower():
            raise ConfigurationError(f"{key}: {value!r}: more than one {kind} has this name; {shown}, and names must be unique") from None
        raise ConfigurationError(f"{key}: {value!r}: the cloud could not be asked for this {kind} ({error}); check openstack:cloud and clouds.yaml") from None


class Management(NamedTuple):
    """The second network of the created servers: ids of the network, its subnet and, where there is port security, the group that lets ssh in."""

    network_id: str
    subnet_id: str
    security_group_id: pulumi.Output[str] | None


@dataclass(frozen=True)
class NetworkArgs:
    """What the network is made from."""

    cluster: Cluster


class ClusterNetwork(pulumi.ComponentResource):
    """The network, the nodes' security group, and the ports that keep the addresses.

    Who depends on this component waits for all of it. `vip_ports` go by their own names, `floating_ips` by the VIP's; `pool_group_ids` has the security
    group of each pool with `allow`. A network without port security has no group, and ports only of VIPs with a floating IP.
    """

    network_id: pulumi.Output[str]
    subnet_ids: dict[int, pulumi.Output[str]]
    """By family, 4 or 6."""
    port_security: bool
    security_group_id: pulumi.Output[str] | None
    pool_group_ids: dict[str, pulumi.Output[str]]
    management: Management | None
    vip_ports: dict[str, networking.Port]
    floating_ips: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openshift-lvs:index:Network", name, None, opts)
        cluster = args.cluster
        self._args = args
        routed: list[pulumi.Resource] = []
        for vip_name, address in cluster.existing_floating_ips().items():
            self._find_floating_ip(vip_name, address, cluster.vips[vip_name].address)
        management = self._find_management(cluster)
        if cluster.network.existing:
            self._take(cluster.network, cluster.network.existing)
        else:
            routed = self._make(cluster)
        self.port_security = cluster.network.port_security
        self.security_group_id = self._security_group("nodes", "Nodes of an LVS cluster", ingress_rules(cluster)) if self.port_security else None
        self.pool_group_ids = {
            pool_name: self._security_group(f"pool-{pool_name}", f"Pool {pool_name} of an LVS cluster", pool_rules(cluster, pool_name))
            for pool_name, pool in cluster.pools.items()
            if pool.allow
        }
        self.management = management and Management(*management, self._management_group(cluster))
        self.vip_ports = {port: self._reserve(port, port, address) for port, address in cluster.vip_ports().items()}
        for reserved, kept in cluster.network.reserved.items():
            self._reserve(f"reserved-{reserved}", reserved, kept)
        self.floating_ips = {vip_name: self._floating_ip(vip_name, cluster.network.external, routed) for vip_name in cluster.new_floating_ips()}
        self.floating_ips |= {vip_name: self._associate(vip_name, address, routed) for vip_name, address in cluster.existing_floating_ips().items()}
        self.register_outputs({"network_id": self.network_id, "subnet_id": self.subnet_id, "floating_ips": self.floating_ips})

    @property
    def subnet_id(self) -> pulumi.Output[str]:
        """The subnet of `network.cidr`."""
        return self.subnet_ids[self._args.cluster.network.cidr.version]

    def fixed_ips(self, addresses: Iterable[AnyAddress]) -> list[networking.PortFixedIpArgsDict]:
        """The argument of a port that has these addresses, each of the subnet of its family."""
        return [{"subnet_id": self.subnet_ids[address.version], "ip_address": str(address)} for address in addresses]

    def security(self, pool: str | None = None, pairs: Iterable[str] = ()) -> dict[str, Any]:
        """The arguments of a port that say what may pass: the nodes' group, that of a pool, and allowed address pairs; or no port security."""
        if self.security_group_id is None:
            return {"port_security_enabled": False, "no_security_groups": True}
        groups = [self.security_group_id, *([self.pool_group_ids[pool]] if pool in self.pool_group_ids else [])]
        return {"security_group_ids": groups} | ({"allowed_address_pairs": [{"ip_address": pair} for pair in pairs]} if pool else {})

    def _take(self, network: Network, existing: str) -> None:
        """The existing network of that name, and its subnet with the configured range."""
        options = pulumi.InvokeOptions(parent=self)
        network_id = look_up("network.existing", existing, "network", partial(networking.get_network, name=existing, opts=options)).id
        if self._has_port_security("existing", network_id) not in (None, network.port_security):
            has = "has no" if network.port_security else "has"
            raise ConfigurationError(
                f"network.port_security: {str(network.port_security).lower()}, and {existing!r} {has} port security; set it to what the network has"
            )
        if network.external:
            self._find_external(network.external)
        self.network_id, self.subnet_ids = pulumi.Output.from_input(network_id), {}
        for key, cidr in zip(("network.cidr", "network.cidr_v6"), network.cidrs, strict=False):
            self.subnet_ids[cidr.version] = pulumi.Output.from_input(self._find_subnet(key, cidr, network_id))

    def _find_subnet(self, key: str, cidr: AnyRange, network_id: str) -> str:
        """The id of the subnet with that range in an existing network. Refuses one in which a port cannot have a chosen address."""
        by_range = partial(networking.get_subnet, network_id=network_id, cidr=str(cidr), opts=pulumi.InvokeOptions(parent=self))
        found = look_up(key, str(cidr), "subnet", by_range)
        if why := automatic_addresses(found.ipv6_address_mode, found.ipv6_ra_mode):
            raise ConfigurationError(f"{key}: {str(cidr)!r}: {why}")
        return found.id

    def _find_management(self, cluster: Cluster) -> tuple[str, str] | None:
        """The ids of the management network and its subnet. Refuses a server that runs without a port there: it would not get one."""
        if not (management := cluster.network.management):
            return None
        key, options = "network.management", pulumi.InvokeOptions(parent=self)
        by_name = partial(networking.get_network, name=management.existing, opts=options)
        network_id = look_up(f"{key}.existing", management.existing, "network", by_name).id
        if cluster.network.port_security and self._has_port_security("management", network_id) is False:
            raise ConfigurationError(
                f"{key}.existing: {management.existing!r}: this network has no port security, and the ports of the hosts there get a security group; "
                "name a network with port security"
            )
        subnet_id = self._find_subnet(f"{key}.cidr", management.cidr, network_id)
        for node in cluster.nodes():
            if node.pool.existing or not node.host.ssh_address:
                continue
            ports = networking.get_port_ids(name=node.name, fixed_ip=str(node.host.address), opts=options).ids or ()
            for server in filter(None, (networking.get_port(port_id=port, opts=options).device_id for port in ports)):
                if not networking.get_port_ids(network_id=network_id, device_id=server, opts=options).ids:
                    raise ConfigurationError(
                        f"pools.{node.pool_name}.hosts.{node.name}.ssh_address: {node.host.ssh_address}, and the server runs without a port on "
                        f"{management.existing!r}, which counts only when a server is created; remove the host, run pulumi up, and add it again"
                    )
        return network_id, subnet_id

    def _has_port_security(self, name: str, network_id: str) -> bool | None:
        """Whether an existing network has port security; None if that is not known yet.

        No data source says it, so the network is read as a resource. The program neither changes nor deletes what it reads.
        """
        found = networking.Network.get(name, network_id, opts=self._child())
        # Pulumi's own way to wait for the answer of an invoke.
        return _sync_await(found.port_security_enabled.future())

    def _management_group(self, cluster: Cluster) -> pulumi.Output[str] | None:
        if not self.port_security or not cluster.network.management:
            return None
        return self._security_group("management", "Management of an LVS cluster", management_rules(cluster))

    def _find_external(self, name: str) -> str:
        """The id of the external network of that name."""
        options = pulumi.InvokeOptions(parent=self)
        return look_up("network.external", name, "network", partial(networking.get_network, name=name, external=True, opts=options)).id

    def _find_floating_ip(self, vip_name: str, address: IPv4Address, vip: AnyAddress) -> None:
        """Refuse a floating IP that is not there or that something else uses. Asked before anything is made."""
        key, options = f"vips.{vip_name}.floating_ip", pulumi.InvokeOptions(parent=self)
        found = look_up(key, str(address), "floating ip", partial(networking.get_floating_ip, address=str(address), opts=options))
        if found.fixed_ip and found.fixed_ip != str(vip):
            raise ConfigurationError(f"{key}: '{address}': it leads to {found.fixed_ip}; release it first (`openstack floating ip unset --port {address}`)")

    def _floating_ip(self, vip_name: str, external: str | None, routed: list[pulumi.Resource]) -> pulumi.Output[str]:
        """A new floating IP for the VIP. Neutron gives a port an outer address only once its subnet has a router."""
        port = self.vip_ports[f"vip-{vip_name}"]
        return networking.FloatingIp(f"vip-{vip_name}", pool=str(external), port_id=port.id, opts=self._kept(depends_on=routed)).address

    def _associate(self, vip_name: str, address: IPv4Address, routed: list[pulumi.Resource]) -> pulumi.Output[str]:
        """The existing floating IP, connected to the VIP's port. `pulumi destroy` disconnects it and lets it be."""
        port = self.vip_ports[f"vip-{vip_name}"]
        # One floating IP at a time can lead to the port: another address replaces this one, the old connection first.
        options = pulumi.ResourceOptions(parent=self, depends_on=routed, delete_before_replace=True)
        return networking.FloatingIpAssociate(f"vip-{vip_name}", floating_ip=str(address), port_id=port.id, opts=options).floating_ip

    def _make(self, cluster: Cluster) -> list[pulumi.Resource]:
        """A network with a subnet for each family; the router's interfaces when there is a router."""
        network, external = cluster.network, cluster.network.external
        # Asked before anything is made: a wrong name changes nothing.
        outside = self._find_external(external) if external else None
        pools = {cidr: allocation_pool(cluster, cidr) for cidr in network.cidrs}
        made = networking.Network("network", admin_state_up=True, port_security_enabled=None if network.port_security else False, opts=self._kept())
        self.network_id, self.subnet_ids = made.id, {}
        for name, cidr in zip(SUBNETS, network.cidrs, strict=False):
            gateway, (first, last) = network.gateway_of(cidr), pools[cidr]
            subnet = networking.Subnet(
                name,
                network_id=made.id,
                cidr=str(cidr),
                ip_version=cidr.version,
                gateway_ip=str(gateway) if gateway else None,
                no_gateway=None if gateway else True,
                allocation_pools=[{"start": str(first), "end": str(last)}],
                dns_nameservers=[str(address) for address in network.dns_nameservers if address.version == cidr.version],
                # Other modes give a port an address that is made from its MAC, so no host could have the address that the configuration names.
                ipv6_address_mode=IPV6_MODE if cidr.version == 6 else None,
                ipv6_ra_mode=IPV6_MODE if cidr.version == 6 else None,
                opts=self._kept(),
            )
            self.subnet_ids[cidr.version] = subnet.id
        if not outside:
            return []
        router = networking.Router("router", admin_state_up=True, external_network_id=outside, opts=self._kept())
        return [
            networking.RouterInterface(name.replace("subnet", "router"), router_id=router.id, subnet_id=self.subnet_ids[cidr.version], opts=self._child())
            for name, cidr in zip(SUBNETS, network.cidrs, strict=False)
        ]

    def _security_group(self, name: str, what: str, rules: Iterable[Rule]) -> pulumi.Output[str]:
        """A stateless group of nodes: lets everything out, as Neutron's default rules do, and in what the rules say."""
        group = networking.SecGroup(
            name, description=f"{what}: no state, because a director sees half of each conversation", stateful=False, opts=self._child()
        )
        for rule in rules:
            first, last = rule.ports or (None, None)
            networking.SecGroupRule(
                rule.name if name == "nodes" else f"{name}-{rule.name}",
                security_group_id=group.id,
                direction="ingress",
                ethertype=f"IPv{rule.source.version}",
                protocol=None if rule.protocol == "any" else rule.protocol,
                port_range_min=first,
                port_range_max=last,
                remote_ip_prefix=str(rule.source),
                opts=self._child(),
            )
        return group.id

    def _reserve(self, name: str, port_name: str, address: AnyAddress) -> networking.Port:
        """An unbound port: Neutron gives its address to no other port, and ML2/OVN follows it to whichever node announces it.

        It has one address: OVN's virtual port follows one, so the second address of a port would stay where the first is.
        """
        return networking.Port(
            name,
            name=port_name,
            network_id=self.network_id,
            fixed_ips=self.fixed_ips([address]),
            **self.security(),
            # Neutron gives a port that has a floating IP no other address: a new address is a new port, and the floating IP moves to it.
            opts=self._kept(replace_on_changes=["fixed_ips"]),
        )

    def _child(self) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self)

    def _kept(self, depends_on: list[pulumi.Resource] | None = None, replace_on_changes: list[str] | None = None) -> pulumi.ResourceOptions:
        """The options of a resource that `protect` keeps."""
        return pulumi.ResourceOptions(parent=self, depends_on=depends_on, replace_on_changes=replace_on_changes, protect=self._args.cluster.protect or None)
