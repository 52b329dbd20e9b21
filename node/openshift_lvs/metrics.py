"""The textfile for node_exporter: facts of this node as metrics, written by a timer where the configuration has `metrics`. No agent, no open port."""

from __future__ import annotations

import hashlib
import os
import re

from . import clock, journal, observe, programs, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .description import Description
    from .facts import Facts

    Sample = tuple[str, dict[str, Any], float]

FILE = "openshift_lvs.prom"
TIMER = "openshift-lvs-metrics.timer"
STATES = ("MASTER", "BACKUP", "FAULT")
_OF_A_HOST = ("priority", "router_id", "unicast_src_ip", "mcast_src_ip", "notify_up", "notify_down")
"""Words of keepalived.conf whose values differ between the directors of a pool."""
METRICS = {
    # name: type, help
    "version_info": ("gauge", "The version in force. The directors of a pool have the same program and configuration, and so have its other servers."),
    "version_since_timestamp_seconds": ("gauge", "When the version came into force."),
    "keepalived_active": ("gauge", "Whether systemd says that keepalived is active."),
    "watch_active": ("gauge", "Whether the resident process runs, which repairs what other programs change, lets services fail open, and records quorums."),
    "director_drained": ("gauge", "Whether an operator drained this director: it takes no VIP."),
    "vip_held": ("gauge", "Whether the VIP is on the interface of this host."),
    "vip_owned": ("gauge", "Whether this host is the preferred director of the VIP."),
    "vrrp_state": ("gauge", "1 for the state that keepalived logged last for the VIP, 0 for the others."),
    "vrrp_transition_timestamp_seconds": ("gauge", "When keepalived logged the last change of the VIP's state."),
    "vrrp_priority": ("gauge", "The VRRP priority in keepalived.conf, before anything is added to it."),
    "vrrp_priority_adjustment": ("gauge", "What is added to the VRRP priority, by reason: a drain or a roll-out, the view, the witnesses."),
    "service_expected_weight": ("gauge", "The weight of the real servers that should be live: the expected ones without the drained ones."),
    "service_fails_open": ("gauge", "Whether no real server passes its health check, and all of them get connections all the same."),
    "server_weight": ("gauge", "The weight of the real server in the kernel's table: 0 gets no new connection."),
    "server_healthy": ("gauge", "Whether the real server passes its health check on this director. Missing for a drained server, and for one of weight 0."),
    "server_connections": ("gauge", "Established connections of the real server in the kernel's table of this director."),
    "server_drained": ("gauge", "Whether an operator took the real server out of rotation on this director."),
    "connection_sync_running": ("gauge", "Whether this side of connection sync runs: master tells of connections, backup hears of them."),
    "witness_reached": ("gauge", "Whether the witness takes or refuses a connection."),
    "rules_as_rendered": ("gauge", "Whether the loaded nftables rules are those of the version in force."),
    "other_router": ("gauge", "Whether another router on the segment uses a virtual_router_id of this pool."),
    "repairs_total": ("counter", "How often this program repaired what another program had changed, by part."),
    "written_timestamp_seconds": ("gauge", "When this file was written."),
}
"""Every metric without its prefix `openshift_lvs_`: type and help, in the order of the file."""


def write(description: Description) -> None:
    """Write the textfile in one step, for every user to read. Does nothing where the configuration has no `metrics`."""
    if description.metrics_directory:
        os.makedirs(description.metrics_directory, exist_ok=True)
        state.write(_path(description), text(observe.facts(), description))


def schedule(description: Description, others: Iterable[Description]) -> None:
    """Run the timer if the version in force has `metrics`, else stop it; remove the textfiles of other versions. No fault of it stops an activation."""
    if not description.metrics_directory:
        remove(others)
        return
    _unlink(other for other in others if other.metrics_directory != description.metrics_directory)
    if not _enabled():
        status, _, errors = programs.attempt("systemctl", "-q", "enable", "--now", TIMER)
        journal.note(f"writes no metrics: {errors.strip()}" if status else f"writes metrics to {_path(description)}")


def remove(descriptions: Iterable[Description]) -> None:
    """Stop the timer, and remove the textfiles of these versions."""
    if _enabled():
        programs.attempt("systemctl", "-q", "disable", "--now", TIMER)
    _unlink(descriptions)


def _enabled() -> bool:
    # systemctl takes a second on a slow processor.
    return os.path.lexists(f"{state.UNITS}/timers.target.wants/{TIMER}")


def _unlink(descriptions: Iterable[Description]) -> None:
    for each in descriptions:
        if each.metrics_directory and os.path.exists(_path(each)):
            os.unlink(_path(each))


def _path(description: Description) -> str:
    return f"{description.metrics_directory}/{FILE}"


def text(seen: Facts, description: Description) -> str:
    """The facts in Prometheus' text format: each metric with its help, its type and its samples."""
    samples = list(_samples(seen, description))
    lines = []
    for name, (kind, what) in METRICS.items():
        mine = [(labels, value) for metric, labels, value in samples if metric == name]
        if mine:
            lines += [f"# HELP openshift_lvs_{name} {what}", f"# TYPE openshift_lvs_{name} {kind}"]
            lines += [f"openshift_lvs_{name}{_labels(labels)} {float(value):.15g}" for labels, value in mine]
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, Any]) -> str:
    escaped = (str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in labels.values())
    pairs = ",".join(f'{name}="{value}"' for name, value in zip(labels, escaped))
    return f"{{{pairs}}}" if pairs else ""


def _samples(seen: Facts, description: Description) -> Iterator[Sample]:
    yield (
        "version_info",
        {
            "host": description.host,
            "pool": description.pool,
            "role": "director" if description.director else "server",
            "version": seen.version,
            "proven": seen.proven,
            "program": description.program,
            "configuration": pool_configuration(state.CURRENT, seen.version),
        },
        1,
    )
    yield "version_since_timestamp_seconds", {}, os.lstat(state.CURRENT).st_mtime
    yield "watch_active", {}, seen.watch == "active"
    if description.runs_keepalived:
        yield "keepalived_active", {}, seen.keepalived == "active"
    if description.director:
        yield from _director(seen, description)
    for repair in seen.repairs:
        yield "repairs_total", {"part": repair.what}, repair.count
    yield "written_timestamp_seconds", {}, clock.wall()


def _director(seen: Facts, description: Description) -> Iterator[Sample]:
    yield "director_drained", {}, seen.owns_nothing
    for vip in description.vips:
        of = {"vip": vip.name, "address": vip.address}
        for held in vip.addresses:
            yield "vip_held", {"vip": vip.name, "address": held}, str(held) in seen.held
        yield "vip_owned", of, vip.owner in description.addresses
        if last := seen.vrrp.get(vip.name):
            for each in STATES:
                yield "vrrp_state", {**of, "state": each}, last.state == each
            yield "vrrp_transition_timestamp_seconds", of, last.since
        if vip.name in seen.priorities:
            yield "vrrp_priority", of, seen.priorities[vip.name]
        view = sum(seen.views.get(each, 0) for each in description.moving_with([vip.name]))
        for reason, added in (("drain", seen.drains.get(vip.name, 0)), ("view", view), ("witness", seen.cut_off or 0)):
            yield "vrrp_priority_adjustment", {**of, "reason": reason}, added
        for service in vip.services:
            name = {"vip": vip.name, "service": f"{service.port}/{service.protocol}"}
            drained = sum(server.weight for server in service.real_servers if str(server.address) in seen.drained)
            yield "service_expected_weight", name, max(0, service.expected_weight - drained)
            virtual = seen.table.get(service.mark)
            yield "service_fails_open", name, bool(virtual and virtual.open_since)
            table = virtual.servers if virtual else {}
            for server in service.real_servers:
                labels, there = {**name, "server": server.name, "address": server.address}, table.get(str(server.address))
                yield "server_weight", labels, there.weight if there else 0
                yield "server_connections", labels, there.connections if there else 0
                if server.weight and str(server.address) not in seen.drained:
                    yield "server_healthy", labels, bool(there and there.weight and there.healthy)
    servers = {str(server.address): server.name for service in description.services for server in service.real_servers}
    for address, server_name in servers.items():
        yield "server_drained", {"server": server_name, "address": address}, address in seen.drained
    for side in ("master", "backup"):
        running = any((daemon.side, daemon.interface, daemon.sync_id) == (side, description.interface, description.sync_id) for daemon in seen.sync)
        yield "connection_sync_running", {"side": side}, running
    for witness, reached in seen.witnesses.items():
        yield "witness_reached", {"witness": witness}, reached
    yield "rules_as_rendered", {}, not seen.rules
    yield "other_router", {}, bool(seen.strangers)


def pool_configuration(folder: str, version: str) -> str:
    """12 hexadecimal digits that name what a version has in common with those of the other directors, or the other servers, of its pool.

    The name of a version itself differs on every host: its files have the host's name, address and priority.
    """
    configuration = state.text(f"{folder}/keepalived.conf")
    shared = re.sub(rf"(?m)^ *(#|(?:{'|'.join(_OF_A_HOST)})\b).*\n| *unicast_peer \{{[^}}]*\}}\n", "", configuration)
    # With a password the name of a version ends in the password's fingerprint.
    names = ["sysctl.conf", "modules.conf", *(f"checks/{name}" for name in state.names(f"{folder}/checks"))]
    parts = [version.partition("-")[2], shared, *(state.text(f"{folder}/{name}") for name in names)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
