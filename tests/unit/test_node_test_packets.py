"""Rules of other programs that change a service's destination before IPVS: found, named and left alone, by packets through real rules."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from components.configuration import Cluster
from node.openshift_lvs.translation import Translation
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import STACK

PORTMAP = """
table ip nat {
    chain CNI-HOSTPORT-SETMARK { counter meta mark set mark or 0x2000; }
    chain CNI-DN-31b3423096d38683e3b8a {
        ip saddr 10.88.0.0/24 tcp dport 8443 counter jump CNI-HOSTPORT-SETMARK
        ip saddr 127.0.0.1 tcp dport 8443 counter jump CNI-HOSTPORT-SETMARK
        tcp dport 8443 counter dnat to 10.88.0.2:8443
    }
    chain CNI-HOSTPORT-DNAT { meta l4proto 6 tcp dport 8443 counter jump CNI-DN-31b3423096d38683e3b8a; }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; fib daddr type local counter jump CNI-HOSTPORT-DNAT; }
    chain OUTPUT { type nat hook output priority -100; policy accept; fib daddr type local counter jump CNI-HOSTPORT-DNAT; }
}
"""
"""As `nft list ruleset` shows what the portmap plugin wrote with iptables-nft."""
KUBE_PROXY = """
table ip nat {
    chain KUBE-MARK-MASQ { counter meta mark set mark or 0x4000; }
    chain KUBE-SEP-SSEM4V5B2TWCJYAL {
        ip saddr 192.168.0.3 counter jump KUBE-MARK-MASQ
        meta l4proto 6 counter dnat to 192.168.0.3:8443
    }
    chain KUBE-SVC-C3PKEUH46ECBQOSE {
        meta l4proto 6 ip saddr != 10.88.0.0/24 ip daddr 10.96.0.10 tcp dport 8443 counter jump KUBE-MARK-MASQ
        counter jump KUBE-SEP-SSEM4V5B2TWCJYAL
    }
    chain KUBE-EXT-C3PKEUH46ECBQOSE { counter jump KUBE-MARK-MASQ; counter jump KUBE-SVC-C3PKEUH46ECBQOSE; }
    chain KUBE-NODEPORTS { meta l4proto 6 tcp dport PORT counter jump KUBE-EXT-C3PKEUH46ECBQOSE; }
    chain KUBE-SERVICES {
        meta l4proto 6 ip daddr 10.96.0.10 tcp dport 8443 counter jump KUBE-SVC-C3PKEUH46ECBQOSE
        meta l4proto 6 ip daddr EXTERNAL tcp dport 8443 counter jump KUBE-EXT-C3PKEUH46ECBQOSE
        fib daddr type local counter jump KUBE-NODEPORTS
    }
    chain PREROUTING { type nat hook prerouting priority dstnat; policy accept; counter jump KUBE-SERVICES; }
}
"""
"""As `nft list ruleset` shows what kube-proxy 1.34 writes in iptables mode, but for the random choice and the targets, which it shows as opaque."""
KUBE_PROXY_NFTABLES = """
table ip kube-proxy {
    set nodeport-ips { type ipv4_addr; elements = { 192.168.0.2 }; }
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.10 . 6 . 8443 : goto service-LXGF2YQF-default/external/tcp/https,
                     EXTERNAL . 6 . 8443 : goto external-LXGF2YQF-default/external/tcp/https }
    }
    map service-nodeports {
        type inet_proto . inet_service : verdict
        elements = { 6 . PORT : goto external-LXGF2YQF-default/external/tcp/https }
    }
    chain nat-prerouting { type nat hook prerouting priority dstnat; policy accept; jump services; }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
        ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
    }
    chain mark-for-masquerade { meta mark set meta mark | 0x00004000; }
    chain endpoint-YZLOVWCR-default/external/tcp/https__192.168.0.3/8443 {
        ip saddr 192.168.0.3 jump mark-for-masquerade
        meta l4proto 6 dnat to 192.168.0.3:8443
    }
    chain service-LXGF2YQF-default/external/tcp/https {
        ip daddr 10.96.0.10 ip saddr != 10.88.0.0/24 jump mark-for-masquerade
        numgen random mod 1 vmap { 0 : goto endpoint-YZLOVWCR-default/external/tcp/https__192.168.0.3/8443 }
    }
    chain external-LXGF2YQF-default/external/tcp/https {
        jump mark-for-masquerade
        goto service-LXGF2YQF-default/external/tcp/https
    }
}
"""
"""What kube-proxy 1.34 writes in nftables mode, with one endpoint."""
VIP = "192.168.0.250"
OTHER = "192.168.0.77"
EVERYTHING = {"port": 40000, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 8443}}
AT = "192.168.0.250:8443/TCP"


@pytest.fixture(scope="module")
def director() -> Iterator[Node]:
    """master0 with a service by TCP and one by UDP."""
    data: dict[str, Any] = copy.deepcopy(STACK)
    data["vips"]["master"]["services"].append(EVERYTHING)
    with node() as made:
        made.roll_out(Cluster.parse(data), "master0")
        yield made


@pytest.fixture
def translating(director: Node) -> Iterator[Node]:
    """The director; what a test loads besides is removed."""
    yield director
    for table in director.sh("nft list tables").splitlines():
        if table != "table ip openshift_lvs":
            director.sh(f"nft delete {table}")


def load(on: Node, rules: str) -> None:
    on.sh("nft -f -", stdin=rules)


def test_rules_that_keep_the_destination_are_no_fault(translating: Node) -> None:
    assert translating.facts.translated == ()
    load(translating, PORTMAP.replace("8443", "443"))
    assert translating.facts.translated == ()


def test_a_host_port_is_found_with_the_chains_that_translate_it_and_the_remedy(translating: Node) -> None:
    load(translating, PORTMAP)
    found = translating.facts.translated
    assert found == (Translation(AT, "10.88.0.2:8443", "table ip nat, chain PREROUTING, CNI-HOSTPORT-DNAT, CNI-DN-31b3423096d38683e3b8a"),)
    said = f"{AT} is translated to 10.88.0.2:8443 by portmap (table ip nat, chain PREROUTING, CNI-HOSTPORT-DNAT, CNI-DN-31b3423096d38683e3b8a)"
    assert said in translating.succeeds("status") and "hostNetwork instead of hostPort" in translating.succeeds("status")


def test_a_deployment_fails_and_names_the_translation_and_succeeds_without_it(translating: Node) -> None:
    load(translating, PORTMAP)
    done = translating.verb("alone", "0")
    assert done.returncode == 1 and f"{AT} is translated to 10.88.0.2:8443 by portmap" in done.stderr
    load(translating, "delete table ip nat")
    assert translating.succeeds("alone", "0") == ""


@pytest.mark.parametrize(
    ("rules", "external", "port", "by"),
    [
        (KUBE_PROXY, VIP, 30443, "table ip nat, chain PREROUTING, KUBE-SERVICES, KUBE-EXT-C3PKEUH46ECBQOSE, KUBE-SVC-C3PKEUH46ECBQOSE"),
        (KUBE_PROXY, OTHER, 8443, "table ip nat, chain PREROUTING, KUBE-SERVICES, KUBE-NODEPORTS, KUBE-EXT-C3PKEUH46ECBQOSE"),
        (KUBE_PROXY, OTHER, 30443, ""),
        (KUBE_PROXY_NFTABLES, VIP, 30443, "table ip kube-proxy, chain nat-prerouting, services, external-LXGF2YQF-default/external/tcp/https, service-"),
        (KUBE_PROXY_NFTABLES, OTHER, 8443, ""),
        (KUBE_PROXY_NFTABLES.replace("{ 192.168.0.2 }", "{ 192.168.0.2, 192.168.0.250 }"), OTHER, 8443, "table ip kube-proxy, chain nat-prerouting, services"),
    ],
)
def test_a_service_of_kube_proxy_is_found_when_the_vip_is_its_external_ip_or_a_node_port(
    translating: Node, rules: str, external: str, port: int, by: str
) -> None:
    load(translating, rules.replace("EXTERNAL", external).replace(" PORT ", f" {port} "))
    told = [str(each) for each in translating.facts.translated]
    if not by:
        assert told == []
        return
    (said,) = told
    assert said.startswith(f"{AT} is translated to 192.168.0.3:8443 by kube-proxy ({by}")
    assert said.endswith("remove the VIP from the Service's externalIPs; for a NodePort choose another port, or keep the VIP out of nodePortAddresses")


@pytest.mark.parametrize(
    ("rules", "to"),
    [
        ("udp dport 40000 dnat ip to 10.88.0.2:53", "10.88.0.2:53"),
        ("udp dport 40000 dnat to :53", "192.168.0.250:53"),
        ("ip daddr 192.168.0.250 dnat ip to 10.88.0.2", "10.88.0.2:40000"),
        ("udp dport 40000 goto other", "10.88.0.3:53"),
    ],
)
def test_every_kind_of_translation_is_found_also_of_datagrams(translating: Node, rules: str, to: str) -> None:
    load(
        translating,
        f"""table inet else {{
            chain other {{ udp dport 40000 dnat ip to 10.88.0.3:53; }}
            chain first {{ type nat hook prerouting priority dstnat - 5; {rules}; }}
        }}""",
    )
    found = next(each for each in translating.facts.translated if each.at == "192.168.0.250:40000/UDP")
    assert (found.to, found.rule.startswith("table inet else, chain first")) == (to, True)
    assert "by a rule (table inet else" in str(found)


def test_rules_that_accept_the_packet_before_are_not_taken_for_the_one_that_translates(translating: Node) -> None:
    load(translating, "table ip before { chain raw { type filter hook prerouting priority raw; tcp dport 8443 accept; }; }")
    load(translating, "table ip first { chain nat { type nat hook prerouting priority dstnat - 5; tcp dport 443 dnat to 10.88.0.9; }; }")
    load(translating, PORTMAP)
    assert [each.rule.partition(",")[0] for each in translating.facts.translated] == ["table ip nat"]


def test_a_rule_that_drops_the_test_packet_leaves_it_unknown(translating: Node) -> None:
    load(translating, 'table ip spoofed { chain raw { type filter hook prerouting priority raw; iifname "lo" ip saddr != 127.0.0.0/8 drop; }; }')
    found = translating.facts.translated
    assert [(each.to, each.rule) for each in found] == [("", "one drops the test packet")] * 2
    assert translating.succeeds("alone", "0") == "", "nothing is known, so nothing is refused"


def test_the_own_rules_for_calls_from_the_node_are_not_taken_for_a_translation(translating: Node) -> None:
    translating.sh("sed -i 's/192.168.0.2 DR 1/192.168.0.2 DR 0/' /stub/table")
    translating.python("own_calls.redirect(here)")
    load(translating, PORTMAP.replace("8443", "443"))
    assert "dnat to jhash" in translating.sh("nft list table ip openshift_lvs_own")
    assert translating.facts.translated == ()


def test_the_test_packets_leave_nothing_behind(translating: Node) -> None:
    load(translating, PORTMAP)
    load(translating, "table ip late { chain input { type filter hook input priority -310; ip saddr 192.0.2.1 counter; }; }")
    before = translating.sh("nft list tables")
    translating.succeeds("status", "--json")
    assert translating.sh("nft list tables") == before
    assert "packets 0" in translating.sh("nft list table ip late")
    assert "192.0.2.1" not in translating.sh("cat /proc/net/nf_conntrack 2>/dev/null || true")


def test_a_server_that_is_no_director_may_translate() -> None:
    data = copy.deepcopy(STACK)
    data["pools"]["master"]["directors"] = ["master1"]
    data["vips"]["master"]["owner"] = "master1"
    with node() as server:
        server.roll_out(Cluster.parse(data), "master0")
        load(server, PORTMAP)
        assert server.facts.translated == ()


def test_the_interface_that_has_the_nodes_own_address_now_is_named_and_no_deployment_changes_the_node(director: Node) -> None:
    version = director.in_force or ""
    director.sh("ip link add br-ex type bridge; ip address delete 192.168.0.2/24 dev eth0; ip address add 192.168.0.2/24 dev br-ex")
    said = "192.168.0.2 is on br-ex, not on eth0, where keepalived and the rules expect it; set pools.master.interface, or the one of host master0, to br-ex"
    assert director.facts.moved.startswith(said)
    assert f"FAULT       {said}" in director.succeeds("status")
    done = director.verb("activate", version)
    assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.endswith("Nothing was changed\n")
    director.sh("ip link delete br-ex; ip address add 192.168.0.2/24 dev eth0")
    assert director.facts.moved == ""
    assert director.succeeds("activate", version) == f"{version} in force, nothing to do\n"
