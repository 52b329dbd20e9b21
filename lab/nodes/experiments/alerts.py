"""Each alert of monitoring/alerts.yaml in its fault alone, and none in planned work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from lab.nodes import alerts, stack
from lab.nodes.alerts import SAMPLE_S, Recording, Sample
from lab.nodes.experiments import bounds
from lab.nodes.experiments.changes import as_it_was
from lab.nodes.experiments.repairs import FORGOTTEN, SYNC_STOPPED
from lab.nodes.experiments.scene import LVS, Bound, Description, Experiment, Scene, Step
from lab.nodes.experiments.updates import engine_killed, midway, two_seconds
from lab.nodes.probe import MASTER

WRITTEN_S = 20
"""Seconds in which every node has written its textfile once more."""
STALE_S = 130
"""A file counts as stale after 120 s."""
HELD_SAMPLES = 10
"""While a fault lasts and nothing changes, so many samples stand for HELD times as long as the alert waits."""
HELD = 1.5
PLANNED_S = 90
"""After planned work the samples go on for so long, longer than most alerts wait."""
REPAIRS = 4
"""The first is what the counter begins with, and three more are too many."""
REPAIRED_S = 10

Act = Callable[[Scene], object]


class Fault(NamedTuple):
    """What makes an alert fire, and what ends it. `lasts_s`: how long it lasts before a sample stands for more than its own time."""

    name: str
    alert: str
    begin: Act
    end: Act
    lasts_s: int = WRITTEN_S
    before: str = ""


def _each(script: str) -> Act:
    """A script on every director, one after the other."""

    def act(scene: Scene) -> None:
        for node in scene.live():
            scene.on(node, script)

    return act


def _backup(script: str) -> Act:
    return lambda scene: scene.on(scene.backup, script)


def _apart(scene: Scene) -> None:
    scene.do("lab", "apart", scene.owner, *(node for node in scene.live() if node != scene.owner))


def _repeatedly(scene: Scene) -> None:
    for number in range(REPAIRS):
        scene.on(scene.backup, SYNC_STOPPED)
        # The textfile has the first repair before the second one comes.
        time.sleep(REPAIRED_S if number else WRITTEN_S)  # part of the fault


def _operated(verb: str, *arguments: str) -> Act:
    return lambda scene: stack.operate(verb, scene.backup, *arguments)


FAULTS = [
    Fault("every director drained", "OpenshiftLvsNoHolder", _each(f"{LVS} ownership off"), _each(f"{LVS} ownership on")),
    Fault("two holders", "OpenshiftLvsTwoHolders", _apart, lambda scene: scene.do("lab", "together")),
    Fault("a server stopped", "OpenshiftLvsServerFails", _backup("systemctl stop lab-workload"), _backup("systemctl start lab-workload")),
    Fault("every server stopped", "OpenshiftLvsServiceWithoutServer", _each("systemctl stop lab-workload"), _each("systemctl start lab-workload")),
    Fault("a host drained for long", "OpenshiftLvsDrainedLong", _operated("drain", "--deadline", "3"), _operated("undrain")),
    Fault("repaired again and again", "OpenshiftLvsRepairedRepeatedly", _repeatedly, lambda scene: None, before=FORGOTTEN),
    Fault("a roll-out ended mid-way", "OpenshiftLvsVersionsDiffer", midway(engine_killed), lambda scene: scene.deploy(lambda described: None)),
    Fault(
        "no metrics written", "OpenshiftLvsMetricsStale", _backup("systemctl stop openshift-lvs-metrics.timer"),
        _backup("systemctl start openshift-lvs-metrics.timer"), STALE_S,
    ),
]  # fmt: skip


def _metrics(described: Description) -> None:
    described["metrics"] = {"directory": alerts.DIRECTORY}


def _as_it_was(described: Description) -> None:
    as_it_was(described)
    _metrics(described)


def _step(name: str, expected: set[str], act: Callable[[Scene, Recording], None], bound: Callable[[Scene], Bound]) -> Step:
    """A step whose samples make exactly these alerts fire."""
    samples: list[Sample] = []

    def recorded(scene: Scene) -> None:
        samples.clear()
        with Recording(samples) as recording:
            act(scene, recording)

    def evidence(scene: Scene) -> Iterable[str]:
        stretched = sum(each.stands_for_s is not None for each in samples)
        scene.told.append(f"{len(samples)} samples, {stretched} of them stand for longer than their own time; fires: {', '.join(expected) or 'nothing'}")
        if said := alerts.fired(name, samples, expected):
            yield f"not exactly {', '.join(expected) or 'no alert'}: {said}"

    return Step(name, "alert", recorded, bound, evidence=evidence)


def _fires(fault: Fault) -> Experiment:
    def act(scene: Scene, recording: Recording) -> None:
        try:
            fault.begin(scene)
            moment = scene.moment
            time.sleep(fault.lasts_s)  # part of the fault
            waits = alerts.waits_s(fault.alert)
            recording.stands_for_s = SAMPLE_S * math.ceil(waits * HELD / HELD_SAMPLES / SAMPLE_S) or None
            time.sleep(SAMPLE_S * (HELD_SAMPLES + 1))  # part of the fault
            recording.stands_for_s = None
        finally:
            fault.end(scene)
        scene.moment = moment

    return Experiment(MASTER, (_step(f"alert: {fault.name}", {fault.alert}, act, bounds.reported),), _metrics, before=fault.before)


def _silent(name: str, act: Act) -> Step:
    def acted(scene: Scene, recording: Recording) -> None:
        act(scene)
        time.sleep(PLANNED_S)  # an alert would fire meanwhile

    return _step(f"no alert: {name}", set(), acted, bounds.nothing_lost)


def _on_owner(script: str) -> Act:
    return lambda scene: scene.on(scene.owner, script)


ALERTS = [
    *(_fires(fault) for fault in FAULTS),
    Experiment(
        MASTER,
        (
            _silent("the owner drained and returned", _on_owner(f"{LVS} drain && {LVS} start")),
            _silent("keepalived restarted on the owner", _on_owner("systemctl restart keepalived")),
            _silent("pulumi up with a change", lambda scene: scene.deploy(two_seconds)),
            _silent("pulumi up with that change reverted", lambda scene: scene.deploy(_as_it_was)),
        ),
        _metrics,
    ),
]
