"""The alert rules on what the lab's nodes wrote: samples become a test of promtool, and each fault of the lab has its alert."""

from __future__ import annotations

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lab.nodes import alerts, machine, probe, stack
from lab.nodes.alerts import SAMPLE_S, Sample
from lab.nodes.experiments import alerts as rows
from lab.nodes.experiments.scene import Scene
from lab.nodes.probe import MASTER

NAMES = {rule["alert"] for rule in yaml.safe_load(alerts.RULES.read_text())["groups"][0]["rules"]}
BEGAN = 1764396000.0


def text(number: int, *, held: int = 1, drained: int = 0, age: float = 3.0) -> str:
    """The textfile of a node at the sample with that number."""
    return (
        "# HELP openshift_lvs_vip_held Whether the VIP is on the interface of this host.\n"
        f'openshift_lvs_vip_held{{vip="master",address="192.168.0.250"}} {held}\n'
        f'openshift_lvs_server_drained{{server="master1",address="192.168.0.3"}} {drained}\n'
        f"openshift_lvs_written_timestamp_seconds {BEGAN + number * SAMPLE_S - age:.15g}\n"
    )


def samples(count: int, node: Callable[[int], str], stands_for_s: int | None = None) -> list[Sample]:
    return [Sample(BEGAN + number * SAMPLE_S, {"master0": node(number)}, stands_for_s) for number in range(count)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(alerts, "TESTS", tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that happens to run is not touched."""
    monkeypatch.setattr(machine, "ssh", lambda: ["false"])


def test_each_alert_has_one_fault() -> None:
    assert sorted(fault.alert for fault in rows.FAULTS) == sorted(NAMES)


def test_what_is_right_in_every_sample_makes_nothing_fire() -> None:
    assert alerts.fired("well", samples(60, text), set()) == ""
    assert "OpenshiftLvsNoHolder" in alerts.fired("well", samples(60, text), {"OpenshiftLvsNoHolder"})


def test_an_alert_that_fired_is_told_where_none_or_another_is_expected() -> None:
    fault = samples(30, lambda number: text(number, held=int(number < 5)))
    assert alerts.fired("no holder", fault, {"OpenshiftLvsNoHolder"}) == ""
    assert "OpenshiftLvsNoHolder" in alerts.fired("no holder", fault, set())
    assert "OpenshiftLvsNoHolder" in alerts.fired("no holder", fault, {"OpenshiftLvsTwoHolders"})


def test_a_fault_that_ends_before_the_alert_has_waited_makes_nothing_fire() -> None:
    assert alerts.fired("takeover", samples(40, lambda number: text(number, held=int(not 5 <= number < 14))), set()) == ""


def test_a_sample_that_stands_for_hours_makes_an_alert_fire_that_waits_for_hours() -> None:
    drained = samples(10, lambda number: text(number, drained=1), 6480)
    assert alerts.fired("drained", drained, {"OpenshiftLvsDrainedLong"}) == ""
    assert alerts.fired("drained", samples(10, lambda number: text(number, drained=1)), set()) == ""


def test_a_file_is_as_old_as_it_was_however_long_its_sample_stands() -> None:
    assert alerts.fired("fresh", samples(10, text, 6480), set()) == ""
    assert alerts.fired("stale", samples(10, lambda number: text(number, age=100 + number * SAMPLE_S), 300), {"OpenshiftLvsMetricsStale"}) == ""


def test_a_series_that_a_node_no_longer_writes_ends() -> None:
    gone = [*samples(10, text), *(Sample(BEGAN + number * SAMPLE_S, {"master0": ""}) for number in range(10, 40))]
    (test,) = alerts.rule_test(gone, set())["tests"]
    assert all(series["values"].count("stale") == 1 for series in test["input_series"])
    assert alerts.fired("gone", gone, set()) == ""


def test_a_series_that_begins_later_is_missing_before() -> None:
    late = [Sample(BEGAN, {"master0": ""}, 20), *samples(2, text)[1:]]
    (test,) = alerts.rule_test(late, set())["tests"]
    assert {series["values"].split()[0] for series in test["input_series"]} == {"_x4"}


def test_only_metrics_that_a_rule_uses_are_given_to_promtool() -> None:
    (test,) = alerts.rule_test(samples(1, lambda number: text(number) + "openshift_lvs_watch_active 1\n"), set())["tests"]
    assert not [series for series in test["input_series"] if "watch_active" in series["series"]]


def test_what_the_lab_prints_is_a_sample_with_each_nodes_file() -> None:
    sample = alerts.read("1764396000.25\n==> master0\na 1\nb 2\n==> master1\n==> infra0\nc 3\n", 30)
    assert sample == Sample(1764396000.25, {"master0": "a 1\nb 2\n", "master1": "", "infra0": "c 3\n"}, 30)


@pytest.mark.parametrize(("alert", "seconds"), [("OpenshiftLvsDrainedLong", 43200), ("OpenshiftLvsTwoHolders", 180), ("OpenshiftLvsRepairedRepeatedly", 0)])
def test_how_long_an_alert_waits_is_read_from_its_rule(alert: str, seconds: int) -> None:
    assert alerts.waits_s(alert) == seconds


@pytest.mark.parametrize("fault", rows.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_ended_and_its_samples_stand_for_longer_than_the_alert_waits(monkeypatch: pytest.MonkeyPatch, fault: rows.Fault) -> None:
    done: list[str] = []
    slept: list[float] = []
    taken: list[int | None] = []

    class Recorded(alerts.Recording):
        def __enter__(self) -> Recorded:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        taken.extend([recording[0].stands_for_s] * int(seconds // SAMPLE_S))

    recording: list[Recorded] = []
    monkeypatch.setattr(rows, "Recording", lambda samples: recording.append(Recorded(samples)) or recording[0])  # type: ignore[func-returns-value]
    # Threads of other tests of this process may sleep too.
    monkeypatch.setattr(rows, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(probe, "at", lambda *_: 1002.0)
    monkeypatch.setattr(machine, "run", lambda *_, **__: SimpleNamespace(stdout="", returncode=0))
    experiment = rows._fires(fault._replace(begin=lambda scene: done.append("begun"), end=lambda scene: done.append("ended")))
    (step,) = experiment.steps
    step.act(Scene(MASTER, "master0", "master1", copy.deepcopy(stack.describe(22, lambda name: "ssh-ed25519 AAAA")), moment=1002.0))
    assert done == ["begun", "ended"]
    assert sum(each or SAMPLE_S for each in taken[-rows.HELD_SAMPLES :]) > alerts.waits_s(fault.alert)
    assert sum(slept) < 240


def test_a_fault_that_could_not_begin_is_ended_too() -> None:
    done: list[str] = []

    def fails(scene: Scene) -> None:
        raise machine.MachineError("no")

    fault = rows.Fault("broken", "OpenshiftLvsNoHolder", fails, lambda scene: done.append("ended"))
    with pytest.raises(machine.MachineError):
        rows._fires(fault).steps[0].act(Scene(MASTER, "master0", "master1", {}))
    assert done == ["ended"]


def test_the_lab_prints_the_file_of_each_node(tmp_path: Path) -> None:
    """The branch of guest/lab, with its two folders here."""
    script = (machine.HERE / "guest" / "lab").read_text()
    (branch,) = [part for part in script.split(";;\n") if part.startswith("files)")]
    (tmp_path / "nodes").write_text("bridge 192.168.0.254\nmaster0 192.168.0.2\nmaster1 192.168.0.3\nclient 192.168.0.100\n")
    (tmp_path / "master0/root/var").mkdir(parents=True)
    (tmp_path / "master0/root/var/file").write_text("a 1\n")
    body = branch.removeprefix("files)").replace("/etc/lab/nodes", str(tmp_path / "nodes")).replace("/run/nodes", str(tmp_path))
    done = subprocess.run(["bash", "-euc", f"client=client; {body}", "lab", "/var/file"], capture_output=True, text=True, check=True)
    assert alerts.read(done.stdout).files == {"master0": "a 1\n", "master1": ""}
