"""The cloud tier: the whole program against a real OpenStack, as `make up` brings it up. One cluster for all tests of a run.

$WITHIN says after how many minutes no other test begins but the one that ends the cloud.
"""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cloud, local
from lab.stack import CLUSTER, PROJECT
from tests.within import NO_LATER, WITHIN, turned

ORDER = (
    # An empty project.
    "test_preflight",
    # Stacks of their own. The cloud has no space for them beside the example cluster.
    "test_bastion",
    "test_open_network",
    # The example cluster.
    "test_cluster",
    # These need nothing of each other.
    *turned(["test_moves", "test_neighbours", "test_outside"]),
    "test_removal",
)
THE_END = "test_make_down_leaves_no_process_namespace_or_interface"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In this order of the files: later tests change the cluster that earlier ones looked at."""
    items.sort(key=lambda item: ORDER.index(item.path.stem))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No test that would end too late."""
    if time.monotonic() > NO_LATER and item.name != THE_END:
        pytest.skip(f"{WITHIN} minutes are over; the next commit begins with other tests of moves and neighbours, and `make test-cloud` runs all")


def as_tenant(program: str, *words: str) -> str:
    """What a Python program prints that has the connection `cloud` of the tenant's ordinary user."""
    environment = {**os.environ, "OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml())}
    command = [*cloud.enter(), sys.executable, "-c", f"import sys\nimport openstack\ncloud = openstack.connect(cloud='local')\n{program}", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"as the tenant, with {words}: {done.stderr[-2000:]}"
    return done.stdout


def delete_network(name: str, port: str) -> None:
    """Delete a network of the tenant and its port of that name, where they are there."""
    as_tenant(
        """
network = cloud.network.find_network(sys.argv[1])
if network:
    for port in cloud.network.ports(network_id=network.id, name=sys.argv[2]):
        cloud.network.delete_port(port)
    cloud.network.delete_network(network)
""",
        name,
        port,
    )


def ipv4_alone(cluster: dict[str, Any]) -> dict[str, Any]:
    """The cluster with its IPv4 addresses only."""
    network = cluster["network"]
    for key in ("cidr_v6", "gateway_v6"):
        del network[key]
    del network["reserved"]["bastion-v6"]
    network["client_cidrs"] = [cidr for cidr in network["client_cidrs"] if ":" not in cidr]
    for each in (*cluster["vips"].values(), *(host for pool in cluster["pools"].values() for host in pool["hosts"].values())):
        del each["address_v6"]
    return cluster


def infra_alone() -> dict[str, Any]:
    """The infra pool of the example cluster with IPv4 addresses only."""
    cluster: dict[str, Any] = yaml.safe_load(local.CONFIGURATION.read_text())["config"][CLUSTER]
    for section in ("pools", "vips"):
        del cluster[section]["master"]
    return ipv4_alone(copy.deepcopy(cluster))


@dataclass(frozen=True)
class Changes:
    """What one `pulumi up` did, by the name of the resource: created, updated, deleted, replaced."""

    did: dict[str, str]
    text: str

    def of(self, what: str) -> set[str]:
        """The resources of which the engine says `what`."""
        return {name for name, done in self.did.items() if done == what}


class Cluster:
    """The running cluster, as its operator sees it."""

    def __init__(self) -> None:
        self.stack = local.stack()
        self.committed: dict[str, Any] = yaml.safe_load(self.stack.configuration.read_text())["config"][CLUSTER]

    def on(self, host: str, *command: str) -> str:
        """What a command prints on a node."""
        done = subprocess.run(local.ssh(host, *command), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{host}: {command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, change: Callable[[dict[str, Any]], None] = lambda cluster: None) -> Changes:
        """`pulumi up` of the committed cluster with `change` applied."""
        wanted = copy.deepcopy(self.committed)
        change(wanted)
        self.stack.write({CLUSTER: wanted})
        text = self.stack.run("up", "--yes", "--skip-preview")
        local.remember(self.stack.outputs())
        return Changes(dict(re.findall(r"^ *[-+~]+ +\S+ (\S+) (created|updated|deleted|replaced)\b", text, re.MULTILINE)), text)

    def operate(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What an operation says of the cluster as it was deployed last."""
        return self.stack.operate(verb, *arguments, identity=cloud.operator_key())

    def tenant(self) -> Any:
        """What the tenant's project holds, asked at the API by its ordinary user: {kind: [resource, ...]}."""
        script = Path(__file__).parent / "tenant.py"
        done = subprocess.run([*cloud.enter(), sys.executable, str(script)], env=self.stack.environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def endpoints(self) -> dict[str, Any]:
        """The output `endpoints`."""
        endpoints: dict[str, Any] = self.stack.outputs()["endpoints"]
        return endpoints

    @property
    def hosts(self) -> list[str]:
        """Every host's name."""
        return [name for pool in self.committed["pools"].values() for name in pool["hosts"]]


@pytest.fixture(scope="session")
def made() -> subprocess.CompletedProcess[str]:
    """The first `make up` of this run."""
    return subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=3000)


@pytest.fixture(scope="session")
def cluster(made: subprocess.CompletedProcess[str]) -> Iterator[Cluster]:
    """The cluster that it made."""
    assert made.returncode == 0, "make up failed; see above"
    yield Cluster()
