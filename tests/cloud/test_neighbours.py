"""What another port of the tenant's network can send to the nodes: adverts, connection sync and tunnel packets, with its own address and a director's.

With a director's address the port security of the sender's port refuses them, with its own the nodes' security group. One kind passes the group:
`return_ports` of this stack are 1024-65535, with UDP 8848 among them. The node's own rules refuse it.
"""

from __future__ import annotations

import json
import subprocess
import time

from components.ingress import IPVS_SYNC
from lab import cloud
from tests.cloud.conftest import Cluster
from tests.cloud.packets import CLIENT, SYNC, VRRP
from tests.cloud.probes import SIDES, Running, on_node, packets
from tests.cloud.test_cluster import API, MASTERS, holders

LVS = "/usr/local/sbin/openshift-lvs"
NEIGHBOUR = SIDES["bastion"].source
"""The port named `bastion`. It has the nodes' security group and no allowed address pair."""
ARRIVES_S = 2


def send(cluster: Cluster, forged: list[tuple[str, str, str]]) -> None:
    """Send packets (kind, source, target) from the neighbour's port."""
    vip = cluster.committed["vips"]["master"]
    config = {"interface": "eth0", "vip": API, "port": vip["services"][0]["port"], "virtual_router_id": vip["virtual_router_id"], "packets": forged}
    command = [*cloud.within("bastion"), *packets("forge", json.dumps(config))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"the packets were not sent: {done.stderr}"


def test_what_only_directors_send_has_no_effect_from_another_port_of_the_network(cluster: Cluster) -> None:
    addresses = {host: described["address"] for host, described in cluster.committed["pools"]["master"]["hosts"].items()}
    directors = list(addresses.values())
    forged = [
        (kind, source, target)
        for source in (NEIGHBOUR, *directors)
        for kind, group in (("vrrp", [VRRP]), ("sync", [SYNC]), ("ipip", []))
        for target in (*group, *directors)
        if target != source
    ]
    before = holders(cluster, API)
    with Running({host: on_node(host, *packets("hear", "eth0")) for host in MASTERS}) as nodes:
        # Nodes accept ssh from their subnet: so the listeners work, and the sender's packets get out.
        send(cluster, [*forged, *(("ssh", NEIGHBOUR, director) for director in directors)])
        time.sleep(ARRIVES_S)  # for packets on their way
    assert nodes.told == {
        host: [["tcp", NEIGHBOUR, address, 22], ["udp", NEIGHBOUR, address, IPVS_SYNC[0]], ["udp", NEIGHBOUR, SYNC, IPVS_SYNC[0]]]
        for host, address in addresses.items()
    }
    assert holders(cluster, API) == before
    for host in MASTERS:
        assert CLIENT not in cluster.on(host, "ipvsadm", "--list", "--numeric", "--connection"), f"{host} knows a connection that no director had"


def test_verify_reports_the_sender_until_the_nodes_forget_it(cluster: Cluster) -> None:
    reported = cluster.operate("verify")
    for host in cluster.hosts:
        cluster.on(host, LVS, "apply")
    assert reported.returncode and f"{NEIGHBOUR} connection sync" in reported.stdout, reported.stdout + reported.stderr
    after = cluster.operate("verify")
    assert after.returncode == 0, after.stdout + after.stderr
