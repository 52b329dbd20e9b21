"""Another program changes what this one has set, on the holder and on a backup; and health checks that fail while every server works.

That clients are refused while a service fails open and every server is stopped is in servers.py: "all servers gone".
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable

from lab.nodes import machine
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import LVS, NOW, Bound, Experiment, Scene, Step
from lab.nodes.probe import MASTER, Target
from lab.phases import wait_for

BLOCKED_S = 8
FLUSHED = "ipvsadm --clear"
RULES_FLUSHED = "nft flush ruleset"
SYSCTL = "net.ipv4.vs.sloppy_tcp"
SYSCTL_CHANGED = f"sysctl -qw {SYSCTL}=0"
WATCH = "openshift-lvs-watch"
KILLED = f"pid=$(systemctl show --property=MainPID --value {WATCH}); {NOW}; kill -9 $pid"
WATCHDOG_S = 20 + 5
"""WatchdogSec of the resident process, and what its start may take."""
SYNC_STOPPED = "ipvsadm --stop-daemon master; ipvsadm --stop-daemon backup"

Which = Callable[[Scene], str]
WHICH: dict[str, Which] = {"the holder": lambda scene: scene.owner, "a backup": lambda scene: scene.backup}


FORGOTTEN = f"for node in master0 master1 master2; do lab exec $node systemctl restart {WATCH}; done"
"""After several repairs of one thing, the next one waits for minutes. Each experiment begins without earlier repairs."""


def _on(which: Which, script: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        scene.on(which(scene), script)
        time.sleep(bounds.REPAIRED_S)  # what must be repaired within that is looked at then

    return act


def _repaired(which: Which, what: str) -> Callable[[Scene], Iterable[str]]:
    """Nothing that `verify` compares differs on the node, its status names the repair, and its journal has it in time."""

    def evidence(scene: Scene) -> Iterable[str]:
        journal = scene.journal(which(scene), "short-unix")
        after = repaired_after(journal, what, scene.moment)
        scene.told.append(f"repaired {what} after {after:.2f} s")
        if after > bounds.REPAIRED_S:
            yield f"the journal of {which(scene)} has no repair of {what} within {bounds.REPAIRED_S:g} s: {journal}"
        told = machine.run("lab", "exec", which(scene), LVS, "status").stdout
        if f"repaired    {what}" not in told:
            yield f"status of {which(scene)} does not name the repair of {what}"
        if "FAULT" in told or "NOT ON lo" in told:
            yield f"{which(scene)} has a fault: {told}"
        if what == "sysctl" and machine.run("lab", "exec", which(scene), "sysctl", "-n", SYSCTL).stdout.strip() != "1":
            yield f"{SYSCTL} is not 1 on {which(scene)}"

    return evidence


def repaired_after(journal: str, what: str, moment: float) -> float:
    """Seconds from a moment to the first repair of a thing that a journal in the format short-unix has; infinite when it has none."""
    times = [float(line.split()[0]) - moment for line in journal.splitlines() if f": repaired {what}" in line]
    return min((after for after in times if after >= 0), default=math.inf)


def _vip_removed(target: Target) -> str:
    return "; ".join(f"ip address delete {each.address}/{32 if each.version == 4 else 128} dev lo" for each in target.both)


def _row(name: str, script: str, what: str, bound: Callable[[Scene], Bound], target: Target = MASTER) -> list[Experiment]:
    return [
        Experiment(target, (Step(f"{name} on {where}", "repair", _on(which, script), bound, evidence=_repaired(which, what)),), before=FORGOTTEN)
        for where, which in WHICH.items()
    ]


def _died_meanwhile(where: str, which: Which) -> Experiment:
    return Experiment(
        MASTER,
        (
            Step(
                f"the table emptied and a server stopped on {where}",
                "repair",
                _on(which, f"{FLUSHED}; systemctl stop lab-workload"),
                lambda scene: bounds.repaired(scene)._replace(
                    text="the stopped server's own share until its eviction; other servers' streams alive", may_lose_streams_of=(which(scene),)
                ),
                lambda scene: scene.live(which(scene)),
                evidence=_repaired(which, "IPVS table"),
            ),
            Step(f"that server of {where} started again", "server back", _on(which, "systemctl start lab-workload"), bounds.server_back),
        ),
        before=FORGOTTEN,
    )


def _watch_runs(which: Which) -> Callable[[Scene], Iterable[str]]:
    def runs(scene: Scene) -> Iterable[str]:
        if machine.run("lab", "exec", which(scene), "systemctl", "is-active", WATCH).stdout.strip() != "active":
            yield f"{WATCH} does not run on {which(scene)}"

    return runs


def _watch_killed(where: str, which: Which) -> Experiment:
    step = Step(f"the resident process killed on {where}", "repair", _on(which, KILLED), bounds.nothing_lost, evidence=_watch_runs(which))
    return Experiment(MASTER, (step,))


def _watch_hangs(where: str, which: Which) -> Experiment:
    """It stands still, as a process that hangs does. systemd's watchdog ends it and starts another."""

    def act(scene: Scene) -> None:
        def resident() -> str:
            return machine.run("lab", "exec", which(scene), "systemctl", "show", "--property=MainPID", "--value", WATCH).stdout.strip()

        def another() -> tuple[bool, str]:
            found = resident()
            return found not in ("0", hangs), found

        hangs = resident()
        scene.on(which(scene), f"{NOW}; kill -STOP {hangs}")
        wait_for(f"another process than {hangs} of {WATCH} on {which(scene)}", another, WATCHDOG_S)

    return Experiment(MASTER, (Step(f"the resident process hangs on {where}", "repair", act, bounds.nothing_lost, evidence=_watch_runs(which)),))


def _checks_blocked(meanwhile: str = "true") -> Callable[[Scene], None]:
    """Every director's checks fail at once: SYNs whose source is the node itself. A balanced SYN has its client's address. `meanwhile`: on every director."""

    def act(scene: Scene) -> None:
        scripts, ip = [], "ip" if scene.target.version == 4 else "ip6"
        for node in scene.cluster.directors("master"):
            own = scene.cluster.pools["master"].hosts[node].address_of(scene.target.version)
            table = f"table {ip} checks {{ chain output {{ type filter hook output priority -10; {ip} saddr {own} tcp dport 8443 tcp flags syn drop; }}; }}"
            script = f'echo "{table}" | nft -f -; sleep {BLOCKED_S / 2:g}; {meanwhile}; sleep {BLOCKED_S / 2:g}; nft delete table {ip} checks'
            scripts.append(f"lab exec {node} sh -euc {shlex.quote(script)} & ")
        scene.do("sh", "-euc", "".join(scripts) + "wait")

    return act


def _failed_open(scene: Scene) -> Iterable[str]:
    """Every director says that it failed open, and no longer does."""
    for node in scene.cluster.directors("master"):
        told = scene.journal(node)
        if "fails open: no health check" not in told or "no longer fails open" not in told:
            yield f"{node} did not fail open and end that: {told}"


def of_traffic(target: Target) -> list[Experiment]:
    """What another program may take away without which no packet of this target is balanced, in the order holder, backup."""
    return [
        *_row("the table emptied", FLUSHED, "IPVS table", bounds.refilled, target),
        *_row("every nftables rule removed", RULES_FLUSHED, "nftables rules", bounds.repaired, target),
        *_row("the VIP removed from lo", _vip_removed(target), "VIPs on lo", bounds.repaired, target),
    ]


def _fails_open(name: str, meanwhile: str = "true") -> Experiment:
    return Experiment(MASTER, (Step(name, "fail open", _checks_blocked(meanwhile), bounds.failed_open, evidence=_failed_open),))


CHECKS_BLOCKED = _fails_open("every health check blocked")

REPAIRS = [
    *of_traffic(MASTER),
    *(_died_meanwhile(where, which) for where, which in WHICH.items()),
    *_row("a sysctl changed", SYSCTL_CHANGED, "sysctl", bounds.repaired_unseen),
    *_row("connection sync stopped", SYNC_STOPPED, "connection sync", bounds.repaired_unseen),
    *(_watch_killed(where, which) for where, which in WHICH.items()),
    *(_watch_hangs(where, which) for where, which in WHICH.items()),
    CHECKS_BLOCKED,
    _fails_open("every health check blocked, keepalived reloads meanwhile", "systemctl reload keepalived"),
]
