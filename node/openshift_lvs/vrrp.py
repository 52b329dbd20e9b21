"""Which director may hold a VIP: drains, hand-over, views, and the adverts that were heard."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, contextmanager, suppress

from . import belief, clock, host, ipvs, journal, programs, quorum, servers, state
from .description import Description, Service, Vip
from .errors import Refused
from .record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .ipvs import Table

FAULT_WEIGHT = -254
"""keepalived's FAULT state: the instance holds no VIP."""
LEAVE_S = 10
"""Seconds for a drained VIP to leave the interface."""
LISTEN_S = 4
"""Seconds in which every router on the segment sends an advert: the longest interval is 3 s."""
NAMED = 5
"""So many routers are named in a message."""
LISTEN_TABLE = "openshift_lvs_listen"
_VRRP_MAC, _VRRP_GROUP_V6 = "01:00:5e:00:00:12", "ff02::12"
"""VRRP's multicast groups: the Ethernet address of 224.0.0.18, and that of IPv6."""
_ADDRESSES = {4: re.compile(r"\b(?:\d+\.){3}\d+\b"), 6: re.compile(r"(?<![\w:])[0-9a-f]*:[0-9a-f:]+")}
_JOURNAL_LINES = 300
"""The last lines of keepalived's VRRP process that are read for transitions. journalctl's own search would read the whole journal, and takes longest
when many adverts are logged: then the answer is needed soon."""


class Transition(Record):
    """The last transition of a VRRP instance, as keepalived logged it."""

    state: str
    """`MASTER`, `BACKUP` or `FAULT`."""
    since: float
    """Seconds since 1970."""
    before: str = ""
    """The state before; empty where the journal does not tell."""


def set_weight(instances: Iterable[str], weight: int, why: str) -> None:
    """Set the weight that a drain or a roll-out adds to the priority of these instances."""
    for instance in instances:
        path = state.drain_file(instance)
        before, since = state.read(path), journal.since(path)
        if before != str(weight):
            state.write(path, f"{weight}\n")
            if before:
                journal.note(f"{instance}: {why}; adds {weight} to the priority, {before} since {since}")


def stand_by(instances: Iterable[str]) -> None:
    """Let these instances take their VIPs again, unless an operator drained this director: then it stays so over restarts and reboots."""
    if state.owns_nothing():
        set_weight(instances, FAULT_WEIGHT, "drained by an operator")
    else:
        set_weight(instances, 0, "may take the VIP")


def step_back(description: Description, instances: Iterable[str]) -> None:
    """Let these instances take their VIPs only where no unchanged director with a good view can, until `go-home`."""
    if not state.owns_nothing():
        set_weight(instances, description.step_back_weight, "changed before the other directors, and takes the VIP after them")


def held(description: Description, instances: Iterable[str]) -> list[str]:
    """The VIPs of these instances that are on the interface."""
    wanted, there = set(instances), host.addresses(description.interface)
    return [address for vip in description.vips if vip.name in wanted for address in map(str, vip.addresses) if address in there]


def drain(description: Description, instances: Iterable[str]) -> None:
    """Hand the VIPs of these instances to another director, without a lost request. Raises TimedOut when one is still here after LEAVE_S."""
    instances = description.moving_with(list(instances))
    set_weight(instances, FAULT_WEIGHT, "drained")

    def here() -> str:
        left = held(description, instances)
        return f"still here: {' '.join(left)}" if left else ""

    clock.wait_for(LEAVE_S, f"{' '.join(description.vip_addresses)} to leave {description.interface}", here)


def hand_over(description: Description, instances: Iterable[str]) -> str:
    """Give the VIPs that this director holds to the highest priority among the others, then stand by again. Returns what to report."""
    instances = description.moving_with(list(instances))
    if not held(description, instances):
        return ""
    try:
        drain(description, instances)
    finally:
        # Otherwise this director could not take them when it is the last one.
        stand_by(instances)
    return f"{' '.join(instances)} handed over"


def go_home(description: Description, instance: str) -> str:
    """End a roll-out: this director may take the VIP like any other, and hands it to its owner, unless the owner is drained."""
    stand_by(description.moving_with([instance]))
    owner = description.owned_by_others.get(instance)
    if owner is None:
        return ""
    if str(owner) in state.drained():
        # It could not take the VIP, and with two directors none would.
        return f"{instance} stays: its owner, {owner}, is drained"
    return hand_over(description, [instance])


def ownership(off: bool, description: Description) -> None:
    """Take no VIP and hand over the ones that are held, over restarts and reboots; or be a director again."""
    since = journal.since(state.OWNERSHIP)
    if off:
        os.makedirs(state.DRAINED, exist_ok=True)
        state.write(state.OWNERSHIP, "")
        programs.sync(state.BASE)
        journal.note("drained by an operator: takes no VIP")
        drain(description, description.instances)
        return
    if os.path.exists(state.OWNERSHIP):
        os.unlink(state.OWNERSHIP)
        journal.note(f"may take VIPs again: an operator ended the drain of {since}")
    programs.sync(state.BASE)
    stand_by(description.instances)


def others_able(description: Description, new: Description) -> bool:
    """Whether another director that stays in the new version could take this one's VIPs, and no director that leaves would.

    The highest priority in force takes them. A director whose health checks all fail counts as unreachable. Checks of a service that expects only some
    servers do not count: they fail on healthy hosts too.
    """
    kernel, drained = belief.table(), state.drained()
    live = {address for _, address in ipvs.answering(kernel)}
    telling = {service.mark for service in description.services if service.all_expected}
    failing = {address for mark, address in servers.failing(description, kernel) if mark in telling}
    staying = set(new.directors)
    able = False
    for number, other in enumerate(description.directors):
        addresses = {str(other), *map(str, description.directors_v6[number : number + 1])}
        if addresses & drained or (addresses & failing and not addresses & live):
            continue
        if other not in staying:
            return False
        able = True
    return able


# What keepalived says


def transitions(instances: Iterable[str]) -> dict[str, Transition]:
    """The last transition of each instance, where the last lines of the journal have it. Reading the journal costs nothing while a VIP moves."""
    of_vrrp = ("--identifier", "Keepalived_vrrp", "--lines", str(_JOURNAL_LINES))
    shown = programs.attempt("journalctl", "--quiet", "--no-pager", "--output", "short-unix", *of_vrrp)[1]
    found: dict[str, Transition] = {}
    for since, instance, entered in re.findall(r"^([0-9.]+) .*?\(([^ ()]+)\) Entering ([A-Z]+) STATE", shown, re.MULTILINE):
        before = found.get(instance)
        if before is None or before.state != entered:
            found[instance] = Transition(entered, float(since), before.state if before else "")
    return {instance: found[instance] for instance in instances if instance in found}


def priorities(folder: str) -> dict[str, int]:
    """The priority of each instance in keepalived.conf of a version, before anything is added to it."""
    found = re.findall(r"^vrrp_instance (\S+) \{\n(?:.*\n)*?    priority (\d+)$", state.text(f"{folder}/keepalived.conf"), re.MULTILINE)
    return {instance: int(priority) for instance, priority in found}


# Views


def start(description: Description, missing_only: bool = False) -> None:
    """Write the files that the instances track, before keepalived reads them. With `missing_only` existing ones stay as they are."""
    state.prepare_run()
    belief.prepare()
    if description.witnesses and not os.path.exists(state.CUT_OFF):
        state.write(state.CUT_OFF, "0\n")
    for instance in description.instances:
        if not missing_only or not os.path.exists(state.drain_file(instance)):
            stand_by([instance])
    for vip in description.vips if description.director else ():
        with quorum.instance_lock(vip.name, "start"):
            folder = f"{state.QUORUM}/{vip.name}"
            for service in vip.services:
                if not missing_only or not os.path.exists(f"{folder}/{service.name}"):
                    state.write(f"{folder}/{service.name}", f"{description.poor_view(vip) if service.alpha else 0}\n")
            # A service that is not in force, or was tried in vain, does not count.
            for name in set(state.names(folder)) - {service.name for service in vip.services}:
                os.unlink(f"{folder}/{name}")
            quorum.count(vip.name)


def track_files_exist(description: Description) -> None:
    """Make the files that keepalived's configuration test looks for, and change none."""
    state.prepare_run()
    files = [path for instance in description.instances for path in (state.drain_file(instance), state.view_file(instance))]
    for path in (*files, state.CUT_OFF) if description.witnesses else files:
        if not os.path.exists(path):
            state.write(path, "0\n")


def recount(description: Description) -> None:
    """Record the quorum of every service that has it by the kernel's table.

    Of a reload that replaces servers, keepalived reports that the old ones lost the quorum, and does not report that the new ones have it.
    """
    for vip, service, weight in recorded(description):
        if weight == "0" or not _has_quorum(service, belief.table()):
            continue
        quorum.record(vip.name, service.name, 0)
        # Health checks may remove servers meanwhile, and what keepalived reported of that must not be lost.
        if not _has_quorum(service, belief.table()):
            quorum.record(vip.name, service.name, description.poor_view(vip))


def wrong_weights(description: Description, table: Table, said: dict[int, bool]) -> list[tuple[str, str, int]]:
    """VIP, service, and the weight that should be recorded, of each service of which another one is. `said`: what keepalived reported last, by mark.

    A command that wrote the files may have done so between two reports of keepalived.
    """
    wrong = []
    for vip, service, weight in recorded(description):
        has_it = _has_quorum(service, table)
        if weight != "0" and has_it:
            wrong.append((vip.name, service.name, 0))
        elif weight == "0" and not has_it and said.get(service.mark) is False:
            wrong.append((vip.name, service.name, description.poor_view(vip)))
    return wrong


def wrong_views(description: Description) -> list[tuple[str, str, int]]:
    """VIP, what its view adds to the priority, and what its services' weights come to, where these differ: a command ended before it had written both."""
    found = []
    for vip in description.vips if description.director else ():
        there, mean = state.read(state.view_file(vip.name)), quorum.mean_of(vip.name)
        if there and there != str(mean):
            found.append((vip.name, there, mean))
    return found


def recorded(description: Description) -> Iterator[tuple[Vip, Service, str]]:
    """VIP, service and the weight that is recorded of its quorum, on a director. A service that is not in force has none."""
    for vip in description.vips if description.director else ():
        for service in vip.services:
            if weight := state.read(f"{state.QUORUM}/{vip.name}/{service.name}"):
                yield vip, service, weight


def _has_quorum(service: Service, table: Table) -> bool:
    """Whether this table has as much live weight as keepalived needs to call the quorum gained.

    A server to which a service fails open does not count.
    """
    virtual = table.get(service.mark)
    named = {str(server.address) for server in service.real_servers}
    live = sum(real.weight for address, real in virtual.servers.items() if address in named and real.healthy) if virtual else -1
    return live >= sum(service.quorum_without(state.drained()))


def tidy(description: Description) -> None:
    """Remove what was recorded of real servers and VIPs that the version in force does not name: they may return one day, and not be drained."""
    named = {str(server.address) for service in description.services for server in service.real_servers}
    for address in state.drained() - named:
        os.unlink(f"{state.DRAINED}/{address}")
        journal.note(f"{address}: no longer drained, since the version in force does not name it")
    if not description.witnesses and os.path.exists(state.CUT_OFF):
        os.unlink(state.CUT_OFF)
    for name in state.names(state.RUN):
        kind, _, instance = name.partition("-")
        gone = kind in ("drain", "view") and instance not in description.instances
        of_no_vip = f"{state.RUN}/{name}" in (state.OWN_CALLS_LOCK, state.TEST_PACKETS_LOCK)
        if gone or (name.endswith(".lock") and name[: -len(".lock")] not in description.instances and not of_no_vip):
            os.unlink(f"{state.RUN}/{name}")
    for instance in state.names(state.QUORUM):
        if instance not in description.instances:
            # Also what an interrupted command has left half-written.
            for name in os.listdir(f"{state.QUORUM}/{instance}"):
                os.unlink(f"{state.QUORUM}/{instance}/{name}")
            os.rmdir(f"{state.QUORUM}/{instance}")


# Adverts


def heard(vip: Vip, table: str = host.TABLE, recorded: str = "adverts") -> set[str] | None:
    """The routers whose adverts with a VIP's virtual_router_id entered through the pool's interface in the last 10 s; None when none are recorded.

    `adverts` are the directors' that passed this host's filters, `strangers` those of other routers.
    """
    version = vip.address.version
    status, shown, _ = programs.attempt("nft", "list", "set", host.FAMILIES[version], table, f"{recorded}_{vip.virtual_router_id}")
    return set(_ADDRESSES[version].findall(shown)) if status == 0 else None


def taken(description: Description) -> str:
    """Empty when another director sent adverts lately for every VIP that this one could hold; else what is missing."""
    for vip in description.vips:
        others = {str(address) for address in description.directors_of(vip.address.version)}
        routers = heard(vip) or set()
        if not routers & others:
            return f"{vip.name}: adverts from '{' '.join(sorted(routers))}'"
    return ""


def strangers(description: Description, current: Description | None) -> str:
    """Routers that use a virtual_router_id of this version and are directors neither of it nor of the version in force; empty when there is none.

    Where the rules in force do not listen for an id yet, listens for LISTEN_S.
    """
    known = {str(address) for each in (description, current) if each for address in (*each.addresses, *each.directors, *each.directors_v6)}

    def found(table: str) -> str | None:
        by_vip = [(vip, heard(vip, table)) for vip in description.vips]
        if any(routers is None for _, routers in by_vip):
            return None
        # A director that leaves is among the first until the roll-out ends. Rules of an earlier release have no second set.
        all_of = [(vip, (routers or set()) | (heard(vip, table, "strangers") or set())) for vip, routers in by_vip]
        return "\n".join(
            f"vips.{vip.together or vip.name}.virtual_router_id: {vip.virtual_router_id} is used by {_some(routers - known)} on {description.interface} too; "
            "choose another, or stop that router (a director of this program that is being removed: put it back, drain it, and remove it then)"
            for vip, routers in all_of
            if routers - known
        )

    in_force = found(host.TABLE)
    if in_force is not None:
        return in_force
    versions = sorted({vip.address.version for vip in description.vips})
    # An interrupted command left its own table.
    _end_listening(versions)
    with ExitStack() as groups:
        for version in versions:
            groups.enter_context(_member(version, description.interface))
        try:
            programs.run("nft", "--file", "-", stdin=_listening_rules(description))
            deadline = clock.now() + LISTEN_S
            while not (routers := found(LISTEN_TABLE)) and clock.now() < deadline:
                clock.pause()
            return routers or ""
        finally:
            _end_listening(versions)


@contextmanager
def _member(version: int, interface: str) -> Iterator[None]:
    """In VRRP's group of a family on an interface, while this lasts: without keepalived no program has joined it.

    For IPv6 by a socket, so that the kernel sends an MLD report: a switch with MLD snooping forwards the group to ports with a report only. Switches forward
    224.0.0.18 to every port (RFC 4541, 2.1.2).
    """
    if version == 6:
        # Not at the top: most commands need no socket, and each import takes long on a slow machine.
        import socket
        import struct

        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
            # Without the interface nothing is heard, and the deployment ends with a message about that.
            with suppress(OSError):
                group = socket.inet_pton(socket.AF_INET6, _VRRP_GROUP_V6) + struct.pack("I", socket.if_nametoindex(interface))
                member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
            yield
        return
    programs.attempt("ip", "maddress", "add", _VRRP_MAC, "dev", interface)
    try:
        yield
    finally:
        programs.attempt("ip", "maddress", "delete", _VRRP_MAC, "dev", interface)


def _end_listening(versions: Iterable[int]) -> None:
    for version in versions:
        programs.attempt("nft", "delete", "table", host.FAMILIES[version], LISTEN_TABLE)


def _some(routers: set[str]) -> str:
    """The first of these addresses: a flood of senders is not listed in full."""
    first = sorted(routers)[:NAMED]
    return " ".join(first) + (f" and {len(routers) - NAMED} more" if len(routers) > NAMED else "")


def refuse_strangers(description: Description, current: Description | None) -> None:
    """Raise Refused when another router uses a virtual_router_id of this version."""
    if routers := strangers(description, current):
        raise Refused(routers)


def _listening_rules(description: Description) -> str:
    tables = []
    for version, family in host.FAMILIES.items():
        ids = [vip.virtual_router_id for vip in description.vips if vip.address.version == version]
        if not ids:
            continue
        sets = [f"set adverts_{each} {{ type ipv{version}_addr; size 256; flags dynamic; }}" for each in ids]
        protocol = "ip protocol" if version == 4 else "meta l4proto"
        # Byte 1 of an advert, also behind an authentication header of 24 bytes.
        rules = [f"{protocol} 112 @th,8,8 {each} update @adverts_{each} {{ {family} saddr }}" for each in ids]
        rules += [f"{protocol} 51 @th,200,8 {each} update @adverts_{each} {{ {family} saddr }}" for each in ids]
        # The same id on another network does no harm.
        chain = [f'iifname != "{description.interface}" return', *rules]
        lines = [*sets, "chain prerouting { type filter hook prerouting priority mangle;", *chain, "}"]
        tables.append(f"table {family} {LISTEN_TABLE} {{\n" + "\n".join(lines) + "\n}\n")
    return "".join(tables)
