"""The resident process: it repairs what other programs change, lets services fail open, keeps this node's own calls on live servers, records quorums, and
asks witnesses.

It sleeps until keepalived writes a verdict, the kernel tells of a change, or a second has passed. In a second in which nothing happens it reads some
files of /proc, and starts no process. The kernel does not tell of changes of its IPVS table, so the table's length is read more often. While another
command changes versions (lock.Changes) it repairs nothing.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from threading import Thread

from . import belief as beliefs
from . import clock, host, ipvs, journal, own_calls, quorum, repairs, state, unbalanced, vrrp
from .belief import Belief
from .description import Description, current, in_force
from .errors import Refused, TimedOut
from .kernel_events import AddressEvents, RuleEvents
from .lock import Changes
from .record import Record
from .witness import Witnesses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .ipvs import Key, Table

LOOK_S = 1.0
"""Seconds between two looks."""
GLANCE_S = 0.2
"""Seconds between two readings of the length of the kernel's IPVS table."""
AGAIN_S = 0.2
"""Seconds until a difference is looked at again: keepalived changes the kernel first and tells of it then."""
SETTLE_S = 5.0
"""Seconds after a drain or its end in which keepalived, not this process, changes the weights."""
REPORT_S = 3.0
"""Seconds after keepalived's last verdict until what is recorded of the quorums is compared with it: other commands record them too."""
GONE = 0.25
"""The part of `connections_max` that must be gone until packets without a handshake create connections again."""
ALIVE_S = 5.0
"""Seconds between two signs of life for systemd's watchdog."""
REDIRECT_AGAIN_S = 5.0
"""Seconds until nft is given rules for own calls again that it refused."""
LOCK_S = 1.0
"""Seconds that this process waits for a lock. It has other work, and systemd ends it when it gives no sign of life."""
PROC_TABLE = "/proc/net/ip_vs"
PROC_UDP = {4: "/proc/net/udp", 6: "/proc/net/udp6"}
"""Where both sides of connection sync have a socket of the kernel's."""
IPVS, RULES, OWN_RULES, VIPS, SYNC, VIEW = "IPVS table", "nftables rules", "nftables rules of own calls", "VIPs on lo", "connection sync", "view"
_AFTER_EVENTS = (RULES, OWN_RULES, VIPS, VIEW)
"""Compared after an event only, until they are right. The rest is compared again and again."""


class Fault(Record):
    """Something that is not as it should be: what, how it is, what repairs it, and who changed it where that is known."""

    what: str
    how: str
    repair: Callable[[], object]
    by: str = ""


class Watch:
    """One node, from one look to the next. Its methods start a process only when something is wrong."""

    def __init__(self) -> None:
        self.repairs = repairs.Repairs(clock.now)
        self.description: Description | None = None
        self._program = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
        self._version = ""
        self._sysctls: list[tuple[str, str]] = []
        self.belief = Belief()
        self._drained = state.drained()
        self._table_from = 0.0
        self._table = ipvs.ProcTable(PROC_TABLE)
        self._length = 0
        self._shown = ""
        self._turn = 0
        self._sync_hidden = False
        self._seen: list[tuple[str, str]] = []
        self._live: set[Key] | None = None
        self._redirecting: Thread | None = None
        self._redirect_due = False
        self._refused: set[Key] | None = None
        """The live servers to which own calls could not be redirected; they are tried again after `_redirect_from`."""
        self._redirect_from = 0.0
        self._standby = ipvs.Standby()
        self._limited = False
        self.rules_due = True
        self.vips_due = True
        self.address_due = True
        self._moved = ""
        self._rules_by = ""
        self._own_rules_from: float | None = None
        """Time of the next comparison of the rules for own calls; None if no program changed them since the last one."""
        self._follow_due = True
        self.behind = True
        """Whether something waits until keepalived has no more verdicts for this process."""
        self._quorums: dict[int, bool] = {}
        """What keepalived said last of each quorum and is not recorded yet."""
        self._part = ""
        self._view_from: float | None = None
        """When the view is compared; None while nothing happened that could change it."""
        self._failing: dict[str, str] = {}
        """Why something is not possible at present, as the journal has it."""

    @property
    def again(self) -> bool:
        """Whether something looked wrong, and is looked at again soon."""
        return bool(self._seen)

    @property
    def own_v6(self) -> bytes:
        """This host's IPv6 address; empty where it has none."""
        address = self.description.address_of(6) if self.description else None
        return address.packed if address else b""

    def read_version(self) -> bool:
        """Take over what is in force. False when another program is: this one must end."""
        version = state.target(state.CURRENT)
        if version == self._version:
            return True
        if version and os.path.realpath(f"{state.CURRENT}/program") != self._program:
            return False
        self._version = version
        self.description = current()
        self._sysctls = host.wanted_sysctls(state.CURRENT) if version else []
        self._shown, self._live = "", None
        self.rules_due = self.vips_due = self.address_due = self._follow_due = True
        self._own_rules_from = clock.now()
        self._view_from = clock.now() + REPORT_S
        return True

    def read_belief(self) -> None:
        """Begin with what the process before recorded, or with what the kernel's table tells."""
        recorded = beliefs.read()
        if recorded is None and self.description and self.description.runs_keepalived and host.keepalived_runs():
            recorded = beliefs.from_table(self.description, self._kernel(), state.drained())
            state.write(state.BELIEF, recorded.to_json())
        self.belief = recorded or Belief()

    def hear(self, data: bytes) -> None:
        """Take over what keepalived wrote. A service that must fail open does so at once, the rest follows in `catch_up`."""
        lines = (self._part + data.decode(errors="replace")).split("\n")
        self._part = lines.pop()
        before = self.belief
        self.belief = before.heard(lines)
        self._quorums = Belief(quorums=self._quorums).heard(lines).quorums
        if self.belief != before or self._quorums or beliefs.START in lines:
            # First: the next process begins with it, should this one end while it does what follows from it.
            state.write(state.BELIEF, self.belief.to_json())
            self._follow_and_keep()
            self._view_from = clock.now() + REPORT_S
        self._shown = ""

    def catch_up(self) -> None:
        """Bring own calls to the table, record quorums, and start an ipvsadm for the next verdict. A service that must fail open has no time for that."""
        self.behind = False
        if self.description is None or not self.description.runs_keepalived:
            return
        self._redirect(self._kernel())
        quorums, self._quorums = self._quorums, {}
        self._record(self.description, quorums)
        if any(service.fail_open for service in self.description.services):
            self._standby.prepare()

    def _record(self, description: Description, quorums: dict[int, bool]) -> None:
        """Record what keepalived says of these quorums, which changes the VRRP priority. A command for each would come too late on a busy node."""
        for vip, service, _ in vrrp.recorded(description) if quorums else ():
            if service.mark not in quorums:
                continue
            try:
                quorum.record(vip.name, service.name, 0 if quorums[service.mark] else description.poor_view(vip), LOCK_S)
            except (Refused, OSError) as fault:
                # The comparison of what is recorded finds it.
                journal.note(str(fault))

    def _follow_and_keep(self) -> None:
        before = self.belief
        self.follow()
        if self.belief != before:
            state.write(state.BELIEF, self.belief.to_json())

    def follow(self) -> None:
        """Begin and end failing open as the belief and the drains say. Also while a version changes."""
        self.behind = True
        if self.description is None or not self.description.runs_keepalived:
            return
        out = self._out()
        now_open = {service.mark for service in self.description.services if beliefs.fails_open(service, self.belief, out)}
        before = set(self.belief.open_since)
        if now_open | before:
            since = {mark: self.belief.open_since.get(mark) or journal.now() for mark in now_open}
            self.belief = Belief(self.belief.servers, self.belief.quorums, since)
            kernel, wanted = self._kernel(), beliefs.wanted(self.description, self.belief, out)
            lines = []
            for service in self.description.services:
                # Also one that goes on failing open: its servers may be drained meanwhile, and keepalived leaves the weight of a failed server alone.
                if service.mark in now_open | before and service.mark in kernel:
                    lines += beliefs.difference(service, wanted[service.mark], kernel[service.mark])
            try:
                self._standby.restore(lines)
            except (Refused, OSError) as fault:
                # The next look finds the difference.
                journal.note(str(fault))
            for service in self.description.services:
                if service.mark in now_open - before:
                    journal.note(f"{service.name} fails open: no health check passes, so every server that is not drained gets connections")
                elif service.mark in before - now_open:
                    journal.note(f"{service.name} no longer fails open: only servers that pass their health check get connections")

    def tables_changed(self, tables: set[str], by: str) -> None:
        """Compare these nftables tables soon, and name who changed them."""
        self.rules_due |= host.TABLE in tables
        if own_calls.TABLE in tables and self._own_rules_from is None:
            # Mostly this process changed it, because a server failed. Another may fail now, and the comparison would hold up what follows from that.
            self._own_rules_from = clock.now() + LOOK_S
        self._rules_by = by

    def became_shorter(self) -> bool:
        """Whether the kernel's table is shorter than a moment ago. Of a long one only the first page counts: an emptied one has three lines."""
        before, self._length = self._length, len(self._table.first_part())
        return self._length < before

    def look(self) -> None:
        """Compare everything that is due, and repair what was wrong at the last look too."""
        if self.description is None:
            return
        drained = state.drained()
        if drained != self._drained:
            self._drained, self._table_from, self._follow_due, self._shown = drained, clock.now() + SETTLE_S, True, ""
        if self._follow_due and self.description.runs_keepalived:
            self._follow_due = False
            self._follow_and_keep()
        if self.address_due:
            self._find_address(self.description)
        faults = []
        for fault in self._faults():
            if self.repairs.allowed(fault.what):
                faults.append(fault)
            elif fault.what.startswith(repairs.SYSCTL):
                self.repairs.left_alone(fault.what, fault.how)
        lasting = [fault for fault in faults if (fault.what, fault.how) in self._seen]
        self._seen = [(fault.what, fault.how) for fault in faults]
        if lasting:
            try:
                with Changes("watch", 0):
                    if state.target(state.CURRENT) == self._version:
                        self._repair([(fault.what, fault.how) for fault in lasting])
            except TimedOut:
                # Another command changes versions. What is wrong then is looked at afterwards.
                self._seen = []

    def _find_address(self, description: Description) -> None:
        """Write a line to the journal when this host's own address has moved to another interface, or is not there any more."""
        try:
            before, self._moved = self._moved, host.moved(description, host.all_addresses())
        except (Refused, OSError) as fault:
            # The next look asks again.
            self._fails("addresses were not read", fault)
            return
        self.address_due = False
        self._failing.pop("addresses were not read", None)
        if self._moved != before:
            journal.note(self._moved or f"{description.address}: no other interface than {description.interface} has it any more")

    def _repair(self, lasting: list[tuple[str, str]]) -> None:
        """Repair what is still wrong now that no other command changes anything."""
        for fault in self._faults():
            if (fault.what, fault.how) not in lasting:
                continue
            try:
                fault.repair()
            except (Refused, OSError) as why:
                self.repairs.failed(fault.what, fault.how, str(why))
            else:
                # After the repair: to look for rivals takes time.
                self.repairs.done(fault.what, fault.how, fault.by or repairs.suspects())
        self._seen = []
        self._shown = ""
        # From now on the repaired table counts: it may be emptied again before the next glance.
        self.became_shorter()

    def _faults(self) -> list[Fault]:
        """What is not as the version in force and keepalived's belief say."""
        assert self.description
        faults = []
        for what, compare in self._due(self.description):
            try:
                faults += compare(self.description)
                self._failing.pop(what, None)
            except (Refused, OSError) as why:
                # It stays due. On a slow node a comparison takes a second, and verdicts wait that long.
                self._fails(what, why)
                if what in _AFTER_EVENTS:
                    self.repairs.attempted(what)
        return faults

    def _due(self, description: Description) -> Iterator[tuple[str, Callable[[Description], list[Fault]]]]:
        """What is compared at this look, and how. What is compared after an event only stays due until it is right, and waits while it may not be repaired."""
        self._turn += 1
        now = clock.now()
        if self._turn % 2 or self._seen:
            yield "sysctls", self._sysctl_faults
        if self.vips_due and self.repairs.allowed(VIPS):
            yield VIPS, self._vip_faults
        if description.runs_keepalived:
            yield IPVS, self._table_faults
        if description.director and (not self._turn % 2 or self._seen):
            yield SYNC, self._sync_faults
        if self.rules_due and self.repairs.allowed(RULES):
            yield RULES, self._rule_faults
        if self._own_rules_from is not None and now >= self._own_rules_from and self.repairs.allowed(OWN_RULES):
            yield OWN_RULES, self._own_rule_faults
        if self._view_from is not None and now >= self._view_from and self.repairs.allowed(VIEW):
            yield VIEW, self._view_faults

    def _fails(self, what: str, why: Exception) -> None:
        """Write to the journal that something is not possible: once, until it is possible or fails in another way."""
        if self._failing.get(what) != str(why):
            self._failing[what] = str(why)
            journal.note(f"{what}: {why}")

    def _table_faults(self, description: Description) -> list[Fault]:
        shown = self._table.text()
        as_before = shown == self._shown and not self._redirect_due
        if as_before or clock.now() < self._table_from or not host.keepalived_runs():
            return []
        kernel = ipvs.parse_proc(shown)
        self._limit_connections(description, shown)
        self._redirect(kernel)
        wanted = beliefs.wanted(description, self.belief, self._out())
        lines = []
        for service in description.services:
            if service.scheduler:
                lines += beliefs.difference(service, wanted[service.mark], kernel.get(service.mark))
        if not lines:
            self._shown = shown
            return []
        missing = {service.mark for service in description.services} - set(kernel)
        return [Fault(IPVS, told(lines), lambda: _put_back(description, missing, lines))]

    def _limit_connections(self, description: Description, shown: str) -> None:
        """While the table is too long, let packets without a handshake create no entry. Senders with false addresses could fill the memory."""
        most = description.connections_max
        number = ipvs.connections_in(shown) if most else 0
        limited = number > (most * (1 - GONE) if self._limited else most)
        if limited == self._limited:
            return
        self._limited = limited
        create = f"create no more ({host.SLOPPY_TCP} = 0)" if limited else f"create some again ({host.SLOPPY_TCP} = 1)"
        journal.note(f"{number} connections, connections_max is {most}: packets without a handshake {create}")
        try:
            host.set_sysctl(host.SLOPPY_TCP, "0" if limited else "1")
        except Refused as fault:
            # The next look at the sysctls finds it.
            journal.note(str(fault))

    def _sysctl_faults(self, _: Description) -> list[Fault]:
        differ = host.sysctls_that_differ([(name, "0" if self._limited and name == host.SLOPPY_TCP else value) for name, value in self._sysctls])
        faults = []
        for name, value, there in differ:
            faults.append(Fault(f"{repairs.SYSCTL}{name}", f"was {there}, is {value}", lambda name=name, value=value: host.set_sysctl(name, value)))  # type: ignore[misc]
        self.repairs.are_right({f"{repairs.SYSCTL}{name}" for name, _, _ in differ})
        return faults

    def _vip_faults(self, description: Description) -> list[Fault]:
        there = host.addresses("lo")
        missing = [address for address in description.vip_addresses if address not in there]
        self.vips_due = bool(missing)
        return [Fault(VIPS, f"{', '.join(missing)} was missing", lambda: host.add_vips(description))] if missing else []

    def _sync_faults(self, description: Description) -> list[Fault]:
        if description.sync_id is None or not host.keepalived_runs():
            return []
        version = description.sync_version
        if self._sync_hidden or sync_sides(state.text(PROC_UDP[version]), version) == 2:
            return []
        sides = len(ipvs.sync_daemons())
        if sides == 2:
            # Where both were running all the time, this kernel does not show the sockets: asking ipvsadm every other second would cost too much.
            self._sync_hidden = sync_sides(state.text(PROC_UDP[version]), version) != 2
            return []
        return [Fault(SYNC, f"{2 - sides} of its two sides had ended", lambda: ipvs.keep_sync(description))]

    def _rule_faults(self, _: Description) -> list[Fault]:
        # A server that is no director may have none.
        differs = host.rules_that_differ() if os.path.exists(f"{state.CURRENT}/{host.RULES}") else ""
        self.rules_due = bool(differs)
        return [Fault(RULES, differs, lambda: host.load_rules(state.CURRENT), self._rules_by)] if differs else []

    def _own_rule_faults(self, _: Description) -> list[Fault]:
        if self._redirecting is not None and self._redirecting.is_alive():
            return []
        changed = own_calls.changed()
        self._own_rules_from = self._own_rules_from if changed else None
        return [Fault(OWN_RULES, changed, lambda: own_calls.load_again(LOCK_S), self._rules_by)] if changed else []

    def _view_faults(self, description: Description) -> list[Fault]:
        weights, views = [], []
        if host.keepalived_runs():
            weights = vrrp.wrong_weights(description, beliefs.judged(self._kernel(), self.belief), self.belief.quorums)
            views = vrrp.wrong_views(description)
        if not weights and not views:
            self._view_from = None
            return []
        said = [f"{name} {'lost' if lost else 'has'} its quorum, and was recorded as if it {'had it' if lost else 'had lost it'}" for _, name, lost in weights]
        said += [f"{vip} added {there} to the priority, and its services add {mean}" for vip, there, mean in views]
        return [Fault(VIEW, "; ".join(said), lambda: _record_again(weights, [vip for vip, _, _ in views]), "another command")]

    def _kernel(self) -> Table:
        return ipvs.parse_proc(self._table.text())

    def _redirect(self, kernel: Table) -> None:
        """Bring own calls to the live servers of the table, in a thread: nft takes longer than a service may take to fail open."""
        live = ipvs.live(kernel)
        self._redirect_due = False
        if live == self._live or self.description is None:
            return
        # In a table that another program has emptied, no server is live. It is put back first.
        emptied = any(service.scheduler and service.mark not in kernel for service in self.description.services) and host.keepalived_runs()
        waits = live == self._refused and clock.now() < self._redirect_from
        # After the thread has ended, the next look goes on with the table of then.
        self._redirect_due = emptied or waits or (self._redirecting is not None and self._redirecting.is_alive())
        if not self._redirect_due:
            self._live = live
            self._redirecting = Thread(target=self._redirect_now, args=(self.description, kernel))
            self._redirecting.start()

    def _redirect_now(self, description: Description, kernel: Table) -> None:
        # Of this thread and of nft: the process itself has work that may not wait.
        os.setpriority(os.PRIO_PROCESS, 0, max(0, os.getpriority(os.PRIO_PROCESS, 0)))
        try:
            own_calls.redirect(description, kernel)
            self._failing.pop("calls from this node were not redirected", None)
        except (Refused, OSError) as fault:
            # It is tried again, also when the table is as it was.
            self._refused, self._redirect_from = ipvs.live(kernel), clock.now() + REDIRECT_AGAIN_S
            self._live, self._redirect_due = None, True
            self._fails("calls from this node were not redirected", fault)

    def _out(self) -> set[Key]:
        """The real servers that get no connection although their check passes: drained by an operator, or removed by an activation that runs."""
        assert self.description
        text = state.read(state.ACTIVATION)
        lowered = {(mark, address) for mark, address, _, _ in json.loads(text)["lowered"]} if text else set()
        return beliefs.out_of_rotation(self.description, state.drained()) | lowered


def _record_again(weights: list[tuple[str, str, int]], views: list[str]) -> None:
    for vip, service, weight in weights:
        quorum.record(vip, service, weight, LOCK_S)
    for vip in views:
        quorum.recount(vip, LOCK_S)


def _put_back(description: Description, missing: set[int], lines: list[str]) -> None:
    with unbalanced.kept_connections(description, missing):
        ipvs.restore(lines)


def told(lines: list[str]) -> str:
    """What `ipvsadm --restore` is told, in words: how much, and the first line."""
    counts = [(sum(line.startswith(f"--{verb}-{kind}") for line in lines), f"{kind}s {done}") for kind, verb, done in _WORDS]
    said = ", ".join(f"{number} {what}" for number, what in counts if number)
    return f"{said} ({lines[0].lstrip('-')}{', ...' if len(lines) > 1 else ''})"


_WORDS = (
    ("service", "add", "put back"),
    ("service", "edit", "corrected"),
    ("server", "add", "put back"),
    ("server", "edit", "corrected"),
    ("server", "delete", "removed"),
)


def sync_sides(shown: str, version: int) -> int:
    """How many sides of connection sync run, in /proc/net/udp or udp6: one sends to the group, one hears on it."""
    packed = socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, ipvs.SYNC_GROUPS[version])
    # The kernel prints each 32 bits of an address as a number of this machine's byte order.
    address = "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4))
    group = f"{address}:{ipvs.SYNC_PORT:04X}"
    columns = [line.split()[1:3] for line in shown.splitlines()[1:]]
    return sum(any(found[at] == group for found in columns if len(found) > at) for at in (0, 1))


def watch() -> None:
    """Run until another program comes into force; systemd then starts that one's. Raises Refused when no version is in force."""
    in_force()
    state.prepare_run()
    pipe = beliefs.open_pipe()
    addresses, rules = AddressEvents(), RuleEvents(host.TABLE, own_calls.TABLE)
    watched, witnesses = Watch(), Witnesses()
    if not watched.read_version():
        return
    watched.read_belief()
    poll = select.poll()
    for each in (pipe, addresses.fileno(), rules.fileno()):
        poll.register(each, select.POLLIN)
    notify("READY=1")
    looked = alive = clock.now()
    while True:
        addresses.own = watched.own_v6
        due = looked + (AGAIN_S if watched.again else LOOK_S)
        wait = 0.0 if watched.behind else max(0.0, due - clock.now())
        ready = {file for file, _ in poll.poll(min(wait, GLANCE_S) * 1000)}
        if pipe in ready:
            watched.hear(os.read(pipe, 1 << 16))
        elif watched.behind:
            watched.catch_up()
        if addresses.fileno() in ready:
            watched.vips_due |= addresses.left_lo()
            watched.address_due |= addresses.elsewhere
            addresses.elsewhere = False
        if rules.fileno() in ready:
            watched.tables_changed(rules.changed(), rules.by)
        now = clock.now()
        # A look reads the whole table.
        if now < due and not watched.became_shorter():
            continue
        looked = now
        # Also while a version changes.
        witnesses.look(watched.description)
        if not watched.read_version():
            if _lock_is_free():
                return
        else:
            watched.look()
        if now >= alive + ALIVE_S:
            alive = now
            notify("WATCHDOG=1")


def _lock_is_free() -> bool:
    """Whether no other command changes versions: verdicts of an activation's keepalived are read until it has ended."""
    try:
        with Changes("watch", 0):
            return True
    except TimedOut:
        return False


def notify(what: str) -> None:
    """Tell systemd (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        try:
            to.sendto(what.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
        except OSError as fault:
            journal.note(f"systemd was not told {what}: {fault}")
