"""Which real servers get new connections: failing, drained and removed ones, and quorums that stay within reach."""

from __future__ import annotations

import itertools
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from node.openshift_lvs import commands, ipvs, servers, state
from node.openshift_lvs.description import Description
from node.openshift_lvs.errors import Refused, TimedOut
from tests.unit.node_functions import ADDRESSES, HERE, MARK, System, description, drain, in_force, service, vip

OTHER_MARK = 52 << 20 | 8443


def failing(system: System) -> set[str]:
    """The addresses of the failing servers of the usual service."""
    return {address for mark, address in servers.failing(description(), ipvs.table()) if mark == MARK}


# Failing servers


def test_a_server_fails_when_its_weight_is_0_or_when_it_is_missing(system: System) -> None:
    system.fill(description())
    assert failing(system) == set()
    system.fails(ADDRESSES[1])
    del system.table[MARK][ADDRESSES[2]]
    assert failing(system) == {ADDRESSES[1], ADDRESSES[2]}


def test_a_drained_server_does_not_fail(system: System) -> None:
    system.fill(description())
    system.fails(ADDRESSES[1], ADDRESSES[2])
    drain(ADDRESSES[1])
    assert failing(system) == {ADDRESSES[2]}


def test_a_server_with_a_configured_weight_of_0_does_not_fail(system: System) -> None:
    said = description(vip(services=(service(weights={HERE: 1, ADDRESSES[1]: 0}),)))
    system.fill(said)
    assert servers.failing(said, ipvs.table()) == set()


def test_a_sorry_server_does_not_count_as_failing(system: System) -> None:
    said = description(vip(services=(service(sorry_server=ip_address("192.168.0.9")),)))
    system.fill(said)
    assert servers.failing(said, ipvs.table()) == set()
    assert (MARK, "192.168.0.9") in servers.named(said)


def test_the_same_server_of_another_programs_virtual_server_is_not_taken_for_ours(system: System) -> None:
    system.fill(description())
    system.fails(ADDRESSES[1])
    system.table[7] = {ADDRESSES[1]: ("NAT", 1, 0)}
    assert failing(system) == {ADDRESSES[1]}


# Removed servers


def removed(system: System, new: object) -> list[tuple[int, str]]:
    system.fill(description())
    return servers.removed_by(new, description(), ipvs.table())  # type: ignore[arg-type]


def test_a_version_that_names_the_same_servers_removes_none(system: System) -> None:
    assert removed(system, description()) == []


def test_a_server_that_is_no_longer_named_is_removed(system: System) -> None:
    new = description(vip(services=(service(weights={HERE: 1, ADDRESSES[1]: 1}),)))
    assert removed(system, new) == [(MARK, ADDRESSES[2])]


def test_a_failing_server_that_is_no_longer_named_is_not_waited_for(system: System) -> None:
    system.fill(description())
    system.fails(ADDRESSES[2])
    new = description(vip(services=(service(weights={HERE: 1}),)))
    assert servers.removed_by(new, description(), ipvs.table()) == [(MARK, ADDRESSES[1])]


def test_a_service_under_another_mark_loses_no_server(system: System) -> None:
    # Another virtual_router_id gives every service another mark.
    assert removed(system, description(vip(router=52, services=(service(mark=OTHER_MARK, port=8443),)))) == []


@pytest.mark.parametrize(
    "change",
    [{"port": 9443}, {"protocol": "UDP"}],
    ids=["another port", "another protocol"],
)
def test_a_service_that_a_version_lacks_loses_every_server(system: System, change: dict[str, object]) -> None:
    new = description(vip(services=(service(mark=OTHER_MARK, **{"port": 8443, **change}),)))  # type: ignore[arg-type]
    assert removed(system, new) == [(MARK, address) for address in ADDRESSES]


def test_a_service_of_another_vip_on_the_same_port_keeps_no_server_of_a_removed_vip(system: System) -> None:
    new = description(vip(address="192.168.0.251", services=(service(mark=OTHER_MARK, port=8443),)))
    assert removed(system, new) == [(MARK, address) for address in ADDRESSES]


def test_servers_of_another_programs_virtual_server_are_not_removed(system: System) -> None:
    system.table[7] = {ADDRESSES[0]: ("NAT", 1, 0)}
    new = description(vip(services=(service(weights={HERE: 1}),)))
    assert {mark for mark, _ in removed(system, new)} == {MARK}


def test_the_removal_goes_on_after_30_s_although_a_connection_is_left(system: System) -> None:
    system.table[MARK] = {HERE: ("DR", 0, 3)}
    servers.wait_for_removed([(MARK, HERE)])
    assert system.now == 1000 + servers.REMOVAL_S
    assert system.notes == ["waited 30 s for the connections of removed servers to end; last seen: 3 connections; going on"]


def test_lowered_servers_get_their_weights_again_unless_they_were_drained_meanwhile(system: System) -> None:
    system.fill(description(), weight=0)
    drain(ADDRESSES[1])
    servers.raise_lowered([(MARK, address, "DR", 5) for address in ADDRESSES])
    assert system.weights() == {ADDRESSES[0]: 5, ADDRESSES[1]: 0, ADDRESSES[2]: 5}


# Quorum


WEIGHTS = [weights for count in (1, 2, 3, 4) for weights in itertools.product((0, 1, 3), repeat=count) if sum(weights)]


def test_quorum_and_hysteresis_stay_within_reach_of_the_servers_that_are_left() -> None:
    for weights in WEIGHTS:
        total, names = sum(weights), [f"192.168.0.{number}" for number in range(2, 2 + len(weights))]
        for quorum, hysteresis in itertools.product(range(1, total + 1), range(total + 1)):
            if hysteresis >= quorum or quorum + hysteresis > total:
                continue
            each = service(weights=dict(zip(names, weights, strict=True)), quorum=quorum, hysteresis=hysteresis)
            for count in range(len(names) + 1):
                for drained in itertools.combinations(names, count):
                    left = sum(weight for name, weight in zip(names, weights, strict=True) if name not in drained)
                    now, slack = each.quorum_without(set(drained))
                    case = f"{weights} {quorum} {hysteresis} {drained}: {now} {slack}"
                    assert 1 <= now <= quorum and 0 <= slack <= hysteresis, case
                    assert now - slack >= 1, f"a loss is out of reach: {case}"
                    assert now + slack <= left or not left, f"a recovery is out of reach: {case}"
                    assert drained or (now, slack) == (quorum, hysteresis), case


def test_the_quorum_without_drained_servers_is_the_majority_of_the_rest() -> None:
    five = service(weights={f"192.168.0.{number}": 1 for number in range(2, 7)}, quorum=3)
    assert five.quorum_without({"192.168.0.2"}) == (3, 0)
    assert five.quorum_without({"192.168.0.2", "192.168.0.3"}) == (2, 0)


def test_a_quorum_that_the_rest_reaches_easily_stays() -> None:
    assert service(quorum=1).quorum_without({ADDRESSES[1]}) == (1, 0)


FIVE = [f"192.168.0.{number}" for number in range(2, 7)]


def test_the_quorum_follows_the_expected_weight_less_the_drained_one() -> None:
    routers = service(weights=dict.fromkeys(FIVE, 1), quorum=2, expected_weight=2)
    assert routers.quorum_without(set()) == (2, 0)
    assert [routers.quorum_without({address}) for address in FIVE] == [(1, 0)] * 5
    assert routers.quorum_without(set(FIVE[:3])) == (1, 0)
    patroni = service(quorum=1, expected_weight=1)
    assert [patroni.quorum_without(drained) for drained in (set(), {HERE}, set(ADDRESSES))] == [(1, 0)] * 3
    heavy = service(weights=dict.fromkeys(FIVE, 3), quorum=7, hysteresis=1, expected_weight=12)
    assert heavy.quorum_without({FIVE[0]}) == (5, 1)


def test_any_expected_servers_that_are_left_reach_the_quorum_and_its_hysteresis() -> None:
    for weights in WEIGHTS:
        by_name = {f"192.168.0.{number}": weight for number, weight in enumerate(weights, 2)}
        positive = sorted(weight for weight in weights if weight)
        for expected in range(1, len(positive) + 1):
            least = sum(positive[:expected])
            quorum = least // 2 + 1
            each = service(weights=by_name, quorum=quorum, hysteresis=min(quorum - 1, least - quorum), expected_weight=least)
            for live in itertools.combinations([name for name, weight in by_name.items() if weight], expected):
                for count in range(len(live)):
                    for drained in itertools.combinations(live, count):
                        left = sum(by_name[name] for name in live if name not in drained)
                        assert sum(each.quorum_without(set(drained))) <= left, f"{weights} {live} {drained}"


def test_a_version_that_was_delivered_before_there_was_an_expected_weight_expects_every_server() -> None:
    written = description().to_json()
    older = "".join(line for line in written.splitlines(keepends=True) if '"expected_weight"' not in line)
    assert older != written
    assert Description.from_json(older) == description()


# Included files


def included(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "drained").iterdir())}


def test_a_drained_server_has_weight_0_and_its_service_a_lower_quorum(tmp_path: Path, system: System) -> None:
    said = description(vip(services=(service(quorum=3, hysteresis=1),)))
    drain(ADDRESSES[1])
    servers.write_drained_files(str(tmp_path), said)
    assert included(tmp_path) == {
        "192.168.0.2.conf": "",
        "192.168.0.3.conf": "weight 0\n",
        "192.168.0.4.conf": "",
        "master-8443.conf": "quorum 2\nhysteresis 0\n",
    }


def test_included_files_are_empty_while_no_server_is_drained(tmp_path: Path, system: System) -> None:
    servers.write_drained_files(str(tmp_path), description())
    assert set(included(tmp_path).values()) == {""}


def test_only_changed_files_are_written(tmp_path: Path, system: System) -> None:
    servers.write_drained_files(str(tmp_path), description())
    before = {path.name: path.stat().st_ino for path in (tmp_path / "drained").iterdir()}
    servers.write_drained_files(str(tmp_path), description())
    assert {path.name: path.stat().st_ino for path in (tmp_path / "drained").iterdir()} == before
    drain(ADDRESSES[1])
    servers.write_drained_files(str(tmp_path), description(vip(services=(service(quorum=1),))))
    changed = {path.name for path in (tmp_path / "drained").iterdir() if path.stat().st_ino != before[path.name]}
    assert changed == {"192.168.0.3.conf"}


def test_a_server_that_is_no_director_gets_no_included_files(tmp_path: Path, system: System) -> None:
    servers.write_drained_files(str(tmp_path), description(director=False))
    assert not (tmp_path / "drained").exists()


# Weights


def test_weights_that_a_former_keepalived_left_are_corrected(system: System) -> None:
    said = description(vip(services=(service(weights={HERE: 5, ADDRESSES[1]: 1, ADDRESSES[2]: 0}),)))
    system.table[MARK] = {HERE: ("DR", 0, 0), ADDRESSES[1]: ("TUN", 1, 0), ADDRESSES[2]: ("DR", 7, 0), "192.168.0.8": ("DR", 1, 0)}
    drain(ADDRESSES[1])
    servers.correct_weights(said)
    assert system.weights() == {HERE: 5, ADDRESSES[1]: 0, ADDRESSES[2]: 0}
    assert any("--ipip" in call for call in system.asked), "the forwarding method is left as it is"


def test_right_weights_are_not_touched_and_a_sorry_server_stays(system: System) -> None:
    said = description(vip(services=(service(sorry_server=ip_address("192.168.0.9")),)))
    system.fill(said)
    system.table[MARK]["192.168.0.9"] = ("DR", 1, 0)
    system.table[7] = {"10.0.0.1": ("NAT", 1, 0)}
    servers.correct_weights(said)
    assert system.asked == []


def test_a_drained_server_gets_its_place_in_the_hash_table_once_it_is_there(system: System) -> None:
    drain(ADDRESSES[1])
    system.while_waiting = lambda: system.fill(description(), weight=0)
    servers.keep_place_of_drained(description())
    weights = [call.split()[-1] for call in system.asked if ADDRESSES[1] in call]
    assert (weights, system.now) == (["1", "0"], 1001)


def test_a_start_without_the_drained_server_names_it(system: System) -> None:
    drain(ADDRESSES[1])
    with pytest.raises(TimedOut, match=r"drained servers in the kernel's table; last seen: 192\.168\.0\.3 is not in service master-8443"):
        servers.keep_place_of_drained(description())


# Rotation


def rotated(system: System, how: str, address: str) -> None:
    in_force("v1", description())
    system.fill(description())
    servers.rotation(how == "out", address, description())


def test_a_server_is_taken_out_by_a_reload_that_reads_weight_0(system: System) -> None:
    system.answers["systemctl reload keepalived.service"] = (0, "", "")
    system.while_waiting = lambda: system.fails(ADDRESSES[1])
    rotated(system, "out", ADDRESSES[1])
    assert state.drained() == {ADDRESSES[1]}
    assert Path(state.CURRENT, "drained", f"{ADDRESSES[1]}.conf").read_text() == "weight 0\n"
    assert "systemctl reload keepalived.service" in system.asked


def test_a_server_is_taken_out_of_the_table_while_keepalived_does_not_run(system: System) -> None:
    system.running = False
    rotated(system, "out", ADDRESSES[1])
    assert system.weights()[ADDRESSES[1]] == 0


def test_a_keepalived_that_has_just_started_reads_weight_0_too(system: System) -> None:
    def ends() -> None:
        system.running, system.starting = True, False
        system.fails(ADDRESSES[1])

    system.running, system.starting, system.while_waiting = False, True, ends
    rotated(system, "out", ADDRESSES[1])
    assert "systemctl reload keepalived.service" in system.asked


def test_a_server_that_keeps_its_weight_is_reported_with_its_mark(system: System) -> None:
    with pytest.raises(TimedOut, match=f"last seen: mark {MARK}"):
        rotated(system, "out", ADDRESSES[1])


def test_a_reload_that_fails_is_reported(system: System) -> None:
    system.answers["systemctl reload"] = (1, "", "Job failed")
    with pytest.raises(Refused, match="Job failed"):
        rotated(system, "in", ADDRESSES[1])


def test_a_second_drain_keeps_the_time_of_the_first(system: System) -> None:
    system.running = False
    drain(ADDRESSES[1])
    os.utime(f"{state.DRAINED}/{ADDRESSES[1]}", (1000, 1000))
    rotated(system, "out", ADDRESSES[1])
    assert Path(state.DRAINED, ADDRESSES[1]).stat().st_mtime == 1000


def test_rotation_knows_only_out_and_in(system: System, capsys: pytest.CaptureFixture[str]) -> None:
    in_force("v1", description())
    assert commands.main(["rotation", "off", ADDRESSES[1]]) == 1
    assert capsys.readouterr().err == "off: not one of out, in\n"


@pytest.mark.parametrize("word", ["ownership", "../current", "master1", ""])
def test_only_an_address_is_taken_out_of_rotation(system: System, word: str) -> None:
    # /etc/keepalived/drained/ownership would drain this director.
    in_force("v1", description())
    assert commands.main(["rotation", "out", word]) == 1
    assert state.names(state.DRAINED) == []
