"""What a stack's configuration holds: the cluster, and the secrets beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pulumi
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from components.bastion import BastionEndpoint
from components.configuration import Cluster, ConfigurationError, UsageError, check_auth_pass, check_keys
from components.configuration.keys import NAMESPACE
from components.configuration.model import endpoint
from components.host_key import check_seed
from components.network import ClusterNetwork
from components.servers import Servers
from components.stack_file import StackFile


@contextmanager
def refusals() -> Iterator[None]:
    """A refusal ends the program with its text alone, with file and line; for every other exception Pulumi prints a traceback."""
    try:
        yield
    except ConfigurationError as refusal:
        raise pulumi.RunError(_located(str(refusal))) from None


def _located(faults: str) -> str:
    """Faults with file and line, if the stack's file is known."""
    file = _file()
    return file.located(faults) if file else faults


def _file() -> StackFile | None:
    """The stack's file in the project's folder. None if there is none, or if it is not what Pulumi read, as with --config-file."""
    path = Path(f"Pulumi.{pulumi.get_stack()}.yaml")
    try:
        file = StackFile.read(path) if path.is_file() else None
    except (ConfigurationError, UsageError):
        return None
    return file if file and file.describes(_json(f"{NAMESPACE}:cluster")) else None


class Secrets(NamedTuple):
    """The secrets beside the cluster, and the public half of the login key. What is known to be wrong has been refused before one exists."""

    ssh_private_key: str
    ssh_public_key: str
    host_key_seed: str
    auth_pass: dict[str, str]

    @classmethod
    def check(cls, cluster: Cluster, ssh_private_key: str | None, host_key_seed: str | None, auth_pass: dict[str, str]) -> Secrets:
        """The secrets of that cluster. Raises ConfigurationError that names the key and the remedy, and quotes no secret."""
        ssh_private_key = _required(ssh_private_key, "ssh_private_key", "the private key that opens the nodes", "< ~/.ssh/id_ed25519")
        ssh_public_key = _public_key(ssh_private_key)
        check_auth_pass(cluster, auth_pass)
        needs_seed = cluster.needs_openstack or any(vip.authentication for vip in cluster.vips.values())
        seed = _required(host_key_seed, "host_key_seed", "the seed of the ssh host keys", '"$(openssl rand -hex 32)"') if needs_seed else ""
        if seed:
            check_seed(seed)
        return cls(ssh_private_key, ssh_public_key, seed, auth_pass)


@dataclass(frozen=True)
class Stack:
    """The cluster and its secrets. Everything that is known to be wrong has been refused before one exists."""

    cluster: Cluster
    ssh_private_key: pulumi.Output[str]
    ssh_public_key: pulumi.Output[str]
    host_key_seed: pulumi.Output[str]
    auth_pass: pulumi.Output[dict[str, str]]

    @classmethod
    def read(cls, config: pulumi.Config) -> Stack:
        """The stack that `pulumi config` describes. Raises ConfigurationError that names the key and the remedy."""
        check_keys({**pulumi.runtime.config.get_config_env(), **pulumi.runtime.config.CONFIG.get()})
        data = _cluster(config)
        if data is None:
            raise ConfigurationError(
                f"{config.name}:cluster: missing; describe the cluster in Pulumi.STACK.yaml (docs/reference/configuration.md has its keys)"
            )
        cluster = Cluster.parse(data)
        # Read in the clear, so that a password that cannot work is refused before the first resource; it goes on as a secret only.
        key, seed = (pulumi.runtime.config.get_config(f"{config.name}:{name}") for name in ("ssh_private_key", "host_key_seed"))
        return cls.of(cluster, Secrets.check(cluster, key, seed, _passwords(config)))

    @classmethod
    def of(cls, cluster: Cluster, secrets: pulumi.Input[Secrets]) -> Stack:
        """The stack of a cluster and its secrets, which go on as secrets from here."""
        for warning in cluster.warnings:
            pulumi.log.warn(_located(warning))
        known = pulumi.Output.secret(0).apply(lambda _: secrets)
        return cls(
            cluster,
            known.apply(lambda each: each.ssh_private_key),
            pulumi.Output.unsecret(known.apply(lambda each: each.ssh_public_key)),
            known.apply(lambda each: each.host_key_seed),
            known.apply(lambda each: each.auth_pass),
        )

    def endpoints(self, network: ClusterNetwork | None) -> dict[str, dict[str, Any]]:
        """Per address: where it is, from outside too, its services, and the worst-case seconds of a takeover, an eviction and a recovery."""
        return {
            name: {
                "address": str(vip.address),
                **({"additional_addresses": [str(address) for address in vip.addresses[1:]]} if vip.addresses[1:] else {}),
                "floating_ip": network.floating_ips.get(name) if network else None,
                "services": [f"{endpoint(vip.address, service.port)}/{service.protocol}" for service in vip.services],
                "owner": vip.owner,
                "takeover_seconds": self.cluster.takeover_seconds(vip),
                "eviction_seconds": vip.eviction_seconds,
                "recovery_seconds": vip.recovery_seconds,
            }
            for name, vip in self.cluster.vips.items()
        }

    def bastion(self, bastion: BastionEndpoint) -> dict[str, Any]:
        """How ssh reaches the bastion that the program created: the keys of `ssh.bastion` for one that exists."""
        return {"host": bastion.host, "port": bastion.port, "user": bastion.user, "host_key": bastion.host_key}

    def hosts(self, servers: Servers) -> dict[str, dict[str, Any]]:
        """Per host: its address, public ssh host key, pool, and what it is: director and real server, or real server only; owner of which addresses."""
        return {
            node.name: {
                "address": str(node.host.address),
                "host_key": servers.hosts[node.name].host_key if node.host.managed else None,
                "pool": node.pool_name,
                "roles": [*(["director"] if node.name in self.cluster.directors(node.pool_name) else []), "real server"],
                "owner_of": [name for name, vip in self.cluster.vips.items() if vip.owner == node.name],
            }
            for node in self.cluster.nodes()
        }


def _cluster(config: pulumi.Config) -> dict[str, Any] | None:
    """The cluster as a mapping, or None when there is none."""
    data = _json(f"{config.name}:cluster")
    return data if isinstance(data, dict) else None


def _json(key: str) -> Any:
    """A value of the configuration, or None if it is no JSON."""
    try:
        return json.loads(pulumi.runtime.config.get_config(key) or "null")
    except json.JSONDecodeError:
        return None


def _required(value: str | None, key: str, what: str, how: str) -> str:
    if not value:
        raise ConfigurationError(f"openshift-lvs:{key}: missing; {what}: pulumi config set --secret openshift-lvs:{key} {how}")
    return value


def _passwords(config: pulumi.Config) -> dict[str, str]:
    """The VRRP passwords by address. What is wrong with them is said without quoting one."""
    key = f"{config.name}:auth_pass"
    try:
        given = json.loads(pulumi.runtime.config.get_config(key) or "{}")
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict) or not all(isinstance(password, str) for password in given.values()):
        raise ConfigurationError(f"{key}: not a text for each address; pulumi config rm {key}, then pulumi config set --secret --path {key}.VIP for each")
    return given


def _public_key(private_key: str) -> str:
    try:
        key = load_ssh_private_key(private_key.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"openshift-lvs:ssh_private_key: not an OpenSSH private key without a passphrase ({error}); ssh-keygen -t ed25519 makes one"
        ) from None
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
