"""The cluster at a glance: one line for each host."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from components import keepalived
from components.configuration import Cluster
from node.openshift_lvs.facts import Facts
from operations.nodes import Nodes
from operations.verify import facts

HEAD = ("HOST", "KEEPALIVED", "VERSION", "HOLDS", "LIVE SERVERS", "VIEW", "DRAINED")


def status(nodes: Nodes, cluster: Cluster, root: Path) -> tuple[str, bool]:
    """The table, and whether every host answered."""
    known, silent = facts(nodes, [node.name for node in cluster.nodes()])
    rows: list[tuple[str, ...]] = [HEAD]
    for node in cluster.nodes():
        rows.append(_row(cluster, node.name, known[node.name], root) if node.name in known else (node.name, "not reached", "-", "-", "-", "-", "-"))
    lines = [table(rows)]
    lines += [f"{host}: {answer.fault}" for host, answer in silent.items()]
    return "\n".join(lines), not silent


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(cluster: Cluster, host: str, seen: Facts, root: Path) -> tuple[str, ...]:
    pool = cluster.node(host).pool_name
    vips = cluster.vips_of(pool)
    names = {str(machine.address): name for name, machine in cluster.pools[pool].hosts.items()}
    drained = [*(["its VIPs"] if seen.owns_nothing else []), *sorted(names[address] for address in seen.drained if address in names)]
    is_director = bool(vips) and host in cluster.directors(pool)
    as_rendered = seen.version.partition("-")[0] == keepalived.version(keepalived.render(cluster, host, root))
    live = []
    for name, vip in vips.items() if is_director else ():
        for service in vip.services:
            there = seen.table.get(vip.mark(service))
            alive = sum(1 for server in there.servers.values() if server.weight and server.healthy) if there else 0
            opens = " (fails open)" if there and there.open_since else ""
            live.append(f"{name}:{service.port} {alive}/{service.expected_servers or len(cluster.pools[pool].hosts)}{opens}")
    return (
        host,
        seen.keepalived if is_director else "-",
        seen.version if as_rendered else f"{seen.version}, not as rendered",
        " ".join(name for name, vip in vips.items() if str(vip.address) in seen.held) or "-",
        ", ".join(live) or "-",
        seen.view if is_director else "-",
        ", ".join(drained) or "-",
    )
