"""Calls to a VIP from nodes, directors or not, and from pods on them, while the node's own server is up, down, drained, without weight or not installed."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.nodes import stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.changes import put_back, removed, take_out
from lab.nodes.experiments.scene import Bound, Change, Description, Experiment, Scene, Step, service, two_directors
from lab.nodes.probe import INFRA, MASTER, POD, Target

CALLS_S = 12
"""600 calls; fewer on a busy machine."""
CALLS_LEAST = 300
DRAIN = ("--server-only", "--deadline", "5")
"""The streams of the probes stay on the drained server as long as the step lasts, so waiting longer for them tells nothing."""

POD_NETWORKS = {4: ("ip", "10.88.0.", "24", "net.ipv4.ip_forward"), 6: ("ip6", "fd00:0:0:88::", "64", "net.ipv6.conf.all.forwarding")}
"""The pods' network of each family: as nft calls the family, the begin of its addresses, its length, and what lets the node forward packets."""


def make_pod(version: int) -> str:
    """A script: a pod behind a bridge, its source address masqueraded, as the bridge plugin of CNI does with ipMasq."""
    ip, begin, length, forwarding = POD_NETWORKS[version]
    nodad, network = " nodad" if version == 6 else "", f"{begin}{0 if version == 4 else ''}/{length}"
    return f"""
ip netns add pod
ip link add cni0 type veth peer name eth0 netns pod
ip address add {begin}1/{length} dev cni0{nodad}
ip link set cni0 up
ip -n pod link set lo up
ip -n pod address add {begin}5/{length} dev eth0{nodad}
ip -n pod link set eth0 up
ip -n pod route add default via {begin}1
sysctl -qw {forwarding}=1
nft -f - <<'N'
table {ip} pods {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        {ip} saddr {network} {ip} daddr != {network} masquerade
    }}
}}
N
"""


def no_pod(version: int) -> str:
    """A script that undoes it."""
    ip, _, _, forwarding = POD_NETWORKS[version]
    return f"nft delete table {ip} pods; ip netns delete pod; ip link delete cni0 2>/dev/null || true; sysctl -qw {forwarding}=0"


def _rest(_: Scene) -> None:
    time.sleep(CALLS_S)  # the experiment itself: calls for so long


def asks(
    name: str, asked_from: Callable[[Scene], str], out: Callable[[Scene], str | None] = lambda scene: None, kind: str = "calls", port: int | None = None
) -> Step:
    """A step in which a node, or the pod on it, calls the VIP, while the server `out` of its pool gets no connections."""

    def all_answered(scene: Scene) -> Bound:
        return bounds.nothing_lost(scene)._replace(text=f"0 of {CALLS_LEAST} or more failed, every stream alive", least=CALLS_LEAST)

    return Step(name, kind, _rest, all_answered, lambda scene: scene.live(out(scene)), asked_from=asked_from, port=port)


def on(which: Callable[[Scene], str], script: str) -> Callable[[Scene], None]:
    """A script on a node."""
    return lambda scene: scene.on(which(scene), script)


def pod_on(which: Callable[[Scene], str]) -> Callable[[Scene], str]:
    """The pod on a node."""
    return lambda scene: f"{which(scene)}{POD}"


def drained(verb: str, which: Callable[[Scene], str]) -> Callable[[Scene], None]:
    """drain or undrain a node by the operator's command."""

    def act(scene: Scene) -> None:
        done = stack.operate(verb, which(scene), *(DRAIN if verb == "drain" else []))
        print(done.stdout + done.stderr, end="")

    return act


def in_every_state(name: str, which: Callable[[Scene], str], kind: str = "", *, pod: bool = True, server_units: str = "lab-workload") -> tuple[Step, ...]:
    """Calls from one node, and with `pod` from the pod on it, in each state of the node's own server; `which` names the node.

    `kind`: of every step, when they are not to have the kinds of the plain lab's. `server_units`: the node's servers of all services.
    """
    calls, server, back, planned = (kind or of_its_own for of_its_own in ("calls", "server", "server back", "planned"))

    def lost(scene: Scene) -> Bound:
        return bounds.server_lost(scene)._replace(may_lose_streams_of=(which(scene),))

    def down(scene: Scene) -> dict[str, int]:
        return scene.live(which(scene))

    pods = (
        asks(f"{name}: its pod calls the VIP", pod_on(which), kind=calls),
        asks(f"{name}: its pod calls the VIP, its server stopped", pod_on(which), which, calls),
    )
    return (
        *pods[: int(pod)],
        Step(f"{name}: its server is stopped", server, on(which, f"systemctl stop {server_units}"), lost, down),
        asks(f"{name}: it calls the VIP, its server stopped", which, which, calls),
        *pods[1 : 1 + int(pod)],
        Step(f"{name}: its server is started", back, on(which, f"systemctl start {server_units}"), bounds.server_back),
        Step(f"{name}: its server is drained", planned, drained("drain", which), bounds.nothing_lost, down),
        asks(f"{name}: it calls the VIP, its server drained", which, which, calls),
        Step(f"{name}: its server is returned", planned, drained("undrain", which), bounds.nothing_lost),
        asks(f"{name}: it calls the VIP again", which, kind=calls),
    )


def master2(_: Scene) -> str:
    """The server that is no director while there are two of them."""
    return "master2"


def weightless(described: Description) -> None:
    """A server of weight 0."""
    service(described)["weights"] = {"master2": 0}


def _weightless_server(described: Description) -> None:
    two_directors(described)
    weightless(described)


def from_node(name: str, which: Callable[[Scene], str], target: Target = MASTER, arrange: Change | None = None) -> Experiment:
    """Calls from a node and from a pod on it, which is made by hand: the plain lab has no CNI."""
    return Experiment(
        target,
        (
            Step(f"{name}: a pod is made", "calls", on(which, make_pod(target.version)), bounds.nothing_lost),
            *in_every_state(name, which),
            Step(f"{name}: the pod is removed", "calls", on(which, no_pod(target.version)), bounds.nothing_lost),
        ),
        arrange,
    )


def _new(name: str, join: Change) -> Experiment:
    """master2 joins the pool while its server was never started. keepalived begins with every server, so other clients may meet this one at first."""

    def joins(scene: Scene) -> None:
        scene.on("master2", "systemctl stop lab-workload")
        scene.deploy(join)

    return Experiment(
        MASTER,
        (
            Step(f"{name} joins, its server not installed", "change", joins, bounds.reported, lambda scene: scene.live("master2")),
            asks(f"{name} calls the VIP, its server not installed", master2, master2),
            Step(f"{name}: a pod is made", "calls", on(master2, make_pod(MASTER.version)), bounds.nothing_lost, lambda scene: scene.live("master2")),
            asks(f"{name}: its pod calls the VIP, its server not installed", pod_on(master2), master2),
            Step(f"{name}: its server is installed", "server back", on(master2, "systemctl start lab-workload"), bounds.server_back),
            asks(f"{name} calls the VIP, its server installed", master2),
            Step(f"{name}: the pod is removed", "calls", on(master2, no_pod(MASTER.version)), bounds.nothing_lost),
            Step(f"{name} leaves", "change", lambda scene: scene.deploy(take_out), removed),
        ),
        take_out,
    )


def _joins_as_server(described: Description) -> None:
    put_back(described)
    two_directors(described)


CALLS = [
    from_node("a backup", lambda scene: scene.backup),
    from_node("the owner", lambda scene: scene.owner),
    from_node("a server that is no director", master2, arrange=two_directors),
    from_node("a server that is no director, the infra VIP", master2, INFRA, two_directors),
    Experiment(MASTER, (asks("a server of weight 0 calls the VIP", master2),), weightless),
    Experiment(MASTER, (asks("a server of weight 0 that is no director calls the VIP", master2),), _weightless_server),
    _new("a new director", put_back),
    _new("a new server that is no director", _joins_as_server),
]
