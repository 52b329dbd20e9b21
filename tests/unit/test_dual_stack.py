"""IPv6 in the model and in what is rendered."""

from __future__ import annotations

import copy
import re
from ipaddress import IPv6Network
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest
import yaml

from components import keepalived
from components.configuration import Cluster, ConfigurationError
from components.ingress import ingress_rules, management_rules
from components.keepalived import File
from components.network import ClusterNetwork, NetworkArgs, allocation_pool
from components.servers import Servers, ServersArgs
from components.stack import Stack
from node.openshift_lvs.description import Description
from node.openshift_lvs.firewall import _rules
from tests.unit.node_root import node
from tests.unit.recording import Deploy, Deployment
from tests.unit.test_cluster import REMOVED, put
from tests.unit.test_keepalived import GOLDEN, text, without_digest

ADDITIONAL = ["192.168.0.252", "fd00:0:0:1::252"]
SEVERAL: tuple[str, Any] = ("vips.master.additional_addresses", ADDITIONAL)
"""An additional address of each family for a VIP."""
WRITTEN = yaml.safe_load((GOLDEN.parent / "dual_stack" / "Pulumi.dual-stack.yaml").read_text())["config"]["openshift-lvs:cluster"]
RENDERED = GOLDEN.parent / "dual_stack"


def written(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The cluster of the dual-stack example with these changes."""
    data: dict[str, Any] = copy.deepcopy(WRITTEN)
    for path, value in changes:
        put(data, path, value)
    return data


def rendered(*changes: tuple[str, Any]) -> dict[str, tuple[File, ...]]:
    cluster = Cluster.parse(written(*changes))
    return {node.name: keepalived.render(cluster, node.name) for node in cluster.nodes()}


NO_IPV6 = "is IPv6, and no subnet of the stack is; set network.cidr_v6 and each host's address_v6, or give an IPv4 one"
IPV6_ALONE: list[tuple[str, Any, str]] = [
    ("network.client_cidrs", ["2001:db8::/32"], "network.client_cidrs.0: 2001:db8::/32"),
    ("network.reserved", {"bastion": "fd00::9"}, "network.reserved.bastion: fd00::9"),
    ("network.dns_nameservers", ["fd00::9"], "network.dns_nameservers.0: fd00::9"),
    ("network.allow", [{"protocol": "tcp", "ports": 22, "cidr": "fd00::/64"}], "network.allow.0.cidr: fd00::/64"),
    ("pools.infra.witnesses", ["[fd00::1]:53"], "pools.infra.witnesses.0: [fd00::1]:53"),
    ("pools.infra.allowed_address_pairs", ["fd00::9"], "pools.infra.allowed_address_pairs.0: fd00::9/128"),
    ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "address_v6": "fd00::5"}, "pools.infra.hosts.infra0.address_v6: fd00::5"),
    ("vips.infra.address_v6", "fd00::1", "vips.infra.address_v6: fd00::1"),
    ("vips.infra.services.0.health_check", {"type": "tcp", "connect_ip": "fd00::1"}, "vips.infra.services.0.health_check.connect_ip: fd00::1"),
]


@pytest.mark.parametrize(("path", "value", "said"), IPV6_ALONE, ids=[path for path, _, _ in IPV6_ALONE])
def test_ipv6_is_refused_at_every_key_of_a_stack_that_has_no_subnet_of_it(article: dict[str, Any], path: str, value: Any, said: str) -> None:
    put(article, path, value)
    with pytest.raises(ConfigurationError) as refused:
        Cluster.parse(article)
    assert str(refused.value) == f"{said} {NO_IPV6}"


def test_a_vip_with_both_families_is_two_vips_that_move_together() -> None:
    cluster = Cluster.parse(written())
    assert {name: str(vip.address) for name, vip in cluster.vips.items()} == {
        "master": "192.168.0.250",
        "master-v6": "fd00:0:0:1::250",
        "old": "192.168.0.251",
        "new": "fd00:0:0:1::251",
    }
    assert [cluster.together(name) for name in ("master", "master-v6", "new")] == [("master", "master-v6"), ("master", "master-v6"), ("new",)]
    assert list(cluster.vips_of("master")) == ["master", "master-v6", "new", "old"]


def test_a_vip_may_have_the_name_that_the_second_address_of_another_would_have() -> None:
    both = {**WRITTEN["vips"]["master"], "address": "192.168.0.98", "address_v6": "fd00:0:0:1::98", "virtual_router_id": 53}
    cluster = Cluster.parse(written(("vips.new-v6", both)))
    assert cluster.together("new-v6") == cluster.together("new-v6-v6") == ("new-v6", "new-v6-v6")
    assert cluster.together("new") == ("new",)


def test_no_two_virtual_servers_of_both_families_have_one_mark() -> None:
    cluster = Cluster.parse(written())
    marks = [vip.mark(service) for vip in cluster.vips.values() for service in vip.services]
    assert len(set(marks)) == len(marks) == 6
    # kube-proxy's bits stay clear.
    assert not any(mark & 0xC000 for mark in marks)


REFUSED: list[tuple[str, list[tuple[str, Any]], str]] = [
    (
        "a host without its second address",
        [("pools.master.hosts.master1", "192.168.0.3")],
        "pools.master.hosts.master1.address_v6: missing, and network.cidr_v6 is fd00:0:0:1::/64; give an address in it, such as fd00:0:0:1::5",
    ),
    (
        "a host of the wrong family",
        [("pools.master.hosts.master1", {"address": "fd00:0:0:1::3", "address_v6": "fd00:0:0:1::4"})],
        "pools.master.hosts.master1: fd00:0:0:1::3 is not a host address of the subnet 192.168.0.0/24; choose one from 192.168.0.1 to 192.168.0.254",
    ),
    (
        "a VIP outside its subnet",
        [("vips.master.address_v6", "fd00:0:0:2::250")],
        "vips.master.address_v6: fd00:0:0:2::250 is not a host address of the subnet fd00:0:0:1::/64; "
        "choose one from fd00:0:0:1::1 to fd00::1:ffff:ffff:ffff:fffe",
    ),
    (
        "two VIPs with one address",
        [("vips.new.address", "fd00:0:0:1::250")],
        "vips.new.address: fd00:0:0:1::250 is taken by vips.master.address_v6; choose another, because an address pair equal to a bound port's address "
        "takes that port down",
    ),
    (
        "families in the wrong places",
        [("vips.master.address_v6", "192.168.0.249")],
        "vips.master.address_v6: 192.168.0.249 beside address 192.168.0.250; give an IPv4 address there and an IPv6 address here",
    ),
    (
        "a name that the second VIP would have",
        [("vips.master-v6", {**WRITTEN["vips"]["old"], "address": "192.168.0.99", "virtual_router_id": 53})],
        "vips.master.address_v6: fd00:0:0:1::250 would be VIP master-v6, and vips has that name too; rename vips.master-v6",
    ),
    (
        "a director that no lost family brings below the next",
        [("vips.master.priorities", {"master0": 150, "master1": 100})],
        "vips.master.priorities: master0 has 150, and the next director 100: 50 or more apart; a director that sees too few servers of one family adds -50, "
        "and must then rank below the next one",
    ),
    (
        "one VRID in one family",
        [("vips.new.virtual_router_id", 51)],
        "vips.new.virtual_router_id: 51 is used by vips.master too; choose another (1 to 255)",
    ),
    (
        "subnets of one family",
        [("network.cidr_v6", "10.0.0.0/24")],
        "network.cidr_v6: 10.0.0.0/24 beside cidr 192.168.0.0/24; give an IPv4 network there and an IPv6 network here",
    ),
    (
        "a management network in the second subnet",
        [("network.management", {"existing": "mgmt", "cidr": "fd00:0:0:1::/96"})],
        "network.management.cidr: fd00:0:0:1::/96 overlaps the subnet fd00:0:0:1::/64; give the range of another network",
    ),
    ("a link-local subnet", [("network.cidr_v6", "fe80::/64")], "network.cidr_v6: fe80::/64 is no range for hosts; "
     "give one of global or unique local addresses, such as fd00::/64"),
    ("no gateway for the router", [("network.gateway_v6", REMOVED)], "network.gateway_v6: missing; the router to 'public' needs an address in "
     "fd00:0:0:1::/64, such as fd00:0:0:1::1"),
    ("no router", [("network.external", REMOVED)], "network.external: missing, and network.cidr_v6 is fd00:0:0:1::/64, where hosts need the advertisements "
     "of a router; name the external network, so that the created network gets a router to it, or set network.existing"),
    ("VRRP version 2", [("keepalived.vrrp_version", 2), *((f"vips.{name}.advert_interval", 1) for name in ("master", "old", "new"))],
     "keepalived.vrrp_version: 2, and vips.master has the IPv6 address fd00:0:0:1::250; that needs version 3 (RFC 9568)"),
    ("NAT", [("vips.master.services.0.forwarding_method", "NAT")],
     "vips.master.services.0.forwarding_method: NAT, and the VIP has an IPv6 address; that needs DR"),
    ("persistence", [("vips.master.services.0.persistence_timeout", 60)],
     "vips.master.services.0.persistence_timeout: 60, and the VIP has an IPv6 address; persistence was tried with IPv4 only: use affinity: client, or "
     "remove it"),
    ("a script", [("vips.new.services.0.health_check", {"type": "misc", "script": "checks/etcd"})],
     "vips.new.services.0.health_check.type: misc, and the VIP has an IPv6 address; scripts were tried with IPv4 only: use tcp, http, ssl or smtp"),
    ("a bastion that only IPv4 reaches", [("ssh", {"bastion": {"image": "debian-12", "flavor": "m1.small"}, "allowed_cidrs": ["2001:db8::/32"]})],
     "ssh.allowed_cidrs.0: 2001:db8::/32, and a bastion that the program creates has IPv4 only; remove it, or name a bastion that exists"),
    ("one VRID in two pools", [("vips.new.virtual_router_id", 60), ("pools.other", {**WRITTEN["pools"]["master"], "directors": ["other0"], "hosts": {
        "other0": {"address": "192.168.0.9", "address_v6": "fd00:0:0:1::9"}}}), ("vips.else", {**WRITTEN["vips"]["new"], "address": "fd00:0:0:1::252",
        "pool": "other", "owner": "other0"})],
     "vips.else.virtual_router_id: 52 is used by vips.old too; choose another (1 to 255)"),
    ("a sorry server of one family", [("vips.master.services.0.sorry_server", "192.168.0.99")],
     "vips.master.services.0.sorry_server_v6: missing beside 192.168.0.99; the VIP has both families: give one for each, or none"),
    ("a sorry server of the other family", [("vips.old.services.0.sorry_server", "fd00:0:0:1::99")],
     "vips.old.services.0.sorry_server: fd00:0:0:1::99 is of another family than the VIP's address; give an IPv4 address"),
    ("a sorry server of both addresses, of which one is a host",
     [("vips.master.services.0.sorry_server", "192.168.0.99"), ("vips.master.services.0.sorry_server_v6", "fd00:0:0:1::4")],
     "vips.master.services.0.sorry_server_v6: fd00:0:0:1::4 is master2, a real server of the same service; name another machine"),
    ("a sorry server that is a VIP", [("vips.new.services.0.sorry_server", "fd00:0:0:1::250")],
     "vips.new.services.0.sorry_server: fd00:0:0:1::250 is the address of vips.master, not of a machine; name a machine outside this stack that has the VIP "
     "on lo"),
    ("a sorry server that is a host", [("vips.new.services.0.sorry_server", "fd00:0:0:1::4")],
     "vips.new.services.0.sorry_server: fd00:0:0:1::4 is master2, a real server of the same service; name another machine"),
    ("one source address for checks of both families", [("vips.master.services.0.health_check.bindto", "192.168.0.2")],
     "vips.master.services.0.health_check.bindto: 192.168.0.2 is of another family than an address that the check connects to; remove it"),
    ("a floating IP of an IPv6 VIP", [("vips.new.floating_ip", "203.0.113.9")],
     "vips.new.floating_ip: 203.0.113.9, and address is fd00:0:0:1::251; IPv6 is routed without a floating IP, so remove it"),
    ("clients that the network does not have", [("vips.new.services.0.client_cidrs", ["2001:db9::/32"])],
     "vips.new.services.0.client_cidrs.0: 2001:db9::/32 is not within network.client_cidrs; directors forward with the client's address, which Neutron "
     "permits for those ranges only; add it there too"),
    ("a witness that is a host", [("pools.master.witnesses", ["[fd00:0:0:1::3]:22"])],
     "pools.master.witnesses.0: [fd00:0:0:1::3]:22 is pools.master.hosts.master1; a witness is outside the pool: a server of another one, a name server, "
     "a gateway that answers"),
    ("a witness without brackets", [("pools.master.witnesses", ["fd00::1:53"])], "pools.master.witnesses.0: 'fd00::1:53': not ADDRESS:PORT of something "
     "that takes or refuses a connection, such as 192.168.0.1:22"),
    ("a host that is not managed", [("pools.master.hosts.master2.managed", False)],
     "vips.master.address_v6: fd00:0:0:1::250, and master2 has managed: false, where only IPv4 works so far; remove this address, or managed: false"),
    ("an address with a zone", [("vips.new.address", "fe80::1%eth0")], "vips.new.address: 'fe80::1%eth0': must be an IPv4 or IPv6 "
     "address, such as 192.168.0.5"),
    ("an additional address of a family that the VIP does not have", [("vips.old.additional_addresses", ["192.168.0.9", "fd00:0:0:1::9"])],
     "vips.old.additional_addresses.1: fd00:0:0:1::9 is IPv6, and address is 192.168.0.251; set address_v6 too, or give an IPv4 address"),
    ("an additional IPv4 address of an IPv6 VIP", [("vips.new.additional_addresses", ["192.168.0.9"])],
     "vips.new.additional_addresses.0: 192.168.0.9 is IPv4, and address is fd00:0:0:1::251; give an IPv6 address"),
    ("an additional address twice", [("vips.master.additional_addresses", ["192.168.0.252", "192.168.0.252"])],
     "vips.master.additional_addresses.1: 192.168.0.252 is in the list twice; remove one"),
    ("an additional address that is a VIP", [("vips.master.additional_addresses", ["fd00:0:0:1::9", "fd00:0:0:1::251"])],
     "vips.new.address: fd00:0:0:1::251 is taken by vips.master.additional_addresses.1; choose another, because an address pair equal to a bound port's "
     "address takes that port down"),
    ("an additional address outside its subnet", [("vips.master.additional_addresses", ["192.168.1.9"])],
     "vips.master.additional_addresses.0: 192.168.1.9 is not a host address of the subnet 192.168.0.0/24; choose one from 192.168.0.1 to 192.168.0.254"),
    ("a sorry server that is an additional address", [SEVERAL, ("vips.new.services.0.sorry_server", "fd00:0:0:1::252")],
     "vips.new.services.0.sorry_server: fd00:0:0:1::252 is the address of vips.master, not of a machine; name a machine outside this stack that has the VIP "
     "on lo"),
    ("a witness that is an additional address", [SEVERAL, ("pools.master.witnesses", ["[fd00:0:0:1::252]:22"])],
     "pools.master.witnesses.0: [fd00:0:0:1::252]:22 is vips.master.additional_addresses.1; a witness is outside the pool: a server of another one, a name "
     "server, a gateway that answers"),
    ("clients in multicast", [("network.client_cidrs", ["fe00::/7"])],
     "network.client_cidrs: fe00::/7 overlaps multicast, which Neutron refuses; use ::/0 or 2000::/3, fc00::/7"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_work_with_both_families_is_refused(changes: list[tuple[str, Any]], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cluster.parse(written(*changes))
    assert str(refused.value) == said


def alone(*changes: tuple[str, Any]) -> dict[str, Any]:
    """A cluster of IPv6 alone with these changes: the hosts and one VIP of the dual-stack example."""
    pool = {**WRITTEN["pools"]["master"], "hosts": {f"master{n}": f"fd00:0:0:1::{n + 2}" for n in range(3)}, "witnesses": ["[fd00:0:0:1::1]:53"]}
    vip = {**WRITTEN["vips"]["new"], "address": "fd00:0:0:1::250"}
    data: dict[str, Any] = copy.deepcopy({"network": {"cidr": "fd00:0:0:1::/64", "existing": "corp"}, "pools": {"master": pool}, "vips": {"only": vip}})
    for path, value in changes:
        put(data, path, value)
    return data


def test_a_stack_of_ipv6_alone_is_written_with_the_same_keys() -> None:
    cluster = Cluster.parse(alone())
    assert cluster.allowed_address_pairs(cluster.node("master0")) == ["fd00:0:0:1::/64", "fd00:0:0:1::250"]


REFUSED_ALONE: list[tuple[str, list[tuple[str, Any]], str]] = [
    ("clients of IPv4", [("network.client_cidrs", ["203.0.113.0/24"])],
     "network.client_cidrs.0: 203.0.113.0/24 is IPv4, and no subnet of the stack is; give an IPv6 one"),
    ("a second address", [("pools.master.hosts.master1", {"address": "fd00:0:0:1::3", "address_v6": "fd00:0:0:1::9"})],
     "pools.master.hosts.master1.address_v6: fd00:0:0:1::9, and network.cidr_v6 is not set; set it to the subnet of this address, or remove this"),
    ("no router", [("network.existing", REMOVED)], "network.external: missing, and network.cidr is fd00:0:0:1::/64, where hosts need the advertisements of a "
     "router; name the external network, so that the created network gets a router to it, or set network.existing"),
    ("a bastion", [("ssh", {"bastion": {"image": "debian-12", "flavor": "m1.small"}, "allowed_cidrs": ["2001:db8::/32"]}),
                   ("network.external", "public"), ("network.gateway", "fd00:0:0:1::1")],
     "ssh.bastion.image: 'debian-12', and network.cidr is fd00:0:0:1::/64, where it gets no floating IP; name a bastion that exists (host, host_key)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), [case[1:] for case in REFUSED_ALONE], ids=[case[0] for case in REFUSED_ALONE])
def test_what_cannot_work_with_ipv6_alone_is_refused(changes: list[tuple[str, Any]], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cluster.parse(alone(*changes))
    assert str(refused.value) == said


def test_ssh_may_reach_hosts_of_ipv6_alone_by_ipv4() -> None:
    data = alone(
        ("network.management", {"existing": "operators", "cidr": "10.0.0.0/24"}),
        ("pools.master.hosts.master1", {"address": "fd00:0:0:1::3", "ssh_address": "10.0.0.3"}),
        ("ssh", {"allowed_cidrs": ["10.0.0.0/24"]}),
    )
    assert str(Cluster.parse(data).node("master1").ssh_address) == "10.0.0.3"


def test_a_floating_ip_is_for_the_ipv4_address_only() -> None:
    assert Cluster.parse(written()).new_floating_ips() == ["master", "old"]


def test_a_floating_ip_that_an_ipv6_vip_asks_for_is_a_warning() -> None:
    (warning,) = Cluster.parse(written(("vips.new.floating_ip", True))).warnings
    assert warning == "vips.new.floating_ip: true, and address is fd00:0:0:1::251: IPv6 is routed without a floating IP; set false"


def test_without_port_security_no_port_takes_the_packets_of_an_ipv6_vip() -> None:
    cluster = Cluster.parse(written(("network.port_security", False)))
    assert cluster.vips_with_port() == ["master", "old"]


def test_address_pairs_are_the_plain_vips_of_both_families_and_the_ranges_of_clients() -> None:
    cluster = Cluster.parse(written())
    assert cluster.allowed_address_pairs(cluster.node("master2")) == ["192.168.0.250", "192.168.0.251", "fd00:0:0:1::250", "fd00:0:0:1::251"]
    assert set(cluster.allowed_address_pairs(cluster.node("master0"))) - set(cluster.allowed_address_pairs(cluster.node("master2"))) == {
        "192.168.0.0/24", "203.0.113.0/24", "2001:db8::/32", "fd00:0:0:1::/64",
    }  # fmt: skip


def test_an_additional_address_belongs_to_the_vip_of_its_family_and_needs_no_virtual_router() -> None:
    cluster = Cluster.parse(written(SEVERAL))
    assert {name: list(map(str, vip.addresses)) for name, vip in cluster.vips.items()} == {
        "master": ["192.168.0.250", "192.168.0.252"],
        "master-v6": ["fd00:0:0:1::250", "fd00:0:0:1::252"],
        "old": ["192.168.0.251"],
        "new": ["fd00:0:0:1::251"],
    }
    assert cluster.new_floating_ips() == ["master", "old"]
    assert set(ADDITIONAL) < set(cluster.allowed_address_pairs(cluster.node("master2")))


def test_an_additional_address_moves_with_its_instance_without_being_in_the_adverts() -> None:
    conf = text(rendered(SEVERAL)["master0"])
    for name, addresses in (("master", ["192.168.0.250/32", "192.168.0.252/32"]), ("master-v6", ["fd00:0:0:1::250/128", "fd00:0:0:1::252/128"])):
        found = dict(re.findall(r"    (virtual_ipaddress\w*) \{([^}]*)\}", instance(conf, name)))
        assert {word: within.split() for word, within in found.items()} == {"virtual_ipaddress": addresses[:1], "virtual_ipaddress_excluded": addresses[1:]}
    assert "excluded" not in instance(conf, "old") + instance(conf, "new")
    assert len(re.findall(r"^virtual_server ", conf, re.MULTILINE)) == len(re.findall(r"^virtual_server ", text(rendered()["master0"]), re.MULTILINE))
    given_up = text(rendered(SEVERAL)["master0"], "release.batch").splitlines()
    assert {"address flush dev eth0 to 192.168.0.252/32", "address flush dev eth0 to fd00:0:0:1::252/128"} < set(given_up)


def test_packets_to_an_additional_address_get_the_marks_of_the_vips_services() -> None:
    rules_of = text(rendered(SEVERAL)["master0"], "lvs.nft")
    marks = re.findall(r"^ +(\S+) \. (tcp|udp) \. (\d+) : (\d+),$", rules_of, re.MULTILINE)
    of = {address: {(protocol, port, mark) for found, protocol, port, mark in marks if found == address} for address, *_ in marks}
    assert of["192.168.0.252"] == of["192.168.0.250"] and of["fd00:0:0:1::252"] == of["fd00:0:0:1::250"] and len(of["192.168.0.250"]) == 2
    assert "ip saddr { 192.168.0.2, 192.168.0.250, 192.168.0.252, 192.168.0.251 } drop" in rules_of
    assert len(re.findall(r"^ +(?:192\.168\.0\.252|fd00:0:0:1::252) \. (?:tcp|udp) \. \d+,$", rules_of, re.MULTILINE)) == 4, "they are not tracked"


def test_a_real_keepalived_and_nft_accept_additional_addresses() -> None:
    cluster = Cluster.parse(written(SEVERAL))
    with node() as real:
        for host in ("master0", "master2"):
            real.accepts(cluster, host)


def test_rendered_files_are_the_ones_in_dual_stack() -> None:
    wanted = {str(path.relative_to(RENDERED)): without_digest(path.read_text()) for path in RENDERED.glob("*/*")}
    assert {f"{host}/{file.path}": without_digest(file.text) for host, files in rendered().items() for file in files} == wanted


def test_a_real_keepalived_and_nft_accept_both_families_without_a_word() -> None:
    cluster = Cluster.parse(written())
    with node() as real:
        for host in ("master0", "master1", "master2"):
            real.accepts(cluster, host)


ONLY_NEW: list[tuple[str, Any]] = [("vips.master", REMOVED), ("vips.old", REMOVED)]
"""All VIPs of the pool are IPv6, and its hosts have both families."""


def test_connection_sync_by_ipv4_is_refused_from_strangers_where_all_vips_are_ipv6() -> None:
    files = rendered(*ONLY_NEW)
    rules = next(file.text for file in files["master0"] if file.path == "lvs.nft")
    ipv4 = rules[rules.index("\ntable ip openshift_lvs {") : rules.index("\ntable ip6 openshift_lvs {")]
    assert "elements = { 192.168.0.2, 192.168.0.3 }" in ipv4
    assert "ip daddr 224.0.0.81 udp dport 8848 @th,72,8 52 goto refuse" in ipv4
    assert "ip daddr 224.0.0.81 udp dport 8848 meta skuid != 0 drop" in ipv4
    assert not any("224.0.0.81" in file.text for file in files["master2"]), "a server that is no director gets none"
    with node() as real:
        real.accepts(Cluster.parse(written(*ONLY_NEW)), "master0")


def test_both_instances_of_a_vip_are_in_one_group_that_tracks_for_them() -> None:
    conf = text(rendered()["master0"])
    group = conf[conf.index("vrrp_sync_group master {") : conf.index("vrrp_instance master {")]
    assert [line for line in group.splitlines() if line.startswith("        ")] == [
        "        master",
        "        master-v6",
        "        drain_master weight 1",
        "        view_master weight 1",
        "        view_master-v6 weight 1",
        "        cut_off weight 1",
    ]
    for name in ("master", "master-v6"):
        # keepalived ignores a weight of an instance in a group.
        assert "track_" not in instance(conf, name)
    assert "drain_old weight 1" in instance(conf, "old") and "vrrp_sync_group" not in conf.replace("vrrp_sync_group master", "")


def test_poor_views_of_both_families_together_weigh_as_much_as_one_of_a_vip_alone() -> None:
    described = Description.from_json(text(rendered()["master0"], "host.json"))
    assert {vip.name: described.poor_view(vip) for vip in described.vips} == {"master": -50, "master-v6": -50, "new": -100, "old": -100}


def test_adverts_of_ipv6_have_the_source_that_the_other_directors_know() -> None:
    conf = text(rendered()["master1"])
    assert "    native_ipv6\n" in instance(conf, "master-v6") and "    mcast_src_ip fd00:0:0:1::3\n" in instance(conf, "master-v6")
    assert "    unicast_src_ip fd00:0:0:1::3\n    unicast_peer {\n        fd00:0:0:1::2\n    }\n" in instance(conf, "new")
    assert "src_ip" not in instance(conf, "master")


def test_rules_of_one_family_name_no_address_of_the_other() -> None:
    parts = re.split(r"^table ip6? openshift_lvs\ndelete .*\n", text(rendered()["master0"], "lvs.nft"), flags=re.MULTILINE)
    rules_of = dict(zip(("", "ip", "ip6"), parts, strict=True))
    assert "192.168.0." in rules_of["ip"] and "fd00:" not in rules_of["ip"]
    assert "fd00:" in rules_of["ip6"] and "192.168." not in rules_of["ip6"] and "224.0.0.81" not in rules_of["ip6"]


def test_what_the_program_on_the_node_is_told_comes_back_from_its_file() -> None:
    cluster = Cluster.parse(written())
    for host in ("master0", "master2"):
        described = keepalived.describe(cluster, host)
        assert Description.from_json(described.to_json()) == described
    here = keepalived.describe(cluster, "master0")
    assert [str(here.address_of(version)) for version in (4, 6)] == ["192.168.0.2", "fd00:0:0:1::2"]
    assert [list(map(str, here.directors_of(version))) for version in (4, 6)] == [["192.168.0.3"], ["fd00:0:0:1::3"]]
    assert here.owned_by_others.keys() == {"new", "old"}
    assert "additional_addresses" not in here.to_json()
    several = keepalived.describe(Cluster.parse(written(SEVERAL)), "master2")
    assert Description.from_json(several.to_json()) == several and set(ADDITIONAL) < set(several.vip_addresses)
    assert here.moving_with(["master-v6"]) == ["master-v6", "master"] and here.moving_with(["new"]) == ["new"]


ANY, SUBNET = "0:0:0:0:0:0:0:0/0", "fd00:0:0:1:0:0:0:0/64"
"""As names of rules have them."""


def test_the_security_group_lets_in_each_family_from_its_own_sources() -> None:
    names = {rule.name for rule in ingress_rules(Cluster.parse(written()))}
    assert {"icmp-from-0.0.0.0/0", f"ipv6-icmp-from-{ANY}", f"tcp-32768-60999-from-{ANY}"} <= names
    assert {"vrrp-from-192.168.0.3/32", "vrrp-from-fd00:0:0:1:0:0:0:3/128"} <= names
    assert {"tcp-6443-from-2001:db8:0:0:0:0:0:0/32", "tcp-6443-from-203.0.113.0/24", f"tcp-8053-from-{SUBNET}", f"tcp-22-from-{SUBNET}"} <= names
    # A director tells of its connections by IPv4 multicast, also of those of IPv6.
    assert {name for name in names if name.startswith("udp-8848")} == {"udp-8848-from-192.168.0.2/32", "udp-8848-from-192.168.0.3/32"}


def test_the_management_network_of_ipv6_lets_in_its_icmp() -> None:
    names = [rule.name for rule in management_rules(Cluster.parse(written(*MANAGEMENT)))]
    assert names == ["ipv6-icmp-from-fd00:0:0:9:0:0:0:0/64", "tcp-22-from-fd00:0:0:9:0:0:0:0/64"]


def instance(conf: str, name: str) -> str:
    """The vrrp_instance of that name."""
    begin = conf.index(f"vrrp_instance {name} {{")
    return conf[begin : conf.index("\n}\n", begin)]


def network(deploy: Deploy, *changes: tuple[str, Any], into: Deployment | None = None) -> Deployment:
    def program() -> dict[str, pulumi.Output[str]]:
        return ClusterNetwork("network", NetworkArgs(Cluster.parse(written(*changes)))).floating_ips

    return deploy(program, into=into)


def test_neutron_is_asked_for_a_subnet_and_a_router_interface_of_each_family(deploy: Deploy) -> None:
    made = network(deploy)
    first, second = made.of("Subnet")["subnet"].inputs, made.of("Subnet")["subnet-v6"].inputs
    assert "ipv6AddressMode" not in first and (first["ipVersion"], second["ipVersion"]) == (4, 6)
    assert (second["cidr"], second["gatewayIp"]) == ("fd00:0:0:1::/64", "fd00:0:0:1::1")
    assert (second["ipv6AddressMode"], second["ipv6RaMode"]) == ("dhcpv6-stateful", "dhcpv6-stateful")
    assert {name: each.inputs["subnetId"] for name, each in made.of("RouterInterface").items()} == {"router": "subnet-id", "router-v6": "subnet-v6-id"}


MANAGEMENT: list[tuple[str, Any]] = [
    ("network.management", {"existing": "mgmt", "cidr": "fd00:0:0:9::/64"}),
    ("pools.master.hosts.master0.ssh_address", "fd00:0:0:9::2"),
]


@pytest.mark.parametrize("modes", [("slaac", "slaac"), ("dhcpv6-stateless", ""), ("", "slaac"), ("dhcpv6-stateful", "dhcpv6-stateful")])
@pytest.mark.parametrize(
    ("changes", "key"),
    [([("network.existing", "corp")], "network.cidr_v6: 'fd00:0:0:1::/64'"), (MANAGEMENT, "network.management.cidr: 'fd00:0:0:9::/64'")],
    ids=["network", "management"],
)
def test_an_existing_subnet_with_automatic_addresses_is_refused_before_anything_is_made(
    deploy: Deploy, monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, Any]], key: str, modes: tuple[str, str]
) -> None:
    def found(cidr: str, **_: Any) -> SimpleNamespace:
        address_mode, ra_mode = modes if ":" in cidr else ("", "")
        return SimpleNamespace(id=f"{cidr}-id", ipv6_address_mode=address_mode, ipv6_ra_mode=ra_mode)

    monkeypatch.setattr("pulumi_openstack.networking.get_subnet", found)
    done = Deployment()
    if "dhcpv6-stateful" in modes:
        assert network(deploy, *changes).of("Port")["vip-new"]
        return
    with pytest.raises(ConfigurationError) as refused:
        network(deploy, *changes, into=done)
    mode = next(filter(None, modes))
    assert str(refused.value) == f"{key}: this subnet gives each port an address made from its MAC ({mode}), and no other; name a subnet with dhcpv6-stateful"
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]


def test_each_address_of_a_vip_is_kept_by_a_port_of_its_own(deploy: Deploy) -> None:
    ports = network(deploy).of("Port")
    assert {name: port.inputs["fixedIps"] for name, port in ports.items() if name.startswith("vip-master")} == {
        "vip-master": [{"subnetId": "subnet-id", "ipAddress": "192.168.0.250"}],
        "vip-master-v6": [{"subnetId": "subnet-v6-id", "ipAddress": "fd00:0:0:1::250"}],
    }


def test_an_additional_address_is_kept_by_a_port_whose_name_no_other_address_changes(deploy: Deploy) -> None:
    def ports(*addresses: str) -> dict[str, Any]:
        made = network(deploy, ("vips.master.additional_addresses", list(addresses))).of("Port")
        return {name: port.inputs["fixedIps"][0]["ipAddress"] for name, port in made.items() if name.startswith("vip-master")}

    own = {"vip-master": "192.168.0.250", "vip-master-v6": "fd00:0:0:1::250"}
    first, second = {"vip-master-192.168.0.252": ADDITIONAL[0]}, {"vip-master-v6-fd00.0000.0000.0001.0000.0000.0000.0252": ADDITIONAL[1]}
    assert ports(*ADDITIONAL) == {**own, **first, **second}
    assert ports(*reversed(ADDITIONAL)) == ports(*ADDITIONAL)
    assert ports(ADDITIONAL[1]) == {**own, **second}


def test_without_port_security_no_port_takes_the_packets_of_an_additional_address() -> None:
    assert list(Cluster.parse(written(SEVERAL, ("network.port_security", False))).vip_ports()) == ["vip-master", "vip-old"]


def test_neutrons_own_addresses_are_not_the_additional_ones() -> None:
    cluster = Cluster.parse(written())
    first, _ = allocation_pool(cluster, cluster.network.cidr)
    moved, last = allocation_pool(Cluster.parse(written(("vips.master.additional_addresses", [str(first)]))), cluster.network.cidr)
    assert not moved <= first <= last  # type: ignore[operator]


def test_rules_of_ipv6_have_its_ethertype(deploy: Deploy) -> None:
    rules_of = network(deploy).of("SecGroupRule")
    assert rules_of["vrrp-from-fd00:0:0:1:0:0:0:3/128"].inputs["ethertype"] == rules_of[f"ipv6-icmp-from-{ANY}"].inputs["ethertype"] == "IPv6"
    assert rules_of["vrrp-from-192.168.0.3/32"].inputs["ethertype"] == "IPv4"


def test_neutrons_own_addresses_of_the_second_subnet_are_far_from_the_named_ones() -> None:
    cluster = Cluster.parse(written())
    first, last = allocation_pool(cluster, IPv6Network("fd00:0:0:1::/64"))
    named = [int(address) for node in cluster.nodes() for address in node.host.addresses] + [int(vip.address) for vip in cluster.vips.values()]
    assert not any(int(first) <= address <= int(last) for address in named)


def test_a_server_has_one_port_with_an_address_of_each_family(deploy: Deploy) -> None:
    def program() -> dict[str, Any]:
        cluster = Cluster.parse(written())
        made = ClusterNetwork("network", NetworkArgs(cluster))
        return Servers("servers", ServersArgs(cluster, {"debian-12": "image-id"}, made, "seed" * 8, "ssh-ed25519 AAAA")).hosts

    port = deploy(program).of("Port")["master1"].inputs
    assert port["fixedIps"] == [{"subnetId": "subnet-id", "ipAddress": "192.168.0.3"}, {"subnetId": "subnet-v6-id", "ipAddress": "fd00:0:0:1::3"}]
    assert {"ipAddress": "fd00:0:0:1::250"} in port["allowedAddressPairs"] and {"ipAddress": "192.168.0.250"} in port["allowedAddressPairs"]


def test_the_outputs_name_both_addresses_of_a_vip() -> None:
    given = Stack.endpoints(SimpleNamespace(cluster=Cluster.parse(written())), None)  # type: ignore[arg-type]
    assert given["master"]["services"] == ["192.168.0.250:6443/TCP", "192.168.0.250:53/UDP"]
    assert given["master-v6"]["services"] == ["[fd00:0:0:1::250]:6443/TCP", "[fd00:0:0:1::250]:53/UDP"]
    assert not any("additional_addresses" in each for each in given.values())


def test_the_outputs_name_the_additional_addresses_of_a_vip() -> None:
    given = Stack.endpoints(SimpleNamespace(cluster=Cluster.parse(written(SEVERAL))), None)  # type: ignore[arg-type]
    assert [each.get("additional_addresses") for each in given.values()] == [[ADDITIONAL[0]], [ADDITIONAL[1]], None, None]


def test_an_unmanaged_host_refuses_new_connections_to_the_return_ports_by_both_families() -> None:
    data = written(("vips.new", REMOVED), ("vips.master.address_v6", REMOVED), ("pools.master.hosts.master2.managed", False))
    rules_of = text(keepalived.render(Cluster.parse(data), "master2"), "server.nft")
    _, second = rules_of.split("\ntable ip6 openshift_lvs_server {\n")
    assert "    chain answers {\n" in second and "ip6 saddr fd00:0:0:1::/64 return\n" in second and "192.168." not in second
    with node() as real:
        real.sh("nft --check --file -", stdin=rules_of)


def test_an_unmanaged_host_answers_for_an_additional_address() -> None:
    addresses = ("vips.master.additional_addresses", ADDITIONAL[:1])
    data = written(addresses, ("vips.new", REMOVED), ("vips.master.address_v6", REMOVED), ("pools.master.hosts.master2.managed", False))
    files = keepalived.render(Cluster.parse(data), "master2")
    for element in ("192.168.0.250 . tcp . 6443", "192.168.0.252 . tcp . 6443"):
        assert f"            {element},\n" in text(files, "server.nft") and f"    keep '{element}' " in text(files, "own-calls")
    with node() as real:
        real.sh("nft --check --file -", stdin=text(files, "server.nft"))


def test_firewalld_lets_in_adverts_and_clients_of_each_family() -> None:
    rules_of = list(_rules(keepalived.describe(Cluster.parse(written()), "master0")))
    assert (6, 'source address="fd00:0:0:1::3" protocol value="112"') in rules_of
    assert (6, 'destination address="fd00:0:0:1::250" port port="6443" protocol="tcp"') in rules_of
    assert (4, 'source address="192.168.0.3" port port="8848" protocol="udp"') in rules_of
    several = list(_rules(keepalived.describe(Cluster.parse(written(SEVERAL)), "master0")))
    assert {version for version, rule in several if "252" in rule and 'port port="6443"' in rule} == {4, 6}
    assert all((":" in rule) == (version == 6) for version, rule in rules_of)
