"""From nothing to both addresses serving, changed, grown and shrunk."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from ipaddress import ip_network
from itertools import product
from typing import Any

from components.configuration.cluster import SECOND
from components.ingress import IPVS_SYNC
from lab import cloud, proof
from lab.phases import wait_for
from lab.stack import CLUSTER, PROJECT, DeploymentError
from node.openshift_lvs.description import Description
from node.openshift_lvs.facts import Facts
from tests.cloud.conftest import Cluster
from tests.cloud.probes import asked, summary, unanswered

MASTERS, INFRA = ["master0", "master1", "master2"], ["infra0", "infra1"]
API, ROUTERS = "192.168.0.250", "192.168.0.251"
API_V6, ROUTERS_V6 = "fd00:0:0:1::250", "fd00:0:0:1::251"
SERVERS_OF = {API: MASTERS, API_V6: MASTERS, ROUTERS: INFRA, ROUTERS_V6: INFRA}
CLIENTS = ("192.168.0.0/24", "203.0.113.0/24", "fd00:0:0:1::/64", "2001:db8:0:ff::/64")


def answers() -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads((PROJECT / "build" / "up" / "answers.json").read_text())
    return result


def test_make_up_ends_with_every_request_answered(made: subprocess.CompletedProcess[str]) -> None:
    assert made.returncode == 0
    counted = {(a["source"], a["target"][0] == "[", a["target"].rpartition(":")[2]): a for a in answers()}
    assert set(counted) == set(product(("bastion", "external"), (False, True), ("8443", "80", "443"))), "each service is asked by both families"
    assert all(a["sent"] == proof.REQUESTS and a["failed"] == 0 for a in counted.values())
    for a in counted.values():
        pool = MASTERS if a["target"].endswith(":8443") else INFRA
        assert set(a["by_server"]) == set(pool), f"every server has its share: {a}"
    for text in (API, ROUTERS, *MASTERS, *INFRA, "master0 "):
        assert text in made.stdout


def test_a_second_make_up_changes_nothing_and_takes_under_a_minute(cluster: Cluster) -> None:
    start = time.monotonic()
    again = subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, stdout=subprocess.PIPE, text=True, timeout=300)
    took = time.monotonic() - start
    assert again.returncode == 0
    end = cluster.stack.log.read_text().rsplit("$ pulumi up", 1)[1]
    assert "unchanged" in end
    assert not any(word in end for word in ("created", "updated", "deleted", "replaced")), end
    assert took < 60


def test_the_nodes_group_keeps_no_state_and_names_ranges_only(cluster: Cluster) -> None:
    (group,) = [g for g in cluster.tenant()["security_groups"] if g["name"].startswith("nodes")]
    assert group["stateful"] is False
    rules = group["security_group_rules"]
    assert all(not rule["remote_group_id"] for rule in rules)
    ingress = {(r["protocol"], r["port_range_min"], r["remote_ip_prefix"]) for r in rules if r["direction"] == "ingress"}
    addresses = [fixed["ip_address"] for port in cluster.tenant()["ports"] if port["name"] in cluster.hosts for fixed in port["fixed_ips"]]
    directors = {str(ip_network(address)) for address in addresses}
    assert len(directors) == 2 * len(cluster.hosts)
    assert {source for protocol, _, source in ingress if protocol in ("vrrp", "112")} == directors
    # Connection sync is in the first subnet.
    assert {source for protocol, port, source in ingress if (protocol, port) == ("udp", IPVS_SYNC[0])} == {each for each in directors if ":" not in each}
    assert {("tcp", port, range_) for port in (80, 443, 8443) for range_ in CLIENTS} <= ingress


def test_ports_carry_the_pairs_that_direct_routing_needs_and_no_others(cluster: Cluster) -> None:
    ports = {port["name"]: port for port in cluster.tenant()["ports"]}
    for vips, hosts in (((API, API_V6), MASTERS), ((ROUTERS, ROUTERS_V6), INFRA)):
        for host in hosts:
            pairs = sorted(pair["ip_address"] for pair in ports[host]["allowed_address_pairs"])
            assert pairs == sorted([*vips, *CLIENTS])
            assert ports[host]["status"] == "ACTIVE"
    for name, vip in (("vip-master", API), ("vip-master-v6", API_V6), ("vip-infra", ROUTERS), ("vip-infra-v6", ROUTERS_V6)):
        assert [fixed["ip_address"] for fixed in ports[name]["fixed_ips"]] == [vip]
        assert not ports[name]["device_id"], "a reservation port stays unbound"


def holders(cluster: Cluster, vip: str) -> list[str]:
    """The nodes that have the address on their interface."""
    return [host for host in SERVERS_OF[vip] if cluster.on(host, "ip", "-o", "address", "show", "dev", "eth0", "to", vip).strip()]


def test_each_address_is_at_its_owner_and_nowhere_else(cluster: Cluster) -> None:
    assert {vip: holders(cluster, vip) for vip in SERVERS_OF} == {API: ["master0"], API_V6: ["master0"], ROUTERS: ["infra0"], ROUTERS_V6: ["infra0"]}


def test_every_node_has_the_address_on_lo_and_answers_arp_for_its_interface_only(cluster: Cluster) -> None:
    for host in (*MASTERS, *INFRA):
        names = "net.ipv4.conf.all.arp_ignore net.ipv4.conf.all.arp_announce net.ipv4.vs.sloppy_tcp"
        *addresses, ignore, announce, sloppy = cluster.on(host, "sh", "-euc", shlex.quote(f"ip -o address show dev lo; sysctl -n {names}")).splitlines()
        for vip in (vip for vip, hosts in SERVERS_OF.items() if host in hosts):
            assert any(f"{ip_network(vip)}" in address for address in addresses)
        assert (ignore, announce, sloppy) == ("1", "2", "1")


def test_the_kernels_table_is_what_was_rendered(cluster: Cluster) -> None:
    for host in (*MASTERS, *INFRA):
        script = "cat /etc/keepalived/current/host.json; echo ---; openshift-lvs status --json; echo ---; ipvsadm --list --numeric"
        said, facts, listed = cluster.on(host, "sh", "-euc", shlex.quote(f"PATH=$PATH:/usr/local/sbin; {script}")).split("---\n")
        described, table = Description.from_json(said), Facts.from_json(facts).table
        live = {(mark, address, server.method) for mark, virtual in table.items() for address, server in virtual.servers.items() if server.weight}
        rendered = {(each.mark, str(server.address), each.forwarding_method) for each in described.services for server in each.real_servers}
        assert live == rendered, host
        assert " mh (mh-fallback,mh-port)" in listed


def test_keepalived_drains_before_it_stops_and_comes_back_when_it_dies(cluster: Cluster) -> None:
    unit = cluster.on("master0", "systemctl", "show", "keepalived", "--property", "Restart,ExecStop,ExecStopPost,ActiveState")
    assert "Restart=always" in unit and " drain" in unit and "/release.batch" in unit and "ActiveState=active" in unit


def test_no_connection_tracking_stands_between_a_client_and_a_director(cluster: Cluster) -> None:
    cloud.client("bastion", API, 8443, 100)
    for host, hypervisor in cloud.hypervisor_of().items():
        if host in cluster.hosts:
            tracked = [flow for flow in cloud.flows(hypervisor) if "ct(" in flow]
            assert not tracked, f"{host} on {hypervisor}: {tracked}"


def test_verify_finds_nothing_and_every_witness_is_reached(cluster: Cluster) -> None:
    done = cluster.operate("verify")
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
    reached = ", ".join(f"192.168.0.{last}:8443 reached" for last in (2, 3, 4))
    assert [line for line in done.stdout.splitlines() if "witnesses" in line] == [f"ok      {host}    witnesses: {reached}" for host in INFRA]


def connections(cluster: Cluster, host: str) -> set[tuple[str, str]]:
    """Client and server of each connection to the API's address that a director knows."""
    lines = [line.split() for line in cluster.on(host, "ipvsadm", "--list", "--numeric", "--connection").splitlines()]
    return {(words[3], words[5]) for words in lines if words[4:5] == [f"{API}:8443"]}


def test_every_director_is_told_of_the_owners_connections(cluster: Cluster) -> None:
    (owner,) = holders(cluster, API)
    before = connections(cluster, owner)
    cloud.client("bastion", API, 8443, 100)
    # Those of earlier tests expire while they are compared; and a port or two may be one of theirs.
    known = connections(cluster, owner) - before
    assert len(known) >= 90

    def told() -> tuple[bool, str]:
        missing = {host: len(known - connections(cluster, host)) for host in MASTERS}
        return not any(missing.values()), f"of {len(known)} connections of {owner} these many are not known: {missing}"

    wait_for("connection sync, which takes two seconds", told, 15)


def test_a_changed_check_updates_in_place_only_where_it_must_and_loses_no_request(cluster: Cluster) -> None:
    before = {host: cluster.on(host, "systemctl", "show", "keepalived", "--property", "MainPID") for host in cluster.hosts}

    def slower(c: dict[str, Any]) -> None:
        c["vips"]["infra"]["services"][0]["health_check"]["connect_timeout"] = 2

    with asked(cluster.endpoints, "infra", 80) as requests:
        changes = cluster.up(slower)
    assert requests and not unanswered(requests), f"{summary(requests)}: {unanswered(requests)}"
    assert changes.of("updated") == {
        *(f"{verb}-{host}" for verb in ("deliver", "activate", "check-adverts-infra-on", "check-adverts-infra-v6-on") for host in INFRA),
        *(f"{what}{second}{where}" for what, where in (("return-infra", "-from-infra1"), ("proof-infra", "")) for second in ("", SECOND)),
    }, changes.text
    assert not changes.of("created") | changes.of("deleted") | changes.of("replaced"), changes.text
    assert "connect_timeout 2" in cluster.on("infra0", "cat", "/etc/keepalived/current/keepalived.conf")
    after = {host: cluster.on(host, "systemctl", "show", "keepalived", "--property", "MainPID") for host in cluster.hosts}
    assert after == before, "a change reloads, it does not restart"
    assert holders(cluster, ROUTERS) == ["infra0"]


def test_infra2_comes_and_goes_and_takes_its_share_meanwhile(cluster: Cluster) -> None:
    servers = {server["name"]: server["id"] for server in cluster.tenant()["servers"]}

    def with_infra2(c: dict[str, Any]) -> None:
        c["pools"]["infra"]["hosts"]["infra2"] = {"address": "192.168.0.7", "address_v6": "fd00:0:0:1::7"}

    grown = cluster.up(with_infra2)
    assert not grown.of("replaced") | grown.of("deleted"), grown.text
    assert {s["name"] for s in cluster.tenant()["servers"]} == {*servers, "infra2"}
    for vip in (ROUTERS, ROUTERS_V6):
        answer = cloud.client("bastion", vip, 80, 300)
        assert answer["failed"] == 0 and set(answer["answers"]) == {*INFRA, "infra2"}, answer

    shrunk = cluster.up()
    assert not shrunk.of("replaced") | shrunk.of("created"), shrunk.text
    assert {s["name"]: s["id"] for s in cluster.tenant()["servers"]} == servers
    for vip in (ROUTERS, ROUTERS_V6):
        answer = cloud.client("bastion", vip, 80, 300)
        assert answer["failed"] == 0 and set(answer["answers"]) == set(INFRA), answer


def test_a_configuration_that_cannot_work_changes_nothing(cluster: Cluster) -> None:
    def no_such_image(c: dict[str, Any]) -> None:
        c["pools"]["infra"]["image"] = "debian-99"
        c["vips"]["infra"]["services"][0]["health_check"]["connect_timeout"] = 3

    try:
        changes = cluster.up(no_such_image)
    except DeploymentError as error:
        assert "pools.infra.image" in str(error) and "debian-99" in str(error)
    else:
        raise AssertionError(changes.text)
    finally:
        # `verify` of later tests compares the nodes with it.
        cluster.stack.write({CLUSTER: cluster.committed})
    assert "connect_timeout 1.4" in cluster.on("infra0", "cat", "/etc/keepalived/current/keepalived.conf")
