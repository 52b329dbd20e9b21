"""Pulumi.schema.json: an editor that follows it accepts what the program accepts, and refuses unknown keys, wrong types, ranges and words."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from components.configuration import Cluster, schema
from components.configuration.keys import NAMESPACE, SECRETS
from components.stack_file import CLUSTER
from tests.unit.test_cluster import REMOVED, put
from tests.unit.test_messages import KEYS, SECTIONS, TABLE, WRONG, changed, prepared, told

PROJECT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "*/Pulumi.*.yaml"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
VALIDATOR = jsonschema.Draft7Validator(schema.schema())
BEYOND = {"value_error", "form", "ip_v4_network", "ip_v4_address"}
"""Faults that only the program finds: broken rules between keys, and what a value must be beyond its type, range, words and pattern."""


def accepts(data: Any) -> bool:
    """Whether the schema accepts a cluster, as an editor reads it: dates are text there."""
    return VALIDATOR.is_valid({"config": {CLUSTER: json.loads(json.dumps(data, default=str))}})


def test_it_is_a_valid_schema() -> None:
    jsonschema.Draft7Validator.check_schema(schema.schema())


@pytest.mark.parametrize("name", LISTED)
def test_it_accepts_every_stack_and_each_names_it(name: str) -> None:
    text = (PROJECT / name).read_text()
    VALIDATOR.validate(json.loads(json.dumps(yaml.safe_load(text), default=str)))
    head = text.partition("\n")[0]
    assert head.startswith("# yaml-language-server: $schema=")
    assert ((PROJECT / name).parent / head.partition("=")[2]).resolve() == PROJECT / schema.NAME


@pytest.mark.parametrize("path", SECTIONS, ids=".".join)
def test_it_refuses_an_unknown_key_in_every_section(article: dict[str, Any], path: tuple[str, ...]) -> None:
    assert not accepts(changed(article, (*path, "unknown-Key"), "x"))


@pytest.mark.parametrize("path", ["", "config"])
def test_it_refuses_an_unknown_key_beside_the_cluster(article: dict[str, Any], path: str) -> None:
    stack: dict[str, Any] = {"config": {CLUSTER: article, "openstack:cloud": "x", "aws:region": "y"}, "encryptionsalt": "v1:x"}
    assert VALIDATOR.is_valid(stack)
    put(stack, f"{path}.{NAMESPACE}:ssh_private_kye".lstrip("."), "x")
    assert not VALIDATOR.is_valid(stack)


@pytest.mark.parametrize("key", SECRETS)
def test_a_secret_may_be_encrypted(article: dict[str, Any], key: str) -> None:
    secret: Any = {"secure": "v1:abc"}
    stack = {"config": {CLUSTER: article, f"{NAMESPACE}:{key}": {"master": secret} if SECRETS[key].by_vip else secret}}
    assert VALIDATOR.is_valid(stack)
    stack["config"][f"{NAMESPACE}:{key}"] = 5
    assert not VALIDATOR.is_valid(stack)


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_it_accepts_what_the_program_accepts(article: dict[str, Any], path: tuple[str, ...]) -> None:
    for value in WRONG:
        data = changed(article, path, value)
        if not told(data):
            assert accepts(data), f"{'.'.join(path)}: {value!r}"


@pytest.mark.parametrize(("path", "value", "says"), TABLE, ids=[f"{path}-{'removed' if value is REMOVED else value}"[:70] for path, value, _ in TABLE])
def test_it_refuses_what_is_wrong_with_a_single_key(article: dict[str, Any], path: str, value: Any, says: str) -> None:
    put(prepared(article, says), path, value)
    with pytest.raises(ValidationError) as refused:
        Cluster.model_validate(article)
    # The schema sees the keys of JSON, which are text.
    if {fault["type"] for fault in refused.value.errors() if fault["loc"][-1:] != ("[key]",)} - BEYOND:
        assert not accepts(article)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "installed": "2026-03-01"}),
        ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "installed": 2}),
        ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "host_key": "192.168.0.5 ssh-ed25519 AAAA"}),
        ("network.allow", [{"protocol": "tcp", "ports": 2379}, {"protocol": "udp", "ports": "1-9"}]),
        ("vips.infra.services.0.health_check", {"type": "http", "path": "/x", "status_code": 200, "http_protocol": 1.1}),
        ("vips.infra.services.0.health_check", {"type": "ssl", "urls": [{"status_code": "200-299 401"}]}),
        ("pools.infra.cloud_config", {"timezone": "UTC", "runcmd": [["true"]]}),
        ("network.client_cidrs", ["10.0.0.1"]),
        ("network.allow", ["kubernetes", {"protocol": 47}, {"protocol": "ESP"}, {"protocol": "vrrp", "ports": 0}]),
        ("vips.infra.floating_ip", "203.0.113.7"),
        ("vips.infra.services.0", {"preset": "openshift4", "port": 80}),
        ("vips.infra.services.0", {"preset": "openshift4", "port": 80, "health_check": {"connect_timeout": 2}}),
        ("pools.infra.hosts", {"infra0": "192.168.0.5", "infra-1.ocp.example.org": "192.168.0.6"}),
    ],
)
def test_every_form_of_a_value_is_accepted_by_the_schema_and_by_the_program(article: dict[str, Any], path: str, value: Any) -> None:
    put(article, path, value)
    Cluster.parse(article)
    assert accepts(article)


def test_every_key_is_described_with_its_value() -> None:
    for name, section in schema.schema()["definitions"].items():
        for key, value in section["properties"].items():
            assert " Value: " in value["description"], f"{name}.{key}"
            assert "](" not in value["description"], f"{name}.{key}"
