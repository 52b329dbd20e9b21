"""The TCP sockets of this host, those of its containers too, as the kernel shows them in /proc."""

from __future__ import annotations

import contextlib
import os
import socket
import sys

from .description import endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = "/proc"
_LISTEN, _TIME_WAIT = "0A", "06"
"""States in /proc/net/tcp."""
_MAPPED = bytes(10) + b"\xff\xff"
"""The first 12 bytes of ::ffff:ADDRESS."""

End = tuple[str, int]
"""An address and a port."""


def connections(shown: str) -> Iterator[tuple[End, End]]:
    """Local end and peer of each connection that /proc/net/tcp or tcp6 shows."""
    return ((local, peer) for local, peer, state in _entries(shown) if state not in (_LISTEN, _TIME_WAIT))


def _entries(shown: str) -> Iterator[tuple[End, End, str]]:
    for line in shown.splitlines()[1:]:
        local, peer, state = line.split()[1:4]
        yield _end(local), _end(peer), state


def _end(shown: str) -> End:
    """The kernel prints each 32 bits as a number of this machine's byte order; a socket for both families has ::ffff:ADDRESS."""
    address, _, port = shown.partition(":")
    parts = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
    if len(parts) == 1 or b"".join(parts[:3]) == _MAPPED:
        return socket.inet_ntoa(parts[-1]), int(port, 16)
    return socket.inet_ntop(socket.AF_INET6, b"".join(parts)), int(port, 16)


def everywhere() -> str:
    """`listens PORT` for each port on which the host itself listens, and `LOCAL PEER` for each connection, in whatever network namespace it is."""
    namespaces: set[str] = set()
    found: set[str] = set()
    for process in ("self", *filter(str.isdigit, os.listdir(PROC))):
        # It may have ended by now.
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"{PROC}/{process}/ns/net")
            if namespace in namespaces:
                continue
            for shown in _tables(process):
                found |= {f"{endpoint(*local)} {endpoint(*peer)}" for local, peer in connections(shown)}
                if process == "self":
                    found |= {f"listens {port}" for (_, port), _, state in _entries(shown) if state == _LISTEN}
            namespaces.add(namespace)
    return "\n".join(sorted(found))


def _tables(process: str) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        # A host without IPv6 has no tcp6.
        with contextlib.suppress(FileNotFoundError), open(f"{PROC}/{process}/net/{name}", encoding="ascii") as file:
            yield file.read()
