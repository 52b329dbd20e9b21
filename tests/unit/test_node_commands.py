"""The command line: the table of commands, usage errors, and exit statuses."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components import keepalived
from node.openshift_lvs import commands, state, versions
from node.openshift_lvs.commands import COMMANDS, USAGE, main
from node.openshift_lvs.errors import Refused, TimedOut
from node.openshift_lvs.lock import Changes
from tests.unit.node_functions import System, description, in_force

CALLERS = {"engine", "systemd", "keepalived", "operator"}


def bounds(name: str) -> tuple[int, int | None]:
    """The least and the most arguments that a command's function takes; None is any number."""
    parameters = inspect.signature(COMMANDS[name][0]).parameters.values()
    least = sum(each.kind is each.POSITIONAL_OR_KEYWORD and each.default is each.empty for each in parameters)
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    return least, None if any_number else len(parameters)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_caller_and_says_what_it_does(name: str) -> None:
    _, _, callers, what = COMMANDS[name]
    assert set(callers.split(", ")) <= CALLERS
    assert what and not what.endswith(".")
    assert name in commands.help_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_of_every_command_allows_what_its_function_takes(name: str) -> None:
    least, most = bounds(name)
    usage = COMMANDS[name][1]
    fits = {count for count in range(10) if commands._fits(usage, count)}
    # A list that must not be empty is a name that may be repeated.
    least += "..." in usage and "[" not in usage
    assert fits == set(range(least, 10 if most is None else most + 1))


@pytest.mark.parametrize(
    ("usage", "fits"),
    [
        ("", {0}),
        ("VIP", {1}),
        ("VERSION <BUNDLE", {1}),
        ("VERSION [canary]", {1, 2}),
        ("[VIP...]", {0, 1, 2, 3, 4}),
        ("SECONDS REQUESTS TARGET...", {3, 4}),
        ("from|through|to ADDRESS", {2}),
    ],
)
def test_a_usage_text_says_how_many_arguments_fit(usage: str, fits: set[int]) -> None:
    assert {count for count in range(5) if commands._fits(usage, count)} == fits


@pytest.mark.parametrize("words", [["activate"], ["rotation", "out"], ["apply", "now"], ["answers", "5", "5"]])
def test_wrong_arguments_are_a_usage_error_that_shows_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"usage: openshift-lvs {words[0]} {COMMANDS[words[0]][1]}\n")


@pytest.mark.parametrize(("words", "first"), [(["reweigh"], "reweigh: not a command"), ([], "no command: not a command"), ([""], "no command: not a command")])
def test_an_unknown_command_is_a_usage_error_that_shows_the_table(words: list[str], first: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == USAGE
    said = capsys.readouterr()
    assert said.err == f"openshift-lvs: {first}\n{commands.help_text()}\n"
    assert said.out == ""


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_shows_the_table(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 0
    assert capsys.readouterr().out == f"{commands.help_text()}\n"


@pytest.mark.parametrize("fault", [Refused("it is wrong; do this"), TimedOut("it is wrong; do this"), ValueError("it is wrong; do this")])
def test_a_refused_command_fails_with_its_text_on_standard_error(fault: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise fault

    monkeypatch.setitem(COMMANDS, "apply", (refuse, *COMMANDS["apply"][1:]))
    assert main(["apply"]) == 1
    assert capsys.readouterr() == ("", "it is wrong; do this\n")


def test_a_missing_file_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(COMMANDS, "apply", (lambda: Path("/none/there").read_text(), *COMMANDS["apply"][1:]))
    assert main(["apply"]) == 1
    assert "/none/there" in capsys.readouterr().err


def test_a_fault_in_the_program_is_not_taken_for_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "apply", (lambda: {"": ""}["mark"], *COMMANDS["apply"][1:]))
    with pytest.raises(KeyError):
        main(["apply"])


@pytest.mark.parametrize(
    "name", [name for name, (_, usage, _, _) in COMMANDS.items() if not usage and name not in ("remove", "rules", "status", "sockets", "diagnose")]
)
def test_a_command_without_a_version_in_force_says_so(system: System, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 1
    assert capsys.readouterr().err == "no version is in force on this node; pulumi up\n"


def test_files_are_written_for_every_user_to_read(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(versions.folder("file"))
    monkeypatch.setitem(COMMANDS, "apply", (file.touch, *COMMANDS["apply"][1:]))
    before = os.umask(0o077)
    try:
        main(["apply"])
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o644


def test_hand_over_without_a_name_gives_every_vip(system: System) -> None:
    in_force("v1", description())
    system.held = {"master": "192.168.0.250"}
    assert main(["hand-over"]) == 0
    assert system.left == ["192.168.0.250"]


def test_a_vip_that_is_not_known_is_not_handed_over_in_silence(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    in_force("v1", description())
    assert main(["hand-over", "mastr"]) == 1
    assert capsys.readouterr().err == "mastr: not one of master\n"


def test_a_command_that_is_started_twice_waits_for_the_first(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    in_force("v1", description())
    with Changes("activate 0123456789ab"):
        assert main(["go-home", "master"]) == 1
    assert "it is held by activate 0123456789ab" in capsys.readouterr().err
    assert main(["go-home", "master"]) == 0


def test_a_test_of_a_version_waits_for_an_activation_whose_test_it_would_disturb(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    with Changes("activate 0123456789ab"):
        assert main(["validate", "0123456789ab"]) == 1
    assert "it is held by activate 0123456789ab" in capsys.readouterr().err


def test_connection_sync_that_does_not_start_stops_no_keepalived(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    in_force("v1", description())

    def fails(_: object) -> None:
        raise Refused("ipvsadm: Permission denied")

    monkeypatch.setattr("node.openshift_lvs.ipvs.keep_sync", fails)
    assert main(["start"]) == 0
    assert system.notes[-1] == "connection sync did not start: ipvsadm: Permission denied"
    assert Path(state.drain_file("master")).read_text() == "0\n"


# The program as it is started


def started(script: str) -> subprocess.CompletedProcess[str]:
    """Run the program's executable in a shell, as $0."""
    command = ["sh", "-c", script, sys.executable, str(keepalived.PROGRAM / "openshift-lvs")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"})


def test_the_program_starts_without_the_libraries_of_the_host() -> None:
    done = started('"$0" -IS "$1" --help')
    assert (done.returncode, done.stdout) == (0, f"{commands.help_text()}\n")


RUN = """
import select, sys
sys.path.insert(0, sys.argv[1])
from openshift_lvs import commands
from openshift_lvs.errors import Refused

def refuse():
    raise Refused("no")

commands.COMMANDS["apply"] = (lambda: "applied", "", "", "")
commands.COMMANDS["start"] = (refuse, "", "", "")
# Until the reader is gone.
reader = select.poll()
reader.register(1, 0)
reader.poll(5000)
sys.exit(commands.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("words", "status"), [("apply", 0), ("start", 1), ("--help", 0), ("reweigh", 2), ("activate", 2)])
def test_a_reader_that_is_gone_does_not_change_the_exit_status(words: str, status: int) -> None:
    pipe = f'{{ "$0" -IS -c "$1" "$2" {words} 2>&1; echo $? >&3; }} 3>&2 | :'
    done = subprocess.run(["sh", "-c", pipe, sys.executable, RUN, keepalived.PROGRAM], capture_output=True, text=True, check=False)
    assert done.stderr == f"{status}\n"
