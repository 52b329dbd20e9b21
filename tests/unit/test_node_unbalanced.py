"""Connections while another program has emptied the IPVS table: the real rules of a director, on a kernel without IPVS, which is such a node for ever."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from components.configuration import Cluster
from node.openshift_lvs.unbalanced import connections
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import STACK

VIP, CLIENT = "192.168.0.250", "192.168.0.9"
SERVE = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 8443), Echo).serve_forever()
"""
STRAY = f"""
import socket, struct, sys, time
source = int(sys.argv[1])
ends = socket.inet_aton("{CLIENT}") + socket.inet_aton("{VIP}")
header = struct.pack("!HHIIBBHHH", source, 8443, 1000, 1000, 5 << 4, 0x10, 512, 0, 0)
words = struct.unpack("!16H", ends + struct.pack("!BBH", 0, 6, len(header)) + header)
total = sum(words)
total = (total & 0xffff) + (total >> 16)
check = ~(total + (total >> 16)) & 0xffff
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.settimeout(float(sys.argv[2]))
raw.sendto(header[:16] + struct.pack("!H", check) + header[18:], ("{VIP}", 0))
try:
    while True:
        packet = raw.recv(100)
        if packet[22:24] == struct.pack("!H", source) and packet[33] & 4:
            print("reset")
            break
except socket.timeout:
    print("silence")
"""
"""A packet in the middle of a connection from this port of the client, and what comes back."""
FORGE = f"""
import socket, struct, sys
datagram = struct.pack("!HHHH", 4200, 4200, 8, 0)
header = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + socket.inet_aton(sys.argv[1]) + socket.inet_aton("{VIP}")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw.sendto(header + datagram, ("{VIP}", 0))
"""
"""A datagram with this source."""
TALK = f"""
import socket, struct
call = socket.socket()
call.settimeout(20)
call.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
# Closed by a reset, so that the port can be used again at once.
call.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
call.bind(("{CLIENT}", 4001))
call.connect(("{VIP}", 8443))
for word in (b"one", b"two"):
    call.sendall(word)
    print(call.recv(100).decode())
"""
PREPARE = f"""
    unshare --net /usr/bin/sleep 300 >/dev/null 2>&1 </dev/null & echo $! >/stub/client
    until [ "$(readlink /proc/$(cat /stub/client)/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do /usr/bin/sleep 0.01; done
    ip link set wire netns "$(cat /stub/client)"
    client() {{ nsenter --net="/proc/$(cat /stub/client)/ns/net" sh -euc "$1"; }}
    client "ip link set lo up; ip link set wire up; ip address add {CLIENT}/24 dev wire; ip route add {VIP} via 192.168.0.2"
    python3 /stub/serve >/stub/serve.log 2>&1 </dev/null & echo $! >/stub/serve.pid
"""


@pytest.fixture
def director() -> Iterator[Node]:
    """A director with its rules and a server, and a client at the other end of its wire."""
    with node() as made:
        made.roll_out(Cluster.parse(copy.deepcopy(STACK)), "master0")
        for name, text in (("serve", SERVE), ("stray", STRAY), ("forge", FORGE), ("talk", TALK)):
            made.write(f"/stub/{name}", text)
        made.sh(PREPARE)
        made.sh(f"for n in $(seq 100); do {client('talk')} 2>/dev/null && exit; /usr/bin/sleep 0.1; done; exit 1")
        yield made


def client(script: str) -> str:
    return f'nsenter --net="/proc/$(cat /stub/client)/ns/net" python3 /stub/{script}'


def stray(director: Node, port: int, expected: str) -> str:
    """What a stray packet gets; a reset is given more time, as it may be late on a busy machine."""
    return director.sh(client(f"stray {port} {0.4 if expected == 'silence' else 20}")).strip()


def test_a_packet_of_another_servers_connection_is_dropped_and_after_some_seconds_reset(director: Node) -> None:
    assert stray(director, 4100, "silence") == "silence"
    assert stray(director, 4100, "silence") == "silence"
    # As after their timeouts.
    director.sh("nft flush set ip openshift_lvs held")
    assert stray(director, 4100, "reset") == "reset"
    assert stray(director, 4101, "silence") == "silence", "each connection has its own time"
    # The own server has ended, and the kernel would reset what no socket takes.
    director.sh('kill "$(cat /stub/serve.pid)"')
    assert stray(director, 4103, "silence") == "silence"
    director.sh("nft delete chain ip openshift_lvs unbalanced")
    assert stray(director, 4102, "reset") == "reset", "without the rules the node answers"


def test_a_connection_that_the_own_server_accepts_is_not_touched(director: Node) -> None:
    assert director.sh(client("talk")).split() == ["one", "two"]
    assert "elements" not in director.sh("nft list set ip openshift_lvs held_before")


def test_no_packet_of_a_service_is_tracked(director: Node) -> None:
    tracked = "type filter hook {} priority 0; tcp {} 8443 ct state untracked counter; tcp {} 8443 counter;"
    chains = [f"chain {hook} {{ {tracked.format(hook, port, port)} }}" for hook, port in (("input", "dport"), ("output", "sport"))]
    director.sh(f"nft 'table ip other {{ {'; '.join(chains)}; }}'")
    assert director.sh(client("talk")).split() == ["one", "two"]
    for hook in ("input", "output"):
        untracked, packets = (
            int(line.split("packets ")[1].split()[0]) for line in director.sh(f"nft list chain ip other {hook}").splitlines() if "counter" in line
        )
        assert untracked == packets > 3, hook


@pytest.mark.parametrize("source", ["192.168.0.2", VIP])
def test_a_packet_that_enters_with_an_own_address_as_its_source_is_dropped(director: Node, source: str) -> None:
    for key in ("eth0.accept_local=1", "eth0.rp_filter=0", "all.rp_filter=0"):
        director.sh(f"/usr/sbin/sysctl -qw net.ipv4.conf.{key}")
    director.sh("nft 'table ip other { chain input { type filter hook input priority 0; udp dport 4200 counter; }; }'")
    send = f"{client('forge')} {source}"
    director.sh(send)
    assert "packets 0 " in director.sh("nft list chain ip other input")
    director.sh(f"nft flush chain ip openshift_lvs prerouting; {send}")
    assert "packets 1 " in director.sh("nft list chain ip other input"), "no other rule drops it"


def test_what_the_own_server_accepted_stays_with_it_and_is_no_longer_balanced(director: Node) -> None:
    count_balanced(director)
    assert while_put_back(director, client("talk")).split() == ["one", "two"]
    kept = f"{CLIENT} . 4001 . {VIP} . 8443"
    assert kept in director.sh("nft list set ip openshift_lvs kept")
    assert "elements" not in director.sh("nft list set ip openshift_lvs accepting"), "later connections are balanced again"
    assert kept.replace("4001", "8443") not in director.sh("nft list set ip openshift_lvs kept")
    assert counted(director) == 0
    # The client uses its port again, for a connection that IPVS balances.
    director.sh(client("talk"))
    assert kept not in director.sh("nft list set ip openshift_lvs kept")
    assert counted(director) > 2


def test_what_the_own_server_accepted_stays_with_it_when_rules_are_loaded_anew(director: Node) -> None:
    while_put_back(director, client("talk"))
    director.sh("nft add rule ip openshift_lvs input counter")
    director.succeeds("rules")
    shown = director.sh("nft list set ip openshift_lvs kept")
    assert f"{CLIENT} . 4001 . {VIP} . 8443 expires 14m" in shown, "for as long as it would have been"
    assert "counter" not in director.sh("nft list chain ip openshift_lvs input"), "the rules are the version's"
    assert director.facts.rules == ""


def test_while_servers_come_back_one_after_the_other_no_packet_of_a_connection_is_balanced(director: Node) -> None:
    """`ipvsadm` adds the servers one by one. IPVS would give a connection of the last one to the first one, which resets it."""
    count_balanced(director)
    assert while_put_back(director, client("stray 4103 0.4")).strip() == "silence"
    assert counted(director) == 0
    director.sh(client("stray 4103 0.4"))
    assert counted(director) == 1, "with the table complete it is balanced again"
    # The own server has ended: what no socket takes would be reset by the kernel.
    director.sh('kill "$(cat /stub/serve.pid)"')
    director.sh("nft delete chain ip openshift_lvs unbalanced")
    assert while_put_back(director, client("stray 4104 0.4")).strip() == "silence"
    assert stray(director, 4104, "reset") == "reset"


def test_a_process_that_is_killed_while_it_puts_servers_back_leaves_a_node_that_balances_again(director: Node) -> None:
    assert f"{VIP} . 8443 expires" in while_put_back(director, "nft list set ip openshift_lvs accepting")


def while_put_back(director: Node, command: str) -> str:
    """What a command prints while virtual servers are put back."""
    return director.python(
        "import subprocess\nmarks = {service.mark for vip in here.vips for service in vip.services}\nwith unbalanced.kept_connections(here, marks):\n"
        f"    print(subprocess.run(['sh', '-euc', {command!r}], capture_output=True, text=True, check=True).stdout)\n"
    )


def count_balanced(director: Node) -> None:
    """Count the packets of the service that IPVS would get."""
    director.sh('nft add chain ip openshift_lvs seen "{ type filter hook input priority 95; }"')
    director.sh("nft add rule ip openshift_lvs seen tcp dport 8443 meta mark != 0 counter")


def counted(director: Node) -> int:
    return int(director.sh("nft list chain ip openshift_lvs seen").partition("packets ")[2].split()[0])


def test_without_rules_the_table_is_put_back_all_the_same(director: Node) -> None:
    director.sh("nft flush ruleset")
    inside = "with unbalanced.kept_connections(here, {service.mark for vip in here.vips for service in vip.services}): print('put back')\n"
    assert "put back" in director.python(inside)


def test_connections_of_both_kinds_of_sockets_are_read_and_listeners_and_other_ports_are_not() -> None:
    shown = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 00000000:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
        "   1: FA00A8C0:20FB 0900A8C0:0FA1 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1\n"
        "   2: FA00A8C0:20FB 0900A8C0:0FA2 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0\n"
        "   3: 0200A8C0:20FB 0900A8C0:0FA3 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1\n"
    )
    assert connections(shown, [(VIP, 8443)]) == [f"{CLIENT} . 4001 . {VIP} . 8443"]
    both = "header\n   0: 0000000000000000FFFF0000FA00A8C0:20FB 0000000000000000FFFF00000900A8C0:0FA4 03 0 0 0\n"
    assert connections(both, [(VIP, 8443)]) == [f"{CLIENT} . 4004 . {VIP} . 8443"]
