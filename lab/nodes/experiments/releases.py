"""From the release before, whose nodes have shell scripts, to the program, and back."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

from components import keepalived
from lab import cache
from lab.nodes import machine, probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import Experiment, Scene, Step, backup_out, on_backup, on_owner
from lab.nodes.probe import MASTER
from lab.phases import wait_for
from lab.stack import PROJECT, DeploymentError

SCRIPTS_COMMIT = "748c92e85d4c118df2938b070da59d0d5719713a"
"""The last commit with scripts on the nodes."""
INSTALLATION_S = 120
SCRIPTS = "/usr/local/lib/openshift-lvs"
PROGRAM = f"{SCRIPTS}/{keepalived.program_digest()}"


def scripts_release() -> Path:
    """The folder of the release with scripts, from this repository's history."""

    def make(folder: Path) -> None:
        packed = subprocess.run(["git", "archive", SCRIPTS_COMMIT], cwd=PROJECT, capture_output=True)
        if packed.returncode:
            raise DeploymentError(f"{SCRIPTS_COMMIT} is not in this repository: git fetch --unshallow ({packed.stderr.decode().strip()})")
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
            tar.extractall(folder / "project", filter="data")

    project = cache.build("scripts-release", SCRIPTS_COMMIT, make) / "project"
    # The program runs in the environment of its own folder.
    link = project / ".venv"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to((PROJECT / ".venv").resolve())
    return project


def _to_scripts(scene: Scene) -> None:
    project = scripts_release()
    scene.moment = probe.now()
    stack.up(scene.described, scene.auth_pass, program=project)


def _scripts_in_force(scene: Scene) -> Iterable[str]:
    for node in scene.cluster.nodes():
        called = machine.run("lab", "exec", node.name, "grep", "quorum_up", "/etc/keepalived/current/keepalived.conf").stdout
        if f"{SCRIPTS}/quorum " not in called:
            yield f"{node.name} has the program in force, not the scripts: {called.strip()}"


def _install(scene: Scene) -> None:
    scene.moment = probe.now()
    stack.up(scene.described, scene.auth_pass, only="**install-*")


def _interrupted(scene: Scene) -> None:
    """The engine is killed while a node unpacks the program."""
    machine.run("sh", "-euc", "".join(f"lab exec {node.name} rm -rf {PROGRAM}; " for node in scene.cluster.nodes()))
    scene.moment = probe.now()
    with stack.begun(scene.described) as up:

        def begun() -> tuple[bool, str]:
            if up.poll() is not None:
                raise DeploymentError(f"the deployment ended before its installation was seen: {up.communicate()[0][-500:]}")
            found = machine.run("lab", "exec", scene.backup, "sh", "-c", f"ls -d {PROGRAM}*", check=False).stdout.split()
            return bool(found), f"found {found}"

        wait_for(f"the program on {scene.backup}", begun, INSTALLATION_S)


def _up(name: str) -> Step:
    return Step(name, "release", lambda scene: scene.deploy(lambda described: None), bounds.nothing_lost, evidence=Scene.not_in_force)


RELEASES = [
    Experiment(
        MASTER,
        (
            Step("pulumi up: back to the release with scripts", "release", _to_scripts, bounds.nothing_lost, evidence=_scripts_in_force),
            Step("pulumi up: the program installed beside the scripts", "release", _install, bounds.nothing_lost, evidence=_scripts_in_force),
            Step("a server's process gone, the program installed beside the scripts", "server", on_backup("systemctl stop lab-workload"),
                 bounds.server_lost, backup_out),
            Step("that process back, the program installed beside the scripts", "server back", on_backup("systemctl start lab-workload"),
                 bounds.server_back),
            _up("pulumi up: the program in place of the scripts"),
            # systemd runs the units of the program, which the scripts' release had replaced.
            Step("keepalived restarted, the program in place of the scripts", "planned", on_owner("systemctl restart keepalived"), bounds.nothing_lost),
            Step("pulumi up: back to the scripts once more", "release", _to_scripts, bounds.nothing_lost, evidence=_scripts_in_force),
            Step("the engine killed while it installs the program", "release", _interrupted, bounds.nothing_lost, evidence=_scripts_in_force),
            _up("the next pulumi up after an interrupted installation"),
        ),
    ),
]  # fmt: skip
