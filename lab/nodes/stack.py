"""The stack `nodes`: the example cluster as hosts that exist, brought up by the same `pulumi up` as anyone's."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from lab import pulumi
from lab.nodes import machine
from lab.stack import CLUSTER, PROJECT, Stack

EXAMPLE = PROJECT / "plugin" / "example"
"""A program in YAML with the same cluster."""
VRRP_WORDS = "openshift-lvs:auth_pass"
"""The VRRP passwords by address."""


def cluster() -> dict[str, Any]:
    """The cluster of Pulumi.nodes.yaml, reached through the running machine's sshd."""
    return describe(machine.port(), lambda name: machine.KeyPair.kept(name).public)


def describe(port: int, host_key: Callable[[str], str]) -> dict[str, Any]:
    """The cluster of Pulumi.nodes.yaml. `port` of 127.0.0.1 leads to the bastion; `host_key` gives the public key of a host, or of the machine."""
    described: dict[str, Any] = yaml.safe_load(machine.STACK_FILE.read_text())["config"][CLUSTER]
    described["ssh"] = {"user": "root", "bastion": {"host": "127.0.0.1", "port": port, "user": "root", "host_key": host_key("machine")}}
    for pool in described["pools"].values():
        pool["hosts"] = {name: {"address": address, "host_key": host_key(name)} for name, address in pool["hosts"].items()}
    return described


def up(described: Mapping[str, Any] | None = None, auth_pass: Mapping[str, str] | None = None, only: str = "", program: Path = PROJECT) -> float:
    """`pulumi up` of that cluster, the example when none is given; its seconds. Raises DeploymentError.

    `only`: a pattern of the resources to bring up to date. `program`: the folder of another release's program.
    """
    stack = _prepare(described or cluster())
    if not auth_pass and VRRP_WORDS in yaml.safe_load(stack.configuration.read_text())["config"]:
        # One that no address uses is refused.
        stack.run("config", "rm", VRRP_WORDS)
    for vip, password in (auth_pass or {}).items():
        stack.run("config", "set", "--secret", "--path", f"{VRRP_WORDS}.{vip}", stdin=password)
    began = time.monotonic()
    stack.run("up", "--yes", "--skip-preview", *(["--target", only] if only else []), folder=program)
    return round(time.monotonic() - began, 1)


def up_example() -> dict[str, Any]:
    """`pulumi up` of the plugin's example on the nodes; the outputs of its stack, which is new each time. Raises DeploymentError.

    The stack has no `destroy`: that would take the installation off nodes which the other stack has as well.
    """
    folder = machine.state() / "example-stack"
    shutil.rmtree(folder, ignore_errors=True)
    stack = Stack("nodes", folder, settings={"PATH": pulumi.environment(yaml=True)["PATH"]}, project=EXAMPLE)
    stack.make()
    described = cluster()
    bastion = {"hostKey" if key == "host_key" else key: value for key, value in described["ssh"]["bastion"].items()}
    keys = {name: host["host_key"] for pool in described["pools"].values() for name, host in pool["hosts"].items()}
    name = yaml.safe_load((EXAMPLE / "Pulumi.yaml").read_text())["name"]
    stack.write({f"{name}:ssh": {**described["ssh"], "bastion": bastion}, f"{name}:hostKeys": keys})
    stack.run("config", "set", "--secret", "sshPrivateKey", stdin=machine.KeyPair.kept("login").private)
    stack.run("up", "--yes", "--skip-preview")
    return stack.outputs()


def operate(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m operations VERB` for the stack as it was deployed last."""
    # Six ssh handshakes at once on two emulated processors, beside the probes, may take longer than the default.
    return _stack().operate(verb, *arguments, "--connect-timeout", "45", identity=machine.state() / "keys" / "login")


@contextmanager
def begun(described: Mapping[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """`pulumi up` of that cluster while it runs, in a session of its own. Whatever is left of it at the end is killed."""
    stack = _prepare(described)
    with Stack(stack.name, stack.folder, prefix=["setsid"]).start("up", "--yes", "--skip-preview") as process:
        try:
            yield process
        finally:
            # The engine puts its plugins into process groups of their own.
            for entry in Path("/proc").glob("[0-9]*/stat"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    # The fourth number after the name, which stands in brackets and may hold anything, is the session.
                    if int(entry.read_text().rpartition(")")[2].split()[3]) == process.pid:
                        os.kill(int(entry.parent.name), signal.SIGKILL)


def forget() -> None:
    """The stack as if it had never been, for nodes that are new."""
    shutil.rmtree(_stack().folder, ignore_errors=True)


def _stack() -> Stack:
    return Stack("nodes", machine.state() / "stack")


def _prepare(described: Mapping[str, Any]) -> Stack:
    stack = _stack()
    stack.prepare(described, machine.KeyPair.kept("login").private)
    return stack
