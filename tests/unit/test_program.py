"""The whole program, run on a cloud and nodes that only record: what is made, in which order, what is shown and what is not."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from components.configuration import Cluster
from components.load_balancer import roll_out_order
from tests.unit.conftest import with_password
from tests.unit.recording import Deploy, Deployment, Registered

PROGRAM = Path(__file__).parents[2] / "__main__.py"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PRIVATE_KEY = KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
PUBLIC_KEY = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
SEED = "the-seed-of-the-host-keys"
PASSWORD = "p4ssw0rd"  # noqa: S105 (a test's)
SECRETS = {"ssh_private_key": PRIVATE_KEY, "host_key_seed": SEED}


def run(deploy: Deploy, data: dict[str, Any], secrets: dict[str, str] = SECRETS, into: Deployment | None = None) -> Deployment:
    """Run `__main__.py` on a stack's configuration; `returned` holds the stack's outputs."""
    given = {"cluster": json.dumps(data), **secrets}

    def program() -> dict[str, Any]:
        pulumi.runtime.set_all_config({f"openshift-lvs:{key}": value for key, value in given.items()}, [f"openshift-lvs:{key}" for key in secrets])
        root = pulumi.runtime.get_root_resource()
        assert isinstance(root, pulumi.runtime.stack.Stack)
        root.outputs.clear()  # those of the run before
        runpy.run_path(str(PROGRAM))
        return dict(root.outputs)

    return deploy(program, into=into)


def existing(article: dict[str, Any]) -> dict[str, Any]:
    for pool in article["pools"].values():
        pool.update(existing=True, hosts={name: {"address": address, "host_key": PUBLIC_KEY} for name, address in pool["hosts"].items()})
    return article


def commands(done: Deployment) -> dict[str, Registered]:
    return done.of("Command")


def test_the_outputs_say_where_the_addresses_are_and_what_each_host_is(deploy: Deploy, article: dict[str, Any]) -> None:
    outputs = run(deploy, article).returned
    assert outputs["endpoints"]["master"] == {
        "address": "192.168.0.250",
        "floating_ip": "203.0.113.10",
        "services": ["192.168.0.250:8443/TCP"],
        "owner": "master0",
        "takeover_seconds": 1.036,
        "eviction_seconds": 1.9,
        "recovery_seconds": 1.9,
    }
    assert outputs["endpoints"]["infra"]["services"] == ["192.168.0.251:80/TCP", "192.168.0.251:443/TCP"]
    assert outputs["hosts"]["master0"] | {"host_key": ""} == {
        "address": "192.168.0.2",
        "host_key": "",
        "pool": "master",
        "roles": ["director", "real server"],
        "owner_of": ["master"],
    }
    assert outputs["hosts"]["infra1"]["owner_of"] == []
    assert outputs["proofs"].keys() == {"master", "infra"}


def test_no_command_starts_before_its_server_and_the_whole_network(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["reserved"] = {"bastion": "192.168.0.100"}
    done = run(deploy, article)
    assert commands(done)
    for name, command in commands(done).items():
        before = done.before(command)
        # At the end the other way round: what a command undoes is undone through a bastion that is still there.
        assert {"Port reserved-bastion", "RouterInterface router", "SecGroupRule vrrp-from-192.168.0.2/32", "Port vip-master"} <= before, name
        host = next(host for host, address in addresses(article).items() if command.inputs["connection"]["host"] == address)
        assert f"Instance {host}" in before, name


def addresses(data: dict[str, Any]) -> dict[str, str]:
    return {node.name: str(node.host.address) for node in Cluster.parse(data).nodes()}


def test_every_host_is_staged_before_the_first_of_its_pool_changes_and_backups_change_before_owners(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    for pool, order in (("master", ["master1", "master2", "master0"]), ("infra", ["infra1", "infra0"])):
        assert roll_out_order(Cluster.parse(article), pool) == order
        staged = {f"Command deliver-{host}" for host in order}
        for index, host in enumerate(order):
            before = done.before(commands(done)[f"activate-{host}"])
            assert staged <= before
            assert {part for part in before if part.startswith("Command activate-")} == {f"Command activate-{earlier}" for earlier in order[:index]}


def test_the_proof_comes_when_all_of_the_pool_is_active_and_asks_from_outside_the_pool(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    proof = commands(done)["proof-master"]
    assert {f"Command activate-{host}" for host in ("master0", "master1", "master2")} <= done.before(proof)
    assert proof.inputs["connection"]["host"] == "192.168.0.5"


def test_every_connection_verifies_the_host_key_of_the_host_and_of_the_bastion(deploy: Deploy, article: dict[str, Any]) -> None:
    article["ssh"]["bastion"] = {"host": "198.51.100.1", "host_key": PUBLIC_KEY}
    done = run(deploy, article)
    keys = {host["address"]: host["host_key"] for host in done.returned["hosts"].values()}
    for command in commands(done).values():
        connection = command.inputs["connection"]
        assert connection["hostKey"] == keys[connection["host"]] and connection["hostKey"].startswith("ssh-ed25519 ")
        assert connection["proxy"]["hostKey"] == PUBLIC_KEY


def test_a_host_is_reached_at_its_own_ssh_address_as_its_own_user(deploy: Deploy, article: dict[str, Any]) -> None:
    existing(article)
    article["pools"]["infra"]["hosts"]["infra0"].update(ssh_address="10.20.0.5", ssh_user="root")
    done = run(deploy, article, {"ssh_private_key": PRIVATE_KEY})
    found = {name: (command.inputs["connection"]["host"], command.inputs["connection"]["user"]) for name, command in commands(done).items()}
    assert found["activate-infra0"] == ("10.20.0.5", "root") and found["activate-infra1"] == ("192.168.0.6", "debian")
    assert commands(done)["activate-infra0"].inputs["create"].startswith("sh -c ")
    assert commands(done)["activate-infra1"].inputs["create"].startswith("sudo -n sh -c ")


def test_what_is_secret_is_marked_so_wherever_it_goes(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, with_password(article), {**SECRETS, "auth_pass": json.dumps({"master": PASSWORD})})
    told = PRIVATE_KEY.splitlines()[2]
    for resource in done.resources:
        for key, value in resource.inputs.items():
            if key not in resource.secrets:
                assert not [secret for secret in (told, PASSWORD, SEED, "PRIVATE KEY") if secret in json.dumps(value)], f"{resource.name}: {key}"
    assert any(PASSWORD in str(command.inputs.get("stdin")) for command in commands(done).values()), "the password reaches the nodes by stdin"


def test_the_files_of_a_node_are_shown_by_a_preview(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, with_password(article), {**SECRETS, "auth_pass": json.dumps({"master": PASSWORD})})
    for name, command in commands(done).items():
        if name.startswith("deliver-"):
            assert "stdin" not in command.secrets and "create" not in command.secrets, name


def test_a_change_is_an_update_in_place_so_no_command_has_triggers_or_another_update(deploy: Deploy, article: dict[str, Any]) -> None:
    for command in commands(run(deploy, article)).values():
        assert command.inputs.keys().isdisjoint({"triggers", "update", "environment"})
        assert command.inputs["addPreviousOutputInEnv"] is False


def test_a_changed_check_touches_the_files_of_its_pool_and_nothing_in_the_cloud(deploy: Deploy, article: dict[str, Any]) -> None:
    before = {resource.urn: resource for resource in run(deploy, article).resources}
    article["vips"]["infra"]["services"][1]["health_check"]["connect_timeout"] = 2
    after = {resource.urn: resource for resource in run(deploy, article).resources}
    assert before.keys() == after.keys()
    changed = {resource.name for urn, resource in after.items() if resource.inputs != before[urn].inputs}
    assert changed == {f"{verb}-{host}" for verb in ("deliver", "activate") for host in ("infra0", "infra1")} | {
        "return-infra-from-infra1",
        "check-adverts-infra-on-infra0",
        "check-adverts-infra-on-infra1",
        "proof-infra",
    }


def test_a_stack_of_existing_hosts_asks_no_cloud_and_makes_nothing_in_it(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, existing(article), {"ssh_private_key": PRIVATE_KEY})
    assert not done.looked_up and not [resource for resource in done.resources if resource.type.startswith("openstack:")]
    assert {name for name in commands(done) if name.startswith("activate-")} == {f"activate-{host}" for host in addresses(article)}


@pytest.mark.parametrize(
    ("secrets", "says"),
    [
        ({"host_key_seed": SEED}, "openshift-lvs:ssh_private_key: missing; the private key that opens the nodes: pulumi config set --secret"),
        ({"ssh_private_key": PRIVATE_KEY}, "openshift-lvs:host_key_seed: missing; the seed of the ssh host keys: pulumi config set --secret"),
        ({**SECRETS, "host_key_seed": "fifteen-letters"}, "openshift-lvs:host_key_seed: has 15 characters and needs at least 16"),
        ({**SECRETS, "ssh_private_key": "none"}, "openshift-lvs:ssh_private_key: not an OpenSSH private key without a passphrase"),
        ({**SECRETS, "auth_pass": '{"master": "p4ssw0rd"}'}, "openshift-lvs:auth_pass.master: no VIP of that name has `authentication`"),
    ],
)
def test_a_missing_or_wrong_secret_is_refused_before_anything_is_made(deploy: Deploy, article: dict[str, Any], secrets: dict[str, str], says: str) -> None:
    done = Deployment()
    with pytest.raises(pulumi.RunError) as refused:
        run(deploy, article, secrets, done)
    assert str(refused.value).startswith(says)
    assert not done.resources and not done.looked_up


STACK_FILE = "Pulumi.unit-tests.yaml"


def test_a_refusal_names_the_line_in_the_file_of_the_stack(deploy: Deploy, article: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    article["vips"]["master"]["owner"] = "infra0"
    text = yaml.safe_dump({"config": {"openshift-lvs:cluster": article}}, sort_keys=False)
    (tmp_path / STACK_FILE).write_text(text)
    line = text.splitlines().index("        owner: infra0") + 1
    with pytest.raises(pulumi.RunError, match=rf"^Pulumi\.unit-tests\.yaml:{line}: vips\.master\.owner: 'infra0' is not a director"):
        run(deploy, article)


@pytest.mark.parametrize("text", ["config: {'openshift-lvs:cluster': {network: {cidr: 192.168.0.0/24}}}", "config: [", "", "\udcff"])
def test_a_refusal_names_no_line_of_a_file_that_pulumi_did_not_read(
    deploy: Deploy, article: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / STACK_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    article["vips"]["master"]["owner"] = "infra0"
    with pytest.raises(pulumi.RunError, match=r"^vips\.master\.owner: "):
        run(deploy, article)


def test_a_cluster_that_cannot_work_is_refused_before_anything_is_made(deploy: Deploy, article: dict[str, Any]) -> None:
    done = Deployment()
    article["vips"]["master"]["owner"] = "infra0"
    with pytest.raises(pulumi.RunError, match=r"^vips\.master\.owner: 'infra0' is not a director"):
        run(deploy, article, into=done)
    assert not done.resources and not done.looked_up


KEPT = {"FloatingIp", "Instance", "Network", "Port", "Router", "Subnet"}


def test_protect_keeps_what_cannot_be_made_again_as_it_was_and_nothing_else_changes(deploy: Deploy, article: dict[str, Any]) -> None:
    article["network"]["reserved"] = {"registry": "192.168.0.100"}
    article["ssh"].update(bastion={"image": "debian-13", "flavor": "m1.small"}, allowed_cidrs=["198.51.100.0/24"])
    before = {resource.urn: resource for resource in run(deploy, article).resources}
    assert not any(resource.protect for resource in before.values()), "off by default"
    article["protect"] = True
    after = {resource.urn: resource for resource in run(deploy, article).resources}
    assert {urn: resource.inputs for urn, resource in after.items()} == {urn: resource.inputs for urn, resource in before.items()}
    openstack = [resource for resource in after.values() if resource.type.startswith("openstack:")]
    assert {resource.name for resource in openstack if resource.protect} >= {
        "master0",
        "infra1",
        "vip-master",
        "reserved-registry",
        "network",
        "subnet",
        "router",
    }
    for resource in after.values():
        kind = resource.type.rpartition(":")[2]
        # A bastion can be created again without a loss.
        kept = kind in KEPT and resource.type.startswith("openstack:") and resource.name != "ssh-bastion"
        assert resource.protect is kept, f"{kind} {resource.name}"


def test_existing_hosts_have_nothing_to_protect(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, existing(article) | {"protect": True})
    assert done.resources and not any(resource.protect for resource in done.resources)
