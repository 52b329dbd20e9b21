"""Nothing happens; and what another scheduler costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.nodes import probe
from lab.nodes.experiments import bounds
from lab.nodes.experiments.crashes import KILL_ALL
from lab.nodes.experiments.scene import Bound, Change, Description, Experiment, Scene, Step, on_owner, owner_off, service, switch, two_directors
from lab.nodes.probe import INFRA, MASTER, Target

STEADY_S = 40
"""2,000 requests."""


def rest(_: Scene) -> None:
    """Nothing happens for STEADY_S."""
    time.sleep(STEADY_S)  # the experiment itself: nothing happens for so long


def _steady(name: str, target: Target) -> Step:
    return Step(name, "steady", rest, bounds.steady)


def _calls_itself(name: str, node: Callable[[Scene], str]) -> Experiment:
    return Experiment(MASTER, (Step(name, "steady", rest, bounds.nothing_lost, asked_from=node),))


def _under(name: str, kind: str, arrange: Change, *, reported: bool = False) -> Experiment:
    """The states and faults that tell most, under another configuration."""

    def on_holder(act: Callable[[Scene], None]) -> Callable[[Scene], None]:
        def acted(scene: Scene) -> None:
            scene.owner = probe.holder(scene.target)
            act(scene)

        return acted

    def step(what: str, act: Callable[[Scene], None], bound: Callable[[Scene], Bound], live: Callable[[Scene], dict[str, int]] = Scene.live) -> Step:
        return Step(f"{name}: {what}", kind, act, bounds.reported if reported else bound, live)

    return Experiment(
        MASTER,
        (
            step("steady", rest, bounds.steady),
            step("keepalived restarted on the owner", on_holder(on_owner("systemctl restart keepalived")), bounds.nothing_lost),
            step("kill -9 of all of keepalived on the owner", on_holder(on_owner(KILL_ALL)), bounds.nothing_lost),
            step("owner isolated with carrier", on_holder(switch("wire", "out")), bounds.node_lost, owner_off),
            step("owner's isolation healed", switch("wire", "in"), bounds.way_back),
        ),
        arrange,
    )


def _scheduler(**keys: object) -> Change:
    def arrange(described: Description) -> None:
        del service(described)["affinity"]
        service(described).update(keys)

    return arrange


def _both_on_masters(described: Description) -> None:
    # Another VRID: the directors that the address has now would be strangers to the masters.
    described["vips"]["infra"].update(pool="master", owner="master1", virtual_router_id=53)


STEADY = [
    Experiment(MASTER, (_steady("steady: three masters", MASTER),)),
    Experiment(INFRA, (_steady("steady: two infra nodes", INFRA),)),
    Experiment(MASTER, (_steady("steady: three servers, two of them directors", MASTER),), arrange=two_directors),
    _calls_itself("a backup calls the address itself", lambda scene: scene.backup),
    _calls_itself("the owner calls the address itself", lambda scene: scene.owner),
]

CHOICES = [
    _under("both addresses on the masters", "choice", _both_on_masters),
    _under("start with alpha", "choice", lambda described: service(described).update(alpha=True)),
    _under("rr", "scheduler", _scheduler(scheduler="rr"), reported=True),
    _under("wlc and persistence", "scheduler", _scheduler(scheduler="wlc", persistence_timeout=50), reported=True),
]
