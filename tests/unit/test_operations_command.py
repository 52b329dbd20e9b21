"""The command itself: help, exit status, progress, and no traceback for an error that a user can cause; and its installation."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.configuration import ConfigurationError, UsageError
from operations import __main__ as operations
from operations import diff, help, progress, render
from operations.drain import Refused
from operations.nodes import NodesError

PROJECT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
RENDER = ["render", "--root", str(GOLDEN), "--stack", "example"]


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> dict[str, argparse.ArgumentParser]:
    """The parser of every verb."""
    seen: dict[str, argparse.ArgumentParser] = {}
    monkeypatch.setattr(help, "explain", lambda parser, verbs: seen.update(verbs))
    with pytest.raises(SystemExit):
        operations.main([])
    return seen


def test_every_verb_has_a_description_and_an_example(verbs: dict[str, argparse.ArgumentParser]) -> None:
    assert set(verbs) == set(help.EXAMPLES)
    for verb, (description, examples) in help.EXAMPLES.items():
        assert description.strip().endswith(".")
        assert f"{{command}} {verb} " in examples


def test_every_example_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    key = tmp_path / ".ssh" / "id_ed25519"
    key.parent.mkdir()
    key.touch()
    Path("bootstrap.ign").touch()
    called: list[str] = []

    def run(options: argparse.Namespace) -> int:
        called.append(options.verb)
        return 0

    monkeypatch.setattr(operations, "_run", run)
    texts = [line for _, examples in help.EXAMPLES.values() for line in examples.strip().splitlines()]
    lines = [shlex.split(line.partition(" > ")[0])[1:] for line in texts if line.strip().startswith("{command} ")]
    for words in lines:
        assert operations.main([word.replace("~", str(tmp_path)) for word in words]) == 0
    assert called == [words[0] for words in lines]


@pytest.mark.parametrize("verb", [[], *([verb] for verb in help.EXAMPLES)], ids=lambda words: words[0] if words else "none")
def test_help_tells_the_exit_status(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        operations.main([*verb, "--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and help.EXIT_STATUS in printed
    assert not verb or f"python -m operations {verb[0]} " in printed


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (ConfigurationError("Pulumi.dev.yaml:3: network.cidr: missing"), 1, "Pulumi.dev.yaml:3: network.cidr: missing"),
        (Refused("master0: the last director"), 1, "master0: the last director"),
        (diff.BaseError("--base: 'x' is not a commit here"), 2, "--base: 'x' is not a commit here"),
        (PermissionError(13, "Permission denied", "/root/x"), 2, "/root/x: Permission denied"),
        (NodesError("ssh: not on this machine"), 3, "ssh: not on this machine"),
        (subprocess.TimeoutExpired(["git", "archive"], 120), 3, "render: Command '['git', 'archive']' timed out after 120 seconds"),
        (KeyboardInterrupt(), 130, "render: interrupted"),
        (
            UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range(128)"),
            2,
            "render: 'ascii' codec can't encode character '\\xe9' in position 0: ordinal not in range(128); set a locale with UTF-8, such as LC_ALL=C.UTF-8",
        ),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, BaseException) else None,
)
def test_an_error_ends_in_one_line_and_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, status: int, said: str
) -> None:
    def fails(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(render, "files", fails)
    assert operations.main(RENDER) == status
    assert capsys.readouterr() == ("", f"{said}\n")


def test_every_verb_but_those_that_print_files_has_json(verbs: dict[str, argparse.ArgumentParser]) -> None:
    assert {name for name, verb in verbs.items() if "--json" not in verb.format_help()} == {"render", "machine-config"}


@pytest.mark.parametrize(
    ("arguments", "stack", "subject"),
    [
        (["status", "--stack", "dev"], "dev", "dev"),
        (["preflight", "--stack", "dev"], "dev", "dev"),
        (["check-preview", "preview.json", "--stack", "dev", "--base", "main"], "dev", "dev"),
        (["undrain", "master1", "--stack", "dev"], "dev", "master1"),
        (["diff", "--base", "main"], None, "main"),
        (["import", "lb1"], None, "lb1"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else None,
)
@pytest.mark.parametrize(
    ("raised", "status", "result"),
    [(ConfigurationError("a: b"), 1, "failed"), (NodesError("a: b"), 3, "unknown"), (subprocess.SubprocessError("a: b"), 3, "unknown")],
    ids=lambda given: type(given).__name__ if isinstance(given, Exception) else None,
)
def test_json_has_an_object_for_a_refused_configuration_and_for_what_could_not_be_asked(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    stack: str | None,
    subject: str,
    raised: Exception,
    status: int,
    result: str,
) -> None:
    def fails(_: Any) -> int:
        raise raised

    monkeypatch.setattr(operations, "_run", fails)
    assert operations.main([*arguments, "--json"]) == status
    said = capsys.readouterr()
    answer = json.loads(said.out)
    assert (answer["format"], answer["stack"], answer["result"]) == (1, stack, result)
    assert answer["findings"] == [{"subject": subject, "result": result, "text": "a: b"}]
    assert said.err.endswith("a: b\n")
    assert operations.main(arguments) == status
    assert capsys.readouterr() == ("", said.err)


@pytest.mark.parametrize(("raised", "status"), [(UsageError("--stack: 'x'"), 2), (KeyboardInterrupt(), 130)], ids=["usage", "interrupted"])
def test_a_usage_error_and_an_interrupt_print_no_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, status: int
) -> None:
    def fails(_: Any) -> int:
        raise raised

    monkeypatch.setattr(operations, "_run", fails)
    assert operations.main(["verify", "--stack", "x", "--json"]) == status
    assert capsys.readouterr().out == ""


def test_an_interrupt_while_the_command_starts_prints_no_traceback() -> None:
    script = """
import runpy, sys

class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "components.configuration":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupted())
runpy.run_module("operations", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupted_drain_says_what_to_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "_on_nodes", interrupted)
    assert operations.main(["drain", "master1", "--stack", "example"]) == 130
    assert capsys.readouterr().err == "drain: interrupted; master1 may be half way: run the same command again\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drain", "master1", "--stack", "x", "--deadline", "-5"], "argument --deadline: '-5' is no number of seconds from 0, such as 60"),
        (["drain", "master1", "--stack", "x", "--deadline", "nan"], "argument --deadline: 'nan' is no number of seconds from 0, such as 60"),
        (["drain", "master1", "--stack", "x", "--deadline", "inf"], "argument --deadline: 'inf' is no number of seconds from 0, such as 60"),
        (["drain", "master1", "--stack", "x", "--deadline", "1 min"], "argument --deadline: '1 min' is no number of seconds from 0, such as 60"),
        ([*RENDER, "--output", __file__], f"argument --output: {__file__!r} is a file; name a folder"),
        (["diff", "--base", "HEAD", "--output", __file__], f"argument --output: {__file__!r} is a file; name a folder"),
        (["status", "--stack", "x", "--identity", "/nowhere"], "argument --identity: '/nowhere' is not a file"),
        (["render", "--stack", "x", "--root", "/nowhere"], "argument --root: '/nowhere' is not a folder; name the project's folder"),
    ],
)
def test_a_wrong_option_is_a_usage_error(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        operations.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {said}\n")


def buffered(arguments: list[str], stdout: int) -> subprocess.CompletedProcess[str]:
    """The command with that output, which Python buffers: with PYTHONUNBUFFERED, as some CI systems set it, every write fails at once."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "operations", *arguments], cwd=PROJECT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (RENDER, 141),
        # Shorter than the buffer: it is written at the end.
        ([*RENDER, "--host", "infra0"], 141),
        (["import", str(Path(__file__).parent / "keepalived_confs" / "web-farm-nat.conf")], 141),
        (["--help"], 0),
    ],
)
def test_a_reader_that_has_enough_ends_the_command_without_an_error(arguments: list[str], status: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = buffered(arguments, writing)
    finally:
        os.close(writing)
    assert done.returncode == status and "Broken" not in done.stderr and "Traceback" not in done.stderr


def test_output_that_cannot_be_written_is_an_error_in_one_line() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = buffered([*RENDER, "--host", "infra0"], full)
    finally:
        os.close(full)
    assert (done.returncode, done.stderr) == (2, "render: No space left on device\n")


def test_a_comparison_outside_of_a_repository_names_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert operations.main(["diff", "--base", "HEAD", "--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"--root: {tmp_path} is not in a git repository; name the project's folder in a clone of its repository\n"


class Waits:
    """An event that times out a number of times, and then is set: no time passes."""

    def __init__(self, times: int, asked: list[float]) -> None:
        self._times, self._asked = times, asked

    def wait(self, seconds: float) -> bool:
        self._asked.append(seconds)
        return len(self._asked) > self._times

    def set(self) -> None:
        pass


@pytest.mark.parametrize("terminal", [True, False])
def test_what_takes_longer_than_two_seconds_says_so_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    asked: list[float] = []
    clock: Iterator[float] = iter([0.0, 2.0, 12.0])
    monkeypatch.setattr(progress, "Event", lambda: Waits(2, asked))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert operations.main([*RENDER, "--host", "infra0"]) == 0
    assert asked == ([2, 10, 10] if terminal else [])
    assert capsys.readouterr().err == ("render example: 2 s so far\nrender example: 12 s so far\n" if terminal else "")


def test_what_is_quick_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "FIRST_SECONDS", 600)
    with progress.progress("render dev"):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_installed_command_renders_as_the_checkout_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True, check=True).stdout
    there = b"\0".join(name for name in listed.split(b"\0") if name and (PROJECT / name.decode()).is_file())
    archive = subprocess.run(["tar", "--create", "--null", "--files-from=-"], cwd=PROJECT, input=there, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract"], cwd=source, input=archive, check=True)
    offline = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", site, source], check=True)
    command = [sys.executable, str(site / "bin" / help.COMMAND)]
    done = subprocess.run([*command, *RENDER], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, capture_output=True, text=True)
    assert operations.main(RENDER) == 0
    assert (done.returncode, done.stderr) == (0, "")
    # The digest of the program in host.json, too: every file that a node gets is in the package.
    assert done.stdout == capsys.readouterr().out
