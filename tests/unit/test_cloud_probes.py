"""What the tests of the cloud tier are made of, without a cloud: packets, probes, the order of the files, and the stacks that they change."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Cluster
from lab import cloud
from lab.nodes.probe import Request
from operations.preflight import network_needs
from tests.cloud import packets, probes, test_moves, test_open_network, test_preflight
from tests.cloud.conftest import ORDER

NEIGHBOUR, DIRECTOR, VIP = "192.168.0.100", "192.168.0.3", "192.168.0.250"
WIRE = "02:00:00:00:00:02"


def request(at: float, seconds: float, error: str = "", side: str = "bastion", connected: float = 0.0) -> Request:
    return Request(side, at, connected, seconds, "" if error else "master0", error)


@pytest.mark.parametrize(
    ("kind", "target", "seen"),
    [
        ("vrrp", packets.VRRP, ("vrrp", NEIGHBOUR, packets.VRRP, 0)),
        ("sync", packets.SYNC, ("udp", NEIGHBOUR, packets.SYNC, 8848)),
        ("ipip", DIRECTOR, ("ipip", NEIGHBOUR, DIRECTOR, 0)),
        ("ssh", DIRECTOR, ("tcp", NEIGHBOUR, DIRECTOR, 22)),
    ],
)
def test_a_forged_packet_is_known_where_it_arrives(kind: str, target: str, seen: tuple[str, str, str, int]) -> None:
    packet = packets.forged(kind, NEIGHBOUR, target, VIP, 8443, 51)
    assert packets.heard(packet) == seen
    assert packets.heard(packet, NEIGHBOUR) == seen and packets.heard(packet, DIRECTOR) is None
    assert packets.heard(packet[:4] + bytes(2) + packet[6:]) is None, "another identification"
    assert packets.heard(packet[:10]) is None


def test_a_forged_advert_is_one_that_keepalived_would_accept() -> None:
    advert = packets.advert(DIRECTOR, packets.VRRP, VIP, 51)
    body = advert[20:]
    assert (advert[8], body[0], body[1], body[2]) == (255, 0x31, 51, 255), "TTL, version and type, virtual_router_id, priority"
    pseudo = bytes([192, 168, 0, 3, 224, 0, 0, 18, 0, 112, 0, len(body)])
    assert packets.checksum(pseudo + body) == 0


def program(*words: str) -> list[str]:
    """packets.py with these arguments, as a test of the cloud starts it."""
    return [sys.executable, *probes.packets(*words)[1:]]


def test_what_is_sent_on_one_end_of_a_wire_is_heard_on_the_other() -> None:
    config = {
        "interface": "eth0", "vip": VIP, "port": 8443, "virtual_router_id": 51,
        "packets": [["vrrp", DIRECTOR, packets.VRRP], ["sync", NEIGHBOUR, packets.SYNC], ["ssh", NEIGHBOUR, DIRECTOR]],
    }  # fmt: skip
    begin = f"""
        ip link set lo up; ip link add eth0 type veth peer name wire address {WIRE}; ip link set wire up; ip link set eth0 up
        ip address add {NEIGHBOUR}/24 dev eth0; ip route add default via 192.168.0.1
        ip neighbour add {DIRECTOR} dev eth0 lladdr {WIRE}
        echo ready; exec sleep 60
    """
    with subprocess.Popen(["unshare", "--net", "sh", "-euc", begin], stdout=subprocess.PIPE, text=True) as namespace:
        try:
            # Before that, the process may still be in this machine's network.
            assert namespace.stdout and namespace.stdout.readline() == "ready\n"
            within = ["nsenter", f"--net=/proc/{namespace.pid}/ns/net"]
            with probes.Running({"wire": [*within, *program("hear", "wire")], "client": [*within, *program("hear", "wire", NEIGHBOUR)]}) as ends:
                subprocess.run([*within, *program("forge", json.dumps(config))], check=True, timeout=30)
        finally:
            namespace.kill()
    mine = [["tcp", NEIGHBOUR, DIRECTOR, 22], ["udp", NEIGHBOUR, packets.SYNC, 8848]]
    assert ends.told == {"wire": [*mine, ["vrrp", DIRECTOR, packets.VRRP, 0]], "client": mine}


def called(kind: str, port: int, count: int = 3) -> Any:
    done = subprocess.run(program("call", kind, "127.0.0.1", str(port), str(count)), capture_output=True, text=True, timeout=30, check=True)
    return json.loads(done.stdout)


def test_listeners_answer_until_they_are_told_to_end(free_port: Callable[[], int]) -> None:
    tcp, udp = free_port(), free_port()
    with probes.Running({"both": program("serve", str(tcp), str(udp))}):
        assert called("tcp", tcp) == called("udp", udp) == {"answered": 3, "errors": {}}
    assert called("tcp", tcp) == {"answered": 0, "errors": {"[Errno 111] Connection refused": 3}}


def test_timers_tell_for_how_long_a_node_did_not_run() -> None:
    asked = probes.Running({"node": program("timers")})
    with asked:
        (process,) = asked._processes.values()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        time.sleep(0.5)  # the event itself: a node that does not run
        process.send_signal(signal.SIGCONT)
    assert asked.told["node"] >= 0.4


def test_timers_tell_for_how_long_the_end_of_a_check_stops_all_others(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        with probes.Running({"node": program("timers", *map(str, server.getsockname()))}) as asked:
            for _ in range(2):
                server.accept()[0].close()
        assert asked.told["node"] < 0.4
        dead = free_port()
        with probes.Running({"node": program("timers", "127.0.0.1", str(dead))}) as asked:
            pass
        assert asked.told["node"] < 0.4, "a server that refuses is no end of a check"


def test_requests_that_waited_too_long_for_a_takeover_fail_the_test_unless_the_directors_late_timers_explain_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_moves, "longest_wait_s", lambda quiet_s: quiet_s + 1)

    def judged(late: float, *requests: Request, waited_s: float = 0.0) -> str:
        # Both, because a skip that is not expected would skip this test.
        with pytest.raises((AssertionError, pytest.skip.Exception)) as end:
            test_moves.require_takeover(list(requests), {"takeover_seconds": 1.0}, {"master1": 0.0, "master2": late}, waited_s, killed=9)
        return f"{end.type.__name__}: {end.value}"

    slow, refused = request(10, 3.9), request(10, 0.1, "refused")
    assert judged(probes.GRACE_S, request(10, 3.0)).startswith("AssertionError: bound 2.3 s; killed at 9.00")
    assert judged(1.5, slow).startswith("Skipped: this machine is too slow")
    assert "'master2': 1.5} s late, and the bound of 2.3 s allows 0.3 s" in judged(1.5, slow)
    assert judged(1.5, request(10, 9.0)).startswith("AssertionError: bound 2.3 s")
    assert judged(1.5, slow, refused).startswith("AssertionError: killed at 9.00")
    test_moves.require_takeover([request(10, 2.2)], {"takeover_seconds": 1.0}, {"master1": 0.0, "master2": 1.5}, 0.0, killed=9)
    # keepalived told that all its checks stood still for five seconds.
    test_moves.require_takeover([request(10, 7.2)], {"takeover_seconds": 1.0}, {"master1": 0.0}, 5.0, killed=9)
    assert judged(0.0, request(10, 7.4), waited_s=5.0).startswith("AssertionError: bound 7.3 s")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Ports that no program of this machine has."""

    def port() -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            number: int = one.getsockname()[1]
            return number

    return port


def test_a_program_that_is_not_ready_is_named_with_what_it_said() -> None:
    running = probes.Running({"client": ["sh", "-c", "echo no; echo broken >&2"]})
    with pytest.raises(AssertionError, match=r"client: waited \d+ s for 'ready'; it said 'no' and 'broken'"), running:
        pass


def test_a_program_that_fails_in_the_end_is_named_with_what_it_said() -> None:
    running = probes.Running({"client": ["sh", "-c", "echo ready; cat; echo broken >&2; exit 3"]})
    with pytest.raises(AssertionError, match="client: ended with 3: broken"), running:
        pass


def test_each_side_asks_from_its_own_address_so_that_no_port_is_taken_again_soon() -> None:
    for name, side in probes.SIDES.items():
        assert probes.config(name, "192.0.2.250", 443)["sources"] == [side.source]
    assert len({side.source for side in probes.SIDES.values()}) == len(probes.SIDES)


def test_only_requests_that_were_open_when_a_server_died_may_be_lost() -> None:
    before, open_, after = request(8, 0.1, "reset"), request(9.9, 5, "timeout"), request(10.2, 0.1, "refused")
    assert probes.unanswered([before, open_, after, request(11, 0.1)], 10) == [before, after]
    assert probes.unanswered([open_]) == [open_]


def test_only_requests_that_were_open_when_a_server_died_may_wait_longer() -> None:
    slow, open_ = request(10.2, 3), request(9.9, 5)
    assert probes.waited([slow, open_, request(11, 2.7)], 2.7, 10) == [slow]


@pytest.mark.parametrize(("quiet_s", "linear", "bound_s"), [(0.8, 0, 1.8), (1.7, 0, 3.7), (1.7, 4, 2.7), (3.5, 0, 7.5), (3.5, 4, 4.5)])
def test_a_request_waits_for_one_more_retransmission_of_its_syn(quiet_s: float, linear: int, bound_s: float) -> None:
    # Without linear timeouts a SYN is sent again after 1, 3 and 7 s; with four of them after 1, 2, 3 and 4 s.
    assert probes.longest_wait_s(quiet_s, linear) == bound_s


def test_the_summary_tells_the_sides_apart() -> None:
    requests = [request(1, 0.1), request(2, 1.3, connected=1.2), request(3, 10, "timeout", "external")]
    assert probes.summary(requests).split("; ") == [
        "bastion: 0 of 2 failed {}, 1 had their SYN sent again, the longest took 1.30 s",
        "external: 1 of 1 failed {'timeout': 1}, 0 had their SYN sent again, the longest took 0.00 s",
        "bastion, IPv6: 0 of 0 failed {}, 0 had their SYN sent again, the longest took 0.00 s",
        "external, IPv6: 0 of 0 failed {}, 0 had their SYN sent again, the longest took 0.00 s",
    ]


def test_the_qemu_of_a_server_is_found_by_novas_id() -> None:
    server = "5a2f9d1e-0000-4000-8000-4c564c564c56"
    with pytest.raises(cloud.CloudError, match=f"no QEMU on this machine runs the server {server}"):
        cloud.machine_of(server)
    words = [sys.executable, "-c", "input('ready\\n')", "-name", "guest=instance-1", "-uuid", server]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as qemu:
        # Before that, the kernel may show no arguments of the new program.
        assert qemu.stdout and qemu.stdout.readline() == "ready\n"
        found = cloud.machine_of(server)
        qemu.kill()
    assert found == qemu.pid


def test_every_file_of_the_cloud_tier_has_its_place() -> None:
    assert sorted(ORDER) == sorted(path.stem for path in (Path(probes.__file__).parent).glob("test_*.py"))


@pytest.mark.parametrize("made", [test_preflight.example, test_preflight.lacking, test_preflight.on_bare, test_open_network.open_cluster])
def test_the_stacks_of_the_cloud_tier_are_ones_that_the_program_accepts(made: Callable[[], dict[str, Any]]) -> None:
    described = made()
    described["ssh"]["bastion"]["host_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"
    assert Cluster.parse(described).needs_openstack


def test_the_stack_that_lacks_things_exceeds_the_quota_of_servers_only() -> None:
    described = test_preflight.lacking()
    described["ssh"]["bastion"]["host_key"] = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"
    cluster = Cluster.parse(described)
    assert len(list(cluster.nodes())) == 15
    # Neutron's defaults, less the four rules of the project's own group.
    assert network_needs(cluster)["security_group_rules"] <= 96 and network_needs(cluster)["security_groups"] <= 9
