"""The TCP sockets of a host, as an operator's drain asks for them."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from node.openshift_lvs import sockets

TITLE = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LISTENS = "   0: 00000000:20FB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
CONNECTED = "   1: FA00A8C0:20FB 0900A8C0:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
IN_A_CONTAINER = "   0: 0700F40A:01BB 0900A8C0:9C41 08 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
LISTENS_THERE = "   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"
WAITS = "   2: FA00A8C0:20FB 0900A8C0:9C42 06 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n"


def test_the_ports_and_the_connections_of_this_host_are_those_that_programs_have_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        said = sockets.everywhere().splitlines()
        at, peer = (f"127.0.0.1:{end.getsockname()[1]}" for end in (server, client))
    assert f"listens {at.rpartition(':')[2]}" in said
    assert f"{at} {peer}" in said
    assert f"{peer} {at}" in said


def test_a_container_s_connections_are_among_them_and_its_ports_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def process(number: str, namespace: str, shown: str) -> None:
        (tmp_path / number / "ns").mkdir(parents=True)
        (tmp_path / number / "ns" / "net").symlink_to(f"net:[{namespace}]")
        (tmp_path / number / "net").mkdir()
        (tmp_path / number / "net" / "tcp").write_text(TITLE + shown)

    process("self", "1", LISTENS + CONNECTED + WAITS)
    process("12", "2", IN_A_CONTAINER + LISTENS_THERE)
    (tmp_path / "13").mkdir()
    monkeypatch.setattr(sockets, "PROC", str(tmp_path))
    assert sockets.everywhere().splitlines() == ["10.244.0.7:443 192.168.0.9:40001", "192.168.0.250:8443 192.168.0.9:40000", "listens 8443"]
