"""What a node is and does at one moment: gathered by observe.py on the node, read from JSON by the operator's command."""

from __future__ import annotations

import json

from .ipvs import RealServer, SyncDaemon, VirtualServer
from .record import Record, plain
from .repairs import Repair
from .translation import Translation
from .vrrp import FAULT_WEIGHT, Transition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .ipvs import Table

_NONE: dict[Any, Any] = {}

FORMAT = 1


class Facts(Record):
    """One node. Parts that it does not have, since it is no director or nothing is in force, are empty."""

    host: str = ""
    keepalived: str = ""
    """What systemd says of keepalived.service: `active`, `inactive`, ..."""
    version: str = "none"
    proven: str = "none"
    since: str = "never"
    """When the version came into force."""
    owns_nothing: bool = False
    """Whether an operator drained this director: it takes no VIP."""
    drained: frozenset[str] = frozenset()
    """The real servers that an operator took out of rotation, by address."""
    files: dict[str, str] = _NONE
    """SHA-256 of every delivered file of the version, by path."""
    mac: str = ""
    held: frozenset[str] = frozenset()
    """The addresses on the pool's interface."""
    lo: frozenset[str] = frozenset()
    sysctl: frozenset[str] = frozenset()
    """`name = value` of every sysctl that the version sets."""
    table: Table = _NONE
    sync: tuple[SyncDaemon, ...] = ()
    views: dict[str, int] = _NONE
    """What missing quorums add to the priority, by VIP."""
    drains: dict[str, int] = _NONE
    """What a drain or a roll-out adds to the priority, by VIP: see `aside` and `behind`."""
    witnesses: dict[str, bool] = _NONE
    """Whether each witness takes or refuses a connection."""
    cut_off: int | None = None
    """What witnesses that do not answer add to the priorities. None where there is none to ask, or the release is an older one."""
    rules: str = ""
    """Difference between the nftables rules of the version and the loaded ones."""
    strangers: str = ""
    """Routers on the segment that use our virtual_router_id."""
    vrrp: dict[str, Transition] = _NONE
    """The last transition of each VRRP instance, by VIP. A VIP is missing where the journal does not tell, or the release is an older one."""
    priorities: dict[str, int] = _NONE
    """The priority in keepalived.conf, before anything is added to it, by VIP. Empty where the release is an older one."""
    watch: str = ""
    """What systemd says of the resident process; empty in facts of a release that had none."""
    repairs: tuple[Repair, ...] = ()
    """What `watch` repaired since the last boot."""
    foreign: tuple[str, ...] = ()
    """Other machines that sent adverts, connection sync or tunnel packets within the last hour; the rules refused them."""
    filters: tuple[str, ...] = ()
    """Other programs' nftables chains that drop incoming packets unless a rule accepts them."""
    translated: tuple[Translation, ...] = ()
    """Services whose destination another program's rules change for calls from this host, and those of which this is not known."""
    moved: str = ""
    """Another interface than the pool's that has this host's own address, and the remedy."""

    @property
    def aside(self) -> list[str]:
        """The VIPs that it may not take: it is drained, or a hand-over was interrupted."""
        return sorted(name for name, weight in self.drains.items() if weight == FAULT_WEIGHT)

    @property
    def behind(self) -> list[str]:
        """The VIPs that it takes only when no unchanged director can: a roll-out has not ended."""
        return sorted(name for name, weight in self.drains.items() if weight not in (0, FAULT_WEIGHT))

    @property
    def view(self) -> str:
        """`good` with enough live servers of every service; `cut off` when no witness answers, or the priority is lowered for that; else `poor`."""
        if self.cut_off or (self.witnesses and not any(self.witnesses.values())):
            return "cut off"
        return "poor" if any(self.views.values()) else "good"

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps({"format": FORMAT, **vars(self)}, default=plain, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """The facts in that text. Facts that only a later release knows are left out; those that an earlier one lacks have their defaults.

        Raises ValueError for another format.
        """
        data: dict[str, Any] = json.loads(text)
        if data.pop("format", None) != FORMAT:
            raise ValueError("written by another release of the program")
        data = {name: value for name, value in data.items() if name in cls.__annotations__}
        for name in ("drained", "held", "lo", "sysctl"):
            data[name] = frozenset(data[name])
        data["foreign"] = tuple(data.get("foreign", ()))
        data["filters"] = tuple(data.get("filters", ()))
        data["sync"] = tuple(SyncDaemon(**each) for each in data["sync"])
        data["repairs"] = tuple(Repair(**each) for each in data.get("repairs", ()))
        data["table"] = {int(mark): _virtual_server(each) for mark, each in data["table"].items()}
        data["translated"] = tuple(Translation(**each) for each in data.get("translated", ()))
        data["vrrp"] = {name: Transition(**each) for name, each in data.get("vrrp", {}).items()}
        return cls(**data)


def _virtual_server(data: dict[str, Any]) -> VirtualServer:
    servers = {address: RealServer(**each) for address, each in data["servers"].items()}
    return VirtualServer(**{**data, "flags": tuple(data["flags"]), "servers": servers})
