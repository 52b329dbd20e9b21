"""The cluster at a glance, from one question to each host: the hosts, each VIP on each of its directors, the real servers, and what is at fault."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components import keepalived
from components.configuration import POOR_VIEW_WEIGHT, Cluster, Vip, VirtualService
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.journal import utc
from operations.nodes import Nodes
from operations.verify import Finding, facts, from_facts, holders, outcome

HEAD = ("HOST", "KEEPALIVED", "VERSION", "HOLDS", "LIVE SERVERS", "VIEW", "DRAINED", "REPAIRS")
VIPS_HEAD = ("VIP", "HOST", "ROLE", "STATE", "SINCE", "BEFORE", "PRIORITY")
SERVERS_HEAD = ("SERVICE", "SERVER", "WEIGHT", "HEALTH", "CONNECTIONS")


@dataclass(frozen=True)
class Version:
    """The version in force on a host, the one that is rendered for it, and the one that was healthy last. `since` is when it came into force."""

    in_force: str
    rendered: str
    as_rendered: bool
    proven: str
    since: str


@dataclass(frozen=True)
class Host:
    """One host that was reached. What only a director has is empty elsewhere."""

    pool: str
    director: bool
    keepalived: str
    version: Version
    holds: list[str]
    view: str
    director_drained: bool
    drained_servers: list[str]
    witnesses: dict[str, bool]
    connection_sync: list[str]
    repairs: dict[str, int]


@dataclass(frozen=True)
class Priority:
    """The VRRP priority of a director for a VIP. `in_force` None: it may not take the VIP. The rest is what it comes from: a base, and what is added."""

    in_force: int | None
    base: int
    drain: int
    view: int
    witness: int


@dataclass(frozen=True)
class Director:
    """A VIP on one of its directors. `since` and `before` None: the journal of the node does not tell."""

    holds: bool
    state: str
    since: str | None
    before: str | None
    priority: Priority


@dataclass(frozen=True)
class Server:
    """A real server of a service. Weight and connections are those of the VIP's holder; `health` is by director: passes, fails, drained or unused."""

    address: str
    weight: int | None
    connections: int | None
    health: dict[str, str]


@dataclass(frozen=True)
class Service:
    """A service of a VIP. `expected_servers` is how many real servers should be live. `fails_open` names the directors on which it fails open."""

    port: int
    protocol: str
    expected_servers: int
    fails_open: list[str]
    servers: dict[str, Server]


@dataclass(frozen=True)
class Address:
    """A VIP: its owner, the hosts that hold it, and the directors that were reached."""

    address: str
    additional_addresses: list[str]
    pool: str
    owner: str
    holders: list[str]
    directors: dict[str, Director]
    services: list[Service]


@dataclass(frozen=True)
class Status:
    """The cluster at one moment. A host that was not reached is None."""

    hosts: dict[str, Host | None]
    vips: dict[str, Address]
    findings: list[Finding]

    @property
    def result(self) -> str:
        """`failed` with a fault, else `unknown` when a host could not be asked, else `ok`."""
        return outcome(self.findings)

    def to_json(self) -> dict[str, Any]:
        """What `status --json` prints, but for its head: see docs/reference/operations.md."""
        return {
            "result": self.result,
            "hosts": {name: asdict(host) if host else None for name, host in self.hosts.items()},
            "vips": {name: asdict(vip) for name, vip in self.vips.items()},
            "findings": [finding.to_json() for finding in self.findings if finding.result != "ok"],
        }

    def text(self) -> str:
        """Three tables and the faults."""
        hosts = [HEAD, *(_host_row(name, host, self.vips) for name, host in self.hosts.items())]
        vips = [VIPS_HEAD, *(row for name, vip in self.vips.items() for row in _vip_rows(name, vip))]
        servers = [SERVERS_HEAD, *(row for name, vip in self.vips.items() for row in _server_rows(name, vip))]
        faults = [str(finding) for finding in self.findings if finding.result in ("failed", "unknown")]
        return "\n\n".join([table(hosts), table(vips), table(servers), *(["\n".join(faults)] if faults else [])])


def status(nodes: Nodes, cluster: Cluster, root: Path) -> Status:
    """Ask every host once, all at the same time."""
    known, silent = facts(nodes, cluster.managed())
    return Status(
        hosts={host: _host(cluster, host, known[host], root) if host in known else None for host in cluster.managed()},
        vips={name: _vip(cluster, name, vip, known) for name, vip in cluster.vips.items()},
        findings=list(from_facts(cluster, known, silent, root)),
    )


def _host(cluster: Cluster, host: str, seen: Facts, root: Path) -> Host:
    pool = cluster.node(host).pool_name
    vips = cluster.vips_of(pool)
    names = {str(machine.address): name for name, machine in cluster.pools[pool].hosts.items()}
    is_director = bool(vips) and host in cluster.directors(pool)
    rendered = keepalived.version(keepalived.render(cluster, host, root))
    return Host(
        pool=pool,
        director=is_director,
        keepalived=seen.keepalived,
        version=Version(seen.version, rendered, seen.version.partition("-")[0] == rendered, seen.proven, seen.since),
        holds=[name for name, vip in vips.items() if str(vip.address) in seen.held],
        view=seen.view if is_director else "",
        director_drained=seen.owns_nothing,
        drained_servers=sorted(names[address] for address in seen.drained if address in names),
        witnesses=seen.witnesses,
        connection_sync=[daemon.side for daemon in seen.sync],
        repairs={repair.what: repair.count for repair in seen.repairs},
    )


def _vip(cluster: Cluster, name: str, vip: Vip, known: Mapping[str, Facts]) -> Address:
    directors = {host: known[host] for host in cluster.directors(vip.pool) if host in known}
    having = holders(vip, known)
    shown = next((directors[host] for host in [*having, *directors] if host in directors), None)
    return Address(
        address=str(vip.address),
        additional_addresses=[str(address) for address in vip.addresses[1:]],
        pool=vip.pool,
        owner=vip.owner,
        holders=having,
        directors={host: _director(cluster, name, host, seen) for host, seen in directors.items()},
        services=[_service(cluster, vip, service, directors, shown) for service in vip.services],
    )


def _director(cluster: Cluster, name: str, host: str, seen: Facts) -> Director:
    vip = cluster.vips[name]
    holds, last = str(vip.address) in seen.held, seen.vrrp.get(name)
    base = seen.priorities.get(name, cluster.priority(vip, host))
    drain, view = seen.drains.get(name, 0), sum(seen.views.get(each, 0) for each in cluster.together(name))
    # A node of an earlier release does not tell it.
    witness = seen.cut_off if seen.cut_off is not None else 2 * POOR_VIEW_WEIGHT if seen.view == "cut off" else 0
    runs = seen.keepalived == "active"
    # keepalived keeps a priority from 1 to 254 (keepalived.conf(5), weight).
    in_force = max(1, min(254, base + drain + view + witness)) if runs and name not in seen.aside else None
    return Director(
        holds=holds,
        state=(last.state if last else "MASTER" if holds else "BACKUP") if runs else "stopped",
        since=utc(last.since) if last and runs else None,
        before=(last.before or None) if last and runs else None,
        priority=Priority(in_force, base, drain, view, witness),
    )


def _service(cluster: Cluster, vip: Vip, service: VirtualService, directors: Mapping[str, Facts], shown: Facts | None) -> Service:
    hosts, mark = cluster.pools[vip.pool].hosts, vip.mark(service)
    servers = {}
    for server, machine in hosts.items():
        address = str(machine.address_of(vip.address.version))
        there = shown.table[mark].servers.get(address) if shown and mark in shown.table else None
        health = {host: _health(seen, mark, address, service.weight(server)) for host, seen in directors.items()}
        servers[server] = Server(address, there.weight if there else None, there.connections if there else None, health)
    opens = [host for host, seen in directors.items() if mark in seen.table and seen.table[mark].open_since]
    return Service(service.port, service.protocol, service.expected_servers or len(hosts), opens, servers)


def _health(seen: Facts, mark: int, address: str, weight: int) -> str:
    """What a director thinks of a real server. One that is drained, or has weight 0 in the configuration, gets no connection whatever its check says."""
    if address in seen.drained:
        return "drained"
    if not weight:
        return "unused"
    there = seen.table[mark].servers.get(address) if mark in seen.table else None
    return "passes" if there and there.weight and there.healthy else "fails"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _host_row(name: str, host: Host | None, vips: Mapping[str, Address]) -> tuple[str, ...]:
    if host is None:
        return (name, "not reached", *["-"] * (len(HEAD) - 2))
    version = host.version
    live = [
        f"{vip_name}:{service.port} {sum(server.health[name] == 'passes' for server in service.servers.values())}/{service.expected_servers}"
        + (" (fails open)" if name in service.fails_open else "")
        for vip_name, vip in vips.items()
        if name in vip.directors
        for service in vip.services
    ]
    return (
        name,
        host.keepalived if any(vip.pool == host.pool for vip in vips.values()) else "-",
        version.in_force if version.as_rendered else f"{version.in_force}, rendered {version.rendered}",
        " ".join(host.holds) or "-",
        ", ".join(live) or "-",
        host.view or "-",
        ", ".join([*(["its VIPs"] if host.director_drained else []), *host.drained_servers]) or "-",
        ", ".join(f"{part} {count}" for part, count in host.repairs.items() if count) or "-",
    )


def _vip_rows(name: str, vip: Address) -> Iterator[tuple[str, ...]]:
    label = " ".join([name, vip.address, *vip.additional_addresses])
    for host, director in vip.directors.items():
        roles = [*(["owner"] if host == vip.owner else []), "holder" if director.holds else "backup"]
        yield label, host, ", ".join(roles), director.state, director.since or "-", director.before or "-", _priority(director)
        label = ""
    for host in vip.holders:
        if host not in vip.directors:
            yield label, host, "holder, no director", "-", "-", "-", "-"


def _priority(director: Director) -> str:
    """The priority in force and why: `50 = 150 - 100 (view)`."""
    priority = director.priority
    if priority.in_force is None:
        return "none: keepalived is stopped" if director.state == "stopped" else "none: drained"
    reasons = {"roll-out": priority.drain, "view": priority.view, "no witness": priority.witness}
    added = [f"{'-' if weight < 0 else '+'} {abs(weight)} ({reason})" for reason, weight in reasons.items() if weight]
    return " ".join([str(priority.in_force), *([f"= {priority.base}", *added] if added else [])])


def _server_rows(name: str, vip: Address) -> Iterator[tuple[str, ...]]:
    for service in vip.services:
        label = f"{name}:{service.port}/{service.protocol}"
        for server, there in service.servers.items():
            weight, connections = ("-" if number is None else str(number) for number in (there.weight, there.connections))
            yield label, server, weight, _judged(there.health), connections
            label = ""


def _judged(health: Mapping[str, str]) -> str:
    """What the directors think of a server: `ok`, or each other opinion with the directors that have it, unless all have it."""
    opinions = [opinion for opinion in ("fails", "drained", "unused") if opinion in health.values()]
    if not opinions:
        return "ok" if health else "-"
    told = []
    for opinion in opinions:
        having = [host for host, its in health.items() if its == opinion]
        told.append(opinion if len(having) == len(health) else f"{opinion} on {', '.join(having)}")
    return "; ".join(told)
