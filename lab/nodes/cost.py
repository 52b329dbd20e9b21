"""What balancing costs: requests and processor time with the rules in force and with those of a former release; and the resident process.

Requests are made in a closed loop by one client, each on a connection of its own. Both sets of rules are measured in turn in one boot, because
two boots of an emulated machine differ by more than the rules do.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2

from components.configuration import Cluster
from lab.nodes import machine, runner
from lab.nodes.experiments.releases import scripts_release
from lab.nodes.experiments.scene import Change, Description, Experiment, service
from lab.nodes.probe import CLIENTS, FAST_MS, MASTER, Probe

SERVICES = (1, 50)
"""So many services the VIP has: those of the example cluster, or these with more ports."""
FIRST_PORT = 9001
RARE_S = 20
"""Seconds between two health checks of one server, with many services: 50 services at the default pace are more than emulated processors check."""
CONNECTIONS = 16
"""In flight at a time: enough that both processors are always busy."""
SECONDS = 4.0
WARM_UP_S = 1.0
PAIRS = 9
MOST_CHANGE = 0.05
"""How much worse a median may be than before."""
CONNTRACK = "net.ipv4.vs.conntrack"
TRACKING = "table ip cost { chain tracking { type filter hook prerouting priority 0; ct state new counter; }; }\n"
"""A rule that asks for connection tracking, without which the sysctl changes nothing."""
NO_TRACKING = "table ip cost\ndelete table ip cost\n"
RULES_IN_FORCE = "/etc/keepalived/current/lvs.nft"
WATCH = "openshift-lvs-watch"
WATCHED_S = 60
TICKS_A_SECOND = 100
MOST_SHARE, MOST_MB = 0.01, 25
"""Of one processor when idle, and of memory."""


@dataclass(frozen=True)
class Load:
    """What one closed loop came to.

    Seconds of both processors of the machine, of the kernel among them, and of the process that emulates the machine; and the millions of instructions
    that an emulated machine executed.
    """

    requests: int
    failures: Mapping[str, int]
    servers: Mapping[str, int]
    seconds: float
    busy: float
    kernel: float
    emulator: float = 0.0
    instructions: float = 0.0


class Quantity(NamedTuple):
    """What is compared. `bounded`: 1 where more is worse, -1 where less is, 0 where it is only reported."""

    name: str
    of: str
    bounded: int

    def value(self, load: Load) -> float:
        """Its value in one loop: requests per second; milliseconds, or thousands of instructions, per request."""
        return load.requests / load.seconds if self.of == "seconds" else 1000 * float(getattr(load, self.of)) / load.requests


QUANTITIES = (
    Quantity("requests per second", "seconds", -1),
    Quantity("processor time per request, ms", "busy", 1),
    Quantity("of it in the kernel, ms", "kernel", 0),
    Quantity("the emulator's processor time per request, ms", "emulator", 0),
    Quantity("thousands of instructions per request", "instructions", 0),
)
INSTRUCTIONS = QUANTITIES[-1]
EQUAL_PACE = f"{INSTRUCTIONS.name}, at the same pace"


class Compared(NamedTuple):
    """Pairs of loops, the first of each with the former rules, the second with those in force."""

    services: int
    conntrack: int
    pairs: Sequence[tuple[Load, Load]]

    @property
    def quantities(self) -> list[Quantity]:
        """Those that were measured: only an emulated machine counts its instructions."""
        return [each for each in QUANTITIES if each.value(self.pairs[0][0])]

    def changes(self, quantity: Quantity) -> list[float]:
        """By how much each pair's second value differs from its first, as a share of that, in order."""
        return sorted(quantity.value(now) / quantity.value(before) - 1 for before, now in self.pairs)

    def at_equal_pace(self) -> tuple[float, float, float]:
        """Thousands of instructions per request with the former rules and with those in force, and the standard error of their difference.

        Of health checks, adverts and timers, more fall on a request in a slow loop. So least squares fit a request's own instructions with either rules,
        and a number of them per second that both have; the values are those at the median pace.
        """
        groups = [[(load.seconds / load.requests, INSTRUCTIONS.value(load)) for load in loads] for loads in zip(*self.pairs, strict=True)]
        means = [tuple(statistics.fmean(column) for column in zip(*group, strict=True)) for group in groups]
        spread = sum((x - mean[0]) ** 2 for group, mean in zip(groups, means, strict=True) for x, _ in group)
        per_second = sum((x - mean[0]) * (y - mean[1]) for group, mean in zip(groups, means, strict=True) for x, y in group) / (spread or 1)
        own = [mean[1] - per_second * mean[0] for mean in means]
        left = [y - each - per_second * x for group, each in zip(groups, own, strict=True) for x, y in group]
        variance = sum(each**2 for each in left) / max(1, len(left) - 3)
        error = math.sqrt(variance * (2 / len(groups[0]) + (means[0][0] - means[1][0]) ** 2 / (spread or 1)))
        pace = statistics.median(x for group in groups for x, _ in group)
        return own[0] + per_second * pace, own[1] + per_second * pace, error

    def worse(self) -> list[str]:
        """The quantities whose median is worse than it may be, and failed requests, in words."""
        told = [each.name for each in self.quantities if each.bounded * statistics.median(self.changes(each)) > MOST_CHANGE]
        if INSTRUCTIONS in self.quantities:
            before, now, _ = self.at_equal_pace()
            told += [EQUAL_PACE] if now > before * (1 + MOST_CHANGE) else []
        failed = sum(sum(load.failures.values()) for load in itertools.chain(*self.pairs))
        return [*told, *([f"{failed} requests failed"] if failed else [])]

    def lines(self) -> Iterator[str]:
        """A line of the Markdown table for each quantity."""
        for quantity in self.quantities:
            before, now = ([quantity.value(pair[index]) for pair in self.pairs] for index in (0, 1))
            changes = self.changes(quantity)
            percent = f"{statistics.median(changes):+.1%} ({changes[0]:+.1%} to {changes[-1]:+.1%})"
            yield f"| {self.services} | {self.conntrack} | {quantity.name} | {_spread(before)} | {_spread(now)} | {percent} |"
        if INSTRUCTIONS in self.quantities:
            first, second, error = self.at_equal_pace()
            change = f"{second / first - 1:+.1%} (standard error {error / first:.1%})"
            yield f"| {self.services} | {self.conntrack} | {EQUAL_PACE} | {first:.0f} | {second:.0f} | {change} |"


def compare(services: Sequence[int]) -> int:
    """Measure with each of these numbers of services and print a Markdown table; 0 when nothing is worse than it may be and nothing failed."""
    machine.up(counted=True)
    runner.mend()
    found: list[Compared] = []
    print("| services | `vs.conntrack` | median of the loops (least to most) | before | in force | change in pairs |\n|---|---|---|---|---|---|")
    for number in services:
        with runner.arranged(Experiment(MASTER, (), with_services(number))) as described:
            for conntrack in (0, 1):
                found.append(_measured(Cluster.parse(described), number, conntrack))
                print("\n".join(found[-1].lines()), flush=True)
    runner.restore()
    worse = [f"{each.services} services, {CONNTRACK} {each.conntrack}: {what}" for each in found for what in each.worse()]
    print("\n".join(f"worse by more than {MOST_CHANGE:.0%}, or failed: {what}" for what in worse) or f"\nnothing is worse by more than {MOST_CHANGE:.0%}")
    return 1 if worse else 0


def with_services(number: int) -> Change:
    """The example cluster with so many services on the VIP. No process listens on the ports that are added, so their checks ask the first one's."""

    def arrange(described: Description) -> None:
        first = service(described)
        for port in range(FIRST_PORT, FIRST_PORT + number - 1):
            check = {"type": "tcp", "connect_port": first["port"], "delay_loop": RARE_S}
            described["vips"]["master"]["services"].append({**copy.deepcopy(first), "port": port, "health_check": check})
        if number > 1:
            described["vips"]["master"]["answers_within"] = 0

    return arrange


def former_rules(cluster: Cluster, vip_name: str, project: Path) -> str:
    """The nftables rules of a VIP's pool as the release in the folder `project` renders them, with the marks of today's IPVS table."""
    vip = cluster.vips[vip_name]
    services = [{"protocol": each.protocol, "port": each.port, "mark": vip.mark(each)} for each in vip.services]
    shown = {"address": vip.address, "virtual_router_id": vip.virtual_router_id, "authentication": vip.authentication, "services": services}
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(project / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    interface = cluster.node(vip.owner).interface
    return templates.get_template("etc/keepalived/current/lvs.nft.j2").render(vips=[shown], interface=interface)


def _measured(cluster: Cluster, services: int, conntrack: int) -> Compared:
    former = former_rules(cluster, MASTER.vip, scripts_release())
    directors = cluster.directors(cluster.vips[MASTER.vip].pool)
    pairs: list[tuple[Load, Load]] = []
    with _prepared(directors, conntrack):
        for turn in range(PAIRS):
            # The second of two loops is not always the same one: the machine may become slower or faster.
            order = (former, None) if turn % 2 else (None, former)
            loads = {rules: _load(directors, rules) for rules in order}
            pairs.append((loads[former], loads[None]))
            shown = " and ".join(f"{QUANTITIES[0].value(load):.0f}" for load in pairs[-1])
            print(f"{services} services, {CONNTRACK} {conntrack}: {shown} requests per second", file=sys.stderr)
    return Compared(services, conntrack, pairs)


@contextmanager
def _prepared(directors: Sequence[str], conntrack: int) -> Iterator[None]:
    """Directors whose rules may be replaced: the resident process, which would repair them, is stopped. They are as before at the end."""
    try:
        for node in directors:
            machine.run("lab", "exec", node, "sh", "-euc", f"systemctl stop {WATCH}; sysctl -qw {CONNTRACK}={conntrack}")
            machine.run("lab", "exec", node, "nft", "--file", "-", stdin=TRACKING if conntrack else NO_TRACKING)
        yield
    finally:
        for node in directors:
            machine.run("lab", "exec", node, "nft", "--file", "-", stdin=NO_TRACKING)
            _replace_rules(node, None)
            machine.run("lab", "exec", node, "sh", "-euc", f"sysctl -qw {CONNTRACK}=0; systemctl start {WATCH}")


def _replace_rules(node: str, rules: str | None) -> None:
    """Load these rules, or those in force, in place of the ones that are loaded: both files begin by deleting the table."""
    machine.run("lab", "exec", node, "nft", "--file", "-" if rules else RULES_IN_FORCE, stdin=rules)


def _load(directors: Sequence[str], rules: str | None) -> Load:
    for node in directors:
        _replace_rules(node, rules)
    _closed_loop(WARM_UP_S)
    before, counted = _emulator_seconds(), machine.instructions()
    load = _closed_loop(SECONDS)
    load = dataclasses.replace(load, emulator=_emulator_seconds() - before)
    if counted is not None:
        load = dataclasses.replace(load, instructions=((machine.instructions() or counted) - counted) / 1e6)
    if not set(directors) <= set(load.servers):
        raise machine.MachineError(f"with {'the former rules' if rules else 'the rules in force'} only {', '.join(load.servers) or 'no server'} answered")
    return load


def _closed_loop(seconds: float) -> Load:
    config = {"address": f"{MASTER.address}:{MASTER.port}", "sources": CLIENTS, "connections": CONNECTIONS, "seconds": seconds}
    return Load(**json.loads(machine.run("ip", "netns", "exec", "client", "/usr/local/bin/traffic", "load", json.dumps(config)).stdout))


def _emulator_seconds() -> float:
    """Processor time of the process that runs the machine. Unlike the machine's own figures, it does not grow while other programs take its processors."""
    return _ticks(Path(f"/proc/{machine.running()}/stat").read_text(), 2) / TICKS_A_SECOND


def _ticks(stat: str, fields: int) -> int:
    """The sum of utime, stime, cutime and cstime, or of the first `fields` of them, in /proc/PID/stat: from the 12th field behind the name on."""
    return sum(int(word) for word in stat.rpartition(")")[2].split()[11 : 11 + fields])


def _spread(values: Sequence[float]) -> str:
    digits = 0 if min(values) >= 100 else 2
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


# The resident process


class Resident(NamedTuple):
    """The resident process of a node at one moment: its ticks, and those of the processes that it started and that ended; its memory."""

    at: float
    pid: int
    ticks: int
    kilobytes: int


def watch() -> int:
    """Print as a Markdown table what the resident process of each node takes, idle and under the probes' connections; 0 when that is within its bounds."""
    runner.mend()
    idle = _shares()
    with Probe(MASTER):
        asked = _shares()
    print(f"| node | idle: share of a processor | memory, MB | {1000 // FAST_MS} connections a second: share | memory, MB |\n|---|---|---|---|---|")
    for node, (share, megabytes) in idle.items():
        print(f"| {node} | {share:.2%} | {megabytes:.1f} | {asked[node][0]:.2%} | {asked[node][1]:.1f} |")
    over = [node for node, (share, megabytes) in idle.items() if share > MOST_SHARE or max(megabytes, asked[node][1]) > MOST_MB]
    print(f"over {MOST_SHARE:.0%} of a processor when idle, or over {MOST_MB} MB: {', '.join(over) or 'none'}")
    return 1 if over else 0


def _shares() -> dict[str, tuple[float, float]]:
    """By node: the share of a processor over WATCHED_S, and the megabytes at the end."""
    before = {node: _resident(node) for node in machine.NODES}
    time.sleep(WATCHED_S)  # the measurement
    found = {}
    for node, first in before.items():
        last = _resident(node)
        if last.pid != first.pid:
            raise machine.MachineError(f"{WATCH} of {node} was started again during the measurement")
        found[node] = ((last.ticks - first.ticks) / TICKS_A_SECOND / (last.at - first.at), last.kilobytes / 1024)
    return found


def _resident(node: str) -> Resident:
    script = f"pid=$(systemctl show --property=MainPID --value {WATCH}); date +%s.%N; echo $pid; cat /proc/$pid/stat; grep VmRSS /proc/$pid/status"
    at, pid, stat, memory = machine.run("lab", "exec", node, "sh", "-euc", script).stdout.splitlines()
    return Resident(float(at), int(pid), _ticks(stat, 4), int(memory.split()[1]))
