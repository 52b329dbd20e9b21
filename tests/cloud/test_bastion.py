"""A stack from nothing through a bastion that the program creates: `pulumi` is on the external network and reaches no node directly.

Before the tests of the example cluster, because the local cloud has no space for both.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import cloud, local
from lab.phases import Phases
from lab.stack import Stack
from tests.cloud.conftest import infra_alone

OPERATOR = "203.0.113.11/32"
NODE, REPOSITORY = "192.168.0.5", "192.168.0.100"


def small() -> dict[str, Any]:
    """The infra pool of the example cluster, and a bastion to create instead of the one at the edge of the lab's cloud."""
    cluster = infra_alone()
    cluster["ssh"] = {"user": "root", "allowed_cidrs": [OPERATOR], "bastion": {"image": "debian-12", "flavor": "m1.medium"}}
    return cluster


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """The stack, made by one `pulumi up` on an empty project."""
    cloud.up(Phases())
    made = Stack("bastion", cloud.state() / "stack-bastion", cloud.enter(), {"OS_CLIENT_CONFIG_FILE": str(cloud.clouds_yaml())})
    made.prepare(small(), cloud.operator_key().read_text(), {local.CREDENTIALS: "local"})
    made.run("up", "--yes", "--skip-preview")
    yield made
    # Also after a failed test: the example cluster needs the space.
    made.run("destroy", "--yes", "--skip-preview")


def through(stack: Stack, *words: str) -> subprocess.CompletedProcess[str]:
    """What ssh to the bastion says."""
    bastion = stack.outputs()["bastion"]
    known = Path(stack.folder / "bastion_known_hosts")
    known.write_text(f"{bastion['host']} {bastion['host_key']}\n")
    options = ["-F/dev/null", f"-oUserKnownHostsFile={known}", "-oStrictHostKeyChecking=yes", "-oBatchMode=yes", f"-i{cloud.operator_key()}"]
    command = [*cloud.enter(), "ssh", *options, f"{bastion['user']}@{bastion['host']}", *words]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=60)


def test_up_from_nothing_ends_with_every_request_from_outside_answered(stack: Stack) -> None:
    endpoint = stack.outputs()["endpoints"]["infra"]
    for port in (80, 443):
        answer = cloud.client("external", endpoint["floating_ip"], port, 200)
        assert answer["failed"] == 0 and set(answer["answers"]) == {"infra0", "infra1"}, answer


def test_operations_reach_the_nodes_through_it(stack: Stack) -> None:
    done = stack.operate("verify", identity=cloud.operator_key())
    assert done.returncode == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr


def test_it_forwards_to_ssh_of_the_subnet_and_to_nothing_else(stack: Stack) -> None:
    assert through(stack, f"-W{NODE}:22").stdout.startswith("SSH-2.0-")
    for destination in (f"{NODE}:80", f"{REPOSITORY}:80", "169.254.169.254:80", "203.0.113.10:22"):
        refused = through(stack, f"-W{destination}")
        assert refused.returncode and "prohibited" in refused.stderr, destination


@pytest.mark.parametrize("words", [["id"], ["-tt", "id"], ["-s", "sftp"]], ids=" ".join)
def test_it_gives_no_shell(stack: Stack, words: list[str]) -> None:
    refused = through(stack, *words)
    assert refused.returncode and "uid=" not in refused.stdout


def test_another_client_does_not_reach_it(stack: Stack) -> None:
    answer = cloud.client("external", stack.outputs()["bastion"]["host"], 22, 1, timeout_s=3)
    assert answer["failed"] == 1, answer


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    said = stack.run("up", "--yes", "--skip-preview", "--expect-no-changes")
    assert "unchanged" in said


def test_destroy_removes_it_too(stack: Stack) -> None:
    stack.run("destroy", "--yes", "--skip-preview")
    script = Path(__file__).parent / "tenant.py"
    done = subprocess.run([*cloud.enter(), sys.executable, str(script)], env=stack.environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    left = {kind: [resource.get("name") for resource in found] for kind, found in yaml.safe_load(done.stdout).items()}
    assert left.pop("security_groups") == ["default"]
    assert not any(left.values()), left
