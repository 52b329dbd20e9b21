"""Gathers every fact that `status`, `operations status` and `operations verify` need. Changes nothing."""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import selectors
import socket

from . import clock, host, ipvs, journal, programs, state, versions, vrrp
from .description import Description
from .facts import Facts

WITNESS_S = 1.0
"""Seconds for all witnesses together to take or refuse a connection."""
_ANSWERED = (0, errno.ECONNREFUSED)


def facts() -> Facts:
    """The facts of this node."""
    keepalived = programs.attempt("systemctl", "is-active", "keepalived.service")[1].strip()
    description = versions.current()
    seen = Facts(
        keepalived=keepalived,
        version=state.target(state.CURRENT) or "none",
        proven=state.target(state.PROVEN) or "none",
        since=journal.since(state.CURRENT),
        owns_nothing=state.owns_nothing(),
        drained=frozenset(state.drained()),
    )
    if description is None:
        return seen
    seen = _replace(
        seen,
        host=description.host,
        files=_files(),
        mac=state.read(f"/sys/class/net/{description.interface}/address"),
        held=frozenset(host.addresses(description.interface)),
        lo=frozenset(host.addresses("lo")),
        sysctl=frozenset(host.sysctls_in_force(state.CURRENT)),
    )
    if not description.director:
        return seen
    return _replace(
        seen,
        table=ipvs.table(),
        sync=ipvs.sync_daemons(),
        views={name: int(state.read(state.view_file(name)) or 0) for name in description.instances},
        drains={name: int(state.read(state.drain_file(name)) or 0) for name in description.instances},
        witnesses=reached(description.witnesses),
        rules=_rules_that_differ(),
        strangers=vrrp.strangers(description, description),
    )


def _replace(seen: Facts, **changes: object) -> Facts:
    return Facts(**{**vars(seen), **changes})


def _files() -> dict[str, str]:
    """SHA-256 of the files that were delivered: without secrets, and without what this node wrote itself."""
    found = {}
    folder = os.path.realpath(state.CURRENT)
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "drained"]
        for name in names:
            if not name.startswith("auth-") and os.path.isfile(f"{at}/{name}"):
                with open(f"{at}/{name}", "rb") as file:
                    found[os.path.relpath(f"{at}/{name}", folder)] = hashlib.sha256(file.read()).hexdigest()
    return found


def _rules_that_differ() -> str:
    """The difference between what nft lists after loading the version's rules, asked in a network namespace of its own, and what is loaded."""
    listing = ["nft", "--stateless", "--terse", "list", "table", "ip", host.TABLE]
    script = 'nft --file "$0" && exec "$@"'
    wanted = programs.run("unshare", "--net", "sh", "-c", script, f"{state.CURRENT}/{host.RULES}", *listing)
    _, loaded, errors = programs.attempt(*listing)
    return "\n".join(difflib.unified_diff(wanted.splitlines(), (loaded or errors).splitlines(), "rendered", "loaded", lineterm="", n=0))


def reached(witnesses: tuple[str, ...]) -> dict[str, bool]:
    """Whether each `ADDRESS:PORT` takes or refuses a connection: a host that refuses is there as well."""
    found = dict.fromkeys(witnesses, False)
    selector = selectors.DefaultSelector()
    for witness in witnesses:
        address, _, port = witness.rpartition(":")
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        status = connection.connect_ex((address.strip("[]"), int(port)))
        if status == errno.EINPROGRESS:
            selector.register(connection, selectors.EVENT_WRITE, witness)
        else:
            found[witness] = status in _ANSWERED
            connection.close()
    deadline = clock.now() + WITNESS_S
    while selector.get_map() and (left := deadline - clock.now()) > 0:
        for key, _ in selector.select(left):
            connection = key.fileobj  # type: ignore[assignment]
            found[key.data] = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _ANSWERED
            selector.unregister(connection)
            connection.close()
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    return found


def report(seen: Facts, description: Description | None) -> str:
    """The facts for a person who is logged in on the node."""
    lines = [f"version     {seen.version}, in force since {seen.since}" + ("" if seen.proven == seen.version else f"; healthy last: {seen.proven}")]
    if description is None:
        return "\n".join([f"keepalived  {seen.keepalived}", "version     none is in force; pulumi up"])
    lines.insert(0, f"host        {description.host}, pool {description.pool}, {'director and real server' if description.director else 'real server'}")
    names = {str(server.address): server.name for vip in description.vips for service in vip.services for server in service.real_servers}
    if not description.director:
        return "\n".join([*lines, *(_vip_on_lo(vip.name, str(vip.address), seen) for vip in description.vips)])
    lines.insert(1, f"keepalived  {seen.keepalived}" + ("" if seen.keepalived == "active" else "; journalctl --unit keepalived says why"))
    if seen.owns_nothing:
        lines.append(f"drained     takes no VIP since {journal.since(state.OWNERSHIP)}; operations undrain {description.host}")
    for vip in description.vips:
        drain, view = seen.drains.get(vip.name, 0), seen.views.get(vip.name, 0)
        holds = "held here" if str(vip.address) in seen.held else "held by another director"
        why = [f"drain {drain} since {journal.since(state.drain_file(vip.name))}"] if drain else []
        why += [f"view {view} since {journal.since(state.view_file(vip.name))}"] if view else []
        owner = "this host" if vip.owner == description.address else names.get(str(vip.owner), str(vip.owner))
        lines.append(_vip_on_lo(vip.name, str(vip.address), seen) + f", {holds}, owner {owner}" + (f"; priority lowered: {', '.join(why)}" if why else ""))
        for service in vip.services:
            virtual = seen.table.get(service.mark)
            lines.append(f"  {service.port}/{service.protocol}, mark {service.mark}" + ("" if virtual else ": not in the kernel's table"))
            for server in service.real_servers if virtual else ():
                there = virtual.servers.get(str(server.address)) if virtual else None
                drained = f", drained since {journal.since(f'{state.DRAINED}/{server.address}')}" if str(server.address) in seen.drained else ""
                weight = f"weight {there.weight}, {there.connections} connections" if there else "fails its health check"
                lines.append(f"    {server.name} {server.address}: {weight}{drained}")
    lines += [f"witness     {witness}: {'answers' if answers else 'silent'}" for witness, answers in seen.witnesses.items()]
    lines += [f"sync        {daemon.side} on {daemon.interface} with {daemon.sync_id}" for daemon in seen.sync]
    lines += [f"FAULT       {text}" for text in (seen.strangers, seen.rules and "nftables rules differ from the version's; openshift-lvs apply") if text]
    return "\n".join(lines)


def _vip_on_lo(name: str, address: str, seen: Facts) -> str:
    return f"{name} {address}" + ("" if address in seen.lo else " (NOT ON lo; openshift-lvs apply)")
