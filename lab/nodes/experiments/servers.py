"""A real server fails in every way that a check can see, and recovers; and one that answers late, but in time, stays in rotation."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.nodes import machine
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import NOW, Bound, Description, Experiment, Scene, Step, backup_out, on_backup, service
from lab.nodes.probe import INFRA, MASTER, Target

FAULT = "nft -f - <<'N'\ntable ip fault {{ chain input {{ type filter hook input priority -10; {rule}; }}; }}\nN"
SILENT = FAULT.format(rule="tcp dport { 80, 443, 8443 } ip saddr != 127.0.0.1 drop")
REFUSING = FAULT.format(rule="tcp dport 8443 reject with tcp reset")
NO_FAULT = "nft delete table ip fault"
WELL = "rm /run/workload"
LATE_S = 30
"""About twenty checks by each director: one takes 0.9 s, and the next one begins 0.5 s later."""
BUSY = "for loop in $(seq 9); do systemd-run --quiet --collect --unit=busy-$loop sh -c 'while :; do :; done'; done"
NOT_BUSY = "systemctl stop 'busy-*'"
"""Nine endless loops on the machine's two processors, which the directors and servers share."""
BUSY_S = 600
FROZEN = f"pid=$(systemctl show --property=MainPID --value lab-workload); {NOW}; kill -STOP $pid"
"""Tells its moment itself: asking for the process takes up to a second of the four that are the bound."""
THAWED = "systemctl kill --signal=CONT lab-workload"
SORRY = "192.168.0.99"
"""Stands for a machine outside the stack. It is a second address of a node of another pool, which has the VIP on `lo` for as long as the experiment."""
SORRY_NODE = "infra0"


def ill(port: int, how: str) -> str:
    """The workload misbehaves on a port."""
    return f"echo '{port} {how}' >/run/workload"


def _server(target: Target, fault: str, script: str, back: str, undo: str) -> Experiment:
    return Experiment(
        target,
        (
            Step(fault, "server", on_backup(script), bounds.server_lost, backup_out),
            Step(back, "server back", on_backup(undo), bounds.server_back),
        ),
    )


def _one_port(port: int, fault: str, script: str, back: str, undo: str) -> tuple[Step, Step]:
    """Only that port's check fails: the other services keep the server."""
    return (
        Step(fault, "server", on_backup(script), bounds.server_lost, lambda scene: scene.live(scene.backup, port=port), port=port),
        Step(back, "server back", on_backup(undo), bounds.server_back, port=port),
    )


def _late(scene: Scene) -> None:
    scene.on(scene.backup, ill(80, "late"))
    time.sleep(LATE_S)  # the experiment itself: checks for so long


def _late_and_busy(scene: Scene) -> None:
    scene.do("sh", "-euc", BUSY)
    _late(scene)


def _busy(scene: Scene) -> None:
    scene.do("sh", "-euc", BUSY)
    time.sleep(BUSY_S)  # the experiment itself: load for so long
    # The next step asks from its begin, and requests that began under load belong to this one.
    machine.run("sh", "-euc", NOT_BUSY)


def _never_refused(scene: Scene) -> Bound:
    """Health checks may fail and requests may be late, but no request is refused."""
    return bounds.failed_open(scene)._replace(text="0 refused, every stream alive", failed=None)


def _well_and_not_busy(scene: Scene) -> None:
    scene.do("sh", "-euc", NOT_BUSY)
    scene.on(scene.backup, WELL)


def _only_http(bound: Callable[[Scene], Bound]) -> Callable[[Scene], Bound]:
    """A frozen process still takes connections: only an http check sees it, so the port beside it with a tcp check does not count."""
    return lambda scene: bound(scene)._replace(text=f"{bound(scene).text} (http-checked port)", only=scene.target.vip)


def _all_masters(verb: str) -> Callable[[Scene], None]:
    """systemctl VERB for the server of every master, at once."""
    return lambda scene: scene.do(
        "sh", "-euc", "".join(f"lab exec {node} systemctl {verb} lab-workload & " for node in scene.cluster.pools["master"].hosts) + "wait"
    )


def _none_live(scene: Scene) -> dict[str, int]:
    """With a sorry server, that one. Else the service fails open: the tables have every server, and the servers refuse."""
    return dict.fromkeys(scene.live(), 1) if service(scene.described).get("sorry_server") else scene.live()


def _five_checks(described: Description) -> None:
    checks: dict[int, Description] = {
        80: {"type": "http", "path": "/healthz"},
        443: {"type": "ssl", "path": "/healthz"},
        8443: {"type": "tcp"},
        8080: {"type": "misc", "script": "lab/nodes/checks/answers-200"},
        8025: {"type": "smtp", "connect_port": 25},
    }
    # Handshakes and scripts are much for an emulated processor, so all are made a third as often as by default.
    described["vips"]["infra"]["services"] = [{"port": port, "health_check": {**check, "delay_loop": 1.5}} for port, check in checks.items()]


def _sorry_server(described: Description) -> None:
    service(described)["sorry_server"] = SORRY


SERVERS = [
    _server(MASTER, "a server's process gone", "systemctl stop lab-workload", "the process back", "systemctl start lab-workload"),
    _server(MASTER, "a server silent", SILENT, "the server heard again", NO_FAULT),
    _server(MASTER, "a server refuses connections", REFUSING, "the server takes connections again", NO_FAULT),
    Experiment(INFRA, _one_port(80, "a server answers status 500", ill(80, "error"), "the server answers status 200 again", WELL)),
    Experiment(INFRA, _one_port(80, "a server slower than its check waits", ill(80, "slow"), "the server fast again", WELL)),
    Experiment(
        INFRA,
        (
            Step("a server answers after 0.9 s", "server", _late, bounds.in_rotation),
            Step("the server answers at once again", "server back", on_backup(WELL), bounds.in_rotation),
        ),
    ),
    Experiment(
        INFRA,
        (
            Step("a server late on a busy machine", "busy", _late_and_busy, bounds.in_rotation),
            Step("that server fast, the machine idle", "busy", _well_and_not_busy, bounds.in_rotation),
        ),
        after=NOT_BUSY,
    ),
    Experiment(
        MASTER,
        (
            Step("both processors busy for ten minutes", "busy", _busy, _never_refused),
            Step("both processors idle again", "busy", lambda scene: scene.do("sh", "-euc", NOT_BUSY), bounds.steady),
        ),
        after=NOT_BUSY,
    ),
    Experiment(
        INFRA,
        (
            Step("a server frozen, under an http check", "server", on_backup(FROZEN), _only_http(bounds.server_lost),
                 lambda scene: scene.live(scene.backup, port=80)),
            Step("the server thawed", "server back", on_backup(THAWED), _only_http(bounds.server_back)),
        ),
    ),
    Experiment(
        INFRA,
        (
            *_one_port(80, "http check alone: status 500", ill(80, "error"), "http check: status 200 again", WELL),
            *_one_port(443, "ssl check alone: handshakes break", ill(443, "no-tls"), "ssl check: handshakes again", WELL),
            *_one_port(8443, "tcp check alone: refused", REFUSING, "tcp check: connections again", NO_FAULT),
            *_one_port(8080, "misc check alone: its script says no", ill(8080, "error"), "misc check: its script says yes", WELL),
            *_one_port(8025, "smtp check alone: greeted with 554", ill(25, "error"), "smtp check: greeted with 220 again", WELL),
        ),
        arrange=_five_checks,
    ),
    Experiment(
        MASTER,
        (
            Step("all servers gone", "server", _all_masters("stop"), bounds.nobody_left, _none_live),
            Step("all servers back", "server back", _all_masters("start"), bounds.everybody_back),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("all servers gone, with a sorry server", "server", _all_masters("stop"), bounds.sorry, _none_live),
            Step("all servers back, and the sorry server out", "server back", _all_masters("start"), bounds.everybody_back),
        ),
        arrange=_sorry_server,
        before=f"ip -n {SORRY_NODE} address replace {MASTER.address}/32 dev lo; ip -n {SORRY_NODE} address replace {SORRY}/24 dev eth0",
        after=f"ip -n {SORRY_NODE} address delete {MASTER.address}/32 dev lo; ip -n {SORRY_NODE} address delete {SORRY}/24 dev eth0",
    ),
]  # fmt: skip
