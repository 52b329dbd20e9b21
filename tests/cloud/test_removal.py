"""The example cluster gone, made again by a `make up` after one that was killed, and the cloud gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from lab import cloud, proof
from lab.phases import wait_for
from lab.stack import PROJECT
from tests.cloud.conftest import Cluster
from tests.cloud.test_cluster import answers


def test_destroy_leaves_nothing_in_the_tenant(cluster: Cluster) -> None:
    cluster.stack.run("destroy", "--yes", "--skip-preview")
    left = {kind: [resource.get("name") for resource in found] for kind, found in cluster.tenant().items()}
    assert left.pop("security_groups") == ["default"]
    assert not any(left.values()), left


def test_what_a_killed_make_up_began_is_finished_by_the_next(cluster: Cluster) -> None:
    before = len(cluster.stack.log.read_text())
    killed = subprocess.Popen([sys.executable, "-m", "lab", "up"], cwd=PROJECT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for("servers to be on their way", lambda: ("Instance master0 creating" in (said := cluster.stack.log.read_text()[before:]), said[-200:]), 180)
    finally:
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
    state = json.loads((cluster.stack.folder / ".pulumi" / "stacks" / "openshift-lvs" / "local.json").read_text())
    assert state["checkpoint"]["latest"]["pending_operations"], "the engine was killed while it made something"

    finished = subprocess.run([sys.executable, "-m", "lab", "up"], cwd=PROJECT, timeout=900)
    assert finished.returncode == 0
    assert all(a["sent"] == proof.REQUESTS and a["failed"] == 0 for a in answers())
    assert sorted(server["name"] for server in cluster.tenant()["servers"]) == sorted(cluster.hosts), "nothing is there twice"


def test_make_down_leaves_no_process_namespace_or_interface(cluster: Cluster) -> None:
    done = subprocess.run([sys.executable, "-m", "lab", "down"], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert cloud.running() is None
    assert not cloud.state().exists()
