"""The bastion that the program creates: a small server with a floating IP that forwards ssh to the nodes and does nothing else.

Creates its security group, its port, a floating IP and the server. A bastion that exists is configured by `ssh.bastion.host` and needs none of this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import pulumi
from pulumi_openstack import compute, networking

from components import host_key
from components.configuration import Cluster
from components.network import ClusterNetwork
from components.servers import FIRST_BOOT_ONLY, root_volume

NAME = "ssh-bastion"
"""Name of the server and its port. No host has it: a host with this name has a component of its own."""
KEY_NAME = "the bastion"
"""What its host key is derived from, beside the seed. No host's name has a blank."""
SSHD_CONFIG = "/etc/ssh/sshd_config.d/00-forwarding-only.conf"
"""The first file that sshd reads; of each keyword it takes the first value (sshd_config(5))."""
MOST_DESTINATIONS = 1022
"""Hosts of a /22. Each is a word of PermitOpen, which knows no ranges."""
ACTIVATE = """\
mkdir -p /run/sshd
if sshd -T | grep -qx 'maxsessions 0'; then systemctl restart ssh || systemctl restart sshd; else systemctl disable --now ssh.socket ssh sshd; fi
"""
"""Puts the configuration into force. An sshd that does not read it (no `Include` in sshd_config) is stopped: it would give a shell."""


class BastionEndpoint(NamedTuple):
    """How ssh reaches the bastion, and what must be there first."""

    host: pulumi.Output[str]
    port: int
    user: str
    host_key: pulumi.Output[str]
    resources: list[pulumi.Resource]


def sshd_config(cluster: Cluster) -> str:
    """sshd forwards to the ssh port of the subnet's addresses: no shell, no terminal, no other forwarding."""
    subnet, port = cluster.network.cidr, cluster.ssh.port
    destinations = [f"{address}:{port}" for address in subnet.hosts()] if subnet.num_addresses - 2 <= MOST_DESTINATIONS else [f"*:{port}"]
    return "".join(
        f"{line}\n"
        for line in (
            "AllowTcpForwarding local",
            f"PermitOpen {' '.join(destinations)}",
            "MaxSessions 0",
            "PermitTTY no",
            "ForceCommand /bin/false",
            "PermitUserRC no",
            "AllowAgentForwarding no",
            "AllowStreamLocalForwarding no",
            "X11Forwarding no",
            "PermitTunnel no",
            "GatewayPorts no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            # A deployment connects once for each command that runs at the same time.
            "MaxStartups 100",
        )
    )


def user_data(cluster: Cluster, seed: str, ssh_public_key: str) -> str:
    """cloud-config for the first boot: the host key, who may log in, and the configuration of sshd."""
    key = host_key.derive(seed, KEY_NAME)
    config = {
        "hostname": NAME,
        "ssh_authorized_keys": [ssh_public_key],
        "ssh_keys": {"ed25519_private": key.private, "ed25519_public": key.public},
        "write_files": [{"path": SSHD_CONFIG, "permissions": "0644", "content": sshd_config(cluster)}],
        "runcmd": [["sh", "-c", ACTIVATE]],
        **({"disable_root": False} if cluster.ssh.bastion_user == "root" else {}),
    }
    return "#cloud-config\n" + json.dumps(config, sort_keys=True)


@dataclass(frozen=True)
class BastionArgs:
    """What the bastion is made from. `images` comes from `find_images`; `host_key_seed` is secret."""

    cluster: Cluster
    images: Mapping[str, str]
    network: ClusterNetwork
    host_key_seed: pulumi.Input[str]
    ssh_public_key: pulumi.Input[str]


class Bastion(pulumi.ComponentResource):
    """The bastion. Who depends on `endpoint.resources` waits until it can be reached; at the end it goes after them."""

    endpoint: BastionEndpoint

    def __init__(self, name: str, args: BastionArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openshift-lvs:index:Bastion", name, None, opts)
        cluster, network, given = args.cluster, args.network, args.cluster.ssh.bastion
        assert given and given.created
        group = networking.SecGroup(NAME, description="Bastion of an LVS cluster: ssh only", opts=self._child())
        rules = [
            networking.SecGroupRule(
                f"{NAME}-from-{source}",
                security_group_id=group.id,
                direction="ingress",
                ethertype="IPv4",
                protocol="tcp",
                port_range_min=given.port,
                port_range_max=given.port,
                remote_ip_prefix=str(source),
                opts=self._child(),
            )
            for source in cluster.ssh.allowed_cidrs or ()
        ]
        port = networking.Port(
            NAME,
            name=NAME,
            network_id=network.network_id,
            # Any address of the allocation pool: only the floating IP is used.
            fixed_ips=[{"subnet_id": network.subnet_id}],
            security_group_ids=[group.id],
            port_security_enabled=None if network.port_security else True,
            opts=self._child(),
        )
        floating_ip = networking.FloatingIp(
            NAME, pool=str(cluster.network.external), port_id=port.id, opts=pulumi.ResourceOptions(parent=self, depends_on=[network])
        )
        seed = pulumi.Output.secret(args.host_key_seed)
        image = args.images[str(given.image)]
        volume = root_volume(given.root_volume, image) if given.root_volume else None
        server = compute.Instance(
            NAME,
            name=NAME,
            image_id=None if volume else image,
            block_devices=[volume] if volume else None,
            flavor_name=given.flavor,
            networks=[{"port": port.id}],
            config_drive=True,
            user_data=pulumi.Output.all(seed, args.ssh_public_key).apply(lambda both: user_data(cluster, both[0], both[1])),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[network, *rules],
                ignore_changes=FIRST_BOOT_ONLY,
                delete_before_replace=True,
                custom_timeouts=pulumi.CustomTimeouts(create="20m", delete="10m"),
            ),
        )
        public = pulumi.Output.unsecret(seed.apply(lambda text: host_key.derive(text, KEY_NAME).public))
        self.endpoint = BastionEndpoint(floating_ip.address, given.port, cluster.ssh.bastion_user, public, [server, floating_ip, *rules])
        self.register_outputs({"host": floating_ip.address})

    def _child(self) -> pulumi.ResourceOptions:
        return pulumi.ResourceOptions(parent=self)


def create_bastion(args: BastionArgs, opts: pulumi.ResourceOptions | None = None) -> BastionEndpoint | None:
    """The bastion, if the configuration asks the program to create one."""
    return Bastion("bastion", args, opts).endpoint if args.cluster.ssh.creates_bastion else None
