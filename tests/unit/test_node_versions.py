"""Delivered versions: what arrives whole, what a version needs, and what is removed with it. And the description of a host."""

from __future__ import annotations

import hashlib
import json
import os
from ipaddress import ip_address
from pathlib import Path

import pytest

from components import keepalived
from components.configuration import Cluster
from components.keepalived import File, bundle, describe
from node.openshift_lvs import description as described
from node.openshift_lvs import host, state, versions, vrrp
from node.openshift_lvs.description import NAME, Description
from node.openshift_lvs.errors import Refused
from tests.unit.node_functions import HERE, System, deliver, description, in_force, service, vip


def installed(name: str) -> str:
    """A program on the node; its folder."""
    folder = Path(state.LIB, name)
    folder.mkdir()
    (folder / "openshift-lvs").touch()
    os.utime(folder, (1000, 1000))
    return str(folder)


def left(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


# What stays


def test_the_version_in_force_and_the_one_before_stay_with_their_programs(system: System) -> None:
    for version in ("first", "before", "current"):
        deliver(version, description(), program=installed(f"program-{version}"))
    installed("program-of-none")
    state.link(state.CURRENT, "versions/current")
    versions.tidy({"current", "before"})
    assert left(state.VERSIONS) == ["before", "current"]
    assert left(state.LIB) == ["program-before", "program-current"]


def test_the_program_that_runs_stays_although_no_version_links_to_it(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    running = installed("running")
    monkeypatch.setattr(versions, "program_of_this_process", lambda: running)
    deliver("current", description(), program=installed("other"))
    state.link(state.CURRENT, "versions/current")
    installed("former")
    versions.tidy({"current"})
    assert left(state.LIB) == ["other", "running"]


def test_a_program_that_was_installed_during_an_activation_waits_for_its_version(system: System) -> None:
    # The engine was interrupted and started again: it installs the next program while the activation goes on.
    in_force("current", description())
    os.utime(installed("next"))
    Path(state.LIB, "another.part").mkdir()
    versions.tidy({"current"})
    assert left(state.LIB) == ["another.part", "next"]


def test_a_half_delivered_version_is_removed(system: System) -> None:
    Path(state.VERSIONS, "new.part").mkdir()
    in_force("current", description())
    versions.tidy({"current", ""})
    assert left(state.VERSIONS) == ["current"]


def test_the_former_scripts_stay_while_a_version_calls_them(system: System) -> None:
    for name in ("quorum", "lock", "activate"):
        Path(state.LIB, name).touch()
    deliver("before", description(), configuration=f'quorum_up "{state.LIB}/quorum master master-8443 0"\n')
    in_force("current", description())
    versions.tidy({"current", "before"})
    assert left(state.LIB) == ["activate", "lock", "quorum"]
    versions.tidy({"current"})
    assert left(state.LIB) == []


# Delivery


@pytest.fixture
def delivery(system: System, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The versions that were validated, without the programs that validate them."""
    validated: list[str] = []
    monkeypatch.setattr(versions, "validate", lambda folder: validated.append(Path(folder).name))
    monkeypatch.setattr(host, "prepare", lambda *_: None)
    monkeypatch.setattr(vrrp, "refuse_strangers", lambda *_: None)
    return validated


def sent(*files: File) -> tuple[str, bytes]:
    """A version's name and its bundle."""
    all_files = (File(NAME, 0o644, description().to_json()), *files)
    return keepalived.version(all_files), bundle(all_files).encode()


def test_a_version_is_delivered_whole_with_its_program(delivery: list[str]) -> None:
    version, text = sent(File("checks/api", 0o755, "#!/bin/sh\nexit 0\n"), File("empty", 0o600, ""))
    assert versions.deliver(version, text) == f"{version} delivered, nothing in force"
    folder = Path(versions.folder(version))
    assert (folder / "checks/api").read_text() == "#!/bin/sh\nexit 0\n"
    assert (folder / "checks/api").stat().st_mode & 0o777 == 0o755
    assert ((folder / "empty").read_text(), (folder / "empty").stat().st_mode & 0o777) == ("", 0o600)
    assert (folder / versions.PROGRAM).resolve() == keepalived.PROGRAM.resolve()
    assert delivery == [version]


@pytest.mark.parametrize("cut", [1, 2, 100, 10**6])
def test_a_bundle_that_is_cut_is_refused_and_leaves_nothing(delivery: list[str], cut: int) -> None:
    version, text = sent(File("keepalived.conf", 0o644, "a\n" * 200))
    with pytest.raises(Refused, match=f"^version {version} did not arrive whole"):
        versions.deliver(version, text[:-cut])
    assert left(state.VERSIONS) == []


def test_what_an_interrupted_delivery_left_is_no_part_of_the_version(delivery: list[str]) -> None:
    version, text = sent()
    part = Path(f"{versions.folder(version)}.part")
    part.mkdir()
    (part / "half").touch()
    versions.deliver(version, text)
    assert not Path(versions.folder(version), "half").exists()
    assert left(state.VERSIONS) == [version]


def test_a_version_that_is_there_is_not_written_again(delivery: list[str]) -> None:
    version, text = sent()
    versions.deliver(version, text)
    before = Path(versions.folder(version), NAME).stat().st_ino
    versions.deliver(version, text)
    assert Path(versions.folder(version), NAME).stat().st_ino == before


def test_a_delivery_says_what_is_in_force_since_when(delivery: list[str]) -> None:
    in_force("0123456789ab", description())
    version, text = sent()
    assert versions.deliver(version, text).startswith(f"{version} delivered, versions/0123456789ab in force since 20")


def test_a_version_that_awaits_its_password_is_validated_when_that_comes(delivery: list[str]) -> None:
    version, text = sent(File("keepalived.conf", 0o644, "vrrp_instance master {\n    include auth-master.conf\n}\n"))
    versions.deliver(version, text)
    assert delivery == []
    versions.deliver_secret(version, bundle((File("auth-master.conf", 0o600, "secret\n"),)).encode())
    assert delivery == [version]
    assert Path(versions.folder(version), "auth-master.conf").stat().st_mode & 0o777 == 0o600


def test_only_a_line_feed_ends_a_line_of_a_bundle(tmp_path: Path) -> None:
    text = "form\x0cfeed\x85next\u2028line\rreturn\n\n  two blanks\n==> not a header\n"
    versions.unpack(bundle((File("a", 0o644, text), File("b", 0o644, "b\n"))), str(tmp_path))
    assert (tmp_path / "a").read_bytes().decode() == text
    assert (tmp_path / "b").read_text() == "b\n"


@pytest.mark.parametrize("text", ["hello\n", "  a line before any file\n", "==> a 0644\nno blanks\n"])
def test_text_that_is_no_bundle_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(Refused, match="not a line of a bundle"):
        versions.unpack(text, str(tmp_path))


# In force


def test_a_command_that_needs_a_version_says_that_none_is_in_force(system: System) -> None:
    assert described.current() is None
    with pytest.raises(Refused, match="no version is in force on this node; pulumi up"):
        described.in_force()


# Description


IPV6 = description(
    vip(
        address="2001:db8::250",
        owner="2001:db8::2",
        services=(service(weights={"2001:db8::2": 1}, sorry_server=ip_address("2001:db8::9"), regexes=('"\\d', "é")),),
    ),
    address="2001:db8::2",
    directors=("2001:db8::3",),
)


@pytest.mark.parametrize("said", [description(), IPV6, description(director=False, directors=())], ids=["IPv4", "IPv6", "server"])
def test_a_description_is_the_same_after_it_was_written_and_read(said: Description) -> None:
    assert Description.from_json(said.to_json()) == said


def test_a_description_has_a_line_for_each_real_server(cluster: Cluster) -> None:
    lines = describe(cluster, "master0").to_json().splitlines()
    assert sum('"address": "192.168.0.3"' in line and '"weight": 1' in line for line in lines) == 1
    assert max(map(len, lines)) <= 160


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_a_description_of_another_format_is_refused(number: object) -> None:
    data = {**json.loads(description().to_json()), "format": number}
    with pytest.raises(Refused, match=r"host\.json: written for another release of this program; pulumi up"):
        Description.from_json(json.dumps(data))


def test_a_server_that_is_no_director_runs_no_instance_and_no_service() -> None:
    server = description(director=False, directors=())
    assert (server.instances, server.services, server.owned_by_others) == ((), (), {})


def test_a_director_knows_which_vips_are_owned_by_others() -> None:
    said = description(vip(), vip("other", "192.168.0.251", 52, "192.168.0.3"))
    assert said.owned_by_others == {"other": ip_address("192.168.0.3")}
    assert said.address == ip_address(HERE)


def test_the_digest_of_a_bundle_is_its_version() -> None:
    version, text = sent()
    assert hashlib.sha256(text).hexdigest().startswith(version)


def test_a_description_of_a_later_release_is_read_without_the_fields_that_it_added() -> None:
    text = description().to_json()
    later = text.replace('"pool": "master"', '"pool": "master", "later": {"a": 1}').replace('"alpha": false', '"alpha": false, "later": [1]')
    assert later.count("later") == 2
    assert Description.from_json(later) == description()
