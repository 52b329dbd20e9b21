"""The stack `local`: the program against the cloud of this machine, its state and secrets in the cloud's own folder."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
from collections import deque
from pathlib import Path
from typing import Any

import yaml

from lab import cloud, pulumi
from lab.phases import Phases

PROJECT = Path(__file__).parent.parent
NAME = "local"
CLUSTER = "openshift-lvs:cluster"
SECRETS = ("openshift-lvs:ssh_private_key", "openshift-lvs:host_key_seed")


def folder() -> Path:
    """Where the stack's state and its copy of the configuration live; it goes with the cloud."""
    return cloud.state() / "stack"


def configuration() -> Path:
    """The stack's configuration file: the committed one, with the bastion's host key and the secrets of this machine."""
    return folder() / f"Pulumi.{NAME}.yaml"


def log() -> Path:
    """Everything that pulumi said."""
    return folder() / "pulumi.log"


def command(*arguments: str) -> list[str]:
    """The argument vector that runs pulumi where the cloud's endpoints are."""
    return [*cloud.enter(), "pulumi", *arguments]


def environment() -> dict[str, str]:
    """The environment of that: the engine, the stack's backend and passphrase, the tenant's credentials."""
    return {
        **os.environ,
        **pulumi.environment(),
        "PULUMI_BACKEND_URL": f"file://{folder()}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(folder() / "passphrase"),
        "PULUMI_ERROR_OUTPUT_STRING": "1",
        "OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml()),
    }


def prepare(phases: Phases) -> None:
    """Make the stack if it is not there, and bring its configuration up to the committed one. Safe to run again."""
    folder().mkdir(parents=True, exist_ok=True)
    passphrase = folder() / "passphrase"
    if not passphrase.exists():
        passphrase.touch(mode=0o600)
        passphrase.write_text(secrets.token_hex(16))
    _merge_configuration()
    if not (folder() / ".pulumi" / "stacks" / "openshift-lvs" / f"{NAME}.json").exists():
        # It writes the configuration file of the project it runs in: a copy beside ours, so that the checkout stays as it is.
        (folder() / "Pulumi.yaml").write_text((PROJECT / "Pulumi.yaml").read_text())
        run("stack", "init", NAME, "--no-select", "--cwd", str(folder()), phases=phases)
    # An engine that was killed leaves its lock; whoever runs this holds the lab's own.
    if list((folder() / ".pulumi" / "locks").rglob("*.json")):
        run("cancel", "--yes", "--stack", NAME, phases=phases)
    held = yaml.safe_load(configuration().read_text())["config"]
    for key, value in ((SECRETS[0], cloud.operator_key().read_text()), (SECRETS[1], secrets.token_hex(32))):
        if key not in held:
            run("config", "set", "--secret", key, "--stack", NAME, "--config-file", str(configuration()), phases=phases, stdin=value)


def up(phases: Phases) -> dict[str, Any]:
    """`pulumi up`; the stack's outputs."""
    run("up", "--yes", "--skip-preview", "--stack", NAME, "--config-file", str(configuration()), phases=phases)
    return outputs(phases)


def outputs(phases: Phases) -> dict[str, Any]:
    """The stack's outputs, kept for `ssh`."""
    text = run("stack", "output", "--json", "--stack", NAME, phases=phases)
    (folder() / "outputs.json").write_text(text)
    values: dict[str, Any] = json.loads(text)
    return values


def run(*arguments: str, phases: Phases, stdin: str | None = None) -> str:
    """Run pulumi and return what it printed; its last line is the phase's sign of life. Raises RuntimeError with the end of its log."""
    said: list[str] = []
    end: deque[str] = deque(maxlen=40)
    with log().open("a") as file:
        file.write(f"$ pulumi {' '.join(arguments)}\n")
        process = subprocess.Popen(
            [*command(*arguments), "--non-interactive", "--color", "never"],
            cwd=PROJECT,
            env=environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin and process.stdout
        process.stdin.write(stdin or "")
        process.stdin.close()
        for line in process.stdout:
            file.write(line)
            said.append(line)
            if line.strip():
                end.append(line)
                phases.note(line.strip()[:120])
    if process.wait():
        raise RuntimeError(f"pulumi {arguments[0]} failed ({log()}):\n{''.join(end)}")
    return "".join(said)


def _merge_configuration() -> None:
    wanted = yaml.safe_load((PROJECT / f"Pulumi.{NAME}.yaml").read_text())
    wanted["config"][CLUSTER]["ssh"]["bastion"]["host_key"] = cloud.bastion_host_key()
    held = yaml.safe_load(configuration().read_text()) if configuration().exists() else {}
    if "encryptionsalt" in held:
        wanted["encryptionsalt"] = held["encryptionsalt"]
        wanted["config"] |= {key: value for key, value in held["config"].items() if key in SECRETS}
    text = yaml.safe_dump(wanted, sort_keys=False)
    if not configuration().exists() or configuration().read_text() != text:
        part = configuration().with_suffix(".part")
        part.write_text(text)
        part.rename(configuration())


def ssh(host: str, *command: str) -> list[str]:
    """The argument vector of a shell, or of `command`, on a node: through the bastion, host keys verified."""
    hosts = json.loads((folder() / "outputs.json").read_text())["hosts"]
    if host not in hosts:
        raise RuntimeError(f"ssh: {host!r} is not a host of the stack; it has {', '.join(hosts)}")
    known = folder() / "known_hosts"
    bastion = f"[127.0.0.1]:{cloud.BASTION_PORT}"
    keys = {bastion: cloud.bastion_host_key(), **{h["address"]: h["host_key"] for h in hosts.values()}}
    known.write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
    options = [f"-oUserKnownHostsFile={known}", "-oStrictHostKeyChecking=yes", "-oLogLevel=ERROR", f"-oIdentityFile={cloud.operator_key()}"]
    proxy = shlex.join(["ssh", *options, "-W%h:%p", "-p", str(cloud.BASTION_PORT), "root@127.0.0.1"])
    return [*cloud.enter(), "ssh", "-F/dev/null", *options, f"-oProxyCommand={proxy}", f"root@{hosts[host]['address']}", *command]
