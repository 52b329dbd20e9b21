"""No test depends on the stacks of the project's folder, which belong to the user."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[1]
READER = "test_committed_stacks.py"
"""The tests of whatever these stacks say."""


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], str):
        return
    path = Path(arguments[0])
    if path.match("Pulumi.*.yaml") and path.absolute().parent == PROJECT and READER not in os.environ.get("PYTEST_CURRENT_TEST", ""):
        raise AssertionError(f"{path.name} belongs to the user, and only {READER} may read it; use tests/unit/golden/Pulumi.example.yaml")


# Active while modules are collected too. Child processes are not watched.
sys.addaudithook(_guard)
