"""Connections while another program has emptied the IPVS table: what the node does until `watch` has put the table back.

Without virtual servers, every packet for a VIP ends at the holder's own server. That server answers new connections, but it resets the connections that
other servers have. So the rules (lvs.nft) hold back what belongs to other servers, and here the new connections stay where they were accepted. IPVS
gets no packet while its servers come back one after the other.
"""

from __future__ import annotations

import contextlib
import socket
import sys

from . import host, journal, programs, state
from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .description import Description

ACCEPTING, HELD, HELD_BEFORE = "accepting", "held", "held_before"
"""Sets of lvs.nft, besides host.KEPT: VIPs and ports that IPVS does not balance, and whose new connections are kept; connections whose packets are held."""
_TABLES = "/proc/net/tcp", "/proc/net/tcp6"
_LISTEN, _TIME_WAIT = "0A", "06"
_MAPPED = bytes(10) + b"\xff\xff"
"""The first 12 bytes of ::ffff:ADDRESS."""


@contextlib.contextmanager
def kept_connections(description: Description, marks: Iterable[int]) -> Iterator[None]:
    """Put virtual servers back in here: the connections that this node's own server has accepted so far stay with it."""
    back = [(vip, service) for vip in description.vips for service in vip.services if service.mark in marks and service.protocol == "TCP"]
    ports = {(str(address), service.port) for vip, service in back for address in vip.addresses}
    by_family = {family: sorted(each for each in ports if (":" in each[0]) == (version == 6)) for version, family in host.FAMILIES.items()}
    by_family = {family: own for family, own in by_family.items() if own}
    if not (description.director and by_family):
        yield
        return
    # From now on IPVS gets nothing, and the rules add each new connection. Those before are listed by the kernel.
    for family, own in by_family.items():
        _nft(f"add element {family} {host.TABLE} {ACCEPTING} {{ {', '.join(f'{vip} . {port}' for vip, port in own)} }}")
        if found := [connection for name in _TABLES for connection in connections(state.text(name), own)]:
            _nft(f"add element {family} {host.TABLE} {host.KEPT} {{ {', '.join(found)} }}")
    try:
        yield
    finally:
        # Held connections are balanced again. They may be held once more when the table is emptied again.
        for family in by_family:
            _nft("\n".join(f"flush set {family} {host.TABLE} {name}" for name in (ACCEPTING, HELD, HELD_BEFORE)))


def connections(shown: str, ports: Iterable[tuple[str, int]]) -> list[str]:
    """The connections of these VIPs and ports in /proc/net/tcp or tcp6, as elements of host.KEPT: client, its port, VIP, port."""
    wanted = set(ports)
    found = []
    for line in shown.splitlines()[1:]:
        local, peer, status = line.split()[1:4]
        vip, port = _end(local)
        if status not in (_LISTEN, _TIME_WAIT) and (vip, port) in wanted:
            client, client_port = _end(peer)
            found.append(f"{client} . {client_port} . {vip} . {port}")
    return found


def _end(shown: str) -> tuple[str, int]:
    """An address and a port. The kernel prints each 32 bits as a number of this machine's byte order; a socket for both families has ::ffff:ADDRESS."""
    address, _, port = shown.partition(":")
    parts = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
    if len(parts) == 1 or b"".join(parts[:3]) == _MAPPED:
        return socket.inet_ntoa(parts[-1]), int(port, 16)
    return socket.inet_ntop(socket.AF_INET6, b"".join(parts)), int(port, 16)


def _nft(command: str) -> None:
    try:
        programs.run("nft", "--file", "-", stdin=f"{command}\n")
    except Refused as fault:
        # The rules may be missing too. The table is put back all the same.
        journal.note(f"connections were not kept: {fault}")
