"""What the program reads from ipvsadm, and how it changes weights and connection sync."""

from __future__ import annotations

import builtins
import io
from ipaddress import ip_address
from typing import Any

import pytest

from node.openshift_lvs import ipvs
from node.openshift_lvs.errors import Refused
from node.openshift_lvs.ipvs import RealServer, VirtualServer
from node.openshift_lvs.record import replace
from tests.unit.node_functions import HERE, MARK, System, description, service, vip

SHOWN = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.96.0.1:443 rr
  -> 192.168.0.2:6443             Masq    1      4          0
TCP  [fd00::1]:443 rr persistent 10800
  -> [fd00::2]:6443               Masq    1      1          0
FWM  53485819 mh (mh-fallback,mh-port)
  -> 192.168.0.2:0                Route   1      12345      67
  -> 192.168.0.3:0                Tunnel  0      1          0
FWM  53485820 IPv6 mh persistent 300
  -> [2001:db8::2]:0              Route   3      2          0
FWM  53485821 wlc ops
  -> 192.168.0.4:0                Masq    65535  0          0
UDP  10.96.0.10:53 rr
  -> 10.244.0.2:53                Masq    1      0          5
FWM  7 rr
SCTP 10.96.0.11:99 rr
  -> 10.244.0.3:99                Masq    1      0          5
"""


def test_the_table_holds_virtual_servers_by_mark_and_no_others() -> None:
    assert ipvs.parse(SHOWN) == {
        53485819: VirtualServer("mh", ("mh-fallback", "mh-port"), None, {"192.168.0.2": RealServer("DR", 1, 12345), "192.168.0.3": RealServer("TUN", 0, 1)}),
        53485820: VirtualServer("mh", (), 300, {"2001:db8::2": RealServer("DR", 3, 2)}),
        53485821: VirtualServer("wlc", ("ops",), None, {"192.168.0.4": RealServer("NAT", 65535, 0)}),
        7: VirtualServer("rr", (), None, {}),
    }


@pytest.mark.parametrize("shown", ["", "\n".join(SHOWN.splitlines()[:3])], ids=["nothing", "an empty table"])
def test_an_empty_table_has_no_virtual_servers(shown: str) -> None:
    assert ipvs.parse(shown) == {}


def test_a_kernel_without_ipvs_has_an_empty_table(system: System) -> None:
    system.answers["ipvsadm --list"] = (1, "", "Can't initialize ipvs: Protocol not available")
    assert ipvs.table() == {}


def test_live_servers_are_those_with_weight() -> None:
    assert ipvs.live(ipvs.parse(SHOWN)) == {(53485819, "192.168.0.2"), (53485820, "2001:db8::2"), (53485821, "192.168.0.4")}


# Weights


def test_a_weight_is_changed_under_the_method_that_the_server_has(system: System) -> None:
    system.fill(description())
    ipvs.set_weight(MARK, HERE, "TUN", 3)
    assert system.asked == [f"ipvsadm --edit-server --fwmark-service {MARK} --real-server {HERE} --ipip --weight 3"]


def test_a_server_that_its_check_removed_meanwhile_is_no_error(system: System) -> None:
    system.fill(description())
    del system.table[MARK][HERE]
    ipvs.set_weight(MARK, HERE, "DR", 0)


def test_a_virtual_server_that_is_gone_is_no_error(system: System) -> None:
    ipvs.set_weight(MARK, HERE, "DR", 0)


def test_a_weight_that_the_kernel_refuses_is_an_error(system: System) -> None:
    system.fill(description())
    system.answers["ipvsadm --edit-server"] = (1, "", "Memory allocation problem")
    with pytest.raises(Refused, match=r"--weight 0: Memory allocation problem"):
        ipvs.set_weight(MARK, HERE, "DR", 0)


# Forgetting


def test_only_our_virtual_servers_are_removed_and_their_connections_are_awaited(system: System) -> None:
    system.fill(description())
    system.table[7] = {}
    listing = "IPVS connection entries\npro expire state       source             virtual            destination\n"
    tcp, additional = (f"TCP 14:59  ESTABLISHED 203.0.113.1:4000   192.168.0.{vip}:8443 192.168.0.2:8443\n" for vip in (250, 252))
    other = "TCP 14:59  ESTABLISHED 203.0.113.1:4000   10.96.0.1:443 192.168.0.2:6443\n"
    left = [tcp, tcp, additional, ""]

    def connections(*_: object) -> None:
        system.answers["ipvsadm --list --numeric --connection"] = (0, listing + other + left.pop(0), "")

    connections()
    system.while_waiting = connections
    several = replace(vip(), additional_addresses=(ip_address("192.168.0.252"),))
    ipvs.forget([description(several), description(vip(services=(service(mark=MARK + 1),)))])
    removed = [call for call in system.asked if "--delete-service" in call]
    assert removed == [f"ipvsadm --delete-service --fwmark-service {MARK}"]
    assert system.asked[0] == "ipvsadm --stop-daemon backup"
    assert system.now == 1003


def test_nothing_is_forgotten_where_the_table_has_none_of_ours(system: System) -> None:
    system.table[7] = {}
    ipvs.forget([description()])
    assert system.asked == []


@pytest.mark.parametrize(("which", "address"), [("from", "2001:db8::9"), ("through", "2001:db8::250"), ("to", "2001:db8::2")])
def test_connections_are_found_by_each_of_their_three_addresses(system: System, which: str, address: str) -> None:
    lines = ["TCP 01:00 ESTABLISHED [2001:db8::9]:4000 [2001:db8::250]:443 [2001:db8::2]:443", "UDP 00:10 UDP 203.0.113.1:1 192.168.0.250:53 192.168.0.2:53"]
    system.answers["ipvsadm --list --numeric --connection"] = (0, "\n".join(lines), "")
    assert ipvs.connections(which, address) == ["ESTABLISHED [2001:db8::9]:4000 [2001:db8::250]:443 [2001:db8::2]:443"]
    assert ipvs.connections(which, "192.0.2.1") == []


# Connection sync

DAEMON = "{} sync daemon (mcast=eth0, syncid={}, maxlen={}, group=224.0.0.81, port=8848, ttl=1)\n"


@pytest.fixture
def mtu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the MTU of eth0."""
    original = builtins.open

    def set_to(value: int) -> None:
        fake = lambda path, *rest, **named: io.StringIO(f"{value}\n") if path == "/sys/class/net/eth0/mtu" else original(path, *rest, **named)  # noqa: E731
        monkeypatch.setattr(builtins, "open", fake)

    return set_to


def synced(system: System, shown: str) -> list[str]:
    system.asked.clear()
    system.answers["ipvsadm --list --daemon"] = (0, shown, "")
    ipvs.keep_sync(description())
    return system.asked


@pytest.mark.parametrize(("size", "longest"), [(1500, 1472), (1442, 1414), (8942, 1472)])
def test_both_sides_start_with_messages_that_fit_the_mtu(system: System, mtu: Any, size: int, longest: int) -> None:
    mtu(size)
    assert synced(system, "") == [
        f"ipvsadm --start-daemon master --mcast-interface eth0 --syncid 51 --sync-maxlen {longest}",
        "ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 51 --sync-maxlen 1472",
    ]


def test_sides_that_run_as_they_should_are_not_touched(system: System, mtu: Any) -> None:
    mtu(1500)
    assert synced(system, DAEMON.format("master", 51, 1472) + DAEMON.format("backup", 51, 1472)) == []


def test_only_the_side_that_differs_starts_anew(system: System, mtu: Any) -> None:
    mtu(1442)
    assert synced(system, DAEMON.format("master", 51, 1472) + DAEMON.format("backup", 51, 1472)) == [
        "ipvsadm --stop-daemon master",
        "ipvsadm --start-daemon master --mcast-interface eth0 --syncid 51 --sync-maxlen 1414",
    ]
    assert len(synced(system, DAEMON.format("master", 51, 1414) + DAEMON.format("backup", 9, 1472))) == 2


def test_directors_of_ipv6_alone_tell_of_connections_by_a_group_of_ipv6(system: System, mtu: Any) -> None:
    mtu(1500)
    alone = description(vip(address="fd00::250", owner="fd00::2"), address="fd00::2", directors=("fd00::3",))
    of_ipv4 = DAEMON.format("backup", 51, 1472)
    system.answers["ipvsadm --list --daemon"] = (0, of_ipv4, "")
    ipvs.keep_sync(alone)
    assert system.asked == [
        "ipvsadm --start-daemon master --mcast-interface eth0 --syncid 51 --sync-maxlen 1452 --mcast-group ff15::81",
        "ipvsadm --stop-daemon backup",
        "ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 51 --sync-maxlen 1472 --mcast-group ff15::81",
    ]
    system.asked.clear()
    running = DAEMON.format("master", 51, 1452) + DAEMON.format("backup", 51, 1472)
    system.answers["ipvsadm --list --daemon"] = (0, running.replace("224.0.0.81", "ff15::81"), "")
    ipvs.keep_sync(alone)
    assert system.asked == []


def test_a_host_that_is_no_director_stops_both_sides(system: System) -> None:
    system.answers["ipvsadm --list --daemon"] = (0, DAEMON.format("master", 51, 1472) + DAEMON.format("backup", 51, 1472), "")
    ipvs.keep_sync(description(director=False))
    assert system.asked == ["ipvsadm --stop-daemon master", "ipvsadm --stop-daemon backup"]


def test_a_kernel_without_ipvs_runs_no_side(system: System) -> None:
    system.answers["ipvsadm --list --daemon"] = (1, "", "Can't initialize ipvs")
    ipvs.keep_sync(None)
    assert system.asked == []
