"""What a real server that the program does not manage needs, as a MachineConfig of OpenShift."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import yaml

from components import keepalived
from components.configuration import Cluster, UsageError

IGNITION = "3.4.0"
"""The version of Ignition's specification: OpenShift 4.14 and newer read it."""
ROLE = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"


def machine_config(cluster: Cluster, pool: str, role: str) -> str:
    """The MachineConfig, as YAML, for the nodes with that role. Raises UsageError as `_ignition` does."""
    labels = {"machineconfiguration.openshift.io/role": role}
    described = {
        "apiVersion": "machineconfiguration.openshift.io/v1",
        "kind": "MachineConfig",
        "metadata": {"name": f"99-{role}-openshift-lvs-{pool}", "labels": labels},
        "spec": {"config": {"ignition": {"version": IGNITION}, **_ignition(cluster, pool)}},
    }
    return yaml.safe_dump(described, sort_keys=False)


def into_ignition(cluster: Cluster, pool: str, path: Path) -> str:
    """An Ignition configuration with what the hosts need added, as JSON: for the bootstrap host, and for hosts without OpenShift.

    Raises UsageError as `_ignition` does, and for a file that is no Ignition configuration.
    """
    try:
        given = json.loads(path.read_text())
        version = given["ignition"]["version"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--into: {path} is no Ignition configuration; name one, such as bootstrap.ign of openshift-install") from None
    if not str(version).startswith("3."):
        raise UsageError(f"--into: {path} has version {version!r} of Ignition; a version 3 is needed (OpenShift 4.6, Fedora CoreOS)")
    for section, added in _ignition(cluster, pool).items():
        for key, entries in added.items():
            try:
                given.setdefault(section, {}).setdefault(key, []).extend(entries)
            except AttributeError:
                raise UsageError(f"--into: {path}: {section}.{key} is not a list; name an Ignition configuration as openshift-install writes it") from None
    return json.dumps(given) + "\n"


def _ignition(cluster: Cluster, pool: str) -> dict[str, Any]:
    """The sections `storage` and `systemd`. Raises UsageError for a pool that is not there, or in which the program manages every host."""
    lacking = [name for name in cluster.pools if not all(host.managed for host in cluster.pools[name].hosts.values())]
    if pool not in lacking:
        known = f"the pools with such hosts are {', '.join(lacking)}" if lacking else "no pool has a host with managed: false"
        raise UsageError(f"pool: {pool!r} has no host with managed: false; {known}")
    files = keepalived.server_files(cluster, pool)
    units = [file for file in files if file.path.endswith(".service")]
    return {
        "storage": {"files": [_stored(file) for file in files if file not in units]},
        "systemd": {"units": [{"name": unit.path, "enabled": True, "contents": unit.text} for unit in units]},
    }


def _stored(file: keepalived.File) -> dict[str, Any]:
    source = f"data:text/plain;charset=utf-8;base64,{base64.b64encode(file.text.encode()).decode()}"
    return {"path": f"{keepalived.SERVER_FOLDER}/{file.path}", "mode": file.mode, "overwrite": True, "contents": {"source": source}}
