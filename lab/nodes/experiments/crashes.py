"""A director is lost without a word, and comes back; the segment falls apart, and heals."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from components.configuration import POOR_VIEW_WEIGHT
from lab.nodes import machine, probe
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import Bound, Change, Experiment, Scene, Step, on_owner, owner_off, switch, two_directors
from lab.nodes.probe import INFRA, MASTER, WHOLE_S, Target
from lab.phases import wait_for

KILL_MAIN = 'kill -9 "$(systemctl show --property=MainPID --value keepalived)"'
KILL_ALL = "systemctl kill --signal=KILL keepalived"


def _killed(name: str, script: str) -> Experiment:
    return Experiment(MASTER, (Step(name, "crash", on_owner(script), bounds.nothing_lost),))


def _crash(target: Target, fault: str, act: Callable[[Scene], None], back: str, undo: Callable[[Scene], None], arrange: Change | None = None) -> Experiment:
    return Experiment(target, (Step(fault, "crash", act, bounds.node_lost, owner_off), Step(back, "way back", undo, bounds.way_back)), arrange)


def _both_said_so(scene: Scene) -> Iterable[str]:
    """The side that is alone knows that its view is poor, and the other one that a node is gone; wait_until_whole has seen its tables."""
    alone, other, vip = scene.owner, scene.backup, scene.target.vip
    # Each of two addresses that move together adds its part.
    poor = str(POOR_VIEW_WEIGHT // len(scene.cluster.together(vip)))
    address = scene.cluster.node(alone).host.address_of(scene.target.version)

    def weight() -> tuple[bool, str]:
        said = machine.run("lab", "exec", alone, "cat", f"/run/openshift-lvs/view-{vip}").stdout.split()
        return poor in said, f"{alone} adds {', '.join(said)} to its priority"

    wait_for("the node that is alone to lower its priority", weight, WHOLE_S)
    for node, words in ((alone, "Lost quorum"), (other, f"service [{address}]:none:0 of VS")):
        journal = machine.run("lab", "exec", node, "journalctl", "--unit=keepalived", "--output=cat", f"--since=@{scene.moment - 1:.0f}").stdout
        if words not in journal:
            yield f"{node} does not say {words!r}: {journal[-300:]}"


def _client_asks_the_holder(scene: Scene) -> Iterable[str]:
    """A director that loses an address sends nothing. If its announcement was the last one, clients ask it until they look for the address again."""
    for target in scene.target.both:
        holder = probe.holder(target)
        mac = machine.run("lab", "exec", holder, "cat", "/sys/class/net/eth0/address").stdout.strip()
        entry = machine.run("ip", "-n", "client", "neighbour", "show", target.address).stdout.strip()
        if mac not in entry:
            yield f"the client does not ask {holder} ({mac}), which holds {target.address}: {entry or 'no entry'}"


def _owner_unheard(scene: Scene) -> None:
    scene.do("lab", "apart", scene.owner, *(node for node in scene.cluster.directors(scene.target.pool) if node != scene.owner))


def _two_owners(_: Scene) -> Bound:
    """Both have the client's side, so both answer. Which of them the client asks is up to its neighbour entry, and flows break when that changes."""
    return Bound("both sides say so", failed=None, may_lose_streams_of=("*",))


def _one_again(scene: Scene) -> Bound:
    """Who loses the address knew its own server only, so all its streams are there, and the other one sends them elsewhere."""
    within = bounds.way_back(scene).one_owner_after_s
    return Bound(f"one owner within {within:.1f} s", failed=None, may_lose_streams_of=("*",), one_owner_after_s=within)


CRASHES = [
    _killed("kill -9 of keepalived's main process on the owner", KILL_MAIN),
    _killed("kill -9 of all of keepalived on the owner", KILL_ALL),
    _crash(MASTER, "owner's link down", switch("carrier", "off"), "owner's link up again", switch("carrier", "on")),
    _crash(MASTER, "owner isolated with carrier", switch("wire", "out"), "owner's isolation healed", switch("wire", "in")),
    _crash(MASTER, "owner powered off", switch("power", "off"), "owner powered on again", switch("power", "on")),
    _crash(MASTER, "one of two directors powered off", switch("power", "off"), "that director powered on again", switch("power", "on"), two_directors),
    _crash(INFRA, "infra owner isolated with carrier", switch("wire", "out"), "infra owner's isolation healed", switch("wire", "in")),
]

PARTITIONS = [
    Experiment(
        MASTER,
        (
            Step("partition: the owner and the rest", "partition", switch("wire", "out"), bounds.node_lost, owner_off, evidence=_both_said_so),
            Step("that partition healed", "way back", switch("wire", "in"), bounds.way_back),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("partition: the owner keeps its clients, not its peers", "partition", _owner_unheard, _two_owners, owner_off, evidence=_both_said_so),
            Step("owner and peers together again", "way back", lambda scene: scene.do("lab", "together"), _one_again, evidence=_client_asks_the_holder),
        ),
    ),
]
