"""What a real server that the program does not manage needs, as a MachineConfig of OpenShift."""

from __future__ import annotations

import base64
from typing import Any

import yaml

from components import keepalived
from components.configuration import Cluster, UsageError

IGNITION = "3.4.0"
"""The version of Ignition's specification: OpenShift 4.14 and newer read it."""
ROLE = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"


def machine_config(cluster: Cluster, pool: str, role: str) -> str:
    """The MachineConfig, as YAML, for the nodes with that role. Its `spec.config` is an Ignition config for hosts without OpenShift.

    Raises UsageError for a pool that is not there, or in which the program manages every host.
    """
    lacking = [name for name in cluster.pools if not all(host.managed for host in cluster.pools[name].hosts.values())]
    if pool not in lacking:
        known = f"the pools with such hosts are {', '.join(lacking)}" if lacking else "no pool has a host with managed: false"
        raise UsageError(f"pool: {pool!r} has no host with managed: false; {known}")
    files = keepalived.server_files(cluster, pool)
    units = [file for file in files if file.path.endswith(".service")]
    config: dict[str, Any] = {
        "ignition": {"version": IGNITION},
        "storage": {"files": [_stored(file) for file in files if file not in units]},
        "systemd": {"units": [{"name": unit.path, "enabled": True, "contents": unit.text} for unit in units]},
    }
    labels = {"machineconfiguration.openshift.io/role": role}
    described = {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": {"name": f"99-{role}-openshift-lvs-{pool}", "labels": labels},
        "spec": {"config": config},
    }
    return yaml.safe_dump(described, sort_keys=False)


def _stored(file: keepalived.File) -> dict[str, Any]:
    source = f"data:text/plain;charset=utf-8;base64,{base64.b64encode(file.text.encode()).decode()}"
    return {"path": f"{keepalived.SERVER_FOLDER}/{file.path}", "mode": file.mode, "overwrite": True, "contents": {"source": source}}
