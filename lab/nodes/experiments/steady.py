"""Nothing happens; and what another scheduler costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.nodes.experiments import bounds
from lab.nodes.experiments.crashes import KILL_ALL
from lab.nodes.experiments.scene import Change, Description, Experiment, Scene, Step, on_owner, owner_off, service, switch, two_directors
from lab.nodes.probe import INFRA, MASTER, Target

STEADY_S = 40
"""2,000 requests."""


def _rest(_: Scene) -> None:
    time.sleep(STEADY_S)  # the experiment itself: nothing happens for so long


def _steady(name: str, target: Target) -> Step:
    return Step(name, "steady", _rest, bounds.steady)


def _calls_itself(name: str, node: Callable[[Scene], str]) -> Experiment:
    return Experiment(MASTER, (Step(name, "steady", _rest, bounds.nothing_lost, asked_from=node),))


def _scheduler(name: str, **keys: object) -> Experiment:
    def arrange(described: Description) -> None:
        del service(described)["affinity"]
        service(described).update(keys)

    def step(what: str, act: Callable[[Scene], None], live: Callable[[Scene], dict[str, int]] = lambda scene: scene.live()) -> Step:
        return Step(f"{name}: {what}", "scheduler", act, bounds.reported, live)

    change: Change = arrange
    return Experiment(
        MASTER,
        (
            step("steady", _rest),
            step("kill -9 of all of keepalived on the owner", on_owner(KILL_ALL)),
            step("owner isolated with carrier", switch("wire", "out"), owner_off),
            step("owner's isolation healed", switch("wire", "in")),
        ),
        arrange=change,
    )


STEADY = [
    Experiment(MASTER, (_steady("steady: three masters", MASTER),)),
    Experiment(INFRA, (_steady("steady: two infra nodes", INFRA),)),
    Experiment(MASTER, (_steady("steady: three servers, two of them directors", MASTER),), arrange=two_directors),
    _calls_itself("a backup calls the address itself", lambda scene: scene.backup),
    _calls_itself("the owner calls the address itself", lambda scene: scene.owner),
]

SCHEDULERS = [
    _scheduler("rr", scheduler="rr"),
    _scheduler("wlc and persistence", scheduler="wlc", persistence_timeout=50),
]
