"""Requests that this node sends: the proof that a VIP answers, and what `verify` asks from outside a pool: connections, ARP and neighbour discovery."""

from __future__ import annotations

import contextlib
import errno
import re
import selectors
import socket

from . import clock, programs
from .connections import ANSWERED, begin, split
from .errors import TimedOut
from .record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .description import Description

ANSWER_S = 3.0
"""Seconds for one connection or one answer."""
WITNESS_S = 1.0
"""Seconds for all witnesses together to take or refuse a connection."""
ARP_S = 2
ARP_TABLE = "openshift_lvs_answers"
_DISCARD_PORT = 9


class Target(Record):
    """What a proof asks: a TCP connection to ADDRESS:PORT, or an HTTP request as keepalived's HTTP_GET sends it."""

    at: str
    path: str = ""
    host: str = ""
    status: str = ""
    """Accepted status codes, such as `200-299,401`."""
    protocol: str = "1.0"
    """http_protocol of keepalived.conf(5): 1.0, 1.0C or 1.1."""

    def fault(self) -> str:
        """Ask once. Empty when the answer is accepted, else what is wrong with it."""
        try:
            with socket.create_connection(split(self.at), timeout=ANSWER_S) as connection:
                if not self.path:
                    return ""
                connection.sendall(self._request())
                line = connection.makefile("rb").readline(1000).decode("latin-1")
        except OSError:
            return "no answer"
        code = re.match(r"HTTP/[0-9.]+ (\d{3})", line)
        if not code:
            return "an answer that is not HTTP"
        for part in self.status.split(","):
            first, _, last = part.partition("-")
            if int(first) <= int(code[1]) <= int(last or first):
                return ""
        return f"HTTP status {code[1]}, and the check accepts {self.status} (sent as Host: {self.host})"

    def _request(self) -> bytes:
        version = "1.1" if self.protocol == "1.1" else "1.0"
        close = "" if self.protocol == "1.0" else "Connection: close\r\n"
        return f"GET {self.path} HTTP/{version}\r\nUser-Agent: KeepAliveClient\r\n{close}Host: {self.host}\r\n\r\n".encode()


def targets(words: list[str]) -> list[Target]:
    """The targets on a command line: `ADDRESS:PORT`, each with its own `path=`, `host=`, `status=` and `protocol=`."""
    found: list[Target] = []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and found and key in ("path", "host", "status", "protocol"):
            found[-1] = replace(found[-1], **{key: value})
        else:
            found.append(Target(word))
    return found


def answers(seconds: float, requests: int, asked: list[Target]) -> None:
    """Wait until each target gives so many answers in a row, and print a line for it. Raises TimedOut, which names the last fault."""
    deadline = clock.now() + seconds
    for target in asked:
        answered = 0
        while answered < requests:
            fault = target.fault()
            if not fault:
                answered += 1
            elif clock.now() >= deadline:
                raise TimedOut(f"{target.at}{target.path}: waited {seconds:g} s for {requests} answers in a row; last seen: {answered}, then {fault}")
            else:
                answered = 0
                clock.pause()
        print(f"{target.at}{target.path} answered {answered} of {answered}", flush=True)


def _connect(count: int, at: str) -> list[int]:
    """Open so many connections to `ADDRESS:PORT`, all at once, and close each as soon as it is answered; the ports of this host that they came from.

    None is waited for longer than ANSWER_S. The holder's IPVS table shows where they went.
    """
    ports = []
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(count):
            connection, _ = begin(at)
            stack.callback(connection.close)
            ports.append(connection.getsockname()[1])
            selector.register(connection, selectors.EVENT_WRITE)
        deadline = clock.now() + ANSWER_S
        while selector.get_map() and (left := deadline - clock.now()) > 0:
            for key, _ in selector.select(left):
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
    return ports


def reached(witnesses: tuple[str, ...]) -> dict[str, bool]:
    """Whether each `ADDRESS:PORT` takes or refuses a connection: a host that refuses is there as well."""
    found = dict.fromkeys(witnesses, False)
    selector = selectors.DefaultSelector()
    for witness in witnesses:
        connection, status = begin(witness)
        if status == errno.EINPROGRESS:
            selector.register(connection, selectors.EVENT_WRITE, witness)
        else:
            found[witness] = status in ANSWERED
            connection.close()
    deadline = clock.now() + WITNESS_S
    while selector.get_map() and (left := deadline - clock.now()) > 0:
        for key, _ in selector.select(left):
            connection = key.fileobj  # type: ignore[assignment]
            found[key.data] = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in ANSWERED
            selector.unregister(connection)
            connection.close()
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]
    selector.close()
    return found


def outside(description: Description, jobs: list[str]) -> list[str]:
    """Ask for VIPs from this host, all in one command: each job is a `VIP`, or `VIP:PORT=COUNT`.

    For a VIP: `arp VIP MAC` for every MAC that answers ARP for it within ARP_S seconds, `ndp VIP MAC` for every one that answers a neighbour solicitation
    for an IPv6 VIP. It lies on this host's segment.
    For a service: `tcp VIP:PORT PORT...`, the ports of this host from which that many connections were opened.
    """
    services = [(at, int(count)) for at, separator, count in (job.partition("=") for job in jobs) if separator]
    vips = [job for job in jobs if "=" not in job]
    with _recorded_answers([vip for vip in vips if ":" in vip]):
        ends = clock.now() + ARP_S
        for vip in vips:
            programs.attempt("ip", "neighbour", "delete", vip, "dev", description.interface)
            with socket.socket(socket.AF_INET6 if ":" in vip else socket.AF_INET, socket.SOCK_DGRAM) as any_packet, contextlib.suppress(OSError):
                # The kernel asks for the MAC; no program needs to listen.
                any_packet.sendto(b"\n", (vip, _DISCARD_PORT))
        connected = [" ".join(["tcp", at, *map(str, _connect(count, at))]) for at, count in services]
        # Every answer counts, also one that comes after the first.
        with contextlib.suppress(TimedOut):
            clock.wait_for(ends - clock.now() if vips else 0, "answers", lambda: "more may come")
        shown = programs.run("nft", "list", "set", "arp", ARP_TABLE, "answers")
        advertised = programs.run("nft", "list", "table", "ip6", ARP_TABLE) if any(":" in vip for vip in vips) else ""
    pairs = re.findall(r"([0-9.]+) \. ([0-9a-f:]{17})", shown)
    found = [f"arp {vip} {mac}" for vip in vips for answered, mac in pairs if answered == vip]
    for number, vip in enumerate(vip for vip in vips if ":" in vip):
        of_vip = re.search(rf"set vip_{number} \{{(.*?)\n\t\}}", advertised, re.DOTALL)
        found += [f"ndp {vip} {mac}" for mac in re.findall(r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", of_vip[1] if of_vip else "")]
    return found + connected


@contextlib.contextmanager
def _recorded_answers(ipv6: list[str]) -> Iterator[None]:
    families = ("arp", "ip6") if ipv6 else ("arp",)
    for family in families:
        programs.attempt("nft", "delete", "table", family, ARP_TABLE)
    rules = f"""table arp {ARP_TABLE} {{
        set answers {{ type ipv4_addr . ether_addr; size 1024; flags dynamic; }}
        chain input {{
            type filter hook input priority 0
            arp operation reply update @answers {{ arp saddr ip . arp saddr ether }}
        }}
    }}"""
    if ipv6:
        from ipaddress import ip_address

        sets = "".join(f"set vip_{number} {{ type ether_addr; size 1024; flags dynamic; }}\n" for number in range(len(ipv6)))
        # The target of an advertisement is behind 8 bytes of ICMPv6.
        advertised = "icmpv6 type nd-neighbor-advert @th,64,128"
        recorded = "".join(f"{advertised} {int(ip_address(vip)):#034x} update @vip_{number} {{ ether saddr }}\n" for number, vip in enumerate(ipv6))
        rules += f"\ntable ip6 {ARP_TABLE} {{\n{sets}chain input {{\ntype filter hook input priority 0\n{recorded}}}\n}}"
    programs.run("nft", "--file", "-", stdin=rules)
    try:
        yield
    finally:
        for family in families:
            programs.attempt("nft", "delete", "table", family, ARP_TABLE)
