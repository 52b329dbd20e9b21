"""What an operator does on the nodes."""

from __future__ import annotations

from collections.abc import Callable

from lab.nodes import probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import LVS, Bound, Change, Description, Experiment, Scene, Step, backup_out, on_backup, on_owner, owner_out, service
from lab.nodes.probe import INFRA, MASTER, Target

PACKAGE = "DEBIAN_FRONTEND=noninteractive dpkg --install /usr/local/share/lab/keepalived_*.deb"
WEIGHTLESS = "master2"


def _planned(target: Target, *steps: tuple[str, Callable[[Scene], None]], arrange: Change | None = None) -> Experiment:
    return Experiment(target, tuple(Step(name, "planned", act, bounds.nothing_lost) for name, act in steps), arrange)


def _without_weight(described: Description) -> None:
    service(described)["weights"] = {WEIGHTLESS: 0}


def _server_reboots(scene: Scene) -> Bound:
    """Nobody took it out of rotation, so its own share is refused until its check does."""
    return bounds.server_lost(scene)._replace(text="its own share alone fails, other servers' streams alive", quiet_after_s=None, tables_after_s=None)


def _back_and_moved(scene: Scene) -> None:
    scene.on(scene.backup, "systemctl start lab-workload")
    probe.wait_until_whole(scene.live(), scene.target)
    scene.on(scene.owner, f"{LVS} hand-over {scene.target.vip}")


def _operated(verb: str, *arguments: str) -> Callable[[Scene], None]:
    """A verb of the operator's command on the owner. Its exit status may say that streams are left: they are, and shall live."""

    def act(scene: Scene) -> None:
        scene.moment = probe.now()
        done = stack.operate(verb, scene.owner, *arguments)
        print(done.stdout + done.stderr, end="")

    return act


PLANNED = [
    _planned(
        MASTER,
        ("owner drained", on_owner(f"{LVS} drain")),
        ("drained node returned", on_owner(f"{LVS} start")),
        ("address brought back by a planned move", lambda scene: scene.on(probe.holder(scene.target), f"{LVS} go-home master")),
    ),
    _planned(MASTER, ("keepalived restarted on the owner", on_owner("systemctl restart keepalived"))),
    _planned(
        MASTER,
        ("keepalived stopped on the owner", on_owner("systemctl stop keepalived")),
        ("keepalived started again", on_owner("systemctl start keepalived")),
    ),
    _planned(MASTER, ("keepalived reloaded on the owner", on_owner("systemctl reload keepalived"))),
    _planned(MASTER, ("keepalived restarted on a backup", on_backup("systemctl restart keepalived"))),
    _planned(INFRA, ("keepalived restarted on the infra owner", on_owner("systemctl restart keepalived"))),
    _planned(MASTER, ("keepalived's package upgraded on the owner", on_owner(PACKAGE))),
    _planned(MASTER, ("a backup of weight 0 rebooted", lambda scene: scene.do("lab", "reboot", WEIGHTLESS)), arrange=_without_weight),
    Experiment(
        MASTER,
        (Step("a backup rebooted that still serves", "planned", lambda scene: scene.do("lab", "reboot", scene.backup), _server_reboots),),
    ),
    Experiment(
        MASTER,
        (
            Step("a server's process gone, before streams are set up", "planned", on_backup("systemctl stop lab-workload"), bounds.server_lost, backup_out),
            Step("it is back, and the address moves", "planned", _back_and_moved, bounds.nothing_lost),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("operations drain", "planned", _operated("drain", "--deadline", "3"), bounds.nothing_lost, owner_out),
            Step("the drained node rebooted", "planned", lambda scene: scene.do("lab", "reboot", scene.owner), bounds.nothing_lost, owner_out),
            Step("operations undrain", "planned", _operated("undrain"), bounds.nothing_lost),
        ),
    ),
]
