"""The bastion that the program creates: what it is made of, who can use it, for what, and that everything goes through it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from components import host_key
from components.bastion import KEY_NAME, SSHD_CONFIG, sshd_config
from components.configuration import Cluster
from components.load_balancer import BOOTING_DIAL_ERRORS, RUNNING_DIAL_ERRORS
from operations import nodes as reached
from operations.nodes import Nodes, NodesError, reach
from tests.unit.recording import Deploy, Deployment
from tests.unit.test_program import PUBLIC_KEY, SEED, run

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")


@pytest.fixture
def bastioned(article: dict[str, Any]) -> dict[str, Any]:
    """The article with a bastion that the program creates."""
    article["ssh"].update(bastion={"image": "debian-13", "flavor": "m1.small"}, allowed_cidrs=["198.51.100.0/24", "203.0.113.7/32"])
    return article


def first_boot(done: Deployment) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(done.of("Instance")["ssh-bastion"].inputs["userData"].partition("\n")[2])
    return data


def test_it_is_a_small_server_with_a_floating_ip_and_a_group_of_its_own(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    done = run(deploy, bastioned)
    server = done.of("Instance")["ssh-bastion"].inputs
    assert (server["imageId"], server["flavorName"], server["networks"]) == ("debian-13-id", "m1.small", [{"port": "ssh-bastion-id"}])
    port = done.of("Port")["ssh-bastion"].inputs
    assert port["securityGroupIds"] == ["ssh-bastion-id"] and port["fixedIps"] == [{"subnetId": "subnet-id"}] and "allowedAddressPairs" not in port
    assert done.of("FloatingIp")["ssh-bastion"].inputs == {"pool": "public", "portId": "ssh-bastion-id"}
    assert "RouterInterface router" in done.before(done.of("FloatingIp")["ssh-bastion"])


def test_ssh_to_it_comes_from_the_named_ranges_only(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    done = run(deploy, bastioned)
    rules = [rule.inputs for rule in done.of("SecGroupRule").values() if rule.inputs["securityGroupId"] == "ssh-bastion-id"]
    assert sorted((rule["protocol"], rule["portRangeMin"], rule["portRangeMax"], rule["remoteIpPrefix"]) for rule in rules) == [
        ("tcp", 22, 22, "198.51.100.0/24"),
        ("tcp", 22, 22, "203.0.113.7/32"),
    ]


def test_every_connection_goes_through_it_and_expects_the_host_key_that_it_boots_with(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    done = run(deploy, bastioned)
    public = host_key.derive(SEED, KEY_NAME).public
    assert first_boot(done)["ssh_keys"]["ed25519_public"] == public
    assert first_boot(done)["ssh_authorized_keys"] == [PUBLIC_KEY]
    assert done.of("Command")
    for command in done.of("Command").values():
        proxy = command.inputs["connection"]["proxy"]
        assert (proxy["host"], proxy["port"], proxy["user"], proxy["hostKey"]) == ("203.0.113.11", 22, "debian", public)
        assert proxy["dialErrorLimit"] == BOOTING_DIAL_ERRORS
        # And at the end the other way round: it goes when the last command is gone.
        assert {"Instance ssh-bastion", "FloatingIp ssh-bastion", "SecGroupRule ssh-bastion-from-198.51.100.0/24"} <= done.before(command)
    assert done.returned["bastion"] == {"host": "203.0.113.11", "port": 22, "user": "debian", "host_key": public}


def test_a_host_that_runs_already_waits_for_the_bastion_to_boot(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    bastioned["pools"]["infra"] = {"existing": True, "hosts": {"infra0": {"address": "192.168.0.5", "host_key": PUBLIC_KEY}}}
    connection = run(deploy, bastioned).of("Command")["install-infra0"].inputs["connection"]
    assert connection["dialErrorLimit"] == RUNNING_DIAL_ERRORS and connection["proxy"]["dialErrorLimit"] == BOOTING_DIAL_ERRORS


def test_the_seed_and_the_private_key_are_secret(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    server = run(deploy, bastioned).of("Instance")["ssh-bastion"]
    assert "userData" in server.secrets and "PRIVATE KEY" in server.inputs["userData"]


def test_its_sshd_reads_its_configuration_first_or_does_not_run(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    data = first_boot(run(deploy, bastioned))
    (file,) = data["write_files"]
    assert file == {"path": SSHD_CONFIG, "permissions": "0644", "content": sshd_config(Cluster.parse(bastioned))}
    ((shell, option, script),) = data["runcmd"]
    assert (shell, option) == ("sh", "-c") and "sshd -T | grep -qx 'maxsessions 0'" in script and "disable --now" in script
    assert "disable_root" not in data


def test_root_may_log_in_to_it_where_root_is_its_login(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    bastioned["ssh"]["bastion"]["user"] = "root"
    assert first_boot(run(deploy, bastioned))["disable_root"] is False


def test_it_reaches_every_address_of_the_subnet_and_of_a_large_one_every_ssh_port(bastioned: dict[str, Any]) -> None:
    (line,) = (line for line in sshd_config(Cluster.parse(bastioned)).splitlines() if line.startswith("PermitOpen "))
    assert line.split()[1:] == [f"192.168.0.{last}:22" for last in range(1, 255)]
    bastioned["network"]["cidr"] = "192.168.0.0/16"
    assert "PermitOpen *:22\n" in sshd_config(Cluster.parse(bastioned))


def test_a_bastion_without_a_disk_boots_from_a_volume(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    bastioned["ssh"]["bastion"]["root_volume"] = {"size": 5}
    server = run(deploy, bastioned).of("Instance")["ssh-bastion"].inputs
    assert server["blockDevices"][0]["volumeSize"] == 5 and "imageId" not in server


def test_on_a_network_without_port_security_its_port_has_it_all_the_same(deploy: Deploy, bastioned: dict[str, Any]) -> None:
    bastioned["network"]["port_security"] = False
    port = run(deploy, bastioned).of("Port")["ssh-bastion"].inputs
    assert port["portSecurityEnabled"] is True and port["securityGroupIds"] == ["ssh-bastion-id"]


def test_a_bastion_that_comes_later_replaces_no_server(deploy: Deploy, article: dict[str, Any]) -> None:
    before = {resource.urn: resource.inputs for resource in run(deploy, article).resources if resource.type.startswith("openstack:")}
    article["ssh"].update(bastion={"image": "debian-13", "flavor": "m1.small"}, allowed_cidrs=["10.0.0.0/8"])
    after = {resource.urn: resource.inputs for resource in run(deploy, article).resources}
    assert all(after[urn] == inputs for urn, inputs in before.items())


def test_a_stack_without_one_has_no_output_for_it(deploy: Deploy, article: dict[str, Any]) -> None:
    assert "bastion" not in run(deploy, article).returned


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `pulumi stack output` says."""
    given: dict[str, Any] = {"hosts": {name: {"host_key": PUBLIC_KEY} for name in ("master0", "master1", "master2", "infra0", "infra1")}}
    monkeypatch.setattr(reached, "_outputs", lambda stack, root: given)
    return given


def test_operations_goes_through_it_as_the_outputs_describe_it(bastioned: dict[str, Any], outputs: dict[str, Any], tmp_path: Path) -> None:
    outputs["bastion"] = {"host": "203.0.113.11", "port": 22, "user": "debian", "host_key": PUBLIC_KEY}
    with reach(Cluster.parse(bastioned), "test", tmp_path, None) as nodes:
        assert isinstance(nodes, Nodes)
        (jump,) = (word for word in nodes.command("master0", "true") if word.startswith("-oProxyCommand="))
        assert jump.endswith("'-W[%h]:%p' -p 22 debian@203.0.113.11")
        (known,) = (word.partition("=")[2] for word in nodes.command("master0", "true") if word.startswith("-oUserKnownHostsFile="))
        assert f"203.0.113.11 {PUBLIC_KEY}\n" in Path(known).read_text()


def test_operations_asks_the_engine_once(bastioned: dict[str, Any], outputs: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs["bastion"] = {"host": "203.0.113.11", "port": 22, "user": "debian", "host_key": PUBLIC_KEY}
    asked: list[str] = []

    def counted(stack: str, _: Path) -> dict[str, Any]:
        asked.append(stack)
        return outputs

    monkeypatch.setattr(reached, "_outputs", counted)
    with reach(Cluster.parse(bastioned), "test", tmp_path, None):
        assert asked == ["test"]


def test_operations_before_the_first_up_says_that_it_is_not_there(bastioned: dict[str, Any], outputs: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NodesError, match=r"^bastion: not in the outputs of stack 'test', so not created yet; run pulumi up --stack test$"):
        reach(Cluster.parse(bastioned), "test", tmp_path, None).__enter__()


@pytest.mark.skipif(not SSHD, reason="this machine has no sshd")
def test_a_real_sshd_forwards_to_the_named_addresses_and_gives_no_shell(bastioned: dict[str, Any], tmp_path: Path) -> None:
    """On the loopback interface, with the subnet there: a listener stands for a node's sshd."""
    bastioned["network"].update(cidr="127.0.0.0/24", gateway="127.0.0.1", client_cidrs=["10.0.0.0/8"])
    bastioned["pools"] = {"infra": {**bastioned["pools"]["infra"], "hosts": {"infra0": "127.0.0.5"}}}
    bastioned["vips"] = {"infra": {**bastioned["vips"]["infra"], "address": "127.0.0.251"}}
    bastioned["ssh"]["port"] = 20022
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    base = f"Port 20021\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/client.pub\nStrictModes no\nUsePAM no\nPidFile none\n"
    (tmp_path / "sshd_config").write_text(sshd_config(Cluster.parse(bastioned)) + base)
    assert SSHD
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "sshd_config"], stderr=subprocess.DEVNULL)
    node = subprocess.Popen(["python3", "-c", NODE])
    options = ["-F/dev/null", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes", "-oLogLevel=INFO", f"-i{tmp_path}/client"]

    def ssh(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["ssh", *options, "-p20021", "127.0.0.1", *words], input="", capture_output=True, text=True, timeout=20)

    try:
        deadline = time.monotonic() + 20
        while (forwarded := ssh("-W127.0.0.5:20022")).stdout != "a node\n" and time.monotonic() < deadline:
            assert server.poll() is None and node.poll() is None
        assert forwarded.stdout == "a node\n", forwarded.stderr
        assert "prohibited" in ssh("-W127.0.0.5:20023").stderr, "another port"
        assert "prohibited" in ssh("-W127.0.1.5:20022").stderr, "an address outside the subnet"
        for words in (("echo", "shell"), ("-tt", "echo", "shell"), ("-s", "sftp")):
            refused = ssh(*words)
            assert refused.returncode and "shell" not in refused.stdout, words
    finally:
        for process in (server, node):
            process.terminate()
            process.wait(10)


NODE = """
import socket
listening = [socket.create_server((address, port)) for address, port in (("127.0.0.5", 20022),)]
while True:
    connection, _ = listening[0].accept()
    connection.sendall(b"a node\\n")
    connection.close()
"""
