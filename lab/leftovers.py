"""Deletes what the project of the local cloud holds and the stack does not know: a create that was killed before it was written down.

The project is the stack's alone, so whatever is not in its state is such a leftover. Reads the known ids from standard input, a JSON list.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import openstack


def delete_unknown(cloud: Any, known: set[str]) -> Iterator[str]:
    """Delete every resource that is not in `known`, what uses others first; yields what it deletes."""
    project = cloud.current_project_id
    compute, network = cloud.compute, cloud.network
    for server in compute.servers():
        if server.id not in known:
            yield f"server {server.name}"
            # Nova cleans up after a server that was deleted while it was built later than it says: the next one on that port loses its tap.
            with contextlib.suppress(openstack.exceptions.ResourceFailure):
                compute.wait_for_server(server, interval=1, wait=300)
            compute.delete_server(server)
            compute.wait_for_delete(server, interval=1, wait=120)
    for ip in network.ips(project_id=project):
        if ip.id not in known:
            yield f"floating IP {ip.floating_ip_address}"
            network.delete_ip(ip)
    for port in network.ports(project_id=project):
        if port.id in known or (port.device_owner.startswith("network:") and port.device_owner != "network:router_interface"):
            continue
        yield f"port {port.name or port.id}"
        if port.device_owner == "network:router_interface":
            network.remove_interface_from_router(port.device_id, port_id=port.id)
        else:
            network.delete_port(port)
    for kind, found, delete in (
        ("router", network.routers(project_id=project), network.delete_router),
        ("subnet", network.subnets(project_id=project), network.delete_subnet),
        ("network", network.networks(project_id=project), network.delete_network),
        # The two rules that let everything out come with a group; only what lets in is the stack's.
        ("rule", network.security_group_rules(project_id=project, direction="ingress"), network.delete_security_group_rule),
        ("security group", network.security_groups(project_id=project), network.delete_security_group),
        ("server group", compute.server_groups(), compute.delete_server_group),
        ("key pair", compute.keypairs(), compute.delete_keypair),
    ):
        default = {group.id for group in network.security_groups(project_id=project, name="default")}
        for resource in found:
            if resource.id not in known | default and getattr(resource, "security_group_id", None) not in default:
                yield f"{kind} {resource.name or resource.id}"
                delete(resource)


if __name__ == "__main__":
    for what in delete_unknown(openstack.connect(cloud="local"), set(json.load(sys.stdin))):
        print(f"deleted: {what}", flush=True)
