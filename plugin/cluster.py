"""The component `openshift-lvs:Cluster`: network, servers and load balancer of one cluster, as the program makes them."""

# Without `from __future__ import annotations`: Pulumi's analyzer reads the annotations as types.

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi.provider.experimental.util import camel_case
from pulumi.runtime.sync_await import _sync_await

from components import configuration
from components.bastion import BastionArgs, create_bastion
from components.configuration import ConfigurationError, MiscCheck
from components.load_balancer import LoadBalancer, LoadBalancerArgs
from components.network import ClusterNetwork, NetworkArgs
from components.servers import Servers, ServersArgs, find_images
from components.stack import Secrets, Stack
from plugin import arguments

# mypy wants the name and keys of a TypedDict in the text.
ClusterArgs: Any = TypedDict("ClusterArgs", {**arguments.SECTIONS, **arguments.Beside.__annotations__})  # type: ignore[misc]


class Endpoint(TypedDict):
    """Where a VIP is, and its worst-case times."""

    address: str
    additional_addresses: NotRequired[list[str]]
    floating_ip: NotRequired[str]
    services: list[str]
    owner: str
    takeover_seconds: float
    eviction_seconds: float
    recovery_seconds: float


class Node(TypedDict):
    """What a host of the cluster is."""

    address: str
    host_key: str
    pool: str
    roles: list[str]
    owner_of: list[str]


class Cluster(pulumi.ComponentResource):
    """Highly available VIPs of one cluster, with keepalived and LVS on the cluster's own nodes. A stack has one of it."""

    endpoints: pulumi.Output[dict[str, Endpoint]]
    """Each VIP by name."""
    hosts: pulumi.Output[dict[str, Node]]
    """Each host by name."""
    proofs: pulumi.Output[dict[str, str]]
    """What every VIP answered at the end of the roll-out."""

    def __init__(self, name: str, args: ClusterArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        """Raises ConfigurationError before anything is made."""
        given: Mapping[str, Any] = args
        cluster = configuration.Cluster.parse(arguments.to_model(given))
        scripts = _scripts(cluster, given.get("check_scripts", {}))
        secrets = _secrets(cluster, given)
        super().__init__("openshift-lvs:index:Cluster", name, None, opts)
        stack = Stack.of(cluster, secrets)
        child = pulumi.ResourceOptions(parent=self)
        images = find_images(cluster, pulumi.InvokeOptions(parent=self))
        network = ClusterNetwork("network", NetworkArgs(cluster), child) if cluster.needs_openstack else None
        servers = Servers("servers", ServersArgs(cluster, images, network, stack.host_key_seed, stack.ssh_public_key), child)
        bastion = create_bastion(BastionArgs(cluster, images, network, stack.host_key_seed, stack.ssh_public_key), child) if network else None
        with tempfile.TemporaryDirectory() as folder:
            for path, text in scripts.items():
                (Path(folder) / path).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / path).write_text(text)
            load_balancer = LoadBalancer(
                "load-balancer",
                LoadBalancerArgs(cluster, servers.hosts, stack.ssh_private_key, stack.auth_pass, stack.host_key_seed, Path(folder), bastion),
                child,
            )
        self.endpoints = pulumi.Output.from_input(_named(stack.endpoints(network)))
        self.hosts = pulumi.Output.from_input(_named(stack.hosts(servers)))
        self.proofs = pulumi.Output.all(**load_balancer.proofs)
        self.register_outputs({"endpoints": self.endpoints, "hosts": self.hosts, "proofs": self.proofs})


def _named(values: Mapping[str, Mapping[str, Any]]) -> Any:
    """Outputs by the names of the schema, which the SDK of Pulumi leaves alone inside a mapping."""
    return {name: {camel_case(key): each for key, each in value.items() if each is not None} for name, value in values.items()}


def _secrets(cluster: configuration.Cluster, args: Mapping[str, Any]) -> pulumi.Output[Secrets]:
    """The secrets among the arguments. Those that are known are checked at once; one that a preview does not know yet, when it is known."""

    def check(given: list[Any]) -> Secrets:
        return Secrets.check(cluster, given[0], given[1], given[2])

    given = pulumi.Output.all(args.get("ssh_private_key"), args.get("host_key_seed"), args.get("auth_pass", {}))
    # Pulumi's own way to wait for the answer of an invoke; here there is nothing to wait for.
    if known := _sync_await(given.future()):
        check(known)
    return given.apply(check)


def _scripts(cluster: configuration.Cluster, given: Mapping[str, str]) -> Mapping[str, str]:
    """The text of each script that a health check runs. Raises ConfigurationError for one that is not given, or that no check runs."""
    wanted = {
        check.script: f"vips.{name}.services.{index}.health_check.script"
        for name, vip in cluster.vips.items()
        for index, service in enumerate(vip.services)
        if isinstance(check := service.health_check, MiscCheck)
    }
    for script, key in wanted.items():
        if script not in given:
            raise ConfigurationError(f"{key}: {script!r} has no text; give it as check_scripts.{script}")
    for script in given:
        if script not in wanted:
            raise ConfigurationError(f"check_scripts.{script}: no health check runs it; remove it, or name it in a health check of type misc")
    return given
