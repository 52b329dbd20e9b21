"""When a director gives up its VIPs during a change, and when it goes back to the version before."""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

import pytest

from node.openshift_lvs import activation, host, ipvs, programs, state, versions, vrrp
from node.openshift_lvs.activation import Progress
from node.openshift_lvs.description import Description
from node.openshift_lvs.errors import Refused, TimedOut
from node.openshift_lvs.record import replace
from tests.unit.node_functions import ADDRESSES, HERE, MARK, SERVER, System, deliver, description, drain, in_force, service, vip

CHECKS = "virtual_server_group none {{\n}}\n\nvirtual_server fwmark 1 {{\n    connect_timeout {}\n}}\n"
ALL = {"master": "192.168.0.250"}
TUNNEL = description(vip(services=(service(forwarding_method="TUN"),)))
OWNED_ELSEWHERE = description(vip(owner=ADDRESSES[1]))


def prepared(system: System, new: Description, before: Description | None = None, checks: tuple[int, int] = (1, 1)) -> activation._Activation:
    """An activation of a version on a director that holds its VIP, all servers live."""
    before = before or description()
    in_force("old", before, CHECKS.format(checks[0]))
    deliver("new", new, CHECKS.format(checks[1]))
    system.fill(before)
    system.held = dict(ALL)
    made = activation._Activation("new", "old")
    made.progress.answered_before = sorted(ipvs.live(ipvs.table()))
    return made


def gives_away(system: System, made: activation._Activation, canary: bool = False) -> bool:
    """Whether the VIP leaves; if so, the director may take it again afterwards."""
    made._give_vips_away(canary)
    if system.left:
        assert state.read(state.drain_file("master")) == "0"
    return bool(system.left)


# Giving VIPs away


def test_an_owner_keeps_its_vip_during_a_change(system: System) -> None:
    assert not gives_away(system, prepared(system, description()))


def test_the_canary_gives_its_vip_away(system: System) -> None:
    assert gives_away(system, prepared(system, description()), canary=True)


def test_a_director_gives_a_vip_away_whose_owner_will_be_another(system: System) -> None:
    assert gives_away(system, prepared(system, OWNED_ELSEWHERE))


JOINS = "192.168.0.9"
TO_ONE_THAT_JOINS = description(vip(owner=JOINS), directors=(*ADDRESSES[1:], JOINS))


def test_a_vip_whose_owner_will_be_a_director_that_joins_stays_until_that_one_takes_it(system: System) -> None:
    made = prepared(system, TO_ONE_THAT_JOINS)
    assert not gives_away(system, made)
    assert made._left_to_others() == []


def test_of_a_vip_of_both_families_the_addresses_leave_or_stay_together(system: System) -> None:
    """The owner of the second VIP is known by its IPv6 address."""
    second = replace(vip("master-v6", "fd00::250", owner="fd00::9"), together="master")
    new = replace(TO_ONE_THAT_JOINS, vips=(replace(vip(owner=JOINS), together="master"), second), address_v6=ip_address("fd00::2"))
    made = prepared(system, new)
    system.held = {**ALL, "master-v6": "fd00::250"}
    assert made._left_to_others() == []
    made.current = replace(description(directors=(*ADDRESSES[1:], JOINS)), directors_v6=(ip_address("fd00::9"),))
    assert made._left_to_others() == ["master", "master-v6"]


def test_the_canary_gives_such_a_vip_away_all_the_same(system: System) -> None:
    made = prepared(system, TO_ONE_THAT_JOINS)
    assert gives_away(system, made, canary=True)
    system.held = {}
    assert made._left_to_others() == ["master"]


@pytest.mark.parametrize(("held", "weight"), [(ALL, "0"), ({}, "-50")])
def test_a_director_steps_back_from_such_a_vip_only_where_it_does_not_hold_it(
    system: System, host_changes: list[str], held: dict[str, str], weight: str
) -> None:
    made = prepared(system, TO_ONE_THAT_JOINS)
    system.held = dict(held)
    vrrp.start(description())
    made.run(canary=False)
    assert state.read(state.drain_file("master")) == weight


def test_a_director_that_becomes_the_owner_keeps_the_vip(system: System) -> None:
    assert not gives_away(system, prepared(system, description(), before=OWNED_ELSEWHERE))


SECOND = vip("master-v6", "fd00::250", services=(service("master-v6-8443", MARK | 1 << 19, {"fd00::2": 1, "fd00::3": 1}),))
TOGETHER = description(*(replace(each, together="master") for each in (vip(), SECOND)))


@pytest.mark.parametrize(("before", "after"), [(description(), TOGETHER), (TOGETHER, description())], ids=["with a second address", "without it again"])
def test_a_director_gives_its_vip_away_when_it_begins_or_ceases_to_move_with_another(system: System, before: Description, after: Description) -> None:
    assert gives_away(system, prepared(system, after, before))


@pytest.mark.parametrize("canary", [False, True])
def test_a_director_keeps_the_vip_when_no_other_one_is_able(system: System, canary: bool) -> None:
    made = prepared(system, OWNED_ELSEWHERE)
    for address in ADDRESSES[1:]:
        drain(address)
    assert not gives_away(system, made, canary)


def test_a_canary_goes_on_with_a_vip_that_no_director_takes(system: System) -> None:
    made = prepared(system, description())
    system.leave = False
    assert not gives_away(system, made, canary=True)
    assert system.notes[-1].startswith("going on with the VIPs: waited 10 s")


def test_a_director_gives_its_vip_away_when_checks_change_while_a_server_fails(system: System) -> None:
    made = prepared(system, description(), checks=(1, 2))
    system.fails(ADDRESSES[1])
    assert gives_away(system, made)


def test_another_name_of_a_server_does_not_hide_that_checks_change_while_one_fails(system: System) -> None:
    # A version of the release before this program names no servers.
    before = Description.from_json(description().to_json().replace("host-", ""))
    made = prepared(system, description(), before, checks=(1, 2))
    system.fails(ADDRESSES[1])
    assert gives_away(system, made)


def test_changed_checks_alone_do_not_move_a_vip(system: System) -> None:
    assert not gives_away(system, prepared(system, description(), checks=(1, 2)))


def test_a_failing_server_alone_does_not_move_a_vip(system: System) -> None:
    made = prepared(system, description())
    system.fails(ADDRESSES[1])
    assert not gives_away(system, made)


def test_changed_servers_do_not_move_a_vip_while_one_fails(system: System) -> None:
    made = prepared(system, description(vip(services=(service(weights={HERE: 1, ADDRESSES[1]: 1}),))), checks=(1, 2))
    system.fails(ADDRESSES[1])
    assert not gives_away(system, made)


def test_a_director_with_another_forwarding_method_gives_its_vip_away_and_waits_for_the_adverts(system: System) -> None:
    made = prepared(system, TUNNEL)
    adverts = "nft list set ip openshift_lvs adverts_51"
    system.while_waiting = lambda: system.answers.__setitem__(adverts, (0, "elements = { 192.168.0.3 }", ""))
    assert gives_away(system, made)
    assert system.now == 1001


def test_another_forwarding_method_is_refused_while_the_vip_stays(system: System) -> None:
    made = prepared(system, TUNNEL)
    system.leave = False
    with pytest.raises(Refused, match=r"^forwarding_method: with another one a director begins anew, and of 192\.168\.0\.3 192\.168\.0\.4 none took"):
        made._give_vips_away(False)


def test_another_forwarding_method_is_refused_without_adverts_and_lowered_servers_return(system: System) -> None:
    fewer = description(vip(services=(service(weights=dict.fromkeys(ADDRESSES[:2], 1), forwarding_method="TUN"),)))
    made = prepared(system, fewer)
    with pytest.raises(Refused, match="forwarding_method"):
        made._give_vips_away(False)
    assert any(f"{ADDRESSES[2]} --gatewaying --weight 0" in call for call in system.asked)
    assert system.weights() == dict.fromkeys(ADDRESSES, 1)
    assert Progress.read().lowered == []


@pytest.mark.parametrize("case", ["alone", "no server answered"])
def test_another_forwarding_method_has_nothing_to_wait_for(system: System, case: str) -> None:
    alone = description(directors=()) if case == "alone" else None
    made = prepared(system, TUNNEL, before=alone)
    if case == "no server answered":
        made.progress.answered_before = []
        system.leave = False
    made._give_vips_away(False)


def test_a_host_without_a_version_has_nothing_to_give_away(system: System) -> None:
    deliver("new", description())
    activation._Activation("new", "")._give_vips_away(True)
    assert system.asked == []


# Removed servers


def test_the_holder_waits_for_the_connections_of_removed_servers(system: System) -> None:
    made = prepared(system, description(vip(services=(service(weights={HERE: 1}),))))
    system.table[MARK][ADDRESSES[1]] = ("DR", 1, 2)
    system.while_waiting = lambda: system.table[MARK].__setitem__(ADDRESSES[1], ("DR", 0, 0))
    made._lower_removed()
    assert system.weights() == {HERE: 1, ADDRESSES[1]: 0, ADDRESSES[2]: 0}
    assert system.now == 1001
    assert Progress.read().lowered == [(MARK, ADDRESSES[1], "DR", 1), (MARK, ADDRESSES[2], "DR", 1)]


def test_a_director_without_the_vip_does_not_wait(system: System) -> None:
    made = prepared(system, description(vip(services=(service(weights={HERE: 1}),))))
    system.table[MARK][ADDRESSES[1]] = ("DR", 1, 2)
    system.held.clear()
    made._lower_removed()
    assert (system.now, system.weights()[ADDRESSES[1]]) == (1000, 0)


def test_the_next_activation_gives_lowered_servers_their_weights_again(system: System) -> None:
    prepared(system, description(vip(services=(service(weights={HERE: 1}),))))._lower_removed()
    activation._Activation("new", "old")._take_up_what_was_interrupted()
    assert system.weights() == dict.fromkeys(ADDRESSES, 1)
    assert Progress.read().lowered == []


# Progress


def test_progress_survives_an_interruption(system: System) -> None:
    progress = Progress([(MARK, HERE)], True, [(MARK, HERE, "DR", 3)])
    progress.write()
    assert vars(Progress.read()) == vars(progress)
    assert json.loads(Path(state.ACTIVATION).read_text())["answered_before"] == [[MARK, HERE]]


def test_progress_of_a_node_after_a_reboot_is_empty(system: System) -> None:
    assert vars(Progress.read()) == vars(Progress(None, False, []))


def test_what_answered_before_an_interrupted_activation_is_remembered(system: System) -> None:
    prepared(system, description())
    Progress([(MARK, HERE)], unread=True).write()
    system.table.clear()
    made = activation._Activation("new", "old")
    made._take_up_what_was_interrupted()
    assert made.progress.answered_before == [(MARK, HERE)]


def test_what_the_scripts_left_of_an_activation_is_kept_until_it_is_written_down(system: System) -> None:
    prepared(system, description())
    system.table[MARK][HERE] = ("DR", 0, 0)
    run = Path(state.RUN)
    (run / "before").write_text(f"{MARK} {ADDRESSES[1]} gatewaying\n")
    (run / "lowered").write_text(f"{MARK} {HERE} gatewaying 1\n")
    (run / "unread").touch()
    system.answers["ipvsadm --edit-server"] = (1, "", "killed here")
    with pytest.raises(Refused, match="killed here"):
        activation._Activation("new", "old")._take_up_what_was_interrupted()
    assert vars(Progress.read()) == vars(Progress([(MARK, ADDRESSES[1])], True, [(MARK, HERE, "DR", 1)]))
    del system.answers["ipvsadm --edit-server"]
    made = activation._Activation("new", "old")
    made._take_up_what_was_interrupted()
    assert system.weights()[HERE] == 1
    assert (made.progress.answered_before, made.progress.unread) == ([(MARK, ADDRESSES[1])], True)
    assert not [name for name in ("before", "lowered", "unread") if (run / name).exists()]


# Health


def unhealthy(system: System, said: Description | None = None, before: list[tuple[int, str]] | None = None) -> str:
    made = prepared(system, said or description()) if not Path(state.CURRENT).is_symlink() else activation._Activation("new", "old")
    return made._unhealthy(said or description(), before)


def test_a_healthy_director_has_every_service_and_every_server_that_answered(system: System) -> None:
    assert unhealthy(system, before=[(MARK, address) for address in ADDRESSES]) == ""


def test_a_stopped_keepalived_is_not_healthy(system: System) -> None:
    prepared(system, description())
    system.running, system.answers["systemctl is-active"] = False, (3, "failed\n", "")
    assert unhealthy(system) == "keepalived.service is failed"


def test_a_lost_server_is_unhealthy_only_if_it_answered_before(system: System) -> None:
    prepared(system, description())
    system.fails(ADDRESSES[1])
    assert unhealthy(system, before=[(MARK, HERE)]) == ""
    assert unhealthy(system, before=[(MARK, ADDRESSES[1])]) == f"servers that answered before fail their checks now: {MARK} {ADDRESSES[1]}"


def test_a_service_that_the_kernel_lacks_is_unhealthy(system: System) -> None:
    prepared(system, description())
    system.table.clear()
    assert unhealthy(system) == f"the kernel's table lacks the virtual servers {MARK}"


def test_a_new_service_must_have_a_live_server_where_answers_are_expected(system: System) -> None:
    new = description(vip(services=(service(), service("master-443", MARK + 1, port=443))))
    expected = Description.from_json(new.to_json().replace('"answers_expected": false', '"answers_expected": true'))
    made = prepared(system, expected)
    assert made._unanswered() == "no server passes its check of the new service 192.168.0.250:443"
    system.fails(*ADDRESSES)
    system.table[MARK + 1] = {HERE: ("DR", 1, 0)}
    assert made._unanswered() == "", "a service of the version before may be without a server"


# What is in force


def test_a_boot_after_an_interrupted_delivery_brings_the_version_in_force(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(host, "prepare", lambda *_: None)
    monkeypatch.setattr(host, "load_rules", lambda _: None)
    monkeypatch.setattr(host, "remove_vips", removed.extend)
    in_force("v1", description())
    deliver("v2", description(vip(address="192.168.0.251")))
    # The power went off while host.json was written.
    half = Path(versions.folder("v3.part"))
    half.mkdir()
    (half / "host.json").touch()
    activation.apply(description())
    assert removed == ["192.168.0.251"]
    assert Path(state.CURRENT, "drained", "master-8443.conf").exists()
    assert state.read(state.drain_file("master")) == "0"


# A whole activation


@pytest.fixture
def host_changes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions whose kernel settings were put in place."""
    applied: list[str] = []
    monkeypatch.setattr(activation, "apply", lambda _: applied.append(state.target(state.CURRENT)))
    monkeypatch.setattr(host, "install_units", lambda _: None)
    monkeypatch.setattr(ipvs, "keep_sync", lambda _: None)
    return applied


def test_a_healthy_version_comes_into_force_and_steps_back(system: System, host_changes: list[str]) -> None:
    made = prepared(system, OWNED_ELSEWHERE)
    assert made.run(canary=False) == "new in force"
    assert (state.target(state.CURRENT), state.target(state.PROVEN)) == ("new", "new")
    assert state.read(state.drain_file("master")) == "-50"
    assert "systemctl reload keepalived.service" in system.asked
    assert not Progress.read().unread
    assert Path(state.EXECUTABLE).readlink() == Path(state.CURRENT, "program", "openshift-lvs")


def test_a_version_in_force_and_healthy_is_left_alone(system: System, host_changes: list[str]) -> None:
    prepared(system, description())
    assert activation._Activation("old", "old").run(canary=True) == "old in force, nothing to do"
    assert (system.left, host_changes) == ([], ["old"])
    assert "systemctl reload keepalived.service" not in system.asked


def test_a_node_whose_own_address_is_on_another_interface_is_left_as_it_is(system: System, host_changes: list[str]) -> None:
    made = prepared(system, OWNED_ELSEWHERE)
    system.answers["ip -oneline address show"] = (0, f"7: br-ex inet {HERE}/24 scope global br-ex\n", "")
    with pytest.raises(Refused, match=rf"^{HERE} is on br-ex, not on eth0(.*)to br-ex and pulumi up\. Nothing was changed$"):
        made.run(canary=False)
    assert (host_changes, system.asked, state.target(state.CURRENT)) == ([], [], "old")


def test_a_version_that_keepalived_may_not_have_read_is_activated_again(system: System, host_changes: list[str]) -> None:
    prepared(system, description())
    Progress([], unread=True).write()
    assert activation._Activation("old", "old").run(canary=False) == "old in force"
    assert "systemctl reload keepalived.service" in system.asked


def test_a_version_whose_servers_fail_their_checks_is_rolled_back(system: System, host_changes: list[str]) -> None:
    made = prepared(system, description())
    answer = system.attempt

    def unlucky(*command: str, stdin: str = "") -> tuple[int, str, str]:
        if command[:2] == ("systemctl", "reload") and state.target(state.CURRENT) == "new":
            system.fails(ADDRESSES[1])
        return answer(*command, stdin=stdin)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "attempt", unlucky)
        with pytest.raises(Refused, match=rf"fail their checks now: {MARK} {ADDRESSES[1]}(.|\n)*rolled back to old$"):
            made.run(canary=False)
    assert host_changes == ["new", "old"]
    assert (state.target(state.CURRENT), state.target(state.PROVEN)) == ("old", "old")
    assert Path(versions.folder("new")).is_dir(), "an operator may want to see it"


def test_a_first_version_that_is_not_healthy_leaves_keepalived_stopped(system: System, host_changes: list[str]) -> None:
    deliver("new", description())
    system.running, system.answers["systemctl start"] = False, (1, "", "Job failed")
    with pytest.raises(Refused, match=r"Job failed(.|\n)*keepalived is stopped: there is no version before to go back to$"):
        activation._Activation("new", "").run(canary=True)
    assert not Path(state.CURRENT).is_symlink()


def test_a_version_that_is_no_director_stops_keepalived(system: System, host_changes: list[str]) -> None:
    made = prepared(system, description(director=False, directors=()))
    assert made.run(canary=False) == "new in force"
    assert not system.running


def test_a_server_that_is_no_director_starts_keepalived_without_connection_sync(system: System, host_changes: list[str]) -> None:
    made = prepared(system, SERVER, replace(SERVER, checks_only=False))
    system.running = False
    system.while_waiting = lambda: system.fill(SERVER)
    assert made.run(canary=False) == "new in force"
    assert system.running and "systemctl start openshift-lvs.service keepalived.service" in system.asked
    assert not [line for line in system.asked if "-daemon" in line]


@pytest.mark.parametrize("roles", [(description(), SERVER), (SERVER, description(directors=()))], ids=["leaves", "comes"])
def test_keepalived_starts_anew_when_a_host_becomes_a_director_or_ceases_to_be_one(
    system: System, host_changes: list[str], roles: tuple[Description, Description]
) -> None:
    old, new = roles
    made = prepared(system, new, old)
    assert made.run(canary=False) == "new in force"
    assert [line for line in system.asked if line.startswith("systemctl st")] == [
        "systemctl stop keepalived.service",
        "systemctl start openshift-lvs.service keepalived.service",
    ]


def test_a_new_version_reloads_keepalived_on_a_server_that_is_no_director(system: System, host_changes: list[str]) -> None:
    assert prepared(system, SERVER, SERVER).run(canary=False) == "new in force"
    assert [line for line in system.asked if line.startswith("systemctl")] == ["systemctl reload keepalived.service"]


def test_a_fault_of_the_file_system_is_rolled_back(system: System, host_changes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(system, description())

    def full(program: str) -> None:
        if state.target(state.CURRENT) == "new":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(host, "install_units", full)
    with pytest.raises(Refused, match=r"No space left on device(.|\n)*rolled back to old$"):
        made.run(canary=False)
    assert state.target(state.CURRENT) == "old"


def test_a_roll_back_goes_on_without_connection_sync(system: System, host_changes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(system, description())

    def fails(_: Description) -> None:
        raise Refused("ipvsadm --start-daemon: Device or resource busy")

    monkeypatch.setattr(ipvs, "keep_sync", fails)
    with pytest.raises(Refused, match=r"Device or resource busy(.|\n)*rolled back to old$"):
        made.run(canary=False)
    assert "systemctl reload keepalived.service" in system.asked


def test_a_roll_back_reports_the_fault_although_the_view_could_not_be_counted(system: System, host_changes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = prepared(system, description())
    answer = system.attempt

    def fails(*command: str, stdin: str = "") -> tuple[int, str, str]:
        if command[:2] == ("systemctl", "reload") and state.target(state.CURRENT) == "new":
            return 1, "", "Job failed"
        return answer(*command, stdin=stdin)

    def busy(_: Description) -> None:
        raise TimedOut("master.lock: waited 5 s")

    monkeypatch.setattr(programs, "attempt", fails)
    monkeypatch.setattr(vrrp, "recount", busy)
    with pytest.raises(Refused, match=r"Job failed(.|\n)*rolled back to old$"):
        made.run(canary=False)


# The first version of a director


def joined(system: System, connections: int) -> float:
    """For how long the activation of a first version waits; other directors have told it of so many connections."""
    deliver("new", description(), CHECKS.format(1))
    system.fill(description())
    system.table[MARK][HERE] = ("DR", 1, connections)
    made = activation._Activation("new", "")
    made.reloaded_at = began = system.now
    made._stays_healthy(changes=True)
    return system.now - began


def test_a_director_that_joins_others_is_healthy_when_it_was_told_of_every_connection(system: System) -> None:
    assert joined(system, 1) == pytest.approx(activation.TOLD_ANEW_S, abs=1)


def test_a_director_waits_for_no_report_where_there_are_no_connections(system: System) -> None:
    assert joined(system, 0) == pytest.approx(activation.TOLD_S, abs=1)


def test_a_director_that_holds_the_vip_waits_for_no_report(system: System) -> None:
    system.held = dict(ALL)
    assert joined(system, 1) == pytest.approx(activation.TOLD_S, abs=1)
