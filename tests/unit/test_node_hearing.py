"""Whether directors hear each other before the first of them is activated: test packets between three nodes on a bridge, through their own filters."""

from __future__ import annotations

import contextlib
import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import keepalived
from components.configuration import Cluster
from components.keepalived import render
from lab.phases import wait_for
from node.openshift_lvs import hearing, state
from node.openshift_lvs.description import AH, UDP, VRRP
from node.openshift_lvs.errors import Refused
from tests.unit.node_functions import ADDRESSES, HERE, System, description
from tests.unit.node_root import OPENSHIFT_LVS, PROGRAM, Node, node
from tests.unit.test_dual_stack import alone, written
from tests.unit.test_node_scripts import STACK, cluster

HOSTS = {"master0": "192.168.0.2", "master1": "192.168.0.3", "master2": "192.168.0.4"}
HOSTS_V6 = {f"master{number}": f"fd00:0:0:1::{number + 2}" for number in range(3)}
VRRP_NAME = "VRRP (IP protocol 112)"
OTHERS = "192.168.0.3, 192.168.0.4"
PACKETS_S = 30


def everyone_hears(protocol: str = "112", **less: list[str]) -> dict[str, dict[str, list[str]]]:
    """What is known where every director hears the others, except `less` by its host."""
    by_address = {HOSTS[host]: heard for host, heard in less.items()}
    return {
        each: {protocol: by_address.get(each, [other for other in ADDRESSES if other != each]), "17": [o for o in ADDRESSES if o != each]} for each in ADDRESSES
    }


# What is known, and what it means


def test_a_test_packet_of_ipv6_tells_addresses_of_ipv6() -> None:
    packet = hearing.report(UDP, ["fd00::3", "fd00::4"], VRRP)
    assert hearing.parse(packet, VRRP, 6) == (UDP, ["fd00::3", "fd00::4"])
    assert hearing.parse(packet[:-1], VRRP, 6) is None


@pytest.mark.parametrize("carrier", [VRRP, AH])
def test_a_test_packet_tells_who_is_heard_and_no_router_can_have_its_virtual_router_id(carrier: int) -> None:
    packet = hearing.report(UDP, ["192.168.0.3", "192.168.0.4"], carrier)
    assert hearing.parse(packet, carrier) == (UDP, ["192.168.0.3", "192.168.0.4"])
    vrrp = packet[24:] if carrier == AH else packet
    assert (vrrp[0] >> 4, vrrp[1], len(vrrp)) == (3, 0, 8 + 4 * vrrp[3])
    for other in (b"", vrrp[:7], vrrp[:-1], vrrp[:1] + bytes([51]) + vrrp[2:]):
        assert hearing.parse(packet[:24] + other if carrier == AH else other, carrier) is None


def test_a_pair_that_does_not_hear_each_other_is_named_with_the_protocol() -> None:
    assert hearing.missing(description(), everyone_hears()) == []
    known = everyone_hears(master1=["192.168.0.4"])
    assert hearing.missing(description(), known) == ["192.168.0.3 does not hear VRRP (IP protocol 112) from 192.168.0.2"]
    assert hearing.missing(description(), {HERE: {"112": [], "17": list(ADDRESSES[1:])}}) == [f"{HERE} does not hear {VRRP_NAME} from {OTHERS}"]
    del known["192.168.0.4"]
    assert hearing.missing(description(), known)[1] == "192.168.0.4: no test packet told what is heard there"


def test_test_packets_are_needed_for_a_director_that_the_version_in_force_does_not_know() -> None:
    assert hearing.needed(description(), None)
    assert hearing.needed(description(), description(directors=ADDRESSES[1:2]))
    assert not hearing.needed(description(), description())
    assert not hearing.needed(description(directors=ADDRESSES[1:2]), description()), "one leaves"
    assert not hearing.needed(description(directors=()), None), "a director alone"
    assert not hearing.needed(description(director=False), None)


def test_an_activation_is_refused_with_the_chains_that_drop_packets(system: System) -> None:
    Path(state.HEARING).write_text(json.dumps(everyone_hears(master0=[])))
    chain = {"family": "inet", "table": "filter", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
    others = [{**chain, "policy": "accept"}, {**chain, "hook": "forward"}, {**chain, "family": "ip6"}, {**chain, "family": "ip", "table": "openshift_lvs"}]
    shown = {"nftables": [{"metainfo": {}}, *({"chain": each} for each in (chain, *others))]}
    system.answers["nft --json list chains"] = (0, json.dumps(shown), "")
    with pytest.raises(Refused) as refused:
        hearing.require("v1", description(), None)
    said = str(refused.value)
    assert f"{HERE} does not hear VRRP (IP protocol 112) from 192.168.0.3, 192.168.0.4" in said
    assert "This host has chains that drop what no rule accepts: table inet filter, chain input, priority 0." in said
    assert system.now == 1000 + hearing.WAIT_S


# Packets


@contextlib.contextmanager
def hub(**nodes: Node) -> Iterator[None]:
    """Put the nodes on one bridge, in a network namespace of its own, each with its address."""
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read -r forever"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        enter = ["nsenter", f"--target={process.pid}", "--net"]
        subprocess.run([*enter, "sh", "-euc", "ip link add hub type bridge mcast_snooping 0; ip link set hub up"], check=True)
        for host, made in nodes.items():
            move = f"ip link set wire down; ip link set wire name {host} netns {process.pid}"
            address = f"ip address flush dev eth0; ip address add {HOSTS[host]}/24 dev eth0; ip address add {HOSTS_V6[host]}/64 dev eth0 nodad"
            subprocess.run(["nsenter", f"--target={made.pid}", "--net", "sh", "-euc", f"{move}; {address}"], check=True)
            subprocess.run([*enter, "sh", "-euc", f"ip link set {host} master hub up"], check=True)
        try:
            yield
        finally:
            process.stdin.close()
            process.wait(10)


@contextlib.contextmanager
def speaking(stack: Cluster, *hosts: str, before: str = "", delivered: str = "") -> Iterator[dict[str, Node]]:
    """These hosts with the stack delivered, sending and receiving test packets; `before` runs on master0 before the delivery, `delivered` after it."""
    with contextlib.ExitStack() as all_of_it:
        nodes = {host: all_of_it.enter_context(node()) for host in hosts}
        all_of_it.enter_context(hub(**nodes))
        if before:
            nodes["master0"].sh(before)
        for host, made in nodes.items():
            version = made.deliver(render(stack, host))
            assert f"hear {version}" in made.read("/stub/calls")
            made.sh("rm /run/openshift-lvs/hearing.json")
            if delivered and host == "master0":
                made.sh(delivered)
            # The packets go by the real clock.
            made.write(f"{PROGRAM}/openshift_lvs/clock.py", (keepalived.PROGRAM / "openshift_lvs/clock.py").read_text())
            made.sh(f"{OPENSHIFT_LVS} hear {version} >/stub/hearing 2>&1 </dev/null &")
        yield nodes


def known(made: Node) -> list[str]:
    """What the program on a node finds missing."""
    found: list[str] = json.loads(
        made.python(
            "import json\nfrom openshift_lvs import hearing\nnew = description.Description.read(versions.folder(state.names(state.VERSIONS)[0]))\n"
            "print(json.dumps(hearing.missing(new, hearing.heard())))"
        )
    )
    return found


def wait_for_missing(expected: list[str], *nodes: Node) -> None:
    """Return when every one of these nodes finds that missing, and nothing else."""
    for made in nodes:
        wait_for("what a node finds missing", lambda made=made: ((found := known(made)) == expected, str(found)), PACKETS_S)  # type: ignore[misc]


def changed(**master: Any) -> Cluster:
    data = copy.deepcopy(STACK)
    data["vips"]["master"].update(master)
    if "authentication" in master:
        data["keepalived"] = {"vrrp_version": 2}
        data["vips"]["master"]["advert_interval"] = 1
    return Cluster.parse(data)


@pytest.mark.parametrize("change", [{}, {"unicast": True}])
def test_directors_without_filters_hear_each_other(change: dict[str, Any]) -> None:
    with speaking(changed(**change), *HOSTS) as nodes:
        for made in nodes.values():
            wait_for_missing([], made)


def test_a_filter_of_ipv6_is_known_while_ipv4_is_heard() -> None:
    with speaking(Cluster.parse(written()), "master0", "master1", before=filtered("ip6 nexthdr 112")) as nodes:
        wait_for_missing(["fd00:0:0:1::2 does not hear VRRP (IP protocol 112) from fd00:0:0:1::3"], *nodes.values())
        nodes["master0"].sh("nft delete table inet filter")
        wait_for_missing([], *nodes.values())


def test_ipv4_is_tested_while_the_address_of_ipv6_is_missing_and_ipv6_once_it_is_there() -> None:
    with speaking(Cluster.parse(written()), "master0", "master1", delivered=f"ip -6 address delete {HOSTS_V6['master0']}/64 dev eth0") as nodes:
        wait_for_missing(["fd00:0:0:1::2, fd00:0:0:1::3: no test packet told what is heard there"], nodes["master0"])
        wait_for_missing(["fd00:0:0:1::3 does not hear VRRP (IP protocol 112) from fd00:0:0:1::2"], nodes["master1"])
        nodes["master0"].sh(f"ip -6 address add {HOSTS_V6['master0']}/64 dev eth0 nodad")
        wait_for_missing([], *nodes.values())


def test_directors_of_ipv6_alone_hear_each_other_by_the_groups_of_ipv6() -> None:
    with speaking(Cluster.parse(alone()), "master0", "master1", before=filtered("ip6 daddr ff15::81")) as nodes:
        wait_for_missing(["fd00:0:0:1::2 does not hear connection sync (UDP 8848) from fd00:0:0:1::3"], *nodes.values())
        nodes["master0"].sh("nft delete table inet filter")
        wait_for_missing([], *nodes.values())


def filtered(dropped: str) -> str:
    """A command that drops these packets."""
    return f"nft 'add table inet filter {{ chain input {{ type filter hook input priority 0; {dropped} drop; }}; }}'"


@pytest.mark.parametrize(
    ("dropped", "protocol"),
    [("ip protocol 112", "VRRP (IP protocol 112)"), ("udp dport 8848", "connection sync (UDP 8848)")],
)
def test_a_filter_on_one_host_is_known_on_every_host(dropped: str, protocol: str) -> None:
    with speaking(cluster(), *HOSTS, before=filtered(dropped)) as nodes:
        expected = f"192.168.0.2 does not hear {protocol} from 192.168.0.3, 192.168.0.4"
        wait_for_missing([expected], *nodes.values())
        nodes["master0"].sh("nft delete table inet filter")
        wait_for_missing([], *nodes.values())
