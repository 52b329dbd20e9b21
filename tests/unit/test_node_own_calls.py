"""Calls to a VIP from a node and from its pods, while the node's own server gets no connections: decisions, and packets through real rules."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from node.openshift_lvs import own_calls, state
from node.openshift_lvs.errors import Refused
from node.openshift_lvs.lock import Lock
from node.openshift_lvs.record import replace
from tests.unit.node_functions import ADDRESSES, HERE, MARK, SERVER, System, description, service, vip
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import cluster, server_only

OTHERS = [address for address in ADDRESSES if address != HERE]


def loaded(system: System) -> list[str]:
    """What nft was given since the last look."""
    given = [line for line in system.asked if line.startswith("nft")]
    system.asked.clear()
    return given


def weigh(system: System, weight: int, *addresses: str) -> None:
    """Give these real servers another weight in the kernel's table."""
    for address in addresses:
        system.table[MARK][address] = ("DR", weight, 0)


def test_a_node_whose_server_is_live_keeps_its_calls_and_tracks_no_connection(system: System) -> None:
    system.fill(description())
    own_calls.redirect(description())
    assert loaded(system) == []
    assert not Path(state.OWN_CALLS).exists()


def test_calls_go_to_the_live_servers_while_the_own_one_is_not_and_come_back(system: System) -> None:
    system.fill(description())
    weigh(system, 0, HERE)
    own_calls.redirect(description())
    assert loaded(system) == ["nft --file -"]
    assert f"{{ 0 : {OTHERS[0]}, 1 : {OTHERS[1]} }}" in Path(state.OWN_CALLS).read_text()
    own_calls.redirect(description())
    assert loaded(system) == [], "the rules are right already"
    weigh(system, 0, OTHERS[0])
    own_calls.redirect(description())
    assert f"{{ 0 : {OTHERS[1]} }}" in Path(state.OWN_CALLS).read_text()
    weigh(system, 1, HERE)
    own_calls.redirect(description())
    text = Path(state.OWN_CALLS).read_text()
    assert "dnat" not in text and "chain output { type nat" in text, "the chains stay, so that running connections keep their translation"
    assert len(system.notes) == 3


def test_an_activation_waits_half_a_minute_for_the_resident_process_that_loads_the_first_rules(system: System) -> None:
    system.fill(description())
    weigh(system, 0, HERE)
    began, resident = system.now, Lock(state.OWN_CALLS_LOCK, 0, "own-calls")
    resident.__enter__()

    def loaded_at_last() -> None:
        if system.now > began + 30:
            system.while_waiting = lambda: None
            resident.__exit__()

    system.while_waiting = loaded_at_last
    own_calls.redirect(description())
    assert loaded(system) == ["nft --file -"]


def test_rules_whose_loading_was_interrupted_are_loaded_again(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    system.fill(description())
    weigh(system, 0, HERE)
    own_calls.redirect(description())
    weigh(system, 1, HERE)
    with monkeypatch.context() as interrupted:
        write = state.write
        interrupted.setattr(state, "write", lambda path, text: sys.exit("killed") if loaded(system)[-1:] else write(path, text))
        loaded(system)
        with pytest.raises(SystemExit):
            own_calls.redirect(description())
    # The kernel has the new rules, and none is recorded. Now the old ones are needed again.
    weigh(system, 0, HERE)
    own_calls.redirect(description())
    assert loaded(system) == ["nft --file -"]
    assert "dnat" in Path(state.OWN_CALLS).read_text()


def test_rules_that_nft_refused_are_given_to_it_again(system: System) -> None:
    system.fill(description())
    weigh(system, 0, HERE)
    system.answers["nft --file -"] = (1, "", "no memory")
    with pytest.raises(Refused):
        own_calls.redirect(description())
    assert not Path(state.OWN_CALLS).exists(), "the node has no such rules, and may never need them"
    del system.answers["nft --file -"]
    loaded(system)
    own_calls.redirect(description())
    assert loaded(system) == ["nft --file -"]


def test_calls_to_an_additional_address_go_to_the_live_servers_too(system: System) -> None:
    said = description(replace(vip(), additional_addresses=(ip_address("192.168.0.252"),)))
    system.fill(said)
    weigh(system, 0, HERE)
    own_calls.redirect(said)
    text = Path(state.OWN_CALLS).read_text()
    assert all(f"add rule ip openshift_lvs_own output ip daddr {address} tcp dport 8443 " in text for address in ("192.168.0.250", "192.168.0.252"))


def test_rules_for_calls_by_ipv6_go_with_the_version_that_has_an_ipv6_vip(system: System) -> None:
    servers = {f"fd00::{number}": 1 for number in (2, 3, 4)}
    said = replace(description(vip(address="fd00::250", owner="fd00::2", services=(service(weights=servers),))), address_v6=ip_address("fd00::2"))
    system.fill(said)
    system.fails("fd00::2")
    own_calls.redirect(said)
    assert "add rule ip6 openshift_lvs_own output ip6 daddr fd00::250 " in Path(state.OWN_CALLS).read_text()
    system.fill(description())
    own_calls.redirect(description())
    text = Path(state.OWN_CALLS).read_text()
    assert "flush chain ip6 openshift_lvs_own output\n" in text and "fd00::" not in text
    assert loaded(system) == ["nft --file -"] * 2
    own_calls.redirect(description())
    assert loaded(system) == []


def test_without_any_live_server_calls_stay_where_they_are(system: System) -> None:
    system.fill(description())
    weigh(system, 0, *ADDRESSES)
    own_calls.redirect(description())
    assert loaded(system) == []


def test_calls_from_a_server_that_is_no_director_go_to_other_servers_while_its_own_is_down(system: System) -> None:
    system.fill(SERVER)
    own_calls.redirect(SERVER)
    assert loaded(system) == []
    weigh(system, 0, HERE)
    own_calls.redirect(SERVER)
    assert loaded(system) == ["nft --file -"]
    assert f"{{ 0 : {OTHERS[0]}, 1 : {OTHERS[1]} }}" in Path(state.OWN_CALLS).read_text()


def test_a_server_of_a_release_in_which_only_directors_had_a_table_has_none_to_ask(system: System) -> None:
    own_calls.redirect(description(director=False, directors=()))
    assert loaded(system) == []


ANSWER = """
import socketserver
class Name(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"192.168.0.3 answers {self.client_address[0]}\\n".encode())
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 8443), Name).serve_forever()
"""
CALL = "import socket; print(socket.create_connection(('192.168.0.250', 8443), 3).makefile().readline().strip())"


@pytest.fixture(params=[True, False], ids=["director", "server"])
def neighbours(request: pytest.FixtureRequest) -> Iterator[Node]:
    """master0 without a server of its own, master1's server at the other end of its wire, and a pod behind a bridge."""
    with node() as made:
        made.roll_out(cluster() if request.param else server_only(), "master0")
        made.write("/stub/answer", ANSWER)
        made.sh("""
            unshare --net /usr/bin/sleep 100 >/dev/null 2>&1 </dev/null & echo $! >/stub/peer
            unshare --net /usr/bin/sleep 100 >/dev/null 2>&1 </dev/null & echo $! >/stub/pod
            for name in peer pod; do
                until [ "$(readlink /proc/$(cat /stub/$name)/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do /usr/bin/sleep 0.01; done
            done
            ip link set wire netns "$(cat /stub/peer)"
            ip link add cni0 type veth peer name pod0; ip link set pod0 netns "$(cat /stub/pod)"
            ip address add 10.88.0.1/24 dev cni0; ip link set cni0 up; /usr/sbin/sysctl -qw net.ipv4.ip_forward=1
            enter() { nsenter --net="/proc/$(cat /stub/$1)/ns/net" sh -euc "$2"; }
            enter peer "ip link set lo up; ip address add 192.168.0.3/24 dev wire; ip link set wire up"
            enter pod "ip address add 10.88.0.5/24 dev pod0; ip link set pod0 up; ip route add default via 10.88.0.1"
            enter peer "python3 /stub/answer >/dev/null 2>&1 </dev/null &"
            until (: <>/dev/tcp/192.168.0.3/8443) 2>/dev/null || bash -c ': <>/dev/tcp/192.168.0.3/8443' 2>/dev/null; do /usr/bin/sleep 0.05; done
        """)
        yield made


def test_a_call_from_the_node_and_from_a_pod_is_answered_by_another_server_while_the_own_one_is_down(neighbours: Node) -> None:
    node_calls = ("python3", "-c", CALL)
    pod_calls = ("sh", "-c", f'nsenter --net="/proc/$(cat /stub/pod)/ns/net" python3 -c "{CALL}"')
    for call in (node_calls, pod_calls):
        assert "refused" in neighbours.run(*call).stderr, "nothing listens here"
    neighbours.sh("sed -i 's/192.168.0.2 DR 1/192.168.0.2 DR 0/; s/192.168.0.4 DR 1/192.168.0.4 DR 0/' /stub/table")
    neighbours.python("own_calls.redirect(here)")
    for call in (node_calls, pod_calls):
        assert neighbours.run(*call).stdout == "192.168.0.3 answers 192.168.0.2\n"
    neighbours.sh("sed -i 's/192.168.0.2 DR 0/192.168.0.2 DR 1/' /stub/table")
    neighbours.python("own_calls.redirect(here)")
    for call in (node_calls, pod_calls):
        assert "refused" in neighbours.run(*call).stderr


def test_rules_that_another_program_removes_are_missed_and_loaded_again(neighbours: Node) -> None:
    neighbours.sh("sed -i 's/192.168.0.2 DR 1/192.168.0.2 DR 0/' /stub/table")
    said = neighbours.python("""
from openshift_lvs import programs
own_calls.redirect(here)
said = [own_calls.changed()]
for change in (("flush", "chain", "ip", "openshift_lvs_own", "output"), ("delete", "table", "ip", "openshift_lvs_own")):
    programs.run("nft", *change)
    said.append(own_calls.changed())
    own_calls.load_again(1)
    said.append(own_calls.changed())
print("|".join(said))
""")
    intact, flushed, again, removed, there = said.strip().split("|")
    assert (intact, again, there) == ("", "", "")
    assert removed == "table ip openshift_lvs_own was missing"
    assert re.fullmatch(r"table ip openshift_lvs_own had \d+ rules, not \d+", flushed)


def test_nothing_of_it_stays_on_a_host_that_is_removed(neighbours: Node) -> None:
    neighbours.sh("sed -i 's/192.168.0.2 DR 1/192.168.0.2 DR 0/' /stub/table")
    neighbours.python("own_calls.redirect(here)")
    assert "0 : 192.168.0.3, 1 : 192.168.0.4" in neighbours.read("/run/openshift-lvs/own-calls")
    neighbours.succeeds("remove")
    assert "openshift_lvs" not in neighbours.sh("nft list tables")
