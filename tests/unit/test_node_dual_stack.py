"""Both families on a node: real rules, addresses and neighbour discovery, with a machine on the other end of its wire."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from components import keepalived
from components.configuration import Cluster
from lab.phases import wait_for
from node.openshift_lvs import belief, ipvs, own_calls, unbalanced
from node.openshift_lvs.description import Description
from tests.unit.node_functions import System
from tests.unit.node_root import Node, node
from tests.unit.test_cluster import REMOVED
from tests.unit.test_dual_stack import alone, written

VIP, HERE, PEER, STRANGER, CLIENT = "fd00:0:0:1::250", "fd00:0:0:1::2", "fd00:0:0:1::3", "fd00:0:0:1::77", "fd00:0:0:1::9"
PREPARE = f"""
    ip -6 address add {HERE}/64 dev eth0 nodad
    unshare --net /usr/bin/sleep 300 >/dev/null 2>&1 </dev/null & echo $! >/stub/client
    until [ "$(readlink /proc/$(cat /stub/client)/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do /usr/bin/sleep 0.01; done
    ip link set wire netns "$(cat /stub/client)"
    nsenter --net="/proc/$(cat /stub/client)/ns/net" sh -euc "
        ip link set lo up; ip link set wire up
        ip -6 address add {CLIENT}/64 dev wire nodad; ip -6 address add {PEER}/64 dev wire nodad; ip -6 address add {STRANGER}/64 dev wire nodad"
"""
ADVERT = """
import socket, sys
source, vrid, target = sys.argv[1], int(sys.argv[2]), sys.argv[3]
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 112)
raw.bind((source, 0))
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("wire"))
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
raw.sendto(bytes([0x31, vrid, 100, 1, 0, 30, 0, 0]) + bytes(16), (target, 0))
"""
STRAY = f"""
import socket, struct
raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)
raw.bind(("{CLIENT}", 0))
raw.sendto(struct.pack("!HHIIBBHHH", 40001, 6443, 1000, 1000, 5 << 4, 0x10, 512, 0, 0), ("{VIP}", 0))
"""
"""A packet in the middle of a connection."""
ASK = """
import socket
asked = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
asked.sendto(b"?", ("fd00:0:0:1::250", 9))
"""


SYNC_SOURCE = """
import socket
index = socket.if_nametoindex("eth0")
made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
made.connect(("ff15::81", 8848))
print(made.getsockname()[0])
"""
PORTMAP = """
table ip6 nat {
    chain CNI-DN-31b3423096d38683e3b8a { tcp dport 6443 counter dnat to [fd00:88::2]:8443; }
    chain CNI-HOSTPORT-DNAT { meta l4proto 6 tcp dport 6443 counter jump CNI-DN-31b3423096d38683e3b8a; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local counter jump CNI-HOSTPORT-DNAT; }
}
"""
"""As `nft list ruleset` shows what the portmap plugin wrote with ip6tables-nft."""


@pytest.fixture
def director() -> Iterator[Node]:
    """master0 with the dual-stack version in force, and another machine on the wire."""
    with node() as made:
        made.sh(PREPARE)
        made.write("/stub/advert", ADVERT)
        made.write("/stub/ask", ASK)
        made.roll_out(Cluster.parse(written()), "master0")
        yield made


def outside(on: Node, command: str) -> str:
    """Run a command on the other machine."""
    return on.sh(f'nsenter --net="/proc/$(cat /stub/client)/ns/net" {command}')


def neighbours(on: Node) -> dict[str, str]:
    """The state of each neighbour of the other machine."""
    return {each["dst"]: each["state"][0] for each in json.loads(outside(on, "ip -json -6 neighbour show dev wire"))}


def test_a_version_of_both_families_is_in_force_as_it_was_delivered(director: Node) -> None:
    assert director.facts.rules == ""
    assert director.addresses_on("lo") == {"192.168.0.250/32", "192.168.0.251/32"}
    on_lo = {each["local"]: each for each in json.loads(director.sh("ip -json -6 address show dev lo"))[0]["addr_info"]}
    # Deprecated: the kernel chooses none of them for a connection of this host.
    assert on_lo[VIP]["preferred_life_time"] == 0 and on_lo["fd00:0:0:1::251"]["preferred_life_time"] == 0


def test_rules_of_ipv6_that_another_program_removes_are_missed(director: Node) -> None:
    director.sh("nft delete table ip6 openshift_lvs")
    assert director.facts.rules == "table ip6 openshift_lvs is missing"


def test_rules_of_ipv6_go_with_the_version_that_has_them(director: Node) -> None:
    data = written(
        ("network.cidr_v6", REMOVED),
        ("network.gateway_v6", REMOVED),
        ("network.client_cidrs", []),
        ("pools.master.witnesses", []),
        ("vips.master.address_v6", REMOVED),
        ("vips.new", REMOVED),
        *((f"pools.master.hosts.master{n}", f"192.168.0.{n + 2}") for n in range(3)),
    )
    director.roll_out(Cluster.parse(data), "master0")
    assert director.facts.rules == ""
    assert "ip6 openshift_lvs" not in director.sh("nft list tables")
    assert "fd00:" not in director.sh("ip -6 address show dev lo")


def test_a_backup_neither_answers_for_a_vip_nor_asks_for_it(director: Node) -> None:
    target = f"{int(ip_address(VIP)):#034x}"
    director.sh(
        "nft --file -",
        stdin=f"""table ip6 seen {{
        chain sent {{
            type filter hook output priority 0
            icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} @th,64,128 {target} counter
        }}
    }}""",
    )
    outside(director, "python3 /stub/ask")
    director.sh("/usr/bin/sleep 1.2; python3 /stub/ask")
    assert neighbours(director)[VIP] in ("INCOMPLETE", "FAILED")
    assert "packets 0 " in director.sh("nft list chain ip6 seen sent")
    # The holder has it on the interface too, and answers at once: without duplicate address detection.
    director.sh(f"ip -6 address add {VIP}/128 dev eth0 nodad")
    outside(director, "ip -6 neighbour flush dev wire")
    outside(director, "python3 /stub/ask")
    director.sh("/usr/bin/sleep 0.1")
    assert neighbours(director)[VIP] in ("REACHABLE", "STALE", "DELAY", "PROBE")


def test_a_node_takes_no_vip_as_the_source_of_its_own_connections(director: Node) -> None:
    assert f" src {HERE} " in director.sh(f"ip -6 route get {CLIENT}")


def test_adverts_of_ipv6_are_recorded_from_directors_and_refused_from_others(director: Node) -> None:
    for source in (PEER, STRANGER):
        # No keepalived runs here that joins the multicast group.
        outside(director, f"python3 /stub/advert {source} 51 {HERE}")
    assert director.python("vip = here.vips[1]; print(vip.name, sorted(vrrp.heard(vip)), sorted(vrrp.heard(vip, recorded='strangers')))") == (
        f"master-v6 ['{PEER}'] ['{STRANGER}']"
    )
    assert director.facts.foreign == (f"{STRANGER} VRRP",)


def test_a_router_with_an_id_of_ipv6_that_is_not_in_force_is_listened_for(director: Node) -> None:
    director.sh("nft delete table ip6 openshift_lvs; nft delete table ip openshift_lvs")
    advert = f'nsenter --net="/proc/$(cat /stub/client)/ns/net" python3 /stub/advert {STRANGER} 51 ff02::12'
    director.sh(f"(until [ -e /stub/enough ]; do {advert}; : >/stub/sent; /usr/bin/sleep 0.2; done) >/dev/null 2>&1 </dev/null &")
    # On a busy machine the first one comes late.
    wait_for("the first advert", lambda: (director.path("/stub/sent").exists(), "none"), 30)
    said = director.python("import time; clock.now = time.monotonic; clock.pause = lambda: time.sleep(0.2)\nprint(vrrp.strangers(here, here))")
    director.write("/stub/enough", "")
    assert said.startswith(f"vips.master.virtual_router_id: 51 is used by {STRANGER} on eth0 too; choose another")


def test_the_kernel_reports_the_group_of_adverts_while_it_listens_for_other_routers(director: Node) -> None:
    joined = "joined = lambda: print('inet6 ff02::12' in [' '.join(line.split()) for line in os.popen('ip maddress show dev eth0')])\n"
    told = director.python(f"import os\n{joined}joined()\nwith vrrp._member(6, 'eth0'):\n    joined()\njoined()")
    assert told.split() == ["False", "True", "False"]


def test_the_machine_that_answers_a_neighbour_solicitation_is_told(director: Node) -> None:
    other = "fd00:0:0:1::240"
    outside(director, f"ip -6 address add {other}/64 dev wire nodad")
    mac = json.loads(outside(director, "ip -json link show dev wire"))[0]["address"]
    assert director.succeeds("outside", other).splitlines() == [f"ndp {other} {mac}"]
    assert "openshift_lvs_answers" not in director.sh("nft list tables")


def test_a_server_that_leaves_rotation_leaves_it_with_both_addresses(director: Node) -> None:
    director.succeeds("rotation", "out", "192.168.0.3")
    assert director.sh("ls /etc/keepalived/drained").split() == ["192.168.0.3", PEER]
    for address in ("192.168.0.3", PEER):
        assert director.read(f"/etc/keepalived/versions/{director.in_force}/drained/{address}.conf") == "weight 0\n"
    director.succeeds("rotation", "in", "192.168.0.3")
    assert director.sh("ls /etc/keepalived/drained") == ""


def test_facts_have_the_witnesses_of_both_families(director: Node) -> None:
    assert director.facts.witnesses.keys() == {"192.168.0.1:53", "[fd00:0:0:1::1]:53"}


def test_a_drain_of_one_family_moves_the_other_with_it(director: Node) -> None:
    director.sh(f"ip address add 192.168.0.250/32 dev eth0; ip -6 address add {VIP}/128 dev eth0 nodad")
    # keepalived is a stub here, so the VIPs stay.
    assert "still here: 192.168.0.250 " + VIP in director.verb("hand-over", "master-v6").stderr
    assert [director.read(f"/run/openshift-lvs/drain-{name}").strip() for name in ("master", "master-v6", "old")] == ["0", "0", "-50"]


def test_a_host_port_of_ipv6_is_found_with_the_chains_that_translate_it(director: Node) -> None:
    director.sh("nft --file -", stdin=PORTMAP)
    (found,) = director.facts.translated
    assert (found.at, found.to) == (f"[{VIP}]:6443/TCP", "[fd00:88::2]:8443")
    assert "by portmap (table ip6 nat, chain PREROUTING, CNI-HOSTPORT-DNAT, CNI-DN-31b3423096d38683e3b8a)" in str(found)
    assert "lvs_test_packets" not in director.sh("nft list tables")


def test_a_chain_of_ipv6_that_drops_packets_is_named(director: Node) -> None:
    director.sh("nft 'add table ip6 filter { chain input { type filter hook input priority 0; policy drop; iif lo accept; }; }'")
    assert director.facts.filters == ("table ip6 filter, chain input, priority 0",)


def test_a_vip_of_ipv6_that_leaves_lo_is_put_back_and_deprecated(director: Node) -> None:
    told = director.python(
        "from openshift_lvs import kernel_events\nimport os\nevents = kernel_events.AddressEvents()\n"
        f"os.system('ip -6 address delete {VIP}/128 dev lo'); print(events.left_lo(), host.add_vips(here))\n"
    )
    assert told == f"True ['{VIP}']"
    (again,) = (each for each in json.loads(director.sh("ip -json -6 address show dev lo"))[0]["addr_info"] if each["local"] == VIP)
    assert (again["prefixlen"], again["preferred_life_time"]) == (128, 0)


def test_connections_of_ipv6_are_kept_while_the_table_is_put_back(director: Node) -> None:
    begun = "python3 -c 'import socket; made = socket.create_server((\"::\", 6443), family=socket.AF_INET6); print(flush=True); made.accept(); input()'"
    director.sh(f"({begun} >/stub/listens 2>&1 </dev/null &); until [ -s /stub/listens ]; do /usr/bin/sleep 0.1; done")
    director.sh(f"ip -6 address add {VIP}/128 dev eth0 nodad")
    outside(director, "ip -6 neighbour flush dev wire")
    ask = f'import socket, time; made = socket.create_connection(("{VIP}", 6443), source_address=("{CLIENT}", 40000)); print(flush=True); time.sleep(30)'
    director.sh(f"(nsenter --net=/proc/$(cat /stub/client)/ns/net python3 -c '{ask}' >/stub/asked 2>&1 </dev/null &)")
    director.sh("until [ -s /stub/asked ]; do /usr/bin/sleep 0.1; done")
    shown = director.python(
        "with unbalanced.kept_connections(here, {service.mark for service in here.services}):\n"
        "    import subprocess\n    for name in ('accepting', 'kept'):\n"
        "        print(subprocess.run(['nft', 'list', 'set', 'ip6', 'openshift_lvs', name], capture_output=True, text=True).stdout)\n"
    )
    kept = f"{CLIENT} . 40000 . {VIP} . 6443"
    assert f"{VIP} . 6443" in shown and kept in shown
    assert "elements" not in director.sh("nft list set ip6 openshift_lvs accepting")
    director.sh("nft add element ip openshift_lvs kept '{ 192.168.0.9 . 40000 . 192.168.0.250 . 6443 timeout 9m }'")
    director.succeeds("rules")
    assert f"{kept} expires 14m" in director.sh("nft list set ip6 openshift_lvs kept"), "rules that are loaded anew keep them"
    assert "192.168.0.250 . 6443 timeout 9m expires 8m" in director.sh("nft list set ip openshift_lvs kept")
    assert director.facts.rules == ""


def test_while_servers_come_back_no_packet_of_a_connection_over_ipv6_is_balanced(director: Node) -> None:
    director.sh(f"ip -6 address add {VIP}/128 dev eth0 nodad")
    outside(director, "ip -6 neighbour flush dev wire")
    director.write("/stub/stray", STRAY)
    director.sh('nft add chain ip6 openshift_lvs seen "{ type filter hook input priority 95; }"; nft add rule ip6 openshift_lvs seen meta mark != 0 counter')
    director.python(
        "import os\nwith unbalanced.kept_connections(here, {service.mark for service in here.services}):\n"
        "    os.system('nsenter --net=/proc/$(cat /stub/client)/ns/net python3 /stub/stray; nft list set ip6 openshift_lvs held >/stub/held')\n"
    )
    assert f"{CLIENT} . 40001 . {VIP} . 6443" in director.read("/stub/held")
    assert "packets 0 " in director.sh("nft list chain ip6 openshift_lvs seen")
    outside(director, "python3 /stub/stray")
    assert "packets 1 " in director.sh("nft list chain ip6 openshift_lvs seen"), "with the table complete it is balanced again"


def test_the_own_address_of_ipv6_on_another_interface_is_named(director: Node) -> None:
    director.sh(f"ip link add br-ex type bridge; ip -6 address delete {HERE}/64 dev eth0; ip -6 address add {HERE}/64 dev br-ex nodad")
    assert director.facts.moved.startswith(f"{HERE} is on br-ex, not on eth0")


def test_the_kernel_tells_whether_the_own_address_of_ipv6_can_be_used(director: Node) -> None:
    told = "notes = []; host.journal.note = notes.append; host.wait_for_ipv6(here); print(notes)"
    assert director.python(told) == "[]"
    director.sh(f"/usr/sbin/sysctl -qw net.ipv6.conf.eth0.dad_transmits=100; ip -6 address delete {HERE}/64 dev eth0; ip -6 address add {HERE}/64 dev eth0")
    assert f"waited 10 s for {HERE} on eth0; last seen: tentative; " in director.python(told)


def test_an_event_of_the_own_address_of_ipv6_is_told_from_those_of_others(director: Node) -> None:
    told = director.python(
        "from openshift_lvs import kernel_events\nimport os\nevents = kernel_events.AddressEvents(); events.own = here.address_v6.packed\n"
        f"for change in ('add fd00:0:0:1::99/64 dev eth0 nodad', 'delete {HERE}/64 dev eth0'):\n"
        "    os.system(f'ip -6 address {change}'); events.left_lo(); print(events.elsewhere)\n"
    )
    assert told.split() == ["False", "True"]


def test_directors_of_ipv6_alone_know_connection_sync_by_its_sender(director: Node) -> None:
    director.roll_out(Cluster.parse(alone(("pools.master.witnesses", []))), "master0")
    assert director.facts.rules == ""
    assert "table ip openshift_lvs" not in director.sh("nft list tables").splitlines()
    assert {(each.side, each.group) for each in director.facts.sync} == {("master", "ff15::81"), ("backup", "ff15::81")}
    # keepalived adds a VIP so on the holder.
    director.sh(f"ip -6 address add {VIP}/128 dev eth0 nodad preferred_lft 0")
    director.write("/stub/source", SYNC_SOURCE)
    assert director.sh("python3 /stub/source").strip() == HERE


def test_connection_sync_over_ipv6_is_refused_from_others_and_from_users(director: Node) -> None:
    director.roll_out(Cluster.parse(alone(("pools.master.witnesses", []))), "master0")
    director.write("/stub/sync", "import socket, sys\n"
        "made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\nmade.bind((sys.argv[2], 0))\n"
        "made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(sys.argv[1]))\n"
        "made.sendto(bytes([0, 52, 0, 8, 0, 1, 0, 0]), ('ff15::81', 8848))\n")  # fmt: skip
    director.write("/stub/member", "import socket, struct, time\n"
        "made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, 'ff15::81')\n"
        "    + struct.pack('I', socket.if_nametoindex('eth0')))\nprint(flush=True)\ntime.sleep(60)\n")  # fmt: skip
    director.sh("(python3 /stub/member >/stub/joined 2>&1 </dev/null &); until [ -s /stub/joined ]; do /usr/bin/sleep 0.1; done")
    for source in (PEER, STRANGER):
        outside(director, f"python3 /stub/sync wire {source}")
    assert director.facts.foreign == (f"{STRANGER} connection sync",)
    director.sh("nft 'add table ip6 counted { chain output { type filter hook output priority 100; ip6 daddr ff15::81 counter; }; }'")
    director.sh(f"setpriv --reuid 65534 --clear-groups python3 /stub/sync eth0 {HERE} 2>/dev/null || true")
    assert "packets 0 " in director.sh("nft list table ip6 counted")
    director.sh(f"python3 /stub/sync eth0 {HERE}")
    assert "packets 1 " in director.sh("nft list table ip6 counted")


def description() -> Description:
    return keepalived.describe(Cluster.parse(written()), "master0")


def test_a_connection_over_ipv6_is_read_from_the_kernels_list() -> None:
    def shown(address: str) -> str:
        import socket

        packed = socket.inet_pton(socket.AF_INET6, address)
        return "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, 16, 4))

    line = f"   0: {shown(VIP)}:192B {shown(CLIENT)}:9C40 01 0 0 0 0 0"
    mapped = f"   1: {shown('::ffff:192.168.0.250')}:192B {shown('::ffff:192.168.0.9')}:9C41 01 0 0 0 0 0"
    ports = [(VIP, 6443), ("192.168.0.250", 6443)]
    assert unbalanced.connections("head\n" + line + "\n" + mapped, ports) == [
        f"{CLIENT} . 40000 . {VIP} . 6443",
        "192.168.0.9 . 40001 . 192.168.0.250 . 6443",
    ]


def test_own_calls_of_both_families_go_to_other_servers_by_rules_that_nft_takes(director: Node) -> None:
    here = description()
    live = {service.mark: ipvs.VirtualServer("mh", (), None, {str(each.address): ipvs.RealServer("DR", 1, 0) for each in service.real_servers[1:]})
            for vip in here.vips if vip.together for service in vip.services}  # fmt: skip
    made = own_calls.rules(here, own_calls._elsewhere(here, live))
    director.sh("nft --file -", stdin=made)
    listed = director.sh("nft list table ip6 openshift_lvs_own")
    assert f"ip6 daddr {VIP} tcp dport 6443" in listed and f"snat to {HERE}" in listed and "192.168" not in listed
    assert "fd00" not in director.sh("nft list table ip openshift_lvs_own")


def test_ipvsadm_is_told_the_family_of_a_virtual_server_of_ipv6(system: System) -> None:
    service = next(vip for vip in description().vips if vip.name == "master-v6").services[0]
    system.answers["ipvsadm"] = (0, "", "")
    ipvs.set_weight(service.mark, PEER, "DR", 0)
    ipvs.delete_server(service.mark, PEER)
    assert system.asked == [
        f"ipvsadm --edit-server --fwmark-service {service.mark} --ipv6 --real-server [{PEER}]:0 --gatewaying --weight 0",
        f"ipvsadm --delete-server --fwmark-service {service.mark} --ipv6 --real-server [{PEER}]:0",
    ]
    wanted = ipvs.VirtualServer("mh", ("mh-fallback", "mh-port"), None, {PEER: ipvs.RealServer("DR", 1, 0)})
    assert belief.difference(service, wanted, None) == [
        f"--add-service --fwmark-service {service.mark} --ipv6 --scheduler mh --sched-flags mh-port,mh-fallback",
        f"--add-server --fwmark-service {service.mark} --ipv6 --real-server [{PEER}]:0 --gatewaying --weight 1",
    ]
