"""A stack's configuration as Pulumi hands it over: what is missing or wrong is named with key, value and remedy; what is secret stays so."""

from __future__ import annotations

import base64
import json
from typing import Any

import pulumi
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from components.configuration import ConfigurationError
from components.stack import Stack
from tests.unit.conftest import with_password
from tests.unit.recording import Deploy


def openssh(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())


def locked() -> str:
    """A key with a passphrase, as far as one can see from outside (OpenSSH, PROTOCOL.key)."""

    def string(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    kdf = string(string(b"salt" * 4) + (16).to_bytes(4, "big"))
    public = string(string(b"ssh-ed25519") + string(bytes(32)))
    blob = b"openssh-key-v1\0" + string(b"aes256-ctr") + string(b"bcrypt") + kdf + (1).to_bytes(4, "big") + public + string(bytes(144))
    return f"-----BEGIN OPENSSH PRIVATE KEY-----\n{base64.b64encode(blob).decode()}\n-----END OPENSSH PRIVATE KEY-----\n"


KEY = openssh(Ed25519PrivateKey.generate())
SECRETS = {"ssh_private_key": KEY, "host_key_seed": "the-seed-of-the-host-keys"}
PASSWORD = "p4ss"  # noqa: S105 (a test's)


def read(data: Any, secrets: dict[str, str]) -> Stack:
    """The stack of this configuration."""
    given = {f"openshift-lvs:{key}": value for key, value in secrets.items()}
    cluster = {} if data is None else {"openshift-lvs:cluster": data if isinstance(data, str) else json.dumps(data)}
    pulumi.runtime.set_all_config({**cluster, **given}, list(given))
    return Stack.read(pulumi.Config("openshift-lvs"))


def refused(data: Any, secrets: dict[str, str]) -> str:
    with pytest.raises(ConfigurationError) as error:
        read(data, secrets)
    return str(error.value)


@pytest.mark.parametrize("data", [None, "[]", '"text"', "text", ""])
def test_a_stack_without_a_cluster_is_told_where_to_describe_it(data: str | None) -> None:
    assert refused(data, SECRETS) == "openshift-lvs:cluster: missing; describe the cluster in Pulumi.STACK.yaml (docs/reference/configuration.md has its keys)"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("ssh_private_kye", "unknown key; did you mean openshift-lvs:ssh_private_key? To remove it: pulumi config rm openshift-lvs:ssh_private_kye"),
        ("region", "unknown key; the keys are openshift-lvs:cluster, openshift-lvs:ssh_private_key, openshift-lvs:host_key_seed, openshift-lvs:auth_pass"),
        (
            "auth_pass.master",
            "unknown key; set it with --path, which puts it under openshift-lvs:auth_pass: pulumi config set --secret --path openshift-lvs:auth_pass.master",
        ),
    ],
)
def test_a_key_that_the_program_does_not_read_is_refused_and_its_value_not_quoted(article: dict[str, Any], key: str, said: str) -> None:
    assert refused(article, {**SECRETS, key: PASSWORD}) == f"openshift-lvs:{key}: {said}"


def test_keys_of_providers_are_not_the_programs(deploy: Deploy, article: dict[str, Any]) -> None:
    def program() -> Any:
        pulumi.runtime.set_all_config(
            {"openstack:cloud": "dev", "openshift-lvs:cluster": json.dumps(article), **{f"openshift-lvs:{key}": value for key, value in SECRETS.items()}}
        )
        return Stack.read(pulumi.Config("openshift-lvs")).cluster.needs_openstack

    assert deploy(program).returned is True


@pytest.mark.parametrize("key", ["ssh_private_key", "host_key_seed"])
def test_a_missing_secret_is_named_with_the_command_that_sets_it(article: dict[str, Any], key: str) -> None:
    said = refused(article, {name: value for name, value in SECRETS.items() if name != key})
    assert said.startswith(f"openshift-lvs:{key}: missing; ")
    assert f"pulumi config set --secret openshift-lvs:{key} " in said


def test_existing_hosts_without_a_password_need_no_seed(deploy: Deploy, article: dict[str, Any]) -> None:
    for pool in article["pools"].values():
        pool |= {"existing": True, "hosts": {name: {"address": address, "host_key": "ssh-ed25519 AAAA"} for name, address in pool["hosts"].items()}}
    assert deploy(lambda: read(article, {"ssh_private_key": KEY}).host_key_seed).returned == ""
    assert "host_key_seed: missing" in refused(with_password(article), {"ssh_private_key": KEY, "auth_pass": json.dumps({"master": PASSWORD})})


@pytest.mark.parametrize(
    "key",
    ["", "ssh-ed25519 AAAA", locked(), KEY[: len(KEY) // 2]],
    ids=["empty", "public", "with a passphrase", "half"],
)
def test_a_key_that_cannot_log_in_is_refused_and_not_quoted(article: dict[str, Any], key: str) -> None:
    said = refused(article, {**SECRETS, "ssh_private_key": key})
    assert said.startswith("openshift-lvs:ssh_private_key: ")
    assert not [line for line in key.splitlines()[1:] if line and line in said]


@pytest.mark.parametrize("key", [KEY, KEY.strip(), openssh(generate_private_key(65537, 2048))], ids=["ed25519", "no last line feed", "rsa"])
def test_the_public_key_is_derived_from_the_private_one(deploy: Deploy, article: dict[str, Any], key: str) -> None:
    public = deploy(lambda: read(article, {**SECRETS, "ssh_private_key": key}).ssh_public_key).returned
    assert public.startswith(("ssh-ed25519 AAAA", "ssh-rsa AAAA"))


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (None, "openshift-lvs:auth_pass.master: missing, and vips.master.authentication is PASS"),
        ({"master": "ninechars"}, "openshift-lvs:auth_pass.master: has 9 characters; give at most 8, because keepalived drops the rest"),
        ({"master": "two two"}, "openshift-lvs:auth_pass.master: has a blank, quote"),
        ({"master": ""}, "openshift-lvs:auth_pass.master: "),
        ({"master": PASSWORD, "infra": PASSWORD}, "openshift-lvs:auth_pass.infra: no VIP of that name has `authentication`"),
        ({"master": 12345678}, "openshift-lvs:auth_pass: not a text for each address; pulumi config rm openshift-lvs:auth_pass, then"),
        (["ninechars"], "openshift-lvs:auth_pass: not a text for each address"),
    ],
)
def test_a_password_that_cannot_work_is_refused_and_not_quoted(article: dict[str, Any], given: Any, fault: str) -> None:
    said = refused(with_password(article), {**SECRETS, **({} if given is None else {"auth_pass": json.dumps(given)})})
    assert said.startswith(fault)
    assert not [secret for secret in ("ninechars", "two two", PASSWORD, "12345678") if secret in said]


def test_a_password_that_was_set_without_its_address_is_refused_and_not_quoted(article: dict[str, Any]) -> None:
    said = refused(with_password(article), {**SECRETS, "auth_pass": PASSWORD})
    assert said.startswith("openshift-lvs:auth_pass: not a text for each address") and PASSWORD not in said


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("network", "gatway"), "192.168.0.1", "network.gatway: unknown key; did you mean 'gateway'?"),
        (("vips", "master", "virtual_router_id"), 52, "vips.infra.virtual_router_id: 52 is used by vips.master too; choose another (1 to 255)"),
        (("vips", "master", "virtual_router_id"), 300, "vips.master.virtual_router_id: 300: must be a whole number from 1 to 255"),
        (("vips", "master", "owner"), "infra0", "vips.master.owner: 'infra0' is not a director of pool 'master'; it has master0, master1, master2"),
        (("vips", "master", "address"), "192.168.0.2", "vips.master.address: 192.168.0.2 is taken by pools.master.hosts.master0"),
        (("vips", "master", "address"), "192.168.1.250", "vips.master.address: 192.168.1.250 is not a host address of the subnet 192.168.0.0/24"),
        (("vips", "master", "services", 0, "scheduler"), "fastest", "vips.master.services.0.scheduler: 'fastest': must be 'mh', 'sh'"),
        (("vips", "infra", "services", 0, "health_check"), {"type": "http"}, "vips.infra.services.0.health_check.path: missing; an http or ssl check"),
        (("vips", "infra", "services", 0, "lb_algo"), "wlc", "vips.infra.services.0.lb_algo: unknown key; here it is scheduler"),
        (("pools", "infra", "flavor"), None, "pools.infra.flavor: missing; servers that the program creates need an image and a flavor"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_would_be_right(article: dict[str, Any], path: tuple[str | int, ...], value: Any, said: str) -> None:
    place: Any = article
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert refused(article, SECRETS).startswith(said)


def test_every_fault_is_told_at_once(article: dict[str, Any]) -> None:
    article["network"]["gatway"] = "192.168.0.1"
    article["vips"]["master"]["virtual_router_id"] = 0
    assert len(refused(article, SECRETS).splitlines()) == 2


def test_what_is_secret_is_secret_and_what_is_not_is_not(deploy: Deploy, article: dict[str, Any]) -> None:
    async def secrecy(stack: Stack) -> dict[str, bool]:
        return {name: await getattr(stack, name).is_secret() for name in ("ssh_private_key", "ssh_public_key", "host_key_seed", "auth_pass")}

    def program() -> Any:
        stack = read(with_password(article), {**SECRETS, "auth_pass": json.dumps({"master": PASSWORD})})
        return pulumi.Output.from_input(secrecy(stack))

    assert deploy(program).returned == {"ssh_private_key": True, "ssh_public_key": False, "host_key_seed": True, "auth_pass": True}


def test_what_works_but_probably_not_as_meant_is_a_warning(deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", said.append)
    read(article, SECRETS)
    assert said == []
    article["network"]["client_cidrs"] = []
    read(article, SECRETS)
    assert len(said) == 1 and said[0].startswith("network.client_cidrs: empty, so no client outside the subnet can use the floating IPs of master, infra; ")
