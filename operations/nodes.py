"""The nodes as an operator's machine reaches them: the OpenSSH client, through the bastion, every host key known before.

What the user's agent and ssh configuration offer counts, or one identity file. Nothing secret is written or passed on a command line.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from components.configuration import Cluster
from components.configuration.ssh import Bastion
from node.openshift_lvs.commands import PROGRAM, USAGE
from node.openshift_lvs.state import EXECUTABLE

CONNECT_SECONDS = 10
"""Also how long `status` waits for a host that is gone, unless `--connect-timeout` says otherwise."""
COMMAND_SECONDS = 60
UNREACHED = 255
"""The exit status of ssh itself (ssh(1))."""
NO_PROGRAM = 127
"""The exit status of a shell that does not find a program; sudo says so in words."""
_SOCKET = "to-"
_BASTION = "_bastion"

Outputs = dict[str, dict[str, Any]]
"""The outputs of a stack, by name."""


class NodesError(Exception):
    """The nodes cannot be asked at all. The text says what is missing and where it comes from."""


@dataclass(frozen=True)
class Answer:
    """The output of a command on a node. `fault` is None when it succeeded, else one line that says why not; `reached` is False when it did not run."""

    said: str
    fault: str | None = None
    reached: bool = True


class Nodes:
    """The hosts of a cluster, asked in parallel."""

    def __init__(
        self,
        cluster: Cluster,
        host_keys: Mapping[str, str],
        folder: Path,
        identity: Path | None = None,
        created_bastion: Bastion | None = None,
        connect_seconds: int = CONNECT_SECONDS,
    ) -> None:
        self._cluster, self._identity, self._folder, self._connect_seconds = cluster, identity, folder, connect_seconds
        self._bastion = created_bastion or cluster.ssh.bastion
        self._known_hosts = folder / "known_hosts"
        keys = dict(host_keys)
        if (bastion := self._bastion) and bastion.host_key:
            keys[f"[{bastion.host}]:{bastion.port}" if bastion.port != 22 else str(bastion.host)] = bastion.host_key
        self._known_hosts.write_text("".join(f"{name} {key}\n" for name, key in keys.items()))

    def ask(self, hosts: Iterable[str], verb: str, *arguments: str) -> dict[str, Answer]:
        """Run a command of `openshift-lvs` on these hosts at once; the answer of each."""
        return self.ask_each(dict.fromkeys(hosts, (verb, *arguments)))

    def ask_each(self, questions: Mapping[str, tuple[str, ...]]) -> dict[str, Answer]:
        """Run a command of `openshift-lvs`, with its own arguments on each of these hosts, at once."""
        with ThreadPoolExecutor(max_workers=16) as pool:
            return dict(zip(questions, pool.map(lambda host: self._ask(host, *questions[host]), questions), strict=True))

    def command(self, host: str, *words: str) -> list[str]:
        """The argument vector that runs a command as root on a host."""
        ssh, node = self._cluster.ssh, self._cluster.node(host)
        user = self._cluster.ssh_user(node)
        line = shlex.join(words if user == "root" else ["sudo", "-n", *words])
        proxy = []
        if self._bastion:
            login = self._bastion.user or ssh.bastion_user
            # With brackets, which ssh wants around an IPv6 address and takes around any other.
            jump = ["ssh", *self._options(_BASTION), "-W[%h]:%p", "-p", str(self._bastion.port), f"{login}@{self._bastion.host}"]
            proxy = [f"-oProxyCommand={shlex.join(jump)}"]
        # By its name in known_hosts: an address may have been another host's.
        target = [f"-oHostKeyAlias={host}", "-p", str(ssh.port), f"{user}@{node.ssh_address}"]
        return ["ssh", *self._options(host), *proxy, *target, line]

    def close(self) -> None:
        """End the connections, which are kept from one question to the next."""
        for socket in self._folder.glob(f"{_SOCKET}*"):
            subprocess.run(["ssh", f"-oControlPath={socket}", "-O", "exit", "node"], capture_output=True)

    def _options(self, name: str) -> list[str]:
        options = ["BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={self._known_hosts}", "GlobalKnownHostsFile=/dev/null"]
        options += ["LogLevel=ERROR", f"ConnectTimeout={self._connect_seconds}"]
        options += ["ControlMaster=auto", f"ControlPersist={COMMAND_SECONDS}", f"ControlPath={self._folder}/{_SOCKET}{_short(name)}"]
        if self._identity:
            options += [f"IdentityFile={self._identity}", "IdentitiesOnly=yes"]
        return [f"-o{option}" for option in options]

    def _ask(self, host: str, verb: str, *arguments: str) -> Answer:
        try:
            done = subprocess.run(
                self.command(host, EXECUTABLE, verb, *arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                # A host may speak another encoding, for example in the messages of its sudo.
                errors="replace",
                timeout=self._connect_seconds + COMMAND_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return Answer("", f"no end of {verb} after {COMMAND_SECONDS} s", reached=False)
        except FileNotFoundError:
            raise NodesError("ssh: not on this machine; install the OpenSSH client") from None
        words = (done.stderr or done.stdout).strip().splitlines()
        if done.returncode == 0:
            return Answer(done.stdout)
        if done.returncode == UNREACHED:
            return Answer(done.stdout, _unreached(str(self._cluster.node(host).ssh_address), words), reached=False)
        if _lacks_command(done):
            return Answer(done.stdout, f"has no {verb}: what is installed there is older than this; pulumi up")
        return Answer(done.stdout, "; ".join(words) or f"{verb}: exit status {done.returncode}")


def looks(ends: float) -> Iterator[int]:
    """The numbers of looks at the nodes: one at least, then one a second until the deadline, a time of `time.monotonic`."""
    for turn in count():
        yield turn
        if time.monotonic() >= ends:
            return
        time.sleep(1)  # between two looks


def _short(name: str) -> str:
    """A name for the path of a socket, which has 107 characters at most (unix(7)); ssh adds 17 to it while it connects."""
    return name if len(name) <= 32 else hashlib.sha256(name.encode()).hexdigest()[:32]


def _lacks_command(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a host has no program yet, or one that does not know the command or its arguments."""
    if done.returncode == NO_PROGRAM or f"{EXECUTABLE}: command not found" in done.stderr:
        return True
    return done.returncode == USAGE and done.stderr.startswith((f"{PROGRAM}: ", f"usage: {PROGRAM} "))


@contextmanager
def reach(cluster: Cluster, stack: str, root: Path, identity: Path | None, connect_seconds: int = CONNECT_SECONDS) -> Iterator[Nodes]:
    """The cluster's nodes, while the context lasts. Raises NodesError when a host key cannot be had."""
    with tempfile.TemporaryDirectory(prefix="openshift-lvs-") as folder:
        # pulumi takes more than a second to start, and an existing host needs nothing of it.
        outputs = cache(lambda: _outputs(stack, root))
        nodes = Nodes(cluster, _host_keys(cluster, stack, outputs), Path(folder), identity, _created_bastion(cluster, stack, outputs), connect_seconds)
        try:
            yield nodes
        finally:
            nodes.close()


def _host_keys(cluster: Cluster, stack: str, outputs: Callable[[], Outputs]) -> dict[str, str]:
    """Of existing hosts as configured; of those that the program made, from its outputs: they are derived from a secret."""
    known = {host: cluster.node(host).host.host_key for host in cluster.managed()}
    if None in known.values():
        hosts = outputs().get("hosts", {})
        for host, key in known.items():
            known[host] = key or hosts.get(host, {}).get("host_key")
    lacking = [host for host, key in known.items() if not key]
    if lacking:
        raise NodesError(f"{', '.join(lacking)}: not in the outputs of stack {stack!r}, so not created yet; run pulumi up --stack {stack}")
    return {host: key for host, key in known.items() if key}


def _created_bastion(cluster: Cluster, stack: str, outputs: Callable[[], Outputs]) -> Bastion | None:
    """The bastion that the program created, from its outputs."""
    if not cluster.ssh.creates_bastion:
        return None
    if not (given := outputs().get("bastion")):
        raise NodesError(f"bastion: not in the outputs of stack {stack!r}, so not created yet; run pulumi up --stack {stack}")
    return Bastion.model_validate(given)


def _outputs(stack: str, root: Path) -> Outputs:
    command = ["pulumi", "stack", "output", "--json", "--stack", stack, "--non-interactive"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except FileNotFoundError:
        raise NodesError("pulumi: not on this machine, and the stack's outputs have the host keys of created servers; install the Pulumi CLI") from None
    except subprocess.TimeoutExpired:
        raise NodesError(f"pulumi stack output: no end after {COMMAND_SECONDS} s") from None
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise NodesError(
            f"pulumi stack output: {said}; the outputs have the host keys of created servers: check pulumi login, PULUMI_CONFIG_PASSPHRASE and pulumi stack ls"
        )
    outputs: Outputs = json.loads(done.stdout)
    return outputs


def _unreached(address: str, words: list[str]) -> str:
    said = "; ".join(word.strip() for word in words if word.strip() and not word.startswith(("@", "*")))
    if "Host key verification failed" in said or "host key" in said.lower():
        return f"{address} does not have the host key that is known: either another machine answers there, or its key was changed; find out which"
    if "timed out" in said:
        said += "; for a slow host or network set a longer --connect-timeout"
    remedy = "; the key is --identity FILE or what the agent offers, the user is ssh.user" if "Permission denied" in said else ""
    return f"not reachable at {address}: {said or 'ssh said nothing'}{remedy}"
