"""The cluster of the article, and programs run on it without an engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# An Output that is formatted into a string raises instead of ending up in a file as a warning. Read when pulumi is imported.
os.environ["PULUMI_ERROR_OUTPUT_STRING"] = "1"

import pytest
import yaml

from components.configuration import Cluster
from tests.unit import recording
from tests.unit.node_functions import system as system

GOLDEN = Path(__file__).parent / "golden"


def pytest_configure(config: pytest.Config) -> None:
    """The SDKs warn of their own old names when they are imported."""
    for package in ("pulumi_openstack", "pulumi_command"):
        config.addinivalue_line("filterwarnings", f"ignore::DeprecationWarning:{package}")
    config.addinivalue_line("filterwarnings", "ignore:::openstack.*")


@pytest.fixture
def deploy() -> Iterator[recording.Deploy]:
    """`deploy(program, absent=...)`, each test with an event loop of its own."""
    asyncio.set_event_loop(asyncio.new_event_loop())
    yield recording.deploy
    asyncio.get_event_loop().close()
    # A later test may use Pulumi without this fixture, such as the plugin's.
    asyncio.set_event_loop(asyncio.new_event_loop())


@pytest.fixture
def article() -> dict[str, Any]:
    """The cluster of golden/Pulumi.example.yaml as a mapping of the test's own to change."""
    data: dict[str, Any] = yaml.safe_load((GOLDEN / "Pulumi.example.yaml").read_text())["config"]["openshift-lvs:cluster"]
    return data


@pytest.fixture
def cluster(article: dict[str, Any]) -> Cluster:
    """The cluster of the article."""
    return Cluster.parse(article)


def with_password(article: dict[str, Any]) -> dict[str, Any]:
    """The article with VRRP version 2 and a password on the masters' address."""
    article["keepalived"] = {"vrrp_version": 2}
    for vip in article["vips"].values():
        vip["advert_interval"] = 1
    article["vips"]["master"]["authentication"] = "PASS"
    return article
