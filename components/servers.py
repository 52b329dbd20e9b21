"""The cluster's hosts: servers that the program makes, or machines that are there already."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import pulumi
from pulumi_openstack import compute, images, networking

from components import host_key
from components.configuration import Cluster, Node, RootVolume
from components.network import ClusterNetwork, look_up

FIRST_BOOT_ONLY = ["image_id", "flavor_name", "user_data", "key_pair", "availability_zone", "scheduler_hints", "block_devices", "networks"]
"""Settings that count only when a server is created. Another flavor would resize, and so reboot, all servers of a
pool at once. A host that is removed and added again is created with the new settings."""


def find_images(cluster: Cluster, opts: pulumi.InvokeOptions | None = None) -> dict[str, str]:
    """The id of each image that the pools and the bastion name. Raises ConfigurationError for an image or flavor that the cloud has not.

    To be asked before any resource is made: a wrong name then changes nothing.
    """
    wanted = {f"pools.{name}": (str(pool.image), str(pool.flavor)) for name, pool in cluster.pools.items() if not pool.existing}
    if cluster.ssh.bastion and cluster.ssh.bastion.created:
        wanted["ssh.bastion"] = (str(cluster.ssh.bastion.image), str(cluster.ssh.bastion.flavor))
    for flavor, key in {flavor: key for key, (_, flavor) in wanted.items()}.items():
        look_up(f"{key}.flavor", flavor, "flavor", partial(compute.get_flavor, name=flavor, opts=opts))
    return {
        image: look_up(f"{key}.image", image, "image", partial(images.get_image, name=image, most_recent=True, opts=opts)).id
        for image, key in {image: key for key, (image, _) in wanted.items()}.items()
    }


def user_data(cluster: Cluster, node: Node, seed: str, ssh_public_key: str) -> str:
    """cloud-config for the first boot, as JSON, which is YAML too: who the host is and who may log in; the rest is the pool's `cloud_config`."""
    key = host_key.derive(seed, node.name)
    given = node.pool.cloud_config
    config = {
        **given,
        "hostname": node.name,
        "ssh_authorized_keys": [ssh_public_key, *given.get("ssh_authorized_keys", [])],
        "ssh_keys": {"ed25519_private": key.private, "ed25519_public": key.public},
        **({"disable_root": False} if cluster.ssh_user(node) == "root" else {}),
        # cloud-init cuts a name with dots at the first one, unless it is told that the whole name is meant.
        **({"fqdn": node.name, "prefer_fqdn_over_hostname": True} if "." in node.name else {}),
    }
    return "#cloud-config\n" + json.dumps(config, sort_keys=True)


def root_volume(volume: RootVolume, image: str) -> compute.InstanceBlockDeviceArgs:
    """The device from which a server boots: a volume that is made of the image."""
    return compute.InstanceBlockDeviceArgs(
        source_type="image",
        uuid=image,
        destination_type="volume",
        boot_index=0,
        volume_size=volume.size,
        volume_type=volume.type,
        delete_on_termination=volume.delete_on_termination,
    )


@dataclass(frozen=True)
class Endpoint:
    """How a host is reached, and what must be there first; of a host that the program makes, its server is the last of `resources`."""

    address: str
    host_key: pulumi.Input[str]
    resources: list[pulumi.Resource]


@dataclass(frozen=True)
class ServersArgs:
    """What the servers are made from. `images` comes from `find_images`; `host_key_seed` is secret."""

    cluster: Cluster
    images: Mapping[str, str]
    network: ClusterNetwork | None
    host_key_seed: pulumi.Input[str]
    ssh_public_key: pulumi.Input[str]


class Servers(pulumi.ComponentResource):
    """Every managed host of the cluster, by name in `hosts`. A host that the program does not manage has at most a port.

    A change of configuration never replaces a server, and one host's change never touches another: what counts at the first boot only
    (image, user data, key pair, zone, server group) is not looked at again.
    """

    hosts: dict[str, Endpoint]

    def __init__(self, name: str, args: ServersArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openshift-lvs:index:Servers", name, None, opts)
        self._args = args
        self._seed = pulumi.Output.secret(args.host_key_seed)
        self.hosts = {node.name: self._existing(node) for node in args.cluster.nodes() if node.pool.existing and node.host.managed}
        if args.network:
            key_pair = compute.Keypair("operator", public_key=args.ssh_public_key, opts=pulumi.ResourceOptions(parent=self))
            groups = {
                # Another policy is another group, which the running servers would not be in.
                pool_name: compute.ServerGroup(
                    pool_name, policies=pool.server_group_policy, opts=pulumi.ResourceOptions(parent=self, ignore_changes=["policies"])
                )
                for pool_name, pool in args.cluster.pools.items()
                if not pool.existing and pool.server_group_policy != "none"
            }
            for node in args.cluster.nodes():
                if node.pool.existing:
                    continue
                port = self._port(node, args.network)
                if node.host.managed:
                    self.hosts[node.name] = self._make(node, port, args.network, key_pair, groups.get(node.pool_name))
        self.register_outputs({"hosts": {host: endpoint.address for host, endpoint in self.hosts.items()}})

    def _existing(self, node: Node) -> Endpoint:
        return Endpoint(str(node.ssh_address), str(node.host.host_key), [self._args.network] if self._args.network else [])

    def _port(self, node: Node, network: ClusterNetwork) -> networking.Port:
        """The port of a host. What boots a server that the program does not manage gives it this port."""
        cluster = self._args.cluster
        return networking.Port(
            node.name,
            name=node.name,
            network_id=network.network_id,
            fixed_ips=network.fixed_ips(node.host.addresses),
            **network.security(node.pool_name, cluster.allowed_address_pairs(node)),
            opts=pulumi.ResourceOptions(parent=self, protect=cluster.protect or None),
        )

    def _make(self, node: Node, port: networking.Port, network: ClusterNetwork, key_pair: compute.Keypair, group: compute.ServerGroup | None) -> Endpoint:
        cluster = self._args.cluster
        image = self._args.images[str(node.pool.image)]
        volume = root_volume(node.pool.root_volume, image) if node.pool.root_volume else None
        server = compute.Instance(
            node.name,
            name=node.name,
            image_id=None if volume else image,
            block_devices=[volume] if volume else None,
            flavor_name=node.pool.flavor,
            key_pair=key_pair.name,
            networks=[{"port": port.id}, *self._management(node, network)],
            scheduler_hints=[{"group": group.id}] if group else None,
            availability_zone=node.pool.zone_of(node.name),
            config_drive=True,
            user_data=pulumi.Output.all(self._seed, self._args.ssh_public_key).apply(lambda given: user_data(cluster, node, given[0], given[1])),
            opts=pulumi.ResourceOptions(
                parent=self,
                # The whole network: the rules that let the first boot out and ssh in, the addresses kept, the bastion's port.
                depends_on=[network],
                ignore_changes=FIRST_BOOT_ONLY,
                # Its port can be in one server at a time.
                delete_before_replace=True,
                protect=cluster.protect or None,
                custom_timeouts=pulumi.CustomTimeouts(create="20m", delete="10m"),
            ),
        )
        public = pulumi.Output.unsecret(self._seed.apply(lambda seed: host_key.derive(seed, node.name).public))
        return Endpoint(str(node.ssh_address), public, [server])

    def _management(self, node: Node, network: ClusterNetwork) -> list[compute.InstanceNetworkArgs]:
        """The second interface of a host with an `ssh_address`."""
        if not network.management or not node.host.ssh_address:
            return []
        group = network.management.security_group_id
        port = networking.Port(
            f"management-{node.name}",
            name=f"management-{node.name}",
            network_id=network.management.network_id,
            fixed_ips=[{"subnet_id": network.management.subnet_id, "ip_address": str(node.host.ssh_address)}],
            **({"security_group_ids": [group]} if group is not None else {"port_security_enabled": False, "no_security_groups": True}),
            opts=pulumi.ResourceOptions(parent=self, protect=self._args.cluster.protect or None),
        )
        return [compute.InstanceNetworkArgs(port=port.id)]
