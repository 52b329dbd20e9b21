"""What a preview may not do unseen: lose a server, a port or an address pair. The last test asks the real engine and provider, which need no cloud for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.configuration import ConfigurationError
from operations import preview
from tests.unit.test_engine import built as built
from tests.unit.test_engine import pulumi as pulumi
from tests.unit.test_pull_request import DUAL_STACK, Change, git
from tests.unit.test_pull_request import change as change
from tests.unit.test_pull_request import repository as repository

SERVERS = "openshift-lvs:index:Servers$"
TYPES = {
    "Instance": f"{SERVERS}openstack:compute/instance:Instance",
    "Port": f"{SERVERS}openstack:networking/port:Port",
    "SecGroupRule": "openshift-lvs:index:Network$openstack:networking/secGroupRule:SecGroupRule",
    "Network": "openshift-lvs:index:Network$openstack:networking/network:Network",
    "Bastion": "openshift-lvs:index:Bastion$openstack:compute/instance:Instance",
    "Component": "openshift-lvs:index:Network",
    "Command": "openshift-lvs:index:LoadBalancer$command:remote:Command",
}


def step(operation: str, kind: str, name: str, before: Any = None, after: Any = None) -> dict[str, Any]:
    """A step as `pulumi preview --json` has it."""
    state = {"type": TYPES[kind].rpartition("$")[2], "custom": True}
    return {
        "op": operation,
        "urn": f"urn:pulumi:dev::openshift-lvs::{TYPES[kind]}::{name}",
        "oldState": {**state, "inputs": before or {}},
        "newState": {**state, "inputs": after or {}},
    }


def pairs(*addresses: str) -> dict[str, Any]:
    return {"allowedAddressPairs": [{"__defaults": [], "ipAddress": address} for address in addresses]}


def found(*steps: dict[str, Any], removed: set[str] = frozenset(), allowed: tuple[str, ...] = ()) -> list[str]:  # type: ignore[assignment]
    return [f"{refusal.resource}: {refusal.text}" for refusal in preview.check({"steps": list(steps)}, removed, allowed)]


@pytest.mark.parametrize("operation", ["replace", "create-replacement", "delete-replaced"])
@pytest.mark.parametrize(("kind", "name"), [("Instance", "master0"), ("Port", "master0"), ("Port", "vip-master"), ("Network", "network")])
def test_a_replaced_server_port_reservation_or_network_is_refused(operation: str, kind: str, name: str) -> None:
    (refusal,) = found(step(operation, kind, name), removed={name})
    assert refusal.startswith(f"{kind} {name}: would be replaced")


def test_a_step_that_says_a_replacement_twice_is_refused_once() -> None:
    assert len(found(step("create-replacement", "Instance", "master0"), step("delete-replaced", "Instance", "master0"))) == 1


def test_a_removed_address_pair_is_refused_and_a_new_one_is_not() -> None:
    (refusal,) = found(step("update", "Port", "master0", pairs("192.168.0.250", "10.0.0.0/8"), pairs("192.168.0.250", "0.0.0.0/0")))
    assert refusal.startswith("Port master0: would lose the allowed address pair 10.0.0.0/8")
    assert found(step("update", "Port", "master0", pairs("192.168.0.250"), pairs("192.168.0.250", "10.0.0.0/8"))) == []
    (refusal,) = found(step("update", "Port", "master0", pairs("192.168.0.250"), {}))
    assert "192.168.0.250" in refusal, "the last pair is gone with the whole list"


def test_a_deleted_host_is_refused_unless_the_change_removes_it() -> None:
    steps = [step("delete", "Instance", "infra1"), step("delete", "Port", "infra1")]
    assert [refusal.split(":")[0] for refusal in found(*steps)] == ["Instance infra1", "Port infra1"]
    assert found(*steps, removed={"infra1"}) == []
    assert len(found(*steps, removed={"infra0"})) == 2


def test_what_can_be_made_again_may_be_deleted_and_replaced() -> None:
    steps = [step("delete", "SecGroupRule", "tcp-80-from-10.0.0.0/8"), step("replace", "Command", "deliver-master0"), step("same", "Instance", "master0")]
    assert found(*steps, step("create", "Instance", "infra2"), step("update", "Instance", "master0")) == []
    assert found(step("replace", "Bastion", "ssh-bastion"), step("delete", "Bastion", "ssh-bastion")) == []
    assert found(step("delete", "Component", "network"), step("read", "Port", "master0"), step("refresh", "Port", "master0")) == []


def test_a_resource_that_is_allowed_by_name_passes_and_no_other() -> None:
    steps = [step("replace", "Port", "vip-master"), step("replace", "Port", "vip-infra")]
    assert [refusal.split(":")[0] for refusal in found(*steps, allowed=("Port vip-master",))] == ["Port vip-infra"]


def test_the_names_that_a_change_removes_come_from_the_two_configurations(repository: Path, change: Change) -> None:
    assert preview.removed_names(repository, "dev", "main") == set()
    change("Pulumi.dev.yaml", "infra0: 192.168.0.5, infra1: 192.168.0.6", "infra0: 192.168.0.5, infra2: 192.168.0.7")
    change("Pulumi.dev.yaml", "      infra:\n        address:", "      routers:\n        address:")
    assert preview.removed_names(repository, "dev", "main") == {"infra1", "management-infra1", "vip-infra"}
    assert preview.removed_names(repository, "new", "main") == set(), "a stack without a file on either side"
    with pytest.raises(ConfigurationError, match=r"^--base: 'origin/main' is not a commit here; fetch it first"):
        preview.removed_names(repository, "dev", "origin/main")


def test_the_port_and_the_subnet_of_a_second_family_may_go_with_the_keys_that_name_them(repository: Path, change: Change) -> None:
    shutil.copy(DUAL_STACK, repository / "Pulumi.both.yaml")
    git(repository, "add", "Pulumi.both.yaml")
    git(repository, "commit", "--quiet", "--message=both")
    change("Pulumi.both.yaml", "        address_v6: fd00:0:0:1::250\n", "")
    assert preview.removed_names(repository, "both", "HEAD~1") == {"vip-master-v6"}
    change("Pulumi.both.yaml", "      cidr_v6: fd00:0:0:1::/64\n", "")
    assert preview.removed_names(repository, "both", "HEAD~2") == {"vip-master-v6", "subnet-v6"}
    git(repository, "rm", "--quiet", "Pulumi.both.yaml")
    assert {"vip-master", "vip-master-v6", "vip-new", "subnet-v6"} <= preview.removed_names(repository, "both", "HEAD~2")


def test_the_port_of_an_additional_address_may_go_with_the_address(repository: Path, change: Change) -> None:
    shutil.copy(DUAL_STACK, repository / "Pulumi.both.yaml")
    git(repository, "add", "Pulumi.both.yaml")
    git(repository, "commit", "--quiet", "--message=both")
    second = "        address_v6: fd00:0:0:1::250\n"
    change("Pulumi.both.yaml", second, f"{second}        additional_addresses: [192.168.0.252, 192.168.0.253, 'fd00:0:0:1::252']\n")
    assert preview.removed_names(repository, "both", "HEAD~1") == set()
    change("Pulumi.both.yaml", "[192.168.0.252, 192.168.0.253, 'fd00:0:0:1::252']", "[192.168.0.253]")
    assert preview.removed_names(repository, "both", "HEAD~1") == {"vip-master-192.168.0.252", "vip-master-v6-fd00.0000.0000.0001.0000.0000.0000.0252"}


@pytest.mark.parametrize("text", [b"config: \xff\n", b"config: [\n", b"config: 2026-13-01\n"])
def test_a_configuration_that_cannot_be_read_is_named(repository: Path, text: bytes) -> None:
    (repository / "Pulumi.dev.yaml").write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"^Pulumi\.dev\.yaml: not YAML in UTF-8"):
        preview.removed_names(repository, "dev", "main")
    git(repository, "commit", "--quiet", "--all", "--message=broken")
    with pytest.raises(ConfigurationError, match=r"^Pulumi\.dev\.yaml of HEAD: not YAML in UTF-8"):
        preview.removed_names(repository, "dev", "HEAD")


def test_a_stack_that_is_removed_names_all_of_its_hosts(repository: Path, change: Change) -> None:
    git(repository, "mv", "Pulumi.dev.yaml", "Pulumi.prod.yaml")
    git(repository, "commit", "--quiet", "--message=renamed")
    assert "master0" in preview.removed_names(repository, "dev", "main")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("error: no stack", "not JSON"),
        ("{}", "has no steps"),
        ('{"steps": [{"op": "same"}]}', "has no steps"),
        ("[]", "has no"),
        ('{"steps": [{"op": "same", "urn": "master0"}]}', "has no steps"),
    ],
)
def test_a_file_that_is_no_preview_is_named_and_never_passes(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "preview.json").write_text(text)
    with pytest.raises(ConfigurationError, match=f"preview.json: {says}"):
        preview.read(tmp_path / "preview.json")
    with pytest.raises(ConfigurationError, match="No such file"):
        preview.read(tmp_path / "none.json")


def test_the_command_prints_each_refusal_with_its_remedy_and_ends_with_1(repository: Path) -> None:
    (repository / "preview.json").write_text(json.dumps({"steps": [step("replace", "Port", "vip-master")]}))
    command = [sys.executable, "-m", "operations", "check-preview", "preview.json", "--stack", "dev", "--base", "main"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 1 and "refused  Port vip-master: would be replaced" in done.stdout
    assert "--allow 'Port vip-master'" in done.stdout
    shown = subprocess.run([*command, "--json"], cwd=repository, capture_output=True, text=True)
    assert shown.returncode == 1 and json.loads(shown.stdout)["result"] == "failed"
    assert [(each["subject"], each["result"]) for each in json.loads(shown.stdout)["findings"]] == [("Port vip-master", "failed")]
    assert subprocess.run([*command, "--allow", "Port vip-master"], cwd=repository).returncode == 0


PROGRAM = """
import pulumi
from pulumi_openstack import compute, networking

pairs = [{{"ip_address": address}} for address in {pairs!r}]
port = networking.Port("master0", network_id="net", fixed_ips=[{{"subnet_id": "sub", "ip_address": "192.168.0.2"}}], allowed_address_pairs=pairs)
compute.Instance("master0", name="master0", flavor_name="m1", image_id="i", networks=[{{"port": port.id}}], config_drive={drive!r})
reserved = [{{"subnet_id": "sub", "ip_address": {address!r}}}]
networking.Port("vip-master", network_id="net", fixed_ips=reserved, opts=pulumi.ResourceOptions(replace_on_changes=["fixed_ips"]))
"""
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""How the engine's JSON says that a value is not known yet (pulumi/pulumi, sdk/go/common/resource/plugin: UnknownStringValue)."""
PROVIDER = "11111111-1111-4111-8111-111111111111"
AUTH_URL = "http://127.0.0.1:9/v3"
"""Nothing listens there: the provider asks the cloud only when it makes or reads something."""


def test_the_engines_own_preview_of_a_replaced_port_and_server_a_lost_pair_and_a_deleted_host_is_refused(pulumi: Any, tmp_path: Path) -> None:
    def previewed(program: str) -> dict[str, Any]:
        (tmp_path / "__main__.py").write_text(program)
        printed: dict[str, Any] = json.loads(pulumi("preview", "--json"))
        return printed

    pulumi("config", "set", "openstack:authUrl", AUTH_URL)
    before = {"pairs": ["192.168.0.250", "10.0.0.0/8"], "address": "192.168.0.250", "drive": True}
    first = previewed(PROGRAM.format(**before))
    assert preview.check(first, (), ()) == [], "a new stack"

    # The state that this deployment would leave, with an id for each resource.
    states = [{key: state[key] for key in state if key not in ("sourcePosition", "stackTrace")} for state in (step["newState"] for step in first["steps"])]
    reference = next(state["provider"] for state in states if "provider" in state)
    for state in states:
        if state["custom"]:
            state.update(id=f"{state['urn'].rpartition('::')[2]}-id", outputs={**state["inputs"]}, provider=reference.replace(UNKNOWN, PROVIDER))
    inputs = {"authUrl": AUTH_URL, "version": "5.5.3"}
    urn = reference.rpartition("::")[0]
    provider = {"urn": urn, "custom": True, "id": PROVIDER, "type": "pulumi:providers:openstack", "inputs": inputs, "outputs": inputs}
    ordered = sorted(states, key=lambda state: (state["custom"], "Instance" in state["type"]))
    deployment = json.loads(pulumi("stack", "export"))
    deployment["deployment"]["resources"] = [ordered[0], provider, *json.loads(json.dumps(ordered[1:]).replace(UNKNOWN, "master0-id"))]
    (tmp_path / "state.json").write_text(json.dumps(deployment))
    pulumi("stack", "import", "--file", "state.json")

    assert preview.check(previewed(PROGRAM.format(**before)), (), ()) == []
    changed = previewed(PROGRAM.format(pairs=["192.168.0.250"], address="192.168.0.249", drive=False))
    assert {(refusal.resource, refusal.text.split(":")[0]) for refusal in preview.check(changed, (), ())} == {
        ("Port master0", "would lose the allowed address pair 10.0.0.0/8"),
        ("Port vip-master", "would be replaced"),
        ("Instance master0", "would be replaced"),
    }
    gone = previewed("import pulumi\n")
    assert [refusal.resource for refusal in preview.check(gone, {"vip-master"}, ())] == ["Instance master0", "Port master0"]
