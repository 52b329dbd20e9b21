"""The rules of the nodes' security groups, from the cluster's configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from components.configuration import Allow, Cluster
from components.configuration.model import AnyRange

ANYWHERE: dict[int, AnyRange] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
IPVS_SYNC = (8848, 8848)
"""UDP port of IPVS connection sync (ipvsadm(8))."""


class Rule(NamedTuple):
    """One ingress rule. Its name is its content: a changed rule is a new one beside the old, because Neutron refuses a replacement as a duplicate.

    `protocol` is a name or a number in digits, or `any`. The family is that of `source`.
    """

    protocol: str
    ports: tuple[int, int] | None
    source: AnyRange

    @property
    def name(self) -> str:
        """Such as `tcp-8443-from-192.168.0.0/24`. An IPv6 source is written without `::`, which is between the parts of a URN."""
        ports = "" if self.ports is None else f"-{self.ports[0]}" if self.ports[0] == self.ports[1] else f"-{self.ports[0]}-{self.ports[1]}"
        source = str(self.source)
        if self.source.version == 6:
            groups = (f"{int(group, 16):x}" for group in self.source.network_address.exploded.split(":"))
            source = f"{':'.join(groups)}/{self.source.prefixlen}"
        return f"{self.protocol}{ports}-from-{source}"


def ingress_rules(cluster: Cluster) -> list[Rule]:
    """What the nodes let in, each rule once and in a fixed order.

    A director sees half of each conversation, so the group keeps no state and the answers to a node's own calls need rules
    of their own: whatever comes for the ports that nodes call from. The node itself refuses what is no answer (`open_return_ports`).
    Sources are address ranges, never a group: with client ranges as allowed address pairs a remote group would match them all.
    """
    return ordered([*_for_answers(cluster), *_for_connections(cluster)])


def open_return_ports(cluster: Cluster, pool: str) -> list[Rule]:
    """The rules for a pool's servers that open ports of the return range for more than answers: services, health checks, ssh, what `allow` names.

    Those of other protocols than TCP and UDP are not among them.
    """
    first, last = cluster.network.return_port_range
    rules = ordered([*_for_connections(cluster), *pool_rules(cluster, pool)])
    return [rule for rule in rules if rule.protocol in ("tcp", "udp", "any") and (rule.ports is None or (rule.ports[0] <= last and rule.ports[1] >= first))]


def _for_answers(cluster: Cluster) -> list[Rule]:
    anywhere = [ANYWHERE[cidr.version] for cidr in cluster.network.cidrs]
    return [Rule(protocol, cluster.network.return_port_range, source) for protocol in ("tcp", "udp") for source in anywhere]


def _for_connections(cluster: Cluster) -> Iterator[Rule]:
    subnets = cluster.network.cidrs
    yield from (_icmp(ANYWHERE[cidr.version]) for cidr in subnets)
    for source in (*subnets, *(cluster.network.client_cidrs if cluster.ssh.allowed_cidrs is None else cluster.ssh.allowed_cidrs)):
        yield Rule("tcp", (cluster.ssh.port, cluster.ssh.port), source)
    yield from allow_rules(cluster.network.allow, subnets)
    for pool in sorted({vip.pool for vip in cluster.vips.values()}):
        yield from _from_directors(cluster, pool)
    for vip in cluster.vips.values():
        for service in vip.services:
            version = vip.address.version
            for source in (*subnets, *(cluster.network.client_cidrs if service.client_cidrs is None else service.client_cidrs)):
                if source.version == version:
                    yield Rule(service.protocol.lower(), (service.port, service.port), source)
            if check_port := getattr(service.health_check, "connect_port", None):
                yield from (Rule("tcp", (check_port, check_port), cidr) for cidr in subnets if cidr.version == version)


def _icmp(source: AnyRange) -> Rule:
    """ICMP from a range. ICMPv6 has neighbour discovery too: without it no machine of the subnet finds another one."""
    return Rule("icmp" if source.version == 4 else "ipv6-icmp", None, source)


def _from_directors(cluster: Cluster, pool: str) -> Iterator[Rule]:
    """What only the directors of a pool send: adverts, connection sync, tunnel packets. A rule for each, since any machine may be in the subnet."""
    vips = cluster.vips_of(pool).values()
    for director in cluster.directors(pool):
        host = cluster.pools[pool].hosts[director]
        for version in sorted({vip.address.version for vip in vips}):
            yield Rule("vrrp", None, ip_network(host.address_of(version)))
        source = ip_network(host.address)
        yield Rule("udp", IPVS_SYNC, source)
        if any(vip.authentication == "AH" for vip in vips):
            yield Rule("ah", None, source)
        if any(service.forwarding_method == "TUN" for vip in vips for service in vip.services):
            yield Rule("ipip", None, source)


def pool_rules(cluster: Cluster, pool: str) -> list[Rule]:
    """What the servers of a pool accept beside the rules for all nodes, each rule once and in a fixed order."""
    return ordered(allow_rules(cluster.pools[pool].allow, cluster.network.cidrs))


def management_rules(cluster: Cluster) -> list[Rule]:
    """What the servers accept on the management network: ssh from its subnet and from `ssh.allowed_cidrs`."""
    if not (management := cluster.network.management):
        return []
    port = (cluster.ssh.port, cluster.ssh.port)
    sources = (management.cidr, *(cluster.ssh.allowed_cidrs or ()))
    return ordered([_icmp(management.cidr), *(Rule("tcp", port, source) for source in sources)])


def allow_rules(entries: Iterable[Allow], subnets: tuple[AnyRange, ...]) -> Iterator[Rule]:
    """The rules of `allow` entries; from each subnet where an entry names no source."""
    for entry in entries:
        for protocol, ports in entry.port_rules:
            for source in (entry.cidr,) if entry.cidr else subnets:
                yield Rule("ipv6-icmp" if protocol == "icmp" and source.version == 6 else protocol, ports, source)


def ordered(rules: Iterable[Rule]) -> list[Rule]:
    """Each rule once, in an order that the configuration does not change."""
    return sorted(set(rules), key=lambda rule: (rule.protocol, rule.ports or (0, 0), rule.source.version, rule.source))
