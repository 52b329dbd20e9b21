"""`operations preflight` against the local OpenStack: before the first `up` everything is there, and whatever is not is named."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cloud, local
from lab.phases import Phases
from lab.stack import CLUSTER, PROJECT
from tests.cloud.conftest import as_tenant, delete_network, ipv4_alone

MAKE_BARE = """
network = cloud.network.create_network(name="bare", is_port_security_enabled=False)
subnet = cloud.network.create_subnet(network_id=network.id, name="bare", ip_version=4, cidr="192.168.0.0/24", is_dhcp_enabled=False)
cloud.network.create_port(network_id=network.id, name="printer", fixed_ips=[{"subnet_id": subnet.id, "ip_address": "192.168.0.250"}])
"""
"""A network without port security and without a router, on which another machine has the address of a VIP."""


def example() -> dict[str, Any]:
    """The example cluster."""
    committed: dict[str, Any] = copy.deepcopy(yaml.safe_load(local.CONFIGURATION.read_text())["config"][CLUSTER])
    return committed


def lacking() -> dict[str, Any]:
    """The example cluster with an image, a flavor, a zone, an external network and a floating IP that the cloud does not have, and too many servers."""
    cluster = example()
    cluster["pools"]["master"]["image"] = "debian-99"
    cluster["pools"]["infra"]["flavor"] = "m1.huge"
    cluster["pools"]["infra"]["availability_zone"] = "az2"
    cluster["pools"]["infra"]["hosts"] = {
        f"infra{number}": {"address": f"192.168.0.{number + 5}", "address_v6": f"fd00:0:0:1::{number + 5}"} for number in range(12)
    }
    cluster["network"]["external"] = "internet"
    cluster["vips"]["master"]["floating_ip"] = "203.0.113.199"
    return cluster


def on_bare() -> dict[str, Any]:
    """The example cluster on the network of MAKE_BARE, which has no IPv6."""
    cluster = ipv4_alone(example())
    cluster["network"]["existing"] = "bare"
    return cluster


def preflight(folder: Path, cluster: dict[str, Any]) -> tuple[int, list[str], str]:
    """Exit status of `operations preflight` for a stack with this cluster, the lines of its standard output, and everything that it said."""
    cluster["ssh"]["bastion"]["host_key"] = cloud.bastion_host_key()
    path = folder / "Pulumi.preflight.yaml"
    path.write_text(yaml.safe_dump({"config": {local.CREDENTIALS: "local", CLUSTER: cluster}}))
    command = [*cloud.enter(), sys.executable, "-m", "operations", "preflight", "--stack", "preflight", "--config-file", str(path)]
    environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml())}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def running() -> None:
    """The cloud itself, with or without a stack."""
    cloud.up(Phases())


@pytest.fixture
def bare() -> Iterator[None]:
    """The network of MAKE_BARE, as long as the test lasts."""
    delete_network("bare", "printer")
    as_tenant(MAKE_BARE)
    yield
    delete_network("bare", "printer")


def test_the_cloud_has_what_the_example_cluster_needs(tmp_path: Path) -> None:
    status, lines, said = preflight(tmp_path, example())
    assert status == 0 and lines[-1] == "the cloud has what was looked for", said
    assert {line.partition(" ")[0] for line in lines[:-1]} == {"ok"}, f"the cloud answers every question: {said}"
    for what in ("extension stateful-security-group", "pools.master.image", "pools.infra.flavor", "network.external", "quota of servers", "quota of ports"):
        assert any(line.startswith(f"ok      {what}: ") for line in lines), f"{what}: {said}"


def test_each_thing_that_the_cloud_lacks_is_named(tmp_path: Path) -> None:
    status, lines, said = preflight(tmp_path, lacking())
    assert status == 1, said
    missing = [line.removeprefix("MISSING ") for line in lines if line.startswith("MISSING ")]
    expected = [
        "pools.infra.flavor: 'm1.huge': no such flavor; `openstack flavor list` shows what there is",
        "pools.master.image: 'debian-99': no such image; `openstack image list` shows what there is",
        "availability zone: 'az2': not available; this cloud has nova",
        "network.external: 'internet': no such network; `openstack network list --external`",
        "vips.master.floating_ip: 203.0.113.199: no such floating IP in this project",
        # How many are free depends on the stack.
        "quota of servers: needs 15, ",
    ]
    assert len(missing) == len(expected) and all(line.startswith(start) for line, start in zip(missing, expected, strict=True)), said
    assert lines[-1] == f"{len(expected)} missing"


def test_a_network_that_does_not_fit_is_named_with_what_it_lacks(tmp_path: Path, bare: None) -> None:
    status, lines, said = preflight(tmp_path, on_bare())
    assert status == 1, said
    assert [line.removeprefix("MISSING ") for line in lines if line.startswith("MISSING ")] == [
        "network.port_security: true, and 'bare' has no port security; set it to what the network has",
        "router: the subnet 192.168.0.0/24 has no router, so no floating IP can lead to it",
        "vips.master.address: 192.168.0.250: port 'printer' has this address; choose another, or delete the port",
    ], said
