"""A stack of the program whose state, secrets and log are a folder of the lab's."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lab import pulumi

PROJECT = Path(__file__).parent.parent
CLUSTER = "openshift-lvs:cluster"
LOGIN_KEY = "openshift-lvs:ssh_private_key"
HOST_KEY_SEED = "openshift-lvs:host_key_seed"
OPERATION_S = 180


class DeploymentError(RuntimeError):
    """Pulumi failed; the text is the end of what it printed."""


class Stack:
    """The stack `name` of a project, run by the command `prefix` + pulumi, with `settings` beside the engine's environment."""

    def __init__(self, name: str, folder: Path, prefix: Sequence[str] = (), settings: Mapping[str, str] | None = None, project: Path = PROJECT) -> None:
        self.name, self.folder, self._prefix, self._settings, self._project = name, folder, list(prefix), dict(settings or {}), project

    @property
    def configuration(self) -> Path:
        """The configuration that counts, secrets included; nothing is written into the project's folder."""
        return self.folder / f"Pulumi.{self.name}.yaml"

    @property
    def log(self) -> Path:
        """Everything that pulumi said."""
        return self.folder / "pulumi.log"

    def command(self, *arguments: str) -> list[str]:
        """The argument vector of `pulumi ARGUMENTS` for this stack."""
        where = ["--config-file", str(self.configuration)] if arguments[0] in ("up", "config", "preview", "destroy", "refresh") else []
        return [*self._prefix, "pulumi", *arguments, "--stack", self.name, *where]

    def environment(self) -> dict[str, str]:
        """The environment of that."""
        return {
            **os.environ,
            **pulumi.environment(),
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(self.folder / "passphrase"),
            "PULUMI_ERROR_OUTPUT_STRING": "1",
            **self._settings,
        }

    def prepare(self, cluster: Mapping[str, Any], login_key: str, plain: Mapping[str, str] | None = None) -> None:
        """Make the stack if it is not there, and bring its configuration up to what is given. Safe to run again, and after a killed run."""
        self.make()
        self.write({**(plain or {}), CLUSTER: cluster})
        held = yaml.safe_load(self.configuration.read_text())["config"]
        for key, value in ((LOGIN_KEY, login_key), (HOST_KEY_SEED, secrets.token_hex(32))):
            if key not in held:
                self.run("config", "set", "--secret", key, stdin=value)

    def make(self) -> None:
        """Make the stack if it is not there. Safe to run again, and after a killed run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        passphrase = self.folder / "passphrase"
        if not passphrase.exists():
            passphrase.touch(mode=0o600)
            passphrase.write_text(secrets.token_hex(16))
        described = (self._project / "Pulumi.yaml").read_text()
        if not (self.folder / ".pulumi" / "stacks" / yaml.safe_load(described)["name"] / f"{self.name}.json").exists():
            # In a folder of its own: `stack init` writes the salt of its secrets beside the project file.
            (self.folder / "Pulumi.yaml").write_text(described)
            self.run("stack", "init", "--no-select", folder=self.folder)
        # An engine that was killed leaves its lock; whoever runs this holds the lab's own.
        if list((self.folder / ".pulumi" / "locks").rglob("*.json")):
            self.run("cancel", "--yes")

    def write(self, plain: Mapping[str, Any]) -> None:
        """Put these keys into the configuration; the others and the secrets stay."""
        held = (yaml.safe_load(self.configuration.read_text()) if self.configuration.exists() else None) or {}
        wanted = {**held, "config": {**held.get("config", {}), **plain}}
        if wanted != held:
            part = self.configuration.with_suffix(".part")
            part.write_text(yaml.safe_dump(wanted, sort_keys=False))
            part.rename(self.configuration)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs."""
        values: dict[str, Any] = json.loads(self.run("stack", "output", "--json"))
        return values

    def start(self, *arguments: str, folder: Path | None = None) -> subprocess.Popen[str]:
        """Start pulumi, its output in one pipe."""
        return subprocess.Popen(
            [*self.command(*arguments), "--non-interactive", "--color", "never"],
            cwd=folder or self._project,
            env=self.environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *arguments: str, stdin: str = "", folder: Path | None = None, note: Callable[[str], None] = lambda line: None) -> str:
        """Run pulumi and return what it printed; `note` sees every line. Raises DeploymentError with the end of it."""
        said: list[str] = []
        end: deque[str] = deque(maxlen=40)
        with self.log.open("a") as log, self.start(*arguments, folder=folder) as process:
            log.write(f"$ pulumi {' '.join(arguments)}\n")
            assert process.stdin and process.stdout
            process.stdin.write(stdin)
            process.stdin.close()
            for line in process.stdout:
                log.write(line)
                log.flush()
                said.append(line)
                # A line of dots says that the engine waits.
                if line.strip() and not line.startswith("@ "):
                    end.append(line)
                    note(line.strip()[:120])
        if process.returncode:
            raise DeploymentError(f"pulumi {arguments[0]} failed ({self.log}):\n{_diagnostics(''.join(said)) or ''.join(end)}")
        return "".join(said)

    def operate(self, verb: str, *arguments: str, identity: Path) -> subprocess.CompletedProcess[str]:
        """`python -m operations VERB` for the stack as it was deployed last, as its operator would."""
        where = ["--stack", self.name, "--config-file", str(self.configuration), "--identity", str(identity)]
        command = [*self._prefix, sys.executable, "-m", "operations", verb, *arguments, *where]
        return subprocess.run(command, cwd=PROJECT, env=self.environment(), capture_output=True, text=True, timeout=OPERATION_S)


def _diagnostics(said: str) -> str:
    """What the engine says went wrong: the text under its last `Diagnostics:`, without the outputs and counts that follow."""
    _, found, rest = said.rpartition("\nDiagnostics:\n")
    return re.split(r"^(?:Outputs|Resources):", rest, maxsplit=1, flags=re.MULTILINE)[0].rstrip() if found else ""
