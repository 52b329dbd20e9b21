"""The stack `nodes`: the article's cluster as hosts that exist, brought up by the same `pulumi up` as anyone's."""

from __future__ import annotations

import copy
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lab import pulumi
from lab.nodes import machine

PROJECT = Path(__file__).parent.parent.parent
NAME = "nodes"
CLUSTER = "openshift-lvs:cluster"
LOGIN_KEY = "openshift-lvs:ssh_private_key"
UP_S = 900


class DeploymentError(RuntimeError):
    """`pulumi up` failed; the text is what it printed."""


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
    _prepare()
    _write({CLUSTER: dict(described or cluster())})
    for vip, password in (auth_pass or {}).items():
        _pulumi("config", "set", "--secret", "--path", f"openshift-lvs:auth_pass.{vip}", stdin=password)
    began = time.monotonic()
    _pulumi("up", "--yes", "--skip-preview")
    return round(time.monotonic() - began, 1)


def forget() -> None:
    """The stack as if it had never been, for nodes that are new."""
    shutil.rmtree(_folder(), ignore_errors=True)


def _prepare() -> None:
    if (_folder() / ".pulumi" / "stacks" / "openshift-lvs" / f"{NAME}.json").exists():
        if list((_folder() / ".pulumi" / "locks").rglob("*.json")):
            _pulumi("cancel", "--yes")
        return
    _folder().mkdir(parents=True, exist_ok=True)
    (_folder() / "passphrase").touch(mode=0o600)
    (_folder() / "passphrase").write_text(secrets.token_hex(16))
    _pulumi("stack", "init", "--no-select")
    _pulumi("config", "set", "--secret", LOGIN_KEY, stdin=machine.KeyPair.kept("login").private)
    _pulumi("config", "set", "--secret", "openshift-lvs:host_key_seed", stdin=secrets.token_hex(32))


def _write(plain: Mapping[str, Any]) -> None:
    held = yaml.safe_load(_configuration().read_text())
    held["config"] |= plain
    _configuration().write_text(yaml.safe_dump(held, sort_keys=False))


def _pulumi(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(_command(*arguments), cwd=PROJECT, env=_environment(), input=stdin, capture_output=True, text=True, timeout=UP_S)
    with (_folder() / "pulumi.log").open("a") as log:
        log.write(f"$ pulumi {' '.join(arguments)}\n{done.stdout}{done.stderr}")
    if done.returncode:
        raise DeploymentError(f"pulumi {arguments[0]}: exit status {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return done.stdout


def _command(*arguments: str) -> list[str]:
    where = ["--config-file", str(_configuration())] if arguments[0] in ("up", "config") else []
    return ["pulumi", *arguments, "--stack", NAME, *where, "--non-interactive", "--color", "never"]


def _environment() -> dict[str, str]:
    return {
        **pulumi.environment(),
        "PULUMI_BACKEND_URL": f"file://{_folder()}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(_folder() / "passphrase"),
        "PULUMI_ERROR_OUTPUT_STRING": "1",
    }


def _folder() -> Path:
    return machine.state() / "stack"


def _configuration() -> Path:
    return _folder() / f"Pulumi.{NAME}.yaml"
