"""Waiting with a deadline, and locks that name their holder."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from node.openshift_lvs import clock, lock, state
from node.openshift_lvs.errors import Refused, TimedOut
from node.openshift_lvs.lock import Changes, Lock
from tests.unit.node_functions import System


def test_waiting_ends_when_nothing_is_missing(system: System) -> None:
    answers = ["no table", "no server", ""]
    clock.wait_for(10, "servers", lambda: answers.pop(0))
    assert system.now == 1002


def test_a_deadline_names_what_was_awaited_and_what_was_seen_last(system: System) -> None:
    with pytest.raises(TimedOut, match=r"^waited 10 s for the VIP to leave; last seen: still here at 1010$"):
        clock.wait_for(10, "the VIP to leave", lambda: f"still here at {system.now:g}")


def test_the_last_look_comes_at_the_deadline(system: System) -> None:
    clock.wait_for(10, "the VIP to leave", lambda: "" if system.now == 1010 else "still here")


def test_what_is_there_already_costs_no_pause(system: System) -> None:
    clock.wait_for(0, "nothing", lambda: "")
    assert system.now == 1000


@pytest.mark.parametrize("jump", [-(10**8), 10**8], ids=["back", "ahead"])
def test_setting_the_wall_clock_does_not_move_a_deadline(monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    true = time.time
    looks: list[float] = []

    def look() -> str:
        looks.append(time.monotonic())
        monkeypatch.setattr(time, "time", lambda: true() + jump)
        return "" if len(looks) == 3 else "not yet"

    monkeypatch.setattr(clock, "LOOK_S", 0.01)
    clock.wait_for(60, "the third look", look)
    with pytest.raises(TimedOut):
        clock.wait_for(0.05, "nothing", lambda: "missing")
    assert time.monotonic() - looks[0] < 60


def test_a_timeout_is_a_refusal() -> None:
    assert issubclass(TimedOut, Refused)


# Locks


def test_a_lock_that_is_held_names_its_holder_at_the_deadline(system: System) -> None:
    path = f"{state.RUN}/lock"
    with Lock(path, 5, "activate 0123456789ab"), pytest.raises(TimedOut) as late, Lock(path, 5, "deliver"):
        pass
    assert str(late.value) == f"{path}: waited 5 s; it is held by activate 0123456789ab, process {os.getpid()}; wait until that has ended, or end it"
    assert system.now == 1005


def test_a_lock_that_is_given_back_is_taken(system: System) -> None:
    path = f"{state.RUN}/lock"
    with Lock(path, 0, "a command with a long name, which the next holder's name must replace"):
        pass
    with Lock(path, 0, "go-home"):
        assert Path(path).read_text() == f"go-home, process {os.getpid()}\n"
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_lock_is_given_back_after_an_error(system: System) -> None:
    path = f"{state.RUN}/lock"
    with pytest.raises(Refused), Lock(path, 0, "activate"):
        raise Refused("not healthy")
    with Lock(path, 0, "activate"):
        pass


def test_changes_take_the_scripts_lock_too_while_scripts_are_installed(system: System) -> None:
    with Lock(lock.LEGACY_LOCK, 0, "the scripts' activate"):
        with Changes("deliver"):
            pass
        Path(state.LIB, "lock").touch()
        with pytest.raises(TimedOut, match=r"openshift-lvs\.lock: waited 1200 s; it is held by the scripts' activate"), Changes("deliver"):
            pass


def test_the_folder_of_locks_is_for_root_only(system: System) -> None:
    Path(state.RUN).chmod(0o755)
    with Changes("deliver"):
        assert Path(state.RUN).stat().st_mode & 0o777 == 0o700
