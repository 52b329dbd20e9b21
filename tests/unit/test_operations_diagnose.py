"""`diagnose`: one file with what a bug report needs, and no password in it, wherever one can be on a node."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import keepalived
from components.configuration import Cluster, ConfigurationError
from node.openshift_lvs import diagnose as on_node
from node.openshift_lvs import state
from node.openshift_lvs.commands import main
from operations import __main__ as operations
from operations.diagnose import diagnose
from operations.nodes import Answer, NodesError
from tests.unit.conftest import with_password
from tests.unit.node_functions import System, deliver, description
from tests.unit.test_operations_verify import Said

PASSWORD = "s3c\\r%7x"  # noqa: S105 - a test's
"""Eight characters with one that JSON escapes."""
FORMER = "f0rm3r!!"
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def node(system: System) -> System:
    """A director with a password in every place where one can be."""
    version = f"v1-{'0' * 8}"
    configuration = f"vrrp_instance master {{\n    priority 150\n    include auth-master.conf\n}}\n# auth_pass {PASSWORD}\n"
    for name, password in (("v0-00000000", FORMER), (version, PASSWORD)):
        folder = deliver(name, description(), configuration)
        (folder / "auth-master.conf").write_text(f"authentication {{\n    auth_type PASS\n    auth_pass {password}\n}}\n")
        (folder / "auth-master.conf").chmod(0o600)
        (folder / "lvs.nft").write_text(f"# {password}\n")
    state.link(state.CURRENT, f"versions/{version}")
    state.link(state.PROVEN, "versions/v0-00000000")
    Path(state.BASE, "keepalived.conf").write_text("vrrp_instance own {\n    authentication {\n        auth_pass theirs\n    }\n}\n")
    Path(state.OWN_CALLS).write_text(f"rules {PASSWORD}\n")
    system.fill(description())
    said = f"a line with {PASSWORD}, {FORMER} and theirs\nauth_pass unknown1 of another program\n"
    system.answers |= {
        "journalctl": (0, said, ""),
        "ps": (0, f"keepalived {PASSWORD}\n", ""),
        "systemctl --no-pager": (3, said, said),
        "nft list ruleset": (0, f"comment {json.dumps(PASSWORD)}\n", ""),
        "sysctl": (1, "", f"{PASSWORD}: unknown key"),
    }
    return system


def collected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(on_node.collect())
    return found


def test_no_password_is_in_any_text_of_the_node(node: System, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose"]) == 0
    said = capsys.readouterr().out
    files = json.loads(said)["files"]
    for password in (PASSWORD, FORMER, "theirs", "unknown1", json.dumps(PASSWORD)[1:-1], json.dumps(json.dumps(PASSWORD)[1:-1])[1:-1]):
        assert password not in said
        assert [path for path, text in files.items() if password in text] == []
    assert not [path for path in files if path.rpartition("/")[2].startswith("auth-")]
    assert "a line with (left out), (left out) and (left out)\nauth_pass (left out)\n" in files["commands/journal-keepalived"]
    assert files["commands/processes"].endswith("keepalived (left out)\n")
    assert files["run/own-calls"] == "rules (left out)\n"
    assert "include auth-master.conf" in files["delivered/current/keepalived.conf"]


def test_what_was_left_out_is_said(node: System) -> None:
    assert collected()["left_out"] == list(on_node.LEFT_OUT)
    assert "VRRP passwords" in on_node.LEFT_OUT[0]


def test_the_arguments_of_processes_are_not_asked_for() -> None:
    assert on_node._COMMANDS["commands/processes"] == ("ps", "-e", "-o", "pid,ppid,user,stat,etimes,comm")


def test_everything_that_a_bug_report_needs_is_there(node: System) -> None:
    files = collected()["files"]
    assert {"status.json", "delivered/current/host.json", "delivered/proven/host.json", "commands/files", "files/etc/os-release"} <= set(files)
    assert {path.removeprefix("commands/") for path in files if path.startswith("commands/")} >= {
        *("journal-keepalived", "journal-openshift-lvs", "ipvsadm", "nft-ruleset", "ip-address", "ip-route", "ip-rule", "sysctl"),
        *("keepalived-version", "uname", "systemctl-status"),
    }
    assert json.loads(files["status.json"])["version"] == "v1-00000000"
    assert files["commands/sysctl"].endswith("exit status 1\n")


def test_a_file_that_only_root_may_read_stays_on_the_node(node: System) -> None:
    secret = Path(state.CURRENT, "key.pem")
    secret.write_text("private")
    secret.chmod(0o600)
    assert "private" not in json.dumps(collected()["files"])


def test_a_long_journal_keeps_its_end_and_another_text_its_beginning(node: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_node, "TEXT_MAX", 20)
    node.answers |= {"journalctl": (0, "old\n" * 100 + "the last line\n", ""), "nft list ruleset": (0, "x" * 100, "")}
    files = collected()["files"]
    assert files["commands/journal-keepalived"].endswith("the last line\n") and len(files["commands/journal-keepalived"]) == 20
    assert files["commands/nft-ruleset"] == "$ nft list ruleset\nx"


def test_a_node_whose_facts_cannot_be_gathered_is_diagnosed_all_the_same(node: System) -> None:
    Path(state.drain_file("master")).write_text("none\n")
    files = collected()["files"]
    assert files["status.json"] == "invalid literal for int() with base 10: 'none'\n"
    assert "commands/ipvsadm" in files


def test_a_host_without_a_version_can_be_diagnosed(system: System) -> None:
    assert json.loads(collected()["files"]["status.json"])["version"] == "none"


# The file


class Diagnosed(Said):
    """Nodes that say what `diagnose` prints on them."""

    said = ""

    def _ask(self, host: str, verb: str, *arguments: str) -> Answer:
        return Answer(self.said) if verb == "diagnose" and host not in self.unreached else super()._ask(host, "status", "--json")


@pytest.fixture
def secret(article: dict[str, Any]) -> Cluster:
    return Cluster.parse(with_password(article))


def unpacked(path: Path) -> dict[str, str]:
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]


def test_the_file_has_the_nodes_texts_the_rendered_files_and_says_what_was_left_out(node: System, secret: Cluster, tmp_path: Path) -> None:
    nodes, target = Diagnosed(secret), tmp_path / "report.tar.gz"
    nodes.said = on_node.collect()
    told = str(diagnose(nodes, secret, "master0", keepalived.ROOT, target))
    assert target.stat().st_mode & 0o777 == 0o600
    files = unpacked(target)
    rendered = {f"master0/rendered/{file.path}": file.text for file in keepalived.render(secret, "master0")}
    assert files.items() >= rendered.items()
    assert {"master0/node/status.json", "master0/node/delivered/current/keepalived.conf", "master0/checkout", "master0/README"} <= set(files)
    for each in on_node.LEFT_OUT:
        assert each in files["master0/README"] and each in told
    assert "FAILED  master0   version: v1-00000000 in force" in files["master0/checkout"]
    for password in (PASSWORD, FORMER, json.dumps(PASSWORD)[1:-1]):
        assert [name for name, text in files.items() if password in text] == []


def test_a_path_that_leads_out_of_the_report_is_left_out(secret: Cluster, tmp_path: Path) -> None:
    nodes = Diagnosed(secret)
    nodes.said = json.dumps({"format": 1, "files": {"../../evil": "x", "/etc/evil": "x", "good": "y"}, "left_out": []})
    diagnose(nodes, secret, "master0", keepalived.ROOT, tmp_path / "report.tar.gz")
    assert [name for name in unpacked(tmp_path / "report.tar.gz") if "evil" in name] == []


def test_a_file_that_is_there_is_not_written_over(secret: Cluster, tmp_path: Path) -> None:
    target = tmp_path / "report.tar.gz"
    target.write_text("mine")
    with pytest.raises(ConfigurationError, match=r"^--output: .*/report\.tar\.gz is there already; name another file$"):
        diagnose(Diagnosed(secret), secret, "master0", keepalived.ROOT, target)
    with pytest.raises(ConfigurationError, match=r"^--output: .*/none is no folder; make it, or name a file elsewhere$"):
        diagnose(Diagnosed(secret), secret, "master0", keepalived.ROOT, tmp_path / "none" / "report.tar.gz")
    assert target.read_text() == "mine"


@pytest.mark.parametrize("said", ["", "null", "[]", '{"files": []}', "openshift-lvs"])
def test_a_host_that_gives_nothing_is_named_and_leaves_no_file(secret: Cluster, tmp_path: Path, said: str) -> None:
    nodes, target = Diagnosed(secret), tmp_path / "report.tar.gz"
    nodes.said = said
    with pytest.raises(NodesError, match=r"^master0: diagnose: not in this checkout's format"):
        diagnose(nodes, secret, "master0", keepalived.ROOT, target)
    nodes.unreached = {"master0"}
    with pytest.raises(NodesError, match=r"^master0: not reachable at 192\.0\.2\.1"):
        diagnose(nodes, secret, "master0", keepalived.ROOT, target)
    assert not target.exists()


def test_json_names_the_file_and_what_was_left_out_or_says_that_the_host_could_not_be_asked(
    node: System, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes, target = Diagnosed(cluster), tmp_path / "report.tar.gz"

    @contextlib.contextmanager
    def reach(*_: object) -> Iterator[Diagnosed]:
        yield nodes

    monkeypatch.setattr(operations, "reach", reach)
    command = ["diagnose", "master0", "--stack", "example", "--root", str(GOLDEN), "--json", "--output", str(target)]
    nodes.unreached = {"master0"}
    assert operations.main(command) == 3
    said = json.loads(capsys.readouterr().out)
    assert said["result"] == "unknown"
    assert said["findings"] == [{"subject": "master0", "result": "unknown", "text": "not reachable at 192.0.2.1: Connection refused"}]
    nodes.unreached, nodes.said = set(), on_node.collect()
    assert operations.main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["stack"], said["result"], said["findings"]) == ("example", "ok", [])
    assert (said["file"], said["files"], said["left_out"]) == (str(target), len(unpacked(target)), list(on_node.LEFT_OUT))
    assert operations.main(command) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["result"] == "failed" and "is there already" in said["findings"][0]["text"]
