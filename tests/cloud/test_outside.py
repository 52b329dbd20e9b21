"""What is reachable through a floating IP on a node that has more than the cluster's services: a NodePort, a UDP listener, and a masqueraded pod.

The stack's `return_ports` are 1024-65535, so Neutron lets all of these ports in.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lab import cloud, local
from tests.cloud.conftest import Cluster
from tests.cloud.probes import SIDES, Running, on_node, packets
from tests.cloud.test_cluster import API, holders

OUTSIDE, OUTSIDE_PORT = SIDES["external"].source, 9000
NODE_PORT, POD_PORT, UDP_PORT = 30080, 8080, 40053
POD = "10.88.0.5"
CALLS = 3
PREPARE = f"""
ip netns add pod
ip link add cni0 type veth peer name eth0 netns pod
ip address add 10.88.0.1/24 dev cni0
ip link set cni0 up
ip -n pod link set lo up
ip -n pod address add {POD}/24 dev eth0
ip -n pod link set eth0 up
ip -n pod route add default via 10.88.0.1
sysctl -n net.ipv4.ip_forward >/run/forwarded-before
sysctl -qw net.ipv4.ip_forward=1
nft -f - <<'END'
table ip pods {{
    chain prerouting {{ type nat hook prerouting priority dstnat; tcp dport {NODE_PORT} dnat to {POD}:{POD_PORT}; }}
    chain postrouting {{ type nat hook postrouting priority srcnat; oifname "eth0" ip saddr 10.88.0.0/24 masquerade fully-random; }}
}}
END
"""
REMOVE = """
[ ! -e /run/forwarded-before ] || sysctl -qw "net.ipv4.ip_forward=$(cat /run/forwarded-before)"
rm -f /run/forwarded-before
nft delete table ip pods 2>/dev/null || true
ip link delete cni0 2>/dev/null || true
ip netns delete pod 2>/dev/null || true
"""


def script(host: str, text: str) -> None:
    """Run a shell script on a node."""
    done = subprocess.run(local.ssh(host, "sh", "-eu"), input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{host}: {text}\nended with {done.returncode}: {done.stderr}"


@pytest.fixture(scope="module")
def holder(cluster: Cluster) -> Iterator[str]:
    """The holder of the API's VIP, with a pod behind masquerade, a NodePort that leads to the pod, and a UDP listener of its own."""
    (host,) = holders(cluster, API)
    script(host, REMOVE + PREPARE)
    listeners = {
        "pod": on_node(host, "ip", "netns", "exec", "pod", *packets("serve", str(POD_PORT), "-")),
        "UDP listener": on_node(host, *packets("serve", "-", str(UDP_PORT))),
    }
    try:
        with Running(listeners):
            yield host
    finally:
        script(host, REMOVE)


def at(side: str, *command: str) -> list[str]:
    """The argument vector of a command in a network namespace of the cloud."""
    return [*cloud.within(side), *command]


def call(run: Callable[..., list[str]], kind: str, address: str, port: int, count: int = CALLS) -> dict[str, Any]:
    """What became of calls from the place where `run` runs a command: {answered, errors}."""
    done = subprocess.run(run(*packets("call", kind, address, str(port), str(count))), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"the calls were not made: {done.stderr}"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(("kind", "port"), [("tcp", NODE_PORT), ("udp", UDP_PORT)], ids=["NodePort", "UDP listener"])
def test_through_the_floating_ip_only_the_services_answer(cluster: Cluster, holder: str, kind: str, port: int) -> None:
    node = cluster.committed["pools"]["master"]["hosts"][holder]["address"]
    within = call(partial(at, "bastion"), kind, node, port)
    assert within["answered"] == CALLS, f"the subnet may call {port}: {within}"
    with Running({holder: on_node(holder, *packets("hear", "eth0", OUTSIDE))}) as nodes:
        outside = call(partial(at, "external"), kind, cluster.endpoints["master"]["floating_ip"], port)
    assert outside == {"answered": 0, "errors": {"timed out": CALLS}}
    # So it was the node that refused them, and not Neutron.
    assert [kind, OUTSIDE, API, port] in nodes.told[holder], nodes.told
    answer = cloud.client("external", cluster.endpoints["master"]["floating_ip"], 8443, 20)
    assert answer["failed"] == 0, f"the service answers: {answer}"


def test_a_masqueraded_pod_gets_every_answer_from_outside(cluster: Cluster, holder: str) -> None:
    with Running({"external": [*cloud.within("external"), *packets("serve", str(OUTSIDE_PORT), "-")]}):
        answer = call(partial(on_node, holder, "ip", "netns", "exec", "pod"), "tcp", OUTSIDE, OUTSIDE_PORT, 100)
    assert answer == {"answered": 100, "errors": {}}
