"""The lab's rows with both families: addresses, what is asked, how two addresses of a VIP are judged, and what each row looks for at its end."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import re
import subprocess
from collections.abc import Callable
from ipaddress import IPv6Network, ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components import keepalived
from components.configuration import Cluster
from lab.nodes import machine, probe, runner, stack
from lab.nodes.experiments import crashes, dual
from lab.nodes.experiments.dual import DUAL, dual_stack, ipv6_alone
from lab.nodes.experiments.repairs import of_traffic
from lab.nodes.experiments.scene import Bound, Experiment, Scene
from lab.nodes.probe import BOTH, INFRA, INFRA_V6, MASTER, MASTER_V6, Holding, Seen, Stream
from tests.unit.test_experiments import BEGAN, ENDED, MOMENT, SCENE, outcome, seen
from tests.unit.test_experiments import no_machine as no_machine

GUEST = (machine.HERE / "guest" / "lab").read_text()
CLUSTER = stack.describe(22, lambda name: "ssh-ed25519 AAAA")


@pytest.fixture(autouse=True)
def no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of the lab, without a machine."""
    monkeypatch.setattr(stack, "cluster", lambda: copy.deepcopy(CLUSTER))


def described(arrange: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    changed = copy.deepcopy(CLUSTER)
    arrange(changed)
    return changed


def scene(experiment: Experiment) -> Scene:
    assert experiment.arrange
    return Scene(experiment.target, "master0", "master1", described(experiment.arrange), moment=MOMENT)


# Addresses


def test_the_machines_have_the_ipv6_addresses_that_the_probes_expect() -> None:
    (function,) = re.findall(r"^second\(\) .*$", GUEST, re.MULTILINE)
    addresses = [*machine.NODES.values(), machine.CLIENT, machine.BRIDGE]
    told = subprocess.run(["bash", "-c", f'{function}\nfor each; do second "$each"; done', "sh", *addresses], capture_output=True, text=True, check=True)
    assert told.stdout.split() == [machine.second(address) for address in addresses]
    assert all(ip_address(address) in IPv6Network(machine.CIDR_V6) for address in (*told.stdout.split(), *probe.CLIENTS_V6))
    assert "for last in $(seq 101 160)" in GUEST and "fd00:0:0:1::$last/64" in GUEST and probe.CLIENTS_V6[-1] == "fd00:0:0:1::160"


def test_the_machine_watches_the_packets_to_the_ipv6_vips() -> None:
    for target in (MASTER_V6, INFRA_V6):
        last = target.address.rpartition(":")[2]
        assert f"@th,64,128 {int(ip_address(target.address)):#x} update @vip_{last} " in GUEST
    assert f"ip6 daddr {MASTER_V6.address}-{INFRA_V6.address} tcp flags" in GUEST
    assert f"ip daddr {MASTER.address}-{dual.ADDITIONAL.address} tcp flags" in GUEST


def test_an_address_of_the_other_family_is_asked_with_a_control_of_its_family() -> None:
    assert MASTER_V6[:5] == ("master-v6", "fd00:0:0:1::250", 8443, 8443, "[fd00:0:0:1::6]:8443")
    assert [(target.version, target.pool) for target in (INFRA, INFRA_V6)] == [(4, "infra"), (6, "infra")]
    assert [(each.port, each.tls_port, each.udp) for each in BOTH.at(80, True).both] == [(80, 80, True)] * 2


def test_both_addresses_are_asked_half_as_often_each_as_one_alone() -> None:
    one, both = probe.Probe(MASTER_V6)._config(), probe.Probe(BOTH)._config()
    assert [(each["name"], each["address"]) for each in one["requests"]] == [
        ("master-v6", "[fd00:0:0:1::250]:8443"),
        ("master-v6 tls", "[fd00:0:0:1::250]:8443"),
        ("control", "[fd00:0:0:1::6]:8443"),
        ("control", "[fd00:0:0:1::6]:8443"),
    ]
    assert [each.get("tls", False) for each in one["requests"]] == [False, True, False, True], "by TLS too, past the balancer as well"
    assert {name: [each["every"] for each in both["requests"] if each["name"] == name] for name in ("master", "master-v6", "control")} == {
        "master": [40],
        "master-v6": [40],
        "control": [400, 2000, 400, 2000],
    }
    assert [(each["name"], each["count"]) for each in both["streams"]] == [("master", 6), ("master-v6", 6)]
    assert both["holders"]["addresses"] == ["192.168.0.250", "fd00:0:0:1::250"]
    assert {"192.168.0.101", "fd00:0:0:1::101"} <= set(both["sources"])


def test_what_one_program_saw_of_both_addresses_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = {"at": BEGAN, "connected": 0.01, "seconds": 0.3, "server": "master0", "error": ""}
    result = {
        "began": BEGAN,
        "ended": ENDED,
        "requests": [{"name": name, **answered} for name in ("master", "master-v6", "master-v6 tls", "control")],
        "streams": [{"name": "master-v6", "server": "master1", "lines": 3, "longest": 0.2, "error": "", "failed_at": 0.0}],
        "holders": [{"at": BEGAN, "address": target.address, "nodes": [target.vip]} for target in BOTH.both],
        "tables": [],
        "delays": [],
    }
    running = SimpleNamespace(stdout=io.StringIO("ready\n"), communicate=lambda **_: (json.dumps(result), ""), returncode=0)
    monkeypatch.setattr(machine, "run", lambda *_: SimpleNamespace(stdout="8"))
    monkeypatch.setattr(machine, "start", lambda *_: running)
    with probe.Probe(BOTH) as probes:
        pass
    first, second = probes.seen.each
    assert [len(each.requests) for each in (first, second, probes.seen.merged)] == [1, 2, 3]
    assert (len(first.streams), len(second.streams), len(first.control), first.syns_per_request) == (0, 1, 1, 2.0)
    assert [each.holders_at(ENDED) for each in (first, second)] == [("master",), ("master-v6",)]


def test_an_address_that_is_held_by_none_is_waited_for_beside_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[bool, str]] = []
    monkeypatch.setattr(probe, "wait_for", lambda what, looked, deadline_s: said.append(looked()))
    for held in ("192.168.0.250", "192.168.0.250 fd00:0:0:1::250"):
        monkeypatch.setattr(machine, "run", lambda *_, held=held: SimpleNamespace(stdout=f"master0 6 {held}\nmaster1 6\n"))
        probe.wait_until_whole({"master0": 6, "master1": 6}, BOTH)
    assert said[0] == (False, "192.168.0.250 held by master0; fd00:0:0:1::250 held by none")
    assert said[1][0]


# How both addresses are judged


def both(second_taken_at: float | None, failed: tuple[float, ...] = ()) -> Seen:
    """The IPv4 address moved to master1 half a second after the event, and the IPv6 address at that moment, or never."""
    first = seen(holdings=(*seen().holdings, Holding(MOMENT + 0.5, MASTER.address, ("master1",))))
    moved = () if second_taken_at is None else (Holding(second_taken_at, MASTER_V6.address, ("master1",)),)
    other = seen(
        failed=failed,
        target=MASTER_V6,
        requests=tuple(dataclasses.replace(request, name="master-v6") for request in seen(failed=failed).requests),
        holdings=(Holding(999.9, MASTER_V6.address, ("master0",)), *moved),
    )
    return dataclasses.replace(first, target=BOTH, beside=other)


def test_the_takeovers_of_both_addresses_are_at_most_a_tenth_of_a_second_apart() -> None:
    nothing = Bound("nothing lost")
    assert runner.late(nothing, SCENE, both(MOMENT + 0.58), {}) == {}
    assert runner.late(nothing, SCENE, both(MOMENT + 0.7), {}) == {"the takeovers of both addresses were 0.2 s apart": pytest.approx(0.1)}
    assert [*runner.late(nothing, SCENE, both(None), {})] == ["the takeovers of both addresses were None s apart"]
    assert runner.late(nothing._replace(reported=True), SCENE, both(None), {}) == {}


def test_addresses_that_stay_where_they_are_are_not_apart() -> None:
    still = dataclasses.replace(seen(), beside=seen())
    assert (still.apart_s(MOMENT), still.taken_after(MOMENT)) == (0.0, None)


def test_a_second_holder_of_an_address_that_the_first_one_keeps_is_a_takeover() -> None:
    alone = seen(holdings=(*seen().holdings, Holding(MOMENT + 1, MASTER.address, ("master0", "master1"))))
    assert alone.taken_after(MOMENT) == 1.0


def test_each_bound_is_that_of_both_addresses() -> None:
    bound = Bound("nothing lost", gap_s=0.3)
    what = both(MOMENT + 0.5, failed=(3.0,))
    assert [*runner.broken(bound, SCENE, what)] == ["master-v6: 1 of 24 failed: {'master-v6: timeout': 1}"]
    assert [*runner.late(bound, SCENE, what, {})] == ["master-v6: nobody was served for 0.41 s"]


def test_a_row_counts_the_requests_and_streams_of_both_addresses() -> None:
    found = outcome(both(MOMENT + 0.5, failed=(3.0,)))
    row = found.row()
    assert (row["sent"], row["failed"], row["streams"], row["longest_gap_s"]) == (48, 1, 24, 0.41)
    assert (row["taken_after_s"], row["apart_s"]) == ([0.5, 0.5], 0.0)
    assert "apart 0.0 s" in runner.line(found) and "apart" not in runner.line(outcome(seen()))


def test_while_checks_stood_still_a_lost_server_of_both_addresses_stays() -> None:
    assert [each.checks_waited_s for each in both(MOMENT).waited(5.0).each] == [5.0, 5.0]


def test_a_row_that_could_not_begin_tells_of_both_addresses() -> None:
    row = runner._unseen(Experiment(BOTH, DUAL[0].steps), "the deployment failed").row()
    assert (row["sent"], row["apart_s"], row["holds"]) == (0, 0.0, False)


# Rows


@pytest.mark.parametrize("experiment", DUAL, ids=lambda experiment: experiment.name)
def test_a_row_is_named_by_its_stack_and_has_a_configuration_that_the_program_takes(experiment: Experiment) -> None:
    cluster = scene(experiment).cluster
    for step in experiment.steps:
        assert step.name.startswith((dual.NAME, dual.ALONE, dual.SEVERAL)) and step.kind.startswith(f"{dual.KIND} ")
    assert all(target.address in map(str, cluster.vips[target.vip].addresses) for target in experiment.target.both)
    assert all(keepalived.render(cluster, node.name) for node in cluster.nodes())
    for script in (experiment.before, experiment.after):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_a_crash_is_repeated_as_often_as_with_ipv4_alone() -> None:
    runs = {experiment.name: experiment.runs for experiment in (*DUAL, *crashes.CRASHES)}
    assert all(runs[f"dual stack, IPv6: {experiment.name}"] == experiment.runs == 10 for experiment in crashes.CRASHES)


def test_a_change_of_the_dual_stack_cluster_leads_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deployed: list[Cluster] = []
    monkeypatch.setattr(stack, "up", lambda described, auth_pass: deployed.append(Cluster.parse(described)))
    monkeypatch.setattr(probe, "now", lambda: MOMENT)
    changes = [experiment for experiment in DUAL if experiment.steps[0].kind == "dual change"]
    assert len(changes) == 3
    for experiment in changes:
        running = scene(experiment)
        for step in experiment.steps:
            step.act(running)
        assert deployed[-1] == Cluster.parse(described(dual_stack)) != deployed[-2]


def test_a_stack_of_ipv6_alone_has_no_ipv4_address() -> None:
    assert not re.search(r"\b192\.168\.", Cluster.parse(described(ipv6_alone)).model_dump_json(exclude={"ssh"}))


def test_the_tables_to_come_have_the_servers_of_both_families() -> None:
    assert scene(DUAL[0]).live() == {"master0": 6, "master1": 6, "master2": 6}
    assert scene(DUAL[0]).live("master1", off="master2") == {"master0": 2, "master1": 2}


def at_the_end(monkeypatch: pytest.MonkeyPatch, held: str, duplicates: str = "", asking: str = "", experiment: Experiment = DUAL[0]) -> list[str]:
    """What a row of both families, or another one, finds at its end."""
    told = {"state": held, "duplicates": duplicates, "solicited": asking}
    monkeypatch.setattr(machine, "run", lambda _, verb: SimpleNamespace(stdout=told[verb]))

    def once(what: str, looked: Callable[[], tuple[bool, str]], deadline_s: float) -> None:
        done, last = looked()
        if not done:
            raise TimeoutError(f"waited for {what}; last seen: {last}")

    monkeypatch.setattr(dual, "wait_for", once)
    return list(experiment.steps[0].evidence(scene(experiment)))


TOGETHER = "master0 6\nmaster1 6 192.168.0.250 fd00:0:0:1::250\nmaster2 6\ninfra0 4 fd00:0:0:1::251\n"


def test_the_addresses_of_a_vip_on_different_nodes_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_the_end(monkeypatch, TOGETHER, asking=f"client {MASTER_V6.address}\n") == []
    with pytest.raises(TimeoutError, match=r"192\.168\.0\.250 and fd00:0:0:1::250 to be on the same nodes; last seen: .*'master0': \['192"):
        at_the_end(monkeypatch, "master0 6 192.168.0.250\nmaster1 6 fd00:0:0:1::250\n")


def test_a_row_of_an_additional_address_asks_it_and_finds_it_where_the_vip_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [experiment for experiment in DUAL if experiment.target == dual.ADDITIONAL]
    assert [experiment.name for experiment in rows] == ["several addresses: steady: three masters", "several addresses: owner isolated with carrier"]
    assert at_the_end(monkeypatch, "master0 3\nmaster1 3 192.168.0.250 192.168.0.252\n", experiment=rows[0]) == []
    with pytest.raises(TimeoutError, match=r"192\.168\.0\.250 and 192\.168\.0\.252 to be on the same nodes"):
        at_the_end(monkeypatch, "master0 3 192.168.0.250\nmaster1 3 192.168.0.252\n", experiment=rows[0])


def test_a_duplicate_address_and_a_host_that_asks_for_a_vip_of_its_pool_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = f"client {MASTER_V6.address}\nmaster1 {MASTER_V6.address}\ninfra0 {INFRA_V6.address}\n"
    assert at_the_end(monkeypatch, TOGETHER, "2: eth0    inet6 fd00:0:0:1::250/128 scope global dadfailed\n", asking) == [
        "duplicate address detection refused: 2: eth0    inet6 fd00:0:0:1::250/128 scope global dadfailed\n",
        "neighbour solicitations for a VIP were sent: infra0 fd00:0:0:1::251, master1 fd00:0:0:1::250",
    ]


def test_a_host_may_ask_for_a_vip_of_another_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    assert at_the_end(monkeypatch, TOGETHER, asking=f"infra0 {MASTER_V6.address}\nmaster0 {INFRA_V6.address}\n") == []


def test_the_machine_tells_who_asked_for_which_vip(tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("".join(f"{name} {address}\n" for name, address in machine.NODES.items()))
    listed = "elements = {{ 02:00:00:00:00:{:02x}, 02:00:00:00:00:{:02x} }}"
    (tmp_path / "nft").write_text(f"case $5 in\nvip_250) echo '{listed.format(2, 5)}' ;;\nvip_251) echo '{listed.format(2, 6)}' ;;\nesac\n")
    script = GUEST.replace("/etc/lab/nodes", f"{tmp_path}/nodes").replace("set -eu", f'set -eu\nnft() {{ sh {tmp_path}/nft "$@"; }}', 1)
    told = subprocess.run(["bash", "-c", script, "lab", "solicited"], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [f"{node} fd00:0:0:1::{last}" for node, last in (("master0", 250), ("infra0", 250), ("master0", 251), ("infra1", 251))]


def test_every_server_must_answer_a_far_client_and_learn_its_path_mtu(monkeypatch: pytest.MonkeyPatch) -> None:
    (experiment,) = [experiment for experiment in DUAL if experiment.steps[0].kind == "dual path MTU"]
    running = scene(experiment)
    routes = {"fd00:0:0:2::1": "expires 599sec mtu 1300 pref medium", "fd00:0:0:2::2": "pref medium", "fd00:0:0:2::3": "expires 599sec mtu 1300 pref medium"}
    monkeypatch.setattr(machine, "run", lambda *command: SimpleNamespace(stdout=routes[command[-1]]))
    running.told = ["fd00:0:0:2::1 master0", "fd00:0:0:2::2 master1", "fd00:0:0:2::3 nobody: timed out"]
    assert list(dual._every_server_learned(running)) == [
        "master1 does not know the path MTU to fd00:0:0:2::2",
        "fd00:0:0:2::3 was answered by nobody: timed out",
        "master2 answered no far address",
    ]
    compile(dual.FAR_ECHO, "FAR_ECHO", "exec")
    assert f"net.ipv6.conf.far.mtu={dual.FAR_MTU}" in GUEST


def test_the_vip_is_removed_from_lo_in_the_families_that_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(Scene, "on", lambda scene, node, script: ran.append(script))
    monkeypatch.setattr("time.sleep", lambda _: None)
    for target in (MASTER, MASTER_V6, BOTH):
        of_traffic(target)[4].steps[0].act(SCENE)
    assert ran == [
        "ip address delete 192.168.0.250/32 dev lo",
        "ip address delete fd00:0:0:1::250/128 dev lo",
        "ip address delete 192.168.0.250/32 dev lo; ip address delete fd00:0:0:1::250/128 dev lo",
    ]


def test_each_of_two_addresses_lowers_the_priority_by_its_part_on_a_node_that_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    partition = next(experiment for experiment in DUAL if experiment.name == "dual stack, IPv6: partition: the owner and the rest")
    asked: list[tuple[str, ...]] = []

    def run(*command: str) -> SimpleNamespace:
        asked.append(command)
        return SimpleNamespace(stdout="-50\n" if command[3] == "cat" else "Lost quorum service [fd00:0:0:1::2]:none:0 of VS\n")

    monkeypatch.setattr(machine, "run", run)
    assert list(crashes._both_said_so(scene(partition))) == []
    assert asked[0] == ("lab", "exec", "master0", "cat", "/run/openshift-lvs/view-master-v6")
    assert list(crashes._both_said_so(dataclasses.replace(scene(partition), target=MASTER))) == [
        "master1 does not say 'service [192.168.0.2]:none:0 of VS': Lost quorum service [fd00:0:0:1::2]:none:0 of VS\n"
    ]


def test_a_client_that_still_asks_the_director_that_lost_an_address_breaks_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {MASTER.address: "192.168.0.250 dev eth0 lladdr 02:00:00:00:00:03 REACHABLE\n", MASTER_V6.address: ""}
    monkeypatch.setattr(probe, "holder", lambda _: "master1")
    monkeypatch.setattr(machine, "run", lambda *command: SimpleNamespace(stdout=entries[command[-1]] if command[0] == "ip" else "02:00:00:00:00:03\n"))
    assert list(crashes._client_asks_the_holder(dataclasses.replace(SCENE, target=BOTH))) == [
        "the client does not ask master1 (02:00:00:00:00:03), which holds fd00:0:0:1::250: no entry"
    ]


def test_a_stream_of_the_second_address_that_breaks_breaks_the_row() -> None:
    what = both(MOMENT + 0.5)
    assert what.beside
    lost = dataclasses.replace(what.beside, streams=(Stream("master-v6", "master2", 3, 0.2, "reset", MOMENT), *what.beside.streams[1:]))
    assert [*runner.broken(Bound("alive"), SCENE, dataclasses.replace(what, beside=lost))] == ["master-v6: 1 of 12 streams lost: ['master2: reset']"]
    assert not [*runner.broken(Bound("alive"), SCENE, what)]
