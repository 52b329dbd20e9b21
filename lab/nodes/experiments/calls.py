"""Calls to a VIP from its own nodes and from pods on them, while the node's own server is up, down or drained."""

from __future__ import annotations

import time
from collections.abc import Callable

from lab.nodes import stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import Bound, Experiment, Scene, Step
from lab.nodes.probe import MASTER, POD

CALLS_S = 12
"""600 calls."""
DRAIN = ("--server-only", "--deadline", "5")
"""The streams of the probes stay on the drained server as long as the step lasts, so waiting longer for them tells nothing."""

MAKE_POD = """
ip netns add pod
ip link add cni0 type veth peer name eth0 netns pod
ip address add 10.88.0.1/24 dev cni0
ip link set cni0 up
ip -n pod link set lo up
ip -n pod address add 10.88.0.5/24 dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via 10.88.0.1
sysctl -qw net.ipv4.ip_forward=1
nft -f - <<'N'
table ip pods {
    chain postrouting {
        type nat hook postrouting priority srcnat
        ip saddr 10.88.0.0/24 ip daddr != 10.88.0.0/24 masquerade
    }
}
N
"""
"""A pod behind a bridge, its source address masqueraded, as the bridge plugin of CNI does with ipMasq."""
NO_POD = "nft delete table ip pods; ip netns delete pod; ip link delete cni0 2>/dev/null || true; sysctl -qw net.ipv4.ip_forward=0"


def _rest(_: Scene) -> None:
    time.sleep(CALLS_S)  # the experiment itself: calls for so long


def _calls(name: str, asked_from: Callable[[Scene], str], out: Callable[[Scene], str | None] = lambda scene: None) -> Step:
    return Step(name, "calls", _rest, bounds.nothing_lost, lambda scene: scene.live(out(scene)), asked_from=asked_from)


def _on(which: Callable[[Scene], str], script: str) -> Callable[[Scene], None]:
    return lambda scene: scene.on(which(scene), script)


def _drained(verb: str, which: Callable[[Scene], str]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        done = stack.operate(verb, which(scene), *(DRAIN if verb == "drain" else []))
        print(done.stdout + done.stderr, end="")

    return act


def _experiment(name: str, which: Callable[[Scene], str]) -> Experiment:
    """Calls from one node and its pod in each state of its own server; `which` names the node."""

    def pod(scene: Scene) -> str:
        return f"{which(scene)}{POD}"

    def lost(scene: Scene) -> Bound:
        return bounds.server_lost(scene)._replace(may_lose_streams_of=which(scene))

    def down(scene: Scene) -> dict[str, int]:
        return scene.live(which(scene))

    return Experiment(
        MASTER,
        (
            Step(f"{name}: a pod is made", "calls", _on(which, MAKE_POD), bounds.nothing_lost),
            _calls(f"{name}: its pod calls the VIP", pod),
            Step(f"{name}: its server is stopped", "server", _on(which, "systemctl stop lab-workload"), lost, down),
            _calls(f"{name}: it calls the VIP, its server stopped", which, which),
            _calls(f"{name}: its pod calls the VIP, its server stopped", pod, which),
            Step(f"{name}: its server is started", "server back", _on(which, "systemctl start lab-workload"), bounds.server_back),
            Step(f"{name}: its server is drained", "planned", _drained("drain", which), bounds.nothing_lost, down),
            _calls(f"{name}: it calls the VIP, its server drained", which, which),
            Step(f"{name}: its server is returned", "planned", _drained("undrain", which), bounds.nothing_lost),
            _calls(f"{name}: it calls the VIP again", which),
            Step(f"{name}: the pod is removed", "calls", _on(which, NO_POD), bounds.nothing_lost),
        ),
    )


CALLS = [_experiment("a backup", lambda scene: scene.backup), _experiment("the owner", lambda scene: scene.owner)]
