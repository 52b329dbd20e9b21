"""Which director may hold a VIP: drains, the end of a roll-out, and which other directors are able."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from components import keepalived
from node.openshift_lvs import state, vrrp
from node.openshift_lvs.errors import Refused, TimedOut
from node.openshift_lvs.record import replace
from node.openshift_lvs.vrrp import Transition
from operations import render
from tests.unit.conftest import GOLDEN
from tests.unit.node_functions import ADDRESSES, HERE, MARK, System, description, drain, service, vip

OWNED_ELSEWHERE = vip(owner=ADDRESSES[1])
TWO_VIPS = (vip(), vip("other", "192.168.0.251", 52, ADDRESSES[1], (service("other-443", 52 << 20 | 443),)))


def weight(instance: str = "master") -> str:
    return state.read(state.drain_file(instance))


# Other directors


def able(system: System, staying: tuple[str, ...] = ADDRESSES[1:]) -> bool:
    return vrrp.others_able(description(), description(directors=staying))


def test_other_directors_are_able_while_their_checks_pass(system: System) -> None:
    system.fill(description())
    assert able(system)


def test_a_director_alone_has_no_able_one_beside_it(system: System) -> None:
    system.fill(description())
    assert not vrrp.others_able(description(directors=()), description())


def test_drained_and_dead_directors_are_not_able(system: System) -> None:
    system.fill(description())
    drain(ADDRESSES[1])
    assert able(system)
    system.fails(ADDRESSES[2])
    assert not able(system)


def test_a_director_whose_server_is_not_expected_to_be_live_is_not_taken_for_dead(system: System) -> None:
    said = description(vip(services=(service(quorum=1, expected_weight=1),)))
    system.fill(said)
    system.fails(*ADDRESSES[1:])
    assert vrrp.others_able(said, said)
    assert not vrrp.others_able(said, description(directors=ADDRESSES[2:])), "one that leaves could take the VIP"
    assert not vrrp.others_able(description(), description()), "with every server expected, these are dead"


def test_a_director_that_passes_one_of_its_checks_is_alive(system: System) -> None:
    said = description(*TWO_VIPS)
    system.fill(said)
    for address in ADDRESSES[1:]:
        system.table[MARK][address] = ("DR", 0, 0)
    assert vrrp.others_able(said, said)


def test_a_director_is_dead_when_the_checks_of_its_second_address_fail_and_no_vip_has_the_first(system: System) -> None:
    servers = {f"fd00::{number}": 1 for number in (2, 3, 4)}
    said = replace(
        description(vip(address="fd00::250", owner="fd00::2", services=(service(weights=servers),))),
        address_v6=ip_address("fd00::2"),
        directors_v6=(ip_address("fd00::3"), ip_address("fd00::4")),
    )
    system.fill(said)
    assert vrrp.others_able(said, said)
    system.fails("fd00::3", "fd00::4")
    assert not vrrp.others_able(said, said)


def test_no_director_is_able_while_one_that_leaves_could_take_the_vip(system: System) -> None:
    # The highest priority takes it, and that may be the one that leaves.
    system.fill(description())
    assert not able(system, staying=ADDRESSES[2:])


@pytest.mark.parametrize("how", ["drained", "dead"])
def test_a_leaving_director_that_cannot_take_the_vip_does_not_count(system: System, how: str) -> None:
    system.fill(description())
    drain(ADDRESSES[1]) if how == "drained" else system.fails(ADDRESSES[1])
    assert able(system, staying=ADDRESSES[2:])


# Drains


def test_a_drained_vip_leaves_and_comes_back_only_after_stand_by(system: System) -> None:
    system.held = {"master": "192.168.0.250"}
    assert vrrp.hand_over(description(), ["master"]) == "master handed over"
    assert (system.left, weight()) == (["192.168.0.250"], "0")


def test_a_drain_lasts_until_every_address_of_the_vip_has_left(system: System) -> None:
    several = replace(vip(), additional_addresses=(ip_address("192.168.0.252"),))
    system.held, system.leave = {"master": "192.168.0.252"}, False
    with pytest.raises(TimedOut, match=r"waited 10 s for 192\.168\.0\.250 192\.168\.0\.252 to leave eth0; last seen: still here: 192\.168\.0\.252"):
        vrrp.hand_over(description(several), ["master"])


def test_a_director_without_the_vip_hands_nothing_over(system: System) -> None:
    assert vrrp.hand_over(description(), ["master"]) == ""
    assert weight() == ""


def test_only_the_named_vip_is_handed_over(system: System) -> None:
    system.held = {"master": "192.168.0.250", "other": "192.168.0.251"}
    vrrp.hand_over(description(*TWO_VIPS), ["other"])
    assert system.left == ["192.168.0.251"]


def test_a_vip_that_no_director_takes_stays_available_here(system: System) -> None:
    system.held, system.leave = {"master": "192.168.0.250"}, False
    with pytest.raises(TimedOut, match=r"waited 10 s for 192\.168\.0\.250 to leave eth0; last seen: still here: 192\.168\.0\.250"):
        vrrp.hand_over(description(), ["master"])
    assert weight() == "0"


def test_a_director_that_an_operator_drained_stays_drained_after_a_hand_over(system: System) -> None:
    Path(state.OWNERSHIP).touch()
    system.held = {"master": "192.168.0.250"}
    vrrp.hand_over(description(), ["master"])
    assert weight() == "-254"


def test_a_drain_of_the_director_is_kept_before_the_vip_leaves(system: System) -> None:
    system.held, system.leave = {"master": "192.168.0.250"}, False
    with pytest.raises(TimedOut):
        vrrp.ownership(True, description())
    assert state.owns_nothing()
    assert f"sync --file-system {state.BASE}" in system.asked
    assert weight() == "-254", "unlike after a hand-over"


def test_the_end_of_a_drain_lets_the_director_take_vips_again(system: System) -> None:
    vrrp.ownership(True, description())
    vrrp.ownership(False, description())
    assert (state.owns_nothing(), weight()) == (False, "0")
    vrrp.ownership(False, description())


def test_a_weight_that_stays_is_not_written_anew(system: System) -> None:
    vrrp.set_weight(["master"], 0, "a reason")
    before = Path(state.drain_file("master")).stat().st_ino
    vrrp.set_weight(["master"], 0, "a reason")
    assert (Path(state.drain_file("master")).stat().st_ino, system.notes) == (before, [])
    vrrp.set_weight(["master"], -254, "a reason")
    assert [note.partition(" since")[0] for note in system.notes] == ["master: a reason; adds -254 to the priority, 0"]


# Roll-outs


def test_a_changed_director_steps_back(system: System) -> None:
    vrrp.step_back(description(), ["master"])
    assert weight() == "-50"


def test_a_drained_director_does_not_step_back_because_that_would_let_it_take_vips(system: System) -> None:
    vrrp.ownership(True, description())
    vrrp.step_back(description(), ["master"])
    assert weight() == "-254"


def test_the_owner_keeps_its_vip_at_the_end_of_a_roll_out(system: System) -> None:
    system.held = {"master": "192.168.0.250"}
    vrrp.step_back(description(), ["master"])
    assert vrrp.go_home(description(), "master") == ""
    assert (system.left, weight()) == ([], "0")


def test_another_director_gives_the_vip_to_its_owner_at_the_end_of_a_roll_out(system: System) -> None:
    system.held = {"master": "192.168.0.250"}
    assert vrrp.go_home(description(OWNED_ELSEWHERE), "master") == "master handed over"
    assert (system.left, weight()) == (["192.168.0.250"], "0")


def test_a_vip_stays_while_its_owner_is_drained(system: System) -> None:
    system.held = {"master": "192.168.0.250"}
    drain(ADDRESSES[1])
    assert vrrp.go_home(description(OWNED_ELSEWHERE), "master") == f"master stays: its owner, {ADDRESSES[1]}, is drained"
    assert (system.left, weight()) == ([], "0")


# Tracked files


def files() -> dict[str, str]:
    return {str(path.relative_to(state.RUN)): path.read_text().strip() for path in Path(state.RUN).rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_start_writes_every_tracked_file(system: System) -> None:
    said = description(vip(services=(service(), service("master-53", MARK + 1, alpha=True))))
    Path(state.QUORUM, "master").mkdir()
    Path(state.QUORUM, "master", "former").write_text("-100\n")
    vrrp.start(said)
    assert files() == {"drain-master": "0", "view-master": "-50", "quorum/master/master-8443": "0", "quorum/master/master-53": "-100"}


def test_a_start_ends_what_a_killed_keepalived_left_and_a_change_does_not(system: System) -> None:
    vrrp.start(description())
    Path(state.drain_file("master")).write_text("-50\n")
    Path(state.QUORUM, "master", "master-8443").write_text("-100\n")
    vrrp.start(description(), missing_only=True)
    assert files() == {"drain-master": "-50", "view-master": "-100", "quorum/master/master-8443": "-100"}
    vrrp.start(description())
    assert files() == {"drain-master": "0", "view-master": "0", "quorum/master/master-8443": "0"}


def test_a_director_with_witnesses_tracks_whether_it_is_cut_off(system: System) -> None:
    asking = replace(description(), witnesses=("192.168.0.1:53",))
    vrrp.track_files_exist(asking)
    assert files()["cut-off"] == "0"
    Path(state.CUT_OFF).write_text("-200\n")
    vrrp.start(asking)
    assert files()["cut-off"] == "-200", "the resident process ends it when a witness answers"
    vrrp.tidy(asking)
    assert files()["cut-off"] == "-200"
    vrrp.tidy(description())
    assert "cut-off" not in files()
    vrrp.start(asking)
    assert files()["cut-off"] == "0"


def test_a_drained_director_starts_without_vips(system: System) -> None:
    Path(state.OWNERSHIP).touch()
    vrrp.start(description())
    assert weight() == "-254"


def test_a_server_that_is_no_director_tracks_nothing(system: System) -> None:
    vrrp.start(description(director=False))
    assert files() == {}


def test_the_view_is_corrected_where_the_table_has_the_quorum(system: System) -> None:
    vrrp.start(description())
    Path(state.QUORUM, "master", "master-8443").write_text("-100\n")
    system.fill(description())
    system.fails(ADDRESSES[1])
    vrrp.recount(description())
    assert files()["view-master"] == "0"


def test_the_view_stays_poor_below_the_quorum_and_its_hysteresis(system: System) -> None:
    said = description(vip(services=(service(hysteresis=1),)))
    vrrp.start(said)
    Path(state.QUORUM, "master", "master-8443").write_text("-100\n")
    system.fill(said)
    system.fails(ADDRESSES[1])
    vrrp.recount(said)
    assert files()["quorum/master/master-8443"] == "-100"


def test_the_view_is_good_with_the_expected_servers_and_while_one_of_them_is_drained(system: System) -> None:
    addresses = [f"192.168.0.{number}" for number in range(2, 7)]
    said = description(vip(services=(service(weights=dict.fromkeys(addresses, 1), quorum=2, expected_weight=2),)))
    vrrp.start(said)
    record = Path(state.QUORUM, "master", "master-8443")
    record.write_text("-100\n")
    system.fill(said)
    system.fails(*addresses[1:])
    vrrp.recount(said)
    assert files()["quorum/master/master-8443"] == "-100", "one of two expected servers is live"
    drain(addresses[1])
    vrrp.recount(said)
    assert files()["view-master"] == "0"


def test_a_sorry_server_is_no_part_of_the_quorum(system: System) -> None:
    said = description(vip(services=(service(sorry_server=ip_address("192.168.0.9")),)))
    vrrp.start(said)
    Path(state.QUORUM, "master", "master-8443").write_text("-100\n")
    system.table[MARK] = {HERE: ("DR", 1, 0), "192.168.0.9": ("DR", 1, 0)}
    vrrp.recount(said)
    assert files()["quorum/master/master-8443"] == "-100"


def test_what_the_version_in_force_does_not_name_is_forgotten(system: System) -> None:
    vrrp.start(description(*TWO_VIPS))
    Path(state.RUN, "other.lock").touch()
    Path(state.QUORUM, "other", "other-8443.4711.part").touch()
    for each in (state.OWN_CALLS_LOCK, state.TEST_PACKETS_LOCK):
        Path(each).touch()
    drain(ADDRESSES[1])
    drain("192.168.0.8")
    Path(state.OWNERSHIP).touch()
    vrrp.tidy(description())
    assert files() == {"drain-master": "0", "view-master": "0", "quorum/master/master-8443": "0"}
    assert not Path(state.RUN, "other.lock").exists()
    assert Path(state.OWN_CALLS_LOCK).exists() and Path(state.TEST_PACKETS_LOCK).exists(), "another command may hold them"
    assert (state.drained(), state.owns_nothing()) == ({ADDRESSES[1]}, True)


def test_what_another_command_is_writing_is_left_alone(system: System) -> None:
    # keepalived may report a quorum, and an operator drain a server, while an activation ends.
    vrrp.start(description())
    written = [Path(state.RUN, "view-master.4711.part"), Path(state.QUORUM, "master", "master-8443.4711.part"), Path(state.DRAINED, "192.168.0.8.4712.part")]
    for path in written:
        path.touch()
    vrrp.tidy(description())
    vrrp.start(description())
    assert all(path.exists() for path in written)
    assert state.drained() == set()


# Adverts


def adverts(system: System, *routers: str, router_id: int = 51, table: str = "openshift_lvs") -> None:
    elements = ", ".join(f"{router} timeout 10s expires 9s{number}ms" for number, router in enumerate(routers))
    text = f"table ip {table} {{\n set adverts_{router_id} {{\n type ipv4_addr\n size 256\n elements = {{ {elements} }}\n }}\n}}\n"
    system.answers[f"nft list set ip {table} adverts_{router_id}"] = (0, text, "")


def test_a_vip_is_taken_when_another_director_sends_adverts(system: System) -> None:
    adverts(system, ADDRESSES[1])
    assert vrrp.taken(description()) == ""
    adverts(system, HERE, "192.168.0.99")
    assert vrrp.taken(description()) == "master: adverts from '192.168.0.2 192.168.0.99'"


def test_every_vip_must_be_taken(system: System) -> None:
    adverts(system, ADDRESSES[1])
    assert vrrp.taken(description(*TWO_VIPS)) == "other: adverts from ''"


def test_a_router_that_is_no_director_is_named_with_the_remedy(system: System) -> None:
    adverts(system, ADDRESSES[1], "192.168.0.99")
    with pytest.raises(Refused, match=r"^vips\.master\.virtual_router_id: 51 is used by 192\.168\.0\.99 on eth0 too; choose another"):
        vrrp.refuse_strangers(description(), None)


def test_a_router_that_the_rules_refuse_is_named_too_and_a_flood_of_them_in_part(system: System) -> None:
    adverts(system, ADDRESSES[1])
    elements = ", ".join(f"192.168.0.{number} timeout 10s expires 9s" for number in range(90, 98))
    system.answers["nft list set ip openshift_lvs strangers_51"] = (0, f"set strangers_51 {{ elements = {{ {elements} }} }}", "")
    named = " ".join(f"192.168.0.{number}" for number in range(90, 95))
    assert vrrp.strangers(description(), None).startswith(f"vips.master.virtual_router_id: 51 is used by {named} and 3 more on eth0 too;")


def test_a_director_of_the_version_in_force_is_no_stranger(system: System) -> None:
    adverts(system, ADDRESSES[2])
    assert vrrp.strangers(description(directors=ADDRESSES[1:2]), description()) == ""
    assert vrrp.strangers(description(directors=ADDRESSES[1:2]), None) != ""


def test_an_id_that_is_not_in_force_is_listened_for(system: System) -> None:
    system.answers["nft list set ip openshift_lvs "] = (1, "", "No such file or directory")
    system.while_waiting = lambda: adverts(system, "192.168.0.99", table="openshift_lvs_listen")
    assert "192.168.0.99" in vrrp.strangers(description(), None)
    assert system.now == 1001
    assert system.asked[-2:] == ["nft delete table ip openshift_lvs_listen", "ip maddress delete 01:00:5e:00:00:12 dev eth0"]


def test_listening_ends_after_the_longest_interval_of_adverts(system: System) -> None:
    system.answers["nft list set ip openshift_lvs "] = (1, "", "No such file or directory")
    assert vrrp.strangers(description(), None) == ""
    assert system.now == 1000 + vrrp.LISTEN_S


# What keepalived says

JOURNAL = """1772366380.000001 master0 Keepalived_vrrp[40]: Registering Kernel netlink reflector
1772366390.000001 master0 Keepalived_vrrp[40]: (master) Entering BACKUP STATE (init)
1772366400.250000 master0 Keepalived_vrrp[40]: (master) Entering MASTER STATE
1772366400.600000 master0 Keepalived_vrrp[40]: (master) Received advert from 192.168.0.3 with lower priority 140, ours 150, forcing new election
1772366401.500000 master0 Keepalived_vrrp[40]: (other) Entering FAULT STATE
1772366402.000000 master0 Keepalived_vrrp[40]: (gone) Entering BACKUP STATE
"""
"""What `journalctl --output short-unix` shows of keepalived 2.2."""


def test_the_last_transition_of_each_instance_comes_from_keepaliveds_journal(system: System) -> None:
    system.answers["journalctl"] = (0, JOURNAL, "")
    found = vrrp.transitions(["master", "other", "third"])
    assert found == {"master": Transition("MASTER", 1772366400.25, "BACKUP"), "other": Transition("FAULT", 1772366401.5)}
    assert system.asked == ["journalctl --quiet --no-pager --output short-unix --identifier Keepalived_vrrp --lines 300"]


def test_a_restarted_backup_keeps_the_time_of_its_last_transition(system: System) -> None:
    again = "1772366500.000000 master0 Keepalived_vrrp[41]: (other) Entering FAULT STATE\n"
    system.answers["journalctl"] = (0, JOURNAL + again, "")
    assert vrrp.transitions(["other"])["other"].since == 1772366401.5


def test_without_a_journal_no_transition_is_known(system: System) -> None:
    system.answers["journalctl"] = (1, "", "No journal files were found.\n")
    assert vrrp.transitions(["master"]) == {}


@pytest.mark.parametrize("stack", sorted(path.name.split(".")[1] for path in GOLDEN.glob("Pulumi.*.yaml")))
def test_priorities_are_those_of_the_configuration_in_force(stack: str, tmp_path: Path) -> None:
    cluster = render.cluster(GOLDEN, stack)
    for node in cluster.nodes():
        if node.name in cluster.directors(node.pool_name) and (vips := cluster.vips_of(node.pool_name)):
            text = next(file.text for file in keepalived.render(cluster, node.name, GOLDEN) if file.path == "keepalived.conf")
            (tmp_path / "keepalived.conf").write_text(text)
            assert vrrp.priorities(str(tmp_path)) == {name: cluster.priority(vip, node.name) for name, vip in vips.items()}
    assert vrrp.priorities(str(tmp_path / "none")) == {}
