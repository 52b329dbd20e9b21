"""Prints as JSON what the project of the stack's user holds in OpenStack."""

import json

import openstack

cloud = openstack.connect(cloud="local")
project = cloud.current_project_id
print(
    json.dumps(
        {
            "servers": [server.to_dict() for server in cloud.compute.servers()],
            "server_groups": [group.to_dict() for group in cloud.compute.server_groups()],
            "key_pairs": [pair.to_dict() for pair in cloud.compute.keypairs()],
            "networks": [network.to_dict() for network in cloud.network.networks(project_id=project)],
            "subnets": [subnet.to_dict() for subnet in cloud.network.subnets(project_id=project)],
            "routers": [router.to_dict() for router in cloud.network.routers(project_id=project)],
            "ports": [port.to_dict() for port in cloud.network.ports(project_id=project)],
            "floating_ips": [ip.to_dict() for ip in cloud.network.ips(project_id=project)],
            "security_groups": [group.to_dict() for group in cloud.network.security_groups(project_id=project)],
        },
        default=str,
    )
)
