"""The programs that the node's program starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lab.stack import PROJECT
from node.openshift_lvs import programs
from node.openshift_lvs.errors import Refused


def test_a_program_gets_its_input_and_gives_its_output_errors_and_status() -> None:
    assert programs.attempt("sh", "-c", "cat; echo wrong >&2; exit 3", stdin="given\n") == (3, "given\n", "wrong\n")


def test_a_program_that_has_started_waits_for_its_input_and_may_end_before_it_comes() -> None:
    waits, ends = programs.Process("cat"), programs.Process("sh", "-c", "exec <&-; exit 4")
    assert waits.end("given\n") == (0, "given\n", "")
    assert ends.end("more than a pipe holds" * 5000) == (4, "", "")


def test_any_amount_of_output_is_taken() -> None:
    status, output, _ = programs.attempt("sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; head -c 3000000 /dev/zero >&2")
    assert (status, len(output)) == (0, 3000000)


def test_a_program_that_a_signal_ends_did_not_succeed() -> None:
    assert programs.attempt("sh", "-c", "kill -9 $$")[0] == -9


@pytest.mark.parametrize("given", ["", "more than a pipe holds" * 5000])
def test_a_program_that_does_not_end_is_killed_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr(programs, "ENDS_S", 0.1)
    with pytest.raises(Refused, match=r"^sleep 60: it did not end within 0\.1 s, and was killed$"):
        programs.succeeds("sleep", "60", stdin=given)


def test_a_program_speaks_english_and_finds_others_whatever_the_caller_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert programs.run("sh", "-c", "echo $LC_ALL; command -v id >/dev/null && echo found") == "C.UTF-8\nfound\n"


def test_a_missing_program_and_one_that_fails_are_named() -> None:
    assert programs.attempt("no-such-program") == (127, "", "no-such-program: not on this node")
    with pytest.raises(Refused, match=r"^sh -c echo why >&2; exit 1: why$"):
        programs.run("sh", "-c", "echo why >&2; exit 1")


def test_importing_the_program_changes_nothing_in_the_operators_process() -> None:
    script = "import os; before = dict(os.environ); import operations.verify, node.openshift_lvs.activation; print(dict(os.environ) == before)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, env={**os.environ, "PATH": "/own"}, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")
