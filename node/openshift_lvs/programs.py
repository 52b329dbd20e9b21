"""The programs of the system that this one calls: always with an argument list, in English, without a shell."""

from __future__ import annotations

import os
import subprocess

from .errors import Refused

_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def attempt(*command: str, stdin: str = "") -> tuple[int, str, str]:
    """Run a program; its exit status, output and error output. A program that is missing has status 127."""
    try:
        done = subprocess.run(command, input=stdin, env={**os.environ, **_ENVIRONMENT}, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return 127, "", f"{command[0]}: not on this node"
    return done.returncode, done.stdout, done.stderr


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
