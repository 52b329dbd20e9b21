"""The servers that the program makes, and the hosts that it takes as they are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pulumi
import pytest

from components import host_key
from components.configuration import Cluster, ConfigurationError
from components.network import ClusterNetwork, NetworkArgs
from components.servers import Servers, ServersArgs, find_images
from tests.unit.recording import Deploy, Deployment, Registered

SEED = "not a secret, only a test"
PUBLIC_KEY = "ssh-ed25519 AAAA"
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"


def make(deploy: Deploy, data: dict[str, Any], absent: frozenset[str] = frozenset(), into: Deployment | None = None, key: str = PUBLIC_KEY) -> Deployment:
    """The program's part up to the servers, in the order of the program; returns the hosts' keys."""

    def program() -> dict[str, Any]:
        cluster = Cluster.parse(data)
        images = find_images(cluster)
        network = ClusterNetwork("network", NetworkArgs(cluster)) if cluster.needs_openstack else None
        servers = Servers("servers", ServersArgs(cluster, images, network, pulumi.Output.secret(SEED), key))
        return {name: endpoint.host_key for name, endpoint in servers.hosts.items()}

    return deploy(program, absent, into)


def pairs(port: Registered) -> list[dict[str, str]]:
    value: list[dict[str, str]] = port.inputs["allowedAddressPairs"]
    return value


def first_boot(server: Registered) -> dict[str, Any]:
    """The server's user data, which real cloud-init must know for what it is."""
    head, _, body = server.inputs["userData"].partition("\n")
    assert head == "#cloud-config"
    data: dict[str, Any] = json.loads(body)
    return data


def existing(pool: dict[str, Any]) -> dict[str, Any]:
    """The pool as machines that are there already."""
    return {"existing": True, "hosts": {name: {"address": address, "host_key": OTHER_KEY} for name, address in pool["hosts"].items()}}


def test_a_director_may_send_from_the_addresses_it_serves_and_from_its_clients(deploy: Deploy, article: dict[str, Any]) -> None:
    ports = make(deploy, article).of("Port")
    # The addresses plain (OVN's virtual ports know no /32), the ranges as ranges, sorted and without MAC (or the provider's diff never settles).
    clients = [{"ipAddress": "10.0.0.0/8"}, {"ipAddress": "192.168.0.0/24"}]
    for host in ("master0", "master1", "master2"):
        assert pairs(ports[host]) == [*clients, {"ipAddress": "192.168.0.250"}]
    for host in ("infra0", "infra1"):
        assert pairs(ports[host]) == [*clients, {"ipAddress": "192.168.0.251"}]


def test_a_server_that_is_no_director_may_send_from_the_addresses_only(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    ports = make(deploy, article).of("Port")
    assert pairs(ports["master2"]) == [{"ipAddress": "192.168.0.250"}]
    assert {"ipAddress": "10.0.0.0/8"} in pairs(ports["master1"])


def test_a_pool_without_an_address_may_send_from_its_own_addresses_only(deploy: Deploy, article: dict[str, Any]) -> None:
    del article["vips"]["infra"]
    assert pairs(make(deploy, article).of("Port")["infra0"]) == []


def test_a_pool_may_send_from_more_addresses_plain_ones_and_ranges(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["allowed_address_pairs"] = ["10.233.64.0/18", "192.168.0.240"]
    ports = make(deploy, article).of("Port")
    own = [{"ipAddress": pair} for pair in ("10.0.0.0/8", "10.233.64.0/18", "192.168.0.0/24", "192.168.0.240", "192.168.0.250")]
    assert pairs(ports["master0"]) == own
    assert {"ipAddress": "10.233.64.0/18"} not in pairs(ports["infra0"])


def test_more_pairs_than_neutron_accepts_are_refused_unless_the_cloud_accepts_more(article: dict[str, Any]) -> None:
    vip = article["vips"]["infra"]
    for n in range(8):
        article["vips"][f"v{n}"] = {**vip, "address": f"192.168.0.{100 + n}", "virtual_router_id": 100 + n}
    with pytest.raises(ConfigurationError, match=r"^network\.max_allowed_address_pair: 10, and the port of infra0 needs 11 allowed address pairs: 9 VIPs"):
        Cluster.parse(article)
    article["network"]["max_allowed_address_pair"] = 11
    Cluster.parse(article)


def test_a_pool_with_allow_has_its_own_group_beside_that_of_all_nodes(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["allow"] = ["openshift"]
    ports = make(deploy, article).of("Port")
    assert ports["master0"].inputs["securityGroupIds"] == ["nodes-id", "pool-master-id"]
    assert ports["infra0"].inputs["securityGroupIds"] == ["nodes-id"]


def test_pairs_do_not_depend_on_the_order_of_the_configuration(deploy: Deploy, article: dict[str, Any]) -> None:
    before = pairs(make(deploy, article).of("Port")["master0"])
    article["network"]["client_cidrs"].reverse()
    assert pairs(make(deploy, article).of("Port")["master0"]) == before


def test_each_host_has_a_port_of_its_own_with_its_address_and_the_nodes_group(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, article)
    for host, address in (article["pools"]["master"]["hosts"] | article["pools"]["infra"]["hosts"]).items():
        port = done.of("Port")[host].inputs
        assert port["fixedIps"] == [{"subnetId": "subnet-id", "ipAddress": address}]
        assert port["securityGroupIds"] == ["nodes-id"] and port["networkId"] == "network-id" and port["name"] == host
        server = done.of("Instance")[host].inputs
        assert server["networks"] == [{"port": f"{host}-id"}] and server["name"] == host
        assert "securityGroups" not in server


def test_a_server_is_made_of_its_pools_image_and_flavor_with_a_config_drive(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"].update(image="debian-13", flavor="m1.large", availability_zone="two")
    servers = make(deploy, article).of("Instance")
    master, infra = servers["master0"].inputs, servers["infra0"].inputs
    assert (master["imageId"], master["flavorName"], master["configDrive"]) == ("debian-12-id", "m1.medium", True)
    assert (infra["imageId"], infra["flavorName"], infra["availabilityZone"]) == ("debian-13-id", "m1.large", "two")
    assert "availabilityZone" not in master
    assert servers["master0"].create_timeout == "20m"


def test_the_servers_of_a_pool_are_spread_as_far_as_the_cloud_can(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, article)
    assert {name: group.inputs["policies"] for name, group in done.of("ServerGroup").items()} == {
        "master": "soft-anti-affinity",
        "infra": "soft-anti-affinity",
    }
    assert done.of("Instance")["infra1"].inputs["schedulerHints"] == [{"group": "infra-id"}]


def test_hosts_are_spread_over_the_zones_of_a_list_and_one_may_have_its_own(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["availability_zones"] = ["az1", "az2"]
    article["pools"]["infra"].update(availability_zone="az3", hosts={"infra0": "192.168.0.5", "infra1": {"address": "192.168.0.6", "availability_zone": "az4"}})
    servers = make(deploy, article).of("Instance")
    assert {name: server.inputs["availabilityZone"] for name, server in servers.items()} == {
        "master0": "az1", "master1": "az2", "master2": "az1", "infra0": "az3", "infra1": "az4",
    }  # fmt: skip


def test_a_server_boots_from_a_volume_made_of_the_image(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["root_volume"] = {"size": 50, "type": "ssd", "delete_on_termination": False}
    article["pools"]["infra"]["root_volume"] = {"size": 20}
    servers = make(deploy, article).of("Instance")
    device = {"sourceType": "image", "uuid": "debian-12-id", "destinationType": "volume", "bootIndex": 0}
    assert servers["master0"].inputs["blockDevices"] == [{**device, "volumeSize": 50, "volumeType": "ssd", "deleteOnTermination": False}]
    assert servers["infra0"].inputs["blockDevices"] == [{**device, "volumeSize": 20, "deleteOnTermination": True}]
    assert "imageId" not in servers["master0"].inputs


def test_a_pool_may_have_another_policy_or_no_server_group(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["server_group_policy"] = "anti-affinity"
    article["pools"]["infra"]["server_group_policy"] = "none"
    done = make(deploy, article)
    assert {name: group.inputs["policies"] for name, group in done.of("ServerGroup").items()} == {"master": "anti-affinity"}
    assert "schedulerHints" not in done.of("Instance")["infra0"].inputs


def test_on_a_network_without_port_security_no_port_has_a_group_or_pairs(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"].update(port_security=False, reserved={"bastion": "192.168.0.100"})
    article["vips"]["infra"]["floating_ip"] = False
    done = make(deploy, article)
    assert not done.of("SecGroup") and not done.of("SecGroupRule")
    (network,) = (resource for resource in done.resources if resource.type == "openstack:networking/network:Network")
    assert network.inputs["portSecurityEnabled"] is False
    # Only a floating IP needs a port of its VIP there.
    assert done.of("Port").keys() == {"vip-master", "reserved-bastion", "master0", "master1", "master2", "infra0", "infra1"}
    for port in done.of("Port").values():
        assert port.inputs["portSecurityEnabled"] is False and port.inputs["noSecurityGroups"] is True
        assert port.inputs.keys().isdisjoint({"securityGroupIds", "allowedAddressPairs"})


def test_with_port_security_no_port_says_so(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, article)
    assert not any({"portSecurityEnabled", "noSecurityGroups"} & resource.inputs.keys() for resource in done.resources)


def test_an_image_is_looked_up_once_and_the_newest_of_its_name_is_taken(deploy: Deploy, article: dict[str, Any]) -> None:
    looked_up = make(deploy, article).looked_up
    assert [given for kind, given in looked_up if kind == "getImage"] == [{"name": "debian-12", "mostRecent": True}]


def test_a_server_starts_when_its_network_is_whole(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["reserved"] = {"bastion": "192.168.0.100"}
    done = make(deploy, article)
    needed = {f"{part.type.rpartition(':')[2]} {part.name}" for part in done.resources if "openshift-lvs:index:Network$" in part.urn}
    assert {"Port reserved-bastion", "Port vip-master", "RouterInterface router", "SecGroupRule vrrp-from-192.168.0.2/32"} <= needed
    for server in done.of("Instance").values():
        assert needed <= done.before(server)


def test_the_first_boot_knows_the_hosts_name_its_key_and_who_may_log_in(deploy: Deploy, article: dict[str, Any]) -> None:
    key = host_key.derive(SEED, "master0")
    assert first_boot(make(deploy, article).of("Instance")["master0"]) == {
        "hostname": "master0",
        "ssh_authorized_keys": [PUBLIC_KEY],
        "ssh_keys": {"ed25519_private": key.private, "ed25519_public": key.public},
    }


def test_the_connection_expects_the_key_that_the_first_boot_installs(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, article)
    for host, server in done.of("Instance").items():
        assert done.returned[host] == first_boot(server)["ssh_keys"]["ed25519_public"]


def test_a_host_name_with_dots_is_the_whole_name_of_the_server(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"]["hosts"] = {"infra-0.ocp.example.org": "192.168.0.5"}
    article["vips"]["infra"]["owner"] = "infra-0.ocp.example.org"
    servers = make(deploy, article).of("Instance")
    data = first_boot(servers["infra-0.ocp.example.org"])
    assert data["hostname"] == data["fqdn"] == "infra-0.ocp.example.org" and data["prefer_fqdn_over_hostname"] is True
    # Other user data than before would be a change that a preview shows.
    assert first_boot(servers["master0"]).keys().isdisjoint({"fqdn", "prefer_fqdn_over_hostname"})


MANAGED = {"address": "192.168.0.5", "ssh_address": "10.20.0.5", "ssh_user": "root"}


def managed(article: dict[str, Any]) -> dict[str, Any]:
    """The article with infra0 on a management network."""
    article["network"]["management"] = {"existing": "mgmt", "cidr": "10.20.0.0/24"}
    article["pools"]["infra"]["hosts"]["infra0"] = MANAGED
    return article


def test_a_host_on_the_management_network_has_a_second_port_where_only_ssh_enters(deploy: Deploy, article: dict[str, Any]) -> None:
    article["ssh"]["allowed_cidrs"] = ["198.51.100.0/24"]
    done = make(deploy, managed(article))
    assert done.of("Port")["management-infra0"].inputs == {
        "name": "management-infra0",
        "networkId": "mgmt-id",
        "fixedIps": [{"subnetId": "10.20.0.0/24-id", "ipAddress": "10.20.0.5"}],
        "securityGroupIds": ["management-id"],
    }
    servers = done.of("Instance")
    assert servers["infra0"].inputs["networks"] == [{"port": "infra0-id"}, {"port": "management-infra0-id"}]
    assert servers["infra1"].inputs["networks"] == [{"port": "infra1-id"}]
    assert {rule.name for rule in done.of("SecGroupRule").values() if rule.inputs["securityGroupId"] == "management-id"} == {
        "management-icmp-from-10.20.0.0/24", "management-tcp-22-from-10.20.0.0/24", "management-tcp-22-from-198.51.100.0/24",
    }  # fmt: skip
    assert first_boot(servers["infra0"])["disable_root"] is False and "disable_root" not in first_boot(servers["infra1"])


def test_a_server_that_runs_without_its_management_port_is_refused_before_anything_is_made(
    deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    attached: list[str] = []

    def port_ids(network_id: str | None = None, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(ids=attached if network_id else ["port-of-infra0"])

    monkeypatch.setattr("pulumi_openstack.networking.get_port_ids", port_ids)
    monkeypatch.setattr("pulumi_openstack.networking.get_port", lambda **_: SimpleNamespace(device_id="server-of-infra0"))
    done = Deployment()
    with pytest.raises(ConfigurationError, match=r"^pools\.infra\.hosts\.infra0\.ssh_address: 10\.20\.0\.5, and the server runs without a port on 'mgmt'"):
        make(deploy, managed(article), into=done)
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    attached.append("port-there")
    assert make(deploy, article).of("Port")["management-infra0"]


def test_a_management_network_without_port_security_is_refused_because_its_ports_get_a_group(deploy: Deploy, article: dict[str, Any]) -> None:
    managed(article)["network"]["management"]["existing"] = "open-mgmt"
    done = Deployment()
    with pytest.raises(ConfigurationError, match=r"^network\.management\.existing: 'open-mgmt': this network has no port security.*; name a network with"):
        make(deploy, article, into=done)
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    article["network"]["port_security"] = False
    assert make(deploy, article).of("Port")["management-infra0"].inputs["portSecurityEnabled"] is False


def test_root_may_log_in_where_root_is_the_login(deploy: Deploy, article: dict[str, Any]) -> None:
    article["ssh"]["user"] = "root"
    assert first_boot(make(deploy, article).of("Instance")["master0"])["disable_root"] is False


def test_a_pools_own_cloud_config_goes_along_but_never_takes_the_hosts_identity(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"]["cloud_config"] = {
        "ssh_authorized_keys": ["ssh-ed25519 COLLEAGUE"],
        "runcmd": [["true"]],
    }
    servers = make(deploy, article).of("Instance")
    data = first_boot(servers["infra0"])
    assert data["hostname"] == "infra0" and data["ssh_keys"]["ed25519_public"] == host_key.derive(SEED, "infra0").public
    assert data["ssh_authorized_keys"] == [PUBLIC_KEY, "ssh-ed25519 COLLEAGUE"] and data["runcmd"] == [["true"]]
    assert "runcmd" not in first_boot(servers["master0"])


def test_user_data_is_the_same_text_on_every_run(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"]["cloud_config"] = {"timezone": "UTC", "runcmd": [["true"]]}
    again = copy.deepcopy(article)
    again["pools"]["infra"]["cloud_config"] = dict(reversed(article["pools"]["infra"]["cloud_config"].items()))
    texts = [make(deploy, data).of("Instance")["infra0"].inputs["userData"] for data in (article, again)]
    assert texts[0] == texts[1]


def test_user_data_is_secret_and_the_host_keys_seed_goes_nowhere_else(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, article)
    private = host_key.derive(SEED, "master0").private
    for resource in done.resources:
        for key, value in resource.inputs.items():
            if key not in resource.secrets:
                assert SEED not in str(value) and private not in str(value) and "PRIVATE KEY" not in str(value)
    assert all("userData" in server.secrets for server in done.of("Instance").values())


def test_a_public_host_key_is_not_secret_so_that_a_preview_can_show_it(deploy: Deploy, article: dict[str, Any]) -> None:
    found: list[bool] = []

    def program() -> pulumi.Output[None]:
        cluster = Cluster.parse(article)
        servers = Servers(
            "servers", ServersArgs(cluster, find_images(cluster), ClusterNetwork("network", NetworkArgs(cluster)), pulumi.Output.secret(SEED), PUBLIC_KEY)
        )

        async def look() -> None:
            found.append(await pulumi.Output.from_input(servers.hosts["master0"].host_key).is_secret())

        return pulumi.Output.from_input(look())

    deploy(program)
    assert found == [False]


def test_existing_hosts_are_taken_as_they_are_and_no_cloud_is_asked(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"] = {name: existing(pool) for name, pool in article["pools"].items()}
    done = make(deploy, article)
    assert [resource.type for resource in done.resources] == ["openshift-lvs:index:Servers"] and not done.looked_up
    assert done.returned == dict.fromkeys(["master0", "master1", "master2", "infra0", "infra1"], OTHER_KEY)


def test_existing_hosts_beside_made_ones_get_no_server(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"] = existing(article["pools"]["infra"])
    done = make(deploy, article)
    assert done.of("Instance").keys() == {"master0", "master1", "master2"} and done.of("ServerGroup").keys() == {"master"}
    assert done.returned["infra1"] == OTHER_KEY and done.returned["master0"] != OTHER_KEY


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("debian-99", "pools.infra.image: 'debian-99': no such image that this project can see; `openstack image list` shows what this cloud has"),
        ("m1.none", "pools.infra.flavor: 'm1.none': no such flavor that this project can see; `openstack flavor list` shows what this cloud has"),
    ],
)
def test_a_missing_image_or_flavor_is_refused_before_anything_is_made(deploy: Deploy, article: dict[str, Any], absent: str, message: str) -> None:
    article["pools"]["infra"].update(image="debian-99", flavor="m1.none")
    done = Deployment()
    with pytest.raises(ConfigurationError) as refusal:
        make(deploy, article, frozenset({absent}), done)
    assert str(refusal.value) == message
    assert done.looked_up and not done.resources


def test_a_cloud_that_cannot_be_asked_is_not_told_as_a_missing_image(deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(**_: Any) -> None:
        raise Exception("invoke of openstack:compute/getFlavor:getFlavor failed: dial tcp: connection refused")

    monkeypatch.setattr("pulumi_openstack.compute.get_flavor", unreachable)
    with pytest.raises(ConfigurationError, match=r"^pools\.infra\.flavor: .*connection refused\); check openstack:cloud and clouds\.yaml$"):
        make(deploy, article)


FORCES_REPLACEMENT = {
    "Network": {"region", "tenantId"},
    "Subnet": {"networkId", "cidr", "ipVersion", "noGateway"},
    "Router": {"externalQosPolicyId", "tenantId"},
    "RouterInterface": {"routerId", "subnetId", "portId"},
    "SecGroup": {"deleteDefaultRules"},
    "SecGroupRule": {"securityGroupId", "direction", "ethertype", "protocol", "portRangeMin", "portRangeMax", "remoteIpPrefix"},
    "Port": {"networkId", "macAddress", "deviceOwner"},
    "FloatingIp": {"pool", "address"},
    "ServerGroup": {"policies", "name"},
    "Keypair": {"name"},
    "Instance": {"imageId", "userData", "availabilityZone", "networks", "keyPair", "configDrive", "schedulerHints", "blockDevices", "region"},
}
"""Inputs that the provider's schema marks ForceNew. (A key pair is replaced with its key, which is harmless: no server looks at it again.)"""


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for key in parents:
            data = data.setdefault(key, {})
        data[last] = value

    return apply


@pytest.mark.parametrize(
    "changed",
    [
        change("vips.infra.services", [{"port": 80, "scheduler": "rr", "health_check": {"type": "tcp", "connect_timeout": 3}}]),
        change("vips.master.owner", "master2"),
        change("vips.master.address", "192.168.0.240"),
        change("vips.ingress", {"address": "192.168.0.252", "pool": "infra", "virtual_router_id": 53, "owner": "infra1",
                                "services": [{"port": 8080, "health_check": {"type": "tcp"}}]}),
        change("pools.infra.hosts.infra2", "192.168.0.7"),
        change("pools.infra.hosts.infra1", "192.168.0.16"),
        change("pools.master.directors", ["master0", "master1"]),
        change("pools.master.image", "debian-13"),
        change("pools.master.flavor", "m1.large"),
        change("pools.master.availability_zone", "two"),
        change("pools.master.availability_zones", ["one", "two"]),
        change("pools.master.hosts.master0", {"address": "192.168.0.2", "availability_zone": "two"}),
        managed,
        change("pools.master.hosts.master0", {"address": "192.168.0.2", "interface": "bond0.100"}),
        change("pools.master.root_volume", {"size": 50}),
        change("pools.master.server_group_policy", "anti-affinity"),
        change("pools.master.server_group_policy", "none"),
        change("network.port_security", False),
        change("pools.master.cloud_config", {"runcmd": [["true"]]}),
        change("network.client_cidrs", ["172.16.0.0/12"]),
        change("network.allow", [{"protocol": "tcp", "ports": "2379-2380"}]),
        change("network.allow", ["kubernetes"]),
        change("pools.master.allow", ["kubernetes", {"protocol": "ipip"}]),
        change("pools.master.allowed_address_pairs", ["10.233.64.0/18"]),
        change("network.reserved", {"bastion": "192.168.0.100"}),
        change("network.dns_nameservers", ["9.9.9.9"]),
        change("ssh.allowed_cidrs", ["198.51.100.0/24"]),
        change("ssh.user", "root"),
        change("ssh", {"user": "debian", "allowed_cidrs": ["10.0.0.0/8"], "bastion": {"image": "debian-13", "flavor": "m1.small"}}),
    ],
)  # fmt: skip
def test_a_change_of_configuration_replaces_nothing(deploy: Deploy, article: dict[str, Any], changed: Callable[[dict[str, Any]], None]) -> None:
    before = make(deploy, article)
    changed(article)
    after = {resource.urn: resource for resource in make(deploy, article, key="ssh-ed25519 ANOTHER").resources}
    assert_nothing_replaced(before, after)


def assert_nothing_replaced(before: Deployment, after: dict[str, Registered]) -> None:
    for resource in before.resources:
        kind = resource.type.rpartition(":")[2]
        if kind in ("SecGroup", "SecGroupRule", "ServerGroup") and resource.urn not in after:
            continue  # a group or rule that is not wanted any more goes
        for key in FORCES_REPLACEMENT.get(kind, set()) if resource.type.startswith("openstack:") else set():
            assert key in resource.ignore_changes or resource.inputs.get(key) == after[resource.urn].inputs.get(key), f"{kind} {resource.name}: {key}"


def test_one_host_less_leaves_every_other_resource_as_it_was(deploy: Deploy, article: dict[str, Any]) -> None:
    before = {resource.urn: resource.inputs for resource in make(deploy, article).resources}
    del article["pools"]["infra"]["hosts"]["infra1"]
    after = {resource.urn: resource.inputs for resource in make(deploy, article).resources}
    # Its own rules go with it: it sent adverts and connection sync.
    gone = {"infra1", "vrrp-from-192.168.0.6/32", "udp-8848-from-192.168.0.6/32"}
    assert {urn.rpartition("::")[2] for urn in before.keys() - after.keys()} == gone
    assert all(before[urn] == inputs for urn, inputs in after.items())


def test_a_server_that_a_person_replaces_gives_its_port_free_first(deploy: Deploy, article: dict[str, Any]) -> None:
    assert all(server.delete_before_replace for server in make(deploy, article).of("Instance").values())
