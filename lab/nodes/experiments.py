"""What happens to the nodes, step by step, and what must hold while it does.

A way back is a step of its own with a bound of its own. The owner of an experiment is the node that holds the address when it
begins: with nopreempt that need not be the preferred one, and an experiment leaves the address where it ends up.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from components.cluster import Cluster
from lab.nodes import probe, stack
from lab.nodes.probe import INFRA, MASTER, Target

LIB = "/usr/local/lib/openshift-lvs"
STEADY_S = 40
LOOK_S = 0.1
"""What a bound in seconds is given on top, for the probes' own pace and the machine's noise."""
SERVER_S = 4.0
"""A server that fails is out of rotation within this, and back within it."""
POOLS = {"master": ("master0", "master1", "master2"), "infra": ("infra0", "infra1")}


class Bound(NamedTuple):
    """What must hold; None says that there is no such bound. Every bound forbids loops."""

    text: str
    failed: int | None = 0
    may_lose_streams_of: str = ""
    gap_s: float | None = None
    quiet_after_s: float | None = None
    one_owner_after_s: float | None = None
    every_server: bool = False
    only: str = ""
    """Count the failures of these requests only."""


@dataclass
class Scene:
    """An experiment while it runs."""

    target: Target
    owner: str
    backup: str
    described: dict[str, Any] = field(default_factory=stack.cluster)
    moment: float = 0.0

    def do(self, *command: str) -> None:
        """The event, as a command in the machine; bounds count from its moment."""
        self.moment = probe.at(*command)

    def on(self, node: str, script: str) -> None:
        """The event, as a shell script on a node."""
        self.do("lab", "exec", node, "sh", "-euc", script)

    def deploy(self, change: Callable[[dict[str, Any]], None]) -> None:
        """The event, as a change of the configuration through `pulumi up`."""
        change(self.described)
        self.moment = probe.now()
        stack.up(self.described)


@dataclass(frozen=True)
class Step:
    """An event under the probes. `live` is how many servers each director that is on must have in its table at the end."""

    name: str
    kind: str
    act: Callable[[Scene], None]
    bound: Callable[[Scene], Bound]
    live: Callable[[Scene], dict[str, int]] = lambda scene: all_live()
    asked_from: Callable[[Scene], str | None] = lambda scene: None


@dataclass(frozen=True)
class Experiment:
    """Steps in one scene; the last of them leaves everything in order."""

    target: Target
    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The name of its first step."""
        return self.steps[0].name


def all_live(without: str | None = None, *, off: str | None = None, target: Target = MASTER) -> dict[str, int]:
    """Live servers by director when the server `without` is out of rotation, and the node `off` no director at all."""
    ports = {"master": 1, "infra": 2}
    return {node: (len(pool) - ((without or off) in pool)) * ports[name] for name, pool in POOLS.items() for node in pool if node != off and name == target.vip}


def nothing_lost(_: Scene) -> Bound:
    """Planned work costs nothing."""
    return Bound("0 failed, every stream alive")


def steady(_: Scene) -> Bound:
    """Nothing happens, and every server has its share."""
    return Bound("0 failed, every stream alive, every server answers", every_server=True)


def node_lost(scene: Scene) -> Bound:
    """Nobody is served for 3 x advert + skew (RFC 9568); the node's own share fails until the checks remove it."""
    whole = Cluster.parse(stack.cluster())
    vip = whole.vips[scene.target.vip]
    gap = whole.takeover_seconds(vip) + LOOK_S
    out = max(service.eviction_seconds for service in vip.services)
    return Bound(
        f"nobody served for {gap:.2f} s at most, nothing fails after {out + LOOK_S:.1f} s, other servers' streams alive",
        failed=None,
        may_lose_streams_of=scene.owner,
        gap_s=gap,
        quiet_after_s=out + LOOK_S,
    )


def way_back(scene: Scene) -> Bound:
    """It costs nothing, and there is one owner within two adverts."""
    advert = Cluster.parse(stack.cluster()).vips[scene.target.vip].advert_interval
    return Bound(f"0 failed, every stream alive, one owner within {2 * advert:.1f} s", one_owner_after_s=2 * advert + LOOK_S)


def server_lost(scene: Scene) -> Bound:
    """Its share fails until it is out of rotation."""
    return Bound(f"nothing fails after {SERVER_S:g} s, other servers' streams alive", failed=None, may_lose_streams_of=scene.backup, quiet_after_s=SERVER_S)


def http_server_lost(scene: Scene) -> Bound:
    """A frozen process still takes connections: only an http check sees it, so the port beside it with a tcp check does not count."""
    return server_lost(scene)._replace(text=f"nothing fails on the http-checked port after {SERVER_S:g} s, other servers' streams alive", only=scene.target.vip)


def http_nothing_lost(scene: Scene) -> Bound:
    """The same port on the way back; streams froze with their server, and none has lost a byte."""
    return nothing_lost(scene)._replace(only=scene.target.vip)


def nobody_left(_: Scene) -> Bound:
    """No server at all: a clear refusal."""
    return Bound("refused, never silent", failed=None, may_lose_streams_of="*")


def _rest(_: Scene) -> None:
    time.sleep(STEADY_S)  # the experiment itself: nothing happens for so long


def _on_owner(script: str) -> Callable[[Scene], None]:
    return lambda scene: scene.on(scene.owner, script)


def _on_backup(script: str) -> Callable[[Scene], None]:
    return lambda scene: scene.on(scene.backup, script)


def _switch(verb: str, how: str = "") -> Callable[[Scene], None]:
    return lambda scene: scene.do("lab", verb, scene.owner, *([how] if how else []))


def _owner_off(scene: Scene) -> dict[str, int]:
    return all_live(off=scene.owner, target=scene.target)


def _backup_out(scene: Scene) -> dict[str, int]:
    return all_live(without=scene.backup, target=scene.target)


def _whole(scene: Scene) -> dict[str, int]:
    return all_live(target=scene.target)


def _one_port_out(scene: Scene) -> dict[str, int]:
    return dict.fromkeys(POOLS[scene.target.vip], 3)


def _none_live(scene: Scene) -> dict[str, int]:
    return dict.fromkeys(POOLS[scene.target.vip], 0)


def _planned(target: Target, *steps: tuple[str, Callable[[Scene], None]]) -> Experiment:
    return Experiment(target, tuple(Step(name, "planned", act, nothing_lost, _whole) for name, act in steps))


def _crash(target: Target, fault: str, act: Callable[[Scene], None], back: str, undo: Callable[[Scene], None]) -> Experiment:
    return Experiment(target, (Step(fault, "crash", act, node_lost, _owner_off), Step(back, "way back", undo, way_back, _whole)))


def _server(target: Target, fault: str, act: Callable[[Scene], None], back: str, undo: Callable[[Scene], None]) -> Experiment:
    return Experiment(target, (Step(fault, "server", act, server_lost, _backup_out), Step(back, "way back", undo, nothing_lost, _whole)))


SILENT = """nft -f - <<'N'
table ip silent {
    chain input {
        type filter hook input priority -10
        tcp dport { 80, 443, 8443 } ip saddr != 127.0.0.1 drop
    }
}
N"""


def _all_masters(verb: str) -> Callable[[Scene], None]:
    script = "; ".join(f"lab exec {node} systemctl {verb} lab-workload" for node in POOLS["master"])
    return lambda scene: scene.do("sh", "-euc", script)


STEADY = [
    Experiment(MASTER, (Step("steady: three masters", "steady", _rest, steady, _whole),)),
    Experiment(INFRA, (Step("steady: two infra nodes", "steady", _rest, steady, _whole),)),
    Experiment(MASTER, (Step("a backup calls the address itself", "steady", _rest, nothing_lost, _whole, lambda scene: scene.backup),)),
    Experiment(MASTER, (Step("the owner calls the address itself", "steady", _rest, nothing_lost, _whole, lambda scene: scene.owner),)),
]

PLANNED = [
    _planned(
        MASTER,
        ("owner drained", _on_owner(f"{LIB}/drain")),
        ("drained node returned", _on_owner(f"{LIB}/start")),
        ("address brought back by a planned move", lambda scene: scene.on(probe.holder(scene.target), f"{LIB}/go-home master")),
    ),
    _planned(MASTER, ("keepalived restarted on the owner", _on_owner("systemctl restart keepalived"))),
    _planned(
        MASTER,
        ("keepalived stopped on the owner", _on_owner("systemctl stop keepalived")),
        ("keepalived started again", _on_owner("systemctl start keepalived")),
    ),
    _planned(MASTER, ("keepalived reloaded on the owner", _on_owner("systemctl reload keepalived"))),
    _planned(MASTER, ("keepalived restarted on a backup", _on_backup("systemctl restart keepalived"))),
    _planned(INFRA, ("keepalived restarted on the infra owner", _on_owner("systemctl restart keepalived"))),
]

MAIN_PROCESS = 'kill -9 "$(systemctl show --property=MainPID --value keepalived)"'
CRASHES = [
    _planned(MASTER, ("kill -9 of keepalived's main process on the owner", _on_owner(MAIN_PROCESS))),
    _planned(MASTER, ("kill -9 of all of keepalived on the owner", _on_owner("systemctl kill --signal=KILL keepalived"))),
    _crash(MASTER, "owner's link down", _switch("carrier", "off"), "owner's link up again", _switch("carrier", "on")),
    _crash(MASTER, "owner isolated with carrier", _switch("wire", "out"), "owner's isolation healed", _switch("wire", "in")),
    _crash(MASTER, "owner powered off", _switch("power", "off"), "owner powered on again", _switch("power", "on")),
    _crash(INFRA, "infra owner isolated with carrier", _switch("wire", "out"), "infra owner's isolation healed", _switch("wire", "in")),
]

SERVERS = [
    _server(
        MASTER, "a server's process gone", _on_backup("systemctl stop lab-workload"), "the process back", _on_backup("systemctl start lab-workload")
    ),
    _server(MASTER, "a server silent", _on_backup(SILENT), "the server heard again", _on_backup("nft delete table ip silent")),
    Experiment(
        INFRA,
        (
            Step("a server frozen, under an http check", "server", _on_backup("systemctl kill --signal=STOP lab-workload"), http_server_lost, _one_port_out),
            Step("the server thawed", "way back", _on_backup("systemctl kill --signal=CONT lab-workload"), http_nothing_lost, _whole),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("all servers gone", "server", _all_masters("stop"), nobody_left, _none_live),
            Step("all servers back", "server", _all_masters("start"), lambda scene: server_lost(scene)._replace(may_lose_streams_of="*"), _whole),
        ),
    ),
]  # fmt: skip


def _service(described: dict[str, Any], vip: str = "master", index: int = 0) -> dict[str, Any]:
    service: dict[str, Any] = described["vips"][vip]["services"][index]
    return service


def _add_port(described: dict[str, Any]) -> None:
    described["vips"]["master"]["services"].append({**copy.deepcopy(_service(described)), "port": 443})


def _remove_port(described: dict[str, Any]) -> None:
    described["vips"]["master"]["services"].pop()


def _take_out(described: dict[str, Any]) -> None:
    del described["pools"]["master"]["hosts"]["master2"]


def _put_back(described: dict[str, Any]) -> None:
    described["pools"]["master"]["hosts"]["master2"] = stack.cluster()["pools"]["master"]["hosts"]["master2"]


def _as_it_was(described: dict[str, Any]) -> None:
    described.clear()
    described.update(stack.cluster())


def _two_ports(_: Scene) -> dict[str, int]:
    return dict.fromkeys(POOLS["master"], 6)


def _without_master2(_: Scene) -> dict[str, int]:
    return {"master0": 2, "master1": 2}


def _change(
    name: str,
    change: Callable[[dict[str, Any]], None],
    live: Callable[[Scene], dict[str, int]] = _whole,
    bound: Callable[[Scene], Bound] = nothing_lost,
) -> Step:
    return Step(f"pulumi up: {name}", "change", lambda scene: scene.deploy(change), bound, live)


CHANGES = [
    Experiment(
        MASTER,
        (
            _change("a check's timing", lambda d: _service(d)["health_check"].update(delay_loop=2)),
            _change("a real server removed", _take_out, _without_master2,
                    lambda scene: Bound("0 failed, streams to servers that stay alive", may_lose_streams_of="master2")),
            _change("a real server added", _put_back),
            _change("a port added", _add_port, _two_ports),
            _change("a port removed", _remove_port),
            _change("a weight", lambda d: _service(d).update(weights={"master1": 2})),
            _change("another owner", lambda d: d["vips"]["master"].update(owner="master1")),
            _change("advert interval", lambda d: d["vips"]["master"].update(advert_interval=0.4)),
            _change("a priority", lambda d: d["vips"]["master"].update(priorities={"master2": 145})),
            _change("notification keys", lambda d: d.update(keepalived={"notifications": {
                "notification_email": ["ops@example.org"], "notification_email_from": "lvs@example.org", "smtp_server": "192.168.0.100"}})),
            _change("another scheduler", lambda d: _service(d).update(scheduler="sh")),
            _change("everything as it was", _as_it_was),
        ),
    ),
]  # fmt: skip

EXPERIMENTS = [*STEADY, *PLANNED, *CRASHES, *SERVERS, *CHANGES]
