"""What the operator's `drain` and `undrain` tell the nodes, in which order, and what they refuse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.configuration import Cluster
from components.configuration.pools import Host
from components.keepalived import describe
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.ipvs import RealServer, VirtualServer
from node.openshift_lvs.record import replace
from operations import __main__ as operations
from operations import drain, nodes
from operations.drain import Draining, Refused
from operations.nodes import Answer, Nodes
from tests.unit.test_cluster import REMOVED
from tests.unit.test_dual_stack import written

GOLDEN = Path(__file__).parent / "golden"
MASTERS = {"master0": "192.168.0.2", "master1": "192.168.0.3", "master2": "192.168.0.4"}
MASTER1 = MASTERS["master1"]
MARK = 51 << 20 | 8443


class Pool(Nodes):
    """Three masters, or other hosts, as `status --json` shows them; what is done to one shows in the next look."""

    def __init__(self, hosts: Mapping[str, str] = MASTERS) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        self.holder = "master0"
        self.dead: set[str] = set()
        self.drained: dict[str, set[str]] = {host: set() for host in hosts}
        self.owns_nothing: set[str] = set()
        self.connections = dict.fromkeys(hosts, 0)
        self.lines = dict.fromkeys(hosts, "")
        self.sockets = dict.fromkeys(hosts, "")
        self.views = dict.fromkeys(hosts, 0)
        self.out: set[str] = set()

    def _ask(self, host: str, verb: str, *arguments: str) -> Answer:
        if host in self.dead:
            return Answer("", f"not reachable at {host}", reached=False)
        if (verb, *arguments) == ("status", "--json"):
            return Answer(self.facts(host).to_json())
        if verb == "connections":
            return Answer(self.lines[host])
        if verb == "sockets":
            return Answer(self.sockets[host])
        self.asked.append(" ".join((host, verb, *arguments)))
        match verb, *arguments:
            case "rotation", where, address:
                (self.drained[host].add if where == "out" else self.drained[host].discard)(address)
            case "ownership", where:
                (self.owns_nothing.add if where == "off" else self.owns_nothing.discard)(host)
                if self.holder == host:
                    self.holder = next(other for other in self.hosts if other != host and other not in self.owns_nothing)
            case "hand-over", _:
                self.holder = "master0"
        return Answer("")

    def facts(self, host: str) -> Facts:
        servers = {
            address: RealServer("DR", 0 if address in self.drained[host] else 1, self.connections[name])
            for name, address in self.hosts.items()
            if name not in self.out
        }
        return Facts(
            host=host,
            keepalived="active",
            version="abc",
            proven="abc",
            owns_nothing=host in self.owns_nothing,
            drained=frozenset(self.drained[host]),
            held=frozenset({self.hosts[host], *(["192.168.0.250"] if self.holder == host else [])}),
            table={MARK: VirtualServer("mh", ("mh-fallback", "mh-port"), None, servers)},
            views={"master": self.view(host)},
        )

    def view(self, host: str) -> int:
        return self.views[host]


class Judging(Pool):
    """Hosts of which some fail their health check (`out`), each with the view that follows from the quorum rendered for it."""

    def __init__(self, cluster: Cluster, *out: str) -> None:
        super().__init__({name: str(host.address) for name, host in cluster.pools["master"].hosts.items()})
        self.cluster, self.out = cluster, set(out)

    def view(self, host: str) -> int:
        (service,) = describe(self.cluster, host).services
        live = sum(server.weight for server in service.real_servers if server.name not in self.out and str(server.address) not in self.drained[host])
        return 0 if live >= sum(service.quorum_without(self.drained[host])) else -100


@pytest.fixture
def pool() -> Pool:
    """The pool, with the clock of `quick`."""
    return Pool()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by a second whenever one looks."""
    ticks = iter(range(10_000))
    for module in (drain, nodes):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _: None))


def draining(pool: Pool, cluster: Cluster, host: str) -> tuple[Draining, list[str]]:
    said: list[str] = []
    return Draining(pool, cluster, host, lambda step: said.append(str(step))), said


def test_a_node_hands_over_before_it_loses_its_weight_on_every_director(pool: Pool, cluster: Cluster) -> None:
    verb, said = draining(pool, cluster, "master0")
    verb.out(60, server_only=False)
    assert pool.asked[0] == "master0 ownership off"
    assert sorted(pool.asked[1:]) == [f"{host} rotation out 192.168.0.2" for host in ("master0", "master1", "master2")]
    assert said[-1] == "master0: no connection left"


def test_a_server_alone_leaves_its_addresses_where_they_are(pool: Pool, cluster: Cluster) -> None:
    verb, _ = draining(pool, cluster, "master0")
    verb.out(60, server_only=True)
    assert not [line for line in pool.asked if "ownership" in line]
    assert pool.holder == "master0"


def test_the_weight_goes_once_the_new_holder_has_met_every_connection(pool: Pool, cluster: Cluster) -> None:
    pool.lines["master0"] = "ESTABLISHED 10.0.0.1:40000 192.168.0.250:8443 192.168.0.2:8443\n"
    pool.lines["master1"] = "FIN_WAIT 10.0.0.1:40000 192.168.0.250:8443 192.168.0.2:8443\n"
    verb, said = draining(pool, cluster, "master0")
    verb.out(60, server_only=False)
    assert not [line for line in said if "silent" in line]
    pool.lines["master1"] = ""
    verb.back()
    with pytest.raises(Refused, match="master0: 1 silent connections that its VIPs' new holder does not know; they end when the host stops"):
        verb.out(60, server_only=False)
    assert "master0: 1 connections sent nothing since the VIPs moved, so the new holder does not know them; they break if they send again" in said


def test_connections_that_do_not_end_are_counted_by_service_and_the_drain_stays(pool: Pool, cluster: Cluster) -> None:
    pool.connections["master1"] = 3
    verb, _ = draining(pool, cluster, "master1")
    with pytest.raises(Refused, match=r"master1: after 60 s: 3 connections left on master:8443/TCP; it stays drained: run drain again to wait longer"):
        verb.out(60, server_only=False)
    assert pool.drained["master0"] == {MASTER1}


CLIENT = "192.168.0.9:40000"
KNOWN = f"ESTABLISHED {CLIENT} 192.168.0.250:8443 {MASTER1}:8443"


@pytest.mark.parametrize(
    ("of_host", "of_holder", "left"),
    [
        ("listens 8443", "", 0),
        (f"listens 8443\n192.168.0.250:8443 {CLIENT}", "", 3),
        (f"listens 8443\n10.244.0.7:443 {CLIENT}", "", 3),
        ("listens 8443\n192.168.0.250:8443 192.168.0.2:30000", f"{CLIENT} 192.168.0.250:8443", 3),
        ("listens 22", "", 3),
    ],
    ids=["has ended", "is open", "is open in a container", "is open, from a pod of the holder", "unknown: no program of the host listens"],
)
def test_drain_waits_for_connections_that_have_a_socket(pool: Pool, cluster: Cluster, of_host: str, of_holder: str, left: int) -> None:
    pool.connections["master1"] = 3
    # The host's sockets of another service do not count for this one.
    other = f"ESTABLISHED 192.168.0.9:50000 192.168.0.250:443 {MASTER1}:443"
    pool.lines["master0"] = "\n".join([*[KNOWN] * 3, other])
    of_host += "\n192.168.0.250:443 192.168.0.9:50000"
    pool.sockets |= {"master0": of_holder, "master1": of_host}
    verb, said = draining(pool, cluster, "master1")
    if left:
        with pytest.raises(Refused, match=f"after 60 s: {left} connections left on master:8443/TCP"):
            verb.out(60, server_only=False)
    else:
        verb.out(60, server_only=False)
        assert said[-1] == "master1: no connection left"


def test_nobody_seen_to_hold_the_address_is_not_taken_for_no_connections(pool: Pool, cluster: Cluster) -> None:
    pool.holder = "nobody"
    verb, _ = draining(pool, cluster, "master1")
    with pytest.raises(Refused, match="no reachable node holds master"):
        verb.out(60, server_only=False)


def test_the_last_server_and_the_last_director_are_not_drained(pool: Pool, cluster: Cluster) -> None:
    pool.out = {"master1", "master2"}
    with pytest.raises(Refused, match="master0 is the last live server of master:8443/TCP"):
        draining(pool, cluster, "master0")[0].out(60, server_only=True)
    pool.out = set()
    pool.views["master1"] = -100
    pool.owns_nothing = {"master2"}
    with pytest.raises(Refused, match="no other director of pool master could take the VIPs of master0"):
        draining(pool, cluster, "master0")[0].out(60, server_only=False)
    assert pool.asked == []


def test_a_drained_node_may_be_drained_again_to_wait_again_when_it_is_alone_by_now(pool: Pool, cluster: Cluster) -> None:
    draining(pool, cluster, "master1")[0].out(60, server_only=False)
    pool.views = {"master0": -100, "master1": -100, "master2": -100}
    draining(pool, cluster, "master1")[0].out(60, server_only=False)


def test_a_director_that_is_not_reached_is_named_after_the_others_are_told(pool: Pool, cluster: Cluster) -> None:
    pool.dead = {"master2"}
    verb, _ = draining(pool, cluster, "master1")
    with pytest.raises(Refused, match="master2 was not told: not reachable at master2; when that is repaired, run drain master1 again"):
        verb.out(60, server_only=False)
    assert MASTER1 in pool.drained["master0"]


def test_undrain_brings_the_owners_address_home_and_may_be_run_twice(pool: Pool, cluster: Cluster) -> None:
    verb, said = draining(pool, cluster, "master0")
    verb.out(60, server_only=False)
    assert pool.holder == "master1"
    verb.back()
    assert pool.holder == "master0"
    assert said.index("master1: handed master to master0") < said.index("master1: balances to master0 again"), "moved while all tables are alike"
    verb.back()
    assert pool.drained == {"master0": set(), "master1": set(), "master2": set()}
    assert pool.owns_nothing == set()
    assert pool.holder == "master0"


def test_undrain_gives_a_host_that_is_a_director_no_longer_its_ownership_back_for_the_day_it_is(pool: Pool, cluster: Cluster, article: dict[str, Any]) -> None:
    draining(pool, cluster, "master2")[0].out(60, server_only=False)
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    verb, said = draining(pool, Cluster.parse(article), "master2")
    verb.back()
    assert said[0] == "master2: may take VIPs again"
    assert pool.owns_nothing == set()


def test_a_server_that_is_no_director_is_told_of_a_drain_too_and_is_named_when_it_is_not_reached(pool: Pool, article: dict[str, Any]) -> None:
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    cluster = Cluster.parse(article)
    draining(pool, cluster, "master2")[0].out(60, server_only=False)
    assert pool.drained == {host: {MASTERS["master2"]} for host in MASTERS}
    draining(pool, cluster, "master2")[0].back()
    assert not any(pool.drained.values())
    pool.dead.add("master2")
    with pytest.raises(Refused, match="master2 was not told: not reachable at master2; when that is repaired, run drain master1 again"):
        draining(pool, cluster, "master1")[0].out(60, server_only=False)


def test_the_address_stays_away_while_its_owners_view_is_poor(pool: Pool, cluster: Cluster) -> None:
    verb, _ = draining(pool, cluster, "master0")
    verb.out(60, server_only=False)
    pool.views["master0"] = -100
    with pytest.raises(Refused, match="its view of the servers is not good, so master stays where it is"):
        verb.back()
    assert pool.holder == "master1"


# A VIP with an address of each family


class Both(Pool):
    """The hosts of the dual-stack example, of which `master0` and `master1` are directors. A command about a host or a VIP concerns both addresses of it."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster.parse(written(("vips.old", REMOVED), ("vips.new", REMOVED)))
        self.fails_with_ipv6: set[str] = set()
        """Hosts whose health checks of IPv6 fail."""

    def facts(self, host: str) -> Facts:
        nodes, vips = self.cluster.pools["master"].hosts, self.cluster.vips_of("master")
        return replace(
            super().facts(host),
            held=frozenset(str(vip.address) for vip in vips.values() if self.holder == host),
            table={
                vip.mark(service): VirtualServer("mh", ("mh-fallback", "mh-port"), None, self._servers(host, vip.address.version, nodes))
                for vip in vips.values()
                for service in vip.services
            },
            views=dict.fromkeys(vips, 0),
        )

    def _servers(self, host: str, version: int, nodes: Mapping[str, Host]) -> dict[str, RealServer]:
        out = {name for name, node in nodes.items() if str(node.address) in self.drained[host]} | (self.fails_with_ipv6 if version == 6 else set())
        of_family = {name: str(node.address_of(version)) for name, node in nodes.items()}
        return {address: RealServer("DR", 0 if name in out else 1, self.connections[name] if version == 6 else 0) for name, address in of_family.items()}


def test_the_connections_of_both_addresses_of_a_host_are_waited_for() -> None:
    pool = Both()
    pool.connections["master1"] = 3
    left = "3 connections left on master-v6:6443/TCP, 3 connections left on master-v6:53/UDP"
    with pytest.raises(Refused, match=f"master1: after 60 s: {left}; it stays drained"):
        draining(pool, pool.cluster, "master1")[0].out(60, server_only=True)
    assert sorted(pool.asked) == [f"{host} rotation out 192.168.0.3" for host in ("master0", "master1", "master2")]


def test_the_last_live_server_of_one_address_is_not_drained() -> None:
    pool = Both()
    pool.fails_with_ipv6 = {"master1", "master2"}
    with pytest.raises(Refused, match="master0 is the last live server of master-v6:6443/TCP"):
        draining(pool, pool.cluster, "master0")[0].out(60, server_only=True)
    draining(pool, pool.cluster, "master1")[0].out(60, server_only=True)


def test_the_new_holder_should_have_met_the_connections_of_both_addresses() -> None:
    pool = Both()
    lines = {"to fd00:0:0:1::2": "ESTABLISHED [2001:db8::1]:40000 [fd00:0:0:1::250]:6443 [fd00:0:0:1::2]:6443\n"}
    ask = pool._ask
    pool._ask = lambda host, verb, *words: (  # type: ignore[method-assign]
        Answer(lines.get(" ".join(words), "") if host == "master0" else "") if verb == "connections" else ask(host, verb, *words)
    )
    with pytest.raises(Refused, match="master0: 1 silent connections that its VIPs' new holder does not know"):
        draining(pool, pool.cluster, "master0")[0].out(60, server_only=False)


def test_both_addresses_of_a_vip_come_home_with_one_command() -> None:
    pool = Both()
    draining(pool, pool.cluster, "master0")[0].out(60, server_only=False)
    verb, said = draining(pool, pool.cluster, "master0")
    verb.back()
    assert [line for line in pool.asked if "hand-over" in line] == ["master1 hand-over master"]
    assert "master1: handed master and master-v6 to master0" in said


# The command line


def run(pool: Pool, monkeypatch: pytest.MonkeyPatch, verb: str, host: str, *options: str) -> int:
    """The exit status of the verb for a host of this pool."""

    @contextlib.contextmanager
    def reach(*_: object) -> Iterator[Pool]:
        yield pool

    monkeypatch.setattr(operations, "reach", reach)
    return operations.main([verb, host, "--stack", "example", "--root", str(GOLDEN), *options])


def test_the_time_that_a_host_has_to_answer_ssh_can_be_set(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    given: list[object] = []

    @contextlib.contextmanager
    def reach(*arguments: object) -> Iterator[Pool]:
        given.append(arguments[-1])
        yield Pool()

    monkeypatch.setattr(operations, "reach", reach)
    command = ["undrain", "master1", "--stack", "example", "--root", str(GOLDEN)]
    operations.main(command)
    operations.main([*command, "--connect-timeout", "45"])
    assert given == [10, 45]
    for wrong in ("0", "1.5", "soon"):
        with pytest.raises(SystemExit):
            operations.main([*command, "--connect-timeout", wrong])
        assert f"{wrong!r} is not a whole number of seconds from 1" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_json_has_every_step_that_the_text_has_and_the_progress_is_on_standard_error(
    verb: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pool, monkeypatch, verb, "master0") == 0
    told = capsys.readouterr()
    assert told.err == "" and len(told.out.splitlines()) > 3
    assert run(Pool(), monkeypatch, verb, "master0", "--json") == 0
    said = capsys.readouterr()
    assert said.err == told.out
    answer = json.loads(said.out)
    assert (answer["format"], answer["stack"], answer["result"]) == (1, "example", "ok")
    assert [f"{each['subject']}: {each['text']}\n" for each in answer["findings"]] == told.out.splitlines(keepends=True)
    assert {each["result"] for each in answer["findings"]} == {"ok"}


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_json_ends_with_what_is_in_the_way_after_the_steps_that_were_done(
    verb: str, pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.dead = {"master2"}
    assert run(pool, monkeypatch, verb, "master1", "--json") == 1
    said = capsys.readouterr()
    answer = json.loads(said.out)
    text = f"master2 was not told: not reachable at master2; when that is repaired, run {verb} master1 again"
    assert answer["result"] == "failed"
    assert answer["findings"][-1] == {"subject": "master1", "result": "failed", "text": text}
    assert "master0" in {each["subject"] for each in answer["findings"] if each["result"] == "ok"}
    assert said.err.endswith(f"{text}\n")


def test_json_counts_the_connections_that_are_left(pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pool.connections["master1"] = 3
    assert run(pool, monkeypatch, "drain", "master1", "--json", "--deadline", "5") == 1
    text = "after 5 s: 3 connections left on master:8443/TCP; it stays drained: run drain again to wait longer"
    assert json.loads(capsys.readouterr().out)["findings"][-1] == {"subject": "master1", "result": "failed", "text": text}


def test_json_of_a_refused_drain_has_the_reason_and_no_step(pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pool.out = {"master1", "master2"}
    assert run(pool, monkeypatch, "drain", "master0", "--json") == 1
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["result"] == "failed" and "is the last live server of master:8443/TCP" in finding["text"]


def test_json_tells_a_step_that_a_host_did_not_do(pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(host: str, verb: str, *arguments: str) -> Answer:
        return Answer("", "no space left") if (host, verb) == ("master2", "rotation") else answers(host, verb, *arguments)

    answers = pool._ask
    monkeypatch.setattr(pool, "_ask", ask)
    assert run(pool, monkeypatch, "drain", "master1", "--json") == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"subject": "master2", "result": "failed", "text": "no space left"} in findings
    assert findings[-1]["text"] == "not done on every host, as shown above; repair that, and run the command again"


# Services that run on some hosts of their pool


def expecting(article: dict[str, Any], hosts: int, servers: int | None) -> Cluster:
    """A pool of that many hosts, and how many of them are expected to pass the health check."""
    article["pools"]["master"]["hosts"] = {f"master{n}": f"192.168.0.{20 + n}" for n in range(hosts)}
    article["vips"]["master"]["services"][0]["expected_servers"] = servers
    return Cluster.parse(article)


def test_without_the_key_a_service_on_two_of_five_hosts_keeps_every_host_from_being_drained(article: dict[str, Any]) -> None:
    cluster = expecting(article, 5, None)
    pool = Judging(cluster, "master2", "master3", "master4")
    with pytest.raises(Refused, match="no other director of pool master could take the VIPs of master4"):
        draining(pool, cluster, "master4")[0].out(60, server_only=False)


@pytest.mark.parametrize("host", [f"master{n}" for n in range(5)])
def test_every_host_of_a_pool_with_two_expected_servers_can_be_drained_and_put_back(article: dict[str, Any], host: str) -> None:
    cluster = expecting(article, 5, 2)
    pool = Judging(cluster, "master2", "master3", "master4")
    draining(pool, cluster, host)[0].out(60, server_only=False)
    assert all(addresses == {pool.hosts[host]} for addresses in pool.drained.values())
    assert pool.holder == ("master1" if host == "master0" else "master0")
    draining(pool, cluster, host)[0].back()
    assert not any(pool.drained.values()) and pool.holder == "master0"


def test_the_last_of_two_expected_servers_is_not_drained(article: dict[str, Any]) -> None:
    cluster = expecting(article, 5, 2)
    pool = Judging(cluster, "master2", "master3", "master4")
    draining(pool, cluster, "master1")[0].out(60, server_only=False)
    pool.asked.clear()
    with pytest.raises(
        Refused, match="master0 is the last live server of master:8443/TCP; undrain or repair another first, or move the service to another host"
    ):
        draining(pool, cluster, "master0")[0].out(60, server_only=False)
    assert pool.asked == []


def test_a_vip_returns_to_its_owner_once_the_owner_sees_the_expected_servers(article: dict[str, Any]) -> None:
    cluster = expecting(article, 5, 2)
    pool = Judging(cluster, "master2", "master3", "master4")
    draining(pool, cluster, "master0")[0].out(60, server_only=False)
    pool.out.add("master1")
    with pytest.raises(Refused, match="its view of the servers is not good, so master stays where it is"):
        draining(pool, cluster, "master0")[0].back()
    assert pool.holder == "master1"
    pool.out.remove("master1")
    draining(pool, cluster, "master0")[0].back()
    assert pool.holder == "master0"


def test_a_database_host_is_drained_once_another_is_the_leader(article: dict[str, Any]) -> None:
    cluster = expecting(article, 3, 1)
    pool = Judging(cluster, "master1", "master2")
    draining(pool, cluster, "master1")[0].out(60, server_only=False)
    draining(pool, cluster, "master1")[0].back()
    with pytest.raises(Refused, match="master0 is the last live server of master:8443/TCP"):
        draining(pool, cluster, "master0")[0].out(60, server_only=False)
    pool.out = {"master0", "master2"}
    draining(pool, cluster, "master0")[0].out(60, server_only=False)
    assert pool.holder == "master1"
    draining(pool, cluster, "master0")[0].back()
    assert pool.holder == "master0"
