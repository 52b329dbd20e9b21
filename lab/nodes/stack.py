"""The stack `nodes`: the article's cluster as hosts that exist, brought up by the same `pulumi up` as anyone's."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Mapping
from typing import Any

import yaml

from lab.nodes import machine
from lab.stack import CLUSTER, PROJECT, Stack


def cluster() -> dict[str, Any]:
    """The cluster of Pulumi.dev.yaml on the lab's nodes: existing hosts behind the machine's sshd."""
    committed: dict[str, Any] = yaml.safe_load((PROJECT / "Pulumi.dev.yaml").read_text())["config"][CLUSTER]
    described = copy.deepcopy(committed)
    del described["network"]["external"]
    bastion = {"host": "127.0.0.1", "port": machine.port(), "user": "root", "host_key": machine.KeyPair.kept("machine").public}
    described["ssh"] = {"user": "root", "bastion": bastion}
    for pool in described["pools"].values():
        del pool["image"], pool["flavor"]
        pool["existing"] = True
        pool["hosts"] = {name: {"address": address, "host_key": machine.KeyPair.kept(name).public} for name, address in pool["hosts"].items()}
    return described


def up(described: Mapping[str, Any] | None = None, auth_pass: Mapping[str, str] | None = None) -> float:
    """`pulumi up` of that cluster, the article's when none is given; its seconds. Raises DeploymentError."""
    stack = _prepare(described or cluster())
    for vip, password in (auth_pass or {}).items():
        stack.run("config", "set", "--secret", "--path", f"openshift-lvs:auth_pass.{vip}", stdin=password)
    began = time.monotonic()
    stack.run("up", "--yes", "--skip-preview")
    return round(time.monotonic() - began, 1)


def forget() -> None:
    """The stack as if it had never been, for nodes that are new."""
    shutil.rmtree(_stack().folder, ignore_errors=True)


def _stack() -> Stack:
    return Stack("nodes", machine.state() / "stack")


def _prepare(described: Mapping[str, Any]) -> Stack:
    stack = _stack()
    stack.prepare(described, machine.KeyPair.kept("login").private)
    return stack
