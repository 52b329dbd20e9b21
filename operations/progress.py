"""A command that takes longer than two seconds says so on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

FIRST_SECONDS = 2
NEXT_SECONDS = 10


@contextmanager
def progress(what: str) -> Iterator[None]:
    """While the context lasts, say on stderr what is under way: after FIRST_SECONDS, then every NEXT_SECONDS, one line each.

    Nothing is said when stderr is not a terminal: what another program reads or keeps does not depend on how fast the machine is.
    """
    if not sys.stderr.isatty():
        yield
        return
    begin = time.monotonic()
    done = Event()

    def tell() -> None:
        wait = FIRST_SECONDS
        while not done.wait(wait):
            print(f"{what}: {time.monotonic() - begin:.0f} s so far", file=sys.stderr, flush=True)
            wait = NEXT_SECONDS

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
