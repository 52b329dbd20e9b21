"""A director that no witness answers counts as cut off, and its priorities are lowered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.openshift_lvs import state
from node.openshift_lvs.description import Description
from node.openshift_lvs.record import replace
from node.openshift_lvs.witness import Witnesses
from tests.unit.node_functions import System, description

NOWHERE = "192.0.2.1:22"


@pytest.fixture
def silent() -> Iterator[str]:
    """A listener of this machine whose queue is full: it neither takes nor refuses a connection."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for each in (first, second):
            each.setblocking(False)
            each.connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def taking() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def refusing() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"127.0.0.1:{closed.getsockname()[1]}"


def asking(*witnesses: str) -> Description:
    return replace(description(), witnesses=witnesses)


def after(system: System, asked: Witnesses, said: Description, answers: int) -> str:
    """The weight that keepalived reads after so many answers or silences."""
    for _ in range(answers + (asked._asked is None)):
        system.now += 1
        asked.look(said)
    return Path(state.CUT_OFF).read_text().strip() if Path(state.CUT_OFF).exists() else ""


def test_two_silences_in_a_row_lower_the_priorities_below_those_of_a_poor_view(system: System, silent: str) -> None:
    asked = Witnesses()
    assert after(system, asked, asking(silent), 1) == ""
    assert after(system, asked, asking(silent), 1) == "-200"
    assert system.notes == [f"cut off: no witness answers ({silent}); priorities -200"]


def test_three_answers_in_a_row_end_it(system: System, silent: str, taking: str) -> None:
    asked = Witnesses()
    after(system, asked, asking(silent), 2)
    # The question that is open was asked of the silent one.
    assert after(system, asked, asking(taking), 1 + 2) == "-200"
    assert after(system, asked, asking(taking), 1) == "0"
    assert system.notes[1:] == [f"no longer cut off: a witness answers ({taking})"]


def test_a_silence_in_between_begins_the_count_anew(system: System, silent: str, taking: str) -> None:
    asked = Witnesses()
    after(system, asked, asking(silent), 2)
    after(system, asked, asking(taking), 1 + 1)
    # One that takes is answered, and one that is silent asked.
    after(system, asked, asking(silent), 1)
    assert after(system, asked, asking(taking), 1 + 2) == "-200"
    assert after(system, asked, asking(taking), 1) == "0"


@pytest.mark.parametrize("family", ["127.0.0.1", "[::1]"])
def test_a_witness_that_refuses_is_there(system: System, family: str, refusing: str) -> None:
    assert after(system, Witnesses(), asking(refusing.replace("127.0.0.1", family)), 5) == ""


def test_an_unreachable_network_is_a_silence(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.ENETUNREACH)
    assert after(system, Witnesses(), asking(NOWHERE), 2) == "-200"


def test_after_a_silence_the_next_witness_is_asked_and_the_one_that_answered_stays(system: System, silent: str, taking: str) -> None:
    asked = Witnesses()
    assert after(system, asked, asking(silent, taking), 9) == ""
    assert asked._turn == 1


def test_no_more_than_one_question_a_second(system: System, silent: str) -> None:
    asked = Witnesses()
    after(system, asked, asking(silent), 1)
    before = asked._asked
    system.now += 0.2
    asked.look(asking(silent))
    assert asked._asked is before


def test_another_process_goes_on_with_what_the_one_before_found(system: System, silent: str, taking: str) -> None:
    after(system, Witnesses(), asking(silent), 2)
    assert after(system, Witnesses(), asking(taking), 3) == "0"


def test_without_witnesses_nothing_is_asked(system: System) -> None:
    asked = Witnesses()
    assert after(system, asked, asking(), 5) == ""
    asked.look(None)
    assert asked._asked is None
