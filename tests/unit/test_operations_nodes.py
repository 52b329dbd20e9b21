"""How the operator's machine reaches the nodes: what it runs, and what it makes of the answers."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Cluster
from operations import __main__ as operations
from operations.nodes import Nodes, NodesError, reach


def key(name: str) -> str:
    """The public host key of a machine, which ends in its name."""
    return f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{name.rjust(11, 'A')}"


HOSTS = ("master0", "master1", "master2", "infra0", "infra1")
OLDER = "has no status: what is installed there is older than this; pulumi up"


@pytest.fixture
def bastioned(article: dict[str, Any]) -> Cluster:
    """The article's cluster behind a bastion."""
    article["ssh"]["bastion"] = {"host": "203.0.113.9", "port": 2222, "user": "jump", "host_key": key("BASTION")}
    return Cluster.parse(article)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of programs that stand before all others."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def nodes(cluster: Cluster, folder: Path, identity: Path | None = None) -> Nodes:
    return Nodes(cluster, {host: key(host) for host in HOSTS}, folder, identity)


def test_every_host_key_and_the_bastions_are_known_before_and_no_other_is_taken(bastioned: Cluster, tmp_path: Path) -> None:
    command = nodes(bastioned, tmp_path).command("master1", "/usr/local/sbin/openshift-lvs", "status")
    assert (tmp_path / "known_hosts").read_text() == "".join(f"{host} {key(host)}\n" for host in HOSTS) + f"[203.0.113.9]:2222 {key('BASTION')}\n"
    jump = next(word for word in command if word.startswith("-oProxyCommand="))
    for option in ("-oStrictHostKeyChecking=yes", f"-oUserKnownHostsFile={tmp_path}/known_hosts", "-oGlobalKnownHostsFile=/dev/null", "-oBatchMode=yes"):
        assert option in command and option in jump
    assert jump.endswith("'-W[%h]:%p' -p 2222 jump@203.0.113.9")
    assert command[-5:] == ["-oHostKeyAlias=master1", "-p", "22", "debian@192.168.0.3", "sudo -n /usr/local/sbin/openshift-lvs status"]


def test_a_host_is_reached_at_its_own_ssh_address_as_its_own_user(article: dict[str, Any], tmp_path: Path) -> None:
    article["pools"]["infra"] = {
        "existing": True,
        "hosts": {"infra0": {"address": "192.168.0.5", "host_key": key("infra0"), "ssh_address": "10.20.0.5", "ssh_user": "root"}},
    }
    command = nodes(Cluster.parse(article), tmp_path).command("infra0", "true")
    assert command[-5:] == ["-oHostKeyAlias=infra0", "-p", "22", "root@10.20.0.5", "true"]


@pytest.mark.parametrize("address", ["10.20.0.5", "2001:db8::5"])
def test_ssh_asks_the_bastion_for_a_host_of_either_family(article: dict[str, Any], commands: Path, tmp_path: Path, address: str) -> None:
    article["ssh"]["bastion"] = {"host": "2001:db8::9", "host_key": key("BASTION")}
    article["pools"]["infra"] = {"existing": True, "hosts": {"infra0": {"address": "192.168.0.5", "host_key": key("infra0"), "ssh_address": address}}}
    # What ssh makes of its arguments for the bastion, without a connection.
    program(commands, "ssh", f'/usr/bin/ssh -G "$@" >{tmp_path}/asked; echo "$? $*" >{tmp_path}/arguments')
    _, *arguments = nodes(Cluster.parse(article), tmp_path).command("infra0", "true")
    subprocess.run(["/usr/bin/ssh", *arguments], capture_output=True)
    assert "hostname 2001:db8::9\n" in (tmp_path / "asked").read_text()
    said = (tmp_path / "arguments").read_text()
    assert said.startswith("0 ") and f" -W[{address}]:22 " in said


@pytest.mark.parametrize("host", ["master-0.ocp.example.org", "master-0." + "a" * 54])
def test_the_socket_of_a_connection_has_a_path_that_fits(article: dict[str, Any], host: str) -> None:
    article["pools"]["infra"]["hosts"] = {host: "192.168.0.5"}
    article["vips"]["infra"]["owner"] = host
    folder = Path(tempfile.mkdtemp(prefix="openshift-lvs-"))
    try:
        (path,) = (word.partition("=")[2] for word in Nodes(Cluster.parse(article), {}, folder).command(host, "true") if word.startswith("-oControlPath="))
    finally:
        shutil.rmtree(folder)
    assert len(path) + 17 <= 107


def test_a_slow_host_may_be_given_more_time(bastioned: Cluster, tmp_path: Path) -> None:
    command = Nodes(bastioned, {}, tmp_path, connect_seconds=45).command("master1", "true")
    assert "-oConnectTimeout=45" in command
    assert "-oConnectTimeout=45" in next(word for word in command if word.startswith("-oProxyCommand="))


def test_root_needs_no_sudo_and_an_identity_is_the_only_key_offered(article: dict[str, Any], tmp_path: Path) -> None:
    article["ssh"] = {"user": "root"}
    command = nodes(Cluster.parse(article), tmp_path, Path("/keys/id")).command("infra0", "drain", "it's")
    assert command[-1] == """drain 'it'"'"'s'"""
    assert "-oIdentityFile=/keys/id" in command and "-oIdentitiesOnly=yes" in command
    assert not [word for word in command if word.startswith("-oProxyCommand")]


@pytest.mark.parametrize(
    ("ssh", "fault"),
    [
        ("echo 'ssh: connect to host 192.168.0.2 port 22: Connection refused' >&2; exit 255", "not reachable at 192.168.0.2: ssh: connect to host"),
        (
            "echo 'Connection timed out during banner exchange' >&2; exit 255",
            "not reachable at 192.168.0.2: Connection timed out during banner exchange; for a slow host or network set a longer --connect-timeout",
        ),
        (
            "printf '@@@@@\\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\\nHost key verification failed.\\n' >&2; exit 255",
            "192.168.0.2 does not have the host key that is known: either another machine answers there, or its key was changed; find out which",
        ),
        (
            "echo 'debian@192.168.0.2: Permission denied (publickey).' >&2; exit 255",
            "not reachable at 192.168.0.2: debian@192.168.0.2: Permission denied (publickey).; the key is --identity FILE or what the agent offers",
        ),
        ("echo 'sh: 1: /usr/local/sbin/openshift-lvs: not found' >&2; exit 127", OLDER),
        ("echo 'sudo: /usr/local/sbin/openshift-lvs: command not found' >&2; exit 1", OLDER),
        ("printf 'openshift-lvs: status: not a command\nopenshift-lvs COMMAND: keepalived and LVS on this host\n' >&2; exit 2", OLDER),
        ("echo 'usage: openshift-lvs status ' >&2; exit 2", OLDER),
        ("echo 'python3: no memory' >&2; exit 2", "python3: no memory"),
        ("echo 'waited 10 s' >&2; exit 1", "waited 10 s"),
        ("printf 'mot de passe exig\\351' >&2; exit 1", "mot de passe exig\ufffd"),
        ("exit 3", "status: exit status 3"),
    ],
)
def test_what_goes_wrong_is_one_line(cluster: Cluster, tmp_path: Path, commands: Path, ssh: str, fault: str) -> None:
    program(commands, "ssh", ssh)
    answer = nodes(cluster, tmp_path).ask(["master0"], "status", "--json")["master0"]
    assert answer.fault and answer.fault.startswith(fault) and "\n" not in answer.fault
    assert answer.reached is ("255" not in ssh)


def test_a_host_runs_the_program_of_the_version_in_force_with_the_commands_arguments(cluster: Cluster, tmp_path: Path, commands: Path) -> None:
    program(commands, "ssh", f'for last; do :; done; echo "$last" >>{tmp_path}/lines')
    nodes(cluster, tmp_path).ask(["infra0"], "hand-over", "infra")
    assert (tmp_path / "lines").read_text() == "sudo -n /usr/local/sbin/openshift-lvs hand-over infra\n"


def test_all_hosts_are_asked_at_once(cluster: Cluster, tmp_path: Path, commands: Path) -> None:
    """Each waits until all five have come: one after the other they would wait for ever."""
    program(commands, "ssh", f'touch "{tmp_path}/$$.here"; while [ "$(ls {tmp_path}/*.here | wc -l)" -lt 5 ]; do sleep 0.05; done; echo met')
    assert {answer.said for answer in nodes(cluster, tmp_path).ask(HOSTS, "status").values()} == {"met\n"}


def test_keys_of_made_servers_come_from_the_stacks_outputs_and_existing_hosts_need_no_engine(article: dict[str, Any], tmp_path: Path, commands: Path) -> None:
    hosts = ", ".join(f'"{host}": {{"host_key": "{key(host)}"}}' for host in HOSTS)
    program(commands, "pulumi", f"""echo "$@" >{tmp_path}/asked; echo '{{"hosts": {{{hosts}}}}}'""")
    with reach(Cluster.parse(article), "dev", tmp_path, None) as made:
        assert made.command("infra0", "true")[-1] == "sudo -n true"
    assert (tmp_path / "asked").read_text() == "stack output --json --stack dev --non-interactive\n"
    (commands / "pulumi").unlink()
    for pool in article["pools"].values():
        del pool["image"], pool["flavor"]
        pool["existing"] = True
        pool["hosts"] = {host: {"address": address, "host_key": key(host)} for host, address in pool["hosts"].items()}
    with reach(Cluster.parse(article), "dev", tmp_path, None) as existing:
        assert existing.command("infra0", "true")


@pytest.mark.parametrize(
    ("pulumi", "words"),
    [
        ("echo 'error: no stack named dev found' >&2; exit 1", "pulumi stack output: error: no stack named dev found"),
        ("echo '{}'", "master0, master1, master2, infra0, infra1: not in the outputs of stack 'dev', so not created yet; run pulumi up --stack dev"),
        (None, "pulumi: not on this machine"),
    ],
)
def test_a_host_key_that_cannot_be_had_says_where_it_comes_from(cluster: Cluster, tmp_path: Path, commands: Path, pulumi: str | None, words: str) -> None:
    if pulumi:
        program(commands, "pulumi", pulumi)
    with pytest.raises(NodesError, match="^" + words), reach(cluster, "dev", tmp_path, None):
        pass


def test_an_unknown_host_is_named_with_those_that_are_before_anything_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parent / "golden"
    assert operations.main(["drain", "master9", "--stack", "example", "--root", str(root)]) == 2
    assert capsys.readouterr().err == "host: 'master9' is not in this stack; its hosts are master0, master1, master2, infra0, infra1\n"
