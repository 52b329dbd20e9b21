"""What a node says of itself, and the requests that it sends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import keepalived
from node.openshift_lvs import connections, observe, probes, state
from node.openshift_lvs.errors import TimedOut
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.ipvs import RealServer, SyncDaemon, VirtualServer, parse
from node.openshift_lvs.probes import Target
from node.openshift_lvs.record import replace
from node.openshift_lvs.repairs import Repair
from node.openshift_lvs.translation import Translation
from node.openshift_lvs.vrrp import Transition
from tests.unit.node_functions import ADDRESSES, HERE, MARK, SERVER, System, description, drain, in_force, vip

EVERYTHING = Facts(
    host="master0",
    keepalived="active",
    version="0123456789ab",
    proven="0123456789ab",
    since="2026-01-31 12:00:00 UTC",
    owns_nothing=True,
    drained=frozenset({ADDRESSES[1], ADDRESSES[2]}),
    files={"keepalived.conf": "0" * 64},
    mac="52:54:00:00:00:01",
    held=frozenset({HERE, "192.168.0.250"}),
    lo=frozenset({"127.0.0.1", "::1", "192.168.0.250"}),
    sysctl=frozenset({"net.ipv4.vs.conntrack = 0"}),
    table={
        MARK: VirtualServer("mh", ("mh-fallback",), None, {HERE: RealServer("DR", 1, 7), ADDRESSES[1]: RealServer("DR", 0, 2)}),
        MARK + 1: VirtualServer("wlc", (), 300, {"2001:db8::2": RealServer("TUN", 1, 0)}),
    },
    sync=(SyncDaemon("master", "eth0", 51, 1472),),
    views={"master": -50},
    drains={"master": -254, "other": -50, "third": 0},
    witnesses={"192.168.0.9:22": False, "192.168.0.8:22": True},
    rules="-old\n+new",
    strangers="a stranger",
    vrrp={"master": Transition("MASTER", 1772366400.25, "BACKUP"), "other": Transition("FAULT", 1.0)},
    priorities={"master": 150},
    watch="active",
    repairs=(Repair("IPVS table", 2, 7, "kube-proxy", True),),
    filters=("table inet filter, chain input, priority 0",),
    foreign=("192.168.0.77 VRRP", "192.168.0.77 connection sync"),
    translated=(Translation("192.168.0.250:443/TCP", "10.88.0.2:8443", "table ip nat, chain PREROUTING"), Translation("192.168.0.250:80/TCP", rule="why")),
    moved="192.168.0.2 is on br-ex",
)


# Facts


@pytest.mark.parametrize("facts", [EVERYTHING, Facts(), replace(EVERYTHING, table=parse(""))])
def test_facts_are_the_same_after_they_were_sent_as_json(facts: Facts) -> None:
    assert Facts.from_json(facts.to_json()) == facts


def test_facts_in_json_are_byte_stable() -> None:
    many = [f"192.168.0.{number}" for number in range(10, 60)]
    assert json.loads(replace(EVERYTHING, held=frozenset(many)).to_json())["held"] == many


def test_a_vip_that_is_drained_differs_from_one_of_a_roll_out() -> None:
    assert (EVERYTHING.aside, EVERYTHING.behind) == (["master"], ["other"])


@pytest.mark.parametrize(
    ("witnesses", "views", "view"),
    [
        ({}, {}, "good"),
        ({}, {"master": 0, "other": -33}, "poor"),
        ({"a": True, "b": False}, {"master": 0}, "good"),
        ({"a": False, "b": False}, {"master": 0}, "cut off"),
        ({"a": False}, {"master": -100}, "cut off"),
    ],
)
def test_the_view_of_a_node_is_good_poor_or_cut_off(witnesses: dict[str, bool], views: dict[str, int], view: str) -> None:
    assert Facts(witnesses=witnesses, views=views).view == view


def test_a_node_is_cut_off_as_long_as_its_priority_is_lowered_for_that(system: System) -> None:
    system.answers |= {"systemctl is-active": (0, "active\n", ""), "nft list set ip openshift_lvs": (0, "", "")}
    said = replace(description(), witnesses=("192.168.0.9:22",))
    in_force("v1", said)
    state.write(state.CUT_OFF, "-200\n")
    facts = replace(observe.facts(), witnesses={"192.168.0.9:22": True})
    assert (facts.view, facts.cut_off) == ("cut off", -200)
    assert "; priority lowered: cut off -200 since 20" in observe.report(facts, said)


def test_the_facts_of_a_node_without_a_version_say_so(system: System) -> None:
    system.answers["systemctl is-active"] = (3, "inactive\n", "")
    assert observe.facts() == Facts(keepalived="inactive")


def test_the_facts_of_a_server_have_no_table(system: System) -> None:
    system.answers |= {"systemctl is-active": (3, "inactive\n", ""), "ip -oneline address show": (0, "1: lo inet 192.168.0.250/32 scope global lo", "")}
    in_force("v1", description(director=False, directors=()))
    drain(ADDRESSES[1])
    facts = observe.facts()
    assert (facts.host, facts.version, facts.proven, facts.lo, facts.drained) == (
        "master0",
        "v1",
        "v1",
        frozenset({"192.168.0.250"}),
        frozenset({ADDRESSES[1]}),
    )
    assert (facts.table, facts.views, facts.rules, facts.strangers) == ({}, {}, "", "")
    assert set(facts.files) == {"host.json"}


def test_the_facts_of_a_server_that_runs_keepalived_have_its_table_and_nothing_of_vrrp(system: System) -> None:
    system.answers |= {"systemctl is-active": (0, "active\n", "")}
    in_force("v1", SERVER)
    system.fill(SERVER)
    facts = observe.facts()
    assert (facts.keepalived, set(facts.table[MARK].servers)) == ("active", set(ADDRESSES))
    assert (facts.sync, facts.views, facts.drains, facts.vrrp, facts.strangers) == ((), {}, {}, {}, "")
    assert f"    host-{HERE} {HERE}: weight 1, 0 connections" in observe.report(facts, SERVER).splitlines()


def test_the_facts_of_a_director_have_everything(system: System) -> None:
    system.answers |= {"systemctl is-active": (0, "active\n", ""), "nft list set ip openshift_lvs": (0, "", "")}
    in_force("v1", description())
    Path(state.CURRENT, "auth-master.conf").write_text("secret\n")
    Path(state.CURRENT, "drained").mkdir()
    Path(state.CURRENT, "drained", f"{HERE}.conf").touch()
    system.fill(description())
    system.held = {"master": "192.168.0.250"}
    Path(state.view_file("master")).write_text("-50\n")
    facts = observe.facts()
    assert (facts.keepalived, facts.views, facts.drains, facts.held) == ("active", {"master": -50}, {"master": 0}, frozenset({"192.168.0.250"}))
    assert set(facts.table[MARK].servers) == set(ADDRESSES)
    assert set(facts.files) == {"host.json", "keepalived.conf"}, "neither secrets nor what the node wrote"


def test_the_facts_are_gathered_without_the_imports_of_sockets() -> None:
    """They take long on a slow processor. Test packets need them, and are sent only where another program has rules in prerouting."""
    script = "import sys; sys.path.insert(0, sys.argv[1]); from openshift_lvs import observe; print('socket' in sys.modules)"
    assert subprocess.run([sys.executable, "-IS", "-c", script, keepalived.PROGRAM], check=True, capture_output=True, text=True).stdout == "False\n"


# The report


def test_a_node_without_a_version_reports_the_remedy() -> None:
    assert observe.report(Facts(keepalived="inactive"), None).splitlines() == ["keepalived  inactive", "version     none is in force; pulumi up"]


def test_a_server_reports_its_vips_only() -> None:
    facts = Facts(version="v1", proven="v1", since="now", lo=frozenset({"192.168.0.250"}))
    said = description(vip(), vip("other", "192.168.0.251", 52), director=False, directors=())
    assert observe.report(facts, said).splitlines() == [
        "host        master0, pool master, real server",
        "version     v1, in force since now",
        "master 192.168.0.250",
        "other 192.168.0.251 (NOT ON lo; openshift-lvs apply)",
    ]


def test_a_director_reports_services_servers_witnesses_and_faults(system: System) -> None:
    drain(ADDRESSES[1])
    facts = replace(EVERYTHING, drained=frozenset({ADDRESSES[1]}), owns_nothing=False, proven="0000")
    lines = observe.report(facts, description()).splitlines()
    assert lines[:3] == [
        "host        master0, pool master, director and real server",
        "keepalived  active",
        "version     0123456789ab, in force since 2026-01-31 12:00:00 UTC; healthy last: 0000",
    ]
    lowered = "drain -254 since never, view -50 since never"
    assert lines[3] == f"master 192.168.0.250, held here (MASTER since 2026-03-01 12:00:00 UTC), owner this host; priority lowered: {lowered}"
    assert lines[4:6] == [f"  8443/TCP, mark {MARK}", f"    host-{HERE} {HERE}: weight 1, 7 connections"]
    assert lines[6].startswith(f"    host-{ADDRESSES[1]} {ADDRESSES[1]}: weight 0, 2 connections, drained since 20")
    assert lines[7:] == [
        f"    host-{ADDRESSES[2]} {ADDRESSES[2]}: fails its health check, 0 connections",
        "witness     192.168.0.9:22: silent",
        "witness     192.168.0.8:22: answers",
        "sync        master on eth0 with 51",
        "repaired    IPVS table: 2 times, last 7 s ago, changed by kube-proxy; another program changes it again and again",
        "FAULT       a stranger",
        "FAULT       nftables rules differ from the version's; openshift-lvs apply",
        "FAULT       192.168.0.2 is on br-ex",
        f"FAULT       {EVERYTHING.translated[0]}",
    ]


def test_a_drained_director_reports_the_command_that_ends_it(system: System) -> None:
    Path(state.OWNERSHIP).touch()
    said = description(vip(owner=ADDRESSES[1]))
    report = observe.report(replace(EVERYTHING, held=frozenset(), table={}, drains={}, views={}), said)
    assert "; operations undrain master0" in report
    assert f"not held here (MASTER since 2026-03-01 12:00:00 UTC), owner host-{ADDRESSES[1]}\n" in report
    assert f"8443/TCP, mark {MARK}: not in the kernel's table" in report


# Probes


@pytest.mark.parametrize(
    ("at", "address", "port"),
    [("192.0.2.1:80", "192.0.2.1", 80), ("[2001:db8::1]:443", "2001:db8::1", 443), ("2001:db8::1:443", "2001:db8::1", 443)],
)
def test_address_and_port_of_either_family_are_told_apart(at: str, address: str, port: int) -> None:
    assert connections.split(at) == (address, port)


@pytest.mark.parametrize("at", ["192.0.2.1", "192.0.2.1:", "192.0.2.1:http", "path=/healthz"])
def test_an_address_without_a_port_is_an_error(at: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        connections.split(at)


def test_each_target_has_the_options_that_follow_it() -> None:
    words = ["192.0.2.1:80", "path=/a?b=c", "host=api.example", "status=200-299,401", "protocol=1.1", "192.0.2.1:22", "[2001:db8::1]:80", "path=/"]
    assert probes.targets(words) == [
        Target("192.0.2.1:80", "/a?b=c", "api.example", "200-299,401", "1.1"),
        Target("192.0.2.1:22"),
        Target("[2001:db8::1]:80", "/"),
    ]


@pytest.mark.parametrize(
    ("protocol", "sent"),
    [
        ("1.0", "GET /a HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nHost: api\r\n\r\n"),
        ("1.0C", "GET /a HTTP/1.0\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: api\r\n\r\n"),
        ("1.1", "GET /a HTTP/1.1\r\nUser-Agent: KeepAliveClient\r\nConnection: close\r\nHost: api\r\n\r\n"),
    ],
)
def test_a_request_is_what_keepalived_sends(protocol: str, sent: str) -> None:
    assert Target("192.0.2.1:80", "/a", "api", "200", protocol)._request() == sent.encode()


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """A server on this machine that gives each connection the next of these answers; its address, and the answers."""
    answers: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(answers.pop(0) if answers else b"")

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", answers
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.0 401\r\n", ""),
        (b"HTTP/1.1 402 Payment Required\r\n\r\n", "HTTP status 402, and the check accepts 200-299,401 (sent as Host: api)"),
        (b"SSH-2.0-OpenSSH\r\n", "an answer that is not HTTP"),
        (b"", "an answer that is not HTTP"),
    ],
)
def test_an_answer_is_accepted_by_its_status(server: tuple[str, list[bytes]], answer: bytes, fault: str) -> None:
    at, answers = server
    answers.append(answer)
    assert Target(at, "/healthz", "api", "200-299,401").fault() == fault


def test_answers_must_come_in_a_row(system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    faults = ["", "", "no answer", "", "", ""]
    monkeypatch.setattr(Target, "fault", lambda _: faults.pop(0))
    probes.answers(10, 3, [Target("192.0.2.1:80", "/")])
    assert (capsys.readouterr().out, faults) == ("192.0.2.1:80/ answered 3 of 3\n", [])


def test_missing_answers_name_the_last_fault(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "fault", lambda _: "no answer")
    with pytest.raises(TimedOut, match=r"^192\.0\.2\.1:80: waited 5 s for 3 answers in a row; last seen: 0, then no answer$"):
        probes.answers(5, 3, [Target("192.0.2.1:80")])
    assert system.now == 1005


def test_everything_that_is_asked_from_outside_is_one_command(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = "192.168.0.250 . 02:00:00:00:00:01, 192.168.0.250 . 02:00:00:00:00:64, 192.168.0.77 . 02:00:00:00:00:77"
    system.answers["nft list set arp"] = (0, f"elements = {{ {heard} }}", "")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at = f"127.0.0.1:{listening.getsockname()[1]}"
        in_force("v1", description())
        said = probes.outside(description(), ["192.168.0.250", f"{at}=3", "192.168.0.251"])
        came = [str(listening.accept()[1][1]) for _ in range(3)]
    assert said[:2] == ["arp 192.168.0.250 02:00:00:00:00:01", "arp 192.168.0.250 02:00:00:00:00:64"]
    assert said[2].split()[:2] == ["tcp", at] and sorted(said[2].split()[2:]) == sorted(came)
    assert len(said) == 3
    assert [line for line in system.asked if line.startswith("nft --file")] == ["nft --file -"], "one recording for all VIPs"


def test_a_witness_that_refuses_is_there(server: tuple[str, list[bytes]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = f"127.0.0.1:{closed.getsockname()[1]}"
    assert probes.reached((server[0], refusing)) == {server[0]: True, refusing: True}


def test_no_witness_is_asked_where_there_is_none() -> None:
    assert probes.reached(()) == {}
