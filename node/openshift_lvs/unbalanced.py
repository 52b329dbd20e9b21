"""Connections while another program has emptied the IPVS table: what the node does until `watch` has put the table back.

Without virtual servers, every packet for a VIP ends at the holder's own server. That server answers new connections, but it resets the connections that
other servers have. So the rules (lvs.nft) hold back what belongs to other servers, and here the new connections stay where they were accepted. IPVS
gets no packet while its servers come back one after the other.
"""

from __future__ import annotations

import contextlib

from . import host, journal, programs, sockets, state
from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .description import Description

ACCEPTING, HELD, HELD_BEFORE = "accepting", "held", "held_before"
"""Sets of lvs.nft, besides host.KEPT: VIPs and ports that IPVS does not balance, and whose new connections are kept; connections whose packets are held."""
_TABLES = "/proc/net/tcp", "/proc/net/tcp6"


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
    return [f"{client} . {client_port} . {vip} . {port}" for (vip, port), (client, client_port) in sockets.connections(shown) if (vip, port) in wanted]


def _nft(command: str) -> None:
    try:
        programs.run("nft", "--file", "-", stdin=f"{command}\n")
    except Refused as fault:
        # The rules may be missing too. The table is put back all the same.
        journal.note(f"connections were not kept: {fault}")
