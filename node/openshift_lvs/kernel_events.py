"""What the kernel tells of changes by any program: addresses that leave lo, and changes of our nftables tables. Netlink, without a process.

Groups and messages: linux/rtnetlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NETLINK_ROUTE = 0
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
_RTM_DELADDR = 21
_LO = 1
"""The index of lo in every network namespace."""
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFT_MSG_NEWGEN = 10 << 8 | 15
"""Subsystem nf_tables; the end of a transaction, with the process that made it."""
_NFTA_GEN_PROC_PID = 2
_NFTA_GEN_PROC_NAME = 3
_HEADER = 16
_BYTES = 1 << 16


class Events:
    """The messages of one group. `fileno` is for poll."""

    def __init__(self, family: int, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, family)
        self._socket.bind((0, groups))

    def fileno(self) -> int:
        return self._socket.fileno()

    def _received(self) -> Iterator[bytes | None]:
        """What waits; None where the kernel dropped messages."""
        while True:
            try:
                yield self._socket.recv(_BYTES)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: more came than the socket holds.
                yield None


class AddressEvents(Events):
    """Addresses of every interface."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR)

    def left_lo(self) -> bool:
        """Whether an address may have left lo since the last look."""
        left = False
        for data in self._received():
            left |= data is None or any(kind == _RTM_DELADDR and struct.unpack_from("=I", body, 4)[0] == _LO for kind, body in messages(data))
        return left


class RuleEvents(Events):
    """Changes of nftables tables whose names begin with a text. `by` is the program that made the last one."""

    def __init__(self, names: str) -> None:
        super().__init__(_NETLINK_NETFILTER, 1 << _NFNLGRP_NFTABLES - 1)
        self._names = names.encode()
        self._touched = False
        self.by = ""

    def changed(self) -> bool:
        """Whether our tables may have changed since the last look."""
        changed = False
        for data in self._received():
            if data is None:
                changed, self._touched = True, False
            elif self._names in data:
                # Other programs change thousands of rules at once: their messages are searched as a whole.
                changed = self._touched = True
            elif self._touched:
                for kind, body in messages(data):
                    if kind == _NFT_MSG_NEWGEN:
                        self.by, self._touched = _process(body), False
        return changed


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message."""
    at = 0
    while at + _HEADER <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < _HEADER:
            return
        yield kind, data[at + _HEADER : at + length]
        at += length + 3 & ~3


def _process(body: bytes) -> str:
    """The program that made a transaction, and the one that started it while that is still known: most programs run nft."""
    at, pid, name = 4, 0, ""
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        value = body[at + 4 : at + length]
        if kind == _NFTA_GEN_PROC_PID:
            pid = int.from_bytes(value, "big")
        elif kind == _NFTA_GEN_PROC_NAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        at += max(4, length) + 3 & ~3
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            parent = file.read().rpartition(")")[2].split()[1]
        with open(f"/proc/{parent}/comm", encoding="utf-8") as file:
            return f"{name} (process {pid}, started by {file.read().strip()})"
    except OSError:
        return f"{name} (process {pid})"
