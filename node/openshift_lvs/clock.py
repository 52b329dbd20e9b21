"""Time on a node: a clock that never jumps, and waiting for a condition with a deadline."""

from __future__ import annotations

import time

from .errors import TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.2
"""Seconds between two looks at a condition."""


def now() -> float:
    """Seconds on the monotonic clock. Setting the wall clock does not change it."""
    return time.monotonic()


def wall() -> float:
    """Seconds since 1970, for people and other machines. Setting the clock changes it, so no deadline uses it."""
    return time.time()


def pause() -> None:
    """Wait until the next look at a condition."""
    time.sleep(LOOK_S)


def wait_for(seconds: float, what: str, look: Callable[[], str]) -> None:
    """Look until `look()` returns an empty text, `seconds` at most.

    `look` returns what is still missing. Raises TimedOut, which says what was awaited and the last answer.
    """
    deadline = now() + seconds
    while True:
        missing = look()
        if not missing:
            return
        if now() >= deadline:
            raise TimedOut(f"waited {seconds:g} s for {what}; last seen: {missing}")
        pause()
