"""`python -m operations render`: every host's files from a checkout alone, and errors that say what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components import keepalived
from components.configuration import ConfigurationError
from operations import __main__ as operations
from operations import render

PROJECT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"


def test_all_hosts_are_printed_with_no_network_no_engine_and_no_cloud() -> None:
    """In a network namespace that has not even a loopback, and without the user's home, PATH and credentials."""
    command = ["unshare", "--net", sys.executable, "-m", "operations", "render", "--root", str(GOLDEN), "--stack", "example"]
    done = subprocess.run(command, cwd=PROJECT, env={"PATH": os.defpath, "HOME": "/nonexistent"}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == render.text(render.files(GOLDEN, "example"))
    heads = [line for line in done.stdout.splitlines() if line.startswith("# ==> ")]
    for host in ("master0", "master1", "master2", "infra0", "infra1"):
        assert f"# ==> {host}:/etc/keepalived/current/keepalived.conf (0644)" in heads


def test_rendering_does_not_load_pulumi() -> None:
    program = "import sys; from operations import __main__ as o; sys.exit(o.main(sys.argv[1:]) or 'pulumi' in sys.modules)"
    command = [sys.executable, "-c", program, "render", "--root", str(GOLDEN), "--stack", "example"]
    assert subprocess.run(command, cwd=PROJECT, stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_warning_is_printed_beside_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = (GOLDEN / "Pulumi.example.yaml").read_text().replace("client_cidrs: [192.168.0.0/24, 10.0.0.0/8]", "client_cidrs: []")
    (tmp_path / "Pulumi.test.yaml").write_text(stack)
    assert operations.main(["render", "--root", str(tmp_path), "--stack", "test"]) == 0
    said = capsys.readouterr()
    assert re.match(r"warning: Pulumi\.test\.yaml:\d+: network\.client_cidrs: empty, ", said.err) and "# ==> master0:" in said.out


def test_one_host_is_printed_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert operations.main(["render", "--root", str(GOLDEN), "--stack", "example", "--host", "infra1"]) == 0
    printed = capsys.readouterr().out
    assert printed == render.text(render.files(GOLDEN, "example", "infra1"))
    assert "infra1:" in printed and "infra0:" not in printed


def test_files_are_written_as_they_will_be_on_the_host(tmp_path: Path) -> None:
    assert operations.main(["render", "--root", str(GOLDEN), "--stack", "misc-check", "--output", str(tmp_path)]) == 0
    for host, files in render.files(GOLDEN, "misc-check").items():
        for file in files:
            written = tmp_path / host / file.path
            assert (written.read_text(), written.stat().st_mode & 0o777) == (file.text, file.mode)
    assert (tmp_path / "infra0" / "checks" / "backlog").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--stack", "prod"], 2, "--stack: 'prod' has no Pulumi.prod.yaml here; the stacks are bad, broken, deep, empty, good, null"),
        (["--stack", "good", "--host", "master9"], 2, "host: 'master9' is not in this stack; its hosts are master0, master1, master2, infra0, infra1"),
        (["--stack", "bad"], 1, "Pulumi.bad.yaml:27: vips.master.owner: 'infra0' is not a director of pool 'master'; it has master0, master1, master2"),
        (
            ["--stack", "broken"],
            1,
            "Pulumi.broken.yaml:1: not YAML: expected the node content, but found '<stream end>'; correct this line or the one above it",
        ),
        (
            ["--stack", "empty"],
            1,
            "Pulumi.empty.yaml:1: openshift-lvs:cluster: missing; describe the cluster under it (docs/reference/configuration.md has its keys)",
        ),
        (["--stack", "deep"], 1, "Pulumi.deep.yaml:1: not YAML: nested too deeply; correct this line or the one above it"),
        (["--stack", "null"], 1, "Pulumi.null.yaml:1: openshift-lvs:cluster: missing; describe the cluster under it"),
        (["--stack", "../good"], 2, "--stack: '../good' is not the name of a stack, which has letters, digits, -, _ and . only; the stacks are bad, "),
        (["--stack", ""], 2, "--stack: '' is not the name of a stack"),
    ],
)
def test_what_is_wrong_is_said_in_words_and_by_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    good = (GOLDEN / "Pulumi.example.yaml").read_text()
    stacks = {
        "good": good,
        "bad": good.replace("owner: master0", "owner: infra0"),
        "broken": "config: [",
        "deep": "config: " + "[" * 5000,
        "empty": "",
        "null": "config: {'openshift-lvs:cluster': }",
    }
    for name, text in stacks.items():
        (tmp_path / f"Pulumi.{name}.yaml").write_text(text)
    assert operations.main(["render", "--root", str(tmp_path), *arguments]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)


NOT_READ = {
    "a key twice": (
        b"a: 1\nhosts: {infra0: 1,\n infra0: 2}\n",
        "s.yaml:3: the key 'infra0' is here twice, first in line 2; keep one, or give each its own name",
    ),
    "a key twice in a list": (
        b"a:\n  - {b: 1}\n  - {c: 1, c: 1}\n",
        "s.yaml:3: the key 'c' is here twice, first in line 3; keep one, or give each its own name",
    ),
    "a key twice at the top": (b"config: {}\nconfig: {}\n", "s.yaml:2: the key 'config' is here twice, first in line 1; keep one, or give each its own name"),
    "not UTF-8": (b"a: 1\nb: caf\xe9\n", "s.yaml:2: not UTF-8; save the file as UTF-8, or write this character anew"),
    "no date": (b"a: 2026-13-01\n", "s.yaml:1: a date or number that does not exist (month must be in 1..12); correct it, or put it in quotes"),
    "a misspelt secret": (
        b"config:\n  openshift-lvs:ssh_private_kye: {secure: x}\n",
        "s.yaml:2: openshift-lvs:ssh_private_kye: unknown key; did you mean openshift-lvs:ssh_private_key? "
        "To remove it: pulumi config rm openshift-lvs:ssh_private_kye",
    ),
}


@pytest.mark.parametrize(("given", "said"), NOT_READ.values(), ids=NOT_READ)
def test_a_file_that_cannot_be_what_was_meant_is_refused_with_its_line(tmp_path: Path, given: bytes, said: str) -> None:
    (tmp_path / "s.yaml").write_bytes(given)
    with pytest.raises(ConfigurationError) as refused:
        render.read(tmp_path / "s.yaml")
    assert str(refused.value) == said


def test_a_part_of_a_file_that_is_used_twice_is_no_key_twice(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("a: &a {b: 1}\nc: [*a, *a]\nd: {<<: *a, b: 2}\n")
    with pytest.raises(ConfigurationError, match="openshift-lvs:cluster: missing"):
        render.read(tmp_path / "s.yaml")


def test_a_configuration_file_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert operations.main(["status", "--root", str(GOLDEN), "--stack", "example", "--config-file", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err == "nowhere.yaml: No such file or directory; name a stack's configuration file\n"


def test_a_folder_that_is_no_project_is_recognised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert operations.main(["render", "--root", str(tmp_path), "--stack", "dev"]) == 2
    assert "the stacks are none (is this the project folder?)" in capsys.readouterr().err


def test_no_other_test_reads_a_stack_of_the_user() -> None:
    with pytest.raises(AssertionError, match="belongs to the user"):
        (PROJECT / "Pulumi.some.yaml").read_text()


def test_the_local_stack_renders_too() -> None:
    hosts = render.files(PROJECT / "lab", "local")
    assert all(any(file.path == "host.json" for file in files) for files in hosts.values())
    assert {keepalived.version(files) for files in hosts.values()}.__len__() == len(hosts)
