"""Gathers every fact that `status`, `operations status` and `operations verify` need. Changes nothing."""

from __future__ import annotations

import hashlib
import os

from . import belief, clock, firewall, host, ipvs, journal, programs, repairs, state, translation, vrrp
from .description import Description, current
from .facts import Facts
from .record import replace

WATCH_STOPPED = (
    "nothing is repaired, no service fails open, and neither a lost quorum nor silent witnesses lower the VRRP priority; systemctl start openshift-lvs-watch"
)


def facts() -> Facts:
    """The facts of this node."""
    # One systemctl for both, since it takes long on a slow processor.
    states = programs.attempt("systemctl", "is-active", "keepalived.service", host.WATCH_UNIT)[1].split()
    keepalived, watch = (*states, "", "")[:2]
    description = current()
    seen = Facts(
        keepalived=keepalived,
        version=state.target(state.CURRENT) or "none",
        proven=state.target(state.PROVEN) or "none",
        since=journal.since(state.CURRENT),
        owns_nothing=state.owns_nothing(),
        drained=frozenset(state.drained()),
        watch=watch,
        repairs=repairs.read(clock.now()),
    )
    if description is None:
        return seen
    addresses = host.all_addresses()
    seen = replace(
        seen,
        host=description.host,
        files=_files(),
        mac=state.read(f"/sys/class/net/{description.interface}/address"),
        held=frozenset(addresses.get(description.interface, ())),
        lo=frozenset(addresses.get("lo", ())),
        sysctl=frozenset(host.sysctls_in_force(state.CURRENT)),
        moved=host.moved(description, addresses),
    )
    if os.path.exists(f"{state.CURRENT}/{host.RULES}"):
        seen = replace(seen, rules=host.rules_that_differ(), foreign=host.foreign_senders())
    if description.runs_keepalived:
        seen = replace(seen, table=belief.table())
    if not description.director:
        return seen
    chains = firewall.other_chains(description)
    return replace(
        seen,
        sync=ipvs.sync_daemons(),
        views={name: int(state.read(state.view_file(name)) or 0) for name in description.instances},
        drains={name: int(state.read(state.drain_file(name)) or 0) for name in description.instances},
        witnesses=_reached(description),
        cut_off=int(state.read(state.CUT_OFF) or 0) if description.witnesses else None,
        strangers=vrrp.strangers(description, description),
        filters=firewall.dropping_chains(chains),
        translated=translation.found(description, chains),
        vrrp=vrrp.transitions(description.instances),
        priorities=vrrp.priorities(state.CURRENT),
    )


def _reached(description: Description) -> dict[str, bool]:
    if not description.witnesses:
        return {}
    # Its imports take 0.05 s on a slow processor.
    from . import probes

    return probes.reached(description.witnesses)


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


def report(seen: Facts, description: Description | None) -> str:
    """The facts for a person who is logged in on the node."""
    lines = [f"version     {seen.version}, in force since {seen.since}" + ("" if seen.proven == seen.version else f"; healthy last: {seen.proven}")]
    if description is None:
        return "\n".join([f"keepalived  {seen.keepalived}", "version     none is in force; pulumi up"])
    lines.insert(0, f"host        {description.host}, pool {description.pool}, {'director and real server' if description.director else 'real server'}")
    names = {str(server.address): server.name for vip in description.vips for service in vip.services for server in service.real_servers}
    if not description.runs_keepalived:
        vips = [_vip_on_lo(vip.name, str(address), seen) for vip in description.vips for address in vip.addresses]
        return "\n".join([*lines, *vips, *_repairs(seen), *_faults(seen)])
    lines.insert(1, f"keepalived  {seen.keepalived}" + ("" if seen.keepalived == "active" else "; journalctl --unit keepalived says why"))
    if seen.owns_nothing:
        lines.append(f"drained     takes no VIP since {journal.since(state.OWNERSHIP)}; operations undrain {description.host}")
    for vip in description.vips:
        drain, view = seen.drains.get(vip.name, 0), seen.views.get(vip.name, 0)
        holds = "held here" if str(vip.address) in seen.held else "not held here"
        last = seen.vrrp.get(vip.name)
        holds += f" ({last.state} since {journal.utc(last.since)})" if last else ""
        why = [f"drain {drain} since {journal.since(state.drain_file(vip.name))}"] if drain else []
        why += [f"view {view} since {journal.since(state.view_file(vip.name))}"] if view else []
        why += [f"cut off {seen.cut_off} since {journal.since(state.CUT_OFF)}"] if seen.cut_off else []
        owner = "this host" if vip.owner in description.addresses else names.get(str(vip.owner), str(vip.owner))
        lines.append(_vip_on_lo(vip.name, str(vip.address), seen) + f", {holds}, owner {owner}" + (f"; priority lowered: {', '.join(why)}" if why else ""))
        lines += [f"{_vip_on_lo(vip.name, str(address), seen)}, {'' if str(address) in seen.held else 'not '}held here" for address in vip.additional_addresses]
        for service in vip.services:
            virtual = seen.table.get(service.mark)
            opens = f": no check passes, fails open since {virtual.open_since}" if virtual and virtual.open_since else ""
            lines.append(f"  {service.port}/{service.protocol}, mark {service.mark}" + (opens if virtual else ": not in the kernel's table"))
            for server in service.real_servers if virtual else ():
                there = virtual.servers.get(str(server.address)) if virtual else None
                drained = f", drained since {journal.since(f'{state.DRAINED}/{server.address}')}" if str(server.address) in seen.drained else ""
                fails = server.weight and not drained and not (there and there.weight and there.healthy)
                weight = f"weight {there.weight if there else 0}"
                if fails:
                    weight = "fails its health check" + (f", {weight}" if there and there.weight else "")
                lines.append(f"    {server.name} {server.address}: {weight}, {there.connections if there else 0} connections{drained}")
    lines += [f"witness     {witness}: {'answers' if answers else 'silent'}" for witness, answers in seen.witnesses.items()]
    lines += [f"sync        {daemon.side} on {daemon.interface} with {daemon.sync_id}" for daemon in seen.sync]
    return "\n".join([*lines, *_repairs(seen), *_faults(seen)])


def _repairs(seen: Facts) -> list[str]:
    """A line for each thing that was repaired."""
    lines = []
    for each in seen.repairs:
        by = f", changed by {each.by}" if each.by else ""
        contested = "; another program changes it again and again" if each.contested else ""
        lines.append(f"repaired    {each.what}: {each.count} times, last {each.seconds_ago} s ago{by}{contested}")
    return lines


def _faults(seen: Facts) -> list[str]:
    watch = f"openshift-lvs-watch.service is {seen.watch}: {WATCH_STOPPED}" if seen.watch not in ("", "active") else ""
    rules = seen.rules and "nftables rules differ from the version's; openshift-lvs apply"
    translated = [str(each) for each in seen.translated if each.to]
    return [f"FAULT       {text}" for text in (seen.strangers, rules, watch, seen.moved, *translated) if text]


def _vip_on_lo(name: str, address: str, seen: Facts) -> str:
    return f"{name} {address}" + ("" if address in seen.lo else " (NOT ON lo; openshift-lvs apply)")
