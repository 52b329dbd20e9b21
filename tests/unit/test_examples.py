"""The examples: every stack is accepted, rendered, read by a real keepalived and nft, and deployed with mocks; the pages' commands run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components import keepalived
from components.configuration import Cluster, schema
from operations import render
from tests.unit.node_root import Node, node
from tests.unit.recording import Deploy, Deployment
from tests.unit.test_program import commands, run

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
STACKS = {path.name.removeprefix("Pulumi.").removesuffix(".yaml"): path for path in sorted(EXAMPLES.glob("*/Pulumi.*.yaml"))}
PAGES = sorted(EXAMPLES.glob("*/README.md"))
RUNS_HERE = ("cp examples/", "diff ", "python -m operations render ", "python -m operations machine-config ")
"""How a page's command begins that needs neither a cloud nor a host."""


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    with node() as made:
        yield made


def described(stack: str) -> dict[str, Any]:
    given: dict[str, Any] = yaml.safe_load(STACKS[stack].read_text())["config"]["openshift-lvs:cluster"]
    return given


def cluster(stack: str) -> Cluster:
    return render.read(STACKS[stack])


def test_every_example_has_a_stack_and_a_page_and_is_in_the_list() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert {path.parent.name for path in STACKS.values()} == {page.parent.name for page in PAGES} == folders
    assert set(re.findall(r"^\| \[([\w-]+)\]", (EXAMPLES / "README.md").read_text(), re.MULTILINE)) == folders


@pytest.mark.parametrize("stack", STACKS)
def test_an_example_renders_for_every_host_without_a_warning(stack: str) -> None:
    hosts = render.files(STACKS[stack].parent, stack)
    assert set(hosts) == {host.name for host in cluster(stack).nodes()}
    assert all(hosts.values())
    assert render.warnings(STACKS[stack]) == []


@pytest.mark.parametrize("stack", STACKS)
def test_the_schema_accepts_an_example_and_the_example_names_it(stack: str) -> None:
    text = STACKS[stack].read_text()
    jsonschema.Draft7Validator(schema.schema()).validate(json.loads(json.dumps(yaml.safe_load(text), default=str)))
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named and (STACKS[stack].parent / named[1]).resolve() == PROJECT / schema.NAME


@pytest.mark.parametrize("stack", STACKS)
def test_a_real_keepalived_and_nft_accept_an_example(real: Node, stack: str) -> None:
    whole = cluster(stack)
    for interface in {host.interface for host in whole.nodes()}:
        real.sh(f"[ -e /sys/class/net/{interface} ] || ip link add {interface} type veth")
    for host in whole.managed():
        real.accepts(whole, host)
    for host in {host.name for host in whole.nodes()} - set(whole.managed()):
        files = {file.path: file.text for file in keepalived.render(whole, host)}
        real.write("/server.nft", files["server.nft"])
        real.sh("nft --check --file /server.nft")
        real.sh("bash -n", stdin=files["own-calls"])


def deployed(deploy: Deploy, stack: str) -> Deployment:
    return run(deploy, described(stack))


@pytest.mark.parametrize("stack", STACKS)
def test_an_example_deploys(deploy: Deploy, stack: str) -> None:
    done, whole = deployed(deploy, stack), cluster(stack)
    activated = {name.removeprefix("activate-") for name in commands(done) if name.startswith("activate-")}
    assert activated == set(whole.managed())
    assert set(done.of("Instance")) - {"ssh-bastion"} == {host.name for host in whole.nodes() if host.created}
    assert {name for name in done.of("Port") if name in {host.name for host in whole.nodes()}} == {
        host.name for host in whole.nodes() if not host.pool.existing
    }
    asked = {name for name, proof in done.returned["proofs"].items() if proof != "not asked"}
    assert asked == {name for name, vip in whole.vips.items() if vip.answers_within}


def test_existing_hosts_create_nothing_and_are_reached_as_each_host_says(deploy: Deploy) -> None:
    done = deployed(deploy, "existing-hosts")
    assert not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    reached = {command.inputs["connection"]["host"]: command.inputs["connection"]["user"] for command in commands(done).values()}
    assert reached == {"192.0.2.11": "admin", "192.0.2.12": "admin", "198.51.100.13": "ops"}


def test_the_installed_openshift_differs_by_the_bootstrap_host_and_the_proof_alone() -> None:
    before, after = described("openshift-upi"), described("openshift-upi-installed")
    del before["pools"]["ocp"]["hosts"]["bootstrap"]
    for vip in before["vips"].values():
        assert vip.pop("answers_within") == 0
        for service in vip["services"]:
            service["weights"].pop("bootstrap", None)
    assert before == after


def test_the_api_of_openshift_is_served_by_the_bootstrap_host_until_it_is_removed() -> None:
    def api_servers(stack: str) -> set[str]:
        whole = cluster(stack)
        return {name for name in whole.pools["ocp"].hosts if whole.vips["api"].services[0].weight(name)}

    assert api_servers("openshift-upi") - api_servers("openshift-upi-installed") == {"bootstrap"}
    assert api_servers("openshift-upi-installed") == {"master0", "master1", "master2"}


def test_the_installation_of_openshift_ends_without_a_new_file_on_the_nodes() -> None:
    during, after = cluster("openshift-upi"), cluster("openshift-upi-installed")
    assert keepalived.server_files(during, "ocp") == keepalived.server_files(after, "ocp")


def test_the_database_page_shows_a_vip_that_works_beside_the_first() -> None:
    page = (EXAMPLES / "database" / "README.md").read_text()
    shown = re.search(r"^    replicas:\n(?:    .*\n)+", page, re.MULTILINE)
    assert shown
    data = described("database")
    data["vips"] |= yaml.safe_load(shown[0])
    whole = Cluster.parse(data)
    assert [vip.services[0].expected_servers for vip in whole.vips.values()] == [1, 2]
    assert not any(vip.services[0].fails_open(whole.pools["pg"].hosts) for vip in whole.vips.values())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_a_page_names_its_systems_and_where_the_example_was_deployed(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"^\*\*Operating systems", text, re.MULTILINE)
    assert "RHCOS" in text and "Red Hat 7" in text
    assert len(re.findall(r"^\*\*Deployed\*\* (?:on the lab's nodes \(experiment kind `example`\)|with mocks only)", text, re.MULTILINE)) == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_the_commands_of_a_page_that_need_no_cloud_run(tmp_path: Path, page: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    (tmp_path / "install" / "openshift").mkdir(parents=True)
    (tmp_path / "install" / "bootstrap.ign").write_text('{"ignition": {"version": "3.2.0"}}')
    lines = [line.strip() for line in re.findall(r"^    (\S.*)$", page.read_text(), re.MULTILINE)]
    here = [line for line in lines if line.startswith(RUNS_HERE)]
    assert any(line.startswith("cp examples/") for line in here) and any("operations render" in line for line in here)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(PROJECT)}
    for line in here:
        done = subprocess.run(["sh", "-euc", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.stat().st_size] == []
