"""The stacks in the project's folder: whatever they say, the model accepts them, and so do a real keepalived and nft.

`make test` takes both programs from the lab's root file system, `make test-stacks` (NODE_ROOT=/) those that are installed here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import jsonschema
import pytest
import yaml

from components.configuration import MiscCheck, schema
from operations import render
from tests.unit.node_root import Node, node

PROJECT = Path(__file__).parents[2]
STACKS = sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in PROJECT.glob("Pulumi.*.yaml"))
SHELLCHECK = Path(sys.executable).parent / "shellcheck"


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    root = Path(os.environ["NODE_ROOT"]) if "NODE_ROOT" in os.environ else None
    if root and (lacking := [program for program in ("keepalived", "nft") if not (root / "usr/sbin" / program).exists()]):
        _not_here(f"{' and '.join(lacking)} not installed: apt-get install keepalived nftables")
    if os.geteuid():
        _not_here("only root can make the node's namespaces: sudo make test-stacks")
    with node(root=root) as made:
        yield made


def _not_here(reason: str) -> None:
    """Skip what cannot run here. In CI, which sets this variable, it must run."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no real keepalived has read the stacks; {reason}")


@pytest.mark.parametrize("stack", STACKS)
def test_a_committed_stack_renders(stack: str) -> None:
    assert set(render.files(PROJECT, stack)) == {host.name for host in render.cluster(PROJECT, stack).nodes()}


@pytest.mark.parametrize("stack", STACKS)
def test_the_schema_accepts_a_committed_stack(stack: str) -> None:
    given = json.loads(json.dumps(yaml.safe_load((PROJECT / f"Pulumi.{stack}.yaml").read_text()), default=str))
    jsonschema.Draft7Validator(schema.schema()).validate(given)


@pytest.mark.parametrize("stack", STACKS)
def test_a_real_keepalived_and_nft_accept_a_committed_stack(real: Node, stack: str) -> None:
    cluster = render.cluster(PROJECT, stack)
    for interface in {host.interface for host in cluster.nodes()}:
        real.sh(f"[ -e /sys/class/net/{interface} ] || ip link add {interface} type veth")
    # What only a host can know, such as its users, is not asked here.
    checks = [service.health_check for vip in cluster.vips.values() for service in vip.services]
    for user in {check.user for check in checks if isinstance(check, MiscCheck)}:
        real.sh(f"id {quote(user)} >/dev/null 2>&1 || echo {quote(user)}:x:60000:60000::/:/bin/sh >>/etc/passwd")
    for host in cluster.nodes():
        real.accepts(cluster, host.name, PROJECT)


@pytest.mark.parametrize("stack", STACKS)
def test_shellcheck_accepts_the_check_scripts_of_a_committed_stack(tmp_path: Path, stack: str) -> None:
    render.write(render.files(PROJECT, stack), tmp_path)
    scripts = [path for path in sorted(tmp_path.glob("*/checks/*")) if path.read_text().partition("\n")[0].endswith("sh")]
    done = subprocess.run([SHELLCHECK, "--version" if not scripts else "--", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
