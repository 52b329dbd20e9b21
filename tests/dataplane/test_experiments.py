"""Every experiment's bounds, on real keepalived, IPVS and VRRP. `representative` ones make a short run."""

from __future__ import annotations

import pytest

from lab.nodes import runner
from lab.nodes.experiments import EXPERIMENTS
from lab.nodes.experiments.scene import Experiment

REPRESENTATIVE = {
    "steady: three masters",
    "keepalived restarted on the owner",
    "kill -9 of all of keepalived on the owner",
    "owner isolated with carrier",
    "a server's process gone",
}

pytestmark = [pytest.mark.dataplane, pytest.mark.usefixtures("article_cluster")]


def _each() -> list[object]:
    return [pytest.param(e, id=e.name, marks=[pytest.mark.representative] if e.name in REPRESENTATIVE else []) for e in EXPERIMENTS]


@pytest.mark.parametrize("experiment", _each())
def test_what_must_hold_holds_while(experiment: Experiment) -> None:
    assert not [(outcome.step.name, outcome.broken) for outcome in runner.run(experiment, 1) if outcome.broken]
