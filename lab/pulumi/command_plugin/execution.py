"""Runs one command, here or on a host, and hands back what it printed."""

from __future__ import annotations

import asyncio
import json
import os
import signal as signals
from collections.abc import Callable
from contextlib import AbstractContextManager, AsyncExitStack
from typing import Any

import asyncssh

from . import ssh
from .properties import Properties
from .resources import OUTPUTS

LONGEST_LOG_LINE = 32 * 1024
READ_SIZE = 32 * 1024

Log = Callable[[str], None]
Interruptible = Callable[[], AbstractContextManager[None]]
"""Encloses what may be cut off when the deployment is cancelled."""


class CommandError(Exception):
    """The command did not run, or did not succeed."""


class Printed:
    """What a command printed: each stream by itself, both in their order, and whole lines to the log."""

    def __init__(self, logging: str | None, log: Log) -> None:
        self._log = log
        self._logged = {name for name in OUTPUTS if logging in (None, name, "stdoutAndStderr")}
        self._streams = {name: bytearray() for name in OUTPUTS}
        self._unlogged = {name: bytearray() for name in OUTPUTS}
        self._both = bytearray()

    def add(self, stream: str, data: bytes) -> None:
        self._streams[stream] += data
        self._both += data
        if stream in self._logged:
            pending = self._unlogged[stream]
            pending += data
            *lines, rest = pending.split(b"\n")
            while len(rest) > LONGEST_LOG_LINE:
                lines.append(rest[:LONGEST_LOG_LINE])
                rest = rest[LONGEST_LOG_LINE:]
            for line in lines:
                self._log(line.decode(errors="replace"))
            self._unlogged[stream] = rest

    def finish(self) -> Properties:
        """The outputs of the resource, a final newline of each taken off, as the published plugin has them."""
        for rest in self._unlogged.values():
            if rest:
                self._log(rest.decode(errors="replace"))
        return {name: data.decode(errors="replace").removesuffix("\n") for name, data in self._streams.items()}

    def failure(self, how: str, command: str) -> CommandError:
        self.finish()
        return CommandError(f"{how}: running {json.dumps(command, ensure_ascii=False)}:\n{self._both.decode(errors='replace')}")


async def run(inputs: Properties, command: str, previous: Properties, log: Log, interruptible: Interruptible) -> Properties:
    """Run the command as the inputs of its resource say; its outputs, or a CommandError with all that it printed."""
    carry = OUTPUTS if inputs.get("addPreviousOutputInEnv", True) else ()
    carried = {f"PULUMI_COMMAND_{name.upper()}": previous[name] for name in carry if previous.get(name)}
    environment = inputs.get("environment", {}) | carried
    printed = Printed(inputs.get("logging"), log)
    if "connection" in inputs:
        await _run_remotely(inputs, command, environment, printed, log, interruptible)
    else:
        with interruptible():
            await _run_here(inputs, command, environment, printed)
    return printed.finish()


async def _run_here(inputs: Properties, command: str, environment: dict[str, str], printed: Printed) -> None:
    argv = [*(inputs.get("interpreter") or ["/bin/sh", "-c"]), command]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe, stderr=pipe, cwd=inputs.get("dir"), env={**os.environ, **environment})
    except OSError as error:
        raise printed.failure(str(error), command) from error

    async def drain(stream: str, reader: asyncio.StreamReader | None) -> None:
        while reader and (data := await reader.read(READ_SIZE)):
            printed.add(stream, data)

    async def feed(writer: asyncio.StreamWriter | None) -> None:
        assert writer is not None
        try:
            writer.write(_stdin(inputs))
            await writer.drain()
        except (BrokenPipeError, ConnectionResetError):
            pass  # It ended, or closed its input, without reading all of it.
        writer.close()

    try:
        await asyncio.gather(feed(process.stdin), drain("stdout", process.stdout), drain("stderr", process.stderr))
        status = await process.wait()
    except asyncio.CancelledError:
        if process.returncode is None:
            process.kill()
        raise
    if status:
        raise printed.failure(f"exit status {status}" if status > 0 else f"signal: {signals.strsignal(-status)}", command)


class _Session(asyncssh.SSHClientSession[bytes]):
    """One command on a host."""

    def __init__(self, printed: Printed) -> None:
        self._printed = printed
        self._how = "wait: remote command exited without exit status or exit signal"
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """How it ended; empty when it succeeded."""

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._printed.add("stderr" if datatype == asyncssh.EXTENDED_DATA_STDERR else "stdout", data)

    def exit_status_received(self, status: int) -> None:
        self._how = f"Process exited with status {status}" if status else ""

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        number = 128 + getattr(signals, f"SIG{signal}", 0)
        self._how = f"Process exited with status {number} from signal {signal}" + (f". Reason was: {msg}" if msg else "")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(f"{self._how} ({exc})" if exc and self._how else self._how)


async def _run_remotely(inputs: Properties, command: str, environment: dict[str, str], printed: Printed, log: Log, interruptible: Interruptible) -> None:
    async with AsyncExitStack() as stack:
        with interruptible():
            host = await stack.enter_async_context(ssh.connection(inputs["connection"], log))
        # From here on a cancelled deployment waits: closing the connection would not stop the command, only hide how it ends.
        session = _Session(printed)
        try:
            await _require_environment(host, inputs.get("environment", {}))
            channel, _ = await host.create_session(lambda: session, command, env=[f"{k}={v}" for k, v in environment.items()], encoding=None)
        except (OSError, asyncssh.Error) as error:
            raise printed.failure(str(error), command) from error
        try:
            channel.write(_stdin(inputs))
            channel.write_eof()
        except BrokenPipeError:
            pass  # It ended without reading its input.
        if how := await session.ended:
            raise printed.failure(how, command)


def _stdin(inputs: Properties) -> bytes:
    return str(inputs.get("stdin", "")).encode()


async def _require_environment(host: asyncssh.SSHClientConnection, environment: dict[str, Any]) -> None:
    """A server drops what its AcceptEnv does not name without a word, so ask what arrived before anything runs without it."""
    if not environment:
        return
    arrived = str((await host.run("env", env=environment)).stdout).splitlines()
    for name, value in environment.items():
        if f"{name}={value}".splitlines()[0] not in arrived:
            raise CommandError(
                f'could not set environment variable "{name}": this only works if the SSH server is configured to accept it with '
                f"AcceptEnv; otherwise put it before the command, as in '{name}=value command'"
            )
