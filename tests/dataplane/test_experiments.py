"""Every experiment's bounds, on real keepalived, IPVS and VRRP. $RUNS says how often each, $WITHIN after how many minutes no other long one begins,
and QUICK_LATER_MIN later no other one at all.

`representative` ones make a short run. The others take seconds each, but for those that are `deployed`: minutes, for `pulumi up` on emulated nodes.
Those of `dual` have IPv6 addresses. Those of `cluster` have a cluster's own programs on the nodes. Those of `by_hand` flood the machine, replace the
host's software, or need many minutes: run them by name.
"""

from __future__ import annotations

import os
import time

import pytest

from lab.nodes import runner
from lab.nodes.experiments import EXPERIMENTS
from lab.nodes.experiments.cluster import CLUSTER
from lab.nodes.experiments.dual import DUAL
from lab.nodes.experiments.scene import Experiment
from tests.within import NO_LATER, WITHIN

QUICK_LATER_MIN = 12

REPRESENTATIVE = {
    "steady: three masters",
    "keepalived restarted on the owner",
    "kill -9 of all of keepalived on the owner",
    "a server's process gone",
    "a pod opens 400 connections to outside and to another node",
}
DEPLOYING = {"change", "wrong update", "stranger", "release"}
BY_HAND = {"alert", "example", "reuse", "spoofed", "own keepalived", "busy"}
"""Kinds of step."""


def _marks(experiment: Experiment) -> list[pytest.MarkDecorator]:
    representative = [pytest.mark.representative] if experiment.name in REPRESENTATIVE else []
    if experiment.cluster or experiment in CLUSTER:
        return [pytest.mark.cluster, *representative]
    if experiment in DUAL:
        return [pytest.mark.dual, pytest.mark.deployed]
    if representative:
        return representative
    kinds = {step.kind for step in experiment.steps}
    if kinds & BY_HAND:
        return [pytest.mark.by_hand]
    deployed = experiment.arrange or kinds & DEPLOYING
    return [pytest.mark.deployed] if deployed else []


def _each() -> list[object]:
    assert {experiment.name for experiment in EXPERIMENTS} >= REPRESENTATIVE
    return [pytest.param(e, id=e.name, marks=_marks(e)) for e in EXPERIMENTS]


@pytest.mark.parametrize("experiment", _each())
def test_what_must_hold_holds_while(experiment: Experiment, table: list[str], request: pytest.FixtureRequest) -> None:
    if time.monotonic() > NO_LATER + (0 if request.node.get_closest_marker("deployed") else 60 * QUICK_LATER_MIN):
        pytest.skip(f"{WITHIN} minutes are over; the next commit begins elsewhere in the table, and `make test-faults` runs all of it")
    outcomes = runner.run(experiment, int(os.environ.get("RUNS") or 0))
    table += [outcome.step.name for outcome in outcomes]
    assert not [(outcome.step.name, outcome.broken) for outcome in outcomes if outcome.broken]
