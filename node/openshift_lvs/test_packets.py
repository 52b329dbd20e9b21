"""Whether another program changes the destination of a service's packets: a hostPort, a Service's externalIP, a NodePort.

Clients' packets are not tracked and keep their destination, so IPVS sends them to servers that need not listen there, although every health check, which is
translated, passes. Calls from this host go elsewhere than clients' do. So a director sends itself a test packet for each service. It enters
through lo, comes from an address that no host has, passes the prerouting rules of other programs, is recorded with the destination that it has then, and
is dropped. No server receives it, and connection tracking keeps nothing of it. How a rule is written does not matter, nor whether nft or one of both
kinds of iptables wrote it. A rule that is limited to another interface than lo is not met.
"""

from __future__ import annotations

import re
import socket
import struct

from . import host, programs, state
from .description import endpoint
from .errors import Refused
from .lock import SHORT_S, Lock
from .translation import Translation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .description import Description

    Destination = tuple[str, int]
    """Address and port."""
    Asked = tuple[str, int, str]
    """VIP, port and protocol of a service."""

TABLE = "lvs_test_packets"
"""Its name has no part of our other tables' names: `watch` would compare the rules each time."""
_FROM = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Of RFC 5737 and RFC 3849: no host has them."""
_FIRST_PORT = 1024
"""The source port of the first test packet; the next ones follow."""
_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
_TCP, _UDP = 6, 17
_SYN = 2


def translations(description: Description, chains: list[dict[str, Any]]) -> tuple[Translation, ...]:
    """What becomes of the packets of every service that do not keep their destination. `chains` are other programs' (firewall.other_chains)."""
    asked = [(str(address), service.port, service.protocol) for vip in description.vips for address in vip.addresses for service in vip.services]
    try:
        with Lock(state.TEST_PACKETS_LOCK, SHORT_S, "test packets"):
            seen: dict[Asked, Destination] = {}
            for version in description.versions:
                seen |= _sent([each for each in asked if _version(each[0]) == version])
            return tuple(_told(each, seen.get(each), chains) for each in asked if seen.get(each) != each[:2])
    except (Refused, OSError) as fault:
        return tuple(Translation(_at(each), rule=str(fault)) for each in asked)


def _told(asked: Asked, to: Destination | None, chains: list[dict[str, Any]]) -> Translation:
    if to is None:
        return Translation(_at(asked), rule="one drops the test packet")
    return Translation(_at(asked), endpoint(*to), _rule(asked, to, chains))


def _at(asked: Asked) -> str:
    return f"{endpoint(*asked[:2])}/{asked[2]}"


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _rules(version: int, traced: bool) -> str:
    family = host.FAMILIES[version]
    ours = f'iifname "lo" {family} saddr {_FROM[version]}'
    return f"""
table {family} {TABLE}
delete table {family} {TABLE}
table {family} {TABLE} {{
    set seen {{ type inet_service . ipv{version}_addr . inet_service; size 65535; flags dynamic; }}
    chain first {{
        type filter hook prerouting priority -500; policy accept;
        {ours} meta nftrace set {int(traced)}
    }}
    chain last {{
        type filter hook prerouting priority 500; policy accept;
        {ours} goto record
    }}
    chain record {{
        update @seen {{ th sport . {family} daddr . th dport }}
        drop
    }}
}}
"""


def _sent(asked: list[Asked], traced: bool = False) -> dict[Asked, Destination]:
    """Send a test packet for each address, port and protocol of one family: the destination that each has behind the rules. One that is dropped on its way
    is missing.
    """
    version = _version(asked[0][0])
    family = host.FAMILIES[version]
    programs.run("nft", "--file", "-", stdin=_rules(version, traced))
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
            for number, (address, port, protocol) in enumerate(asked):
                # lo has no MAC. The kernel has handled the packet before nft is started.
                out.sendto(_packet(_FIRST_PORT + number, (address, port), protocol), ("lo", _ETHERTYPES[version], 0, 0, bytes(6)))
        shown = programs.run("nft", "list", "set", family, TABLE, "seen")
    finally:
        programs.attempt("nft", "delete", "table", family, TABLE)
    seen = re.findall(r"\b(\d+) \. ([0-9a-f.:]+) \. (\d+)", shown)
    return {asked[int(port) - _FIRST_PORT]: (address, int(to)) for port, address, to in seen}


def _packet(source_port: int, to: Destination, protocol: str) -> bytes:
    """The first packet of a connection, with the checksums without which connection tracking takes no notice of it."""
    version = _version(to[0])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    addresses = socket.inet_pton(family, _FROM[version]) + socket.inet_pton(family, to[0])
    ports = struct.pack("!HH", source_port, to[1])
    if protocol == "TCP":
        number, parts = _TCP, (ports + struct.pack("!IIBBH", 1, 0, 5 << 4, _SYN, 1024), bytes(2))
    else:
        number, parts = _UDP, (ports + struct.pack("!H", 8), b"")
    length = sum(map(len, parts)) + 2
    total = _checksum(addresses + struct.pack("!HH", number, length) + b"".join(parts))
    segment = parts[0] + total + parts[1]
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, length, number, 64) + addresses + segment
    header = struct.pack("!BBHHHBB", 0x45, 0, 20 + length, 1, 0, 64, number)
    return header + _checksum(header + addresses) + addresses + segment


def _checksum(data: bytes) -> bytes:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _rule(asked: Asked, to: Destination, chains: list[dict[str, Any]]) -> str:
    """Where the rule is that translates, found with a second test packet that the kernel traces."""
    from .kernel_events import TraceEvents

    trace = TraceEvents()
    _sent([asked], traced=True)
    nat = {(chain["table"], chain["name"]): chain["family"] for chain in chains if chain.get("type") == "nat"}
    for table, path, destination in trace.accepted():
        if (table, path[0]) in nat and destination == asked[:2]:
            return f"table {nat[table, path[0]]} {table}, chain {', '.join(path)}"
    return _legacy_rule(to)


def _legacy_rule(to: Destination) -> str:
    """The chain of legacy iptables with that translation: the kernel traces it into its log only."""
    save = "iptables-legacy-save" if _version(to[0]) == 4 else "ip6tables-legacy-save"
    shown = programs.attempt(save, "-t", "nat")[1]
    chain = next((line.split()[1] for line in shown.splitlines() if line.startswith("-A ") and line.endswith(f" --to-destination {endpoint(*to)}")), "")
    if chain:
        return f"table nat of legacy iptables, chain {chain}"
    return f"a rule that nftables does not trace; {save} -t nat shows it"
