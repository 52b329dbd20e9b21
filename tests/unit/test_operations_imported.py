"""`operations import`: the configuration for what a keepalived.conf does, and the list of what it could not carry over.

keepalived_confs/ has files as they are in use, and for each the expected YAML and notes. When a change of them is meant, from that folder:

    python -m operations import NAME.conf >NAME.yaml 2>NAME.notes
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import keepalived
from components.configuration import Cluster
from operations import imported
from operations.__main__ import main

CONFS = Path(__file__).parent / "keepalived_confs"
NAMES = sorted(path.stem for path in CONFS.glob("*.conf"))
SECRET = "s3cr3t!x"  # noqa: S105 (an example's)


def brought(tmp_path: Path, text: str) -> imported.Imported:
    path = tmp_path / "keepalived.conf"
    path.write_text(text)
    return imported.import_(str(path))


def cluster_of(text: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(text)["config"]["openshift-lvs:cluster"]
    return data


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_in_use_becomes_this_yaml_and_these_notes(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(CONFS)
    assert main(["import", f"{name}.conf"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ((CONFS / f"{name}.yaml").read_text(), (CONFS / f"{name}.notes").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_json_has_the_same_configuration_and_notes_as_the_text(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(CONFS)
    assert main(["import", f"{name}.conf", "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert (err, said["format"], said["stack"], said["result"], said["findings"]) == ("", 1, None, "ok", [])
    assert said["configuration"] == yaml.safe_load((CONFS / f"{name}.yaml").read_text())
    listed = (CONFS / f"{name}.notes").read_text().splitlines()[1:]
    assert [f"{each['place']}: {each['text']}" for each in said["notes"]] == listed


@pytest.mark.parametrize("name", NAMES)
def test_the_yaml_loads_and_can_be_rendered(name: str, tmp_path: Path) -> None:
    for script in ("check_galera.sh",):
        (tmp_path / "checks").mkdir(exist_ok=True)
        (tmp_path / "checks" / script).write_text("#!/bin/sh\n")
    cluster = Cluster.parse(cluster_of((CONFS / f"{name}.yaml").read_text()))
    assert cluster.vips
    assert "not accepted yet" not in (CONFS / f"{name}.notes").read_text()
    for node in cluster.nodes():
        assert keepalived.render(cluster, node.name, tmp_path)


def test_a_password_is_not_printed() -> None:
    assert SECRET in (CONFS / "ha-api.conf").read_text()
    assert SECRET not in (CONFS / "ha-api.yaml").read_text() + (CONFS / "ha-api.notes").read_text()


def test_a_key_that_the_program_does_not_have_is_listed_with_its_line(tmp_path: Path) -> None:
    notes = brought(tmp_path, "vrrp_instance a {\n  virtual_router_id 1\n  accept\n}\nbfd_instance b {\n}\n").notes
    listed = {str(note).removeprefix(f"{tmp_path}/") for note in notes}
    assert "keepalived.conf:3: vrrp_instance a: accept: not carried over: this program has no key for it" in listed
    assert "keepalived.conf:5: bfd_instance b: not carried over: this program has no key for it" in listed


def test_comments_quotes_and_braces_are_read_as_keepalived_reads_them(tmp_path: Path) -> None:
    text = 'a "b # c" d # e\n! f\ng { h "}" \n i } j\n'
    path = tmp_path / "keepalived.conf"
    path.write_text(text)
    top = imported.parse(str(path), imported.files_here, [])
    assert [(each.words, [inner.words for inner in each.block]) for each in top] == [(["a", "b # c", "d"], []), (["g"], [["h", "}"], ["i"]]), (["j"], [])]


def test_a_file_that_is_missing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "/nowhere/keepalived.conf"]) == 2
    assert capsys.readouterr().err == "/nowhere/keepalived.conf: no such file\n"


def test_a_host_is_read_by_ssh_with_what_its_file_includes(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {str(path): path.read_text() for path in CONFS.rglob("*.conf")}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:6] == ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "--"] and command[6] == "lb1"
        # What a shell on the host does with it, below this folder.
        script = command[7].replace("/etc/keepalived/keepalived.conf", str(CONFS / "mysql.conf")).replace("/etc/keepalived", str(CONFS))
        return real(["sh", "-c", script.replace("sudo -n", "")], capture_output=True, text=True)

    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    assert there
    found = imported.import_("lb1")
    assert found.cluster["vips"]["db"]["address"] == "172.16.5.30"
    assert found.cluster["keepalived"] == {"vrrp_version": 3}, "it is in an included file"


def test_a_host_that_cannot_be_reached_is_named_and_is_exit_status_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 255, "", "Host key verification failed."))
    assert main(["import", "lb1"]) == 3
    assert capsys.readouterr() == ("", "lb1: Host key verification failed.; give a file, or a host that `ssh lb1` reaches without a question\n")


def test_a_host_that_does_not_end_is_named_and_is_exit_status_3(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 60)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(["import", "lb1"]) == 3
    assert capsys.readouterr() == ("", "lb1: no answer within 60 s\n")


@pytest.mark.parametrize("text", [b"", b"\xff\n", b"root:x:0:0:root:/root:/bin/bash\n", b"global_defs {\n  router_id a\n}\n"])
def test_a_file_without_a_vip_is_refused(tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keepalived.conf"
    path.write_bytes(text)
    assert main(["import", str(path)]) == 2
    assert capsys.readouterr() == ("", f"{path}: has no vrrp_instance and no virtual_server; name a keepalived.conf that has one\n")
