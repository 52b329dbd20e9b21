"""`python -m lab.cloud.system.steps STEP`: one step of bringing the cloud up. Every step can be run again."""

from __future__ import annotations

import functools
import sys

from lab.cloud.system import configuration, control_plane, edge, hypervisors
from lab.cloud.system.init import status
from lab.phases import wait_for


def check() -> None:
    """Every service lives, every API answers, every hypervisor is up for Nova."""
    wait_for("every service to live", dead, 60)
    for name in control_plane.APIS:
        control_plane.wait_for_service(f"{name}-api", functools.partial(control_plane.answering, name))
    wait_for("every hypervisor to be up", down, 120)


def dead() -> tuple[bool, str]:
    names = [name for name, service in status().items() if not service["pid"]]
    return not names, f"dead: {names}"


def down() -> tuple[bool, str]:
    recent = "select host from nova.services where `binary` = 'nova-compute' and deleted = 0 and last_seen_up > utc_timestamp() - interval 60 second"
    missing = sorted(set(hypervisors.NODES) - set(control_plane.sql(recent).split()))
    return not missing, f"not up: {missing}"


def servers() -> None:
    for line in control_plane.sql("select display_name, host from nova.instances where deleted = 0").splitlines()[1:]:
        print(line)


STEPS = {
    "infrastructure": control_plane.infrastructure,
    "schemas": control_plane.schemas,
    "services": control_plane.services,
    "hypervisors": hypervisors.hypervisors,
    "offer": lambda: control_plane.run(configuration.VENV / "bin/python", "-m", "lab.cloud.system.offer", log="offer"),
    "edge": edge.edge,
    "check": check,
    "servers": servers,
}

if __name__ == "__main__":
    try:
        STEPS[sys.argv[1]]()
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
