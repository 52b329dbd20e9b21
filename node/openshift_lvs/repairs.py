"""What was repaired on this node: how often, when, and when to stop. Two programs that undo each other's work must not do it all the time."""

from __future__ import annotations

import json
import os

from . import journal, state
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FREE = 5
"""So many repairs of one thing in a row come at once; the next ones wait. kube-proxy empties the IPVS table when it starts and when it cleans up."""
FIRST_WAIT_S = 5.0
MAX_WAIT_S = 60.0
ROW_S = 2 * MAX_WAIT_S
"""Two repairs are in a row when less time is between them."""
SYSCTL = "sysctl "
"""Begins the name of a sysctl as a thing. It is repaired SYSCTL_TIMES within SYSCTL_WITHIN_S: then it belongs to another program."""
SYSCTL_TIMES = 2
SYSCTL_WITHIN_S = 3600.0
RIVALS = (
    "kube-proxy", "kube-router", "calico-node", "cilium-agent", "antrea-agent", "flanneld", "ovnkube", "ovn-controller", "firewalld", "ufw", "tuned",
    "NetworkManager", "systemd-network", "dhclient",
)  # fmt: skip
"""Programs that change addresses, rules, sysctls or the IPVS table, as /proc/PID/comm shows them: 15 characters at most."""


class Repair(Record):
    """Repairs of one thing. `contested`: another program changes it again and again, so repairs wait, or have ended for a sysctl."""

    what: str
    count: int
    seconds_ago: int
    by: str = ""
    """Who changed it, as far as that is known."""
    contested: bool = False


class Repairs:
    """The repairs since the boot, and the times of each thing's last attempts on a clock that never jumps. It begins with what the process before recorded."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._times: dict[str, list[float]] = {}
        self._counts: dict[str, int] = {}
        self._last: dict[str, float] = {}
        """When each thing was repaired last. Attempts that failed do not count."""
        self._by: dict[str, str] = {}
        self._contested: set[str] = set()
        self._left_alone: set[str] = set()
        self._failed: dict[str, str] = {}
        """Why the last attempt failed."""
        text = state.read(state.REPAIRS)
        for what, count, last, by, contested in json.loads(text) if text else ():
            # A time in the future would put off the next repair.
            last = min(last, now())
            self._times[what], self._last[what], self._counts[what], self._by[what] = [last], last, count, by
            self._contested |= {what} if contested else set()

    def allowed(self, what: str) -> bool:
        """Whether this thing may be repaired now."""
        times, now = self._times.get(what, []), self._now()
        if what.startswith(SYSCTL):
            return self._within_the_hour(times) < SYSCTL_TIMES
        return not times or now - times[-1] >= self._wait(times)

    def _within_the_hour(self, times: list[float]) -> int:
        return sum(self._now() - each < SYSCTL_WITHIN_S for each in times)

    @staticmethod
    def _wait(times: list[float]) -> float:
        """Seconds from the last repair to the next one: none for the first FREE in a row, then 5, 10, ... MAX_WAIT_S."""
        row = 1
        while row < len(times) and times[-row] - times[-row - 1] < ROW_S:
            row += 1
        return min(MAX_WAIT_S, FIRST_WAIT_S * 2.0 ** (row - FREE)) if row >= FREE else 0.0

    def done(self, what: str, how: str, by: str = "") -> None:
        """Record a repair and write a line to the journal."""
        times = self.attempted(what)
        self._last[what] = times[-1]
        self._failed.pop(what, None)
        self._counts[what] = self._counts.get(what, 0) + 1
        self._by[what] = by or self._by.get(what, "")
        wait = self._wait(times)
        if wait or (what.startswith(SYSCTL) and self._within_the_hour(times) >= SYSCTL_TIMES):
            self._contested.add(what)
        else:
            self._contested.discard(what)
        again = f"; {self._counts[what]} times so far, and the next repair waits {wait:g} s" if wait and not what.startswith(SYSCTL) else ""
        journal.note(f"repaired {what}: {how}{f'; changed by {by}' if by else ''}{again}")
        self._write()

    def failed(self, what: str, how: str, why: str) -> None:
        """Write a line to the journal for an attempt to repair something, unless the last one failed in the same way.

        The next attempt waits as after a repair.
        """
        self.attempted(what)
        if self._failed.get(what) != why:
            self._failed[what] = why
            journal.note(f"could not repair {what}: {how}; {why}")

    def attempted(self, what: str) -> list[float]:
        """Keep the time of an attempt, so that the next one waits as after a repair; the times of the last ones."""
        times = self._times.setdefault(what, [])
        times.append(self._now())
        del times[:-20]
        return times

    def left_alone(self, what: str, how: str) -> None:
        """Write one line to the journal for a thing that is not as it should be and is not repaired."""
        if what not in self._left_alone:
            self._left_alone.add(what)
            self._contested.add(what)
            last = f"the last attempt failed: {self._failed[what]}" if what in self._failed else f"another program set it after {SYSCTL_TIMES} repairs"
            journal.note(f"not repaired again: {what}: {how}; {last}")
            self._write()

    def are_right(self, differ: set[str]) -> None:
        """All but these things are as they should be: the ones that were left alone are watched again."""
        right = self._left_alone - differ
        if right:
            self._left_alone -= right
            self._contested -= right
            self._write()

    def _write(self) -> None:
        said = [[what, count, self._last[what], self._by[what], what in self._contested] for what, count in sorted(self._counts.items())]
        state.write(state.REPAIRS, json.dumps(said) + "\n")


def read(now: float) -> tuple[Repair, ...]:
    """The recorded repairs; `now` is clock.now(). Nothing is contested any more when its last repair was long ago: then it is repaired at once again."""
    text = state.read(state.REPAIRS)
    found = []
    for what, count, last, by, contested in json.loads(text) if text else ():
        ago = max(0.0, now - last)
        found.append(Repair(what, count, int(ago), by, contested and ago < (SYSCTL_WITHIN_S if what.startswith(SYSCTL) else ROW_S)))
    return tuple(found)


def suspects() -> str:
    """The programs that run here and are known to change what this program sets."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm", encoding="utf-8") as file:
                    found.add(file.read().strip())
            except OSError:
                continue
    return ", ".join(sorted(found.intersection(RIVALS)))
