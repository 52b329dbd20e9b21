"""The local cloud's own logic; the cloud itself is tried by tests/cloud."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lab import cloud, debian, proof
from lab.cloud import layers
from lab.cloud.system import client, configuration, edge, init
from lab.phases import wait_for

FIRSTBOOT = layers.HERE / "image/files/usr/local/sbin/firstboot"


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Process 1 as an ordinary process, with its socket and logs in a folder of the test's."""
    monkeypatch.setattr(init, "SOCKET", str(tmp_path / "socket"))
    monkeypatch.setattr(init, "LOGS", tmp_path)
    program = (
        f"from pathlib import Path; from lab.cloud.system import init; init.SOCKET = {init.SOCKET!r}; init.LOGS = Path({str(tmp_path)!r}); init.Init().run()"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    wait_for("the supervisor's socket", lambda: (Path(init.SOCKET).is_socket(), "none"), 20, poll_s=0.05)
    yield process
    process.terminate()
    process.wait(timeout=30)


def pid_of(name: str) -> int:
    return init.status()[name]["pid"]


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_the_socket_has_no_name_before_it_accepts_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "SOCKET", str(tmp_path / "socket"))
    named = []
    monkeypatch.setattr(socket.socket, "listen", lambda self, backlog: named.append(Path(init.SOCKET).exists()))
    init.listening().close()
    assert named == [False]
    assert Path(init.SOCKET).is_socket()


def test_a_service_that_is_started_twice_runs_once(supervisor: subprocess.Popen[bytes]) -> None:
    init.start("one", "sleep", "100")
    first = pid_of("one")
    init.start("one", "sleep", "100")
    assert pid_of("one") == first
    assert alive(first)


def test_a_service_that_dies_is_started_again(supervisor: subprocess.Popen[bytes]) -> None:
    init.start("one", "sleep", "100")
    first = pid_of("one")
    os.kill(first, signal.SIGKILL)
    wait_for("another process", lambda: (pid_of("one") not in (0, first), str(init.status())), 10, poll_s=0.05)
    assert init.status()["one"]["restarts"] == 1


def test_a_service_that_keeps_dying_is_started_less_and_less_often() -> None:
    service = init.Service("one", ["true"])
    pauses: list[float] = []
    for _ in range(8):
        service.since = time.monotonic()
        service.died()
        pauses.append(service.again - time.monotonic())
    assert all(later > earlier - 0.1 for earlier, later in pairwise(pauses))
    assert pauses[0] < 1.5
    assert pauses[-1] == pytest.approx(init.LONGEST_PAUSE_S, abs=0.5)


def test_a_service_of_other_arguments_replaces_the_one_that_runs(supervisor: subprocess.Popen[bytes]) -> None:
    init.start("one", "sleep", "100")
    first = pid_of("one")
    init.start("one", "sleep", "200")
    assert pid_of("one") != first
    assert not alive(first)


def test_what_a_service_says_is_in_its_log(supervisor: subprocess.Popen[bytes], tmp_path: Path) -> None:
    init.start("speaker", "sh", "-c", "echo $WORD; echo fault >&2; sleep 100", WORD="heard")
    log = tmp_path / "speaker.log"
    wait_for("both lines", lambda: ((said := log.read_text()) == "heard\nfault\n", said), 10, poll_s=0.05)


def test_the_end_of_process_1_is_the_end_of_its_services(supervisor: subprocess.Popen[bytes]) -> None:
    init.start("one", "sleep", "100")
    pid = pid_of("one")
    supervisor.terminate()
    supervisor.wait(timeout=20)
    assert not alive(pid)


def test_a_request_that_makes_no_sense_does_not_end_process_1(supervisor: subprocess.Popen[bytes]) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(init.SOCKET)
        rude.sendall(b"nonsense\n")
    init.start("one", "sleep", "100")
    assert alive(pid_of("one"))


def test_without_a_running_cloud_every_way_in_says_how_to_start_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    assert cloud.running() is None
    for way in (cloud.enter, cloud.inside):
        with pytest.raises(cloud.CloudError, match="make up"):
            way()


def test_ending_a_cloud_that_does_not_run_is_no_error_and_forgets_its_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    cloud.state().mkdir()
    cloud.down()
    assert not cloud.state().exists()


def test_a_process_left_in_the_clouds_namespaces_is_named() -> None:
    with subprocess.Popen(["sleep", "54321"]) as stray:
        ours = {str(Path(f"/proc/{stray.pid}/ns/net").readlink())}
        gone, seen = cloud._left(ours)
        stray.kill()
    assert not gone
    assert f"{stray.pid}: sleep 54321" in seen


def test_files_with_passwords_are_for_root_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "STATE", tmp_path)
    made = configuration.password("demo")
    assert configuration.password("demo") == made != configuration.password("admin")
    configuration.write(str(tmp_path / "etc/nova.conf"), {"DEFAULT": {"my_ip": "127.0.0.1"}, "neutron": {"password": made}})
    for file in ("passwords.json", "etc/nova.conf"):
        assert (tmp_path / file).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "etc/nova.conf").read_text() == f"[DEFAULT]\nmy_ip = 127.0.0.1\n\n[neutron]\npassword = {made}\n"


PORT_ROW: dict[str, Any] = {
    "name": "p1",
    "addresses": "fa:16:3e:00:00:01 192.168.0.100",
    "external_ids": {"neutron:port_name": "bastion", "neutron:cidrs": "192.168.0.100/24"},
    "dhcpv4_options": ["uuid", "d1"],
}
DHCP_ROW = {"headings": ["options"], "data": [[["map", [["router", "192.168.0.1"], ["mtu", "1442"]]]]]}


def test_the_bastion_takes_address_gateway_and_mtu_from_the_tenants_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0, stdout=json.dumps(DHCP_ROW)))
    assert edge.wanted([PORT_ROW], "bastion") == edge.Port("p1", "fa:16:3e:00:00:01", ("192.168.0.100/24",), "192.168.0.1", "1442")


def test_without_a_port_of_that_name_nothing_is_plugged() -> None:
    assert edge.wanted([PORT_ROW], "bastion-v6") is None


def test_the_external_client_reaches_the_ipv6_subnets_behind_a_router_through_its_ipv6_address() -> None:
    def port(router: str, owner: str, cidrs: str) -> dict[str, Any]:
        return {"external_ids": {"neutron:device_id": router, "neutron:device_owner": owner, "neutron:cidrs": cidrs}}

    ports = [
        PORT_ROW,
        port("r1", "network:router_gateway", "203.0.113.20/24 2001:db8:0:ff::20/64"),
        port("r1", "network:router_interface", "192.168.0.1/24"),
        port("r1", "network:router_interface", "fd00:0:0:1::1/64"),
        port("r2", "network:router_interface", "fd00:0:0:2::1/64"),
    ]
    assert edge.routes(ports) == {"fd00:0:0:1::/64": "2001:db8:0:ff::20"}


def test_each_address_is_asked_from_inside_and_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "client", lambda *_, **__: {"sent": 100, "failed": 0, "answers": {"infra0": 100}, "errors": {}})
    endpoints = {
        "infra": {"address": "192.168.0.251", "floating_ip": "203.0.113.20", "services": ["192.168.0.251:80/TCP"]},
        "infra-v6": {"address": "fd00:0:0:1::251", "floating_ip": None, "services": ["[fd00:0:0:1::251]:443/TCP"]},
        "inner": {"address": "192.168.0.252", "floating_ip": None, "services": ["192.168.0.252:80/TCP"]},
    }
    assert [(each.source, each.target) for each in proof.ask({"endpoints": endpoints}, lambda _: None)] == [
        ("bastion", "192.168.0.251:80"),
        ("external", "203.0.113.20:80"),
        ("bastion", "[fd00:0:0:1::251]:443"),
        ("external", "[fd00:0:0:1::251]:443"),
        ("bastion", "192.168.0.252:80"),
    ]


async def answer_as(name: bytes) -> dict[str, object]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(name)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        return await client.send("127.0.0.1", server.sockets[0].getsockname()[1], 20, 4, 5.0)


def test_answers_are_counted_by_the_server_that_gave_them() -> None:
    counted = asyncio.run(answer_as(b"HTTP/1.0 200 OK\r\n\r\nmaster0\n"))
    assert (counted["sent"], counted["failed"], counted["answers"]) == (20, 0, {"master0": 20})


@pytest.mark.parametrize("said", [b"HTTP/1.0 503 Sorry\r\n\r\nmaster0\n", b""])
def test_an_answer_that_is_no_success_counts_as_failed(said: bytes) -> None:
    counted = asyncio.run(answer_as(said))
    assert (counted["failed"], counted["answers"]) == (20, {})


def test_a_refused_connection_counts_as_failed_and_says_so() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        counted = asyncio.run(client.send("127.0.0.1", closed.getsockname()[1], 3, 1, 5.0))
    assert counted["failed"] == 3
    assert "ConnectionRefused" in str(counted["errors"])


def test_a_build_that_fails_names_its_log_and_shows_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    with pytest.raises(debian.BuildError, match="making it failed with status 3") as raised:
        debian.run_logged("making it", ["sh", "-c", "echo no room; exit 3"], tmp_path / "log")
    assert "no room" in str(raised.value)
    assert str(tmp_path / "logs/making-it.log") in str(raised.value)


@pytest.fixture
def firstboot(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The image's first boot as a module, with its main part not run."""
    source = FIRSTBOOT.read_text().rsplit("\n\n\n", 1)[0]
    module = ModuleType("firstboot")
    exec(compile(source, str(FIRSTBOOT), "exec"), module.__dict__)  # noqa: S102
    return module


def drive(module: ModuleType, folder: Path, text: str) -> None:
    module.DRIVE = str(folder)  # type: ignore[attr-defined]
    (folder / "openstack/latest").mkdir(parents=True)
    (folder / "openstack/latest/user_data").write_text(text)


def test_first_boot_reads_user_data_that_is_json_behind_the_cloud_config_line(firstboot: ModuleType, tmp_path: Path) -> None:
    drive(firstboot, tmp_path, '#cloud-config\n{"hostname": "master0", "runcmd": [["true"]]}')
    assert firstboot.user_data() == {"hostname": "master0", "runcmd": [["true"]]}


def test_first_boot_refuses_user_data_of_another_kind(firstboot: ModuleType, tmp_path: Path) -> None:
    drive(firstboot, tmp_path, "#!/bin/sh\necho hello\n")
    with pytest.raises(SystemExit, match="#cloud-config"):
        firstboot.user_data()


def test_first_boot_leaves_no_secret_readable_by_others(firstboot: ModuleType, tmp_path: Path) -> None:
    firstboot.put(str(tmp_path / "etc/ssh/key"), "secret\n", 0o600)
    assert (tmp_path / "etc/ssh/key").stat().st_mode & 0o777 == 0o600


def test_every_requirement_of_openstack_is_pinned_by_hash() -> None:
    lines = [line for line in layers.REQUIREMENTS.read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) > 100
    assert all("==" in line and line.endswith("\\") for line in lines), "each is followed by its hashes"
    assert "://" not in layers.REQUIREMENTS.read_text()
