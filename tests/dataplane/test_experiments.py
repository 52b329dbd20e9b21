"""Every experiment's bounds, on real keepalived, IPVS and VRRP. `representative` ones make a short run; $RUNS says how often each."""

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


def _each() -> list[object]:
    assert {experiment.name for experiment in EXPERIMENTS} >= REPRESENTATIVE
    return [pytest.param(e, id=e.name, marks=[pytest.mark.representative] if e.name in REPRESENTATIVE else []) for e in EXPERIMENTS]


@pytest.mark.parametrize("experiment", _each())
def test_what_must_hold_holds_while(experiment: Experiment, table: list[str]) -> None:
    outcomes = runner.run(experiment, int(os.environ.get("RUNS") or 0))
    table += [outcome.step.name for outcome in outcomes]
    assert not [(outcome.step.name, outcome.broken) for outcome in outcomes if outcome.broken]
