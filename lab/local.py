"""The stack `local`: the example cluster on the cloud of this machine. Its state goes with the cloud."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from lab import cloud
from lab.stack import CLUSTER, PROJECT, DeploymentError, Stack

CONFIGURATION = Path(__file__).parent / "Pulumi.local.yaml"
CREDENTIALS = "openstack:cloud"


def stack() -> Stack:
    """The stack, run where the cloud's endpoints are, as the tenant's ordinary user."""
    return Stack("local", cloud.state() / "stack", cloud.enter(), {"OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml())})


def prepare() -> Stack:
    """The stack, made if need be, with the committed configuration and this machine's bastion key."""
    committed: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())["config"]
    committed[CLUSTER]["ssh"]["bastion"]["host_key"] = cloud.bastion_host_key()
    local = stack()
    local.prepare(committed[CLUSTER], cloud.operator_key().read_text(), {CREDENTIALS: committed[CREDENTIALS]})
    deployment = json.loads(local.run("stack", "export"))["deployment"]
    if deployment.get("pending_operations"):
        _clear_interrupted(local, [resource["id"] for resource in deployment.get("resources", []) if "id" in resource])
    return local


def _clear_interrupted(local: Stack, known: list[str]) -> None:
    """Creates that an engine began and did not live to write down: take away what came of them, and forget them."""
    command = [*cloud.enter(), sys.executable, "-m", "lab.leftovers"]
    done = subprocess.run(command, cwd=PROJECT, env=local.environment(), input=json.dumps(known), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with local.log.open("a") as log:
        log.write(f"$ python -m lab.leftovers\n{done.stdout}")
    if done.returncode:
        raise DeploymentError(f"what an interrupted run left could not be deleted ({local.log}):\n{done.stdout[-2000:]}")
    local.run("refresh", "--yes", "--skip-preview", "--clear-pending-creates")


def ssh(host: str, *command: str) -> list[str]:
    """The argument vector of a shell, or of `command`, on a node: through the bastion, host keys verified."""
    hosts = json.loads(_hosts().read_text()) if _hosts().exists() else {}
    if host not in hosts:
        raise DeploymentError(f"ssh: {host!r} is not a host that make up made; it made {', '.join(hosts) or 'none yet'}")
    options = [f"-oUserKnownHostsFile={_known_hosts()}", "-oStrictHostKeyChecking=yes", "-oLogLevel=ERROR", f"-oIdentityFile={cloud.operator_key()}"]
    proxy = shlex.join(["ssh", "-F/dev/null", *options, "-W[%h]:%p", "-p", str(cloud.BASTION_PORT), "root@127.0.0.1"])
    return [*cloud.enter(), "ssh", "-F/dev/null", *options, f"-oProxyCommand={proxy}", f"root@{hosts[host]}", *command]


def remember(outputs: dict[str, Any]) -> None:
    """Keep what `ssh` needs of the stack's outputs."""
    hosts = outputs["hosts"]
    keys = {f"[127.0.0.1]:{cloud.BASTION_PORT}": cloud.bastion_host_key(), **{host["address"]: host["host_key"] for host in hosts.values()}}
    _known_hosts().write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
    _hosts().write_text(json.dumps({name: host["address"] for name, host in hosts.items()}))


def _known_hosts() -> Path:
    return stack().folder / "known_hosts"


def _hosts() -> Path:
    return stack().folder / "hosts.json"
