"""Which real servers get new connections: weights, servers that an operator drained, servers that a new version removes, failed servers."""

from __future__ import annotations

import contextlib
import os

from . import clock, ipvs, journal, programs, state
from .description import Description
from .errors import TimedOut
from .ipvs import Key, Lowered, Table

REMOVAL_S = 30
"""Seconds that the connections of a removed server have to end."""
RETURN_S = 2
TABLE_S = 10
"""Seconds for keepalived to fill the kernel's table, or to take a new weight over from its configuration."""
START_S = TABLE_S + 5
"""Seconds for the start of keepalived's unit to end: `started` waits for the table."""


def failing(description: Description, kernel: Table) -> set[Key]:
    """The real servers that fail their health check here: they have a configured weight, are not drained, and keepalived says so or gives them no
    new connection. `kernel` has keepalived's verdicts (`belief.table`).
    """
    drained = state.drained()
    wanted = {
        (service.mark, str(server.address))
        for service in description.services
        for server in service.real_servers
        if server.weight and str(server.address) not in drained
    }
    return wanted - ipvs.answering(kernel)


def named(description: Description) -> set[Key]:
    """Every server that a version names, sorry servers included."""
    servers = {(service.mark, str(server.address)) for service in description.services for server in service.real_servers}
    return servers | {(service.mark, str(service.sorry_server)) for service in description.services if service.sorry_server}


def write_drained_files(folder: str, description: Description) -> None:
    """Write what keepalived.conf of a version includes for drained servers: weight 0, and a quorum that the others can reach."""
    if not description.runs_keepalived:
        return
    drained = state.drained()
    files: dict[str, str] = {}
    for service in description.services:
        quorum, hysteresis = service.quorum_without(drained)
        lines = [f"quorum {quorum}\n"] if quorum != service.quorum else []
        lines += [f"hysteresis {hysteresis}\n"] if hysteresis != service.hysteresis else []
        files[f"{service.name}.conf"] = "".join(lines)
        for server in service.real_servers:
            files[f"{server.address}.conf"] = "weight 0\n" if str(server.address) in drained else ""
    os.makedirs(f"{folder}/drained", exist_ok=True)
    for name, text in files.items():
        path = f"{folder}/drained/{name}"
        if not os.path.exists(path) or state.read(path) != text.strip():
            state.write(path, text)


def correct_weights(description: Description) -> None:
    """Give every real server in the kernel's table its configured weight, 0 when it is drained, and remove servers that are not named.

    A keepalived that stops leaves the table as it is, and one that starts keeps what it finds. Not by belief.difference, which also adds what is
    missing, gives the servers of a service with `alpha` weight 0, and leaves the weight that a script has set.
    """
    kernel, drained, ours = ipvs.table(), state.drained(), named(description)
    for service in description.services:
        weights = {str(server.address): server.weight for server in service.real_servers}
        for address, server in kernel[service.mark].servers.items() if service.mark in kernel else ():
            if (service.mark, address) not in ours:
                ipvs.delete_server(service.mark, address)
                journal.note(f"{service.name}: removed {address} from the kernel's table: this version does not name it")
            elif address in weights and server.weight != (wanted := 0 if address in drained else weights[address]):
                ipvs.set_weight(service.mark, address, server.method, wanted)
                journal.note(f"{service.name}: weight of {address} is {wanted}, was {server.weight}: keepalived starts with the configured weights")


def keep_place_of_drained(description: Description) -> None:
    """After a start, give drained servers the place in the hash table that they have on the other directors.

    The kernel hashes by the last weight that was not 0, and a server that is added with weight 0 has none. The table does not show it, so
    belief.difference finds nothing to do. Waits for keepalived's table.
    """
    drained = state.drained()
    waiting = [(service, server) for service in description.services for server in service.real_servers if server.weight and str(server.address) in drained]
    if not waiting:
        return

    def missing() -> str:
        kernel = ipvs.table()
        lacking = [f"{server.address} is not in service {service.name}" for service, server in waiting if not _there(kernel, service.mark, str(server.address))]
        return ", ".join(lacking)

    clock.wait_for(TABLE_S, "drained servers in the kernel's table", missing)
    kernel = ipvs.table()
    for service, server in waiting:
        method = kernel[service.mark].servers[str(server.address)].method
        for weight in (server.weight, 0):
            ipvs.set_weight(service.mark, str(server.address), method, weight)


def _starting() -> str:
    """Until `started` has ended, the unit is not active, and systemd does not reload it: keepalived would keep the weights that it has read."""
    said = programs.attempt("systemctl", "is-active", "keepalived.service")[1].strip()
    return said if said == "activating" else ""


def _there(kernel: Table, mark: int, address: str) -> bool:
    return mark in kernel and address in kernel[mark].servers


def rotation(out: bool, address: str, description: Description) -> None:
    """Take a real server out of rotation on this host, or put it back. Its connections go on. Survives reloads, reboots and new versions."""
    addresses = description.addresses_of(address)
    path = f"{state.DRAINED}/{address}"
    before = f"was {'out' if os.path.exists(path) else 'in'} since {journal.since(path) if os.path.exists(path) else 'its last return'}"
    os.makedirs(state.DRAINED, exist_ok=True)
    for path in (f"{state.DRAINED}/{each}" for each in addresses):
        if out and not os.path.exists(path):
            state.write(path, "")
        elif not out and os.path.exists(path):
            os.unlink(path)
    programs.sync(state.BASE)
    journal.note(f"{' '.join(addresses)} is {'out of' if out else 'in'} rotation by an operator's command; {before}")
    write_drained_files(os.path.realpath(state.CURRENT), description)
    clock.wait_for(START_S, "the start of keepalived.service to end", _starting)
    if programs.succeeds("systemctl", "-q", "is-active", "keepalived.service"):
        programs.run("systemctl", "reload", "keepalived.service")
    else:
        correct_weights(description)

    def live() -> str:
        return ", ".join(f"mark {mark}" for mark, server in sorted(ipvs.live(ipvs.table())) if server in addresses)

    if out:
        clock.wait_for(TABLE_S, f"weight 0 for {address} (the script of a misc_dynamic check sets its weight itself)", live)
    else:
        # It may fail its health check, and keepalived reads the signal to reload a moment later.
        with contextlib.suppress(TimedOut):
            clock.wait_for(RETURN_S, f"the weight of {address}", lambda: "" if live() else "weight 0")


def removed_by(new: Description, current: Description, kernel: Table) -> list[Key]:
    """The live servers that a new version no longer names. A service that it has under another mark loses none."""
    kept = named(new)
    marks = {service.mark for service in new.services}
    ports = {(address, service.protocol, service.port) for vip in new.vips for service in vip.services for address in vip.addresses}
    gone = []
    for vip in current.vips:
        for service in vip.services:
            if service.mark not in marks and any((address, service.protocol, service.port) in ports for address in vip.addresses):
                continue
            gone += [key for key in ipvs.live(kernel) if key[0] == service.mark and key not in kept]
    return sorted(gone)


def lower(gone: list[Key], kernel: Table) -> None:
    """Give these servers no new connection."""
    for mark, address in gone:
        ipvs.set_weight(mark, address, kernel[mark].servers[address].method, 0)


def wait_for_removed(gone: list[Key]) -> None:
    """Give the connections of removed servers time to end: REMOVAL_S at most."""

    def busy() -> str:
        kernel = ipvs.table()
        count = sum(kernel[mark].servers[address].connections for mark, address in gone if _there(kernel, mark, address))
        return f"{count} connections" if count else ""

    try:
        clock.wait_for(REMOVAL_S, "the connections of removed servers to end", busy)
    except TimedOut as late:
        journal.note(f"{late}; going on")


def raise_lowered(lowered: list[Lowered]) -> None:
    """Give the servers that an interrupted removal lowered their weights again, unless an operator drained them meanwhile."""
    drained = state.drained()
    for mark, address, method, weight in lowered:
        if address not in drained:
            ipvs.set_weight(mark, address, method, weight)
            journal.note(f"weight of {address} (mark {mark}) is {weight} again: the version that removes it did not come into force")
