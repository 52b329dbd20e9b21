"""How the data plane lab judges what its probes saw."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import math
import re
import shlex
import socket
import subprocess
import tarfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from components import keepalived
from components.configuration import Cluster
from lab.cloud import kvm
from lab.nodes import kube, machine, picture, probe, runner, stack
from lab.nodes.experiments import EXPERIMENTS, bounds, changes, neighbours, repairs
from lab.nodes.experiments.changes import CHANGES
from lab.nodes.experiments.cluster import TRANSLATED
from lab.nodes.experiments.scene import Bound, Experiment, Scene, Step, two_directors
from lab.nodes.probe import INFRA, MASTER, Delay, Holding, Request, Seen, Stream, Table
from lab.nodes.runner import Outcome
from lab.stack import PROJECT, DeploymentError, Stack
from node.openshift_lvs.description import Description
from node.openshift_lvs.ipvs import connections_in
from node.openshift_lvs.record import replace

CLUSTER = stack.describe(22, lambda name: "ssh-ed25519 AAAA")
CLUSTERS = [experiment for experiment in EXPERIMENTS if experiment.cluster]
BEGAN, MOMENT, ENDED = 1000.0, 1002.0, 1006.0


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab that happens to run is not touched."""
    monkeypatch.setattr(machine, "ssh", lambda: pytest.fail("a unit test asks the lab's machine"))
    monkeypatch.setattr(machine, "port", lambda: pytest.fail("a unit test asks for the lab's machine"))
    # pulumi reaches the nodes by itself.
    monkeypatch.setattr(Stack, "start", lambda *_, **__: pytest.fail("a unit test runs pulumi on the lab's stack"))


def seen(failed: tuple[float, ...] = (), **changed: Any) -> Seen:
    """Four requests a second in turn answered by three servers, those that began at the times `failed` never connected."""
    requests = tuple(
        Request("master", BEGAN + index / 4, 0.0, 0.9, "", "timeout")
        if index / 4 in failed
        else Request("master", BEGAN + index / 4, 0.01, 0.1, f"master{index % 3}", "")
        for index in range(24)
    )
    streams = tuple(Stream("master", f"master{index % 3}", 30, 0.2, "", 0.0) for index in range(12))
    holdings = (Holding(999.9, MASTER.address, ()), Holding(999.95, MASTER.address, ("master0",)))
    control = (Request("control", BEGAN, 0.01, 0.3, "infra1", ""),)
    tables = (Table(999.9, "master0", 3), Table(999.9, "master1", 3))
    whole = Seen(MASTER, BEGAN, ENDED, requests, streams, holdings, tables, 1.7, control)
    return dataclasses.replace(whole, **changed)


def broken(bound: Bound, what: Seen) -> list[str]:
    return [*runner.broken(bound, SCENE, what), *late(bound, what)]


def late(bound: Bound, what: Seen) -> dict[str, float]:
    return runner.late(bound, SCENE, what, {"master0": 2, "master1": 2})


SCENE = Scene(MASTER, "master0", "master1", CLUSTER, moment=MOMENT)
NOTHING_LOST = Bound("nothing lost")


def test_nothing_is_broken_when_all_was_answered_and_every_stream_lives() -> None:
    assert broken(NOTHING_LOST._replace(every_server=True, gap_s=0.2, quiet_after_s=0), seen()) == []


def test_one_failed_request_breaks_a_bound_of_none() -> None:
    assert "1 of 24 failed" in broken(NOTHING_LOST, seen(failed=(3.0,)))[0]


def test_so_many_may_be_refused_and_nothing_else_may_fail() -> None:
    refused = [dataclasses.replace(request, error="refused") for request in seen().requests[:3]]
    rest = seen().requests[3:]
    assert broken(NOTHING_LOST._replace(refused=3), seen(requests=(*refused, *rest))) == []
    assert "3 of 24 failed" in broken(NOTHING_LOST._replace(refused=2), seen(requests=(*refused, *rest)))[0]
    assert "4 of 24 failed" in broken(NOTHING_LOST._replace(refused=3), seen(requests=(*refused, dataclasses.replace(rest[0], error="reset"), *rest[1:])))[0]


def test_a_refusal_breaks_a_bound_of_none_and_a_request_that_waits_does_not() -> None:
    first, *rest = seen().requests
    bound = NOTHING_LOST._replace(failed=1, never_refused=True)
    assert broken(bound, seen(requests=(dataclasses.replace(first, error="SYN sent again"), *rest))) == []
    assert "1 requests were refused" in broken(bound, seen(requests=(dataclasses.replace(first, error="refused"), *rest)))[0]


def test_so_many_may_wait_where_the_rest_is_refused() -> None:
    first, second, *rest = (dataclasses.replace(request, error="SYN sent again") if index < 2 else request for index, request in enumerate(seen().requests))
    bound = NOTHING_LOST._replace(failed=None, never_silent=True)
    assert broken(bound._replace(waiting=2), seen(requests=(first, second, *rest))) == []
    assert "2 requests were left without an answer" in broken(bound._replace(waiting=1), seen(requests=(first, second, *rest)))[0]


def test_a_gap_lasts_from_the_last_sign_of_life_to_the_next() -> None:
    assert seen(failed=(3.0, 3.25, 3.5)).longest_gap_s == 0.91


def test_a_connection_that_came_about_is_a_sign_of_life_even_when_its_answer_did_not() -> None:
    requests = tuple(dataclasses.replace(request, connected=0.01) for request in seen(failed=(3.0, 3.25, 3.5)).requests)
    assert seen(requests=requests).longest_gap_s == 0.25


def test_a_gap_at_the_end_lasts_as_long_as_was_looked() -> None:
    assert seen(failed=(5.5, 5.75)).longest_gap_s == 0.65


def test_scattered_failures_are_no_long_gap() -> None:
    assert seen(failed=(3.0, 3.5, 4.0)).longest_gap_s == 0.41


def test_a_failure_after_the_quiet_began_breaks_the_bound() -> None:
    bound = Bound("quiet", failed=None, quiet_after_s=1)
    assert broken(bound, seen(failed=(2.5,))) == []
    assert "1.5 s after the event" in broken(bound, seen(failed=(3.5,)))[0]


def test_a_lost_stream_counts_unless_its_node_is_the_one_that_is_gone() -> None:
    lost = (*seen().streams[:11], Stream("master", "master2", 3, 0.2, "reset", MOMENT))
    assert "1 of 12 streams lost: ['master2: reset']" in broken(NOTHING_LOST, seen(streams=lost))[0]
    assert broken(NOTHING_LOST._replace(may_lose_streams_of=("master2",)), seen(streams=lost)) == []


def test_the_time_of_a_repair_is_that_of_the_first_one_after_the_event() -> None:
    line = "{} master0 openshift-lvs[410]: repaired {}: put back"
    journal = "\n".join(line.format(*each) for each in [("1001.9", "IPVS table"), ("1002.5", "sysctl x"), ("1003.25", "IPVS table"), ("1004.0", "IPVS table")])
    assert repairs.repaired_after(journal, "IPVS table", MOMENT) == 1.25
    assert repairs.repaired_after(journal, "nftables rules", MOMENT) == math.inf


def test_a_row_without_enough_requests_shows_nothing() -> None:
    assert broken(NOTHING_LOST, seen(requests=())) == ["only 0 requests were made"]
    assert broken(NOTHING_LOST._replace(least=300), seen()) == ["only 24 requests were made"]


def test_a_stream_that_no_server_ever_answered_is_lost_whichever_node_is_gone() -> None:
    lost = (*seen().streams[:11], Stream("master", "", 0, 0.0, "refused", MOMENT))
    for bound in (NOTHING_LOST, NOTHING_LOST._replace(may_lose_streams_of=("master2",))):
        assert "1 of 12 streams lost: [': refused']" in broken(bound, seen(streams=lost))[0]


def test_a_stream_that_lost_a_line_counts_whichever_node_is_gone_when_it_is_another_one() -> None:
    lost = (Stream("master", "master1", 3, 0.2, "wanted line 3", MOMENT),)
    assert broken(NOTHING_LOST._replace(may_lose_streams_of=("master2",)), seen(streams=lost))


def test_more_syns_than_two_a_request_are_a_loop() -> None:
    assert "loop" in broken(NOTHING_LOST, seen(syns_per_request=27))[0]


def test_two_owners_for_longer_than_the_bound_break_it() -> None:
    holdings = (*seen().holdings, Holding(1003.0, MASTER.address, ("master0", "master1")), Holding(1004.0, MASTER.address, ("master1",)))
    assert seen(holdings=holdings).seconds_with_holders(2, MOMENT) == 1.0
    assert broken(NOTHING_LOST._replace(one_owner_after_s=2.1), seen(holdings=holdings)) == []
    assert "one owner only after 2.0 s" in broken(NOTHING_LOST._replace(one_owner_after_s=0.7), seen(holdings=holdings))[0]


def test_no_owner_at_the_end_breaks_every_bound_on_owners() -> None:
    holdings = (*seen().holdings, Holding(1003.0, MASTER.address, ()))
    assert "one owner only after None s" in broken(NOTHING_LOST._replace(one_owner_after_s=99), seen(holdings=holdings))[0]


def test_the_slowest_table_counts_and_only_what_stays_so() -> None:
    tables = (*seen().tables, Table(1002.5, "master0", 2), Table(1003.0, "master0", 3), Table(1003.5, "master0", 2), Table(1004.25, "master1", 2))
    assert seen(tables=tables).tables_right_after({"master0": 2}, MOMENT) == 1.5
    assert broken(NOTHING_LOST._replace(tables_after_s=2.3), seen(tables=tables)) == []
    assert "tables were right only after 2.25 s" in broken(NOTHING_LOST._replace(tables_after_s=2.2), seen(tables=tables))[0]


def test_a_table_that_never_becomes_right_breaks_the_bound() -> None:
    assert "only after None s" in broken(NOTHING_LOST._replace(tables_after_s=99), seen())[0]


@pytest.mark.parametrize("error", sorted(probe.LEFT_WAITING))
def test_a_request_that_is_left_waiting_is_no_refusal(error: str) -> None:
    bound = Bound("refused", failed=None, never_silent=True)
    refused = [dataclasses.replace(request, error="refused") for request in seen().requests]
    assert broken(bound, seen(requests=tuple(refused))) == []
    assert "1 requests were left" in broken(bound, seen(requests=(*refused[1:], dataclasses.replace(refused[0], error=error))))[0]
    assert f'"{error}"' in "".join(file.read_text() for file in (PROJECT / "lab/nodes/traffic").glob("*.go"))


def test_a_row_that_is_only_reported_forbids_nothing() -> None:
    assert broken(Bound("reported", reported=True), seen(failed=(3.0,), syns_per_request=27)) == []


def test_the_tables_to_come_follow_from_the_configuration() -> None:
    scene = Scene(INFRA, "infra0", "infra1", CLUSTER)
    assert scene.live() == {"infra0": 4, "infra1": 4}
    assert scene.live("infra1", port=80) == {"infra0": 3, "infra1": 3}
    assert scene.live(off="infra0") == {"infra1": 2}


def test_a_server_that_never_answers_breaks_a_fair_share() -> None:
    requests = tuple(request for request in seen().requests if request.server != "master2")
    assert "master2 answered less" in broken(NOTHING_LOST._replace(every_server=True), seen(requests=requests))[0]


STEP = Step("a thing happens", "planned", lambda scene: None, lambda scene: NOTHING_LOST)
OTHER = dataclasses.replace(STEP, name="another")


def outcome(what: Seen, bound: Bound = NOTHING_LOST) -> Outcome:
    said = tuple(broken(bound, what))
    return Outcome(STEP, bound, what, MOMENT, {"master0": 3}, 1.5, said, runner.over_s(said, late(bound, what)))


def test_a_failure_while_the_control_failed_too_is_called_noise() -> None:
    noisy = (Request("control", BEGAN, 0.0, 0.9, "", "timeout"),)
    assert outcome(seen(failed=(3.0,), control=noisy)).noisy
    assert not outcome(seen(failed=(3.0,))).noisy
    assert not outcome(seen(control=noisy)).noisy


def test_what_is_late_by_no_more_than_the_machines_own_timers_is_called_noise() -> None:
    soon = Bound("soon", failed=None, quiet_after_s=0.8)  # and the last failure is 1 s after the event
    explained, too_little, before = (Delay(MOMENT + 0.5, 0.06),), (Delay(MOMENT + 0.5, 0.04),), (Delay(BEGAN, 0.5),)
    assert outcome(seen(failed=(3.0,), delays=explained), soon).noisy
    assert not outcome(seen(failed=(3.0,), delays=too_little), soon).noisy
    assert not outcome(seen(failed=(3.0,), delays=before), soon).noisy
    assert not outcome(seen(failed=(3.0,), delays=explained), soon._replace(failed=0)).noisy  # a request that failed is no matter of time
    assert not outcome(seen(holdings=(), delays=explained), soon._replace(tables_after_s=1.0)).noisy  # nor is what never came


def test_while_keepalived_says_that_its_checks_stood_still_a_lost_server_stays_and_nothing_else_is_excused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"master0": "A thread timer expired 5.018819 seconds ago\n", "master1": "A thread timer expired 1.2 seconds ago\nnothing else\n"}
    monkeypatch.setattr(machine, "run", lambda *command: SimpleNamespace(stdout=said[command[2]]))
    assert (probe.checks_waited(said, MOMENT), probe.checks_waited(["master1"], MOMENT)) == (5.02, 0.0)
    soon = Bound("soon", failed=None, quiet_after_s=0.8, gap_s=0.2)
    assert broken(soon, seen(failed=(3.0,))) == ["nobody was served for 0.41 s", "a request failed 1.0 s after the event"]
    assert broken(soon, seen(failed=(3.0,), checks_waited_s=0.5)) == ["nobody was served for 0.41 s"]
    assert broken(NOTHING_LOST._replace(failed=None), seen(failed=(3.0,), checks_waited_s=5.0, syns_per_request=2.2)) == []
    assert "loop" in broken(NOTHING_LOST._replace(failed=None), seen(failed=(3.0,), syns_per_request=2.2))[0]
    assert "loop" in broken(NOTHING_LOST._replace(failed=None), seen(failed=(3.0,), checks_waited_s=5.0, syns_per_request=2.4))[0]


def again(monkeypatch: pytest.MonkeyPatch, *runs: list[Outcome]) -> list[Outcome]:
    """What is recorded when an experiment's attempts come to these."""
    attempts = iter(runs)
    monkeypatch.setattr(runner, "_run_all", lambda experiment, described: next(attempts))
    return runner._twice_if_noisy(Experiment(MASTER, ()), {})


def test_noise_is_given_a_second_chance_and_what_was_broken_without_noise_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = (Request("control", BEGAN, 0.0, 0.9, "", "timeout"),)
    doubtful, flaw, fine = outcome(seen(failed=(3.0,), control=noisy)), dataclasses.replace(outcome(seen(failed=(3.0,))), step=OTHER), outcome(seen())
    told = again(monkeypatch, [doubtful, flaw], [fine, dataclasses.replace(fine, step=OTHER)])
    assert [(o.step.name, bool(o.broken), o.again) for o in told] == [("another", True, False), ("a thing happens", False, True), ("another", False, True)]


def test_noise_in_every_attempt_hides_no_flaw(monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful = outcome(seen(failed=(3.0,), control=(Request("control", BEGAN, 0.0, 0.9, "", "timeout"),)))
    assert [bool(o.broken) for o in again(monkeypatch, [doubtful], [doubtful])] == [True]


def test_quiet_runs_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(again(monkeypatch, [outcome(seen(failed=(3.0,)))])) == 1


class Probes:
    """Probes that saw nothing wrong."""

    def __init__(self, *_: object) -> None:
        self.seen = seen()

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def test_a_state_that_never_comes_is_a_broken_row_and_the_faults_are_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise TimeoutError("waited 60 s for every director; last seen: master0 has 2 of 3 servers")

    mended: list[object] = []
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    monkeypatch.setattr(runner, "QUIET_S", 0)
    monkeypatch.setattr(runner, "Probe", Probes)
    monkeypatch.setattr(runner, "mend", lambda *_: mended.append(1))
    monkeypatch.setattr(runner._Lab, "in_force", (CLUSTER, {}))
    monkeypatch.setattr(stack, "cluster", lambda: CLUSTER)
    monkeypatch.setattr(machine, "run", lambda *_, **__: None)
    monkeypatch.setattr(probe, "now", lambda: MOMENT)
    monkeypatch.setattr(probe, "holder", lambda target: "master0")
    monkeypatch.setattr(probe, "wait_until_whole", never)
    telling = dataclasses.replace(STEP, act=lambda scene: scene.told.append("it began"))
    first, next_run = runner.run(Experiment(MASTER, (telling, OTHER)), 2)
    assert first.broken == ("waited 60 s for every director; last seen: master0 has 2 of 3 servers",)
    assert (first.step, next_run.step, len(mended)) == (telling, telling, 2)
    assert first.told == next_run.told == ("it began",)
    assert "**no**: waited 60 s" in runner.table(["a thing happens"])


def no_lab(monkeypatch: pytest.MonkeyPatch, refusals: list[bool]) -> list[Any]:
    """What is deployed, to nodes that are whole at once; `refusals`: whether each deployment in turn fails."""
    deployed: list[Any] = []

    def up(described: dict[str, Any], auth_pass: object) -> None:
        deployed.append((described["ssh"]["bastion"]["port"], [*described["pools"]["master"].get("directors", ())]))
        if refusals and refusals.pop(0):
            raise DeploymentError("no")

    ports = iter(range(1, 9))
    lab = SimpleNamespace(port=next(ports))
    monkeypatch.setattr(runner._Lab, "in_force", None)
    monkeypatch.setattr(stack, "cluster", lambda: {**copy.deepcopy(CLUSTER), "ssh": {"bastion": {"port": lab.port}}})
    monkeypatch.setattr(stack, "up", up)
    monkeypatch.setattr(stack, "forget", lambda: None)
    monkeypatch.setattr(machine, "run", lambda *_, **__: None)
    monkeypatch.setattr(machine, "down", lambda: None)
    monkeypatch.setattr(machine, "has_cluster", lambda: False)
    monkeypatch.setattr(machine, "up", lambda cluster: setattr(lab, "port", next(ports)))
    monkeypatch.setattr(probe, "wait_until_whole", lambda *_: None)
    monkeypatch.setattr(Scene, "live", lambda scene: {})
    return deployed


def test_a_configuration_stays_until_an_experiment_needs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = no_lab(monkeypatch, [])
    plain, arranged = Experiment(MASTER, ()), Experiment(MASTER, (), arrange=two_directors)
    monkeypatch.setattr(runner, "_twice_if_noisy", lambda experiment, described: [])
    runner.mend()
    for experiment in (plain, arranged, arranged, plain):
        runner.run(experiment, 2)
    runner.restore()
    assert deployed == [(1, []), (1, ["master0", "master1"]), (1, [])]


def test_after_a_deployment_that_failed_the_next_experiment_deploys_whatever_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = no_lab(monkeypatch, [False, True])
    runner.mend()
    with pytest.raises(DeploymentError):
        runner._put_in_force({**stack.cluster(), "pools": {"master": {"directors": ["master0"]}}}, {})
    runner.restore()
    assert deployed[1:] == [(1, ["master0"]), (1, [])]


def test_a_lab_that_is_made_anew_is_reached_by_its_new_port(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed = no_lab(monkeypatch, [True])
    described = stack.cluster()
    runner.mend(described)
    assert (deployed, described["ssh"]["bastion"]["port"]) == ([(1, []), (2, [])], 2)


def test_the_worst_of_all_runs_stands_in_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    for run in (seen(), seen(failed=(3.0, 3.25)), seen(failed=(3.0,))):
        runner.record(outcome(run))
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["name"], row["runs"], row["failed"], row["holds"]) == ("a thing happens", 3, 2, False)
    assert (tmp_path / "a-thing-happens.svg").read_text().count("#c0392b") == 2


def test_a_picture_shows_who_held_the_address_and_every_failure() -> None:
    drawn = picture.draw("a <title>", "holds", seen(failed=(3.0,)), MOMENT)
    ElementTree.fromstring(drawn)
    assert all(words in drawn for words in ("a &lt;title&gt;", "holds 192.168.0.250", "master0 (7)", "failed (1 of 24)", ">event<"))


@pytest.mark.parametrize(
    ("booted_with", "counted", "instructions", "ended"),
    [
        (b"these programs", False, None, 0),
        (b"others", False, None, 1),
        (b"these programs", True, 5, 0),
        (b"these programs", True, None, 1),
    ],
)
def test_a_lab_that_was_booted_with_other_programs_or_counts_nothing_is_booted_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, booted_with: bytes, counted: bool, instructions: int | None, ended: int
) -> None:
    (tmp_path / "payload.tar").write_bytes(booted_with)
    runs, downs, begun = [True], [], []
    monkeypatch.setattr(machine, "instructions", lambda: instructions)
    monkeypatch.setattr(kvm, "works", lambda: False)
    monkeypatch.setattr(machine, "state", lambda: tmp_path)
    monkeypatch.setattr(machine, "image", lambda cluster: tmp_path)
    monkeypatch.setattr(machine, "_payload", lambda cluster: b"these programs")
    monkeypatch.setattr(machine, "running", lambda: bool(runs))
    monkeypatch.setattr(machine, "down", lambda: downs.append(runs.pop()))
    monkeypatch.setattr(machine, "_start", lambda built, payload, memory_mb, counted: begun.append(payload))
    monkeypatch.setattr(machine, "wait_for", lambda *_: None)
    monkeypatch.setattr(machine, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    machine.up(counted=counted)
    assert (len(downs), begun) == (ended, [b"these programs"] * ended)


def test_the_machine_is_asked_for_its_instructions_at_a_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "state", lambda: tmp_path)
    assert machine.instructions() is None, "a machine that was booted without the counter"
    with socket.socket(socket.AF_UNIX) as counter:
        counter.bind(str(tmp_path / machine.COUNTER))
        assert machine.instructions() is None, "a machine that has ended"
        counter.listen()

        def answer() -> None:
            with counter.accept()[0] as caller:
                caller.sendall(b"16929260132\n")

        with ThreadPoolExecutor() as threads:
            threads.submit(answer)
            assert machine.instructions() == 16929260132


@pytest.fixture
def no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing is built: a machine that could be booted, and the folder of its state."""
    (tmp_path / "traffic").write_text("")
    monkeypatch.setattr(machine, "state", lambda: tmp_path)
    monkeypatch.setattr(machine, "traffic", lambda: tmp_path / "traffic")
    return tmp_path


def test_only_a_machine_that_was_booted_for_it_has_the_programs_of_a_clusters_nodes(no_image: Path) -> None:
    assert not machine.has_cluster()
    for cluster in (True, False):
        (no_image / "payload.tar").write_bytes(machine._payload(cluster))
        assert machine.has_cluster() is cluster
    with tarfile.open(fileobj=io.BytesIO(machine._payload(cluster=True))) as tar:
        assert tar.getmember(machine.CLUSTER_COMMAND).mode == 0o755
        assert tar.getmember("etc/systemd/system/kube-proxy.service").mode == 0o644


def test_a_lab_that_is_made_anew_has_the_programs_of_a_clusters_nodes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    no_lab(monkeypatch, [True])
    booted: list[bool] = []
    monkeypatch.setattr(machine, "has_cluster", lambda: True)
    monkeypatch.setattr(machine, "up", booted.append)
    runner.mend(stack.cluster())
    assert booted == [True]


def test_what_an_experiment_starts_is_there_before_its_configuration_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(stack, "cluster", lambda: copy.deepcopy(CLUSTER))
    monkeypatch.setattr(machine, "run", lambda *command, **_: done.append(command[-1]))
    monkeypatch.setattr(runner, "_put_in_force", lambda *_: done.append("deployed"))
    monkeypatch.setattr(runner._Lab, "in_force", None)
    with runner.arranged(Experiment(MASTER, (), before="begin", after="end")):
        pass
    assert done == ["begin", "deployed", "end"]


def test_a_table_counts_as_wrong_from_when_it_differs_to_when_it_is_right_again() -> None:
    tables = (*seen().tables, Table(1003.0, "master0", 0), Table(1003.2, "master0", 2), Table(1004.0, "master0", 3), Table(1005.0, "master1", 0))
    live = {"master0": 3, "master1": 3}
    assert seen(tables=tables[:-1]).tables_wrong_for(live, MOMENT) == 1.0
    assert seen(tables=tables).tables_wrong_for(live, MOMENT) == ENDED - 1005.0
    assert seen(tables=tables[:-1]).tables_wrong_for(live, 1003.5) == 0.5
    bound = Bound("soon", tables_wrong_s=0.9)
    assert runner.late(bound, SCENE, seen(tables=tables[:-1]), live) == {"a director's table was wrong for 1.0 s": pytest.approx(0.1)}


def test_a_server_that_leaves_the_rotation_for_a_moment_breaks_the_bound_of_one_that_stays() -> None:
    bound, live = bounds.in_rotation(SCENE), {"master0": 3, "master1": 3}
    assert runner.late(bound, SCENE, seen(), live) == {}
    tables = (*seen().tables, Table(1003.0, "master0", 2), Table(1003.1, "master0", 3))
    assert runner.late(bound, SCENE, seen(tables=tables), live) == {"a director's table was wrong for 0.1 s": pytest.approx(0.1)}


def test_at_the_defaults_a_silent_server_is_evicted_within_the_bound_of_a_lost_server() -> None:
    assert [name for name, vip in Cluster.parse(CLUSTER).vips.items() if vip.eviction_seconds > bounds.SERVER_S] == []


def test_what_a_step_tells_stands_in_its_row_and_its_line() -> None:
    told = dataclasses.replace(outcome(seen()), told=("2 of 9 requests failed",))
    assert told.row()["told"] == ["2 of 9 requests failed"]
    assert runner.line(told).endswith("\n    2 of 9 requests failed")


def test_datagrams_and_a_routers_requests_are_asked_without_streams() -> None:
    plain = probe.Probe(MASTER)._config()
    router = probe.Probe(INFRA._replace(host="app.example.org"))._config()
    datagrams = probe.Probe(MASTER._replace(udp=True))._config()
    assert [stream["count"] for stream in plain["streams"]] == [12]
    assert (router["streams"], {request.get("host") for request in router["requests"]}) == ([], {"app.example.org", None})
    assert (datagrams["streams"], [request.get("udp") for request in datagrams["requests"]]) == ([], [True, None])


def commands(monkeypatch: pytest.MonkeyPatch, experiment: Experiment) -> list[str]:
    """The shell scripts and commands that an experiment's steps run in the machine."""
    ran: list[str] = [experiment.before, experiment.after]

    def run(*command: str, **_: object) -> SimpleNamespace:
        ran.append(command[-1] if command[0] == "sh" else shlex.join(command))
        return SimpleNamespace(stdout="0", stderr="", returncode=0)

    said = json.dumps({"asked": {}, "failed": {}, "watches_ended": [], "written": 1, "unseen": 0})
    client = SimpleNamespace(stdout=io.StringIO("ready\n"), communicate=lambda timeout: (said, ""), returncode=0)
    monkeypatch.setattr(machine, "run", run)
    monkeypatch.setattr(machine, "start", lambda *_: client)
    monkeypatch.setattr(probe, "at", lambda *command: float(run(*command).returncode))
    monkeypatch.setattr(probe, "now", lambda: MOMENT)
    monkeypatch.setattr(probe, "wait_until_whole", lambda *_: None)
    monkeypatch.setattr(stack, "operate", lambda *_: SimpleNamespace(stdout="", stderr="", returncode=0))
    monkeypatch.setattr(stack, "cluster", lambda: copy.deepcopy(CLUSTER))
    monkeypatch.setattr(stack, "up", lambda *_: 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    scene = Scene(experiment.target, "master0", "master1", copy.deepcopy(CLUSTER))
    if experiment.arrange:
        experiment.arrange(scene.described)
    refusal = " ".join(f"{MASTER.address}:{service.port}/TCP{TRANSLATED}" for service in scene.cluster.vips["master"].services)

    def up(described: Mapping[str, Any], *_: object) -> None:
        if described != scene.described:
            raise DeploymentError(refusal)

    monkeypatch.setattr(stack, "up", up)
    for step in experiment.steps:
        client.stdout.seek(0)
        step.act(scene)
        list(step.evidence(scene))
    return ran


@pytest.mark.parametrize("experiment", CLUSTERS, ids=lambda experiment: experiment.name)
def test_a_clusters_rows_run_commands_that_there_are(monkeypatch: pytest.MonkeyPatch, experiment: Experiment) -> None:
    known = set(re.findall(r"^([a-z|-]+)\)", (machine.HERE / "guest/cluster" / machine.CLUSTER_COMMAND).read_text(), re.MULTILINE))
    ran = commands(monkeypatch, experiment)
    asked = set(re.findall(r"(?<![\w-])cluster ([a-z-]+)", "\n".join(ran)))
    assert asked
    assert asked <= known
    for script in ran:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_whatever_a_clusters_row_begins_it_can_undo() -> None:
    script = (machine.HERE / "guest/cluster" / machine.CLUSTER_COMMAND).read_text()
    begun = set(re.findall(r"^ +did ([a-z]+) ", script, re.MULTILINE))
    assert len(begun) >= 9
    assert all(f"\nno-{thing})" in script for thing in begun)


def test_every_backend_of_the_router_is_declared_once_and_each_that_is_used_exists() -> None:
    text = (machine.HERE / "guest/cluster/etc/haproxy/router.cfg").read_text()
    declared = re.findall(r"^backend (\S+)", text, re.MULTILINE)
    used = re.findall(r"^ +(?:use|default)_backend (\S+)", text, re.MULTILINE)
    # HAProxy refuses two of one name, and then the row of the router does not begin.
    assert sorted(declared) == sorted(set(used))


def test_the_programs_are_those_of_one_release_of_kubernetes() -> None:
    required = re.findall(r"(k8s\.io/\S+) (v\S+)(?: // indirect)?$", (kube.HERE / "go.mod").read_text(), re.MULTILINE)
    _, minor, patch = kube.VERSION.split(".")
    staged = {version for module, version in required if f"replace {module} => {module} v" in (kube.HERE / "go.mod").read_text()}
    assert staged <= {f"v0.{minor}.{patch}", "v0.0.0"}
    assert len(staged) == 2


def test_the_entries_of_a_director_are_counted_without_listing_them() -> None:
    table = (
        "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n"
        "FWM  03302090 mh \n  -> C0A80002:0000      Route   1      300000     12        \n  -> C0A80003:0000      Route   0      5          0         \n"
    )
    assert connections_in(table) == 300017


def test_a_host_outside_the_pool_that_holds_the_vip_is_awaited_as_its_holder() -> None:
    step = next(step for experiment in EXPERIMENTS for step in experiment.steps if step.name == "a host's own keepalived holds the VIP")
    scene = Scene(MASTER, "master0", "master1", copy.deepcopy(CLUSTER))
    neighbours._without_owner(scene)(scene.described)
    assert step.live(scene) == {"master0": 0, "master1": 2, "master2": 2}


def test_an_experiment_limits_the_connections_in_the_description_in_force() -> None:
    flood = next(experiment for experiment in EXPERIMENTS if experiment.name.startswith("few connections are allowed"))
    ran: list[str] = []
    scene = SimpleNamespace(live=lambda: {"master0": 3}, on=lambda node, script: ran.append(script))
    flood.steps[0].act(scene)  # type: ignore[arg-type]
    (edit,) = re.findall(r"sed -i '([^']*)' /etc/keepalived/current/host.json", ran[0])
    rendered = next(file.text for file in keepalived.render(Cluster.parse(CLUSTER), "master0") if file.path == "host.json")
    edited = subprocess.run(["sed", edit], input=rendered, capture_output=True, text=True, check=True).stdout
    assert Description.from_json(edited) == replace(Description.from_json(rendered), connections_max=20_000) != Description.from_json(rendered)


def test_there_are_at_least_thirty_named_faults_and_states() -> None:
    names = [step.name for experiment in EXPERIMENTS for step in experiment.steps]
    assert len(names) == len(set(names)) >= 30


def test_the_model_accepts_every_configuration_that_is_arranged_or_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[Cluster] = []
    monkeypatch.setattr(stack, "cluster", lambda: copy.deepcopy(CLUSTER))
    monkeypatch.setattr(stack, "up", lambda described, auth_pass=None: deployed.append(Cluster.parse(described)))
    monkeypatch.setattr(probe, "now", lambda: MOMENT)
    monkeypatch.setattr(probe, "holder", lambda target: "master0")
    monkeypatch.setattr(changes, "files_in_force", lambda node: "")
    monkeypatch.setattr(Scene, "on", lambda scene, node, script: None)
    for experiment in [*CHANGES, *(each for each in EXPERIMENTS if each not in CHANGES)]:
        scene = Scene(experiment.target, "master0", "master1", copy.deepcopy(CLUSTER))
        if experiment.arrange:
            experiment.arrange(scene.described)
            assert set(scene.live()) <= {"master0", "master1", "master2", "infra0", "infra1"}
        for step in experiment.steps:
            if step.kind == "change" or (step.kind == "example" and step.name.startswith("pulumi up: ")):
                step.act(scene)
    assert len(deployed) >= len(CHANGES[0].steps)
    assert deployed[len(CHANGES[0].steps) - 1] == Cluster.parse(CLUSTER)


def test_a_revert_that_leaves_another_file_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, revert = next(experiment for experiment in CHANGES if experiment.name == "pulumi up: a commit with several changes").steps
    files = {node.name: "versions/one\naaaa  ./keepalived.conf" for node in Cluster.parse(CLUSTER).nodes()}
    monkeypatch.setattr(changes, "files_in_force", lambda node: files[node])
    monkeypatch.setattr(stack, "cluster", lambda: copy.deepcopy(CLUSTER))
    monkeypatch.setattr(stack, "up", lambda described, auth_pass=None: None)
    monkeypatch.setattr(probe, "now", lambda: MOMENT)
    monkeypatch.setattr(Scene, "not_in_force", lambda scene: ())
    scene = Scene(MASTER, "master0", "master1", copy.deepcopy(CLUSTER))
    commit.act(scene)
    assert Cluster.parse(scene.described) != Cluster.parse(CLUSTER)
    revert.act(scene)
    assert Cluster.parse(scene.described) == Cluster.parse(CLUSTER) and list(revert.evidence(scene)) == []
    files["master2"] = "versions/one\nbbbb  ./keepalived.conf"
    assert list(revert.evidence(scene)) == ["master2 has other files than before the commit: aaaa  ./keepalived.conf; bbbb  ./keepalived.conf"]


def test_an_experiment_that_could_not_begin_is_a_broken_row_like_any() -> None:
    row = runner._unseen(EXPERIMENTS[0], "the deployment failed").row()
    assert (row["holds"], row["broken"], row["seconds_with_holders"]) == (False, ["the deployment failed"], {})
