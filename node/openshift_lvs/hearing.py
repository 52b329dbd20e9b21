"""Whether the directors of a pool hear each other, before one of them is activated that the others do not know.

While no advert is sent yet, each director sends test packets every second, from the delivery of a version on: VRRP packets with virtual_router_id 0,
which no router can have (RFC 9568, 5.2.3), and messages of connection sync that are shorter than their header. keepalived and the kernel ignore both
without a word. A director receives them by sockets, so behind all filters of its host. A test packet names the directors that its sender hears. So
each director knows of every pair, and the first activation is refused when one of a pair does not hear the other.

Unicast adverts have a limit: both sides send, so a filter with connection tracking takes the packets for answers.
"""

from __future__ import annotations

import json
import os
import socket
import struct

from . import clock, journal, programs, state, versions
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
_GROUPS = {VRRP: "224.0.0.18", AH: "224.0.0.18", UDP: "224.0.0.81"}
_SYNC_PORT = 8848
_NAMES = {VRRP: "VRRP (IP protocol 112)", AH: "AH (IP protocol 51)", UDP: "connection sync (UDP 8848)"}


def needed(new: Description, now: Description | None) -> bool:
    """Whether a director of the new version is unknown to the version in force."""
    return new.director and bool(new.directors) and not (now and now.director and set(new.directors) <= set(now.directors))


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

        chains = firewall.dropping_chains()
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
    directors = [str(address) for address in sorted((new.address, *new.directors), key=int)]
    found = []
    for listener in directors:
        for protocol in protocols(new):
            if listener not in known:
                continue
            silent = [other for other in directors if other != listener and other not in known[listener].get(str(protocol), ())]
            if silent:
                found.append(f"{listener} does not hear {_NAMES[protocol]} from {', '.join(silent)}")
    # Where this director does not hear another one, it cannot know what that one hears.
    told = set().union(*(known.get(str(new.address), {}).get(str(vip.advert_protocol), []) for vip in new.vips))
    unknown = [director for director in directors if director not in known and (director in told or not found)]
    return [*found, *([f"{', '.join(unknown)}: no test packet told what is heard there"] if unknown else [])]


def protocols(new: Description) -> list[int]:
    """The IP protocols by which directors speak with each other."""
    return [*sorted({vip.advert_protocol for vip in new.vips}), UDP]


def hear(version: str) -> None:
    """Send and receive test packets until the version has been in force for AFTER_S, or is not on this host any more."""
    new = Description.read(versions.folder(version))
    ears = _Ears(new)
    ends_at: float | None = None
    before = None
    while os.path.isdir(versions.folder(version)):
        ears.speak()
        ears.listen(clock.now() + EACH_S)
        if (known := ears.known()) != before:
            state.write(state.HEARING, json.dumps(known))
            before = known
        if ends_at is None and state.target(state.PROVEN) == version:
            ends_at = clock.now() + AFTER_S
        if ends_at is not None and clock.now() >= ends_at:
            return


class _Ears:
    """The sockets of one director, and what it has heard."""

    def __init__(self, new: Description) -> None:
        self.new = new
        self.protocols = protocols(new)
        self.from_: dict[tuple[int, str], float] = {}
        """When a director was heard last by a protocol."""
        self.told: dict[tuple[str, int], tuple[float, list[str]]] = {}
        """What a director said last of a protocol, and when."""
        self.out = self._socket(socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
        self.receive = {each: self._socket(socket.SOCK_RAW, each) for each in self.protocols if each != UDP}
        sync = self._socket(socket.SOCK_DGRAM, 0)
        # The kernel's own socket of connection sync can be shared, too.
        sync.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sync.bind((_GROUPS[UDP], _SYNC_PORT))
            self.receive[UDP] = sync
        except OSError as taken:
            journal.note(f"connection sync is not tested: {taken}")
            self.protocols.remove(UDP)
        index = socket.if_nametoindex(new.interface)
        for protocol, ear in self.receive.items():
            member = struct.pack("4s4si", socket.inet_aton(_GROUPS[protocol]), bytes(4), index)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)

    def _socket(self, kind: int, protocol: int) -> socket.socket:
        made = socket.socket(socket.AF_INET, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.new.interface.encode())
        return made

    def speak(self) -> None:
        """Send a test packet by every protocol, and what this director hears by each."""
        for carrier in self.receive:
            if carrier == UDP:
                payload = bytes([0, self.new.sync_id or 0])
                self._send(UDP, [_GROUPS[UDP]], struct.pack("!HHHH", _SYNC_PORT, _SYNC_PORT, 8 + len(payload), 0) + payload)
                continue
            for about in self.protocols:
                self._send(carrier, self._targets(carrier), report(about, self.hears(about), carrier))

    def _targets(self, carrier: int) -> list[str]:
        """The group, the other directors, or both: where the adverts of these VIPs go."""
        unicast = {vip.unicast for vip in self.new.vips if vip.advert_protocol == carrier}
        return [*([_GROUPS[carrier]] if False in unicast else []), *(str(each) for each in self.new.directors if True in unicast)]

    def _send(self, protocol: int, targets: list[str], payload: bytes) -> None:
        for target in targets:
            addresses = socket.inet_aton(str(self.new.address)) + socket.inet_aton(target)
            # The kernel fills in length, identification and checksum.
            header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 0, 0, 0, 255, protocol, 0) + addresses
            try:
                self.out.sendto(header + payload, (target, 0))
            except OSError as fault:
                journal.note(f"test packet to {target}: {fault}")

    def listen(self, until: float) -> None:
        """Receive until that time."""
        import select

        while (left := until - clock.now()) > 0:
            ready = select.select(list(self.receive.values()), [], [], left)[0]
            for protocol, ear in self.receive.items():
                if ear in ready:
                    data, (source, *_) = ear.recvfrom(4096)
                    if source in map(str, self.new.directors):
                        self._take(protocol, source, data)

    def _take(self, protocol: int, source: str, data: bytes) -> None:
        now = clock.now()
        if protocol == UDP:
            if data == bytes([0, self.new.sync_id or 0]):
                self.from_[UDP, source] = now
            return
        said = parse(data[(data[0] & 15) * 4 :], protocol)
        if said is not None:
            self.from_[protocol, source] = now
            about, directors = said
            self.told[source, about] = (now, directors)

    def hears(self, protocol: int) -> list[str]:
        """The directors that this one hears by a protocol."""
        return sorted(source for (by, source), at in self.from_.items() if by == protocol and clock.now() - at < FRESH_S)

    def known(self) -> Heard:
        """What this director hears, and what each other one says that it hears."""
        found: Heard = {str(self.new.address): {str(each): self.hears(each) for each in self.protocols}}
        for (source, about), (at, directors) in self.told.items():
            if clock.now() - at < FRESH_S:
                found.setdefault(source, {})[str(about)] = directors
        return found


def report(about: int, directors: list[str], carrier: int) -> bytes:
    """A VRRP packet of version 3 with virtual_router_id 0. Its priority is the IP protocol that it tells of, its addresses the directors that are heard."""
    addresses = b"".join(socket.inet_aton(each) for each in directors)
    vrrp = struct.pack("!BBBBHH", 0x31, 0, about, len(directors), 100, 0) + addresses
    return struct.pack("!BBHII12s", VRRP, 4, 0, 0, 0, bytes(12)) + vrrp if carrier == AH else vrrp


def parse(payload: bytes, carrier: int) -> tuple[int, list[str]] | None:
    """What a test packet tells: an IP protocol, and the directors that its sender hears by it. None for another packet."""
    vrrp = payload[24:] if carrier == AH else payload
    if len(vrrp) < 8 or vrrp[:2] != bytes([0x31, 0]) or len(vrrp) < 8 + 4 * vrrp[3]:
        return None
    return vrrp[2], [socket.inet_ntoa(vrrp[8 + 4 * number : 12 + 4 * number]) for number in range(vrrp[3])]
