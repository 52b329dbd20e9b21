"""Whether the cloud has what a stack needs, asked before the first `pulumi up`. Reads only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any, NamedTuple

from components.configuration import Cluster, RootVolume
from components.configuration.model import AnyAddress
from components.configuration.network import automatic_addresses
from components.configuration.rules import address_key
from components.ingress import ingress_rules, management_rules, pool_rules

EXTENSIONS = {
    "security-group": "security groups",
    "stateful-security-group": "stateless security groups: a director sees half of each conversation",
    "allowed-address-pairs": "allowed address pairs: nodes send with the addresses of VIPs and clients",
    "port-security": "port security, for an existing network and to switch it off (network.port_security: false)",
    "router": "routers and floating IPs",
}
"""The extensions of Neutron's API that a stack may need, by alias, and for what."""


class CloudError(Exception):
    """The cloud cannot be asked at all. The text says why."""


def connect(cloud: str | None) -> Any:
    """The cloud of that entry of clouds.yaml, or of the OS_ variables. Raises CloudError."""
    try:
        import openstack
    except ImportError:
        raise CloudError("openstacksdk: not installed; make .venv installs it") from None
    try:
        connection = openstack.connect(cloud=cloud)
        connection.authorize()
    except Exception as error:  # keystoneauth, openstacksdk and requests each have a tree of their own
        raise CloudError(f"openstack:cloud: {cloud!r}: the cloud could not be asked ({error}); check clouds.yaml") from None
    return connection


class Finding(NamedTuple):
    """What was asked, and the answer. `holds` is None if the cloud does not say."""

    what: str
    holds: bool | None
    said: str

    def __str__(self) -> str:
        state = {True: "ok", False: "MISSING", None: "unknown"}[self.holds]
        return f"{state:<8}{self.what}: {self.said}"

    def to_json(self) -> dict[str, str]:
        """The finding as JSON has it: see docs/reference/operations.md."""
        return {"subject": self.what, "result": {True: "ok", False: "failed", None: "unknown"}[self.holds], "text": self.said}


def preflight(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    """Every need of the stack that is looked at, in the order in which `pulumi up` would meet it. `cloud` is an openstack.connection.Connection."""
    if not cluster.needs_openstack:
        yield Finding("OpenStack", True, "this stack creates nothing in it")
        return
    questions = (
        _extensions,
        _images_and_flavors,
        _zones,
        _network,
        _quality_of_service,
        _management,
        _external,
        _floating_ips,
        _addresses,
        _volumes,
        _quota,
        _volume_quota,
    )
    for question in questions:
        yield from _asked(question.__name__.strip("_").replace("_", " "), lambda question=question: list(question(cloud, cluster)))  # type: ignore[misc]


def _asked(what: str, question: Callable[[], list[Finding]]) -> list[Finding]:
    """The findings of a question; one that says why, if the cloud does not answer it."""
    try:
        return question()
    except Exception as error:  # whatever the cloud or its client raises is an answer to report
        return [Finding(what, None, f"the cloud does not say ({error})")]


def _extensions(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    network = cluster.network
    wanted = {"port-security"} if not network.port_security else {"security-group", "stateful-security-group", "allowed-address-pairs"}
    if network.existing:
        wanted.add("port-security")
    if (network.external and not network.existing) or cluster.vips_with_floating_ip() or cluster.ssh.creates_bastion:
        wanted.add("router")
    there = {extension.alias for extension in cloud.network.extensions()}
    for alias, use in EXTENSIONS.items():
        if alias in wanted:
            yield Finding(f"extension {alias}", alias in there, "there" if alias in there else f"this cloud's Neutron lacks {use}")


class Machine(NamedTuple):
    """A server that the program creates. `key` is the section that describes it."""

    key: str
    image: str
    flavor: str
    root_volume: RootVolume | None


def _machines(cluster: Cluster) -> Iterator[Machine]:
    """Every server that the program creates."""
    for node in cluster.nodes():
        if node.created:
            yield Machine(f"pools.{node.pool_name}", str(node.pool.image), str(node.pool.flavor), node.pool.root_volume)
    if cluster.ssh.bastion and cluster.ssh.bastion.created:
        yield Machine("ssh.bastion", str(cluster.ssh.bastion.image), str(cluster.ssh.bastion.flavor), cluster.ssh.bastion.root_volume)


def _images_and_flavors(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    for key, image, flavor, root_volume in dict.fromkeys(_machines(cluster)):
        found = cloud.image.find_image(image, ignore_missing=True)
        yield Finding(f"{key}.image", bool(found), f"{image!r}" if found else f"{image!r}: no such image; `openstack image list` shows what there is")
        found = cloud.compute.find_flavor(flavor, ignore_missing=True)
        yield Finding(f"{key}.flavor", bool(found), f"{flavor!r}" if found else f"{flavor!r}: no such flavor; `openstack flavor list` shows what there is")
        if found and not found.disk and not root_volume:
            yield Finding(f"{key}.flavor", False, f"{flavor!r} has no disk; set root_volume: {{size: GIB}}, or another flavor")


def _zones(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    wanted = {zone for node in cluster.nodes() if node.created and (zone := node.pool.zone_of(node.name))}
    if wanted:
        there = {zone.name for zone in cloud.compute.availability_zones() if (zone.state or {}).get("available", True)}
        for zone in sorted(wanted):
            yield Finding(
                "availability zone", zone in there, repr(zone) if zone in there else f"{zone!r}: not available; this cloud has {', '.join(sorted(there))}"
            )


def _network(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    network = cluster.network
    if not network.existing:
        return
    found = cloud.network.find_network(network.existing, ignore_missing=True)
    yield Finding("network.existing", bool(found), repr(network.existing) if found else f"{network.existing!r}: no such network; `openstack network list`")
    if not found:
        return
    subnets = [next(iter(cloud.network.subnets(network_id=found.id, cidr=str(cidr))), None) for cidr in network.cidrs]
    for key, cidr, there in zip(("network.cidr", "network.cidr_v6"), network.cidrs, subnets, strict=False):
        lacks = automatic_addresses(there.ipv6_address_mode, there.ipv6_ra_mode) if there else f"{network.existing!r} has no such subnet"
        yield Finding(key, not lacks, f"{cidr}: {lacks}" if lacks else str(cidr))
    if found.is_port_security_enabled is not None and bool(found.is_port_security_enabled) != network.port_security:
        is_ = "has" if found.is_port_security_enabled else "has no"
        yield Finding(
            "network.port_security",
            False,
            f"{str(network.port_security).lower()}, and {network.existing!r} {is_} port security; set it to what the network has",
        )
    outside = bool(cluster.vips_with_floating_ip()) or cluster.ssh.creates_bastion
    needed = [
        (cidr, there.id, "so no floating IP can lead to it" if cidr.version == 4 else "so hosts do not learn that DHCPv6 has their addresses")
        for cidr, there in zip(network.cidrs, subnets, strict=True)
        if there and (cidr.version == 6 or outside)
    ]
    ports = [port for port in cloud.network.ports(network_id=found.id) if str(port.device_owner).startswith("network:") and "router" in port.device_owner]
    routed = {ip["subnet_id"] for port in ports for ip in port.fixed_ips}
    for cidr, subnet, why in needed:
        yield Finding("router", subnet in routed, f"of {cidr}" if subnet in routed else f"the subnet {cidr} has no router, {why}")


def _quality_of_service(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    """Directors recognize by its DSCP what another one has balanced. A QoS policy may set another: of the network, or the project's default for a new one."""
    if not any(extension.alias == "qos" for extension in cloud.network.extensions()):
        return
    policies = list(cloud.network.qos_policies())
    if cluster.network.existing:
        found = cloud.network.find_network(cluster.network.existing, ignore_missing=True)
        key, mine = "network.existing", [policy for policy in policies if found and policy.id == found.qos_policy_id]
    else:
        key, mine = "network", [policy for policy in policies if policy.is_default and policy.project_id == cloud.current_project_id]
    for policy in mine:
        if any(rule["type"] == "dscp_marking" for rule in policy.rules or ()):
            fault = "sets the DSCP of every packet, and directors that choose differently would send packets to each other; remove its rule dscp_marking"
            yield Finding(key, False, f"QoS policy {policy.name!r} {fault}")


def _management(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    if management := cluster.network.management:
        found = cloud.network.find_network(management.existing, ignore_missing=True)
        subnet = found and next(iter(cloud.network.subnets(network_id=found.id, cidr=str(management.cidr))), None)
        said = f"{management.existing!r}, {management.cidr}"
        yield Finding("network.management", bool(subnet), said if subnet else f"{said}: no such {'subnet' if found else 'network'}; `openstack subnet list`")
        if subnet and (lacks := automatic_addresses(subnet.ipv6_address_mode, subnet.ipv6_ra_mode)):
            yield Finding("network.management.cidr", False, f"{management.cidr}: {lacks}")
        if found and cluster.network.port_security and found.is_port_security_enabled is False:
            lacks = "has no port security, and the ports of the hosts there get a security group; name a network with port security"
            yield Finding("network.management.existing", False, f"{management.existing!r} {lacks}")


def _external(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    if external := cluster.network.external:
        found = cloud.network.find_network(external, ignore_missing=True)
        outside = bool(found and found.is_router_external)
        reason = "is not an external network" if found else "no such network"
        yield Finding("network.external", outside, repr(external) if outside else f"{external!r}: {reason}; `openstack network list --external`")


def _floating_ips(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    for name, address in cluster.existing_floating_ips().items():
        found = next(iter(cloud.network.ips(floating_ip_address=str(address))), None)
        leads_to = found.fixed_ip_address if found else None
        free = bool(found) and leads_to in (None, str(cluster.vips[name].address))
        said = f"it leads to {leads_to}; release it first" if found else "no such floating IP in this project"
        yield Finding(f"vips.{name}.floating_ip", free, str(address) if free else f"{address}: {said}")


def _addresses(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    """Whether other ports of an existing network have the addresses. Ports that this program created are its own: they have the names that it gives."""
    if not cluster.network.existing or not (found := cloud.network.find_network(cluster.network.existing, ignore_missing=True)):
        return
    vips = [(name, port, address) for name, vip in cluster.vips.items() for port, address in vip.ports(name).items()]
    wanted: dict[AnyAddress, tuple[str, str]] = {address: (address_key(cluster, name, address), port) for name, port, address in vips}
    wanted |= {address: (f"network.reserved.{name}", name) for name, address in cluster.network.reserved.items()}
    created = [node for node in cluster.nodes() if not node.pool.existing]
    wanted |= {address: (f"pools.{node.pool_name}.hosts.{node.name}", node.name) for node in created for address in node.host.addresses}
    taken: dict[AnyAddress, Any] = {ip_address(ip["ip_address"]): port for port in cloud.network.ports(network_id=found.id) for ip in port.fixed_ips}
    for address, (key, own) in wanted.items():
        port = taken.get(address)
        free = port is None or port.name == own
        other = port and (port.name or port.id)
        yield Finding(key, free, f"{address}" if free else f"{address}: port {other!r} has this address; choose another, or delete the port")


def _volumes(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    volumes = {machine.key: machine.root_volume for machine in _machines(cluster) if machine.root_volume}
    if not volumes:
        return
    if not cloud.has_service("block-storage"):
        for key in volumes:
            yield Finding(f"{key}.root_volume", False, "this cloud has no block storage (Cinder); remove it, and name a flavor with a disk")
        return
    there = {kind.name for kind in cloud.block_storage.types()}
    for key, volume in volumes.items():
        if volume.type:
            said = repr(volume.type) if volume.type in there else f"{volume.type!r}: no such volume type; this cloud has {', '.join(sorted(there))}"
            yield Finding(f"{key}.root_volume.type", volume.type in there, said)


def _quota(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    """Whether the project may create as much as a first `pulumi up` creates. What a stack has already is counted as used, so later runs need less."""
    servers = list(_machines(cluster))
    flavors = Counter(machine.flavor for machine in servers)
    found = {name: cloud.compute.find_flavor(name, ignore_missing=True) for name in flavors}
    limits = cloud.compute.get_limits().absolute
    needs: list[tuple[str, int, int | None, int | None]] = [("servers", len(servers), limits.instances, limits.instances_used)]
    groups = sum(1 for pool in cluster.pools.values() if not pool.existing and pool.server_group_policy != "none")
    needs.append(("server groups", groups, limits.server_groups, limits.server_groups_used))
    if all(found.values()):
        needs.append(("cores", sum(found[name].vcpus * count for name, count in flavors.items()), limits.total_cores, limits.total_cores_used))
        needs.append(("MB of memory", sum(found[name].ram * count for name, count in flavors.items()), limits.total_ram, limits.total_ram_used))
    quota = cloud.network.get_quota(cloud.current_project_id, details=True)
    for what, count in network_needs(cluster).items():
        given = getattr(quota, re.sub(r"\W", "_", what)) or {}
        needs.append((what.replace("_", " "), count, given.get("limit"), given.get("used")))
    for need in needs:
        yield _enough(*need)


def _volume_quota(cloud: Any, cluster: Cluster) -> Iterator[Finding]:
    """Whether the project may create the root volumes, as `_quota` asks for everything else."""
    sizes = [machine.root_volume.size for machine in _machines(cluster) if machine.root_volume]
    if sizes and cloud.has_service("block-storage"):
        limits = cloud.block_storage.get_limits().absolute
        yield _enough("volumes", len(sizes), limits.max_total_volumes, limits.total_volumes_used)
        yield _enough("GiB of volumes", sum(sizes), limits.max_total_volume_gigabytes, limits.total_gigabytes_used)


def _enough(what: str, count: int, limit: int | None, used: int | None) -> Finding:
    """Whether a quota has space for `count` more. A `limit` below 0 is none."""
    if limit is None:
        return Finding(f"quota of {what}", None, f"needs {count}; the cloud does not say how many the project may have")
    free = limit - (used or 0)
    return Finding(f"quota of {what}", limit < 0 or free >= count, f"needs {count}, {'no limit' if limit < 0 else f'{free} of {limit} are free'}")


def network_needs(cluster: Cluster) -> dict[str, int]:
    """How many of each resource of Neutron a first `pulumi up` creates, by the name of the quota."""
    network, made = cluster.network, [node for node in cluster.nodes() if not node.pool.existing]
    bastion = int(cluster.ssh.creates_bastion)
    needs = {
        "ports": len(made) + len(cluster.vip_ports()) + len(network.reserved) + sum(1 for node in made if node.host.ssh_address) + bastion,
        "floating_ips": len(cluster.new_floating_ips()) + bastion,
        "networks": 0 if network.existing else 1,
        "subnets": 0 if network.existing else len(network.cidrs),
        "routers": int(bool(network.external and not network.existing)),
    }
    groups: list[Sequence[object]] = [cluster.ssh.allowed_cidrs or ()] * bastion
    if network.port_security:
        groups += [ingress_rules(cluster), *(pool_rules(cluster, name) for name, pool in cluster.pools.items() if pool.allow)]
        groups += [management_rules(cluster)] if network.management else []
    needs["security_groups"] = len(groups)
    # Each group begins with two rules of Neutron's own.
    needs["security_group_rules"] = sum(2 + len(rules) for rules in groups)
    return {what: count for what, count in needs.items() if count}
