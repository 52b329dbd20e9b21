"""A stack on a network without port security, whose nodes are reached through a management network: neither a security group nor address pairs.

Before the tests of the example cluster, because the local cloud has no space for both. The lab's bastion is on the management network, and the nodes
install their packages from there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from lab import cloud, local
from lab.phases import Phases
from lab.stack import Stack
from tests.cloud.conftest import as_tenant, delete_network, infra_alone

pytestmark = pytest.mark.long

VIP, SUBNET = "192.168.1.251", "192.168.1.0/24"
HOSTS = {"infra0": ("192.168.1.5", "192.168.0.5"), "infra1": ("192.168.1.6", "192.168.0.6")}
"""Each host's address in the pool's network and in the management network."""
TAKEN = """
print(*(port.name for port in cloud.network.ports(name="bastion", project_id=cloud.current_project_id)))
"""
MAKE_MANAGEMENT = """
network = cloud.network.create_network(name="management")
# Its DHCP names a gateway, which OVN requires. The nodes do not use it.
subnet = cloud.network.create_subnet(network_id=network.id, name="management", ip_version=4, cidr="192.168.0.0/24", gateway_ip="192.168.0.1")
fixed = [{"subnet_id": subnet.id, "ip_address": "192.168.0.100"}]
cloud.network.create_port(network_id=network.id, name="bastion", fixed_ips=fixed, is_port_security_enabled=False, security_group_ids=[])
"""
ROUTE = """
(router,) = cloud.network.routers(project_id=cloud.current_project_id)
getattr(cloud.network, sys.argv[1])(router, subnet_id=cloud.network.find_subnet("management").id)
"""
PORTS = """
import json
ports = cloud.network.ports(project_id=cloud.current_project_id)
print(json.dumps({p.name: [p.is_port_security_enabled, p.security_group_ids, p.allowed_address_pairs] for p in ports if p.name and p.name != "bastion"}))
"""
SECOND_INTERFACE = """\
[Match]
Name=eth1

[Network]
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[DHCPv4]
ClientIdentifier=mac
UseRoutes=false
UseHostname=false
"""


def open_cluster() -> dict[str, Any]:
    """The infra pool of the example cluster on such a network."""
    cluster = infra_alone()
    cluster["network"] |= {"cidr": SUBNET, "gateway": "192.168.1.1", "client_cidrs": [SUBNET, "192.168.0.0/24"], "port_security": False}
    cluster["network"]["management"] = {"existing": "management", "cidr": "192.168.0.0/24"}
    del cluster["network"]["reserved"]
    pool = cluster["pools"]["infra"]
    pool["hosts"] = {name: {"address": address, "ssh_address": ssh} for name, (address, ssh) in HOSTS.items()}
    pool["cloud_config"]["write_files"].append({"path": "/etc/systemd/network/20-eth1.network", "permissions": "0644", "content": SECOND_INTERFACE})
    # The files of the first boot may come after networkd.
    pool["cloud_config"]["runcmd"].insert(0, ["systemctl", "restart", "systemd-networkd"])
    # With OVN a floating IP does not follow the VIP here.
    cluster["vips"]["infra"] |= {"address": VIP, "floating_ip": False}
    return cluster


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack, made by one `pulumi up` beside a management network that was there."""
    cloud.up(Phases())
    delete_network("management", "bastion")
    assert not as_tenant(TAKEN).strip(), "the example cluster is there, and the cloud has no space for both; first: python -m lab pulumi destroy --yes"
    as_tenant(MAKE_MANAGEMENT)
    made = Stack("open", cloud.state() / "stack-open", cloud.enter(), {"OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml())})
    try:
        cluster = open_cluster()
        cluster["ssh"]["bastion"]["host_key"] = cloud.bastion_host_key()
        made.prepare(cluster, cloud.operator_key().read_text(), {local.CREDENTIALS: "local"})
        try:
            made.run("up", "--yes", "--skip-preview")
            yield made
        finally:
            # Also after a failed test: the example cluster needs the space.
            made.run("destroy", "--yes", "--skip-preview")
    finally:
        delete_network("management", "bastion")


@pytest.fixture
def routed(stack: Stack) -> Iterator[None]:
    """The management network behind the stack's router, through which the bastion reaches the pool's network."""
    route = [*cloud.within("bastion"), "ip", "route"]
    as_tenant(ROUTE, "add_interface_to_router")
    subprocess.run([*route, "add", SUBNET, "via", "192.168.0.1"], check=True)
    try:
        yield
    finally:
        subprocess.run([*route, "delete", SUBNET], check=True)
        as_tenant(ROUTE, "remove_interface_from_router")


def test_up_ends_with_the_vip_proven_and_verify_finds_nothing(stack: Stack) -> None:
    assert stack.outputs()["endpoints"]["infra"]["address"] == VIP
    done = stack.operate("verify", identity=cloud.operator_key())
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr


def test_no_port_has_port_security_a_group_or_a_pair(stack: Stack) -> None:
    ports = yaml.safe_load(as_tenant(PORTS))
    assert set(ports) == {*HOSTS, *(f"management-{host}" for host in HOSTS)}
    assert all(port == [False, [], []] for port in ports.values()), ports


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    said = stack.run("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert "unchanged" in said


def test_clients_of_another_network_behind_the_router_are_answered_by_every_server(routed: None) -> None:
    answer = cloud.client("bastion", VIP, 80, 200)
    assert answer["failed"] == 0 and set(answer["answers"]) == set(HOSTS), answer
