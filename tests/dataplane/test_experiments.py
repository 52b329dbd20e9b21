"""Every experiment's bounds, on real keepalived, IPVS and VRRP. $RUNS says how often each.

`representative` ones make a short run. `undeployed` ones make a longer run in minutes: all others but those that need `pulumi up` on emulated nodes,
and those that lose a director, whose bound of a tenth of a second leaves an emulator that does other work too little room.
"""

from __future__ import annotations

import os

import pytest

from lab.nodes import runner
from lab.nodes.experiments import EXPERIMENTS
from lab.nodes.experiments.scene import Experiment

REPRESENTATIVE = {
    "steady: three masters",
    "keepalived restarted on the owner",
    "kill -9 of all of keepalived on the owner",
    "a server's process gone",
}


UNDEPLOYED = {"steady", "planned", "server", "server back"}
"""Kinds of step."""


def _marks(experiment: Experiment) -> list[pytest.MarkDecorator]:
    if experiment.name in REPRESENTATIVE:
        return [pytest.mark.representative]
    if not experiment.arrange and {step.kind for step in experiment.steps} <= UNDEPLOYED:
        return [pytest.mark.undeployed]
    return []


def _each() -> list[object]:
    assert {experiment.name for experiment in EXPERIMENTS} >= REPRESENTATIVE
    return [pytest.param(e, id=e.name, marks=_marks(e)) for e in EXPERIMENTS]


@pytest.mark.parametrize("experiment", _each())
def test_what_must_hold_holds_while(experiment: Experiment, table: list[str]) -> None:
    outcomes = runner.run(experiment, int(os.environ.get("RUNS") or 0))
    table += [outcome.step.name for outcome in outcomes]
    assert not [(outcome.step.name, outcome.broken) for outcome in outcomes if outcome.broken]
