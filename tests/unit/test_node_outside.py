"""What is reachable from outside the subnet on a server whose security group keeps no state: connections through the real rules of a node."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from components.configuration import Cluster
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import STACK

OUTSIDE, CLIENT, SUBNET = "203.0.113.9", "198.51.100.7", "192.168.0.1"
"""A machine outside the subnet, one of `client_cidrs`, and one in the subnet: all three behind the node's wire."""

SERVE = """
import socket, socketserver, sys, threading
address = sys.argv[3] if len(sys.argv) > 3 else ""
class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"answers")
class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request[1].sendto(b"answers", self.client_address)
socketserver.ThreadingTCPServer.allow_reuse_address = True
servers = [socketserver.ThreadingTCPServer((address, int(port)), Tcp) for port in sys.argv[1].split(",") if port]
servers += [socketserver.ThreadingUDPServer((address, int(port)), Udp) for port in sys.argv[2].split(",") if port]
for server in servers:
    threading.Thread(target=server.serve_forever).start()
"""
SILENCE_S, ANSWER_S = 0.7, 20
"""How long a call waits where nothing shall answer, and where something shall: it may be late on a busy machine."""
CALL = """
import socket, sys
kind, source, target, port, patience = sys.argv[1:]
call = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
call.settimeout(float(patience))
if source:
    call.bind((source, 0))
try:
    call.connect((target, int(port)))
    if kind == "udp":
        call.send(b"?")
    print(call.recv(100).decode())
except socket.timeout:
    print("silence")
except ConnectionRefusedError:
    print("refused")
"""
PREPARE = f"""
    unshare --net /usr/bin/sleep 300 >/dev/null 2>&1 </dev/null & echo $! >/stub/world
    unshare --net /usr/bin/sleep 300 >/dev/null 2>&1 </dev/null & echo $! >/stub/pod
    for name in world pod; do
        until [ "$(readlink /proc/$(cat /stub/$name)/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do /usr/bin/sleep 0.01; done
    done
    enter() {{ nsenter --net="/proc/$(cat /stub/$1)/ns/net" sh -euc "$2"; }}
    ip link set wire netns "$(cat /stub/world)"
    enter world "ip link set lo up; ip link set wire up; ip address add {SUBNET}/24 dev wire"
    enter world "ip address add {OUTSIDE}/32 dev lo; ip address add {CLIENT}/32 dev lo"
    enter world "ip route add 192.168.0.250 via 192.168.0.2; python3 /stub/serve 80 53 {OUTSIDE} >/dev/null 2>&1 </dev/null &"
    ip route add default via {SUBNET}
    ip link add cni0 type veth peer name pod0; ip link set pod0 netns "$(cat /stub/pod)"
    ip address add 10.88.0.1/24 dev cni0; ip link set cni0 up; /usr/sbin/sysctl -qw net.ipv4.ip_forward=1
    enter pod "ip link set lo up; ip address add 10.88.0.5/24 dev pod0; ip link set pod0 up; ip route add default via 10.88.0.1"
    enter pod "python3 /stub/serve 8080 '' >/dev/null 2>&1 </dev/null &"
    python3 /stub/serve 8443,10250,40022 40053 >/stub/serve.log 2>&1 </dev/null &
    nft -f - <<'N'
    table ip pods {{
        chain prerouting {{ type nat hook prerouting priority dstnat; tcp dport {{ 30080, 40080 }} dnat to 10.88.0.5:8080; }}
        chain postrouting {{ type nat hook postrouting priority srcnat; oifname "eth0" ip saddr 10.88.0.0/24 masquerade fully-random; }}
    }}
N
"""


@contextmanager
def server(return_ports: str, stack: dict[str, Any] = STACK) -> Iterator[Node]:
    """A server of the stack with listeners, a pod behind masquerade, and a NodePort; the world is at the other end of its wire."""
    data: dict[str, Any] = copy.deepcopy(stack)
    data["network"] |= {"client_cidrs": [f"{CLIENT}/32"], "return_ports": return_ports}
    with node() as made:
        made.roll_out(Cluster.parse(data), "master0")
        made.write("/stub/serve", SERVE)
        made.write("/stub/call", CALL)
        made.sh(PREPARE)
        calls = [world(kind, SUBNET, port) for kind, port in (("tcp", 8443), ("tcp", 10250), ("tcp", 40022), ("udp", 40053), ("tcp", 40080), ("tcp", 30080))]
        calls += [f"python3 /stub/call {kind} '' {OUTSIDE} {port} {SILENCE_S}" for kind, port in (("tcp", 80), ("udp", 53))]
        for call in calls:
            made.sh(f"for n in $(seq 100); do {call} | grep -q answers && exit; /usr/bin/sleep 0.1; done; exit 1")
        yield made


def world(kind: str, source: str, port: int, target: str = "192.168.0.2", patience: float = SILENCE_S) -> str:
    """A command that calls the node from one of the world's addresses."""
    return f'nsenter --net="/proc/$(cat /stub/world)/ns/net" python3 /stub/call {kind} {source} {target} {port} {patience}'


def called(made: Node, kind: str, source: str, port: int, target: str = "192.168.0.2", *, answers: bool) -> str:
    """What a call from the world gets; what shall answer is given more time."""
    return made.sh(world(kind, source, port, target, ANSWER_S if answers else SILENCE_S)).strip()


PORTS = {"tcp 40022": "a listener", "udp 40053": "a UDP listener", "tcp 40080": "a NodePort of the range"}


def reached(made: Node, source: str, expected: set[str]) -> set[str]:
    """The listeners that answer an address of the world; those that shall are given more time."""
    every = (*PORTS, "tcp 30080", "tcp 10250", "tcp 8443")
    return {port for port in every if called(made, port[:3], source, int(port[4:]), answers=port in expected) == "answers"}


def test_from_outside_the_ports_for_answers_are_closed_and_in_the_subnet_they_are_open() -> None:
    everything = {*PORTS, "tcp 30080", "tcp 10250", "tcp 8443"}
    with server("32768-60999") as made:
        # What is not of the range is the security group's.
        for source, open_ports in ((OUTSIDE, everything - set(PORTS)), (SUBNET, everything)):
            assert reached(made, source, open_ports) == open_ports
        assert made.facts.rules == ""
        made.sh("nft flush chain ip openshift_lvs answers")
        assert reached(made, OUTSIDE, everything) == everything, "they listen"


def test_with_a_wider_range_only_the_services_are_open_and_only_to_the_clients() -> None:
    with server("1024-65535") as made:
        for source, open_ports in ((OUTSIDE, set()), (CLIENT, {"tcp 8443"})):
            assert reached(made, source, open_ports) == open_ports
        assert called(made, "tcp", CLIENT, 8443, "192.168.0.250", answers=True) == "answers"
        assert called(made, "tcp", OUTSIDE, 8443, "192.168.0.250", answers=False) == "silence"


@pytest.mark.parametrize("return_ports", ["32768-60999", "1024-65535"])
def test_the_node_and_its_masqueraded_pods_get_their_answers(return_ports: str) -> None:
    with server(return_ports) as made:
        calls = {
            "the node": f"for n in 1 2 3 4 5; do python3 /stub/call {{}} '' {{}} {{}} {ANSWER_S}; done",
            "a pod": f"""for n in 1 2 3 4 5; do nsenter --net="/proc/$(cat /stub/pod)/ns/net" python3 /stub/call {{}} '' {{}} {{}} {ANSWER_S}; done""",
        }
        for who, call in calls.items():
            for kind, port in (("tcp", 80), ("udp", 53)):
                assert made.sh(call.format(kind, OUTSIDE, port)).split() == ["answers"] * 5, f"{who}, {kind}"


def test_what_is_allowed_in_the_range_stays_open() -> None:
    data: dict[str, Any] = copy.deepcopy(STACK)
    data["network"]["allow"] = [{"protocol": "tcp", "ports": "32768-60999", "cidr": "0.0.0.0/0"}, {"protocol": "udp", "ports": 40053, "cidr": f"{CLIENT}/32"}]
    with server("32768-60999") as made:
        made.roll_out(Cluster.parse(data), "master0")
        of_all = {"tcp 40022", "tcp 40080"}
        assert reached(made, OUTSIDE, of_all) & set(PORTS) == of_all
        assert set(PORTS) <= reached(made, CLIENT, set(PORTS))


def test_a_host_that_existed_before_has_no_such_rules() -> None:
    data: dict[str, Any] = copy.deepcopy(STACK)
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
    hosts = {name: {"address": address, "host_key": key} for name, address in data["pools"]["master"]["hosts"].items()}
    data["pools"]["master"] = {"existing": True, "hosts": hosts}
    with node() as made:
        made.roll_out(Cluster.parse(data), "master0")
        assert "answers" not in made.sh("nft list table ip openshift_lvs")


def test_a_udp_service_in_the_range_is_open_to_its_clients_only() -> None:
    data: dict[str, Any] = copy.deepcopy(STACK)
    service = {"port": 40053, "protocol": "UDP", "client_cidrs": [f"{CLIENT}/32"], "health_check": {"type": "tcp", "connect_port": 8443}}
    data["vips"]["master"]["services"].append(service)
    with server("32768-60999", data) as made:
        made.sh("nft 'table ip other { chain input { type filter hook input priority 0; udp dport 40053 ip daddr 192.168.0.250 counter; }; }'")
        for source, packets in ((OUTSIDE, 0), (CLIENT, 1)):
            called(made, "udp", source, 40053, "192.168.0.250", answers=False)
            assert f"packets {packets} " in made.sh("nft list chain ip other input"), source
