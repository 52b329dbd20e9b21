"""What a node says of itself, read from the text of its verb `facts`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

ASIDE = -254
"""VRRP's FAULT state to keepalived."""


@dataclass(frozen=True)
class VirtualServer:
    """A virtual server of the kernel's table, as `ipvsadm -Ln --exact` shows it."""

    scheduler: str
    flags: frozenset[str]
    persistence: int | None
    servers: Mapping[str, RealServer]


@dataclass(frozen=True)
class RealServer:
    """A real server in it. `method` is keepalived's word; `connections` are those established."""

    method: str
    weight: int
    connections: int


@dataclass(frozen=True)
class Facts:
    """One node."""

    keepalived: str
    version: str
    proven: str
    drained: frozenset[str]
    files: Mapping[str, str] = field(default_factory=dict)
    mac: str = ""
    held: frozenset[str] = frozenset()
    lo: frozenset[str] = frozenset()
    sysctl: frozenset[str] = frozenset()
    table: Mapping[int, VirtualServer] = field(default_factory=dict)
    sync: frozenset[str] = frozenset()
    """The sides of connection sync that run: `master on eth0 with 51`."""
    views: Mapping[str, int] = field(default_factory=dict)
    drains: Mapping[str, int] = field(default_factory=dict)
    """What it adds to its priority for an address, by name, on purpose: see `aside` and `behind`."""
    witnesses: Mapping[str, bool] = field(default_factory=dict)
    """Whether it reaches them."""
    rules: str = ""
    strangers: str = ""

    @property
    def owns_nothing(self) -> bool:
        """Whether the operator drained it: its addresses are elsewhere and stay there."""
        return "ownership" in self.drained

    @property
    def aside(self) -> list[str]:
        """The addresses that it may not take: it is drained, or a hand-over was cut short."""
        return sorted(name for name, weight in self.drains.items() if weight == ASIDE)

    @property
    def behind(self) -> list[str]:
        """The addresses that it takes only when nobody can that has not changed: a roll-out has not ended."""
        return sorted(name for name, weight in self.drains.items() if weight not in (0, ASIDE))

    @property
    def view(self) -> str:
        """`good` when it sees enough live servers of every service to be a good owner; `cut off` when it reaches no witness either."""
        if self.witnesses and not any(self.witnesses.values()):
            return "cut off"
        return "poor" if any(self.views.values()) else "good"


def read(text: str) -> Facts:
    """The facts in that text. Parts that a node has not, since it is no director or nothing is in force, are empty."""
    parts = {name: lines.splitlines() for name, lines in re.findall(r"^== (\w+)\n((?:(?!== ).*\n)*)", text, re.MULTILINE)}
    version, proven = parts.get("versions", []) or ["none", "none"]
    return Facts(
        keepalived=" ".join(parts.get("keepalived", [])),
        version=version,
        proven=proven,
        drained=frozenset(parts.get("drained", [])),
        files={path.removeprefix("./"): digest for digest, path in (line.split(maxsplit=1) for line in parts.get("files", []))},
        mac=" ".join(parts.get("mac", [])),
        held=frozenset(parts.get("held", [])),
        lo=frozenset(parts.get("lo", [])),
        sysctl=frozenset(parts.get("sysctl", [])),
        table=_table(parts.get("table", [])),
        sync=frozenset(re.sub(r"^(\w+) sync daemon \(mcast=([^,]+), syncid=(\d+).*", r"\1 on \2 with \3", line) for line in parts.get("sync", [])),
        views={name: int(weight) for name, weight in (line.split() for line in parts.get("views", []))},
        drains={name: int(weight) for name, weight in (line.split() for line in parts.get("drains", []))},
        witnesses={witness: found == "reached" for witness, found in (line.split() for line in parts.get("witnesses", []))},
        rules="\n".join(parts.get("rules", [])),
        strangers="\n".join(parts.get("strangers", [])),
    )


_METHODS = {"Route": "DR", "Tunnel": "TUN", "Masq": "NAT"}


def _table(lines: list[str]) -> dict[int, VirtualServer]:
    table: dict[int, VirtualServer] = {}
    servers: dict[str, RealServer] | None = None
    for line in lines:
        words = line.split()
        if words[:1] == ["FWM"]:
            flags = re.search(r"\(([^)]*)\)", line)
            persistent = re.search(r"persistent (\d+)", line)
            named = frozenset(flags[1].split(",") if flags else ()) | (frozenset({"ops"}) if "ops" in words else frozenset())
            servers = {}
            table[int(words[1])] = VirtualServer(words[2], named, int(persistent[1]) if persistent else None, servers)
        elif words[:1] == ["->"] and servers is not None and words[2] in _METHODS:
            servers[words[1].rpartition(":")[0]] = RealServer(_METHODS[words[2]], int(words[3]), int(words[4]))
        elif words and words[0] in ("TCP", "UDP"):
            servers = None  # another's, such as kube-proxy's
    return table
