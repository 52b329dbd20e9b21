"""What an experiment is made of: a scene, steps with an event each, and what must hold in them."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from components import keepalived
from components.configuration import Cluster
from lab.nodes import machine, probe, stack
from lab.nodes.probe import Target

PROGRAM = "openshift-lvs"
LVS = f"/usr/local/sbin/{PROGRAM}"
"""The program on a node."""
NOW = "date +%s.%N >&3"
"""Tells the moment of an event (`probe.at`)."""
RUNS = 3
CRASH_RUNS = 10

Description = dict[str, Any]
"""A cluster as a stack's configuration says it."""
Change = Callable[[Description], None]


class Bound(NamedTuple):
    """What must hold; None says that there is no such bound. Every bound forbids loops, but for a row that is only reported."""

    text: str
    failed: int | None = 0
    least: int = 1
    """Fewest requests that the step must make: with fewer, `0 failed` shows nothing."""
    refused: int = 0
    """So many more may be refused."""
    may_lose_streams_of: tuple[str, ...] = ()
    """The hosts whose streams may end, or `*` for every stream. A stream that never had an answer belongs to no host, so only `*` allows it."""
    gap_s: float | None = None
    quiet_after_s: float | None = None
    one_owner_after_s: float | None = None
    tables_after_s: float | None = None
    """Until every director's table shows what is so."""
    tables_wrong_s: float | None = None
    """For so long in one piece a director's table may show what is not so, whenever that is."""
    every_server: bool = False
    never_silent: bool = False
    """A request may be refused, but is not left waiting."""
    waiting: int = 0
    """So many may be left waiting all the same."""
    never_refused: bool = False
    """A request may be left waiting for a moment, but is not refused."""
    only: str = ""
    """Count the failures of these requests only."""
    reported: bool = False


@dataclass
class Scene:
    """An experiment while it runs. `described` is the configuration that the nodes have."""

    target: Target
    owner: str
    backup: str
    described: Description = field(default_factory=stack.cluster)
    auth_pass: Mapping[str, str] = field(default_factory=dict)
    moment: float = 0.0
    told: list[str] = field(default_factory=list)
    """What a step has to report besides what the probes saw."""

    @property
    def cluster(self) -> Cluster:
        """What the nodes are now."""
        return _parsed(json.dumps(self.described))

    def live(self, out: str | None = None, *, off: str | None = None, port: int | None = None) -> dict[str, int]:
        """Live servers in the table of each host of the address's pool, when `out` is out of rotation (on one port) and `off` is no node at all."""
        cluster, pool = self.cluster, self.cluster.vips[self.target.vip].pool
        count = 0
        for service in (service for vip in cluster.vips_of(pool).values() for service in vip.services):
            gone = {off, out if port in (None, service.port) else None}
            up = sum(service.weight(host) > 0 and host not in gone for host in cluster.pools[pool].hosts)
            count += up or int(bool(service.sorry_server))
        return {node: count for node in cluster.pools[pool].hosts if node != off}

    def do(self, *command: str) -> None:
        """The event, as a command in the machine; bounds count from its moment."""
        self.moment = probe.at(*command)

    def on(self, node: str, script: str) -> None:
        """The event, as a shell script on a node: it begins when the node's shell does, or at the last moment that the script tells."""
        self.do("lab", "exec", node, "sh", "-euc", f"{NOW}; {script}")

    def journal(self, node: str, form: str = "cat") -> str:
        """What the program wrote to the journal of a node since the event, as `journalctl --output` names the form."""
        return machine.run("lab", "exec", node, "journalctl", f"--identifier={PROGRAM}", f"--output={form}", f"--since=@{int(self.moment)}").stdout

    def deploy(self, change: Change, auth_pass: Mapping[str, str] | None = None) -> None:
        """The event, as a change of the configuration through `pulumi up`."""
        change(self.described)
        self.auth_pass = auth_pass or self.auth_pass
        self.moment = probe.now()
        stack.up(self.described, self.auth_pass)

    def changed(self, change: Change) -> Description:
        """What the configuration would be; the scene keeps the one that it has."""
        described = copy.deepcopy(self.described)
        change(described)
        return described

    def not_in_force(self, but: str = "") -> Iterable[str]:
        """The hosts, but one, that have another version in force than this scene's configuration makes, or stand back from an address, in words."""
        for node in self.cluster.nodes():
            if node.name != but:
                wanted = keepalived.version(keepalived.render(self.cluster, node.name))
                if (found := in_force(node.name)) != wanted:
                    yield f"{node.name} has {found} in force, not {wanted}"
                if behind := stands_back(node.name):
                    yield f"{node.name} has a lowered priority: {behind}"


@dataclass(frozen=True)
class Step:
    """An event under the probes. `live` is how many servers each director that is on must have in its table at the end."""

    name: str
    kind: str
    act: Callable[[Scene], None]
    bound: Callable[[Scene], Bound]
    live: Callable[[Scene], dict[str, int]] = lambda scene: scene.live()
    asked_from: Callable[[Scene], str | None] = lambda scene: None
    port: int | None = None
    """The port to ask, when it is not the target's."""
    udp: bool = False
    """Whether it is asked by datagrams."""
    evidence: Callable[[Scene], Iterable[str]] = lambda scene: ()
    """What else must be so at the end, and is not, in words."""


@dataclass(frozen=True)
class Experiment:
    """Steps in one scene; the last of them leaves everything in order. The rest is done before and after, outside the probes."""

    target: Target
    steps: tuple[Step, ...]
    arrange: Change | None = None
    """Another configuration than the example cluster's, for as long as the experiment lasts."""
    auth_pass: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    """A shell script in the machine; `after` undoes it."""
    after: str = ""
    cluster: bool = False
    """Whether it needs the programs that a cluster's nodes run."""

    @property
    def name(self) -> str:
        """The name of its first step."""
        return self.steps[0].name

    @property
    def runs(self) -> int:
        """How often it is repeated unless told otherwise."""
        return CRASH_RUNS if any(step.kind.endswith("crash") for step in self.steps) else RUNS


def in_force(node: str) -> str:
    """The version that a node runs."""
    return machine.run("lab", "exec", node, "readlink", "/etc/keepalived/current").stdout.strip().removeprefix("versions/")


def files_in_force(node: str) -> str:
    """The version that a node runs, and a digest of each file of it. Files of the program are named by its folder's link."""
    links, files = "find . -type l -printf '%p -> %l\\n' | sort", "find . -type f -exec sha256sum {} + | sort -k 2"
    script = f"readlink /etc/keepalived/current; cd /etc/keepalived/current/; {links}; {files}"
    return machine.run("lab", "exec", node, "sh", "-euc", script).stdout


def stands_back(node: str) -> str:
    """What lowers a node's priorities, as `FILE:WEIGHT`; nothing on one that sees its servers and is not drained."""
    files = "/run/openshift-lvs/view-* /run/openshift-lvs/drain-*"
    return " ".join(machine.run("lab", "exec", node, "sh", "-c", f"grep -vx 0 {files} /dev/null || true").stdout.split())


def verified(_: Scene) -> Iterable[str]:
    """What `operations verify` finds wrong, in words."""
    done = stack.operate("verify")
    if done.returncode:
        yield f"operations verify: {[line for line in done.stdout.splitlines() if not line.startswith('ok ')] or done.stderr[-500:]}"


def verify_says(said: str) -> Iterable[str]:
    """What is wrong unless `operations verify` fails, and says this."""
    done = stack.operate("verify")
    if not done.returncode or said not in done.stdout:
        yield f"operations verify does not say {said!r}: {done.stdout[-500:]}{done.stderr[-500:]}"


def on_owner(script: str) -> Callable[[Scene], None]:
    """A script on the node that held the address when the experiment began."""
    return lambda scene: scene.on(scene.owner, script)


def on_backup(script: str) -> Callable[[Scene], None]:
    """A script on a director that did not hold it."""
    return lambda scene: scene.on(scene.backup, script)


def switch(verb: str, how: str = "") -> Callable[[Scene], None]:
    """A switch of the lab's, on the owner."""
    return lambda scene: scene.do("lab", verb, scene.owner, *([how] if how else []))


def owner_off(scene: Scene) -> dict[str, int]:
    """The tables of the others when the owner is gone."""
    return scene.live(off=scene.owner)


def owner_out(scene: Scene) -> dict[str, int]:
    """The tables when the owner gets no connections."""
    return scene.live(scene.owner)


def backup_out(scene: Scene) -> dict[str, int]:
    """The tables when the backup gets no connections."""
    return scene.live(scene.backup)


def service(described: Description, vip: str = "master", index: int = 0) -> Description:
    """A service of an address."""
    found: Description = described["vips"][vip]["services"][index]
    return found


def two_directors(described: Description) -> None:
    """Three servers, and two of them directors."""
    described["pools"]["master"]["directors"] = ["master0", "master1"]


@functools.lru_cache(maxsize=8)
def _parsed(described: str) -> Cluster:
    return Cluster.parse(json.loads(described))
