"""Service users, the catalogue, and the ordinary tenant `demo`, in Keystone. Run again, it changes nothing."""

from __future__ import annotations

from typing import Any

import openstack

from lab.cloud.system import configuration


def main() -> None:
    # openstacksdk types it as Keystone v2 or v3; it is v3
    identity: Any = openstack.connect(cloud="admin").identity
    roles = {name: identity.find_role(name) or identity.create_role(name=name) for name in ("admin", "service", "member", "reader")}

    def user(name: str, project_name: str, password: str, *granted: str) -> None:
        project = identity.find_project(project_name) or identity.create_project(name=project_name, domain_id="default")
        made = identity.find_user(name) or identity.create_user(name=name, password=password, default_project_id=project.id, domain_id="default")
        for role in granted:
            identity.assign_project_role_to_user(project, made, roles[role])

    for name, (kind, url) in configuration.ENDPOINTS.items():
        user(name, "service", configuration.password("service"), "admin", "service")
        service = identity.find_service(name) or identity.create_service(name=name, type=kind)
        have = {endpoint.interface for endpoint in identity.endpoints(service_id=service.id)}
        for interface in {"public", "internal", "admin"} - have:
            identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id=configuration.REGION)
    user("demo", "demo", configuration.password("demo"), "member", "reader")


if __name__ == "__main__":
    main()
