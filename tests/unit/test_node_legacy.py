"""Going over from the release of shell scripts, and back. The files in legacy/ are what that release rendered for legacy/stack.yaml and for the article."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import Cluster
from components.keepalived import describe
from node.openshift_lvs import legacy, lock, state, versions
from node.openshift_lvs.description import NAME, Description, RealServer, Service
from tests.unit.node_functions import System

FIXTURES = Path(__file__).parent / "legacy"
HOSTS = ("master0", "master1", "master2", "infra0")
TIMEOUT_S, RETRY = 0.7, 1
"""That release's defaults of connect_timeout and retry, which are in its files for the article."""


@pytest.fixture
def clusters(article: dict[str, Any]) -> dict[str, Cluster]:
    """The cluster of each host."""
    stack = Cluster.parse(yaml.safe_load((FIXTURES / "stack.yaml").read_text()))
    for service in article["vips"]["infra"]["services"]:
        service["health_check"] |= {"connect_timeout": TIMEOUT_S, "retry": RETRY}
    return {**dict.fromkeys(HOSTS, stack), "infra0": Cluster.parse(article)}


def adopted(tmp_path: Path, host: str) -> Description:
    """What the program makes of a version of the scripts."""
    folder = shutil.copytree(FIXTURES / host, tmp_path / host)
    legacy.adopt(str(folder), "/usr/local/lib/openshift-lvs/0123456789ab")
    return Description.read(str(folder))


def without_what_scripts_did_not_know(said: Description) -> dict[str, Any]:
    """The parts of a description that a version of the scripts has too."""
    here = said.address if said.director else None
    values = {**vars(said), "host": "", "pool": "", "program": "", "address": here}
    values["sync_id"] = said.sync_id if said.director else None
    # Only directors ran keepalived, and the table had no limit.
    values |= {"checks_only": False, "connections_max": 0}
    vips = []
    for vip in said.vips:
        services = []
        for service in vip.services if said.director else ():
            servers = tuple(RealServer("", server.address, server.weight) for server in service.real_servers)
            # A field with a default came later than the scripts.
            known = {name: value for name, value in vars(service).items() if not hasattr(Service, name)}
            services.append({**known, "real_servers": servers, "check_script": None, "check_user": None, "regexes": ()})
        there = vars(vip) if said.director else {"address": vip.address}
        vips.append({**there, "services": services, "answers_expected": False})
    return {**values, "vips": vips}


# Going over


@pytest.mark.parametrize("host", HOSTS)
def test_a_version_of_the_scripts_is_described_as_the_same_configuration_is_now(tmp_path: Path, clusters: dict[str, Cluster], host: str) -> None:
    made, wanted = adopted(tmp_path, host), describe(clusters[host], host)
    assert without_what_scripts_did_not_know(made) == without_what_scripts_did_not_know(wanted)


def test_the_fixtures_have_what_a_stack_may_have(tmp_path: Path) -> None:
    director, server = adopted(tmp_path, "master0"), adopted(tmp_path, "master2")
    assert [service.name for service in director.services] == ["api-8443", "api-53-udp", "web-443"]
    assert [service.protocol for service in director.services] == ["TCP", "UDP", "TCP"]
    assert director.services[0].sorry_server == ip_address("192.168.0.9")
    assert [(service.alpha, service.quorum, service.hysteresis) for service in director.services] == [(True, 2, 1), (False, 2, 0), (False, 2, 0)]
    assert [service.forwarding_method for service in director.services] == ["DR", "DR", "TUN"]
    assert (server.director, [str(vip.address) for vip in server.vips]) == (False, ["192.168.0.250", "192.168.0.251"])


def test_an_adopted_version_has_the_program_and_what_its_units_call(tmp_path: Path) -> None:
    adopted(tmp_path, "master0")
    assert (tmp_path / "master0/program").readlink() == Path("/usr/local/lib/openshift-lvs/0123456789ab")
    lines = (tmp_path / "master0/release.batch").read_text().splitlines()
    assert lines == ["address flush dev eth0 to 192.168.0.250/32", "address flush dev eth0 to 192.168.0.251/32"]


def test_a_version_of_the_program_is_not_adopted(tmp_path: Path) -> None:
    (tmp_path / "node.conf").write_text("INTERFACE=eth0\n")
    (tmp_path / NAME).write_text("as it was delivered")
    legacy.adopt(str(tmp_path), "/program")
    assert (tmp_path / NAME).read_text() == "as it was delivered"
    assert not (tmp_path / "program").is_symlink()


def test_an_adoption_that_was_interrupted_is_finished_by_the_next(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "master0", tmp_path / "version")
    for writes in range(3):

        def interrupted(path: str, text: str, allowed: list[int] = [writes]) -> None:  # noqa: B006
            if not allowed[0]:
                raise KeyboardInterrupt
            allowed[0] -= 1
            Path(path).write_text(text)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state, "write", interrupted)
            try:
                legacy.adopt(str(folder), "/program")
            except KeyboardInterrupt:
                assert not (folder / NAME).exists()
    assert (folder / NAME).exists() and (folder / "release.batch").exists() and (folder / "program").is_symlink()


def test_a_version_that_was_written_for_the_scripts_describes_the_same_host(tmp_path: Path, clusters: dict[str, Cluster]) -> None:
    shutil.copy(FIXTURES / "master0/keepalived.conf", tmp_path)
    wanted = describe(clusters["master0"], "master0")
    legacy.write_for_shell(str(tmp_path), wanted)
    legacy.adopt(str(tmp_path), "/program")
    assert without_what_scripts_did_not_know(Description.read(str(tmp_path))) == without_what_scripts_did_not_know(wanted)


def test_every_version_on_a_node_is_adopted(system: System) -> None:
    for host in ("master0", "master2"):
        shutil.copytree(FIXTURES / host, versions.folder(host))
    Path(versions.folder("new.part")).mkdir()
    versions.adopt_all()
    assert Description.read(versions.folder("master0")).director
    assert not Description.read(versions.folder("master2")).director


# Going back


def shell_values(folder: Path) -> dict[str, str]:
    """The values that a script reads from node.conf."""
    names = [line.partition("=")[0] for line in (folder / "node.conf").read_text().splitlines() if not line.startswith("#")]
    shown = "".join(f'echo "{name}=${name}"\n' for name in names)
    done = subprocess.run(["env", "-i", "sh", "-euc", f'. "$0/node.conf"\n{shown}', folder], capture_output=True, text=True, check=True)
    values = dict(line.split("=", 1) for line in done.stdout.splitlines())
    return {name: value.strip() for name, value in values.items()}


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("#")] if path.exists() else []


@pytest.mark.parametrize("host", HOSTS)
def test_the_scripts_read_the_same_values_from_a_version_of_the_program(tmp_path: Path, clusters: dict[str, Cluster], host: str) -> None:
    legacy.write_for_shell(str(tmp_path), describe(clusters[host], host))
    ours, theirs = shell_values(tmp_path), shell_values(FIXTURES / host)
    # A host that is no director had fewer values; what is new there is empty or not read.
    assert {name: ours[name] for name in theirs} == theirs
    assert all(not ours[name] for name in set(ours) - set(theirs) - {"SYNC_ID"})
    assert lines(tmp_path / "services") == lines(FIXTURES / host / "services")


def test_the_scripts_find_the_directors_of_a_version_of_the_program(tmp_path: Path, clusters: dict[str, Cluster]) -> None:
    # Their `strangers` and `others-able` read another version's line with this expression.
    legacy.write_for_shell(str(tmp_path), describe(clusters["master0"], "master0"))
    done = subprocess.run(["sed", "-n", r's/^DIRECTORS="\(.*\)"/\1/p', tmp_path / "node.conf"], capture_output=True, text=True, check=True)
    assert done.stdout == "192.168.0.2 192.168.0.3\n"


# An activation of the scripts that was interrupted


def test_what_an_interrupted_activation_of_the_scripts_left_is_taken_over(system: System) -> None:
    run = Path(state.RUN)
    (run / "before").write_text("53485819 192.168.0.2 gatewaying\n53485819 192.168.0.3 ipip\n")
    (run / "lowered").write_text("53485819 192.168.0.4 ipip 3\n")
    for name in ("unread", "switched", "addresses"):
        (run / name).touch()
    (run / "drain-master").write_text("0\n")
    before, unread, lowered = legacy.interrupted()
    assert before == [(53485819, "192.168.0.2"), (53485819, "192.168.0.3")]
    assert unread
    assert lowered == [(53485819, "192.168.0.4", "TUN", 3)]


@pytest.mark.parametrize(("text", "before"), [("", []), (None, None)])
def test_no_server_before_differs_from_no_activation_before(system: System, text: str | None, before: list[object] | None) -> None:
    if text is not None:
        Path(state.RUN, "before").write_text(text)
    assert legacy.interrupted() == (before, False, [])


# The scripts


def test_scripts_are_removed_and_programs_stay(system: System) -> None:
    for name in ("quorum", "lock"):
        Path(state.LIB, name).touch()
    Path(state.LIB, "0123456789ab").mkdir()
    calling = shutil.copytree(FIXTURES / "master0", Path(versions.folder("before")))
    text = (calling / "keepalived.conf").read_text()
    (calling / "keepalived.conf").write_text(text.replace("/usr/local/lib/openshift-lvs", state.LIB))
    legacy.remove_scripts([str(calling)])
    assert state.names(state.LIB) == ["0123456789ab", "lock", "quorum"]
    legacy.remove_scripts([versions.folder("none")])
    assert state.names(state.LIB) == ["0123456789ab"]


def test_the_scripts_lock_is_where_they_have_it() -> None:
    assert lock.LEGACY_LOCK == "/run/openshift-lvs.lock"
