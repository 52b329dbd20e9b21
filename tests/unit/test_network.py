"""What the program asks of Neutron for the network and the addresses."""

from __future__ import annotations

import copy
from ipaddress import IPv4Address, IPv4Network
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from components.configuration import Cluster, ConfigurationError
from components.configuration.allow import RULE_SETS
from components.ingress import ingress_rules
from components.network import ClusterNetwork, NetworkArgs, allocation_pool
from tests.unit.recording import Deploy, Deployment


def make(deploy: Deploy, data: dict[str, Any], absent: frozenset[str] = frozenset(), into: Deployment | None = None) -> Deployment:
    def program() -> dict[str, pulumi.Output[str]]:
        return ClusterNetwork("network", NetworkArgs(Cluster.parse(data))).floating_ips

    return deploy(program, absent, into)


def pool_of(data: dict[str, Any]) -> tuple[int, int]:
    cluster = Cluster.parse(data)
    first, last = allocation_pool(cluster, cluster.network.cidr)
    return int(first), int(last)


def rule_names(data: dict[str, Any]) -> set[str]:
    return {rule.name for rule in ingress_rules(Cluster.parse(data))}


def test_the_nodes_group_is_stateless_because_a_director_sees_half_of_each_conversation(deploy: Deploy, article: dict[str, Any]) -> None:
    group = make(deploy, article).of("SecGroup")["nodes"]
    assert group.inputs["stateful"] is False
    # Deleting Neutron's default rules races with it: 409.
    assert "deleteDefaultRules" not in group.inputs


def test_no_rule_names_a_remote_group(deploy: Deploy, article: dict[str, Any]) -> None:
    rules = make(deploy, article).of("SecGroupRule").values()
    assert rules
    assert all(rule.inputs.keys().isdisjoint({"remoteGroupId", "remoteAddressGroupId"}) and rule.inputs["remoteIpPrefix"] for rule in rules)


def test_vrrp_is_let_in_from_each_director_by_its_name_and_without_ports(deploy: Deploy, article: dict[str, Any]) -> None:
    rule = make(deploy, article).of("SecGroupRule")["vrrp-from-192.168.0.3/32"]
    assert rule.inputs == {
        "securityGroupId": "nodes-id",
        "direction": "ingress",
        "ethertype": "IPv4",
        "protocol": "vrrp",
        "remoteIpPrefix": "192.168.0.3/32",
    }


def test_the_rules_of_the_article_are_these_and_no_others(article: dict[str, Any]) -> None:
    assert rule_names(article) == {
        "icmp-from-0.0.0.0/0",
        "tcp-32768-60999-from-0.0.0.0/0",
        "udp-32768-60999-from-0.0.0.0/0",
        *(f"{protocol}-from-192.168.0.{director}/32" for protocol in ("vrrp", "udp-8848") for director in range(2, 7)),
        *(f"tcp-{port}-from-{source}" for port in (22, 80, 443, 8443) for source in ("10.0.0.0/8", "192.168.0.0/24")),
    }


def test_every_rule_is_registered_with_its_ports(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["allow"] = [{"protocol": "tcp", "ports": "2379-2380"}]
    registered = {
        (rule.inputs["protocol"], rule.inputs.get("portRangeMin"), rule.inputs.get("portRangeMax"), rule.inputs["remoteIpPrefix"])
        for rule in make(deploy, article).of("SecGroupRule").values()
    }
    assert registered == {(rule.protocol, *(rule.ports or (None, None)), str(rule.source)) for rule in ingress_rules(Cluster.parse(article))}
    assert ("tcp", 2379, 2380, "192.168.0.0/24") in registered


def test_answers_to_the_nodes_own_calls_are_let_in_from_anywhere(article: dict[str, Any]) -> None:
    anywhere = IPv4Network("0.0.0.0/0")
    assert {(rule.protocol, rule.ports) for rule in ingress_rules(Cluster.parse(article)) if rule.source == anywhere} == {
        ("icmp", None),
        ("tcp", (32768, 60999)),
        ("udp", (32768, 60999)),
    }
    article["network"]["return_ports"] = "1024-65535"
    assert {"tcp-1024-65535-from-0.0.0.0/0", "udp-1024-65535-from-0.0.0.0/0"} <= rule_names(article)


def test_ssh_is_for_the_named_ranges_and_the_subnet_alone_once_they_are_named(article: dict[str, Any]) -> None:
    article["ssh"].update(allowed_cidrs=["198.51.100.0/24"], port=2022)
    assert {name for name in rule_names(article) if name.startswith("tcp-2022-")} == {
        "tcp-2022-from-198.51.100.0/24",
        "tcp-2022-from-192.168.0.0/24",
    }
    assert not any(name.startswith("tcp-22-") for name in rule_names(article))


@pytest.mark.parametrize(
    ("service", "rule"),
    [
        ({"port": 53, "protocol": "UDP", "health_check": {"type": "misc", "script": "checks/dns"}}, "udp-53-from-10.0.0.0/8"),
        ({"port": 53, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 8053}}, "tcp-8053-from-192.168.0.0/24"),
        ({"port": 80, "forwarding_method": "TUN", "health_check": {"type": "tcp"}}, "ipip-from-192.168.0.3/32"),
    ],
)
def test_what_a_service_needs_is_let_in_and_nothing_of_it_where_it_is_not_needed(article: dict[str, Any], service: dict[str, Any], rule: str) -> None:
    assert rule not in rule_names(article)
    article["vips"]["master"]["services"] = [service]
    assert rule in rule_names(article)


def test_a_service_may_be_for_the_subnet_only(article: dict[str, Any]) -> None:
    article["vips"]["master"]["services"] = [{"preset": "openshift4", "port": 22623}]
    assert {name for name in rule_names(article) if "-22623-" in name} == {"tcp-22623-from-192.168.0.0/24"}
    article["vips"]["master"]["services"][0]["client_cidrs"] = ["10.9.0.0/16"]
    assert {name for name in rule_names(article) if "-22623-" in name} == {"tcp-22623-from-192.168.0.0/24", "tcp-22623-from-10.9.0.0/16"}


def test_vrrp_with_ah_travels_as_ah(article: dict[str, Any]) -> None:
    article["keepalived"] = {"vrrp_version": 2}
    article["vips"]["master"].update(advert_interval=1, authentication="AH")
    article["vips"]["infra"].update(advert_interval=1)
    assert {name for name in rule_names(article) if name.startswith("ah-")} == {f"ah-from-192.168.0.{director}/32" for director in (2, 3, 4)}


def test_only_directors_may_send_what_only_directors_send(article: dict[str, Any]) -> None:
    before = rule_names(article)
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    gone = before - rule_names(article)
    assert gone == {"vrrp-from-192.168.0.4/32", "udp-8848-from-192.168.0.4/32"}
    article["pools"]["master"]["hosts"]["master3"] = "192.168.0.7"
    assert rule_names(article) == before - gone, "a real server more changes no rule"


def test_one_rule_wanted_twice_is_asked_for_once(article: dict[str, Any]) -> None:
    # Neutron refuses the second with 409.
    article["network"]["client_cidrs"] = ["192.168.0.0/24", "192.168.0.0/24"]
    article["network"]["allow"] = [{"protocol": "tcp", "ports": 80}, {"protocol": "tcp", "ports": "443-443"}, {"protocol": "tcp", "ports": 22}]
    rules = ingress_rules(Cluster.parse(article))
    assert len(rules) == len(set(rules)) == len({rule.name for rule in rules})


def test_rules_come_in_an_order_that_the_configuration_does_not_change(article: dict[str, Any]) -> None:
    rules = ingress_rules(Cluster.parse(article))
    article["network"]["client_cidrs"].reverse()
    article["vips"] = dict(reversed(article["vips"].items()))
    assert ingress_rules(Cluster.parse(article)) == rules


def test_a_named_rule_set_is_let_in_from_the_subnet(article: dict[str, Any]) -> None:
    before = rule_names(article)
    article["network"]["allow"] = ["kubernetes"]
    added = rule_names(article) - before
    assert {"tcp-2379-2380-from-192.168.0.0/24", "tcp-10250-from-192.168.0.0/24", "udp-4789-from-192.168.0.0/24", "udp-6081-from-192.168.0.0/24"} <= added
    assert all(name.endswith("-from-192.168.0.0/24") for name in added)
    article["network"]["allow"] = [{"rules": "kubernetes", "cidr": "10.9.0.0/16"}]
    assert {name.replace("10.9.0.0/16", "192.168.0.0/24") for name in rule_names(article) - before} == added


@pytest.mark.parametrize("rules", RULE_SETS)
def test_every_rule_of_a_set_is_one_that_an_entry_could_say(article: dict[str, Any], rules: str) -> None:
    article["network"]["allow"] = [rules]
    named = rule_names(article)
    article["network"]["allow"] = [{"protocol": rule.protocol, **({"ports": rule.ports} if rule.ports else {})} for rule in RULE_SETS[rules]]
    assert rule_names(article) == named


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({"protocol": "ipip"}, "ipip-from-192.168.0.0/24"),
        ({"protocol": "ipip", "ports": 0}, "ipip-from-192.168.0.0/24"),
        ({"protocol": 4}, "ipip-from-192.168.0.0/24"),
        ({"protocol": "47"}, "gre-from-192.168.0.0/24"),
        ({"protocol": 50}, "esp-from-192.168.0.0/24"),
        ({"protocol": 99}, "99-from-192.168.0.0/24"),
        ({"protocol": "SCTP"}, "sctp-from-192.168.0.0/24"),
        ({"protocol": "sctp", "ports": "7000-7010"}, "sctp-7000-7010-from-192.168.0.0/24"),
        ({"protocol": "any", "cidr": "10.233.64.0/18"}, "any-from-10.233.64.0/18"),
    ],
)
def test_a_protocol_is_let_in_by_name_or_number(article: dict[str, Any], entry: dict[str, Any], name: str) -> None:
    before = rule_names(article)
    article["network"]["allow"] = [entry]
    assert rule_names(article) - before == {name}


def test_any_protocol_is_a_rule_without_one(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["allow"] = [{"protocol": "any", "cidr": "10.233.64.0/18"}]
    rule = make(deploy, article).of("SecGroupRule")["any-from-10.233.64.0/18"]
    assert rule.inputs == {"securityGroupId": "nodes-id", "direction": "ingress", "ethertype": "IPv4", "remoteIpPrefix": "10.233.64.0/18"}


def test_what_one_pool_accepts_is_in_a_stateless_group_of_its_own(deploy: Deploy, article: dict[str, Any]) -> None:
    before = make(deploy, copy.deepcopy(article))
    article["pools"]["master"]["allow"] = [{"protocol": "tcp", "ports": "2379-2380"}]
    done = make(deploy, article)
    groups = done.of("SecGroup")
    assert groups.keys() == {"nodes", "pool-master"} and groups["pool-master"].inputs["stateful"] is False
    added = {rule.name: rule for rule in done.of("SecGroupRule").values() if rule.name not in before.of("SecGroupRule")}
    assert added.keys() == {"pool-master-tcp-2379-2380-from-192.168.0.0/24"}
    assert added["pool-master-tcp-2379-2380-from-192.168.0.0/24"].inputs["securityGroupId"] == "pool-master-id"


def test_each_address_is_kept_by_an_unbound_port_of_its_own(deploy: Deploy, article: dict[str, Any]) -> None:
    ports = make(deploy, article).of("Port")
    assert {name: port.inputs for name, port in ports.items()} == {
        f"vip-{name}": {
            "name": f"vip-{name}",
            "networkId": "network-id",
            "fixedIps": [{"subnetId": "subnet-id", "ipAddress": address}],
            "securityGroupIds": ["nodes-id"],
        }
        for name, address in (("master", "192.168.0.250"), ("infra", "192.168.0.251"))
    }


def test_an_address_that_moves_gets_a_new_port_because_neutron_moves_none_that_has_a_floating_ip(deploy: Deploy, article: dict[str, Any]) -> None:
    assert {port.replace_on_changes for port in make(deploy, article).of("Port").values()} == {frozenset({"fixedIps"})}


def test_a_reserved_address_has_a_port_named_exactly_as_its_key(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["reserved"] = {"bastion": "192.168.0.100"}
    port = make(deploy, article).of("Port")["reserved-bastion"]
    assert port.inputs["name"] == "bastion"
    assert port.inputs["fixedIps"] == [{"subnetId": "subnet-id", "ipAddress": "192.168.0.100"}]
    assert port.inputs["securityGroupIds"] == ["nodes-id"]


def test_each_address_has_a_floating_ip_on_its_port_once_the_subnet_has_a_router(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["infra"]["floating_ip"] = False
    done = make(deploy, article)
    assert {name: ip.inputs for name, ip in done.of("FloatingIp").items()} == {"vip-master": {"pool": "public", "portId": "vip-master-id"}}
    # The other way round at the end: the floating IP goes before the router's interface.
    assert {"RouterInterface router", "Port vip-master"} <= done.before(done.of("FloatingIp")["vip-master"])
    assert done.returned.keys() == {"master"}


def test_without_an_external_network_there_is_no_router_and_no_floating_ip(deploy: Deploy, article: dict[str, Any]) -> None:
    del article["network"]["external"]
    done = make(deploy, article)
    assert not done.of("Router") and not done.of("RouterInterface") and not done.of("FloatingIp") and not done.looked_up
    assert done.returned == {}


def test_a_missing_existing_floating_ip_is_refused(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["master"]["floating_ip"] = "203.0.113.10"
    with pytest.raises(ConfigurationError, match=r"^vips\.master\.floating_ip: '203\.0\.113\.10': no such floating ip .*`openstack floating ip list`"):
        make(deploy, article, frozenset({"203.0.113.10"}))


def test_a_network_without_a_gateway_is_made_without_one(deploy: Deploy, article: dict[str, Any]) -> None:
    del article["network"]["external"], article["network"]["gateway"]
    subnet = make(deploy, article).of("Subnet")["subnet"].inputs
    assert subnet["noGateway"] is True and "gatewayIp" not in subnet


def test_an_existing_network_is_looked_up_and_not_made(deploy: Deploy, article: dict[str, Any]) -> None:
    del article["network"]["external"]
    article["network"]["existing"] = "ocp"
    done = make(deploy, article)
    assert not done.of("Subnet") and "openstack:networking/network:Network" not in {resource.type for resource in done.resources}
    assert done.looked_up == [("getNetwork", {"name": "ocp"}), ("getSubnet", {"networkId": "ocp-id", "cidr": "192.168.0.0/24"})]
    assert done.of("Port")["vip-master"].inputs["networkId"] == "ocp-id"
    assert done.of("Port")["vip-master"].inputs["fixedIps"][0]["subnetId"] == "192.168.0.0/24-id"


def test_an_existing_floating_ip_is_connected_to_the_vips_port_and_not_made(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["master"]["floating_ip"] = "203.0.113.10"
    done = make(deploy, article)
    assert {name: found.inputs for name, found in done.of("FloatingIpAssociate").items()} == {
        "vip-master": {"floatingIp": "203.0.113.10", "portId": "vip-master-id"}
    }
    associate = done.of("FloatingIpAssociate")["vip-master"]
    assert {"RouterInterface router", "Port vip-master"} <= done.before(associate)
    assert associate.delete_before_replace, "two floating IPs cannot lead to one address"
    assert done.of("FloatingIp").keys() == {"vip-infra"} and done.returned["master"] == "203.0.113.10"
    assert ("getFloatingIp", {"address": "203.0.113.10"}) in done.looked_up


def test_a_floating_ip_that_leads_elsewhere_is_refused_before_anything_is_made(
    deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    article["vips"]["master"]["floating_ip"] = "203.0.113.10"
    leads_to = "192.168.0.77"
    monkeypatch.setattr("pulumi_openstack.networking.get_floating_ip", lambda **_: SimpleNamespace(fixed_ip=leads_to))
    done = Deployment()
    with pytest.raises(ConfigurationError, match=r"^vips\.master\.floating_ip: '203\.0\.113\.10': it leads to 192\.168\.0\.77; release it first"):
        make(deploy, article, into=done)
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    # What the last deployment connected is no fault of the next one.
    leads_to = "192.168.0.250"
    assert make(deploy, article).of("FloatingIpAssociate")


def test_floating_ips_on_an_existing_network_need_no_router_of_the_programs(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["existing"] = "corp"
    article["vips"]["infra"]["floating_ip"] = "203.0.113.10"
    done = make(deploy, article)
    assert done.of("FloatingIp")["vip-master"].inputs == {"pool": "public", "portId": "vip-master-id"}
    assert done.of("FloatingIpAssociate").keys() == {"vip-infra"} and not done.of("Router") and not done.of("RouterInterface")
    assert ("getNetwork", {"name": "public", "external": True}) in done.looked_up


@pytest.mark.parametrize(
    ("existing", "port_security", "message"),
    [
        ("open-net", True, "network.port_security: true, and 'open-net' has no port security; set it to what the network has"),
        ("corp", False, "network.port_security: false, and 'corp' has port security; set it to what the network has"),
    ],
)
def test_an_existing_network_has_the_port_security_that_the_stack_says_or_is_refused_before_anything_is_made(
    deploy: Deploy, article: dict[str, Any], existing: str, port_security: bool, message: str
) -> None:
    article["network"].update(existing=existing, port_security=port_security)
    done = Deployment()
    with pytest.raises(ConfigurationError) as refusal:
        make(deploy, copy.deepcopy(article), into=done)
    assert str(refusal.value) == message
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    article["network"]["port_security"] = not port_security
    assert make(deploy, article).of("Port")["vip-master"].inputs.get("portSecurityEnabled", True) is not port_security


@pytest.mark.parametrize(
    ("change", "absent", "message"),
    [
        ({}, "public", "network.external: 'public': no such network that this project can see; `openstack network list` shows"),
        ({"existing": "ocp"}, "public", "network.external: 'public': no such network that this project can see; `openstack network list` shows"),
        ({"external": None, "existing": "ocp"}, "ocp", "network.existing: 'ocp': no such network that this project can see"),
        ({"external": None, "existing": "ocp"}, "192.168.0.0/24", "network.cidr: '192.168.0.0/24': no such subnet that this project can see"),
    ],
)
def test_a_name_that_the_cloud_has_not_is_refused_before_anything_is_made(
    deploy: Deploy, article: dict[str, Any], change: dict[str, Any], absent: str, message: str
) -> None:
    article["network"].update(change)
    done = Deployment()
    with pytest.raises(ConfigurationError, match="^" + message.replace(".", r"\.")):
        make(deploy, article, frozenset({absent}), done)
    assert done.looked_up and not [resource for resource in done.resources if resource.type.startswith("openstack:")]


def test_a_name_that_two_things_of_the_cloud_have_is_refused(deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def ambiguous(**_: Any) -> None:
        raise Exception("Your query returned more than one result. Please try a more specific search criteria")

    monkeypatch.setattr("pulumi_openstack.networking.get_network", ambiguous)
    with pytest.raises(
        ConfigurationError, match=r"^network\.external: 'public': more than one network has this name; `openstack network list` shows .*unique$"
    ):
        make(deploy, article)


def test_the_subnet_gives_away_no_address_that_the_configuration_names(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["reserved"] = {"bastion": "192.168.0.100"}
    subnet = make(deploy, article).of("Subnet")["subnet"].inputs
    assert subnet["cidr"] == "192.168.0.0/24" and subnet["gatewayIp"] == "192.168.0.1"
    assert subnet["allocationPools"] == [{"start": "192.168.0.160", "end": "192.168.0.175"}]


@pytest.mark.parametrize("change", [{"hosts": {"master3": "192.168.0.7"}}, {"reserved": {"registry": "192.168.0.249"}}])
def test_a_neighbour_more_does_not_move_the_addresses_that_neutron_gives_away(article: dict[str, Any], change: dict[str, Any]) -> None:
    before = pool_of(article)
    article["pools"]["master"]["hosts"] |= change.get("hosts", {})
    article["network"]["reserved"] = change.get("reserved", {})
    assert pool_of(article) == before


@pytest.mark.parametrize("prefix", [28, 26, 20, 16])
def test_a_subnet_of_any_size_keeps_its_named_addresses_out_of_the_pool(article: dict[str, Any], prefix: int) -> None:
    small = {"master0": "192.168.0.2", "master1": "192.168.0.3", "master2": "192.168.0.4"}
    article["network"].update(cidr=f"192.168.0.0/{prefix}")
    article["pools"] = {"master": {**article["pools"]["master"], "hosts": small}}
    article["vips"] = {"master": {**article["vips"]["master"], "address": "192.168.0.14"}}
    first, last = pool_of(article)
    named = {IPv4Address(f"192.168.0.{last}") for last in (0, 1, 2, 3, 4, 14)} | {IPv4Network(f"192.168.0.0/{prefix}").broadcast_address}
    assert first <= last and not any(first <= int(address) <= last for address in named)


def test_a_subnet_that_is_full_is_refused(article: dict[str, Any]) -> None:
    hosts = {f"master{n}": f"192.168.0.{n}" for n in range(2, 6)}
    article["network"].update(cidr="192.168.0.0/29")
    article["pools"] = {"master": {**article["pools"]["master"], "hosts": hosts}}
    article["vips"] = {"master": {**article["vips"]["master"], "address": "192.168.0.6", "owner": "master2"}}
    with pytest.raises(ConfigurationError, match=r"^network\.cidr: 192\.168\.0\.0/29 has no address left .*; use a larger subnet$"):
        pool_of(article)
