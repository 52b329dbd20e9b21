"""The rules between sections. Each function raises ValueError with `key: value: remedy`. Rules within one section are in the section's module.

The order of the rules matters: some rely on earlier ones, and only the first broken rule is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import pairwise
from typing import TYPE_CHECKING

from components.configuration.model import AnyAddress, AnyRange, Model, within
from components.configuration.pools import Host, witness_address
from components.configuration.services import VirtualService
from components.configuration.vips import POOR_VIEW_WEIGHT, Vip

if TYPE_CHECKING:
    from components.configuration.cluster import Cluster


def check(cluster: Cluster) -> None:
    """Apply every rule."""
    families(cluster)
    addresses(cluster)
    host_names(cluster)
    # For every VIP first: the witnesses of one VIP's pool are servers of the other VIPs' pools.
    for name, vip in cluster.vips.items():
        pool_owner_and_directors(cluster, section(cluster, name), vip)
    management(cluster)
    router(cluster)
    bastion(cluster)
    floating_ips(cluster)
    client_cidrs(cluster)
    port_security(cluster)
    allowed_address_pairs(cluster)
    root_login(cluster)
    for name, vip in cluster.vips.items():
        key = section(cluster, name)
        ssh_port(cluster, key, vip)
        priorities(cluster, key, vip)
        vrrp_version(cluster, key, vip)
        answers_within(cluster, key, vip)
        for index, service in enumerate(vip.services):
            weights_and_quorum(f"{key}.services.{index}", cluster.pools[vip.pool].hosts, service)
            unmanaged_hosts(f"{key}.services.{index}", cluster.pools[vip.pool].hosts, service)
        virtual_router_id(cluster, name, vip)
        unmanaged_with_ipv6(cluster, name, vip)
    sorry_servers(cluster)
    witnesses(cluster)


def families(cluster: Cluster) -> None:
    """No address or network is of a family that the stack's subnets do not have. How ssh reaches a host is another matter."""

    def found(key: str, value: object) -> Iterator[tuple[str, object, int]]:
        match value:
            case Model():
                for name in type(value).model_fields:
                    yield from found(f"{key}.{name}", getattr(value, name))
            case dict():
                for name, inner in value.items():
                    yield from found(f"{key}.{name}", inner)
            case tuple():
                for number, inner in enumerate(value):
                    yield from found(f"{key}.{number}", inner)
            case IPv4Address() | IPv4Network() | IPv6Address() | IPv6Network():
                yield key, value, value.version
            case str() if re.fullmatch(r"\[.*\]:\d+", value):
                yield key, value, 6

    have = {cidr.version for cidr in cluster.network.cidrs}
    own = {name: vip for name, vip in cluster.vips.items() if cluster.together(name)[0] == name}
    for section, value in (("network", cluster.network), ("pools", cluster.pools), ("vips", own)):
        for key, given, version in found(section, value):
            if version not in have and not key.startswith("network.management.") and not key.endswith(".ssh_address"):
                other = f"set network.cidr_v6 and each host's address_v6, or give an IPv{min(have)} one" if version == 6 else "give an IPv6 one"
                raise ValueError(f"{key}: {given} is IPv{version}, and no subnet of the stack is; {other}")


def addresses(cluster: Cluster) -> None:
    """Hosts, VIPs and reserved ports have host addresses of the subnet of their family, and no address is used twice."""
    network = cluster.network
    taken: dict[AnyAddress, str] = {}
    for end, gateway in (("", network.gateway), ("_v6", network.gateway_v6)):
        if gateway:
            taken[gateway] = f"network.gateway{end}"
    named = [(f"network.reserved.{name}", address) for name, address in network.reserved.items()]
    for node in cluster.nodes():
        key, second = f"pools.{node.pool_name}.hosts.{node.name}", node.host.address_v6
        if node.host.address.version != network.cidr.version:
            raise ValueError(f"{key}: {node.host.address} {_outside(network.cidr)}")
        if network.cidr_v6 and not second:
            raise ValueError(f"{key}.address_v6: missing, and network.cidr_v6 is {network.cidr_v6}; give an address in it, such as {network.cidr_v6[5]}")
        if second and not network.cidr_v6:
            raise ValueError(f"{key}.address_v6: {second}, and network.cidr_v6 is not set; set it to the subnet of this address, or remove this")
        named += [(key, node.host.address), *([(f"{key}.address_v6", second)] if second else [])]
    named += [(address_key(cluster, name, address), address) for name, vip in cluster.vips.items() for address in vip.addresses]
    for key, address in named:
        subnet = next((cidr for cidr in network.cidrs if cidr.version == address.version), network.cidr)
        if address not in subnet or address in (subnet.network_address, subnet.broadcast_address):
            raise ValueError(f"{key}: {address} {_outside(subnet)}")
        if address in taken:
            raise ValueError(
                f"{key}: {address} is taken by {taken[address]}; choose another, because an address pair equal to a bound port's address takes that port down"
            )
        taken[address] = key


def _outside(subnet: AnyRange) -> str:
    return f"is not a host address of the subnet {subnet}; choose one from {subnet[1]} to {subnet[-2]}"


def section(cluster: Cluster, name: str) -> str:
    """The section that describes a VIP: the VIP of `address_v6` has none of its own."""
    return f"vips.{cluster.together(name)[0]}"


def vip_key(cluster: Cluster, name: str, key: str = "address") -> str:
    """The key of what each of the two addresses of a VIP has for itself: `address` or `address_v6`."""
    return f"{section(cluster, name)}.{key}{'' if cluster.together(name)[0] == name else '_v6'}"


def address_key(cluster: Cluster, name: str, address: AnyAddress) -> str:
    """The key of one of the addresses of a VIP, which may be an additional one."""
    vip = cluster.vips[name]
    return vip_key(cluster, name) if address == vip.address else f"{section(cluster, name)}.additional_addresses.{vip.additional_addresses.index(address)}"


def host_names(cluster: Cluster) -> None:
    """Host names are unique in the stack."""
    taken: dict[str, str] = {}
    for node in cluster.nodes():
        key = f"pools.{node.pool_name}.hosts.{node.name}"
        if node.name in taken:
            raise ValueError(f"{key}: the name is used by {taken[node.name]} too; names of hosts are unique in a stack, so choose another")
        taken[node.name] = key


def management(cluster: Cluster) -> None:
    """An `ssh_address` belongs to one host. That of a created server lies in the management network."""
    network = cluster.network.management
    hosts = {address: node.name for node in cluster.nodes() for address in node.host.addresses}
    taken: dict[AnyAddress, str] = {}
    for node in cluster.nodes():
        address, key = node.host.ssh_address, f"pools.{node.pool_name}.hosts.{node.name}.ssh_address"
        if address is None:
            continue
        if other := taken.get(address) or (hosts.get(address) if hosts.get(address) != node.name else None):
            raise ValueError(f"{key}: {address} is the address of {other} too; give this host's own")
        taken[address] = node.name
        if node.pool.existing:
            continue
        if network is None:
            raise ValueError(f"{key}: {address}, and a created server has only its address in the subnet; set network.management, or remove it")
        if address not in network.cidr or address in (network.cidr.network_address, network.cidr.broadcast_address):
            raise ValueError(
                f"{key}: {address} is not a host address of network.management.cidr {network.cidr}; choose one from {network.cidr[1]} to {network.cidr[-2]}"
            )
    if network and not any(node.host.ssh_address for node in cluster.nodes() if not node.pool.existing):
        raise ValueError(
            f"network.management: {network.existing!r}, and no created host has an address there; set ssh_address of the hosts in {network.cidr}, or remove it"
        )


def router(cluster: Cluster) -> None:
    """A created IPv6 subnet has a router: no host uses its IPv6 address before it has heard a router's advertisements."""
    network = cluster.network
    if network.existing or network.external or not cluster.needs_openstack:
        return
    for end, cidr in zip(("", "_v6"), network.cidrs, strict=False):
        if cidr.version == 6:
            raise ValueError(
                f"network.external: missing, and network.cidr{end} is {cidr}, where hosts need the advertisements of a router; name the external network, so "
                "that the created network gets a router to it, or set network.existing"
            )


def bastion(cluster: Cluster) -> None:
    """A created bastion has a floating IP, clients, and a way to every node."""
    if not cluster.ssh.creates_bastion:
        return
    image = f"ssh.bastion.image: {cluster.ssh.bastion and cluster.ssh.bastion.image!r}"
    if not cluster.needs_openstack:
        raise ValueError(f"{image}, and this stack creates nothing in OpenStack; name a bastion that exists (host, host_key)")
    if not cluster.network.external:
        raise ValueError("network.external: missing; a bastion that the program creates gets a floating IP from it; name the external network")
    if cluster.network.cidr.version == 6:
        raise ValueError(f"{image}, and network.cidr is {cluster.network.cidr}, where it gets no floating IP; name a bastion that exists (host, host_key)")
    if not cluster.ssh.allowed_cidrs:
        state = "missing" if cluster.ssh.allowed_cidrs is None else "empty"
        raise ValueError(f"ssh.allowed_cidrs: {state}, so no client could use the bastion; name the ranges from which ssh may come, such as [198.51.100.0/24]")
    for index, range_ in enumerate(cluster.ssh.allowed_cidrs):
        if range_.version == 6:
            raise ValueError(
                f"ssh.allowed_cidrs.{index}: {range_}, and a bastion that the program creates has IPv4 only; remove it, or name a bastion that exists"
            )
    for node in cluster.nodes():
        if node.ssh_address not in cluster.network.cidr:
            raise ValueError(
                f"pools.{node.pool_name}.hosts.{node.name}.ssh_address: {node.ssh_address}, and a bastion that the program creates reaches only the subnet "
                f"{cluster.network.cidr}; remove ssh_address, or name a bastion that exists"
            )


def floating_ips(cluster: Cluster) -> None:
    """An existing floating IP is outside the subnet, belongs to one VIP, and has a router on its way."""
    taken: dict[IPv4Address, str] = {}
    for name, address in cluster.existing_floating_ips().items():
        key = f"vips.{name}.floating_ip"
        if not cluster.needs_openstack:
            raise ValueError(f"{key}: {address}, and this stack creates nothing in OpenStack; connect it in your cloud, and set false here")
        if address in cluster.network.cidr:
            raise ValueError(f"{key}: {address} is in the subnet {cluster.network.cidr}; give the address on the external network")
        if address in taken:
            raise ValueError(f"{key}: {address} is the floating IP of {taken[address]} too; one VIP can have it")
        if not (cluster.network.existing or cluster.network.external):
            raise ValueError(f"network.external: missing, and {key} is {address}; name the external network, so that the created network gets a router to it")
        taken[address] = f"vips.{name}"


def client_cidrs(cluster: Cluster) -> None:
    """The clients of a service are among those of the network: directors may send with the addresses of no others."""
    known = (*cluster.network.cidrs, *cluster.network.client_cidrs)
    for name, vip in cluster.vips.items():
        for index, service in enumerate(vip.services):
            for number, range_ in enumerate(service.client_cidrs or ()):
                if not within(range_, known):
                    raise ValueError(
                        f"vips.{name}.services.{index}.client_cidrs.{number}: {range_} is not within network.client_cidrs; directors forward with the "
                        "client's address, which Neutron permits for those ranges only; add it there too"
                    )


def warnings(cluster: Cluster) -> Iterator[str]:
    """Floating IPs without clients, floating IPs that lead nowhere, and floating IPs that are wanted but cannot be."""
    with_floating_ip = cluster.vips_with_floating_ip()
    if with_floating_ip and cluster.network.port_security and not cluster.network.client_cidrs:
        yield (
            f"network.client_cidrs: empty, so no client outside the subnet can use the floating IPs of {', '.join(with_floating_ip)}; "
            "name the clients, such as [0.0.0.0/0] for all, or set floating_ip: false in these vips"
        )
    if with_floating_ip and not cluster.network.port_security:
        yield (
            f"network.port_security: false, so ML2/OVN sends no host the packets for the floating IPs of {', '.join(with_floating_ip)}, "
            "and their clients get no answer; set floating_ip: false in these vips, or port_security: true"
        )
    for name, vip in cluster.vips.items():
        if vip.floating_ip is True and "floating_ip" in vip.model_fields_set and name not in with_floating_ip:
            if vip.address.version == 6:
                yield f"vips.{name}.floating_ip: true, and address is {vip.address}: IPv6 is routed without a floating IP; set false"
                continue
            why = "network.external is not set" if cluster.needs_openstack else "this stack creates nothing in OpenStack"
            yield f"vips.{name}.floating_ip: true, and {why}, so the VIP gets none; set false, or name the external network"


def port_security(cluster: Cluster) -> None:
    """Without port security there is no security group and no address pair, so no key speaks of them."""
    if cluster.network.port_security:
        return
    # A created bastion's own port has port security all the same.
    given: dict[str, object] = {"network.allow": cluster.network.allow, "ssh.allowed_cidrs": not cluster.ssh.creates_bastion and cluster.ssh.allowed_cidrs}
    for name, pool in cluster.pools.items():
        given |= {f"pools.{name}.allow": pool.allow, f"pools.{name}.allowed_address_pairs": pool.allowed_address_pairs}
    for key, value in given.items():
        if value:
            raise ValueError(f"{key}: network.port_security is false, so no port has a security group or address pairs; remove it, or set port_security: true")


def allowed_address_pairs(cluster: Cluster) -> None:
    """No pair of a pool is the address of a port of the stack, and no port has more pairs than Neutron accepts."""
    taken = {address: f"pools.{node.pool_name}.hosts.{node.name}" for node in cluster.nodes() for address in node.host.addresses}
    taken |= {address: f"network.reserved.{name}" for name, address in cluster.network.reserved.items()}
    for node in cluster.nodes():
        key = f"pools.{node.pool_name}.allowed_address_pairs"
        for index, range_ in enumerate(node.pool.allowed_address_pairs):
            if range_.num_addresses == 1 and range_[0] in taken:
                raise ValueError(f"{key}.{index}: {range_[0]} is {taken[range_[0]]}; a pair equal to a bound port's address takes that port down; remove it")
        most = cluster.network.max_allowed_address_pair
        count = 0 if node.pool.existing or not cluster.network.port_security else len(cluster.allowed_address_pairs(node))
        if count > most:
            vips = sum(len(vip.addresses) for vip in cluster.vips_of(node.pool_name).values())
            raise ValueError(
                f"network.max_allowed_address_pair: {most}, and the port of {node.name} needs {count} allowed address pairs: {vips} VIPs, "
                f"{len(node.pool.allowed_address_pairs)} of {key}, the others for the subnet and client_cidrs; spread the VIPs over more pools, "
                "combine ranges (client_cidrs: [0.0.0.0/0] is one), or set this key to what your cloud accepts"
            )


def root_login(cluster: Cluster) -> None:
    """First boot permits the login that the program uses."""
    for node in cluster.nodes():
        if cluster.ssh_user(node) == "root" and node.pool.cloud_config.get("disable_root"):
            key = f"pools.{node.pool_name}.hosts.{node.name}.ssh_user" if node.host.ssh_user else "ssh.user"
            raise ValueError(f"pools.{node.pool_name}.cloud_config.disable_root: true, and {key} is root; remove it or set another {key}")


def ssh_port(cluster: Cluster, key: str, vip: Vip) -> None:
    """No service has the port on which the servers' own sshd listens: a server has one program for each port."""
    for index, service in enumerate(vip.services):
        if service.protocol == "TCP" and service.port == cluster.ssh.port:
            raise ValueError(f"{key}.services.{index}.port: {service.port} is the port of the nodes' ssh (ssh.port); choose another port for one of them")


def pool_owner_and_directors(cluster: Cluster, key: str, vip: Vip) -> None:
    """The VIP's pool exists. The owner and every host in `priorities` are directors of it."""
    if not cluster.pools:
        raise ValueError(f"pools: empty; describe the pool {vip.pool!r} of {key}")
    if vip.pool not in cluster.pools:
        raise ValueError(f"{key}.pool: {vip.pool!r} is not a pool; the pools are {', '.join(cluster.pools)}")
    directors = cluster.directors(vip.pool)
    if not directors:
        raise ValueError(f"pools.{vip.pool}.directors: empty; name at least one director for {key}, or leave it out: then every managed host is one")
    if vip.owner not in directors:
        raise ValueError(f"{key}.owner: {vip.owner!r} is not a director of pool {vip.pool!r}; it has {', '.join(directors)}")
    for host in vip.priorities:
        if host not in directors:
            raise ValueError(f"{key}.priorities.{host}: not a director of pool {vip.pool!r}; it has {', '.join(directors)}")


def priorities(cluster: Cluster, key: str, vip: Vip) -> None:
    """Priorities differ, the owner has the highest, and a director with a poor view ranks below all healthy ones."""
    by_priority: dict[int, str] = {}
    for host in cluster.directors(vip.pool):
        priority = cluster.priority(vip, host)
        if priority in by_priority:
            raise ValueError(
                f"{key}.priorities: {host} and {by_priority[priority]} both have {priority}; give each its own, because equal priorities have no fixed owner"
            )
        by_priority[priority] = host
    highest, lowest = max(by_priority), min(by_priority)
    if highest - lowest >= -POOR_VIEW_WEIGHT:
        raise ValueError(
            f"{key}.priorities: from {highest} down to {lowest} is {-POOR_VIEW_WEIGHT} or more apart; "
            f"a director that sees too few servers of every service adds {POOR_VIEW_WEIGHT}, and must then rank below all others"
        )
    ranked = sorted(by_priority, reverse=True)
    for higher, lower in pairwise(ranked) if vip.address_v6 else ():
        if higher - lower >= -POOR_VIEW_WEIGHT // 2:
            raise ValueError(
                f"{key}.priorities: {by_priority[higher]} has {higher}, and the next director {lower}: {-POOR_VIEW_WEIGHT // 2} or more apart; a director that "
                f"sees too few servers of one family adds {POOR_VIEW_WEIGHT // 2}, and must then rank below the next one"
            )
    if cluster.witnesses(vip.pool) and lowest < 2 - POOR_VIEW_WEIGHT:
        raise ValueError(
            f"{key}.priorities: {by_priority[lowest]} has {lowest}; with witnesses {2 - POOR_VIEW_WEIGHT} is the least: "
            f"a director that sees too few servers adds {POOR_VIEW_WEIGHT}, and one that is cut off must then rank below it. "
            f"Set higher priorities, or no witnesses (pools.{vip.pool}.witnesses: [])"
        )
    if by_priority[highest] != vip.owner:
        raise ValueError(
            f"{key}.owner: {vip.owner} has not the highest priority, {by_priority[highest]} has {highest}; give the owner the highest, or name another owner"
        )


def vrrp_version(cluster: Cluster, key: str, vip: Vip) -> None:
    """Version 2 has whole seconds and passwords. Version 3 has hundredths of a second and no password."""
    version = cluster.keepalived.vrrp_version
    if version == 2 and vip.address.version == 6:
        raise ValueError(f"keepalived.vrrp_version: 2, and {key} has the IPv6 address {vip.address}; that needs version 3 (RFC 9568)")
    if version == 2 and vip.advert_interval != int(vip.advert_interval):
        raise ValueError(f"{key}.advert_interval: {vip.advert_interval} needs VRRP version 3; version 2 counts whole seconds")
    if vip.advert_interval != round(vip.advert_interval, 2):
        raise ValueError(f"{key}.advert_interval: {vip.advert_interval} is no multiple of 0.01, and an advert counts hundredths of a second (RFC 9568)")
    if vip.authentication and version == 3:
        raise ValueError(f"{key}.authentication: VRRP version 3 has none (RFC 9568); set keepalived.vrrp_version: 2 or leave it out")


def answers_within(cluster: Cluster, key: str, vip: Vip) -> None:
    """The time to answer after a roll-out is long enough for a takeover and the return of a server."""
    needed = cluster.takeover_seconds(vip) + vip.recovery_seconds
    if 0 < vip.answers_within < needed:
        raise ValueError(
            f"{key}.answers_within: {vip.answers_within} s is shorter than a takeover and a health check with these timings ({needed:g} s); "
            "give more, or 0 to ask nothing"
        )


def weights_and_quorum(key: str, hosts: Mapping[str, Host], service: VirtualService) -> None:
    """Weights name hosts of the pool, and the expected servers can reach quorum and hysteresis."""
    for host in service.weights:
        if host not in hosts:
            raise ValueError(f"{key}.weights.{host}: not a host of the pool; it has {', '.join(hosts)}")
    total = sum(map(service.weight, hosts))
    if not total:
        raise ValueError(f"{key}.weights: all are 0, so no server would get a connection; give one a weight")
    weighted = sum(1 for host in hosts if service.weight(host))
    if service.expected_servers and service.expected_servers > weighted:
        raise ValueError(
            f"{key}.expected_servers: {service.expected_servers} is more than the number of hosts with a weight above 0; {weighted} at most, or leave it out"
        )
    if service.fail_open and not service.expects_all(hosts):
        raise ValueError(
            f"{key}.fail_open: true, and expected_servers is {service.expected_servers} of {weighted} hosts: a host without the service would get "
            "connections; leave fail_open out"
        )
    expected = service.expected_weight(hosts)
    reach = f"all servers weigh together ({total})"
    if service.expected_servers:
        reach = f"the expected servers weigh at least ({expected})"
    if service.quorum and service.quorum > expected:
        remedy = f"; {expected} at most" + (", or a higher expected_servers" if service.expected_servers else "")
        raise ValueError(f"{key}.quorum: {service.quorum} is more than {reach}{remedy}")
    if service.hysteresis >= (quorum := service.quorum_of(hosts)):
        raise ValueError(f"{key}.hysteresis: {service.hysteresis} must be below the quorum, which is {quorum}")
    if service.hysteresis + quorum > expected:
        raise ValueError(
            f"{key}.hysteresis: {service.hysteresis} above the quorum of {quorum} is more than {reach}: "
            f"a quorum that was lost once would never come back; {expected - quorum} at most"
        )


def unmanaged_hosts(key: str, hosts: Mapping[str, Host], service: VirtualService) -> None:
    """The program can load no kernel module on a host that it does not manage."""
    name = next((name for name, host in hosts.items() if not host.managed), None)
    if name and service.forwarding_method == "TUN":
        raise ValueError(f"{key}.forwarding_method: TUN, and {name} has managed: false, so the program cannot load ipip there; use DR")


def unmanaged_with_ipv6(cluster: Cluster, name: str, vip: Vip) -> None:
    """The rules of a host that the program does not manage are for IPv4."""
    host = next((host for host, given in cluster.pools[vip.pool].hosts.items() if not given.managed), None)
    if host and vip.address.version == 6:
        key = vip_key(cluster, name)
        raise ValueError(f"{key}: {vip.address}, and {host} has managed: false, where only IPv4 works so far; remove this address, or managed: false")


def sorry_servers(cluster: Cluster) -> None:
    """A sorry server is a machine outside the stack. Only such a machine can have the VIP on `lo` while the pool's own servers have it too.

    A host of another pool does not have the VIP, so it drops what a director sends to it. A VIP is no machine: a director would send the packet back
    into its own virtual server.
    """
    hosts = [(address, node) for node in cluster.nodes() for address in node.host.addresses]
    inside = {address: f"host {node.name} of pool {node.pool_name!r}, which does not have this VIP" for address, node in hosts}
    inside |= {address: f"the address of {section(cluster, name)}, not of a machine" for name, vip in cluster.vips.items() for address in vip.addresses}
    for end, gateway in (("", cluster.network.gateway), ("_v6", cluster.network.gateway_v6)):
        if gateway:
            inside[gateway] = f"network.gateway{end}"
    for name, vip in cluster.vips.items():
        for index, service in enumerate(vip.services):
            key = vip_key(cluster, name, f"services.{index}.sorry_server")
            for host, given in cluster.pools[vip.pool].hosts.items():
                if service.sorry_server in given.addresses:
                    raise ValueError(f"{key}: {service.sorry_server} is {host}, a real server of the same service; name another machine")
            if service.sorry_server and service.sorry_server in inside:
                raise ValueError(f"{key}: {service.sorry_server} is {inside[service.sorry_server]}; name a machine outside this stack that has the VIP on lo")


def virtual_router_id(cluster: Cluster, name: str, vip: Vip) -> None:
    """No VIP of the same family before this one has the same VRID: the families' VRIDs are independent (RFC 9568).

    No VIP of another pool has it either: connection sync tells the pools apart by a VRID (`Cluster.sync_id`).
    """
    for other, earlier in cluster.vips.items():
        if other == name:
            return
        if earlier.virtual_router_id == vip.virtual_router_id and (earlier.address.version == vip.address.version or earlier.pool != vip.pool):
            raise ValueError(
                f"{section(cluster, name)}.virtual_router_id: {vip.virtual_router_id} is used by {section(cluster, other)} too; choose another (1 to 255)"
            )


def witnesses(cluster: Cluster) -> None:
    """A witness is outside the pool: neither one of its hosts nor one of its VIPs."""
    for pool_name, pool in cluster.pools.items():
        inside = {address: f"pools.{pool_name}.hosts.{name}" for name, host in pool.hosts.items() for address in host.addresses}
        inside |= {address: address_key(cluster, name, address) for name, vip in cluster.vips_of(pool_name).items() for address in vip.addresses}
        for index, witness in enumerate(pool.witnesses or ()):
            if found := inside.get(witness_address(witness)):
                raise ValueError(
                    f"pools.{pool_name}.witnesses.{index}: {witness} is {found}; a witness is outside the pool: "
                    "a server of another one, a name server, a gateway that answers"
                )
