"""What holds for every key of the model, also for those that are still to come: it changes some output, and no text in it adds a line, a word or a brace."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components import keepalived
from components.configuration import Cluster, ConfigurationError
from components.configuration.errors import Kind
from tests.unit.recording import Deploy
from tests.unit.test_keepalived import configuration
from tests.unit.test_messages import places
from tests.unit.test_program import PUBLIC_KEY, run

OTHER_KEY = "ssh-ed25519 AAAA"

SAMPLES = (
    *("x", "infra1", "master0", "master1", "infra", "/x", "checks/backlog", "192.168.0.1:53", "2379", "200-299", "1024-65535", "udp"),
    *("640205b7b0fc66c1ea91c463fac6334d", PUBLIC_KEY, OTHER_KEY, "192.0.2.0/24"),
)
"""Texts of every form that a key may want. The first that is accepted is used."""

REGEX = {"type": "http", "urls": [{"path": "/", "regex": "a"}]}
MAIL = {"notification_email": ["a@x"], "notification_email_from": "b@x", "smtp_server": "mail"}
HOSTS = {name: {"address": f"192.168.0.{number}", "host_key": PUBLIC_KEY} for number, name in enumerate(("master0", "master1", "master2"), 2)}

MANAGEMENT = {"network.management": {"existing": "mgmt", "cidr": "10.20.0.0/24"}}
BASTION = {"ssh.allowed_cidrs": ["198.51.100.0/24"], "ssh.bastion": {"image": "debian", "flavor": "tiny"}}

IPV6 = {
    "network.cidr_v6": "fd00:0:0:1::/64",
    "network.gateway_v6": "fd00:0:0:1::1",
    **{
        f"pools.{pool}.hosts": {f"{pool}{n}": {"address": f"192.168.0.{first + n}", "address_v6": f"fd00:0:0:1::{first + n}"} for n in range(many)}
        for pool, first, many in (("master", 2, 3), ("infra", 5, 2))
    },
}
SORRY = {"port": 8443, "sorry_server": "192.168.0.98", "sorry_server_v6": "fd00:0:0:1::98", "health_check": {"type": "tcp"}}

CONTEXT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("network.cidr_v6", "network.gateway_v6", "pools.master.hosts.master0.address_v6", "vips.master.address_v6"), IPV6),
    "vips.master.services.0.sorry_server_v6": {**IPV6, "vips.master.address_v6": "fd00:0:0:1::250", "vips.master.services.0": SORRY},
    "ssh.bastion": {"ssh.bastion": {"host": "b", "host_key": PUBLIC_KEY}},
    "keepalived.vrrp_version": {"vips.master.advert_interval": 1, "vips.infra.advert_interval": 1},
    "keepalived.notifications": {"keepalived.notifications": MAIL},
    "network.existing": {"network.external": None},
    "network.allow": {"network.allow": [{"protocol": "tcp", "ports": "1"}]},
    "network.allow.0.rules": {"network.allow": [{"rules": "kubernetes"}]},
    "pools.master.allow": {"pools.master.allow": [{"protocol": "tcp", "ports": "1"}]},
    "pools.master.allow.0.rules": {"pools.master.allow": [{"rules": "kubernetes"}]},
    "pools.master.root_volume": {"pools.master.root_volume": {"size": 50}},
    "network.management": {**MANAGEMENT, "pools.master.hosts.master0": {"address": "192.168.0.2", "ssh_address": "10.20.0.5"}},
    "pools.master.hosts.master0.ssh_address": {
        **MANAGEMENT,
        "pools.master.hosts.master0": {"address": "192.168.0.2"},
        "pools.master.hosts.master1": {"address": "192.168.0.3", "ssh_address": "10.20.0.5"},
    },
    **dict.fromkeys(("ssh.bastion.image", "ssh.bastion.flavor"), BASTION),
    "ssh.bastion.root_volume": {**BASTION, "ssh.bastion.root_volume": {"size": 50}},
    "vips.master.services.0.preset": {"vips.master.services.0": {"port": 22623, "health_check": {"type": "tcp"}}},
    "pools.master.existing": {"pools.master.hosts": HOSTS},
    "pools.master.hosts.master0.host_key": {"pools.master.existing": True, "pools.master.hosts": HOSTS},
    "pools.master.hosts.master0.managed": {"pools.master.hosts.master0": {"address": "192.168.0.2"}, "vips.master.owner": "master1"},
    "pools.master.hosts.master0": {"pools.master.hosts.master0": {"address": "192.168.0.2"}},
    "vips.master.authentication": {"keepalived.vrrp_version": 2, "vips.master.advert_interval": 1, "vips.infra.advert_interval": 1},
    "vips.master.services.0.persistence_granularity": {"vips.master.services.0": {"port": 8443, "persistence_timeout": 5, "health_check": {"type": "tcp"}}},
    "vips.master.services.0.ops": {"vips.master.services.0": {"port": 8443, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 80}}},
    "vips.master.services.0.protocol": {"vips.master.services.0": {"port": 8443, "health_check": {"type": "tcp", "connect_port": 80}}},
    "vips.master.services.0.virtualhost": {"vips.master.services.0": {"port": 8443, "health_check": {"type": "http", "path": "/"}}},
    "vips.master.services.0.health_check.enable_sni": {
        "vips.master.services.0": {"port": 8443, "virtualhost": "x", "health_check": {"type": "ssl", "path": "/"}}
    },
    "vips.master.services.0.health_check.urls": {"vips.master.services.0.health_check": REGEX},
}
"""What a key needs beside it, by the key or the section that it is in. The longest that fits is used."""

SCRIPT = "checks/of-the-test"

CHECKS: dict[str, dict[str, Any]] = {"tcp": {}, "http": {"path": "/"}, "ssl": {"path": "/"}, "smtp": {}, "misc": {"script": SCRIPT}}


def plain(path: tuple[str, ...]) -> str:
    """A path as a key: without the type of the health check."""
    return ".".join(step for step in path if not step.startswith("="))


def with_context(path: tuple[str, ...]) -> dict[str, Any]:
    """The cluster in which a key may have a value."""
    data = configuration()
    check = next((step[1:] for step in path if step.startswith("=")), None)
    if check:
        data["vips"]["master"]["services"][0]["health_check"] = {"type": check, **CHECKS[check]}
    key = plain(path)
    fitting = max((prefix for prefix in CONTEXT if f"{key}.".startswith(f"{prefix}.")), key=len, default=None)
    for place, value in CONTEXT[fitting].items() if fitting else ():
        put(data, place.split("."), copy.deepcopy(value))
    return data


def put(data: Any, steps: list[str], value: Any) -> None:
    """Set a value; what leads there is made."""
    for step in steps[:-1]:
        data = data[int(step)] if isinstance(data, list) else data.setdefault(step, {})
    data[int(steps[-1]) if isinstance(data, list) else steps[-1]] = value


def set_key(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The cluster of a key with this value."""
    data = with_context(path)
    steps = plain(path).split(".")
    here: Any = data
    for step, following in zip(steps, [*steps[1:], ""], strict=True):
        index = int(step) if isinstance(here, list) else step
        if not following:
            if isinstance(here, list) and index == len(here):
                here.append(value)
            else:
                here[index] = value
        else:
            missing = index >= len(here) if isinstance(here, list) else not isinstance(here.get(index), (dict, list))  # type: ignore[operator]
            if missing:
                here[index] = [] if following == "0" else {}
            here = here[index]
    return data


def candidates(kind: Kind) -> Iterator[Any]:
    """Values that a key of this kind may have."""
    core = get_origin(kind.core) or kind.core
    if core in (Union, UnionType) and not kind.models:
        for part in get_args(kind.core):
            yield from candidates(Kind.of(part))
    elif core is Literal:
        yield from get_args(kind.core)
    elif core is bool:
        yield from (True, False)
    elif core in (int, float):
        yield from (value for value in (kind.bound("ge"), kind.bound("le"), 1, 2, 3, 77, 100, 200) if value is not None)
    elif core is IPv4Address:
        yield from ("192.168.0.99", "255.255.255.0", "10.20.0.7")
    elif core is IPv4Network:
        yield from ("192.0.2.0/24", "192.168.0.0/23", "10.20.0.0/16")
    elif core is IPv6Address:
        yield "fd00:0:0:1::99"
    elif core is IPv6Network:
        yield "fd00:0:0:1::/65"
    elif core is tuple:
        entries = Kind.of(get_args(kind.core)[0])
        if not entries.models:
            yield from ([value] * (1 if len(get_args(kind.core)) == 1 or get_args(kind.core)[1] is Ellipsis else 2) for value in candidates(entries))
    elif core is dict:
        values = Kind.of(get_args(kind.core)[1])
        if values.core is Any:
            yield {"timezone": "UTC"}
        elif not values.models:
            yield from ({name: value} for value in candidates(values) for name in ("master0", "other"))
    elif core is str:
        yield from SAMPLES


def parsed(data: dict[str, Any]) -> Cluster | None:
    try:
        return Cluster.parse(data)
    except ConfigurationError:
        return None


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every text of SAMPLES that may be a path is a check script."""
    folder = tmp_path_factory.mktemp("scripts")
    for name in (SCRIPT, *SAMPLES):
        if not name.startswith("/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"#!/bin/sh\n# {name}\n")
    return folder


def files(cluster: Cluster, scripts: Path) -> dict[str, Any]:
    """The files of every host, and what is secret in them."""
    words = dict.fromkeys(cluster.vips, "pa55word")
    return {host.name: (keepalived.render(cluster, host.name, scripts), keepalived.authentication(cluster, host.name, words)) for host in cluster.nodes()}


ALONE = {
    "vips.master.pool": "another pool needs another owner, which changes the files by itself",
    "network.max_allowed_address_pair": "a limit: it only refuses",
}
"""Keys that are not tried, and why."""

KEYS = [
    (path, kind)
    for path, kind in places(Cluster)
    # An entry is tried with its list. A type of only one word says which section it is.
    if path and path[-1] != "0" and len(set(map(repr, candidates(kind)))) > 1 and plain(path) not in ALONE
]


def resources(deploy: Deploy, data: dict[str, Any]) -> Any:
    """What the program creates, looks up, and tells."""
    done = run(deploy, data)
    made = {resource.urn: (resource.inputs, resource.ignore_changes, resource.protect) for resource in done.resources}
    return made, done.looked_up, done.returned


@pytest.mark.parametrize(("path", "kind"), KEYS, ids=[".".join(path) for path, _ in KEYS])
def test_every_key_changes_a_file_of_a_host_or_a_resource(deploy: Deploy, scripts: Path, path: tuple[str, ...], kind: Kind) -> None:
    before = parsed(with_context(path))
    assert before, f"{plain(path)}: its CONTEXT is refused: {before}"
    accepted = []
    for value in candidates(kind):
        data = set_key(path, value)
        after = parsed(data)
        if after and after != before:
            accepted.append(data)
            if files(after, scripts) != files(before, scripts):
                return
    assert accepted, f"{plain(path)}: no value of `candidates` is accepted; add what it needs to CONTEXT, or a value to SAMPLES"
    known = resources(deploy, with_context(path))
    assert any(resources(deploy, data) != known for data in accepted[:3]), f"{plain(path)} changes nothing: neither a file of a host nor a resource"


TEXTS = [(path, kind) for path, kind in KEYS if Kind.of(get_args(kind.core)[0] if get_origin(kind.core) is tuple else kind.core).core is str]

BREAKING = "\n\r\t\v\f\0\x1b\x85\u2028\xa0 {}\"'`$;#!\\&|<>()*~@%="
"""Characters that mean something to keepalived, nft, a shell or a reader of lines."""

TOKEN = re.compile(r'"[^"\n]*"|[{}]|[^\s{}"]+|"')


def shape(text: str) -> list[list[str]]:
    """For each line, its begin if that is no letter, and the kinds of its words: a brace, a text in quotes, a comment, or another word."""
    lines = re.split(r"[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]", text)
    return [[re.sub(r"[\w{}./]", "", line.lstrip()[:1]), *(_kind(word) for word in TOKEN.findall(line))] for line in lines]


def _kind(word: str) -> str:
    if re.search(r"[\0-\x08\x0e-\x1f\x7f]|~SEQ\(|~LST\(", word):
        return "more than a word"
    if word.startswith('"') or word in "{}":
        return word[0]
    return "comment" if re.search("[#!]", word) else "continued" if word.endswith("\\") else "word"


@pytest.mark.parametrize(("path", "kind"), TEXTS, ids=[".".join(path) for path, _ in TEXTS])
def test_no_text_adds_a_line_a_word_or_a_brace_to_a_file(scripts: Path, path: tuple[str, ...], kind: Kind) -> None:
    many = get_origin(kind.core) is tuple
    harmless = next((value for value in candidates(kind) if parsed(set_key(path, value))), None)
    assert harmless, plain(path)
    sample = harmless[0] if many else harmless
    ordinary = parsed(set_key(path, harmless))
    assert ordinary
    wanted = {host: [shape(file.text) for file in rendered] for host, (rendered, _) in files(ordinary, scripts).items()}

    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(alphabet=BREAKING, min_size=1, max_size=2), st.integers(0, len(sample)))
    def tried(breaking: str, at: int) -> None:
        value = sample[:at] + breaking + sample[at:]
        if cluster := parsed(set_key(path, [value] if many else value)):
            try:
                found = {host: [shape(file.text) for file in rendered] for host, (rendered, _) in files(cluster, scripts).items()}
            except ConfigurationError:
                return
            assert found == wanted, f"{plain(path)}: {value!r}"

    tried()
