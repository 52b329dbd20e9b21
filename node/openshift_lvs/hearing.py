"""Whether the directors of a pool hear each other, before one of them is activated that the others do not know.

While no advert is sent yet, each director sends test packets every second, from the delivery of a version on: VRRP packets with virtual_router_id 0,
which no router can have (RFC 9568, 5.2.3), and messages of connection sync that are shorter than their header. keepalived and the kernel ignore both
without a word. A director receives them by sockets, so behind all filters of its host. A test packet names the directors that its sender hears. So
each director knows of every pair, and the first activation is refused when one of a pair does not hear the other.

Each family of the VIPs is tested by itself. Connection sync is tested where a VIP has its family, since its test packets tell nothing back.

Unicast adverts have a limit: both sides send, so a filter with connection tracking takes the packets for answers.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from ipaddress import ip_address

from . import clock, ipvs, journal, programs, state, versions
from .description import AH, UDP, VRRP, Description
from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    Heard = dict[str, dict[str, list[str]]]
    """For each director, for each IP protocol, the directors that it hears."""

UNIT = "openshift-lvs-hearing"
EACH_S = 1
FRESH_S = 4
"""A director that was not heard for so many seconds is not heard."""
AFTER_S = 600
"""Seconds after the version is in force and healthy: the other directors are activated later."""
WAIT_S = 15
_GROUPS = {
    4: {VRRP: "224.0.0.18", AH: "224.0.0.18", UDP: ipvs.SYNC_GROUPS[4]},
    6: {VRRP: "ff02::12", UDP: ipvs.SYNC_GROUPS[6]},
}
"""Multicast groups by family and IP protocol. Only VRRP version 2, which has no IPv6, has AH."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_UDP_CHECKSUM_AT = 6
_NAMES = {VRRP: "VRRP (IP protocol 112)", AH: "AH (IP protocol 51)", UDP: "connection sync (UDP 8848)"}


def needed(new: Description, now: Description | None) -> bool:
    """Whether a director of the new version is unknown to the version in force."""
    known = {*now.directors, *now.directors_v6} if now and now.director else set()
    return new.director and bool(new.directors) and not {*new.directors, *new.directors_v6} <= known


def begin(version: str, new: Description, now: Description | None) -> None:
    """Send and receive test packets in the background, where that is needed."""
    if not needed(new, now):
        return
    end()
    program = f"{versions.program_of_this_process()}/openshift-lvs"
    programs.run("systemd-run", "--quiet", "--collect", f"--unit={UNIT}", program, "hear", version)


def end() -> None:
    """Stop the test packets."""
    programs.attempt("systemctl", "stop", f"{UNIT}.service")
    if os.path.exists(state.HEARING):
        os.unlink(state.HEARING)


def require(version: str, new: Description, now: Description | None) -> None:
    """Raise Refused when two directors of the new version do not hear each other. Names the firewall that this host has."""
    if not needed(new, now):
        return
    if not os.path.exists(state.HEARING):
        # This host was started again since the delivery.
        begin(version, new, now)
    try:
        clock.wait_for(WAIT_S, "the directors to hear each other", lambda: "; ".join(missing(new, heard())))
    except Refused as silent:
        from . import firewall

        chains = firewall.dropping_chains(firewall.other_chains(new))
        here = f" This host has chains that drop what no rule accepts: {'; '.join(chains)}." if chains else ""
        raise Refused(
            f"{silent}. A firewall drops it: let it in on the host that does not hear it.{here} For a host that was started again since the delivery of "
            "its files, set another `installed`. A director whose removal failed sends none: drain it, remove it completely, then add it again. Nothing was "
            "changed; pulumi up again"
        ) from None


def heard() -> Heard:
    """What was heard lately."""
    text = state.read(state.HEARING)
    found: Heard = json.loads(text) if text else {}
    return found


def missing(new: Description, known: Heard) -> list[str]:
    """Each pair of directors of which one does not hear the other, and by which protocol."""
    return [each for version in new.versions for each in _missing(new, known, version)]


def _missing(new: Description, known: Heard, version: int) -> list[str]:
    here = str(new.address_of(version))
    directors = sorted((here, *map(str, new.directors_of(version))), key=lambda address: int(ip_address(address)))
    found = []
    for listener in directors:
        for protocol in protocols(new, version):
            if listener not in known:
                continue
            silent = [other for other in directors if other != listener and other not in known[listener].get(str(protocol), ())]
            if silent:
                found.append(f"{listener} does not hear {_NAMES[protocol]} from {', '.join(silent)}")
    # Where this director does not hear another one, it cannot know what that one hears.
    told = set().union(*(known.get(here, {}).get(str(protocol), []) for protocol in protocols(new, version) if protocol != UDP))
    unknown = [director for director in directors if director not in known and (director in told or not found)]
    return [*found, *([f"{', '.join(unknown)}: no test packet told what is heard there"] if unknown else [])]


def protocols(new: Description, version: int) -> list[int]:
    """The IP protocols that directors send to each other in a family."""
    adverts = {vip.advert_protocol for vip in new.vips if vip.address.version == version}
    return [*sorted(adverts), *([UDP] if version == new.sync_version else [])]


def hear(version: str) -> None:
    """Send and receive test packets until the version has been in force for AFTER_S, or is not on this host any more."""
    new = Description.read(versions.folder(version))
    opened: list[_Sockets] = []
    noted: set[int] = set()
    ends_at: float | None = None
    before = None
    while os.path.isdir(versions.folder(version)):
        _begin_families(new, opened, noted)
        for each in opened:
            each.send()
        _listen(opened, clock.now() + EACH_S)
        if (known := {address: heard for each in opened for address, heard in each.known().items()}) != before:
            state.write(state.HEARING, json.dumps(known))
            before = known
        if ends_at is None and state.target(state.PROVEN) == version:
            ends_at = clock.now() + AFTER_S
        if ends_at is not None and clock.now() >= ends_at:
            return


def _begin_families(new: Description, opened: list[_Sockets], noted: set[int]) -> None:
    """Make the sockets of each family that has none yet: the address of one may come late. `noted`: the families for which the journal has that."""
    for version in sorted(set(new.versions).difference(each.version for each in opened)):
        try:
            opened.append(_Sockets(new, version))
        except OSError as fault:
            if version not in noted:
                journal.note(f"test packets from {new.address_of(version)}: {fault}")
                noted.add(version)


def _listen(opened: list[_Sockets], until: float) -> None:
    """Receive until that time."""
    import select

    sockets = {receiver: (each, protocol) for each in opened for protocol, receiver in each.receive.items()}
    while (left := until - clock.now()) > 0:
        for receiver in select.select(list(sockets), [], [], left)[0]:
            each, protocol = sockets[receiver]
            data, (source, *_) = receiver.recvfrom(4096)
            each.take(protocol, source, data)


class _Sockets:
    """The sockets of one director in one family, and what it has heard."""

    def __init__(self, new: Description, version: int) -> None:
        self.new, self.version = new, version
        self.here = str(new.address_of(version))
        self.others = [str(each) for each in new.directors_of(version)]
        self.groups = _GROUPS[version]
        self.protocols = protocols(new, version)
        self.from_: dict[tuple[int, str], float] = {}
        """When a director was heard last by a protocol."""
        self.told: dict[tuple[str, int], tuple[float, list[str]]] = {}
        """What a director said last of a protocol, and when."""
        self._index = socket.if_nametoindex(new.interface)
        self.out = {protocol: self._sender(protocol) for protocol in self.protocols}
        self.receive = {each: self._socket(socket.SOCK_RAW, each) for each in self.protocols if each != UDP}
        if UDP in self.protocols:
            self._hear_sync()
        for protocol, receiver in self.receive.items():
            if version == 6:
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("16sI", self._packed(self.groups[protocol]), self._index))
            else:
                member = struct.pack("4s4si", self._packed(self.groups[protocol]), bytes(4), self._index)
                receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def _hear_sync(self) -> None:
        sync = self._socket(socket.SOCK_DGRAM, 0)
        # The kernel's own socket of connection sync can be shared, too.
        sync.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sync.bind((self.groups[UDP], ipvs.SYNC_PORT))
            self.receive[UDP] = sync
        except OSError as taken:
            journal.note(f"connection sync is not tested: {taken}")
            self.protocols.remove(UDP)

    def _sender(self, protocol: int) -> socket.socket:
        """The socket that sends by a protocol. With IPv4 it takes whole packets; with IPv6 the kernel makes the header."""
        if self.version == 4:
            made = self._socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            return made
        made = self._socket(socket.SOCK_RAW, protocol)
        made.bind((self.here, 0))
        for option, value in (
            (socket.IPV6_MULTICAST_IF, self._index),
            (socket.IPV6_MULTICAST_HOPS, 255),
            (socket.IPV6_UNICAST_HOPS, 255),
            (socket.IPV6_MULTICAST_LOOP, 0),
        ):
            made.setsockopt(socket.IPPROTO_IPV6, option, value)
        if protocol == UDP:
            # IPv6 drops a datagram without a checksum.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, _UDP_CHECKSUM_AT)
        return made

    def _packed(self, address: str) -> bytes:
        return socket.inet_pton(_FAMILIES[self.version], address)

    def _socket(self, kind: int, protocol: int) -> socket.socket:
        made = socket.socket(_FAMILIES[self.version], kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.new.interface.encode())
        return made

    def send(self) -> None:
        """Send a test packet by every protocol, and what this director hears by each."""
        for carrier in self.receive:
            if carrier == UDP:
                payload = bytes([0, self.new.sync_id or 0])
                self._send(UDP, [self.groups[UDP]], struct.pack("!HHHH", ipvs.SYNC_PORT, ipvs.SYNC_PORT, 8 + len(payload), 0) + payload)
                continue
            for about in self.protocols:
                self._send(carrier, self._targets(carrier), report(about, self.hears(about), carrier))

    def _targets(self, carrier: int) -> list[str]:
        """The group, the other directors, or both: where the adverts of these VIPs go."""
        unicast = {vip.unicast for vip in self.new.vips if vip.advert_protocol == carrier and vip.address.version == self.version}
        return [*([self.groups[carrier]] if False in unicast else []), *(self.others if True in unicast else [])]

    def _send(self, protocol: int, targets: list[str], payload: bytes) -> None:
        for target in targets:
            header = b""
            if self.version == 4:
                # The kernel fills in length, identification and checksum.
                header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 0, 0, 0, 255, protocol, 0) + self._packed(self.here) + self._packed(target)
            try:
                self.out[protocol].sendto(header + payload, (target, 0))
            except OSError as fault:
                journal.note(f"test packet to {target}: {fault}")

    def take(self, protocol: int, source: str, data: bytes) -> None:
        """Record what came from an address."""
        if source not in self.others:
            return
        now = clock.now()
        if protocol == UDP:
            if data == bytes([0, self.new.sync_id or 0]):
                self.from_[UDP, source] = now
            return
        # With IPv6 the kernel keeps the header.
        said = parse(data if self.version == 6 else data[(data[0] & 15) * 4 :], protocol, self.version)
        if said is not None:
            self.from_[protocol, source] = now
            about, directors = said
            self.told[source, about] = (now, directors)

    def hears(self, protocol: int) -> list[str]:
        """The directors that this one hears by a protocol."""
        return sorted(source for (by, source), at in self.from_.items() if by == protocol and clock.now() - at < FRESH_S)

    def known(self) -> Heard:
        """What this director hears, and what each other one says that it hears."""
        found: Heard = {self.here: {str(each): self.hears(each) for each in self.protocols}}
        for (source, about), (at, directors) in self.told.items():
            if clock.now() - at < FRESH_S:
                found.setdefault(source, {})[str(about)] = directors
        return found


def report(about: int, directors: list[str], carrier: int) -> bytes:
    """A VRRP packet of version 3 with virtual_router_id 0. Its priority is the IP protocol that it tells of, its addresses the directors that are heard."""
    addresses = b"".join(socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each) for each in directors)
    vrrp = struct.pack("!BBBBHH", 0x31, 0, about, len(directors), 100, 0) + addresses
    return struct.pack("!BBHII12s", VRRP, 4, 0, 0, 0, bytes(12)) + vrrp if carrier == AH else vrrp


def parse(payload: bytes, carrier: int, version: int = 4) -> tuple[int, list[str]] | None:
    """What a test packet tells: an IP protocol, and the directors that its sender hears by it. None for another packet."""
    vrrp = payload[24:] if carrier == AH else payload
    size = 4 if version == 4 else 16
    if len(vrrp) < 8 or vrrp[:2] != bytes([0x31, 0]) or len(vrrp) < 8 + size * vrrp[3]:
        return None
    addresses = [vrrp[at : at + size] for at in range(8, 8 + size * vrrp[3], size)]
    return vrrp[2], [socket.inet_ntop(_FAMILIES[version], each) for each in addresses]
