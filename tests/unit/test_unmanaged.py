"""Real servers that the program does not manage: what the model refuses, what is made for them, and their rules on a real kernel."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import keepalived
from components.configuration import Cluster, ConfigurationError, UsageError
from operations.machine_config import into_ignition, machine_config
from tests.unit.node_root import Node, node
from tests.unit.recording import Deploy
from tests.unit.test_program import PUBLIC_KEY, commands, existing, run

VIP, PORT, CLIENT = "192.168.0.250", 8443, "192.168.0.9"
FOLDER = keepalived.SERVER_FOLDER


@pytest.fixture
def unmanaged(article: dict[str, Any]) -> dict[str, Any]:
    """The article with a master that the program does not manage."""
    article["pools"]["master"]["hosts"]["master2"] = {"address": "192.168.0.4", "managed": False}
    return article


def refused(data: dict[str, Any]) -> str:
    with pytest.raises(ConfigurationError) as error:
        Cluster.parse(data)
    return str(error.value)


def test_an_unmanaged_host_is_a_real_server_and_no_director(unmanaged: dict[str, Any]) -> None:
    cluster = Cluster.parse(unmanaged)
    assert cluster.directors("master") == cluster.managed("master") == ["master0", "master1"]
    conf = next(file.text for file in keepalived.render(cluster, "master0") if file.path == "keepalived.conf")
    assert "real_server 192.168.0.4 {" in conf


def test_an_unmanaged_host_cannot_be_a_director(unmanaged: dict[str, Any]) -> None:
    unmanaged["pools"]["master"]["directors"] = ["master0", "master2"]
    assert refused(unmanaged) == "pools.master.directors: 'master2' has managed: false, so keepalived does not run there; choose a managed host"


def test_a_pool_without_a_managed_host_is_refused(unmanaged: dict[str, Any]) -> None:
    hosts = unmanaged["pools"]["master"]["hosts"]
    hosts.update({name: {"address": host, "managed": False} for name, host in hosts.items() if isinstance(host, str)})
    assert refused(unmanaged) == "pools.master.hosts: every host has managed: false, so no host could hold a VIP; add a host for a director"


@pytest.mark.parametrize(
    ("key", "value", "remedy"),
    [
        ("host_key", PUBLIC_KEY, "remove it"),
        ("ssh_address", "192.168.0.40", "remove it"),
        ("ssh_user", "core", "remove it"),
        ("availability_zone", "az1", "remove it"),
        ("installed", "2026-03-01", "remove it"),
        ("interface", "ens3", "set it for the pool"),
    ],
)
def test_a_key_that_only_a_managed_host_needs_is_refused(unmanaged: dict[str, Any], key: str, value: str, remedy: str) -> None:
    unmanaged["pools"]["master"]["hosts"]["master2"][key] = value
    assert refused(unmanaged) == f"pools.master.hosts.master2.{key}: {value!r}, and the program does not manage this host (managed: false); {remedy}"


def test_a_tunnel_to_an_unmanaged_host_is_refused(unmanaged: dict[str, Any]) -> None:
    unmanaged["vips"]["master"]["services"][0]["forwarding_method"] = "TUN"
    said = refused(unmanaged)
    assert said == "vips.master.services.0.forwarding_method: TUN, and master2 has managed: false, so the program cannot load ipip there; use DR"


def test_an_existing_unmanaged_host_needs_no_host_key(deploy: Deploy, article: dict[str, Any]) -> None:
    existing(article)["pools"]["master"]["hosts"]["master2"] = {"address": "192.168.0.4", "managed": False}
    done = run(deploy, article)
    assert not done.of("Port")
    assert not [name for name in commands(done) if "master2" in name]


def test_an_unmanaged_host_gets_a_port_with_its_pairs_and_no_server_and_no_command(deploy: Deploy, unmanaged: dict[str, Any]) -> None:
    done = run(deploy, unmanaged)
    assert set(done.of("Instance")) == {"master0", "master1", "infra0", "infra1"}
    port = done.of("Port")["master2"].inputs
    assert [pair["ipAddress"] for pair in port["allowedAddressPairs"]] == [VIP]
    assert port["securityGroupIds"] == done.of("Port")["master0"].inputs["securityGroupIds"]
    assert not [name for name in commands(done) if "master2" in name]
    assert done.returned["hosts"]["master2"]["roles"] == ["real server"] and done.returned["hosts"]["master2"]["host_key"] is None


def test_the_machine_config_has_the_files_of_the_pool(unmanaged: dict[str, Any]) -> None:
    cluster = Cluster.parse(unmanaged)
    made = yaml.safe_load(machine_config(cluster, "master", "master"))
    assert made["apiVersion"] == "machineconfiguration.openshift.io/v1" and made["kind"] == "MachineConfig"
    assert made["metadata"] == {"name": "99-master-openshift-lvs-master", "labels": {"machineconfiguration.openshift.io/role": "master"}}
    config = made["spec"]["config"]
    assert config["ignition"] == {"version": "3.4.0"}
    stored = {file["path"]: base64.b64decode(file["contents"]["source"].partition(",")[2]).decode() for file in config["storage"]["files"]}
    unit = config["systemd"]["units"][0]
    rendered = {file.path: file.text for file in keepalived.render(cluster, "master2")}
    assert {**{path.removeprefix(f"{FOLDER}/"): text for path, text in stored.items()}, unit["name"]: unit["contents"]} == rendered
    assert {file["path"]: file["mode"] for file in config["storage"]["files"]} == {f"{FOLDER}/server.nft": 0o644, f"{FOLDER}/own-calls": 0o755}
    assert all(path in unit["contents"] for path in stored) and unit["enabled"]


def test_an_ignition_configuration_keeps_what_it_has_and_gets_the_same_files(unmanaged: dict[str, Any], tmp_path: Path) -> None:
    given = {"ignition": {"version": "3.2.0"}, "storage": {"files": [{"path": "/etc/hostname"}]}, "passwd": {"users": [{"name": "core"}]}}
    (tmp_path / "bootstrap.ign").write_text(json.dumps(given))
    cluster = Cluster.parse(unmanaged)
    made = json.loads(into_ignition(cluster, "master", tmp_path / "bootstrap.ign"))
    config = yaml.safe_load(machine_config(cluster, "master", "master"))["spec"]["config"]
    assert made["ignition"] == given["ignition"] and made["passwd"] == given["passwd"]
    assert made["storage"]["files"] == [{"path": "/etc/hostname"}, *config["storage"]["files"]]
    assert made["systemd"]["units"] == config["systemd"]["units"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no Ignition configuration"),
        ("[]", "is no Ignition configuration"),
        ('{"ignition": {"version": "2.2.0"}}', "'2.2.0'"),
        ('{"ignition": {"version": "3.2.0"}, "storage": {"files": {}}}', "storage.files is not a list"),
        ('{"ignition": {"version": "3.2.0"}, "storage": []}', "storage.files is not a list"),
    ],
)
def test_another_file_than_an_ignition_configuration_is_refused(unmanaged: dict[str, Any], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bootstrap.ign").write_text(text)
    with pytest.raises(UsageError, match=rf"^--into: .*bootstrap.ign\b.*{said}"):
        into_ignition(Cluster.parse(unmanaged), "master", tmp_path / "bootstrap.ign")


def test_a_machine_config_of_a_pool_that_is_managed_is_refused(unmanaged: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="pool: 'infra' has no host with managed: false; the pools with such hosts are master"):
        machine_config(Cluster.parse(unmanaged), "infra", "worker")


@pytest.mark.parametrize(
    ("check", "command"),
    [
        ({"type": "ssl", "path": "/readyz"}, "curl --fail --globoff --insecure https://127.0.0.1:8443/readyz"),
        (
            {"type": "http", "path": "/healthz?a=b&c", "connect_port": 1936, "virtualhost": "a.example"},
            "curl --fail --globoff --insecure --header 'Host: a.example' 'http://127.0.0.1:1936/healthz?a=b&c'",
        ),
        ({"type": "tcp"}, "bash -c '</dev/tcp/127.0.0.1/8443'"),
    ],
)
def test_own_calls_are_decided_by_the_health_check_of_the_service(unmanaged: dict[str, Any], check: dict[str, Any], command: str) -> None:
    unmanaged["vips"]["master"]["services"][0]["health_check"] = check
    script = next(file.text for file in keepalived.render(Cluster.parse(unmanaged), "master2") if file.path == "own-calls")
    assert f"    keep '{VIP} . tcp . {PORT}' {command}\n" in script


def test_shellcheck_accepts_the_script(unmanaged: dict[str, Any], tmp_path: Path) -> None:
    script = next(file.text for file in keepalived.server_files(Cluster.parse(unmanaged), "master") if file.path == "own-calls")
    assert script.startswith("#!/bin/bash\n")
    (tmp_path / "own-calls").write_text(script)
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", tmp_path / "own-calls"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


SERVE = """
import socket, sys
listening = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    connection, client = listening.accept()
    connection.sendall(f"{connection.getsockname()[0]} for {client[0]}".encode())
    connection.close()
"""
CALL = """
import socket, sys
with socket.socket() as calling:
    calling.settimeout(float(sys.argv[4]))
    calling.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, int(sys.argv[3]) << 2)
    calling.connect((sys.argv[1], int(sys.argv[2])))
    print(calling.recv(99).decode())
"""
DIRECTOR = 43
"""The code point of what a director has balanced."""


@pytest.fixture
def server(unmanaged: dict[str, Any]) -> Iterator[Node]:
    """A real server with the rules, whose wire leads to a client in a namespace of its own. Nothing listens yet."""
    files = keepalived.server_files(Cluster.parse(unmanaged), "master")
    with node(installed=False) as made:
        for file in files:
            made.write(f"{FOLDER}/{file.path}", file.text, file.mode)
        made.write("/serve", SERVE)
        made.write("/call", CALL)
        made.sh(f"""
            ip netns add client; ip link set wire netns client; ip -n client address add {CLIENT}/24 dev wire; ip -n client link set wire up
            nft --file {FOLDER}/server.nft
        """)
        yield made


def call(made: Node, *prefix: str, dscp: int = 0, patience: int = 20) -> str:
    """What a call to the VIP was answered within so many seconds; empty when it was not."""
    return made.run(*prefix, "python3", "/call", VIP, str(PORT), str(dscp), str(patience)).stdout.strip()


LISTED = f"nft list set ip openshift_lvs_server answering | grep -q {PORT}"
"""Whether own calls stay."""
FROM_CLIENT = ("ip", "netns", "exec", "client")


def test_a_real_server_answers_what_a_director_sends_for_the_vip_and_no_arp_request_for_it(server: Node) -> None:
    server.sh(f"python3 /serve {PORT} >/serving 2>&1 & until grep -q ready /serving; do sleep 0.1; done")
    assert call(server, *FROM_CLIENT, dscp=DIRECTOR, patience=1) == "", "the host answered ARP for the VIP"
    server.sh(f"ip -n client neigh replace {VIP} dev wire lladdr $(cat /sys/class/net/eth0/address)")
    assert call(server, *FROM_CLIENT, dscp=DIRECTOR) == f"192.168.0.2 for {CLIENT}"


def test_a_call_of_a_pod_ends_here_only_while_the_own_server_answers(server: Node) -> None:
    """The client's namespace is the pod: what it sends does not come from a director."""
    server.sh(f"python3 /serve {PORT} >/serving 2>&1 & until grep -q ready /serving; do sleep 0.1; done")
    server.sh(f"ip -n client neigh replace {VIP} dev wire lladdr $(cat /sys/class/net/eth0/address)")
    assert call(server, *FROM_CLIENT, patience=1) == ""
    server.sh(f"nft add element ip openshift_lvs_server answering '{{ {VIP} . tcp . {PORT} }}'")
    assert call(server, *FROM_CLIENT) == f"192.168.0.2 for {CLIENT}"


def test_own_calls_stay_exactly_while_the_own_server_answers(server: Node) -> None:
    """The holder is the client's namespace here: it has the VIP, and another server."""
    server.sh(f"""
        ip -n client address add {VIP}/32 dev wire
        ip netns exec client python3 /serve {PORT} >/holder 2>&1 & until grep -q ready /holder; do sleep 0.1; done
        bash {FOLDER}/own-calls >/own-calls.log 2>&1 &
    """)
    assert call(server) == f"{VIP} for 192.168.0.2"
    server.sh(f"python3 /serve {PORT} >/serving 2>&1 & echo $! >/serving.pid; until grep -q ready /serving; do sleep 0.1; done")
    server.sh(f"n=0; until {LISTED}; do n=$((n + 1)); [ $n -lt 300 ]; /usr/bin/sleep 0.1; done")
    assert call(server).startswith("127.0.0.1 for")
    server.sh(f"kill $(cat /serving.pid); n=0; while {LISTED}; do n=$((n + 1)); [ $n -lt 300 ]; /usr/bin/sleep 0.1; done")
    assert call(server) == f"{VIP} for 192.168.0.2"
    assert server.read("/own-calls.log") == ""
