"""The program: read the stack's configuration, build the components, export the endpoints."""

import pulumi

from components.bastion import BastionArgs, create_bastion
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.network import ClusterNetwork, NetworkArgs
from components.servers import Servers, ServersArgs, find_images
from components.stack import Stack, refusals

with refusals():
    stack = Stack.read(pulumi.Config())
    cluster = stack.cluster
    images = find_images(cluster)

    network = ClusterNetwork("network", NetworkArgs(cluster)) if cluster.needs_openstack else None
    servers = Servers("servers", ServersArgs(cluster, images, network, stack.host_key_seed, stack.ssh_public_key))
    bastion = create_bastion(BastionArgs(cluster, images, network, stack.host_key_seed, stack.ssh_public_key)) if network else None
    load_balancer = LoadBalancer(
        "load-balancer",
        LoadBalancerArgs(cluster, servers.hosts, stack.ssh_private_key, stack.auth_pass, stack.host_key_seed, bastion=bastion),
    )

pulumi.export("endpoints", stack.endpoints(network))
pulumi.export("hosts", stack.hosts(servers))
if bastion:
    pulumi.export("bastion", stack.bastion(bastion))
pulumi.export("proofs", load_balancer.proofs)
