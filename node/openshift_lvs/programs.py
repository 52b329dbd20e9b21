"""The programs of the system that this one calls: always with an argument list, in English, without a shell."""

from __future__ import annotations

import os
import select

from . import clock
from .errors import Refused, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where programs are looked up, whatever PATH the caller has: sudo's may lack the first ones."""
_ENVIRONMENT = {"PATH": ":".join(_FOLDERS), "LC_ALL": "C.UTF-8"}
_SIGPIPE, _SIGKILL = 13, 9
"""Python ignores SIGPIPE; a program that it starts must not. Importing `signal` takes longer than most commands."""
ENDS_S = 300
"""Seconds until a program must have ended. systemd gives a service 90 s to stop, and a longer wait would keep the lock of the versions."""


class Process:
    """A program that has started. It gets its input when it is ended.

    Without `subprocess`, whose import takes 0.1 s on a slow processor. Files in memory take any amount of output without a reader.
    """

    def __init__(self, *command: str) -> None:
        """Raises FileNotFoundError when this node has no such program."""
        path = next((f"{folder}/{command[0]}" for folder in _FOLDERS if os.access(f"{folder}/{command[0]}", os.X_OK)), None)
        if path is None:
            raise FileNotFoundError(f"{command[0]}: not on this node")
        self._command = command
        given, self._input = os.pipe()
        self._streams = [os.memfd_create(name) for name in ("output", "errors")]
        try:
            redirect = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate((given, *self._streams))]
            self._id = os.posix_spawn(path, command, {**os.environ, **_ENVIRONMENT}, file_actions=redirect, setsigdef=[_SIGPIPE])
        except OSError:
            self._close(self._input, *self._streams)
            raise
        finally:
            os.close(given)

    def end(self, stdin: str = "") -> tuple[int, str, str]:
        """Give it its input, and wait: its exit status, output and error output. One that a signal ended has a negative status.

        One that has not ended after ENDS_S is killed. Then TimedOut names it.
        """
        left = stdin.encode()
        os.set_blocking(self._input, False)
        deadline = clock.now() + ENDS_S
        in_time = True
        try:
            while left and (in_time := _ready(self._input, select.POLLOUT, deadline)):
                left = left[os.write(self._input, left) :]
        except BrokenPipeError:
            # It ended without reading all of it. Its status says why.
            pass
        os.close(self._input)
        in_time = in_time and self._ends(deadline)
        if not in_time:
            os.kill(self._id, _SIGKILL)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(self._id, 0)[1])
            if not in_time:
                raise TimedOut(f"{' '.join(self._command)}: it did not end within {ENDS_S} s, and was killed; {_text(self._streams[1]).strip()}".rstrip("; "))
            return status, _text(self._streams[0]), _text(self._streams[1])
        finally:
            self._close(*self._streams)

    def _ends(self, deadline: float) -> bool:
        try:
            process = os.pidfd_open(self._id)
        except OSError:
            # Before Linux 5.3 there is no such file: the wait has no deadline.
            return True
        try:
            return _ready(process, select.POLLIN, deadline)
        finally:
            os.close(process)

    def _close(self, *streams: int) -> None:
        for stream in streams:
            os.close(stream)


def _ready(file: int, event: int, deadline: float) -> bool:
    """Whether this happens to a file before the deadline."""
    poll = select.poll()
    poll.register(file, event)
    return bool(poll.poll(max(0.0, deadline - clock.now()) * 1000))


def attempt(*command: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a program; its exit status, output and error output. One that is missing has status 127, one that a signal ended a negative one."""
    try:
        return Process(*command).end(stdin)
    except FileNotFoundError as missing:
        return 127, "", str(missing)


def _text(stream: int) -> str:
    return os.pread(stream, os.fstat(stream).st_size, 0).decode(errors="replace")


def run(*command: str, stdin: str = "") -> str:
    """Run a program that must succeed; its output. Raises Refused with its error output."""
    return output_of(command, attempt(*command, stdin=stdin))


def output_of(command: Sequence[str], ended: tuple[int, str, str]) -> str:
    """The output of a program that must have succeeded, from its exit status, output and error output. Raises Refused with its error output."""
    status, output, errors = ended
    if status:
        raise Refused(f"{' '.join(command)}: {(errors or output).strip() or f'exit status {status}'}")
    return output


def succeeds(*command: str, stdin: str = "") -> bool:
    """Whether a program succeeds."""
    return attempt(*command, stdin=stdin)[0] == 0


def sync(folder: str) -> None:
    """Write a folder's file system to disk, so that a power cut does not undo what was reported."""
    run("sync", "--file-system", folder)
