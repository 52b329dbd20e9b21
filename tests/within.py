"""A limit of time for tests that take minutes: $WITHIN says after how many of them no other one begins."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TypeVar

from lab.stack import PROJECT

WITHIN = os.environ.get("WITHIN")
NO_LATER = time.monotonic() + 60 * float(WITHIN or "inf")
T = TypeVar("T")


def turned(part: list[T]) -> list[T]:
    """With a limit another one is first at every commit, so that too little time leaves out others."""
    if not WITHIN or not part:
        return part
    commit = int(subprocess.run(["git", "rev-parse", "HEAD"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout, 16)
    start = commit % len(part)
    return [*part[start:], *part[:start]]
