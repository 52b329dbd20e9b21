"""What missing quorums add to a director's priority."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.openshift_lvs import quorum, state
from tests.unit.node_functions import System


def recorded(**weights: str) -> None:
    """Services of the VIP `master` with the weights that were recorded for them."""
    for name, weight in weights.items():
        folder = Path(state.QUORUM, "master")
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"{weight}\n" if weight else "")


def view() -> str:
    quorum.count("master")
    return Path(state.view_file("master")).read_text()


@pytest.mark.parametrize(
    ("weights", "mean"),
    [(["0"], 0), (["-100"], -100), (["0", "-100"], -50), (["-100", "0", "0"], -33), (["-100", "-100", "0"], -66), ([], 0)],
)
def test_the_view_is_the_mean_over_the_services(system: System, weights: list[str], mean: int) -> None:
    recorded(**{f"service{number}": weight for number, weight in enumerate(weights)})
    assert view() == f"{mean}\n"


def test_a_file_that_another_command_is_writing_does_not_count(system: System) -> None:
    recorded(one="-100", **{"two.4711.part": "0", "three.4712.part": "", "four": ""})
    assert view() == "-100\n"


def test_a_lost_quorum_lowers_the_view_and_a_gained_one_restores_it(system: System) -> None:
    recorded(one="0", two="0")
    quorum.record("master", "one", -100)
    assert state.read(state.view_file("master")) == "-50"
    quorum.record("master", "two", -100)
    assert state.read(state.view_file("master")) == "-100"
    quorum.record("master", "one", 0)
    assert state.read(state.view_file("master")) == "-50"
    notes = [note.partition(" (")[0] for note in system.notes if "quorum" in note]
    assert notes == ["one: quorum lost", "two: quorum lost", "one: quorum gained"]


def test_a_service_that_is_not_in_force_does_not_count(system: System) -> None:
    recorded(one="0")
    quorum.record("master", "former", -100)
    assert not Path(state.QUORUM, "master", "former").exists()
    assert not Path(state.view_file("master")).exists()


def test_a_repeated_report_writes_no_line_in_the_journal_and_keeps_the_time_of_the_first(system: System) -> None:
    recorded(one="-100")
    view()
    os.utime(f"{state.QUORUM}/master/one", (0, 0))
    quorum.record("master", "one", -100)
    assert system.notes == []
    quorum.record("master", "one", 0)
    assert "one: quorum gained (lost since 1970-01-01 00:00:00 UTC)" in system.notes
