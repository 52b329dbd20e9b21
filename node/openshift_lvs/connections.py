"""TCP connections to `ADDRESS:PORT` or `[ADDRESS]:PORT`. The resident process has this in memory, so it imports little."""

from __future__ import annotations

import errno
import socket

ANSWERED = (0, errno.ECONNREFUSED)
"""Results of connect(2) by which a host is there: it takes the connection, or refuses it."""


def split(at: str) -> tuple[str, int]:
    """Address and port of `ADDRESS:PORT` or `[ADDRESS]:PORT`."""
    address, _, port = at.rpartition(":")
    return address.strip("[]"), int(port)


def begin(at: str) -> tuple[socket.socket, int]:
    """A connection that does not block, and the result of connect(2) so far."""
    address, port = split(at)
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    return connection, connection.connect_ex((address, port))
