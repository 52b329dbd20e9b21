"""What runs on nodes and in the cloud's namespaces as `python3 -c`: packets with a forged sender, what of them arrives, listeners and their clients, and
how late timers are.

forge CONFIG                  sends what CONFIG names: {interface, packets: [[KIND, SOURCE, TARGET], ...], vip, port, virtual_router_id}
hear INTERFACE [SOURCE]       prints [protocol, source, target, port] of forged packets that arrive, or of all from SOURCE
serve TCP_PORTS UDP_PORTS     answers each call (HTTP on TCP); ports are separated by commas, - for none
call KIND ADDRESS PORT COUNT  prints {answered, errors: {what: count}} of calls, one after the other; KIND is tcp or udp
timers [ADDRESS PORT]...      prints how many seconds late this node's timers were at most, or keepalived's would be that checks these servers

`hear`, `serve` and `timers` say "ready", work until their standard input ends, and then print JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import socket
import socketserver
import struct
import sys
import threading
import time
from collections.abc import Callable

FORGED = 0x4C56
"""The identification of every packet that `forge` sends, by which `hear` knows it."""
CLIENT = "203.0.113.66"
"""The client in forged messages. No machine has this address."""
VRRP, SYNC = "224.0.0.18", "224.0.0.81"
NUMBERS = {"tcp": 6, "udp": 17, "vrrp": 112, "ipip": 4}
NAMES = {number: name for name, number in NUMBERS.items()}
TIMES, GAP_S = 3, 0.2
"""How often `forge` sends its packets, and the pause between two times."""
PATIENCE_S = 2.0
TIMER_S = 0.05
CHECK_S, LINGER_S = 0.2, 5
"""The pause between two connections of `timers`, and for how long keepalived waits at most when it closes one."""


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def packet(source: str, target: str, protocol: str, payload: bytes, ttl: int = 255) -> bytes:
    """An IPv4 packet; the kernel fills in the checksum of its header."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    return struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(payload), FORGED, 0, ttl, NUMBERS[protocol], 0) + addresses + payload


def summed(source: str, target: str, protocol: str, payload: bytes, at: int) -> bytes:
    """A payload with its checksum over the pseudo header, which belongs at this byte."""
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, NUMBERS[protocol], len(payload))
    return payload[:at] + struct.pack("!H", checksum(pseudo + payload)) + payload[at + 2 :]


def advert(source: str, target: str, vip: str, virtual_router_id: int) -> bytes:
    """A VRRP advert (version 3) of priority 255."""
    body = struct.pack("!BBBBHH", 0x31, virtual_router_id, 255, 1, 30, 0) + socket.inet_aton(vip)
    return packet(source, target, "vrrp", summed(source, target, "vrrp", body, 6))


def sync(source: str, target: str, vip: str, port: int, virtual_router_id: int) -> bytes:
    """A message of connection sync: an ESTABLISHED connection of CLIENT, with the sender as its real server."""
    connection = struct.pack("!BBHIHHHHII", 0, 6, 36, 0, 1, 40000, port, port, virtual_router_id << 20 | port, 900)
    connection += socket.inet_aton(CLIENT) + socket.inet_aton(vip) + socket.inet_aton(source)
    message = struct.pack("!BBHBBH", 0, virtual_router_id, 8 + len(connection), 1, 1, 0) + connection
    return packet(source, target, "udp", struct.pack("!HHHH", 8848, 8848, 8 + len(message), 0) + message, 1)


def tunnelled(source: str, target: str, vip: str) -> bytes:
    """An IPIP packet; in it is the header of a TCP packet from CLIENT to the VIP."""
    return packet(source, target, "ipip", packet(CLIENT, vip, "tcp", b"", 64))


def syn(source: str, target: str) -> bytes:
    """The first packet of an ssh connection, which nodes accept from their subnet."""
    segment = struct.pack("!HHIIBBHHH", 45000, 22, 1, 0, 0x50, 0x02, 512, 0, 0)
    return packet(source, target, "tcp", summed(source, target, "tcp", segment, 16), 64)


def forged(kind: str, source: str, target: str, vip: str, port: int, virtual_router_id: int) -> bytes:
    """The packet of that kind: vrrp, sync, ipip or ssh."""
    if kind == "vrrp":
        return advert(source, target, vip, virtual_router_id)
    if kind == "sync":
        return sync(source, target, vip, port, virtual_router_id)
    return tunnelled(source, target, vip) if kind == "ipip" else syn(source, target)


def forge(config: str) -> None:
    given = json.loads(config)
    wire = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, given["interface"].encode())
    wire.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    for _ in range(TIMES):
        for kind, source, target in given["packets"]:
            wire.sendto(forged(kind, source, target, given["vip"], given["port"], given["virtual_router_id"]), (target, 0))
        time.sleep(GAP_S)


def heard(data: bytes, source: str = "") -> tuple[str, str, str, int] | None:
    """Protocol, source, target and port of an IPv4 packet; None, if it is not forged, or not from `source` if one is given."""
    if len(data) < 20 or (data[12:16] != socket.inet_aton(source) if source else data[4:6] != struct.pack("!H", FORGED)):
        return None
    protocol, payload = NAMES.get(data[9], str(data[9])), data[(data[0] & 15) * 4 :]
    port = struct.unpack("!H", payload[2:4])[0] if protocol in ("tcp", "udp") and len(payload) >= 4 else 0
    return protocol, socket.inet_ntoa(data[12:16]), socket.inet_ntoa(data[16:20]), port


def hear(interface: str, source: str = "") -> None:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    wire.bind((interface, 0x0800))
    found: set[tuple[str, str, str, int]] = set()
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([wire.fileno(), 0], [], [])
        if wire.fileno() in ready:
            if seen := heard(wire.recv(2048), source):
                found.add(seen)
        # Only when no packet waits: what came before the end counts.
        elif not os.read(0, 1):
            break
    print(json.dumps(sorted(found)))


class Tcp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.0 200 OK\r\n\r\nanswers\n")


class Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request[1].sendto(b"answers", self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


def serve(tcp: str, udp: str) -> None:
    for ports, server, handler in ((tcp, TcpServer, Tcp), (udp, socketserver.UDPServer, Udp)):
        for port in ports.split(",") if ports != "-" else ():
            threading.Thread(target=server(("", int(port)), handler).serve_forever, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    print("{}")


def call(kind: str, address: str, port: str, count: str) -> None:
    errors: dict[str, int] = {}
    for _ in range(int(count)):
        caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        caller.settimeout(PATIENCE_S)
        try:
            caller.connect((address, int(port)))
            caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
            what = "" if b"answers" in caller.recv(1024) else "another answer"
        except OSError as error:
            what = str(error)
        finally:
            caller.close()
        if what:
            errors[what] = errors.get(what, 0) + 1
    print(json.dumps({"answered": int(count) - sum(errors.values()), "errors": errors}))


def timers(*servers: str) -> None:
    late, ended, begun = 0.0, False, time.monotonic()
    closing: list[float] = []

    def check() -> None:
        for address, port in itertools.cycle(zip(servers[::2], servers[1::2], strict=True)):
            closing.append(close_s(address, int(port)))

    threading.Thread(target=check, daemon=True).start()
    print("ready", flush=True)
    while not ended:
        ended = bool(select.select([0], [], [], TIMER_S)[0])
        began, begun = begun, time.monotonic()
        late = max(late, begun - began - TIMER_S)
    print(json.dumps(round(max([late, *closing]), 2)))


def close_s(address: str, port: int) -> float:
    """How many seconds it takes to close a connection to a server as keepalived does after each check: nothing else of its checks goes on meanwhile."""
    time.sleep(CHECK_S)  # so often does keepalived check
    try:
        with socket.create_connection((address, port), PATIENCE_S) as check:
            check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, LINGER_S))
            begun = time.monotonic()
    except OSError:
        return 0.0
    return time.monotonic() - begun


if __name__ == "__main__":
    verbs: dict[str, Callable[..., None]] = {"forge": forge, "hear": hear, "serve": serve, "call": call, "timers": timers}
    verbs[sys.argv[1]](*sys.argv[2:])
