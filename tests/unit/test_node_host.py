"""What the host's systemd and kernel get: units, VIPs on lo, modules."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from components import keepalived
from node.openshift_lvs import host, state
from node.openshift_lvs.commands import main
from node.openshift_lvs.description import Description
from node.openshift_lvs.errors import Refused
from node.openshift_lvs.record import replace
from tests.unit.node_functions import System, description, in_force, vip

ENABLED = [
    "systemctl -q enable openshift-lvs-watch.service openshift-lvs.service keepalived.service",
    "systemctl daemon-reload",
    "systemctl start openshift-lvs-watch.service",
]


def test_the_units_of_the_program_are_put_in_place_and_enabled(system: System) -> None:
    host.install_units(str(keepalived.PROGRAM))
    for path in (keepalived.PROGRAM / "systemd").rglob("*.*"):
        if path.is_file():
            assert Path(state.UNITS, path.relative_to(keepalived.PROGRAM / "systemd")).read_text() == path.read_text()
    assert system.asked == ENABLED
    assert len(system.notes) == 1


def test_units_that_a_killed_command_wrote_are_enabled_by_the_next(system: System) -> None:
    system.answers["systemctl -q enable"] = (1, "", "killed here")
    with pytest.raises(Refused, match="killed here"):
        host.install_units(str(keepalived.PROGRAM))
    del system.answers["systemctl -q enable"]
    system.asked.clear()
    host.install_units(str(keepalived.PROGRAM))
    assert system.asked == ENABLED


def test_units_that_another_release_replaced_are_enabled_again(system: System) -> None:
    host.install_units(str(keepalived.PROGRAM))
    Path(state.UNITS, "openshift-lvs.service").write_text("of the scripts\n")
    system.asked.clear()
    host.install_units(str(keepalived.PROGRAM))
    assert system.asked == ENABLED


def test_units_that_are_there_are_not_written_again(system: System) -> None:
    host.install_units(str(keepalived.PROGRAM))
    before = Path(state.UNITS, "openshift-lvs.service").stat().st_ino
    host.install_units(str(keepalived.PROGRAM))
    assert Path(state.UNITS, "openshift-lvs.service").stat().st_ino == before
    assert len(system.notes) == 1


LO = "1: lo    inet 127.0.0.1/8 scope host lo\n1: lo    inet 192.168.0.250/32 scope global lo\n1: lo    inet6 2001:db8::250/128 scope global\n"


def test_addresses_of_either_family_are_read(system: System) -> None:
    system.answers["ip -oneline address show dev lo"] = (0, LO, "")
    assert host.addresses("lo") == {"127.0.0.1", "192.168.0.250", "2001:db8::250"}


def test_only_missing_vips_are_put_on_lo(system: System) -> None:
    system.answers["ip -oneline address show dev lo"] = (0, LO, "")
    host.add_vips(description())
    assert system.asked == []
    host.add_vips(description(vip(), vip("other", "192.168.0.251", 52)))
    assert (system.asked, system.notes) == (["ip -batch -"], ["put on lo: 192.168.0.251"])


def test_an_additional_address_is_on_lo_and_leaves_the_interface_as_the_vip_does(system: System) -> None:
    several = description(replace(vip(), additional_addresses=(ip_address("192.168.0.252"),)))
    system.answers["ip -oneline address show dev lo"] = (0, LO, "")
    host.add_vips(several)
    assert system.notes == ["put on lo: 192.168.0.252"]
    host.release_vips(several)
    assert system.asked[1:] == [f"ip address delete {vip}/32 dev eth0" for vip in ("192.168.0.250", "192.168.0.252")]


def test_only_addresses_that_are_there_are_taken_from_lo(system: System) -> None:
    system.answers["ip -oneline address show dev lo"] = (0, LO, "")
    host.remove_vips(["2001:db8::250", "192.168.0.250", "192.168.0.251"])
    assert system.asked == ["ip address delete 192.168.0.250/32 dev lo", "ip address delete 2001:db8::250/128 dev lo"]


OWN, OTHER = (f"fd0000000000000100000000000000{end} 02 40 00 {{flags}}     {{interface}}\n" for end in ("02", "03"))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The kernel's list of IPv6 addresses: another one on eth0, and the host's own on another interface."""
    shown = tmp_path / "if_inet6"
    shown.write_text(OTHER.format(flags="80", interface="eth0") + OWN.format(flags="80", interface="eth1"))
    monkeypatch.setattr(host, "PROC_IPV6", str(shown))
    return shown


VIP_V6 = vip("master-v6", "fd00:0:0:1::250")
BOTH = replace(description(vip(), VIP_V6), address_v6=ip_address("fd00:0:0:1::2"))


@pytest.mark.parametrize("said", [BOTH, description(VIP_V6, address="fd00:0:0:1::2")])
def test_keepalived_waits_for_an_ipv6_address_that_is_late_and_tentative_at_first(system: System, kernel: Path, said: Description) -> None:
    system.while_waiting = lambda: kernel.write_text(OWN.format(flags="c0" if system.now < 1003 else "80", interface="eth0"))
    host.wait_for_ipv6(said)
    assert (system.now, system.notes, system.asked) == (1003, [], [])


def test_keepalived_starts_without_an_ipv6_address_that_does_not_come(system: System, kernel: Path) -> None:
    in_force("v1", BOTH)
    assert main(["start"]) == 0
    assert system.now == 1000 + host.ADDRESS_S
    assert system.notes[0] == (
        "keepalived starts without its IPv6 address: waited 10 s for fd00:0:0:1::2 on eth0; last seen: missing; with unicast adverts, "
        "systemctl reload keepalived once it is there"
    )
    assert Path(state.drain_file("master")).read_text() == "0\n"


def test_a_host_that_has_its_ipv6_address_or_needs_none_waits_for_nothing(system: System, kernel: Path) -> None:
    for without in (description(), replace(BOTH, vips=(vip(),))):
        host.wait_for_ipv6(without)
        host.require_ipv6(without)
    host.wait_for_ipv6(replace(BOTH, director=False))
    kernel.write_text(OWN.format(flags="80", interface="eth0"))
    host.wait_for_ipv6(BOTH)
    host.require_ipv6(BOTH)
    assert (system.now, system.notes, system.asked) == (1000, [], [])


def test_a_host_without_its_ipv6_address_is_refused_as_a_server_of_ipv6_vips(system: System, kernel: Path) -> None:
    with pytest.raises(Refused, match=r"^pools\.master\.hosts\.master0: waited 10 s for fd00:0:0:1::2 on eth0; last seen: missing; let the host ask for it"):
        host.require_ipv6(replace(BOTH, director=False))


@pytest.mark.parametrize("where", ["loaded", "built in"])
def test_a_module_that_is_there_without_modprobe_is_enough(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    shown = {"loaded": ("/proc/modules", "ip_vs_mh 16384 1 - Live 0x0"), "built in": ("modules.builtin", "kernel/net/netfilter/ipvs/ip_vs_mh.ko")}[where]
    read = state.read
    monkeypatch.setattr(state, "read", lambda path: shown[1] if path.endswith(shown[0]) else read(path) if path.startswith(str(tmp_path)) else "")
    system.answers["modprobe"] = (1, "", "not found")
    (tmp_path / "modules.conf").write_text("# a comment\nip_vs_mh\n")
    host.load_modules(str(tmp_path))
    (tmp_path / "modules.conf").write_text("ip_vs\n")
    with pytest.raises(Refused, match=r"^kernel module ip_vs: not in .*; install the kernel's extra modules"):
        host.load_modules(str(tmp_path))


def test_rules_of_a_release_that_keeps_no_connections_are_loaded_all_the_same(system: System, tmp_path: Path) -> None:
    (tmp_path / "lvs.nft").touch()
    shown = "elements = { 192.168.0.9 . 4001 . 192.168.0.250 . 8443 expires 14m58s990ms }"
    system.answers |= {"nft list set ip openshift_lvs kept": (0, shown, ""), "nft --file -": (1, "", "No such file or directory")}
    host.load_rules(str(tmp_path))
    assert system.asked == ["nft --file -", f"nft --file {tmp_path}/lvs.nft"]


def test_a_table_that_is_missing_is_named_without_loading_the_versions_rules_to_compare_them(system: System) -> None:
    # On a slow node that takes more than a second, and a repair compares three times.
    in_force("v1", description())
    Path(state.CURRENT, host.RULES).write_text("table ip openshift_lvs {\n}\ntable ip6 openshift_lvs {\n}\n")
    system.answers["nft --stateless --terse list table ip openshift_lvs"] = (0, "table ip openshift_lvs {\n}\n", "")
    assert host.rules_that_differ() == "table ip6 openshift_lvs is missing"
    assert not [line for line in system.asked if line.startswith("unshare")]


def test_rules_of_a_former_director_are_removed(system: System, tmp_path: Path) -> None:
    host.load_rules(str(tmp_path))
    assert system.asked.pop() == "nft delete table ip openshift_lvs"
    (tmp_path / "lvs.nft").touch()
    host.load_rules(str(tmp_path))
    assert system.asked[-1:] == [f"nft --file {tmp_path}/lvs.nft"]
