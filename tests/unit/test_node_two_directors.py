"""Two directors with a real keepalived, its VRRP process alone: how the VIPs of both families move, and what is on the wire meanwhile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from components.configuration import Cluster
from lab.phases import wait_for
from tests.unit.node_root import Node, node
from tests.unit.test_dual_stack import ADDITIONAL, SEVERAL, written
from tests.unit.test_node_hearing import HOSTS_V6, hub

V4, V6, V6_ALONE = "192.168.0.250", "fd00:0:0:1::250", "fd00:0:0:1::251"
MOVED_S = 30
"""Seconds within which a VIP must be somewhere: the machine may have other work."""
RECORD = """
import socket, sys, time
ETH_P_ALL, IPV6, OUTGOING = 3, 0x86DD, 4
tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
tap.bind(("eth0", ETH_P_ALL))
print(0, "ready", flush=True)
while True:
    data, (_, protocol, kind, *_) = tap.recvfrom(2000)
    if protocol != IPV6 or kind != OUTGOING:
        continue
    source, header, payload = socket.inet_ntop(socket.AF_INET6, data[22:38]), data[20], data[54:]
    if header == 58 and payload[0] in (135, 136):
        kind, target, mac = {135: "solicitation", 136: "advertisement"}[payload[0]], socket.inet_ntop(socket.AF_INET6, payload[8:24]), payload[26:32]
        print(time.monotonic(), kind, source, target, payload[4], ":".join(f"{each:02x}" for each in mac), flush=True)
    elif header == 112:
        print(time.monotonic(), "advert", source, payload[1], data[21], flush=True)
"""
"""Prints what leaves the host: neighbour discovery with its source, target, flags and MAC, and adverts with their source, virtual_router_id and hop limit."""
OVERRIDE = "32"
"""The flag by which a neighbour replaces the MAC that it knows (RFC 4861, 4.4); the kernel's own answers have S too."""
REPEATED = 5 + 5 + 2
QUICK: tuple[tuple[str, Any], ...] = (("pools.master.witnesses", []), ("vips.master.garp_master_delay", 2), ("vips.master.garp_master_refresh", 1))


@dataclass
class Pair:
    """master0, which owns the VIP of both families, and master1."""

    nodes: dict[str, Node]

    def start(self, host: str) -> None:
        """Start the recording and keepalived."""
        made = self.nodes[host]
        made.write("/stub/record", RECORD)
        made.sh("(python3 /stub/record >/stub/sent 2>&1 </dev/null &); until [ -s /stub/sent ]; do /usr/bin/sleep 0.1; done")
        made.sh("keepalived --vrrp --dont-fork --log-console --use-file /etc/keepalived/current/keepalived.conf >/stub/keepalived 2>&1 </dev/null &")

    def holders(self, vip: str) -> list[str]:
        """The hosts that have a VIP on their interface."""
        return [host for host, made in self.nodes.items() if any(each["local"] == vip for each in addresses(made))]

    def wait_until_held(self, host: str) -> None:
        """Wait until a host alone has both VIPs that move together."""
        wait_for("the VIPs", lambda: ((found := [self.holders(V4), self.holders(V6)]) == [[host], [host]], str(found)), MOVED_S)

    def sent(self, host: str, what: str) -> list[list[str]]:
        """What a host sent of a kind, after the kind."""
        return [words[:1] + words[2:] for words in map(str.split, self.nodes[host].read("/stub/sent").splitlines()) if words[1] == what]

    def advertised(self, host: str) -> list[list[str]]:
        """The advertisements of the VIP of both families that a host sent although nothing asked for one."""
        return [each for each in self.sent(host, "advertisement") if each[2] == V6 and each[3] == OVERRIDE]

    def asked_for_vips(self) -> list[list[str]]:
        """The solicitations for a VIP that either host sent, such as one of duplicate address detection."""
        return [each for host in self.nodes for each in self.sent(host, "solicitation") if each[2] in (V6, V6_ALONE)]


def addresses(made: Node) -> list[dict[str, Any]]:
    """The addresses of eth0 with their flags."""
    found: list[dict[str, Any]] = json.loads(made.sh("ip -json address show dev eth0"))[0]["addr_info"]
    return found


@contextlib.contextmanager
def both() -> Iterator[Pair]:
    """Both directors with the dual-stack version in force and keepalived running; master0 holds the VIP of both families."""
    with node() as first, node() as second, hub(master0=first, master1=second):
        made = Pair({"master0": first, "master1": second})
        for number, (host, each) in enumerate(made.nodes.items()):
            each.sh(f"ip -6 address add fe80::{number + 2}/64 dev eth0 nodad")
            each.roll_out(Cluster.parse(written(*QUICK)), host)
            each.succeeds("go-home", "master")
        made.start("master0")
        made.wait_until_held("master0")
        made.start("master1")
        yield made


@pytest.fixture(scope="module")
def taken_over() -> Iterator[Pair]:
    """The pair after the holder's keepalived stood still: its kernel has the VIPs, and answers for them."""
    with both() as made:
        made.nodes["master0"].sh("pkill -STOP keepalived")
        wait_for("a takeover", lambda: ((found := [made.holders(V4), made.holders(V6)]) == [["master0", "master1"]] * 2, str(found)), MOVED_S)
        # 5 at the takeover, 5 after garp_master_delay, and one in each garp_master_refresh.
        wait_for("advertisements", lambda: ((count := len(made.advertised("master1"))) >= REPEATED, str(count)), MOVED_S)
        yield made


def test_duplicate_address_detection_neither_delays_nor_prevents_a_takeover(taken_over: Pair) -> None:
    for made in taken_over.nodes.values():
        vip = next(each for each in addresses(made) if each["local"] == V6)
        assert vip["nodad"] and not vip.get("tentative") and not vip.get("dadfailed")
    assert taken_over.sent("master1", "advertisement") and not taken_over.asked_for_vips()


def test_a_vip_on_the_holder_is_the_source_of_no_own_connection(taken_over: Pair) -> None:
    assert f" src {HOSTS_V6['master1']} " in taken_over.nodes["master1"].sh("ip -6 route get fd00:0:0:1::9")


def test_advertisements_that_nothing_asked_for_are_repeated_and_replace_what_clients_know(taken_over: Pair) -> None:
    made = taken_over.nodes["master1"]
    mac = made.read("/sys/class/net/eth0/address").strip()
    assert {(flags, told) for _, _, _, flags, told in taken_over.advertised("master1")} == {(OVERRIDE, mac)}


def test_a_backup_sends_no_neighbour_discovery_for_a_vip(taken_over: Pair) -> None:
    became = min(float(at) for at, _, router, _ in taken_over.sent("master1", "advert") if router == "51")
    assert min(float(at) for at, *_ in taken_over.advertised("master1")) >= became


def test_adverts_of_ipv6_have_the_configured_source_by_multicast_and_by_unicast(taken_over: Pair) -> None:
    for host, made in taken_over.nodes.items():
        assert any(each["local"].startswith("fe80:") for each in addresses(made)), "what keepalived would choose by itself"
        assert {(source, router) for _, source, router, _ in taken_over.sent(host, "advert")} >= {(HOSTS_V6[host], "51"), (HOSTS_V6[host], "52")}
        assert {source for _, source, _, _ in taken_over.sent(host, "advert")} == {HOSTS_V6[host]}


def test_keepalived_ignores_test_packets_of_ipv6_without_a_word(taken_over: Pair) -> None:
    sender, listener = taken_over.nodes["master0"], taken_over.nodes["master1"]

    def said() -> list[str]:
        return listener.read("/stub/keepalived").splitlines()

    before = [line for line in said() if "thread timer expired" not in line]
    sender.python("from openshift_lvs import hearing\nhearing._Sockets(here, 6).send()")
    wait_for("a test packet", lambda: (any(router == "0" for _, _, router, _ in taken_over.sent("master0", "advert")), ""), MOVED_S)
    listener.sh("/usr/bin/sleep 0.5")
    assert [line for line in said() if "thread timer expired" not in line] == before


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The pair while master0 holds the VIP of both families."""
    with both() as made:
        yield made


def test_a_vip_of_both_families_stays_on_one_host_when_one_family_is_not_heard_and_leaves_it_in_both(pair: Pair) -> None:
    first, second = pair.nodes["master0"], pair.nodes["master1"]
    second.sh("nft 'add table ip6 deaf { chain input { type filter hook input priority -400; ip6 nexthdr 112 drop; }; }'; /usr/bin/sleep 3")
    pair.wait_until_held("master0")
    second.sh("nft delete table ip6 deaf")
    # Neutron's router or an operator may take it away for a moment.
    first.sh(f"ip -6 address delete {HOSTS_V6['master0']}/64 dev eth0; /usr/bin/sleep 3")
    pair.wait_until_held("master0")
    assert "FAULT" not in first.read("/stub/keepalived")
    first.sh(f"ip -6 address add {HOSTS_V6['master0']}/64 dev eth0 nodad; /usr/bin/sleep 1")
    first.write("/run/openshift-lvs/drain-master", "-254\n")
    pair.wait_until_held("master1")
    assert not pair.asked_for_vips()


def test_a_director_that_has_an_additional_address_already_hears_one_that_has_not_and_all_addresses_move_together(pair: Pair) -> None:
    def change(host: str, held: list[list[str]]) -> None:
        """What is held when nothing has moved for three seconds; on a busy machine a moment later."""
        pair.nodes[host].roll_out(Cluster.parse(written(*QUICK, SEVERAL)), host)
        pair.nodes[host].sh("pkill -HUP -o keepalived; /usr/bin/sleep 3")
        wait_for(f"{held}", lambda: ((found := [pair.holders(vip) for vip in (V4, V6, *ADDITIONAL)]) == held, str(found)), MOVED_S)

    change("master1", [["master0"], ["master0"], [], []])
    change("master0", [["master0"]] * 4)
    pair.nodes["master0"].write("/run/openshift-lvs/drain-master", "-254\n")
    pair.wait_until_held("master1")
    wait_for("the additional addresses", lambda: ((found := [pair.holders(vip) for vip in ADDITIONAL]) == [["master1"]] * 2, str(found)), MOVED_S)
    wait_for("its advertisement", lambda: (ADDITIONAL[1] in {target for _, _, target, *_ in pair.sent("master1", "advertisement")}, "none"), MOVED_S)
