"""The programs of the system that this one calls: always with an argument list, in English, without a shell."""

from __future__ import annotations

import os

from .errors import Refused

_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where programs are looked up, whatever PATH the caller has: sudo's may lack the first ones."""
_ENVIRONMENT = {"PATH": ":".join(_FOLDERS), "LC_ALL": "C.UTF-8"}
_SIGPIPE = 13
"""Python ignores it; a program that it starts must not."""


def attempt(*command: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a program; its exit status, output and error output. A program that is missing has status 127, one that a signal ended a negative one.

    Without `subprocess`, whose import takes 0.1 s on a slow processor. Files in memory take any amount of output without a reader.
    """
    path = next((f"{folder}/{command[0]}" for folder in _FOLDERS if os.access(f"{folder}/{command[0]}", os.X_OK)), None)
    if path is None:
        return 127, "", f"{command[0]}: not on this node"
    streams = [os.memfd_create(name) for name in ("input", "output", "errors")]
    try:
        os.write(streams[0], stdin.encode())
        os.lseek(streams[0], 0, os.SEEK_SET)
        redirect = [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams)]
        process = os.posix_spawn(path, command, {**os.environ, **_ENVIRONMENT}, file_actions=redirect, setsigdef=[_SIGPIPE])
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        return status, _text(streams[1]), _text(streams[2])
    finally:
        for stream in streams:
            os.close(stream)


def _text(stream: int) -> str:
    return os.pread(stream, os.fstat(stream).st_size, 0).decode(errors="replace")


def run(*command: str, stdin: str = "") -> str:
    """Run a program that must succeed; its output. Raises Refused with its error output."""
    status, output, errors = attempt(*command, stdin=stdin)
    if status:
        raise Refused(f"{' '.join(command)}: {(errors or output).strip() or f'exit status {status}'}")
    return output


def succeeds(*command: str, stdin: str = "") -> bool:
    """Whether a program succeeds."""
    return attempt(*command, stdin=stdin)[0] == 0


def sync(folder: str) -> None:
    """Write a folder's file system to disk, so that a power cut does not undo what was reported."""
    run("sync", "--file-system", folder)
