"""Locks with a deadline, in a folder that only root can enter. The error names the holder."""

from __future__ import annotations

import fcntl
import os

from . import clock, state
from .errors import TimedOut

CHANGES_S = 1200
"""Seconds that a command waits for another one that changes versions: an activation may take as long as a Pulumi command."""
SHORT_S = 60
"""Seconds to wait for work that takes a moment on an idle node. The first rules of a node load kernel modules, which took an emulated one more than 5 s while
it was starting: what waits for that must not fail.
"""
LEGACY_LOCK = "/run/openshift-lvs.lock"
"""The lock of the shell scripts. It is taken too while they are installed."""


class Lock:
    """Holds a file's lock for as long as the context lasts. Raises TimedOut, which names the holder."""

    def __init__(self, path: str, seconds: float, command: str) -> None:
        self._path, self._seconds, self._command = path, seconds, command
        self._file = -1

    def __enter__(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # The shell scripts made theirs readable, and a user who can read a file can hold its lock.
        os.fchmod(self._file, 0o600)
        deadline = clock.now() + self._seconds
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.now() >= deadline:
                    holder = os.pread(self._file, 200, 0).decode(errors="replace").strip() or "a process that did not write its name"
                    os.close(self._file)
                    raise TimedOut(f"{self._path}: waited {self._seconds:g} s; it is held by {holder}; wait until that has ended, or end it") from None
                clock.pause()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{self._command}, process {os.getpid()}\n".encode(), 0)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


class Changes:
    """Held by every command that changes versions or what is in force: one at a time. `seconds`: how long to wait for another one."""

    def __init__(self, command: str, seconds: float = CHANGES_S) -> None:
        state.prepare_run()
        self._locks = [Lock(state.LOCK, seconds, command)]
        if os.path.exists(f"{state.LIB}/lock"):
            self._locks.append(Lock(LEGACY_LOCK, seconds, command))

    def __enter__(self) -> None:
        entered: list[Lock] = []
        try:
            for each in self._locks:
                each.__enter__()
                entered.append(each)
        except TimedOut:
            for each in reversed(entered):
                each.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        for each in reversed(self._locks):
            each.__exit__()
