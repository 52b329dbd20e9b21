"""The `console` blocks of README, the tutorial and the how-to pages do what the pages show. They need no cloud."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.test_pull_request import GOLDEN, PROJECT, git

PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs/tutorial").glob("*.md")), *sorted((PROJECT / "docs/how-to").glob("*.md"))]
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_CLOUD = re.compile(r"^(?: {4}|\$ )(?:\$ )?(python -m operations (?:render|diff|check-preview) .*)$", re.MULTILINE)


class Command(NamedTuple):
    """A line after `$ `, and what the page shows of its output. `...` stands for any lines."""

    line: str
    shown: str


def commands(page: Path) -> list[Command]:
    """The commands of the page's `console` blocks."""
    parts = (part for block in BLOCK.findall(page.read_text()) for part in re.split(r"^\$ ", block, flags=re.MULTILINE) if part)
    return [Command(*part.split("\n", 1)) for part in parts]


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows."""
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(f"{line}\n") for line in shown.splitlines())
    return re.fullmatch(pattern, printed) is not None


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clone of the project as a new user has it. Its last commit sets what the pages show; the one before it had another timeout."""
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    for part in ("components", "node", "operations", "templates"):
        shutil.copytree(PROJECT / part, origin / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "__main__.py", origin)
    (origin / ".gitignore").write_text("__pycache__/\n/build/\n")
    example = (GOLDEN / "Pulumi.example.yaml").read_text()
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(origin))
    for message, text in (("Wait longer", example.replace("{type: http, path: /healthz}", "{type: http, path: /healthz, delay_loop: 2}")), ("Wait", example)):
        (origin / "Pulumi.dev.yaml").write_text(text)
        git(origin, "add", "--all")
        git(origin, "commit", "--quiet", f"--message={message}")
    git(tmp_path, "clone", "--quiet", str(origin), str(clone))
    return clone


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: str(page.relative_to(PROJECT)))
def test_the_commands_of_a_page_print_what_it_shows(page: Path, checkout: Path) -> None:
    identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))}
    environment = {**os.environ, **identity, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    for command in commands(page):
        done = subprocess.run(["bash", "-c", command.line], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
        printed = done.stdout + done.stderr
        assert matches(command.shown, printed), f"{command.line}\nprinted\n{printed}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_command_that_needs_no_cloud_is_in_a_block_that_is_run(page: Path) -> None:
    tested = {command.line for command in commands(page)}
    unfinished = re.compile(r"FILE|REF|STACK")
    assert {line for line in NO_CLOUD.findall(page.read_text()) if not unfinished.search(line)} <= tested


def test_shown_lines_are_compared_and_an_ellipsis_stands_for_any() -> None:
    assert matches("...\na\n...\n", "x\na\nb\n") and matches("", "")
    assert not matches("a\n", "a\nb\n") and not matches("...\nc\n...\n", "a\nb\n") and not matches("", "a\n")
