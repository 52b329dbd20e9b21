"""The resident process: what keepalived believes, the table that follows, repairs, failing open, and what the kernel tells."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from components import keepalived
from node.openshift_lvs import belief, host, ipvs, observe, own_calls, programs, quorum, repairs, state, vrrp, watch
from node.openshift_lvs.belief import Belief
from node.openshift_lvs.description import Description, Service
from node.openshift_lvs.errors import Refused
from node.openshift_lvs.lock import Lock
from node.openshift_lvs.record import replace
from node.openshift_lvs.watch import Watch
from tests.unit.node_functions import ADDRESSES, HERE, MARK, System, description, drain, in_force, service, vip
from tests.unit.node_root import OPENSHIFT_LVS, PROGRAM, Node, replace_clock
from tests.unit.test_node_scripts import activated

SECOND, THIRD = ADDRESSES[1:]
BOTH_SIDES = """   sl  local_address rem_address   st
  1: 00000000:BC8F 510000E0:2290 01
  2: 510000E0:2290 00000000:0000 07
"""
GIVEN: dict[str, Any] = {"scheduler": "mh", "scheduler_flags": ("mh-fallback", "mh-port"), "fail_open": True}


def served(*services: Service) -> Description:
    return description(vip(services=services or (service(**GIVEN),)))


def down(*addresses: str, mark: int = MARK) -> str:
    return "".join(f"RS [{address}]:none:0 FWM {mark} DOWN\n" for address in addresses)


def up(*addresses: str, mark: int = MARK) -> str:
    return down(*addresses, mark=mark).replace("DOWN", "UP")


class Running:
    """A node with a version in force, a keepalived that runs, and the resident process between its looks."""

    def __init__(self, system: System, folder: Path, said: Description) -> None:
        self.system, self.folder = system, folder
        system.after_restore = self.show
        in_force("v1", said)
        Path(state.CURRENT, "sysctl.conf").write_text("# ARP\nnet.ipv4.conf.all.arp_ignore = 1\nnet.ipv4.vs.sync_threshold = 0 0\n")
        self.sysctl("net/ipv4/conf/all/arp_ignore", "1\n")
        self.sysctl("net/ipv4/vs/sync_threshold", "0\t0\n")
        Path(watch.PROC_UDP[4]).write_text(BOTH_SIDES)
        system.fill(said)
        system.answers["ip -oneline address show dev lo"] = (0, "1: lo inet 192.168.0.250/32 scope global lo\n", "")
        self.watch = self.started()

    def started(self) -> Watch:
        """Another resident process."""
        self.show()
        made = Watch()
        made._program = os.path.realpath(f"{state.CURRENT}/program")
        assert made.read_version()
        made.read_belief()
        made.rules_due, made._own_rules_from = False, None
        return made

    def sysctl(self, path: str, text: str) -> None:
        file = self.folder / "sys" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def show(self) -> None:
        Path(watch.PROC_TABLE).write_text(self.system.proc)

    def hear(self, lines: str) -> None:
        self.show()
        self.watch.hear(lines.encode())
        self.watch.catch_up()
        self.end_redirect()

    def end_redirect(self) -> None:
        """Wait until the thread that redirects own calls has ended."""
        if thread := self.watch._redirecting:
            thread.join(10)
            assert not thread.is_alive()

    def look(self, times: int = 2) -> list[str]:
        """So many looks; what ipvsadm was told to restore, and what else was asked."""
        self.system.restored.clear()
        self.system.asked.clear()
        for _ in range(times):
            self.show()
            self.system.now += 1
            self.watch.look()
            if self.watch.behind:
                self.watch.catch_up()
            self.end_redirect()
        return [*self.system.restored, *(line for line in self.system.asked if line != "ipvsadm --restore" and not line.startswith("ip -oneline"))]


@pytest.fixture
def make(system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Running]:
    monkeypatch.setattr(watch, "PROC_TABLE", str(tmp_path / "ip_vs"))
    monkeypatch.setattr(watch, "PROC_UDP", {4: str(tmp_path / "udp")})
    monkeypatch.setattr(host, "PROC_SYS", str(tmp_path / "sys"))
    monkeypatch.setattr(host, "keepalived_runs", lambda: True)
    monkeypatch.setattr(repairs, "suspects", lambda: "kube-proxy")
    return Running


@pytest.fixture
def running(make: type[Running], system: System, tmp_path: Path) -> Running:
    return make(system, tmp_path, served())


# What keepalived believes


def test_lines_of_keepalived_become_verdicts_and_others_are_left_out() -> None:
    lines = [f"RS [{HERE}]:none:0 FWM {MARK} DOWN", "RS [2001:db8::2]:none:0 FWM 7 UP", f"VS FWM {MARK} DOWN", "RS half", "VS [192.0.2.1]:tcp:80 UP", ""]
    heard = Belief().heard(lines)
    assert heard.servers == {(MARK, HERE): False, (7, "2001:db8::2"): True}
    assert heard.quorums == {MARK: False}


def test_a_server_of_which_keepalived_said_nothing_passes_unless_the_service_begins_with_none() -> None:
    assert Belief().passes(service(), HERE)
    assert not Belief().passes(service(alpha=True), HERE)


def test_a_keepalived_that_starts_forgets_what_the_one_before_believed() -> None:
    assert Belief().heard([f"RS [{HERE}]:none:0 FWM {MARK} DOWN", "START"]).servers == {}
    assert Belief().heard(["START", f"RS [{HERE}]:none:0 FWM {MARK} DOWN"]).servers == {(MARK, HERE): False}


def test_the_start_of_keepalived_reaches_a_process_that_reads_later(system: System) -> None:
    pipe = belief.open_pipe()
    state.write(state.BELIEF, Belief({(MARK, HERE): False}).to_json())
    belief.begin()
    assert os.read(pipe, 100) == b"START\n"
    assert belief.read() is None
    os.close(pipe)


def test_the_belief_is_the_same_after_it_was_written(system: System) -> None:
    known = Belief({(MARK, HERE): False, (MARK, SECOND): True}, {MARK: False}, {MARK: "2026-01-31 12:00:00 UTC"})
    state.write(state.BELIEF, known.to_json())
    assert belief.read() == known


def test_a_line_that_arrives_in_two_parts_is_read_whole(running: Running) -> None:
    running.hear(down(SECOND)[:20])
    running.hear(down(SECOND)[20:])
    assert not running.watch.belief.passes(service(), SECOND)


def test_without_a_record_the_first_belief_is_what_the_table_of_a_running_keepalived_tells(make: type[Running], system: System, tmp_path: Path) -> None:
    made = make(system, tmp_path, served())
    drain(THIRD)
    system.fails(SECOND, THIRD)
    belief.forget()
    seen = made.started().belief
    assert [seen.passes(service(), address) for address in ADDRESSES] == [True, False, True], "one that is drained tells nothing"


def test_without_a_record_a_sorry_server_in_the_table_tells_that_the_quorum_is_lost(make: type[Running], system: System, tmp_path: Path) -> None:
    made = make(system, tmp_path, served(service(**{**GIVEN, "fail_open": False}, sorry_server=ip_address("192.168.0.9"))))
    system.fails(*ADDRESSES)
    system.table[MARK]["192.168.0.9"] = ("DR", 1, 0)
    belief.forget()
    made.watch = made.started()
    made.look(3)
    assert not system.restored


# The table that follows


def test_a_table_as_the_kernel_shows_it_is_read_without_a_program() -> None:
    shown = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600001:01BB rr
  -> 0A580005:20FB      Masq    1      0          0
FWM  0330192B mh
  -> C0A80002:0000      Route   1      7          2
  -> [2001:0db8:0000:0000:0000:0000:0000:0002]:0000      Tunnel  0      3          4
FWM  00000007 sh ops persistent 75000 FFFFFFFF
"""
    assert ipvs.parse_proc(shown) == {
        0x0330192B: ipvs.VirtualServer("mh", (), None, {HERE: ipvs.RealServer("DR", 1, 7), "2001:db8::2": ipvs.RealServer("TUN", 0, 3)}),
        7: ipvs.VirtualServer("sh", ("ops",), 0, {}),
    }
    assert ipvs.connections_in(shown) == 16


def test_a_failed_server_keeps_its_place_with_weight_0_or_is_removed() -> None:
    failed = Belief({(MARK, SECOND): False})
    for inhibit, weights in ((True, {HERE: 1, SECOND: 0, THIRD: 1}), (False, {HERE: 1, THIRD: 1})):
        table = belief.wanted(served(service(**GIVEN, inhibit_on_failure=inhibit)), failed, set())
        assert {address: server.weight for address, server in table[MARK].servers.items()} == weights


def test_a_lost_quorum_gives_everything_to_the_sorry_server() -> None:
    said = served(service(**{**GIVEN, "fail_open": False}, sorry_server=ip_address("192.168.0.9")))
    table = belief.wanted(said, Belief({(MARK, SECOND): False}, {MARK: False}), set())
    assert {address: server.weight for address, server in table[MARK].servers.items()} == {HERE: 0, SECOND: 0, THIRD: 0, "192.168.0.9": 1}
    table = belief.wanted(said, Belief({(MARK, SECOND): False}), set())
    assert {address: server.weight for address, server in table[MARK].servers.items()} == {HERE: 1, SECOND: 0, THIRD: 1}


def test_a_restored_service_has_every_option_of_the_configuration() -> None:
    options: dict[str, Any] = {
        "persistence_timeout": 300,
        "persistence_granularity": ip_address("255.255.255.0"),
        "ops": True,
        "uthreshold": 10,
        "lthreshold": 5,
    }
    said = served(service(weights={HERE: 3}, **GIVEN, **options))
    lines = belief.difference(said.services[0], belief.wanted(said, Belief(), set())[MARK], None)
    assert lines == [
        f"--add-service --fwmark-service {MARK} --scheduler mh --sched-flags mh-fallback,mh-port --persistent 300 --netmask 255.255.255.0 --ops",
        f"--add-server --fwmark-service {MARK} --real-server {HERE}:0 --gatewaying --u-threshold 10 --l-threshold 5 --weight 3",
    ]


# Repairs


def test_an_idle_look_starts_no_process_and_writes_nothing(running: Running) -> None:
    running.look()
    assert running.look(4) == []
    assert running.system.notes == []
    assert not Path(state.REPAIRS).exists()


def test_an_emptied_table_is_restored_at_the_second_look_with_the_belief_and_the_place_of_every_server(running: Running) -> None:
    drain(THIRD)
    running.system.fails(THIRD)
    running.hear(down(SECOND))
    running.look()
    running.system.now += watch.SETTLE_S
    running.system.table.clear()
    assert running.look(1) == [], "keepalived may be at work"
    # nft: connections that the own server accepts meanwhile are kept.
    assert running.look(1) == [
        f"--add-service --fwmark-service {MARK} --scheduler mh --sched-flags mh-fallback,mh-port",
        f"--add-server --fwmark-service {MARK} --real-server {HERE}:0 --gatewaying --weight 1",
        *(
            f"--{verb}-server --fwmark-service {MARK} --real-server {address}:0 --gatewaying --weight {weight}"
            for address in (SECOND, THIRD)
            for verb, weight in (("add", 1), ("edit", 0))
        ),
        "nft --file -",
        "nft --file -",
    ]
    assert running.system.weights() == {HERE: 1, SECOND: 0, THIRD: 0}
    assert running.system.notes[-1].startswith("repaired IPVS table: 1 services put back, 3 servers put back, 2 servers corrected (add-service")
    assert running.system.notes[-1].endswith("; changed by kube-proxy")
    assert running.look() == []


def test_a_table_that_becomes_shorter_is_noticed_once(running: Running) -> None:
    assert [running.watch.became_shorter() for _ in range(2)] == [False, False]
    running.system.table.clear()
    running.show()
    assert [running.watch.became_shorter() for _ in range(2)] == [True, False]


def test_a_table_that_is_emptied_again_right_after_its_repair_is_noticed(running: Running) -> None:
    running.look()
    running.system.table.clear()
    running.show()
    running.watch.became_shorter()
    running.look()
    running.system.table.clear()
    running.show()
    assert running.watch.became_shorter()


def test_a_second_in_which_nothing_happens_reads_the_length_of_the_table_four_times_and_the_table_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    begin = running.system.now

    class Ended(Exception):
        pass

    class Poll:
        def register(self, *_: object) -> None:
            pass

        def poll(self, milliseconds: float) -> list[tuple[int, int]]:
            # The kernel's timer has whole milliseconds, and ends no wait too early.
            running.system.now += (int(milliseconds) + 1) / 1000
            if running.system.now > begin + watch.REPORT_S + 3.1:
                raise Ended
            return []

    def text(_: object) -> str:
        read.append("whole")
        return running.system.proc

    def first_part(_: object) -> bytes:
        read.append("length")
        return b""

    monkeypatch.setattr(select, "poll", Poll)
    monkeypatch.setattr(ipvs.ProcTable, "text", text)
    monkeypatch.setattr(ipvs.ProcTable, "first_part", first_part)
    with pytest.raises(Ended):
        watch.watch()
    # The first look also compares own calls, and the one after REPORT_S the view.
    assert read[-10:] == [*["length"] * 4, "whole"] * 2


def test_the_kernels_table_is_shown_anew_though_its_file_stays_open() -> None:
    import socket

    table = ipvs.ProcTable("/proc/net/udp")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        port = f"0100007F:{made.getsockname()[1]:04X}"
        assert port in table.text() and port.encode() in table.first_part()
    assert port not in table.text() and port.encode() not in table.first_part()


def test_a_table_of_several_pages_is_read_whole_and_from_its_start(tmp_path: Path) -> None:
    shown = "".join(f"FWM  {mark:08X} mh \n" for mark in range(1000))
    (tmp_path / "ip_vs").write_text(shown)
    table = ipvs.ProcTable(str(tmp_path / "ip_vs"))
    assert table.text() == table.text() == shown
    assert shown.encode().startswith(table.first_part()) and len(table.first_part()) == 4096


def test_a_kernel_that_loads_ipvs_later_or_anew_shows_its_table(tmp_path: Path) -> None:
    table = ipvs.ProcTable(str(tmp_path / "ip_vs"))
    assert (table.first_part(), table.text()) == (b"", "")
    (tmp_path / "ip_vs").write_text("before\n")
    assert table.text() == "before\n"
    # As after rmmod and modprobe: the open file can be read no more, and another one is there.
    with (tmp_path / "unreadable").open("w") as unreadable:
        os.dup2(unreadable.fileno(), table._file)
    (tmp_path / "ip_vs").write_text("after\n")
    assert table.text() == "after\n"


def test_a_server_that_dies_between_the_flush_and_the_repair_is_restored_as_dead(running: Running) -> None:
    running.system.table.clear()
    running.look(1)
    running.hear(down(SECOND))
    running.look()
    assert running.system.weights() == {HERE: 1, SECOND: 0, THIRD: 1}


@pytest.mark.parametrize(
    ("change", "repair"),
    [
        (lambda table: table.pop(SECOND), f"add-server --fwmark-service {MARK} --real-server {SECOND}:0 --gatewaying --weight 1"),
        (lambda table: table.update({SECOND: ("DR", 5, 0)}), f"edit-server --fwmark-service {MARK} --real-server {SECOND}:0 --gatewaying --weight 1"),
        (lambda table: table.update({SECOND: ("NAT", 1, 0)}), f"edit-server --fwmark-service {MARK} --real-server {SECOND}:0 --gatewaying --weight 1"),
        (lambda table: table.update({"192.168.0.77": ("DR", 1, 0)}), f"delete-server --fwmark-service {MARK} --real-server 192.168.0.77:0"),
    ],
)
def test_a_changed_real_server_is_corrected(running: Running, change: object, repair: str) -> None:
    change(running.system.table[MARK])  # type: ignore[operator]
    assert running.look() == [f"--{repair}"]


def test_what_keepalived_did_and_reports_a_moment_later_is_no_change_by_others(running: Running) -> None:
    running.system.fails(SECOND)
    assert running.look(1) == []
    running.hear(down(SECOND))
    assert running.look(3) == []
    assert running.system.notes == []


def test_weights_that_a_script_sets_are_left_alone(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, served(service(**{**GIVEN, "fail_open": False}, dynamic_weights=True)))
    running.system.table[MARK][SECOND] = ("DR", 7, 0)
    assert running.look() == []


def test_nothing_is_repaired_while_another_command_changes_versions(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.system.table.clear()
    with Lock(state.LOCK, 0, "activate v2"):
        assert running.look(4) == []
    assert running.look()


def test_nothing_is_put_into_the_table_while_keepalived_does_not_run(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "keepalived_runs", lambda: False)
    running.system.table.clear()
    assert running.look(3) == []


def test_weights_rest_for_keepalived_after_a_drain(running: Running) -> None:
    running.look()
    drain(SECOND)
    assert running.look(3) == []
    running.system.now += watch.SETTLE_S
    assert running.look() == [f"--edit-server --fwmark-service {MARK} --real-server {SECOND}:0 --gatewaying --weight 0"]


def test_a_changed_sysctl_is_set_again_twice_and_then_left_to_its_owner(running: Running) -> None:
    for _ in range(repairs.SYSCTL_TIMES):
        running.sysctl("net/ipv4/conf/all/arp_ignore", "0\n")
        assert running.look(3)[0] == "sysctl -q -p -"
        running.sysctl("net/ipv4/conf/all/arp_ignore", "1\n")
        running.look()
    running.sysctl("net/ipv4/conf/all/arp_ignore", "0\n")
    assert running.look(4) == []
    assert [note.partition(":")[0] for note in running.system.notes] == ["repaired sysctl net.ipv4.conf.all.arp_ignore"] * 2 + ["not repaired again"]
    found = repairs.read(running.system.now)
    assert [(each.what, each.count, each.contested) for each in found] == [("sysctl net.ipv4.conf.all.arp_ignore", 2, True)]
    running.sysctl("net/ipv4/conf/all/arp_ignore", "1\n")
    running.look()
    assert not repairs.read(running.system.now)[0].contested


def test_a_vip_that_left_lo_is_put_back(running: Running) -> None:
    running.look()
    running.system.answers["ip -oneline address show dev lo"] = (0, "", "")
    assert running.look() == [], "the kernel told of nothing"
    running.watch.vips_due = True
    assert running.look() == ["ip -batch -"]
    assert running.system.notes[-1] == "repaired VIPs on lo: 192.168.0.250 was missing; changed by kube-proxy"


def test_an_additional_address_that_left_lo_is_put_back(make: type[Running], system: System, tmp_path: Path) -> None:
    several = replace(vip(), additional_addresses=(ip_address("192.168.0.252"), ip_address("192.168.0.253")))
    running = make(system, tmp_path, description(several))
    running.look()
    running.system.answers["ip -oneline address show dev lo"] = (0, "1: lo inet 192.168.0.250/32\n1: lo inet 192.168.0.253/32\n", "")
    running.watch.vips_due = True
    assert running.look() == ["ip -batch -"]
    assert running.system.notes[-1] == "repaired VIPs on lo: 192.168.0.252 was missing; changed by kube-proxy"


def test_the_journal_names_the_interface_that_the_nodes_own_address_moves_to_once(running: Running) -> None:
    for shown in ("eth0", "br-ex", "br-ex", "eth0"):
        running.system.answers["ip -oneline address show"] = (0, f"2: {shown} inet {HERE}/24 scope global {shown}\n", "")
        running.watch.address_due = True
        running.watch.look()
    running.system.answers["ip -oneline address show"] = (0, f"2: br-ex inet {HERE}/24 scope global br-ex\n", "")
    running.watch.look()
    assert running.system.notes == [
        f"{HERE} is on br-ex, not on eth0, where keepalived and the rules expect it; set pools.master.interface, or the one of host master0, to br-ex "
        "and pulumi up",
        f"{HERE}: no other interface than eth0 has it any more",
    ], "the kernel told of nothing at the end"


def test_a_server_that_is_no_director_has_its_sysctls_and_vips_repaired(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, description(director=False, directors=()))
    running.sysctl("net/ipv4/conf/all/arp_ignore", "0\n")
    running.system.answers["ip -oneline address show dev lo"] = (0, "", "")
    assert running.look() == ["sysctl -q -p -", "ip -batch -"]


def test_a_server_that_is_no_director_follows_its_own_health_checks_and_has_its_table_repaired(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, replace(served(), director=False, directors=(), checks_only=True))
    assert running.look() == []
    system.table[MARK][HERE] = ("DR", 0, 0)
    running.hear(f"RS [{HERE}]:none:0 FWM {MARK} DOWN\n")
    assert f"dnat to jhash ip saddr . tcp sport mod 2 map {{ 0 : {ADDRESSES[1]}, 1 : {ADDRESSES[2]} }}" in Path(state.OWN_CALLS).read_text()
    system.table.clear()
    assert f"--add-service --fwmark-service {MARK} --scheduler mh --sched-flags mh-fallback,mh-port" in running.look()


@pytest.mark.parametrize("rules", [True, False])
def test_a_server_that_is_no_director_has_its_rules_repaired_if_it_has_any(make: type[Running], system: System, tmp_path: Path, rules: bool) -> None:
    running = make(system, tmp_path, description(director=False, directors=()))
    if rules:
        Path(state.CURRENT, host.RULES).touch()
    system.answers["unshare --net"] = (0, "table ip openshift_lvs {\n}\n", "")
    system.answers["nft --stateless"] = (0, "", "")
    system.answers["ip -oneline address show dev lo"] = (0, "1: lo inet 192.168.0.250/32 scope global lo\n", "")
    running.watch.rules_due = True
    given = [line for line in running.look() if line.startswith("nft --file")]
    assert given == ([f"nft --file {state.CURRENT}/{host.RULES}"] if rules else [])


def test_rules_that_another_program_removed_are_loaded_again_and_name_it(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    # A redirect that runs holds up the comparison of its rules.
    running.look()
    differ = ["table ip openshift_lvs is missing"] * 2
    monkeypatch.setattr(host, "rules_that_differ", lambda: differ.pop() if differ else "")
    Path(state.CURRENT, host.RULES).touch()
    state.write(state.OWN_CALLS, own_calls.rules(served(), {}))
    running.system.answers |= {
        f"nft {each}": (1, "", "No such file") for each in ("--handle list table ip openshift_lvs_own", "list set ip openshift_lvs kept")
    }
    running.watch.tables_changed({host.TABLE, own_calls.TABLE}, "nft (process 7, started by firewalld)")
    differ.append("table ip openshift_lvs is missing")
    assert running.look() == [f"nft --file {state.CURRENT}/{host.RULES}", "nft --file -"]
    assert running.system.notes[0] == ("repaired nftables rules: table ip openshift_lvs is missing; changed by nft (process 7, started by firewalld)")


def test_a_repair_that_waits_for_a_rival_to_rest_is_made_then(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong, compared, loaded = [""], [0], [0]

    def differ() -> str:
        compared[0] += 1
        return wrong[0]

    def load(_: object) -> None:
        loaded[0] += 1
        wrong[0] = ""

    monkeypatch.setattr(host, "rules_that_differ", differ)
    monkeypatch.setattr(host, "load_rules", load)
    Path(state.CURRENT, host.RULES).touch()
    for flushed in range(1, repairs.FREE + 2):
        wrong[0] = "table ip openshift_lvs is missing"
        running.watch.tables_changed({host.TABLE}, "rival")
        running.look(2)
        assert loaded[0] == min(flushed, repairs.FREE)
    compared[0] = 0
    running.look(2)
    assert compared[0] == 0, "while it may not be repaired, it is not compared"
    running.look(4)
    assert loaded[0] == repairs.FREE + 1
    running.look(2)
    compared[0] = 0
    running.look(4)
    assert compared[0] == 0, "it is right, and the kernel tells of nothing"


def test_a_repair_that_fails_is_told_once_and_made_as_soon_as_it_can_be(running: Running) -> None:
    running.look()
    running.system.answers |= {"ip -oneline address show dev lo": (0, "", ""), "ip -batch -": (1, "", "no permission")}
    running.watch.vips_due = True
    running.look(6)
    assert [note for note in running.system.notes if "VIPs" in note] == ["could not repair VIPs on lo: 192.168.0.250 was missing; ip -batch -: no permission"]
    assert not repairs.read(running.system.now), "nothing was repaired"
    del running.system.answers["ip -batch -"]
    assert "ip -batch -" in running.look(6)
    assert running.system.notes[-1].startswith("repaired VIPs on lo")


def test_what_is_found_while_something_else_is_repaired_is_repaired_too(running: Running) -> None:
    running.look()
    running.sysctl("net/ipv4/conf/all/arp_ignore", "0\n")
    running.look(1)
    running.system.answers["ip -oneline address show dev lo"] = (0, "", "")
    running.watch.vips_due = True
    assert running.look(4)[:2] == ["sysctl -q -p -", "ip -batch -"]


def test_what_cannot_be_compared_is_told_once_and_does_not_end_the_process(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | Refused] = [Refused("unshare: no memory")]

    compared = []

    def differ() -> str:
        compared.append(running.system.now)
        if isinstance(answers[0], Refused):
            raise answers[0]
        return answers[0]

    monkeypatch.setattr(host, "rules_that_differ", differ)
    Path(state.CURRENT, host.RULES).touch()
    running.watch.rules_due = True
    running.look(12)
    assert len(compared) == repairs.FREE + 1, "each takes a second on a slow node, and verdicts wait that long"
    running.system.table.clear()
    assert any(line.startswith("--add-service") for line in running.look()), "the rest is repaired meanwhile"
    assert [note for note in running.system.notes if "unshare" in note] == ["nftables rules: unshare: no memory"]
    answers[0] = "table ip openshift_lvs is missing"
    assert f"nft --file {state.CURRENT}/{host.RULES}" in running.look(12)


@pytest.mark.parametrize(("shown", "sides"), [(BOTH_SIDES, 2), (BOTH_SIDES[: BOTH_SIDES.index("  2:")], 1), ("  sl  local_address rem_address\n", 0)])
def test_a_side_of_connection_sync_is_seen_by_its_socket(shown: str, sides: int) -> None:
    assert watch.sync_sides(shown, 4) == sides


def test_a_side_of_connection_sync_over_ipv6_is_seen_by_its_socket() -> None:
    group = ip_address("ff15::81").packed
    shown = "".join(f"{int.from_bytes(group[at : at + 4], sys.byteorder):08X}" for at in range(0, 16, 4)) + ":2290"
    sockets = f"  sl  local_address remote_address\n  1: {shown} {'0' * 32}:0000 07\n  2: {'0' * 32}:A1B2 {shown} 01\n"
    assert (watch.sync_sides(sockets, 6), watch.sync_sides(sockets, 4)) == (2, 0)


def test_connection_sync_that_ended_is_started_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []
    monkeypatch.setattr(ipvs, "keep_sync", kept.append)
    Path(watch.PROC_UDP[4]).write_text("")
    running.look(3)
    assert kept


def test_connection_sync_whose_sockets_the_kernel_does_not_show_is_not_asked_for_again_and_again(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = tuple(ipvs.SyncDaemon(side, "eth0", 51, 1472) for side in ("master", "backup"))
    asked: list[object] = []

    def sync_daemons() -> tuple[ipvs.SyncDaemon, ...]:
        asked.append(1)
        return sides

    monkeypatch.setattr(ipvs, "sync_daemons", sync_daemons)
    Path(watch.PROC_UDP[4]).write_text("")
    assert running.look(6) == []
    assert (len(asked), running.system.notes) == (1, [])


def test_a_side_of_connection_sync_that_starts_between_two_looks_does_not_end_the_watch_over_it(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[object] = []

    def sync_daemons() -> tuple[ipvs.SyncDaemon, ...]:
        Path(watch.PROC_UDP[4]).write_text(BOTH_SIDES)
        return tuple(ipvs.SyncDaemon(side, "eth0", 51, 1472) for side in ("master", "backup"))

    with monkeypatch.context() as restarting:
        restarting.setattr(ipvs, "sync_daemons", sync_daemons)
        Path(watch.PROC_UDP[4]).write_text("")
        running.look(2)
    monkeypatch.setattr(ipvs, "keep_sync", kept.append)
    Path(watch.PROC_UDP[4]).write_text("")
    running.look(4)
    assert kept


def test_a_process_that_starts_anew_goes_on_counting_repairs(system: System) -> None:
    repairs.Repairs(lambda: system.now).done("IPVS table", "emptied", "kube-proxy")
    repairs.Repairs(lambda: system.now).done("view", "wrong")
    repairs.Repairs(lambda: system.now).done("IPVS table", "emptied")
    assert repairs.read(system.now) == (repairs.Repair("IPVS table", 2, 0, "kube-proxy"), repairs.Repair("view", 1, 0))


def test_an_attempt_that_fails_is_not_the_time_of_the_last_repair(system: System) -> None:
    made = repairs.Repairs(lambda: system.now)
    made.done("view", "wrong")
    system.now += 100
    made.failed("view", "wrong", "no space left")
    made.done("IPVS table", "emptied")
    assert [(each.what, each.seconds_ago) for each in repairs.read(system.now)] == [("IPVS table", 0), ("view", 100)]


def test_a_repair_that_was_recorded_with_a_time_in_the_future_does_not_put_off_the_next_one(system: System) -> None:
    repairs.Repairs(lambda: system.now + 1000).done("view", "wrong")
    assert repairs.Repairs(lambda: system.now).allowed("view")


def test_a_sysctl_that_was_left_to_another_program_is_set_again_after_an_hour(system: System) -> None:
    made, what = repairs.Repairs(lambda: system.now), f"{repairs.SYSCTL}net.ipv4.vs.sloppy_tcp"
    for _ in range(repairs.SYSCTL_TIMES):
        made.done(what, "was 0, is 1")
    assert not made.allowed(what) and repairs.read(system.now)[0].contested
    system.now += repairs.SYSCTL_WITHIN_S
    assert made.allowed(what) and not repairs.read(system.now)[0].contested
    made.done(what, "was 0, is 1")
    assert made.allowed(what) and not repairs.read(system.now)[0].contested, "the repairs of an hour ago do not count"


def test_a_rival_that_changes_the_same_thing_again_and_again_is_named_and_waited_for(system: System) -> None:
    made = repairs.Repairs(lambda: system.now)
    waits = []
    for _ in range(11):
        asked = 0
        while not made.allowed("IPVS table"):
            system.now += 1
            asked += 1
        waits.append(asked)
        made.done("IPVS table", "emptied", "kube-proxy")
    assert waits == [0, 0, 0, 0, 0, 5, 10, 20, 40, 60, 60]
    assert repairs.read(system.now)[0] == repairs.Repair("IPVS table", 11, 0, "kube-proxy", True)
    system.now += repairs.ROW_S
    assert made.allowed("IPVS table")
    assert not repairs.read(system.now)[0].contested, "it has rested"


def test_another_program_in_force_ends_this_process_when_no_command_changes_versions(running: Running, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    in_force("v2", served())
    link = Path(state.VERSIONS, "v2", "program")
    link.unlink()
    link.symlink_to(other)
    assert not running.watch.read_version()
    with Lock(state.LOCK, 0, "activate v2"):
        assert not watch._lock_is_free()
    assert watch._lock_is_free()


# Fail open


def test_a_service_fails_open_at_once_when_its_last_server_fails_and_closes_at_the_first_success(running: Running) -> None:
    for failed in ((HERE,), (SECOND,), (THIRD,)):
        running.system.fails(*failed)
        running.hear(down(*failed))
    assert running.system.weights() == dict.fromkeys(ADDRESSES, 1)
    assert "master-8443 fails open: no health check passes, so every server that is not drained gets connections" in running.system.notes
    assert running.look(4) == [], "that is no change by others"
    seen = belief.judged(ipvs.parse_proc(running.system.proc), belief.read())
    assert ipvs.answering(seen) == set() and seen[MARK].open_since
    running.hear(up(SECOND))
    assert running.system.weights() == {HERE: 0, SECOND: 1, THIRD: 0}
    assert "master-8443 no longer fails open: only servers that pass their health check get connections" in running.system.notes
    assert running.look(4) == []


def test_a_service_that_fails_open_never_includes_drained_servers_nor_weight_0(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, served(service(weights={HERE: 2, SECOND: 1, THIRD: 0}, **GIVEN)))
    drain(SECOND)
    system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    assert system.weights() == {HERE: 2, SECOND: 0, THIRD: 0}


def test_a_service_whose_healthy_servers_are_all_drained_fails_open_to_the_others(running: Running) -> None:
    drain(HERE)
    running.system.fails(*ADDRESSES)
    running.hear(down(SECOND, THIRD))
    assert running.system.weights() == {HERE: 0, SECOND: 1, THIRD: 1}


def test_a_server_that_is_drained_while_its_service_fails_open_gets_no_more_connections_at_once(running: Running) -> None:
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    drain(SECOND)
    running.look(1)
    assert running.system.weights() == {HERE: 1, SECOND: 0, THIRD: 1}
    assert not Path(state.REPAIRS).exists()


def test_without_inhibit_on_failure_removed_servers_are_added_and_removed_again(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, served(service(**GIVEN, inhibit_on_failure=False)))
    system.table[MARK].clear()
    running.hear(down(*ADDRESSES))
    assert system.weights() == dict.fromkeys(ADDRESSES, 1)
    running.hear(up(HERE))
    assert system.weights() == {HERE: 1}


def test_a_service_that_must_not_fail_open_refuses(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, served(service(**{**GIVEN, "fail_open": False})))
    system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    assert set(system.weights().values()) == {0}
    assert running.look() == []


def test_failing_open_goes_on_after_a_restart_of_the_process_and_after_a_reload(running: Running) -> None:
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    since = running.watch.belief.open_since
    running.watch = running.started()
    assert running.watch.belief.open_since == since
    in_force("v2", served(service(quorum=1, **GIVEN)))
    assert running.watch.read_version()
    running.watch.rules_due = False
    assert running.look(4) == []
    assert running.watch.belief.open_since == since
    assert running.system.weights() == dict.fromkeys(ADDRESSES, 1)


def test_a_service_fails_open_while_an_activation_runs_but_not_to_servers_that_it_removes(running: Running) -> None:
    state.write(state.ACTIVATION, f'{{"answered_before": null, "unread": false, "lowered": [[{MARK}, "{THIRD}", "DR", 1]]}}')
    running.system.fails(*ADDRESSES)
    with Lock(state.LOCK, 0, "activate v2"):
        running.hear(down(*ADDRESSES))
    assert running.system.weights() == {HERE: 1, SECOND: 1, THIRD: 0}


def test_a_director_that_fails_open_keeps_its_poor_view(running: Running) -> None:
    Path(state.QUORUM, "master").mkdir()
    Path(state.QUORUM, "master", "master-8443").write_text("-100\n")
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    vrrp.recount(served())
    assert state.read(f"{state.QUORUM}/master/master-8443") == "-100"
    running.hear(up(*ADDRESSES))
    vrrp.recount(served())
    assert state.read(f"{state.QUORUM}/master/master-8443") == "0"


@pytest.fixture
def recorded(running: Running) -> Path:
    """The record of the service's quorum, as keepalived's reports leave it."""
    record = Path(state.QUORUM, "master", "master-8443")
    record.parent.mkdir()
    record.write_text("0\n")
    running.look(4)
    return record


def test_a_quorum_is_recorded_as_soon_as_keepalived_tells_that_it_is_lost_or_gained(running: Running, recorded: Path) -> None:
    running.hear(down(*ADDRESSES) + f"VS FWM {MARK} DOWN\n")
    assert recorded.read_text() == "-100\n"
    assert state.read(state.view_file("master")) == "-100", "keepalived reads it by itself"
    running.hear(up(*ADDRESSES) + f"VS FWM {MARK} UP\n")
    assert recorded.read_text() == "0\n"
    assert state.read(state.view_file("master")) == "0"
    assert not repairs.read(running.system.now)


def test_a_service_fails_open_before_own_calls_and_quorums_of_earlier_verdicts_are_brought_up_to_date(running: Running, recorded: Path) -> None:
    running.system.fails(*ADDRESSES)
    running.show()
    running.watch.hear((down(HERE, SECOND) + f"VS FWM {MARK} DOWN\n").encode())
    assert running.watch.behind
    running.watch.hear(down(THIRD).encode())
    assert set(running.system.weights().values()) == {1}
    assert recorded.read_text() == "0\n" and not state.text(state.OWN_CALLS)
    running.watch.catch_up()
    assert recorded.read_text() == "-100\n"


def test_quorums_are_recorded_as_soon_as_no_verdict_is_left_in_the_pipe(running: Running, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Ended(Exception):
        pass

    class Poll:
        pipe = -1

        def register(self, file: int, _: object) -> None:
            self.pipe = file if self.pipe < 0 else self.pipe

        def poll(self, _: float) -> list[tuple[int, int]]:
            seen.append(recorded.read_text().strip())
            if len(seen) == 5:
                raise Ended
            if len(seen) in (2, 3):
                os.write(self.pipe, f"VS FWM {MARK} DOWN\n".encode())
                return [(self.pipe, select.POLLIN)]
            return []

    monkeypatch.setattr(select, "poll", Poll)
    with pytest.raises(Ended):
        watch.watch()
    assert seen == ["0", "0", "0", "0", "-100"]


def test_a_quorum_of_a_keepalived_that_has_ended_is_not_recorded(running: Running, recorded: Path) -> None:
    running.watch.hear(f"VS FWM {MARK} DOWN\n".encode())
    running.watch.hear(b"START\n")
    running.watch.catch_up()
    assert recorded.read_text() == "0\n"


def test_one_services_quorum_does_not_record_anothers_again(running: Running, recorded: Path) -> None:
    running.hear(f"VS FWM {MARK} DOWN\n")
    # An activation that replaced the servers has counted: keepalived does not tell of the new ones' quorum.
    recorded.write_text("0\n")
    running.hear(f"VS FWM {MARK + 1} DOWN\n")
    assert recorded.read_text() == "0\n"
    running.hear(f"VS FWM {MARK} DOWN\n")
    assert recorded.read_text() == "-100\n", "they have lost it now, and keepalived says so a second time"


def test_a_quorum_that_cannot_be_recorded_is_told_and_recorded_later(running: Running, recorded: Path) -> None:
    lock = Path(f"{state.RUN}/master.lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES) + f"VS FWM {MARK} DOWN\n")
    assert recorded.read_text() == "0\n" and any("master.lock" in note for note in running.system.notes)
    lock.rmdir()
    running.look(5)
    assert recorded.read_text() == "-100\n"
    assert state.read(state.view_file("master")) == "-100"


@pytest.mark.parametrize(("of", "does"), [(quorum, "record"), (ipvs.Standby, "restore")])
def test_a_report_is_kept_when_the_process_ends_while_it_does_what_follows(
    running: Running, recorded: Path, monkeypatch: pytest.MonkeyPatch, of: object, does: str
) -> None:
    monkeypatch.setattr(of, does, lambda *words: sys.exit("ended by the watchdog"))
    running.system.fails(*ADDRESSES)
    with pytest.raises(SystemExit):
        running.hear(down(*ADDRESSES) + f"VS FWM {MARK} DOWN\n")
    assert running.started().belief == Belief({(MARK, each): False for each in ADDRESSES}, {MARK: False}, running.started().belief.open_since)


def test_the_record_of_a_quorum_that_another_command_changed_is_corrected_after_three_seconds(running: Running, recorded: Path) -> None:
    running.hear(down(*ADDRESSES) + f"VS FWM {MARK} DOWN\n")
    running.hear(up(*ADDRESSES) + f"VS FWM {MARK} UP\n")
    recorded.write_text("-100\n")
    running.look(2)
    assert recorded.read_text() == "-100\n", "it may know better"
    running.look(2)
    assert recorded.read_text() == "0\n"
    assert state.read(state.view_file("master")) == "0"
    assert [each.what for each in repairs.read(running.system.now)] == ["view"]


def test_a_view_that_a_command_did_not_come_to_write_is_corrected(running: Running, recorded: Path) -> None:
    state.write(state.view_file("master"), "-100\n")
    running.watch._view_from = running.system.now
    running.look(3)
    assert state.read(state.view_file("master")) == "0"


def test_several_wrong_records_of_quorums_are_corrected_by_one_repair(make: type[Running], system: System, tmp_path: Path) -> None:
    running = make(system, tmp_path, served(*(service(f"master-{mark}", mark, **GIVEN) for mark in range(MARK, MARK + repairs.FREE + 1))))
    records = [Path(state.QUORUM, "master", each.name) for each in running.watch.description.services]  # type: ignore[union-attr]
    records[0].parent.mkdir()
    for record in records:
        record.write_text("-100\n")
    running.look(6)
    assert {record.read_text() for record in records} == {"0\n"}
    assert repairs.read(running.system.now) == (repairs.Repair("view", 1, 2, "another command"),)


def test_a_quorum_of_which_keepalived_said_nothing_stays_as_recorded(running: Running, recorded: Path) -> None:
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    running.look(5)
    assert recorded.read_text() == "0\n"


def test_own_calls_follow_a_verdict_at_once_and_end_at_the_own_server_while_the_service_fails_open(running: Running) -> None:
    running.system.fails(HERE)
    running.hear(down(HERE))
    assert "dnat" in state.text(state.OWN_CALLS)
    running.system.fails(SECOND, THIRD)
    running.hear(down(SECOND, THIRD))
    assert "dnat" not in state.text(state.OWN_CALLS)


def test_own_calls_stay_with_the_other_servers_while_an_emptied_table_is_put_back(running: Running) -> None:
    running.system.fails(HERE)
    running.hear(down(HERE))
    running.look()
    running.system.table.clear()
    running.hear(down(SECOND))
    restored = running.look()
    assert any(line.startswith("--add-service") for line in restored)
    assert not any("end at its own server" in note for note in running.system.notes)
    assert "dnat" in state.text(state.OWN_CALLS)


def test_own_calls_that_could_not_be_redirected_are_tried_again_though_the_table_stays_the_same(running: Running) -> None:
    running.system.answers["nft --file -"] = (1, "", "no memory")
    running.system.fails(HERE)
    running.hear(down(HERE))
    assert running.look(4) == [], "nft is not asked all the time"
    assert running.look(2) == ["nft --file -"]
    assert [note for note in running.system.notes if "memory" in note] == ["calls from this node were not redirected: nft --file -: no memory"]
    del running.system.answers["nft --file -"]
    assert "nft --file -" in running.look(6)


def test_ipvsadm_has_started_before_the_verdict_after_which_a_service_has_no_server(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    process, begun = programs.Process, []

    def start(*command: str) -> programs.Process:
        begun.append(command)
        return process(*command)

    monkeypatch.setattr(programs, "Process", start)
    running.system.fails(HERE)
    running.hear(down(HERE))
    running.hear(up(HERE) + down(SECOND))
    assert begun == [("ipvsadm", "--restore")]
    running.system.fails(SECOND, THIRD)
    running.hear(down(HERE, THIRD))
    assert set(running.system.weights().values()) == {1}


def test_a_service_fails_open_while_own_calls_are_being_redirected(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, redirected, redirect = Event(), [], own_calls.redirect

    def slow(said: Description, kernel: ipvs.Table | None = None) -> None:
        assert ended.wait(10)
        redirected.append(len(ipvs.live(kernel or {})))
        redirect(said, kernel)

    monkeypatch.setattr(own_calls, "redirect", slow)
    running.system.fails(HERE)
    running.show()
    running.watch.hear(down(HERE).encode())
    running.watch.catch_up()
    running.system.fails(SECOND, THIRD)
    running.show()
    running.watch.hear(down(SECOND, THIRD).encode())
    running.watch.catch_up()
    assert set(running.system.weights().values()) == {1}
    assert not redirected
    # The next look goes on where this could not, even if the table stays the same.
    assert running.watch._redirect_due
    ended.set()
    running.end_redirect()
    assert "dnat" in state.text(state.OWN_CALLS)
    running.look()
    assert redirected == [2, 3]
    assert "dnat" not in state.text(state.OWN_CALLS)


def test_a_table_that_is_as_before_when_a_redirect_ends_needs_no_other(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Event()
    monkeypatch.setattr(own_calls, "redirect", lambda said, kernel: ended.wait(10))
    for lines, fails in ((down(HERE), (HERE,)), (down(SECOND), (HERE, SECOND)), (up(SECOND), (HERE,))):
        running.system.fill(served())
        running.system.fails(*fails)
        running.show()
        running.watch.hear(lines.encode())
        running.watch.catch_up()
    ended.set()
    running.end_redirect()
    assert not running.watch._redirect_due


def test_status_says_since_when_a_service_fails_open_and_what_was_repaired(running: Running) -> None:
    running.system.table.clear()
    running.look()
    running.system.fails(*ADDRESSES)
    running.hear(down(*ADDRESSES))
    running.system.answers["systemctl is-active"] = (3, "active\nfailed\n", "")
    running.system.answers["nft list set ip openshift_lvs"] = (0, "", "")
    told = observe.report(observe.facts(), served())
    assert ": no check passes, fails open since 20" in told
    assert f"{HERE}: fails its health check, weight 1" in told
    assert "repaired    IPVS table: 1 times, last 0 s ago, changed by kube-proxy" in told
    assert "openshift-lvs-watch.service is failed" in told


# The kernel and systemd


def test_with_too_many_connections_packets_without_a_handshake_create_no_more(
    make: type[Running], system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = make(system, tmp_path, replace(served(), connections_max=10_000))
    with Path(state.CURRENT, "sysctl.conf").open("a") as file:
        file.write("net.ipv4.vs.sloppy_tcp = 1\n")
    running.sysctl("net/ipv4/vs/sloppy_tcp", "1\n")
    running.watch = running.started()

    told: list[str] = []

    def set_sysctl(name: str, value: str) -> None:
        told.append(f"{name} = {value}")
        running.sysctl("net/ipv4/vs/sloppy_tcp", f"{value}\n")

    monkeypatch.setattr(host, "set_sysctl", set_sysctl)

    def told_with(connections: int) -> list[str]:
        """What the kernel was told at four looks with so many connections in the table."""
        told.clear()
        system.table[MARK][HERE] = ("DR", 1, connections)
        running.look(4)
        return list(told)

    assert told_with(10_000) == []
    assert told_with(10_001) == ["net.ipv4.vs.sloppy_tcp = 0"]
    assert system.notes[-1] == "10001 connections, connections_max is 10000: packets without a handshake create no more (net.ipv4.vs.sloppy_tcp = 0)"
    assert told_with(7_501) == []
    running.sysctl("net/ipv4/vs/sloppy_tcp", "1\n")
    assert told_with(7_502) == ["net.ipv4.vs.sloppy_tcp = 0"], "another program set it"
    assert told_with(7_500) == ["net.ipv4.vs.sloppy_tcp = 1"]
    assert "create some again" in system.notes[-1]


def test_without_a_version_there_is_nothing_to_watch(system: System) -> None:
    with pytest.raises(Refused):
        watch.watch()


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        watch.notify("READY=1")
        assert heard.recv(100) == b"READY=1"


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    with activated("master0") as made:
        yield made


def test_the_kernel_tells_of_addresses_and_of_rules_and_who_changed_them(real: Node) -> None:
    said = real.python("""
from openshift_lvs.kernel_events import AddressEvents, RuleEvents
from openshift_lvs import programs
addresses, rules = AddressEvents(), RuleEvents("openshift_lvs", "openshift_lvs_own")
print(addresses.left_lo(), *rules.changed(), addresses.elsewhere)
programs.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo"); programs.run("ip", "address", "add", "2001:db8::1/128", "dev", "eth0")
print(addresses.left_lo(), *rules.changed(), addresses.elsewhere)
programs.run("ip", "address", "add", "192.0.2.1/32", "dev", "eth0"); programs.run("ip", "address", "delete", "192.0.2.1/32", "dev", "eth0")
programs.run("nft", "add", "table", "ip", "other")
print(addresses.left_lo(), *rules.changed(), addresses.elsewhere)
programs.run("ip", "address", "delete", "192.168.0.250/32", "dev", "lo")
programs.run("nft", "flush", "ruleset")
print(addresses.left_lo(), *rules.changed(), rules.by.partition(" ")[0])
programs.run("nft", "add", "table", "ip", "openshift_lvs_own")
print(addresses.left_lo(), *rules.changed(), rules.by.partition(" ")[0])
""")
    assert said.splitlines() == ["False False", "False False", "False True", "True openshift_lvs nft", "False openshift_lvs_own nft"]
    real.succeeds("apply")


def test_the_process_repairs_real_rules_and_a_real_vip_and_stays_small(real: Node) -> None:
    """Everything but IPVS is real. The clock of a node under test stands still, so the looks are made by hand."""
    said = real.python("""
from openshift_lvs import programs
programs.run("nft", "flush", "ruleset"); programs.run("ip", "address", "delete", "192.168.0.250/32", "dev", "lo")
programs.run("sysctl", "-q", "-p", "-", stdin="net.ipv4.conf.all.arp_ignore = 0\\n")
watched = watch.Watch()
assert watched.read_version()
watched.read_belief()
for _ in range(3):
    watched.look()
print(host.rules_that_differ(), "192.168.0.250" in host.addresses("lo"), host.sysctls_that_differ(watched._sysctls))
kilobytes = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")][0]
print("small" if int(kilobytes) < 25000 else kilobytes)
""")
    assert said.splitlines() == ["True []", "small"]


def test_the_process_itself_hears_and_repairs_until_it_is_ended(real: Node) -> None:
    real.write(f"{PROGRAM}/openshift_lvs/clock.py", (keepalived.PROGRAM / "openshift_lvs" / "clock.py").read_text())
    described = f"{state.CURRENT}/host.json"
    before = real.read(described)
    # Nothing routes there.
    real.write(described, before.replace('"witnesses": []', '"witnesses": ["198.51.100.1:22"]'))
    try:
        real.sh(f"{OPENSHIFT_LVS} watch >/stub/watch.log 2>&1 </dev/null & echo $! >/stub/watch.pid")
        real.sh("""
            deadline=$(($(date +%s) + 40))
            until_so() {
                until "$@" >/dev/null 2>&1; do
                    [ "$(date +%s)" -lt "$deadline" ] || { echo "not so: $*; $(cat /stub/watch.log)" >&2; exit 1; }
                    /usr/bin/sleep 0.1
                done
            }
            rm -f /run/openshift-lvs/repairs
            # The process holds the pipe open once it is there.
            until_so sh -c 'ls -l /proc/$(cat /stub/watch.pid)/fd | grep -q verdicts'
            echo "RS [192.168.0.3]:none:0 FWM 53485819 DOWN" >/run/openshift-lvs/verdicts
            until_so grep -q '"192.168.0.3", false' /run/openshift-lvs/belief
            nft flush ruleset; ip address delete 192.168.0.250/32 dev lo
            until_so nft list table ip openshift_lvs
            until_so sh -c 'ip address show dev lo | grep -q 192.168.0.250'
            until_so grep -q '"nftables rules", 1' /run/openshift-lvs/repairs
            until_so grep -qx -- -200 /run/openshift-lvs/cut-off
        """)
    finally:
        real.sh('kill "$(cat /stub/watch.pid)"')
        real.write(described, before)
        replace_clock(real)


CALL = """
import socket
for port in (8443, 8444):
    try:
        socket.create_connection(("192.168.0.250", port), 0.5)
    except OSError as fault:
        print(port, type(fault).__name__)
"""


def test_an_icmp_error_for_a_service_that_fails_open_does_not_end_a_clients_attempt_and_a_reset_does(real: Node) -> None:
    assert real.sh(f"python3 -c '{CALL}'").splitlines() == ["8443 ConnectionRefusedError", "8444 ConnectionRefusedError"], "a stopped server resets"
    # As IPVS answers without a server.
    real.sh("nft add table ip fault; nft 'add chain ip fault input { type filter hook input priority 0; }'")
    real.sh("nft add rule ip fault input tcp dport '{ 8443, 8444 }' reject with icmp type port-unreachable")
    assert real.sh(f"python3 -c '{CALL}'").splitlines() == ["8443 TimeoutError", "8444 ConnectionRefusedError"]
    real.sh("nft delete table ip fault")
