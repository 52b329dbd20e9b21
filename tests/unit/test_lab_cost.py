"""What the lab measures of the rules' and the resident process's cost, and how it judges that."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import json
import os
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.configuration import Cluster
from lab.nodes import __main__ as command
from lab.nodes import cost, machine, runner, stack
from lab.nodes.cost import Compared, Load
from lab.nodes.experiments.releases import SCRIPTS_COMMIT
from lab.stack import PROJECT

CLUSTER = stack.describe(22, lambda name: "ssh-ed25519 AAAA")
SERVERS = {"master0": 400, "master1": 400, "master2": 400}
BEFORE = Load(4000, {}, SERVERS, 8.0, 16.0, 12.0, 18.0)


def slower(percent: float, **changed: Any) -> Load:
    """The same processor time for fewer requests."""
    return Load(**{**vars(BEFORE), "requests": round(4000 * (1 - percent / 100)), **changed})


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """The rules' template of the former release, as its folder has it."""
    name = "templates/etc/keepalived/current/lvs.nft.j2"
    shown = subprocess.run(["git", "show", f"{SCRIPTS_COMMIT}:{name}"], cwd=PROJECT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip(f"this clone has no {SCRIPTS_COMMIT}: git fetch --unshallow")
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(shown.stdout)
    return tmp_path


@pytest.mark.parametrize("number", cost.SERVICES)
def test_the_former_rules_mark_every_service_as_the_ipvs_table_has_it(former: Path, number: int) -> None:
    described = copy.deepcopy(CLUSTER)
    cost.with_services(number)(described)
    cluster = Cluster.parse(described)
    vip = cluster.vips["master"]
    assert len(vip.services) == number
    rules = cost.former_rules(cluster, "master", former)
    marked = re.findall(r"ip daddr 192\.168\.0\.250 tcp dport (\d+) meta mark set (\d+)", rules)
    assert marked == [(str(service.port), str(vip.mark(service))) for service in vip.services]
    # Loading them replaces the rules in force.
    assert "delete table ip openshift_lvs\n" in rules and 'iifname != "eth0" return' in rules


def test_services_that_no_process_serves_are_checked_at_the_first_ones_port() -> None:
    described = copy.deepcopy(CLUSTER)
    cost.with_services(50)(described)
    assert {service["health_check"].get("connect_port", service["port"]) for service in described["vips"]["master"]["services"]} == {8443}


def test_a_median_beyond_the_bound_is_told_and_one_slow_pair_is_not() -> None:
    pairs = [(BEFORE, slower(0)), (BEFORE, slower(1)), (BEFORE, slower(30))]
    assert Compared(1, 0, pairs).worse() == []
    assert Compared(1, 0, [(BEFORE, slower(6))] * 3).worse() == ["requests per second", "processor time per request, ms"]
    assert Compared(1, 0, [(BEFORE, slower(-20))] * 3).worse() == []
    assert Compared(1, 0, [(BEFORE, slower(0, failures={"timeout": 2}))]).worse() == ["2 requests failed"]


def test_the_table_has_the_median_and_the_spread() -> None:
    pairs = [(BEFORE, slower(1)), (BEFORE, slower(2)), (slower(10), slower(10))]
    lines = list(Compared(50, 1, pairs).lines())
    assert lines[0] == "| 50 | 1 | requests per second | 500 (450 to 500) | 490 (450 to 495) | -1.0% (-2.0% to +0.0%) |"
    assert lines[1].startswith("| 50 | 1 | processor time per request, ms | 4.00 (4.00 to 4.44) | ")
    assert not any("instructions" in line for line in lines), "a machine that is not emulated counts none"


def executed(requests: int, own: float) -> Load:
    """A loop of eight seconds in which a request takes so many thousands of instructions, and the rest of the machine 40 million a second."""
    return dataclasses.replace(BEFORE, requests=requests, instructions=own * requests / 1000 + 40 * 8)


@pytest.mark.parametrize(("own", "worse"), [(500, []), (530, []), (590, [cost.EQUAL_PACE])])
def test_instructions_are_compared_at_the_same_pace(own: float, worse: list[str]) -> None:
    """The loops with the rules in force are the slow ones here, and each of their requests has more of the health checks' instructions."""
    pairs = [(executed(now + 40, 500), executed(now, own)) for now in (700, 720, 760, 720)]
    compared = Compared(1, 0, pairs)
    before, now, error = compared.at_equal_pace()
    assert now - before == pytest.approx(own - 500) and error == pytest.approx(0, abs=1e-6)
    assert [each for each in compared.worse() if each == cost.EQUAL_PACE] == worse
    assert list(compared.lines())[-1].startswith(f"| 1 | 0 | {cost.EQUAL_PACE} | ")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """What is run in the machine, with its standard input. Every loop is answered by all masters."""
    done: list[tuple[str, str | None]] = []

    def run(*words: str, stdin: str | None = None, **_: object) -> SimpleNamespace:
        done.append((" ".join(words), stdin))
        answer = {**vars(BEFORE)}
        del answer["emulator"], answer["instructions"]
        return SimpleNamespace(stdout=json.dumps(answer))

    monkeypatch.setattr(machine, "run", run)
    monkeypatch.setattr(cost, "_emulator_seconds", lambda: 0.0)
    counts = itertools.count(0, 5_000_000)
    monkeypatch.setattr(machine, "instructions", lambda: next(counts))
    monkeypatch.setattr(cost, "scripts_release", lambda: Path())
    monkeypatch.setattr(cost, "former_rules", lambda *_: "former")
    monkeypatch.setattr(cost, "PAIRS", 5)
    return done


def test_both_sets_of_rules_are_measured_in_turn_and_those_in_force_are_loaded_at_the_end(ran: list[tuple[str, str | None]]) -> None:
    compared = cost._measured(Cluster.parse(CLUSTER), 1, 1)
    assert len(compared.pairs) == cost.PAIRS
    assert {load.instructions for pair in compared.pairs for load in pair} == {5.0}
    loads = [stdin for words, stdin in ran if words.startswith("lab exec master0 nft --file")]
    assert loads == [cost.TRACKING, None, "former", "former", None, None, "former", "former", None, None, "former", cost.NO_TRACKING, None]
    on_master1 = [words.removeprefix("lab exec master1 sh -euc ") for words, _ in ran if words.startswith("lab exec master1 sh")]
    assert on_master1 == [
        "systemctl stop openshift-lvs-watch; sysctl -qw net.ipv4.vs.conntrack=1",
        "sysctl -qw net.ipv4.vs.conntrack=0; systemctl start openshift-lvs-watch",
    ]


def test_a_loop_that_is_not_balanced_is_no_measurement(ran: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_closed_loop", lambda seconds: Load(10, {}, {"master0": 10}, 1.0, 2.0, 1.0))
    with pytest.raises(machine.MachineError, match="only master0 answered"):
        cost._measured(Cluster.parse(CLUSTER), 1, 0)
    assert ran[-1][0].endswith("systemctl start openshift-lvs-watch")


def test_the_share_of_a_processor_counts_what_the_process_started_too(monkeypatch: pytest.MonkeyPatch) -> None:
    stat = "77 (open shift) S 1 77 77 0 -1 4194560 2000 0 0 0 {} {} 5 7 20 0 1 0 300 0 0\n"
    times = iter([(1000.0, 10, 20), (1060.0, 25, 35)])

    def run(*_: str) -> SimpleNamespace:
        at, user, system = next(times)
        return SimpleNamespace(stdout=f"{at}\n77\n{stat.format(user, system)}VmRSS:\t   12288 kB\n")

    monkeypatch.setattr(machine, "run", run)
    monkeypatch.setattr(machine, "NODES", {"master0": "192.168.0.2"})
    monkeypatch.setattr("time.sleep", lambda _: None)
    share, megabytes = cost._shares()["master0"]
    assert share == pytest.approx(0.30 / 60) and megabytes == 12.0
    assert cost._ticks(stat.format(1, 2), 4) == 15


@pytest.mark.parametrize(
    ("words", "done"),
    [(["cost"], (1, 50)), (["cost", "--services", "7"], [7]), (["cost", "watch"], "watch"), (["cost", "--services", "0"], None), (["cost", "x"], None)],
)
def test_the_command_line_of_cost(monkeypatch: pytest.MonkeyPatch, words: list[str], done: object) -> None:
    called: list[object] = []

    def note(*what: object) -> int:
        called.extend(what or ["watch"])
        return 0

    monkeypatch.setattr(cost, "compare", note)
    monkeypatch.setattr(cost, "watch", note)
    assert command.main(words) == (0 if done else 2)
    assert called == ([done] if done else [])


def test_the_processor_time_of_the_emulator_is_that_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "running", os.getpid)
    used = os.times()
    assert cost._emulator_seconds() == pytest.approx(used.user + used.system, abs=0.5)


def test_the_lab_is_as_it_was_after_a_comparison(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    monkeypatch.setattr(machine, "up", lambda counted: done.append(f"booted, counted: {counted}"))
    monkeypatch.setattr(runner, "mend", lambda: done.append("mended"))
    monkeypatch.setattr(runner, "restore", lambda: done.append("restored"))
    monkeypatch.setattr(runner, "arranged", lambda experiment: contextlib.nullcontext(CLUSTER))
    monkeypatch.setattr(cost, "_measured", lambda cluster, services, conntrack: Compared(services, conntrack, [(BEFORE, slower(9))]))
    assert cost.compare([1]) == 1
    assert done == ["booted, counted: True", "mended", "restored"]
    assert "worse by more than 5%, or failed: 1 services, net.ipv4.vs.conntrack 1: requests per second" in capsys.readouterr().out
