"""What other machines on the segment may send to a node, and that it changes nothing there: packets through the real rules, on a node's interface."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from components.configuration import Cluster
from components.keepalived import render
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import STACK, activated, cluster, without_master2

DIRECTOR, FORMER, STRANGER = "192.168.0.3", "192.168.0.4", "192.168.0.77"

EXCHANGE = """
import json, socket, struct, sys
VRRP, SYNC = "224.0.0.18", "224.0.0.81"
index = socket.if_nametoindex("eth0")
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("wire", 0))

def frames(source, target, protocol, payload, fragment=None):
    # One frame, or two when the payload is cut after `fragment` bytes.
    parts = [(0, payload)] if fragment is None else [(0, payload[:fragment]), (fragment, payload[fragment:])]
    for at, part in parts:
        more = 0x2000 if at + len(part) < len(payload) else 0
        addresses = socket.inet_aton(source) + socket.inet_aton(target)
        header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(part), 7, more | at // 8, 255, protocol, 0) + addresses
        total = sum(struct.unpack("!10H", header))
        total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
        header = header[:10] + struct.pack("!H", total) + header[12:]
        first = int(target.split(".")[0])
        to = bytes([1, 0, 0x5E, *socket.inet_aton(target)[1:]]) if first >= 224 else bytes.fromhex(open("/sys/class/net/eth0/address").read().replace(":", ""))
        yield to + bytes.fromhex("00005e000133") + b"\\x08\\x00" + header + part

def advert(vrid, priority=255, behind=b""):
    return behind + bytes([0x31, vrid, priority, 1, 0, 100, 0, 0]) + socket.inet_aton("192.168.0.250")

def sync(syncid):
    message = bytes([0, syncid, 0, 8, 0, 1, 0, 0])
    return struct.pack("!HHHH", 40000, 8848, 8 + len(message), 0) + message

def tunnelled(inner):
    return struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20, 1, 0, 64, 6, 0, socket.inet_aton("203.0.113.9"), socket.inet_aton(inner))

AUTHENTICATED = bytes([112, 4]) + bytes(22)
KINDS = {
    "vrrp": lambda source, argument, cut: frames(source, VRRP, 112, advert(argument), cut),
    "ah": lambda source, argument, cut: frames(source, VRRP, 51, advert(argument, behind=AUTHENTICATED), cut),
    "sync": lambda source, argument, cut: frames(source, SYNC, 17, sync(argument), cut),
    "ipip": lambda source, argument, cut: frames(source, "192.168.0.2", 4, tunnelled(argument), cut),
}
ears = {kind: socket.socket(socket.AF_INET, socket.SOCK_RAW, number) for kind, number in (("vrrp", 112), ("ah", 51), ("ipip", 4))}
ears["sync"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ears["sync"].bind((SYNC, 8848))
for group in (VRRP, SYNC):
    ears["sync"].setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton(group), bytes(4), index))
heard = []
for kind, source, argument, *cut in json.load(sys.stdin):
    for frame in KINDS[kind](source, argument, cut[0] if cut else None):
        wire.send(frame)
    # A packet over a pair of virtual interfaces is delivered before the next one of the same processor.
    ears[kind].settimeout(0.5)
    try:
        heard.append([kind, ears[kind].recvfrom(2000)[1][0], argument])
    except socket.timeout:
        pass
print(json.dumps(heard))
"""


def exchange(on: Node, *sent: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Send packets to the node (kind, source, argument, bytes in the first fragment); the ones that its programs received."""
    on.write("/stub/exchange", EXCHANGE)
    received: list[list[Any]] = json.loads(on.sh("python3 /stub/exchange", stdin=json.dumps(sent)))
    return [tuple(each) for each in received]


def admitted(on: Node) -> set[str]:
    """The directors that the loaded rules accept."""
    listed = json.loads(on.sh("nft --json list set ip openshift_lvs directors"))
    return {str(address) for each in listed["nftables"] if "set" in each for address in each["set"]["elem"]}


@pytest.fixture
def serving() -> Iterator[Node]:
    """master0 with a first version in force."""
    with activated("master0") as made:
        yield made


def test_only_directors_may_send_adverts_and_connection_sync(serving: Node) -> None:
    sent = [(kind, source, 51) for kind in ("vrrp", "sync") for source in (STRANGER, DIRECTOR)]
    assert exchange(serving, *sent) == [("vrrp", DIRECTOR, 51), ("sync", DIRECTOR, 51)]
    assert serving.facts.foreign == (f"{STRANGER} VRRP", f"{STRANGER} connection sync")


def test_a_packet_in_fragments_is_refused_too(serving: Node) -> None:
    assert exchange(serving, ("sync", STRANGER, 51, 8), ("vrrp", STRANGER, 51, 8)) == []
    assert exchange(serving, ("sync", DIRECTOR, 51, 8)) == [("sync", DIRECTOR, 51)]
    assert serving.facts.foreign == (f"{STRANGER} VRRP", f"{STRANGER} connection sync")


def test_other_routers_and_other_pools_of_the_segment_are_left_alone(serving: Node) -> None:
    sent = (("vrrp", STRANGER, 52), ("sync", STRANGER, 52))
    assert exchange(serving, *sent) == list(sent)
    assert serving.facts.foreign == ()


def test_adverts_behind_ah_are_refused_where_they_are_in_use() -> None:
    data = copy.deepcopy(STACK)
    data["keepalived"] = {"vrrp_version": 2}
    data["vips"]["master"].update(authentication="AH", advert_interval=1)
    rules = next(file.text for file in render(Cluster.parse(data), "master0") if file.path == "lvs.nft")
    with activated("master0") as serving:
        assert exchange(serving, ("ah", STRANGER, 51)) == [("ah", STRANGER, 51)], "AH of another program"
        serving.sh("nft -f -", stdin=rules)
        assert exchange(serving, ("ah", STRANGER, 51), ("ah", STRANGER, 51, 24), ("ah", DIRECTOR, 51)) == [("ah", DIRECTOR, 51)]
        assert serving.facts.foreign == (f"{STRANGER} VRRP behind AH",)


@pytest.mark.parametrize("director", [True, False])
def test_tunnel_packets_to_a_vip_or_the_node_come_from_directors_only(director: bool) -> None:
    data = copy.deepcopy(STACK)
    data["vips"]["master"]["services"][0]["forwarding_method"] = "TUN"
    if not director:
        data["pools"]["master"]["directors"] = ["master1", "master2"]
        data["vips"]["master"]["owner"] = "master1"
    with node() as serving:
        serving.roll_out(Cluster.parse(data), "master0")
        received = exchange(serving, *(("ipip", source, inner) for source in (STRANGER, DIRECTOR) for inner in ("192.168.0.250", "192.168.0.2", "10.244.1.7")))
        assert received == [("ipip", STRANGER, "10.244.1.7"), *(("ipip", DIRECTOR, inner) for inner in ("192.168.0.250", "192.168.0.2", "10.244.1.7"))]
        assert serving.facts.foreign == (f"{STRANGER} IPIP",)
        assert serving.facts.rules == ""
        serving.sh("nft delete table ip openshift_lvs")
        assert serving.facts.rules == "table ip openshift_lvs is missing"
        serving.succeeds("remove")
        assert "openshift_lvs" not in serving.sh("nft list tables")


def test_a_flood_of_senders_hides_no_director_and_is_recorded_in_part(serving: Node) -> None:
    serving.write("/stub/exchange", EXCHANGE.replace("settimeout(0.5)", "settimeout(0.0001)"))
    flood = [("vrrp", f"192.168.{number >> 8}.{number & 255}", 51) for number in range(256 + 9, 256 + 9 + 700)]
    serving.sh("/usr/sbin/sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0; ip address add 192.168.200.1/16 dev eth0")
    assert json.loads(serving.sh("python3 /stub/exchange", stdin=json.dumps(flood))) == []
    assert exchange(serving, ("vrrp", DIRECTOR, 51)) == [("vrrp", DIRECTOR, 51)]
    assert DIRECTOR in serving.sh("nft list set ip openshift_lvs adverts_51")
    assert len(serving.facts.foreign) == 256


def test_adverts_that_this_hosts_own_filters_drop_are_not_heard(serving: Node) -> None:
    serving.sh("nft 'add table inet filter { chain input { type filter hook input priority 10; ip protocol 112 drop; }; }'")
    assert exchange(serving, ("vrrp", DIRECTOR, 51)) == []
    assert DIRECTOR not in serving.sh("nft list set ip openshift_lvs adverts_51")
    serving.sh("nft delete table inet filter")
    assert exchange(serving, ("vrrp", DIRECTOR, 51)) == [("vrrp", DIRECTOR, 51)]
    assert DIRECTOR in serving.sh("nft list set ip openshift_lvs adverts_51")


def test_no_advert_is_lost_while_directors_come_and_leave() -> None:
    with node() as serving:
        serving.roll_out(without_master2(), "master0")
        assert admitted(serving) == {"192.168.0.2", DIRECTOR}
        assert exchange(serving, ("vrrp", FORMER, 51)) == []
        # It comes: from the delivery on, before any director has the new version.
        serving.deliver(render(cluster(), "master0"))
        assert exchange(serving, ("vrrp", FORMER, 51)) == [("vrrp", FORMER, 51)]
        serving.roll_out(cluster(), "master0")
        serving.succeeds("alone", "0")
        # It leaves: until it has fallen silent.
        serving.roll_out(without_master2(), "master0")
        serving.succeeds("rules")
        assert exchange(serving, ("vrrp", FORMER, 51)) == [("vrrp", FORMER, 51)]
        assert f"is used by {FORMER}" in serving.verb("alone", "0").stderr
        assert FORMER in admitted(serving), "a former director that holds a VIP is still heard"
        serving.sh("nft flush set ip openshift_lvs adverts_51")
        serving.succeeds("alone", "0")
        assert admitted(serving) == {"192.168.0.2", DIRECTOR}
        assert exchange(serving, ("vrrp", FORMER, 51)) == []
        assert serving.facts.rules == ""
