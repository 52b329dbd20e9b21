"""The kernel's IPVS table: virtual servers by firewall mark, their connections, and connection sync between directors."""

from __future__ import annotations

import os
import re

from . import clock, journal, programs
from .errors import Refused
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .description import Description

_METHODS = {"Route": "DR", "Tunnel": "TUN", "Masq": "NAT"}
"""keepalived's word for what ipvsadm shows."""
OPTIONS = {"DR": "--gatewaying", "TUN": "--ipip", "NAT": "--masquerading"}
_RESTORE = ("ipvsadm", "--restore")
FORGET_S = 10
SYNC_MESSAGE_MAX = 1472
"""Bytes of a sync message over IPv4 for an MTU of 1500: the kernel fills no longer ones by itself, and hears none that are longer than it was told."""
IP_UDP_HEADERS = {4: 28, 6: 48}
SYNC_GROUPS = {4: "224.0.0.81", 6: "ff15::81"}
"""Where directors send connection sync. For IPv4 the kernel's own group. A message to an IPv6 group of more than the link's scope has the configured
address of its sender, by which the rules know a director; one to ff02:: would have the link-local address.
"""
SYNC_PORT = 8848
_PART_BYTES = 4096
"""A page: the kernel shows no more of /proc/net/ip_vs at a time."""


class RealServer(Record):
    """A real server in the table. `method` is keepalived's word; `connections` are the established ones."""

    method: str
    weight: int
    connections: int
    healthy: bool = True
    """keepalived's verdict, where one was added (`belief.judged`). A service that fails open has weights for servers whose check fails."""


class VirtualServer(Record):
    """A virtual server in the table, as `ipvsadm -Ln --exact` shows it."""

    scheduler: str
    flags: tuple[str, ...]
    persistence: int | None
    servers: dict[str, RealServer]
    """By address."""
    open_since: str = ""
    """When it began to fail open, where that was added (`belief.judged`); empty while it does not."""


Table = dict[int, VirtualServer]
"""Virtual servers by mark. Those by address belong to others, such as kube-proxy, and are left out."""
Key = tuple[int, str]
"""A real server of a service: mark and address."""
Lowered = tuple[int, str, str, int]
"""A real server whose weight was lowered: mark, address, method, and the weight before."""


def table() -> Table:
    """The table; empty when this kernel has no IPVS yet."""
    status, shown, _ = programs.attempt("ipvsadm", "--list", "--numeric", "--exact")
    return parse(shown) if status == 0 else {}


def parse(shown: str) -> Table:
    """What `ipvsadm --list --numeric --exact` shows."""
    found: Table = {}
    current: VirtualServer | None = None
    for line in shown.splitlines():
        words = line.split()
        if words[:1] == ["FWM"]:
            flags = re.search(r"\(([^)]*)\)", line)
            persistent = re.search(r"persistent (\d+)", line)
            named = (flags[1].split(",") if flags else []) + (["ops"] if "ops" in words else [])
            scheduler = words[3] if words[2] == "IPv6" else words[2]
            current = found[int(words[1])] = VirtualServer(scheduler, tuple(sorted(named)), int(persistent[1]) if persistent else None, {})
        elif words[:1] == ["->"] and current and len(words) > 4 and words[2] in _METHODS:
            current.servers[words[1].rpartition(":")[0].strip("[]")] = RealServer(_METHODS[words[2]], int(words[3]), int(words[4]))
        elif words[:1] in (["TCP"], ["UDP"], ["SCTP"]):
            current = None
    return found


class ProcTable:
    """/proc/net/ip_vs, kept open: the kernel shows the table anew to each reader that begins at its start."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    def first_part(self) -> bytes:
        """The table from its start, a page of it at most; nothing while this kernel has no IPVS."""
        try:
            return os.pread(self._file, _PART_BYTES, 0)
        except OSError:
            # It is not open yet, or the module was removed, and the file with it.
            self._close()
        try:
            self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        return os.pread(self._file, _PART_BYTES, 0)

    def text(self) -> str:
        """The whole table."""
        shown = part = self.first_part()
        while part:
            part = os.pread(self._file, _PART_BYTES, len(shown))
            shown += part
        return shown.decode()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def connections_in(shown: str) -> int:
    """How many connections the table has, by what /proc/net/ip_vs shows: of every real server the established ones and the others."""
    return sum(int(active) + int(inactive) for active, inactive in (line.split()[-2:] for line in shown.splitlines()[3:] if line.startswith("  ->")))


def parse_proc(shown: str) -> Table:
    """What /proc/net/ip_vs shows, without starting a program: addresses and marks are hexadecimal, the scheduler's flags are missing.

    The persistence is in the kernel's ticks, whose length it does not tell: only whether there is one is known.
    """
    found: Table = {}
    current: VirtualServer | None = None
    for line in shown.splitlines():
        words = line.split()
        if words[:1] == ["FWM"]:
            flags = ("ops",) if "ops" in words[3:] else ()
            scheduler = words[3] if words[2] == "IPv6" else words[2]
            current = found[int(words[1], 16)] = VirtualServer(scheduler, flags, 0 if "persistent" in words else None, {})
        elif words[:1] == ["->"] and current and len(words) > 4 and words[2] in _METHODS:
            current.servers[_address(words[1])] = RealServer(_METHODS[words[2]], int(words[3]), int(words[4]))
        elif words[:1] in (["TCP"], ["UDP"], ["SCTP"]):
            current = None
    return found


def _address(shown: str) -> str:
    """`192.168.0.2` of `C0A80002:0000`; the kernel writes each group of an IPv6 address in full."""
    address = shown.rpartition(":")[0]
    if address.startswith("["):
        from ipaddress import ip_address

        return str(ip_address(address.strip("[]")))
    return ".".join(str(byte) for byte in bytes.fromhex(address))


def live(kernel: Table) -> set[Key]:
    """The real servers that get new connections."""
    return {(mark, address) for mark, virtual in kernel.items() for address, server in virtual.servers.items() if server.weight > 0}


def answering(judged: Table) -> set[Key]:
    """The real servers that get new connections and pass their health check."""
    return {(mark, address) for mark, address in live(judged) if judged[mark].servers[address].healthy}


def set_weight(mark: int, address: str, method: str, weight: int) -> None:
    """Change the weight of a real server. A server that its health check removes at the same moment is no error."""
    command = ["ipvsadm", "--edit-server", *_at(mark, address), "--real-server", real_server(address), OPTIONS[method], "--weight", str(weight)]
    status, _, errors = programs.attempt(*command)
    if status and address in table().get(mark, VirtualServer("", (), None, {})).servers:
        raise Refused(f"{' '.join(command)}: {errors.strip()}")


def restore(lines: list[str]) -> None:
    """Have one ipvsadm do several things. Each line has the options of a call of its own. Raises Refused when the last one fails."""
    if lines:
        programs.run(*_RESTORE, stdin="\n".join([*lines, ""]))


class Standby:
    """An ipvsadm that has started already and waits for what it shall do. On a busy node its start takes longer than its work."""

    def __init__(self) -> None:
        self._process: programs.Process | None = None

    def prepare(self) -> None:
        """Start it, unless one waits already."""
        try:
            self._process = self._process or programs.Process(*_RESTORE)
        except OSError:
            # `restore` will say why.
            return

    def restore(self, lines: list[str]) -> None:
        """The same as the function `restore`."""
        process = self._process
        if process is None or not lines:
            return restore(lines)
        self._process = None
        programs.output_of(_RESTORE, process.end("\n".join([*lines, ""])))


def delete_server(mark: int, address: str) -> None:
    """Remove a real server."""
    programs.run("ipvsadm", "--delete-server", *_at(mark, address), "--real-server", real_server(address))


def _at(mark: int, address: str) -> tuple[str, ...]:
    """The options that name a virtual server, from the address of its VIP or of one of its real servers: each family has marks of its own."""
    return ("--fwmark-service", str(mark), *(("--ipv6",) if ":" in address else ()))


def real_server(address: str) -> str:
    """A real server as ipvsadm takes it: an IPv6 address in brackets, with the port 0 of a virtual server by mark."""
    return f"[{address}]:0" if ":" in address else address


def forget(descriptions: list[Description]) -> None:
    """Remove the virtual servers of these versions and their connections, while keepalived does not run.

    keepalived keeps what it finds at its start: another scheduler, another forwarding method, a dead server. Other programs' virtual servers stay.
    """
    kernel = table()
    known = [(service.mark, vip) for each in descriptions for vip in each.vips for service in vip.services if service.mark in kernel]
    marks = {mark: str(vip.address) for mark, vip in known}
    if not marks:
        return
    # A connection that the holder tells of meanwhile would have no server. The start of the unit listens again.
    programs.attempt("ipvsadm", "--stop-daemon", "backup")
    for mark, address in marks.items():
        programs.attempt("ipvsadm", "--delete-service", *_at(mark, address))
    for address in sorted({str(address) for _, vip in known for address in vip.addresses}):
        clock.wait_for(FORGET_S, f"connections through {address} to be forgotten", lambda at=address: "\n".join(connections("through", at)))  # type: ignore[misc]
    journal.note(f"removed the virtual servers {', '.join(map(str, marks))} from the kernel's table: keepalived starts from an empty one")


def connections(which: str, address: str) -> list[str]:
    """`STATE CLIENT:PORT VIP:PORT SERVER:PORT` of the connections `from` a client, `through` a VIP or `to` a real server."""
    column = {"from": 3, "through": 4, "to": 5}[which]
    found = []
    for line in programs.run("ipvsadm", "--list", "--numeric", "--connection").splitlines():
        words = line.split()
        if len(words) > column and words[column].rpartition(":")[0].strip("[]") == address:
            found.append(" ".join(words[2:6]))
    return found


class SyncDaemon(Record):
    """One side of connection sync that runs: `master` tells of connections, `backup` hears of them."""

    side: str
    interface: str
    sync_id: int
    message_max: int
    group: str = SYNC_GROUPS[4]


def sync_daemons() -> tuple[SyncDaemon, ...]:
    """The sides that run; none when this kernel has no IPVS."""
    shown = programs.attempt("ipvsadm", "--list", "--daemon")[1]
    found = re.findall(r"^(master|backup) sync daemon \(mcast=([^,]+), syncid=(\d+), maxlen=(\d+)(?:, group=([^,]+))?", shown, re.MULTILINE)
    return tuple(SyncDaemon(side, interface, int(sync_id), int(length), group or SYNC_GROUPS[4]) for side, interface, sync_id, length, group in found)


def keep_sync(description: Description | None) -> None:
    """Run both sides of connection sync on a director, neither on another host. A side that runs as it should is not touched.

    Both always run, so that every director knows the connections when it takes a VIP.
    """
    running = {daemon.side: daemon for daemon in sync_daemons()}
    wanted: dict[str, SyncDaemon] = {}
    if description and description.director and description.sync_id is not None:
        headers, group = IP_UDP_HEADERS[description.sync_version], SYNC_GROUPS[description.sync_version]
        with open(f"/sys/class/net/{description.interface}/mtu", encoding="ascii") as file:
            mtu = min(1500, int(file.read()))
        for side, length in (("master", mtu - headers), ("backup", SYNC_MESSAGE_MAX)):
            wanted[side] = SyncDaemon(side, description.interface, description.sync_id, length, group)
    for side in ("master", "backup"):
        if running.get(side) == wanted.get(side):
            continue
        if side in running:
            programs.run("ipvsadm", "--stop-daemon", side)
        if side in wanted:
            daemon = wanted[side]
            start = ["--mcast-interface", daemon.interface, "--syncid", str(daemon.sync_id), "--sync-maxlen", str(daemon.message_max)]
            start += ["--mcast-group", daemon.group] if daemon.group != SYNC_GROUPS[4] else []
            programs.run("ipvsadm", "--start-daemon", side, *start)
        journal.note(f"connection sync, side {side}: {f'started on {wanted[side].interface}' if side in wanted else 'stopped'}")
