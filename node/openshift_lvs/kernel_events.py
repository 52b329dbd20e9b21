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
_IFA_ADDRESS = 1
_LO = 1
"""The index of lo in every network namespace."""
_NETLINK_NETFILTER = 12
_NFNLGRP_NFTABLES = 7
_NFT_MSG_NEWGEN = 10 << 8 | 15
"""Subsystem nf_tables; the end of a transaction, with the process that made it."""
_NFTA_GEN_PROC_PID = 2
_NFTA_GEN_PROC_NAME = 3
_NFNLGRP_NFTRACE = 9
_NFT_MSG_TRACE = 10 << 8 | 17
"""Subsystem nf_tables; what a rule made of a packet that is traced."""
_NFTA_TRACE_TABLE, _NFTA_TRACE_CHAIN, _NFTA_TRACE_TYPE, _NFTA_TRACE_VERDICT = 1, 2, 4, 5
_NFTA_TRACE_NETWORK_HEADER, _NFTA_TRACE_TRANSPORT_HEADER = 8, 9
_NFTA_VERDICT_CODE, _NFTA_VERDICT_CHAIN = 1, 2
_NFT_TRACETYPE_RULE = 3
_NF_ACCEPT, _NFT_JUMP, _NFT_GOTO = 1, -3, -4
_NLA_TYPE_MASK = 0x3FFF
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
    """Addresses of every interface. `elsewhere` is set when an IPv4 address or `own`, an IPv6 one, of another interface than lo may have changed; the
    reader clears it. Other IPv6 addresses are left out: a router advertisement renews them all the time.
    """

    def __init__(self) -> None:
        super().__init__(_NETLINK_ROUTE, _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR)
        self.elsewhere = False
        self.own = b""

    def left_lo(self) -> bool:
        """Whether an address may have left lo since the last look."""
        left = False
        for data in self._received():
            if data is None:
                left = self.elsewhere = True
            for kind, body in messages(data or b""):
                if struct.unpack_from("=I", body, 4)[0] == _LO:
                    left |= kind == _RTM_DELADDR
                else:
                    self.elsewhere |= body[0] == socket.AF_INET or dict(_attributes(body, 8)).get(_IFA_ADDRESS) == self.own
        return left


class RuleEvents(Events):
    """Changes of some nftables tables. `by` is the program that made the last one."""

    def __init__(self, *tables: str) -> None:
        super().__init__(_NETLINK_NETFILTER, 1 << _NFNLGRP_NFTABLES - 1)
        self._tables = {table: f"{table}\0".encode() for table in tables}
        self._touched = False
        self.by = ""

    def changed(self) -> set[str]:
        """The tables that may have changed since the last look."""
        changed: set[str] = set()
        for data in self._received():
            # Other programs change thousands of rules at once: their messages are searched as a whole.
            found = {table for table, name in self._tables.items() if data is None or name in data}
            changed |= found
            if found:
                self._touched = data is not None
            elif data and self._touched:
                for kind, body in messages(data):
                    if kind == _NFT_MSG_NEWGEN:
                        self.by, self._touched = _process(body), False
        return changed


class TraceEvents(Events):
    """What rules made of the packets that nftables traces."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_NETFILTER, 1 << _NFNLGRP_NFTRACE - 1)

    def accepted(self) -> list[tuple[str, list[str], tuple[str, int]]]:
        """Each rule that ended a walk through a table's chains by accepting a packet: the table, the chains from the hook to that rule, and the packet's
        destination before the walk. A rule that translates the destination is one of them."""
        found = []
        came_from: dict[str, str] = {}
        destination = ("", 0)
        for data in self._received():
            for kind, body in messages(data or b""):
                if kind != _NFT_MSG_TRACE:
                    continue
                told = dict(_attributes(body, 4))
                if _NFTA_TRACE_NETWORK_HEADER in told:
                    # The kernel shows the packet with the first message of each walk. Another one that is traced may be a fragment without ports.
                    came_from = {}
                    port = struct.unpack_from("!H", told.get(_NFTA_TRACE_TRANSPORT_HEADER, bytes(4)), 2)[0]
                    destination = (_destination(told[_NFTA_TRACE_NETWORK_HEADER]), port)
                if struct.unpack("!I", told[_NFTA_TRACE_TYPE])[0] != _NFT_TRACETYPE_RULE:
                    continue
                verdict = dict(_attributes(told[_NFTA_TRACE_VERDICT], 0))
                code, chain = struct.unpack("!i", verdict[_NFTA_VERDICT_CODE])[0], _name(told[_NFTA_TRACE_CHAIN])
                if code in (_NFT_JUMP, _NFT_GOTO):
                    came_from[_name(verdict[_NFTA_VERDICT_CHAIN])] = chain
                elif code == _NF_ACCEPT:
                    path = [chain]
                    while path[0] in came_from:
                        path.insert(0, came_from[path[0]])
                    found.append((_name(told[_NFTA_TRACE_TABLE]), path, destination))
        return found


def _destination(header: bytes) -> str:
    """The destination in the header of an IPv4 or IPv6 packet."""
    if header[0] >> 4 == 6:
        return socket.inet_ntop(socket.AF_INET6, header[24:40])
    return socket.inet_ntoa(header[16:20])


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
    told = dict(_attributes(body, 4))
    pid, name = int.from_bytes(told.get(_NFTA_GEN_PROC_PID, b""), "big"), _name(told.get(_NFTA_GEN_PROC_NAME, b""))
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            parent = file.read().rpartition(")")[2].split()[1]
        with open(f"/proc/{parent}/comm", encoding="utf-8") as file:
            return f"{name} (process {pid}, started by {file.read().strip()})"
    except OSError:
        return f"{name} (process {pid})"


def _attributes(body: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each attribute from a position on."""
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        yield kind & _NLA_TYPE_MASK, body[at + 4 : at + length]
        at += max(4, length) + 3 & ~3


def _name(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
