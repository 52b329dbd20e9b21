"""Named phases with their elapsed time, and waits that end by a condition or a deadline."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TICK_S = 15.0
"""A phase that takes longer than this says every so often that it moves, and what it last saw."""


class Phases:
    """Prints each phase when it starts and ends; keeps the seconds of each, and the machine's peak of memory, for measurements."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.peak_memory_mb = 0
        self._note = ""
        threading.Thread(target=self._sample, daemon=True).start()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start, over = time.monotonic(), threading.Event()
        self._note = ""
        self._say(f"==> {name}")

        def tick() -> None:
            while not over.wait(TICK_S):
                self._say(f"    {name}: {time.monotonic() - start:.0f} s so far{': ' + self._note if self._note else ''}")

        ticker = threading.Thread(target=tick, daemon=True)
        ticker.start()
        outcome = "FAILED"
        try:
            yield
            outcome = "done"
        finally:
            over.set()
            ticker.join()
            self.seconds[name] = round(time.monotonic() - start, 1)
            self._say(f"    {name}: {outcome} in {self.seconds[name]} s")

    def note(self, text: str) -> None:
        """What the running phase last saw; shown with the next sign of life."""
        self._note = text

    def write(self, path: Path) -> None:
        """The seconds by phase and in all, and the most memory that the machine used meanwhile (MB), as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"total": round(time.monotonic() - self.began, 1), "peak_memory_mb": self.peak_memory_mb}
        path.write_text(json.dumps({**self.seconds, **whole}, indent=2) + "\n")

    def _sample(self) -> None:
        while True:
            kilobytes = {name: int(rest.split()[0]) for name, rest in (line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())}
            self.peak_memory_mb = max(self.peak_memory_mb, (kilobytes["MemTotal"] - kilobytes["MemAvailable"]) // 1024)
            time.sleep(1)  # between two samples

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:7.1f} s] {text}", file=sys.stderr, flush=True)


def wait_for(what: str, seen: Callable[[], tuple[bool, str]], deadline_s: float, poll_s: float = 0.3, note: Callable[[str], None] | None = None) -> None:
    """Return when `seen()` answers (True, _); it answers (done, what was seen).

    Raises TimeoutError that says what was awaited, for how long, and what was seen last.
    """
    end = time.monotonic() + deadline_s
    while True:
        done, last = seen()
        if note:
            note(last)
        if done:
            return
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {deadline_s:.0f} s for {what}; last seen: {last}")
        time.sleep(poll_s)
