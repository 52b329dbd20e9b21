"""What `operations preflight` says of a cloud: a small HTTP server that answers as OpenStack's APIs do."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import yaml

from components.configuration import Cluster
from operations import __main__ as operations
from operations.preflight import network_needs
from tests.unit.recording import Deploy, Deployment
from tests.unit.test_dual_stack import written
from tests.unit.test_program import run

FIRST: dict[str, list[dict[str, Any]]] = {
    "network/v2.0/extensions": [
        {"alias": alias} for alias in ("security-group", "stateful-security-group", "allowed-address-pairs", "port-security", "router")
    ],
    "network/v2.0/networks": [
        {"id": "n1", "name": "public", "router:external": True, "port_security_enabled": True},
        {"id": "n2", "name": "corp", "router:external": False, "port_security_enabled": True},
        {"id": "n3", "name": "mgmt", "router:external": False, "port_security_enabled": True},
    ],
    "network/v2.0/subnets": [{"id": "s2", "network_id": "n2", "cidr": "192.168.0.0/24"}, {"id": "s3", "network_id": "n3", "cidr": "10.20.0.0/24"}],
    "network/v2.0/ports": [
        {
            "id": "p0",
            "name": "",
            "network_id": "n2",
            "device_owner": "network:router_interface",
            "fixed_ips": [{"subnet_id": "s2", "ip_address": "192.168.0.1"}],
        },
        {"id": "p1", "name": "master0", "network_id": "n2", "device_owner": "compute:a", "fixed_ips": [{"subnet_id": "s2", "ip_address": "192.168.0.2"}]},
    ],
    "network/v2.0/floatingips": [{"id": "f1", "floating_ip_address": "203.0.113.10", "fixed_ip_address": None}],
    "image/v2/images": [{"id": "i1", "name": "debian-12"}],
    "compute/v2.1/flavors/detail": [{"id": "1", "name": "m1.medium", "vcpus": 2, "ram": 4096, "disk": 20}],
    "compute/v2.1/os-availability-zone": [{"zoneName": "az1", "zoneState": {"available": True}}, {"zoneName": "az2", "zoneState": {"available": False}}],
    "volume/v3/types": [{"id": "t1", "name": "ssd"}],
}
"""What the cloud has: by path of the API, the resources."""

NAMES = {
    "os-availability-zone": "availabilityZoneInfo",
    "detail": "flavors",
    "types": "volume_types",
}
"""The key of a list in an answer, where it is not the end of the path."""

LIMITS = {
    "maxTotalInstances": 10, "totalInstancesUsed": 0, "maxTotalCores": 20, "totalCoresUsed": 0, "maxTotalRAMSize": 51200, "totalRAMUsed": 0,
    "maxServerGroups": 10, "totalServerGroupsUsed": 0,
}  # fmt: skip
VOLUME_LIMITS = {"maxTotalVolumes": 10, "totalVolumesUsed": 0, "maxTotalVolumeGigabytes": 1000, "totalGigabytesUsed": 0}
QUOTA = {
    name: {"limit": limit, "used": 0, "reserved": 0}
    for name, limit in {"port": 50, "floatingip": 10, "network": 10, "subnet": 10, "router": 10, "security_group": 10, "security_group_rule": -1}.items()
}


class FakeCloud:
    """OpenStack as far as `preflight` asks it. Tests change what it has."""

    def __init__(self) -> None:
        self.has: dict[str, list[dict[str, Any]]] = copy.deepcopy(FIRST)
        self.limits, self.volume_limits, self.quota = dict(LIMITS), dict(VOLUME_LIMITS), copy.deepcopy(QUOTA)
        self.services = {"compute": "compute/v2.1", "network": "network", "image": "image", "volumev3": "volume/v3", "identity": "v3"}
        self.asked: list[str] = []
        fake = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.asked.append(f"GET {self.path}")
                self._send(*fake.answer(urlsplit(self.path).path.strip("/"), dict(parse_qsl(urlsplit(self.path).query))))

            def do_POST(self) -> None:
                fake.asked.append(f"POST {self.path}")
                self.rfile.read(int(self.headers["Content-Length"]))
                self._send(201, fake.token())

            def _send(self, status: int, body: Any) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.send_header("X-Subject-Token", "token")
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self) -> Any:
        catalog = [
            {"type": kind, "name": kind, "endpoints": [{"interface": "public", "region": "r", "region_id": "r", "id": kind, "url": f"{self.url}/{path}"}]}
            for kind, path in self.services.items()
        ]
        domain = {"id": "default", "name": "Default"}
        return {
            "token": {
                "methods": ["password"], "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2026-01-01T00:00:00.000000Z", "catalog": catalog,
                "user": {"id": "u", "name": "u", "domain": domain}, "project": {"id": "p", "name": "p", "domain": domain},
                "roles": [{"id": "r", "name": "member"}],
            }
        }  # fmt: skip

    def answer(self, path: str, query: dict[str, str]) -> tuple[int, Any]:
        links = [{"rel": "self", "href": f"{self.url}/{path}/"}]
        versions: dict[str, Any] = {
            "v3": {"version": {"id": "v3.14", "status": "stable", "links": links}},
            "compute/v2.1": {"version": {"id": "v2.1", "status": "CURRENT", "version": "2.90", "min_version": "2.1", "links": links}},
            "volume/v3": {"version": {"id": "v3.0", "status": "CURRENT", "version": "3.70", "min_version": "3.0", "links": links}},
            "network": {"versions": [{"id": "v2.0", "status": "CURRENT", "links": [{"rel": "self", "href": f"{self.url}/network/v2.0/"}]}]},
            "image": {"versions": [{"id": "v2.17", "status": "CURRENT", "links": [{"rel": "self", "href": f"{self.url}/image/v2/"}]}]},
            "compute/v2.1/limits": {"limits": {"rate": [], "absolute": self.limits}},
            "volume/v3/limits": {"limits": {"rate": [], "absolute": self.volume_limits}},
            "network/v2.0/quotas/p/details": {"quota": self.quota},
        }
        if path in versions:
            return 200, versions[path]
        if path in self.has:
            end = path.rpartition("/")[2]
            found = [each for each in self.has[path] if all(str(each[key]) == value for key, value in query.items() if key in each)]
            return 200, {NAMES.get(end, end): found}
        return 404, {"error": {"code": 404, "message": "not found"}}


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloud]:
    """A cloud that has what the article needs, as entry `example` of clouds.yaml."""
    fake = FakeCloud()
    auth = {
        "auth_url": f"{fake.url}/v3",
        "username": "u",
        "password": "p",
        "project_name": "p",
        "user_domain_name": "Default",
        "project_domain_name": "Default",
    }
    (tmp_path / "clouds.yaml").write_text(yaml.safe_dump({"clouds": {"example": {"auth": auth, "region_name": "r"}}}))
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(tmp_path / "clouds.yaml"))
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


def preflight(cluster: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str], name: str = "example") -> tuple[int, list[str]]:
    """Exit status and lines of `operations preflight` for a stack with this cluster."""
    (folder / "Pulumi.test.yaml").write_text(yaml.safe_dump({"config": {"openstack:cloud": name, "openshift-lvs:cluster": cluster}}, sort_keys=False))
    status = operations.main(["preflight", "--stack", "test", "--root", str(folder)])
    said = capsys.readouterr()
    return status, (said.out + said.err).splitlines()


def test_a_cloud_that_has_everything_passes_and_is_only_read(
    cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 0, lines
    assert [line for line in lines if not line.startswith("ok ")] == ["the cloud has what was looked for"]
    assert "ok      extension stateful-security-group: there" in lines and "ok      pools.master.image: 'debian-12'" in lines
    assert "ok      quota of cores: needs 10, 20 of 20 are free" in lines
    assert [asked for asked in cloud.asked if not asked.startswith("GET ")] == ["POST /v3/auth/tokens"]


def test_json_has_the_same_findings_as_the_text(cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has["image/v2/images"] = []
    status, lines = preflight(article, tmp_path, capsys)
    assert operations.main(["preflight", "--stack", "test", "--root", str(tmp_path), "--json"]) == status == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["stack"], said["result"]) == (1, "test", "failed")
    word = {"ok": "ok", "failed": "MISSING", "unknown": "unknown"}
    assert [f"{word[each['result']]:<8}{each['subject']}: {each['text']}" for each in said["findings"]] == lines[:-1]


def lacking(lines: list[str]) -> list[str]:
    return [line.removeprefix("MISSING ") for line in lines if line.startswith("MISSING ")]


def test_a_qos_policy_that_overwrites_the_code_point_of_directors_is_named(
    cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks, limits = ([{"type": kind, "id": "r"}] for kind in ("dscp_marking", "bandwidth_limit"))
    cloud.has["network/v2.0/extensions"].append({"alias": "qos"})
    cloud.has["network/v2.0/qos/policies"] = [
        {"id": "q1", "name": "gold", "rules": marks, "is_default": False, "project_id": "p"},
        {"id": "q2", "name": "slow", "rules": limits, "is_default": True, "project_id": "p"},
        {"id": "q3", "name": "theirs", "rules": marks, "is_default": True, "project_id": "other"},
    ]
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 0, lines
    cloud.has["network/v2.0/qos/policies"][1]["rules"] = marks
    said = "QoS policy {!r} sets the DSCP of every packet, and directors that choose differently would send packets to each other; remove its rule dscp_marking"
    assert lacking(preflight(article, tmp_path, capsys)[1]) == [f"network: {said.format('slow')}"]
    article["network"].update(existing="corp", external=None)
    assert lacking(preflight(article, tmp_path, capsys)[1]) == []
    cloud.has["network/v2.0/networks"][1]["qos_policy_id"] = "q1"
    assert lacking(preflight(article, tmp_path, capsys)[1]) == [f"network.existing: {said.format('gold')}"]


def test_each_thing_that_the_cloud_lacks_is_named(cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has["network/v2.0/extensions"] = [{"alias": "security-group"}, {"alias": "allowed-address-pairs"}]
    cloud.has["network/v2.0/networks"] = [{"id": "n1", "name": "public", "router:external": False}]
    cloud.has["image/v2/images"] = []
    cloud.has["compute/v2.1/flavors/detail"][0]["disk"] = 0
    cloud.limits["maxTotalInstances"] = 4
    cloud.quota["port"]["used"] = 46
    article["pools"]["infra"].update(availability_zone="az2")
    article["pools"]["master"].update(root_volume={"size": 20, "type": "nvme"})
    article["vips"]["master"]["floating_ip"] = "203.0.113.99"
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 1 and lines[-1] == "11 missing"
    assert lacking(lines) == [
        "extension stateful-security-group: this cloud's Neutron lacks stateless security groups: a director sees half of each conversation",
        "extension router: this cloud's Neutron lacks routers and floating IPs",
        "pools.master.image: 'debian-12': no such image; `openstack image list` shows what there is",
        "pools.infra.image: 'debian-12': no such image; `openstack image list` shows what there is",
        "pools.infra.flavor: 'm1.medium' has no disk; set root_volume: {size: GIB}, or another flavor",
        "availability zone: 'az2': not available; this cloud has az1",
        "network.external: 'public': is not an external network; `openstack network list --external`",
        "vips.master.floating_ip: 203.0.113.99: no such floating IP in this project",
        "pools.master.root_volume.type: 'nvme': no such volume type; this cloud has ssd",
        "quota of servers: needs 5, 4 of 4 are free",
        "quota of ports: needs 7, 4 of 50 are free",
    ]


@pytest.fixture
def booting_from_volumes(article: dict[str, Any]) -> dict[str, Any]:
    """The article with root volumes of different sizes, and none in one pool."""
    article["pools"]["master"]["root_volume"] = {"size": 50}
    article["ssh"].update(bastion={"image": "debian-12", "flavor": "m1.medium", "root_volume": {"size": 10}}, allowed_cidrs=["198.51.100.0/24"])
    return article


def test_the_root_volumes_must_fit_the_quota_of_volumes_and_of_their_size(
    cloud: FakeCloud, booting_from_volumes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = preflight(booting_from_volumes, tmp_path, capsys)
    assert status == 0, lines
    assert "ok      quota of volumes: needs 4, 10 of 10 are free" in lines and "ok      quota of GiB of volumes: needs 160, 1000 of 1000 are free" in lines
    cloud.volume_limits.update(totalVolumesUsed=7, maxTotalVolumeGigabytes=159)
    status, lines = preflight(booting_from_volumes, tmp_path, capsys)
    assert status == 1 and lacking(lines) == ["quota of volumes: needs 4, 3 of 10 are free", "quota of GiB of volumes: needs 160, 159 of 159 are free"]


def test_a_cloud_without_block_storage_has_no_root_volumes(
    cloud: FakeCloud, booting_from_volumes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del cloud.services["volumev3"]
    status, lines = preflight(booting_from_volumes, tmp_path, capsys)
    lacks = "this cloud has no block storage (Cinder); remove it, and name a flavor with a disk"
    assert status == 1 and lacking(lines) == [f"pools.master.root_volume: {lacks}", f"ssh.bastion.root_volume: {lacks}"]
    assert not [line for line in lines if line.startswith("unknown")]


def test_a_cloud_is_asked_for_volumes_only_where_the_stack_has_some(
    cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del cloud.services["volumev3"]
    assert preflight(article, tmp_path, capsys)[0] == 0


def counted(done: Deployment) -> dict[str, int]:
    """How many of each resource of Neutron a deployment creates, by the name of the quota."""
    kinds = {"ports": "Port", "floating_ips": "FloatingIp", "subnets": "Subnet", "routers": "Router", "security_groups": "SecGroup"}
    found = {quota: len(done.of(kind)) for quota, kind in kinds.items()}
    found["networks"] = sum(1 for resource in done.resources if resource.type == "openstack:networking/network:Network")
    found["security_group_rules"] = len(done.of("SecGroupRule")) + 2 * found["security_groups"]
    return {quota: count for quota, count in found.items() if count}


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"existing": "corp", "reserved": {"registry": "192.168.0.100"}},
        {"management": {"existing": "mgmt", "cidr": "10.20.0.0/24"}},
        {"port_security": False},
    ],
)
def test_the_quota_that_is_asked_for_is_what_a_first_up_creates(deploy: Deploy, booting_from_volumes: dict[str, Any], network: dict[str, Any]) -> None:
    article = booting_from_volumes
    article["network"].update(network)
    article["vips"]["infra"]["floating_ip"] = False
    article["vips"]["master"]["additional_addresses"] = ["192.168.0.252"]
    if "management" in network:
        article["ssh"].pop("bastion")
        article["pools"]["infra"]["hosts"]["infra0"] = {"address": "192.168.0.5", "ssh_address": "10.20.0.5"}
    if network.get("port_security", True):
        article["pools"]["master"]["allow"] = ["kubernetes"]
    assert network_needs(Cluster.parse(article)) == counted(run(deploy, article))


@pytest.fixture
def existing(article: dict[str, Any]) -> dict[str, Any]:
    """The article on an existing network."""
    article["network"]["existing"] = "corp"
    return article


def test_an_existing_network_with_a_router_and_free_addresses_passes(
    cloud: FakeCloud, existing: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its port of master0 is the one that an earlier deployment created.
    status, lines = preflight(existing, tmp_path, capsys)
    assert status == 0 and "ok      router: of 192.168.0.0/24" in lines and "ok      pools.master.hosts.master0: 192.168.0.2" in lines


def test_an_existing_network_must_fit(cloud: FakeCloud, existing: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.has["network/v2.0/networks"][1]["port_security_enabled"] = False
    existing["vips"]["infra"]["additional_addresses"] = ["192.168.0.252", "192.168.0.253"]
    cloud.has["network/v2.0/ports"] = [
        {"id": name, "name": name, "network_id": "n2", "device_owner": "", "fixed_ips": [{"subnet_id": "s2", "ip_address": f"192.168.0.{last}"}]}
        for name, last in (("printer", 250), ("vip-infra-192.168.0.252", 252), ("scanner", 253))
    ]
    status, lines = preflight(existing, tmp_path, capsys)
    assert status == 1 and lacking(lines) == [
        "network.port_security: true, and 'corp' has no port security; set it to what the network has",
        "router: the subnet 192.168.0.0/24 has no router, so no floating IP can lead to it",
        "vips.master.address: 192.168.0.250: port 'printer' has this address; choose another, or delete the port",
        "vips.infra.additional_addresses.1: 192.168.0.253: port 'scanner' has this address; choose another, or delete the port",
    ]


def test_an_existing_subnet_with_automatic_addresses_is_named(cloud: FakeCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = written(
        ("network.existing", "corp"),
        ("network.management", {"existing": "mgmt", "cidr": "fd00:0:0:9::/64"}),
        ("pools.master.hosts.master0.ssh_address", "fd00:0:0:9::2"),
    )
    stateful = {"ipv6_address_mode": "dhcpv6-stateful", "ipv6_ra_mode": "dhcpv6-stateful"}
    made = [{"id": "s6", "network_id": "n2", "cidr": "fd00:0:0:1::/64", **stateful}, {"id": "s7", "network_id": "n3", "cidr": "fd00:0:0:9::/64", **stateful}]
    cloud.has["network/v2.0/subnets"] += made
    lacks = lacking(preflight(stack, tmp_path, capsys)[1])
    assert not [line for line in lacks if line.startswith("network.")]
    assert "router: the subnet fd00:0:0:1::/64 has no router, so hosts do not learn that DHCPv6 has their addresses" in lacks
    made[0]["ipv6_address_mode"] = made[1]["ipv6_ra_mode"] = "slaac"
    why = "this subnet gives each port an address made from its MAC (slaac), and no other; name a subnet with dhcpv6-stateful"
    assert [line for line in lacking(preflight(stack, tmp_path, capsys)[1]) if line.startswith("network.")] == [
        f"network.cidr_v6: fd00:0:0:1::/64: {why}",
        f"network.management.cidr: fd00:0:0:9::/64: {why}",
    ]


def test_an_existing_network_must_say_whether_it_has_port_security(
    cloud: FakeCloud, existing: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.has["network/v2.0/extensions"] = [each for each in cloud.has["network/v2.0/extensions"] if each["alias"] != "port-security"]
    status, lines = preflight(existing, tmp_path, capsys)
    assert status == 1 and lacking(lines) == [
        "extension port-security: this cloud's Neutron lacks port security, for an existing network and to switch it off (network.port_security: false)"
    ]


def test_the_management_network_must_be_there_and_have_port_security(
    cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    article["network"]["management"] = {"existing": "mgmt", "cidr": "10.20.0.0/24"}
    article["pools"]["infra"]["hosts"]["infra0"] = {"address": "192.168.0.5", "ssh_address": "10.20.0.5"}
    assert preflight(article, tmp_path, capsys)[0] == 0
    cloud.has["network/v2.0/networks"][2]["port_security_enabled"] = False
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 1 and lacking(lines) == [
        "network.management.existing: 'mgmt' has no port security, and the ports of the hosts there get a security group; name a network with port security"
    ]
    article["network"]["management"]["existing"] = "mgmt2"
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 1 and lacking(lines) == ["network.management: 'mgmt2', 10.20.0.0/24: no such network; `openstack subnet list`"]


def test_what_the_cloud_does_not_say_is_no_fault(cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del cloud.has["network/v2.0/extensions"]
    status, lines = preflight(article, tmp_path, capsys)
    assert status == 0 and any(line.startswith("unknown extensions: the cloud does not say (") for line in lines)


def test_a_cloud_that_cannot_be_asked_is_named(cloud: FakeCloud, article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = preflight(article, tmp_path, capsys, name="other")
    assert status == 3 and len(lines) == 1 and lines[0].startswith("openstack:cloud: 'other': the cloud could not be asked (")


def test_a_stack_of_existing_hosts_needs_no_cloud(article: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"
    for pool in article["pools"].values():
        pool.update(existing=True, hosts={name: {"address": address, "host_key": key} for name, address in pool["hosts"].items()})
    status, lines = preflight(article, tmp_path, capsys, name="none")
    assert status == 0 and lines[0] == "ok      OpenStack: this stack creates nothing in it"
