"""Programs that run in the cloud while a test does something to it, and requests to a VIP from its two sides."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from components.configuration.cluster import SECOND
from components.configuration.model import endpoint
from lab import cloud, local
from lab.nodes import machine
from lab.nodes.probe import Request


class Side(NamedTuple):
    """From where requests come, and what they ask for: an output of the endpoint of a VIP's first address, or of its second one.

    The traffic program chooses the port of a given source itself: at the rate of `EVERY_MS` none a second time within 54 minutes, also in another run. The
    kernel chooses them by lot. A server that still remembers the port's last connection answers the SYN with an ACK, the client with a RST. The next SYN is
    accepted. Then Open vSwitch's connection tracking loses the answers through the floating IP. It remembers a connection that was cut off for 15 minutes
    or longer.
    """

    namespace: str
    source: str
    output: str
    endpoint: str = ""


SIDES = {
    "bastion": Side("bastion", "192.168.0.100", "address"),
    "external": Side("external", "203.0.113.10", "floating_ip"),
    "bastion, IPv6": Side("bastion", "fd00:0:0:1::100", "address", SECOND),
    "external, IPv6": Side("external", "2001:db8:0:ff::10", "address", SECOND),
}
"""From the tenant network, and from the external one: through the floating IP, and through the router alone."""
EVERY_MS = 200
READY_S, TELL_S, END_S = 60, 60, 5
GRACE_S = 0.3
"""What a takeover may take beyond its bound on a machine that has other work."""
LINEAR_TIMEOUTS = Path("/proc/sys/net/ipv4/tcp_syn_linear_timeouts")
PACKETS = Path(__file__).parent / "packets.py"


def packets(*words: str) -> list[str]:
    """The argument vector of packets.py with these arguments, for a place that does not have the file."""
    return ["python3", "-c", PACKETS.read_text(), *words]


def on_node(host: str, *words: str) -> list[str]:
    """The argument vector of a command on a node, each word as it is: a shell runs it there."""
    return local.ssh(host, *map(shlex.quote, words))


@dataclass
class Running:
    """Programs that say "ready", work until their standard input ends, and then print JSON, while the `with` lasts; `told` has it by their names."""

    commands: Mapping[str, Sequence[str]]
    told: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Running:
        self._processes = {
            name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for name, command in self.commands.items()
        }
        for name, process in self._processes.items():
            assert process.stdout and process.stderr
            said = process.stdout.readline().strip() if select.select([process.stdout], [], [], READY_S)[0] else "nothing"
            if said != "ready":
                with contextlib.suppress(subprocess.TimeoutExpired):
                    # One that has failed tells why before it ends.
                    process.wait(END_S)
                self._kill()
                # Not to its end, which what it started may hold open.
                complaint = os.read(process.stderr.fileno(), 4096).decode(errors="replace").strip() if select.select([process.stderr], [], [], 0)[0] else ""
                raise AssertionError(f"{name}: waited {READY_S} s for 'ready'; it said {said!r} and {complaint!r}")
        return self

    def __exit__(self, *failure: object) -> None:
        if failure[0] is not None:
            return self._kill()
        try:
            for name, process in self._processes.items():
                said, complaint = process.communicate(timeout=TELL_S)
                assert process.returncode == 0, f"{name}: ended with {process.returncode}: {complaint.strip()[-1000:]}"
                self.told[name] = json.loads(said)
        finally:
            self._kill()

    def _kill(self) -> None:
        for process in self._processes.values():
            # What nsenter or ssh started elsewhere outlives them, and ends with its standard input.
            if process.stdin:
                process.stdin.close()
            process.kill()


@contextmanager
def asked(endpoints: Mapping[str, Any], vip: str, port: int) -> Iterator[list[Request]]:
    """A request every 0.2 s from each side to a VIP; all of them are in the list after the `with`.

    A request's name is the side that it came from.
    """
    program = cloud.state() / "traffic"
    # Not over the file itself: a program that still runs cannot be written to.
    shutil.copy2(machine.traffic(), program.with_suffix(".part"))
    program.with_suffix(".part").rename(program)
    command = [f"/srv/{program.name}", "probe"]
    commands = {
        name: [*cloud.within(side.namespace), *command, json.dumps(config(name, endpoints[vip + side.endpoint][side.output], port))]
        for name, side in SIDES.items()
    }
    requests: list[Request] = []
    with Running(commands) as running:
        yield requests
    for told in running.told.values():
        requests += [Request(**each) for each in told["requests"]]
    late = max((delay["seconds"] for told in running.told.values() for delay in told["delays"]), default=0.0)
    print(f"\n{summary(requests)}; this machine's timers were up to {late:.2f} s late")


def config(side: str, address: str, port: int) -> dict[str, Any]:
    """What the traffic program is told for one side."""
    return {"requests": [{"name": side, "address": endpoint(address, port), "patient": True, "every": EVERY_MS}], "sources": [SIDES[side].source]}


def open_at(request: Request, moment: float) -> bool:
    """Whether a request had begun and was not over at that moment. A server that dies takes such requests with it."""
    return request.at <= moment <= request.at + request.seconds


def unanswered(requests: Sequence[Request], *moments: float) -> list[Request]:
    """The requests without an answer, except those that were open at one of these moments."""
    return [request for request in requests if request.error and not any(open_at(request, moment) for moment in moments)]


def waited(requests: Sequence[Request], longest_s: float, *moments: float) -> list[Request]:
    """The requests that took longer, except those that were open at one of these moments."""
    return [request for request in requests if request.seconds > longest_s and not any(open_at(request, moment) for moment in moments)]


def summary(requests: Sequence[Request]) -> str:
    """How many requests of each side failed, and how long the others took."""
    lines = []
    for side in SIDES:
        mine = [request for request in requests if request.name == side]
        failed = Counter(request.error for request in mine if request.error)
        slow = sum(1 for request in mine if not request.error and request.connected >= 1)
        longest = max((request.seconds for request in mine if not request.error), default=0.0)
        lines.append(f"{side}: {failed.total()} of {len(mine)} failed {dict(failed)}, {slow} had their SYN sent again, the longest took {longest:.2f} s")
    return "; ".join(lines)


def longest_wait_s(quiet_s: float, linear: int | None = None) -> float:
    """For how long a request may wait if nothing answers for `quiet_s` seconds: one more retransmission of its SYN, as this machine's kernel times them.

    `linear` is the number of retransmissions that are 1 s apart (net.ipv4.tcp_syn_linear_timeouts). After them each pause is twice the one before.
    """
    if linear is None:
        linear = int(LINEAR_TIMEOUTS.read_text()) if LINEAR_TIMEOUTS.exists() else 0
    sent, pause, last, number = 0.0, 1.0, 0.0, 0
    while sent < quiet_s:
        sent, number = sent + pause, number + 1
        last, pause = pause, pause if number < linear else pause * 2
    return round(quiet_s + last, 3)
