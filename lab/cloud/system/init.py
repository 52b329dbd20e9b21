"""Process 1 of the cloud: starts services, restarts those that die, reaps what is left, and answers on a socket.

A request is one line of JSON, the answer another: {"start": {name, argv, env}} or {"status": true}.
SIGTERM ends every service, newest first, and then the whole cloud with this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOCKET = "/run/init.sock"
LOGS = Path("/srv/log")
STEADY_S = 60.0
"""A service that lived this long starts again at once when it dies; one that keeps dying waits longer each time."""
LONGEST_PAUSE_S = 15.0
TERM_S = 15.0


@dataclass
class Service:
    """One process that is meant to run; `again` is when it is to be started again, 0 while it runs."""

    name: str
    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    since: float = 0.0
    again: float = 0.0
    restarts: int = 0

    def spawn(self) -> None:
        log = os.fsencode(LOGS / f"{self.name}.log")
        # a session of its own, so that a signal reaches whatever the service started
        self.pid = os.posix_spawnp(
            self.argv[0], self.argv, {**os.environ, **self.env},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, b"/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )  # fmt: skip
        self.since, self.again = time.monotonic(), 0.0

    def died(self) -> None:
        lived = time.monotonic() - self.since
        self.restarts = 0 if lived > STEADY_S else self.restarts + 1
        self.pid, self.again = 0, time.monotonic() + min(0.5 * 2**self.restarts, LONGEST_PAUSE_S)

    def signal(self, number: int) -> None:
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)


class Init:
    """The table of services, in the order of their start."""

    def __init__(self) -> None:
        self.services: dict[str, Service] = {}
        self.ending = False

    def reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for service in self.services.values():
                if service.pid == pid:
                    service.died()

    def start_due(self) -> None:
        for service in self.services.values():
            if not service.pid and service.again <= time.monotonic() and not self.ending:
                service.spawn()

    def stop(self, services: list[Service]) -> None:
        """SIGTERM, and SIGKILL to those that are still there after a while (nova-compute can take minutes)."""
        for service in services:
            service.signal(signal.SIGTERM)
            service.again = float("inf")
        end = time.monotonic() + TERM_S
        while any(s.pid for s in services):
            self.reap()
            for service in services:
                service.again = float("inf")
                if time.monotonic() > end:
                    service.signal(signal.SIGKILL)
            time.sleep(0.05)

    def answer(self, request: dict[str, Any]) -> Any:
        match request:
            case {"start": spec}:
                wanted = Service(**spec)
                had = self.services.get(wanted.name)
                if had and (had.argv, had.env) != (wanted.argv, wanted.env):
                    self.stop([had])
                    had = None
                if not had:
                    self.services[wanted.name] = wanted
                self.start_due()
            case {"status": True}:
                return {
                    s.name: {"pid": s.pid, "seconds": round(time.monotonic() - s.since) if s.pid else 0, "restarts": s.restarts} for s in self.services.values()
                }
        return {}

    def pause(self) -> float:
        waiting = [s.again for s in self.services.values() if not s.pid and s.again != float("inf")]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else 60.0

    def run(self) -> None:
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "ending", True))
        server = listening()
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            selector.register(woken, selectors.EVENT_READ)
            while not self.ending:
                ready = [key.fileobj for key, _ in selector.select(self.pause())]
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                self.reap()
                self.start_due()
                if server in ready:
                    self.converse(server)
        self.stop(list(reversed(self.services.values())))

    def converse(self, server: socket.socket) -> None:
        client, _ = server.accept()
        client.settimeout(5)
        try:
            with client, client.makefile("rw") as stream:
                stream.write(json.dumps(self.answer(json.loads(stream.readline()))) + "\n")
        except (OSError, ValueError, TypeError) as error:
            print(f"init: a request failed: {error!r}", flush=True)


def listening() -> socket.socket:
    """The socket for requests. It gets its name only when it accepts connections: who finds the name may connect."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{SOCKET}.new")
    server.listen(16)
    Path(f"{SOCKET}.new").rename(SOCKET)
    return server


def ask(request: dict[str, Any]) -> Any:
    """Send a request to process 1 and return its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(SOCKET)
        with client.makefile("rw") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            return json.loads(stream.readline())


def start(name: str, *argv: str | Path, **env: str) -> None:
    """Have a service running: nothing happens when it runs like this already."""
    ask({"start": {"name": name, "argv": [str(a) for a in argv], "env": env}})


def status() -> dict[str, dict[str, int]]:
    """Every service's pid (0: dead, about to be started again), seconds of life, and restarts."""
    answer: dict[str, dict[str, int]] = ask({"status": True})
    return answer


if __name__ == "__main__":
    Init().run()
