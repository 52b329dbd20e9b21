"""The probes at the client while something happens to the nodes, and what they saw."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from components.configuration.cluster import SECOND
from components.configuration.model import endpoint
from lab.nodes import machine
from lab.phases import wait_for

CLIENTS = [f"192.168.0.{last}" for last in range(101, 161)]
"""The client's addresses: enough for an affinity by address to meet every server."""
CLIENTS_V6 = [machine.second(address) for address in CLIENTS]
STREAMS = 12
FAST_MS, HOLD_MS, SLOW_MS, STREAM_MS = 20, 300, 500, 200
POD = "/pod"
"""Behind a node's name: the namespace `pod` on it."""
CONTROL, CONTROL_MS, CONTROL_TLS_MS = "control", 200, 1000
LEFT_WAITING = {"timeout", "SYN sent again", "sent again and again"}
"""What goes wrong with a request that nobody answers or refuses at once."""
READY_S = 30
EVENT_S = 180
WHOLE_S = 60
LINGER_S = 5.0


class Target(NamedTuple):
    """An address under test, its port and its port for TLS; and a server of the other pool that is asked directly, as a control."""

    vip: str
    address: str
    port: int
    tls_port: int
    control: str
    host: str = ""
    """Whom requests ask for by HTTP and TLS. A router routes by it, and takes no streams."""
    udp: bool = False
    """Datagrams instead of connections."""
    beside: Target | None = None
    """The other address of the same VIP, asked at the same time. Each of both is then asked half as often."""

    @property
    def version(self) -> int:
        """The family of the address."""
        return 6 if ":" in self.address else 4

    @property
    def pool(self) -> str:
        """The pool, which is named as its VIP is."""
        return self.vip.removesuffix(SECOND)

    @property
    def second(self) -> Target:
        """The IPv6 address beside an IPv4 one, in a stack that has both; its control is asked by IPv6 too."""
        server, _, port = self.control.rpartition(":")
        return self._replace(vip=f"{self.vip}{SECOND}", address=machine.second(self.address), control=endpoint(machine.second(server), port))

    def at(self, port: int | None, udp: bool) -> Target:
        """The same at another port, if one is given, and by datagrams or not."""
        changed = self._replace(udp=udp, beside=self.beside and self.beside.at(port, udp))
        return changed._replace(port=port, tls_port=port) if port else changed

    @property
    def both(self) -> tuple[Target, ...]:
        """Each address that is asked."""
        return (self, self.beside) if self.beside else (self,)


MASTER = Target("master", "192.168.0.250", 8443, 8443, "192.168.0.6:8443")
INFRA = Target("infra", "192.168.0.251", 80, 443, "192.168.0.4:80")
MASTER_V6, INFRA_V6 = MASTER.second, INFRA.second
BOTH = MASTER._replace(beside=MASTER_V6)


@dataclass(frozen=True)
class Request:
    """A connection: when it began (the machine's clock), seconds until it stood (0: never) and until it ended, who answered or what went wrong."""

    name: str
    at: float
    connected: float
    seconds: float
    server: str
    error: str


@dataclass(frozen=True)
class Stream:
    """A long-lived connection: its server, lines echoed, the longest silence between two, what went wrong and when."""

    name: str
    server: str
    lines: int
    longest: float
    error: str
    failed_at: float


@dataclass(frozen=True)
class Holding:
    """From this moment on these nodes had the address on their interface."""

    at: float
    address: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """From this moment on the kernel of this node had so many live servers in its table."""

    at: float
    node: str
    live: int


@dataclass(frozen=True)
class Delay:
    """A timer that was set at this moment fired so many seconds late: the machine was too busy for it."""

    at: float
    seconds: float


@dataclass(frozen=True)
class Seen:
    """What the probes of one target saw."""

    target: Target
    began: float
    ended: float
    requests: tuple[Request, ...]
    streams: tuple[Stream, ...]
    holdings: tuple[Holding, ...]
    tables: tuple[Table, ...]
    syns_per_request: float
    control: tuple[Request, ...]
    delays: tuple[Delay, ...] = ()
    checks_waited_s: float = 0.0
    """See `checks_waited`."""
    beside: Seen | None = None
    """What was seen of the other address at the same time, where the target has one."""

    @classmethod
    def nothing(cls, target: Target, moment: float) -> Seen:
        """What was seen when there were no probes."""
        beside = cls.nothing(target.beside, moment) if target.beside else None
        return cls(target, moment, moment, (), (), (), (), 0.0, (), beside=beside)

    @property
    def each(self) -> tuple[Seen, ...]:
        """What was seen of each address."""
        return (self, self.beside) if self.beside else (self,)

    @property
    def merged(self) -> Seen:
        """The requests and streams of both addresses as if they were one's."""
        requests = sorted((request for seen in self.each for request in seen.requests), key=lambda request: request.at)
        return dataclasses.replace(self, requests=tuple(requests), streams=tuple(stream for seen in self.each for stream in seen.streams))

    def waited(self, seconds: float) -> Seen:
        """The same, with so many seconds in which all checks stood still."""
        return dataclasses.replace(self, checks_waited_s=seconds, beside=self.beside and self.beside.waited(seconds))

    @property
    def noise(self) -> int:
        """Requests past the balancer that were not answered in time: what failed then may be the machine's fault."""
        return sum(1 for request in self.control if request.error)

    def delayed_s(self, moment: float) -> float:
        """How late a timer fired after `moment`, at worst."""
        return round(max([0.0, *(delay.seconds for delay in self.delays if delay.at >= moment)]), 2)

    @property
    def failures(self) -> list[Request]:
        """Requests that were not answered in time."""
        return [request for request in self.requests if request.error]

    @property
    def longest_gap(self) -> tuple[float, float]:
        """The longest time without any answer: from one sign of life, a connection that came about or an answer, to the next."""
        mine = [request for request in self.requests if request.name == self.target.vip]
        connections = [request.at + request.connected for request in mine if request.connected]
        answers = [request.at + request.seconds for request in mine if not request.error]
        signs = sorted([self.began, self.ended, *(at for at in (*connections, *answers) if at < self.ended)])
        return max(itertools.pairwise(signs), key=lambda pair: pair[1] - pair[0])

    @property
    def longest_gap_s(self) -> float:
        """The seconds of that."""
        return round(self.longest_gap[1] - self.longest_gap[0], 2)

    @property
    def answers(self) -> dict[str, int]:
        """Answers by server."""
        return dict(sorted(Counter(request.server for request in self.requests if not request.error).items()))

    @property
    def errors(self) -> dict[str, int]:
        """Failures by what went wrong."""
        return dict(Counter(f"{request.name}: {request.error}" for request in self.failures))

    @property
    def lost_streams(self) -> list[Stream]:
        """Streams that broke, lost or repeated a line, or fell silent."""
        return [stream for stream in self.streams if stream.error]

    def last_failure_after(self, moment: float) -> float:
        """Seconds from `moment` to when the last request that failed was begun; 0 when none failed."""
        return round(max([0.0, *(request.at - moment for request in self.failures)]), 2)

    def holders_at(self, moment: float) -> tuple[str, ...]:
        """The nodes that had the address at that moment."""
        return next((holding.nodes for holding in reversed(self.holdings) if holding.at <= moment), ())

    def one_owner_after(self, moment: float) -> float | None:
        """Seconds from `moment` until one node held the address, and so to the end; None when that never came."""
        if not self.holdings:
            return 0.0
        others = [index for index, holding in enumerate(self.holdings) if len(holding.nodes) != 1]
        if others and others[-1] == len(self.holdings) - 1:
            return None
        return round(max(0.0, self.holdings[others[-1] + 1].at - moment), 2) if others else 0.0

    def taken_after(self, moment: float) -> float | None:
        """Seconds from `moment` until a node got the address that did not have it then; None when none did."""
        had = set(self.holders_at(moment))
        return next((round(holding.at - moment, 3) for holding in self.holdings if holding.at > moment and set(holding.nodes) - had), None)

    def apart_s(self, moment: float) -> float | None:
        """Seconds between the takeovers of both addresses; 0 when neither moved, None when only one did."""
        taken = [after for seen in self.each if (after := seen.taken_after(moment)) is not None]
        if len(taken) not in (0, len(self.each)):
            return None
        return round(max(taken, default=0.0) - min(taken, default=0.0), 3)

    def tables_right_after(self, live: Mapping[str, int], moment: float) -> float | None:
        """Seconds from `moment` until each of these directors had so many live servers, and so to the end; None when that never came."""
        latest = 0.0
        for node, count in live.items() if self.tables else ():
            mine = [table for table in self.tables if table.node == node]
            if not mine or mine[-1].live != count:
                return None
            since = next((index for index in range(len(mine) - 1, 0, -1) if mine[index - 1].live != count), 0)
            latest = max(latest, mine[since].at - moment)
        return round(latest, 2)

    def tables_wrong_for(self, live: Mapping[str, int], moment: float) -> float:
        """For how many seconds in one piece after `moment` a director's table had another number of live servers than this, at worst."""
        longest = 0.0
        for node, count in live.items() if self.tables else ():
            since: float | None = None
            for table in [*(table for table in self.tables if table.node == node), Table(self.ended, node, count)]:
                if since is not None and (table.live == count or table.at == self.ended):
                    longest = max(longest, table.at - max(moment, since))
                if table.live == count:
                    since = None
                elif since is None:
                    since = table.at
        return round(longest, 2)

    def seconds_with_holders(self, count: int, since: float = 0) -> float:
        """Seconds after `since` during which that many nodes held the address."""
        ends = [*(holding.at for holding in self.holdings[1:]), self.ended][: len(self.holdings)]
        pairs = zip(self.holdings, ends, strict=True)
        return round(sum(max(0.0, end - max(since, holding.at)) for holding, end in pairs if len(holding.nodes) == count), 2)


@dataclass
class Probe:
    """The probes of a target, from the client, from a node or from the pod on it, while the `with` lasts; what they saw is in `seen` after it."""

    target: Target
    node: str | None = None

    def __enter__(self) -> Probe:
        machine.run("lab", "loops", "reset")
        node, pod, _ = (self.node or "").partition(POD)
        inside = [*(["lab", "exec", node] if node else []), *([] if node and not pod else ["ip", "netns", "exec", "pod" if pod else "client"])]
        self._running = machine.start(*inside, "/usr/local/bin/traffic", "probe", json.dumps(self._config()))
        assert self._running.stdout
        if self._running.stdout.readline().strip() != "ready":
            raise machine.MachineError(f"the probes did not start: {self._running.communicate(timeout=READY_S)[1]}")
        return self

    def __exit__(self, *failure: object) -> None:
        said, complaint = self._running.communicate(timeout=READY_S)
        if failure[0] is not None:
            return
        if self._running.returncode:
            raise machine.MachineError(f"the probes failed: {complaint}")
        result = json.loads(said)
        requests = [Request(**each) for each in result["requests"]]
        connections = sum(request.name != CONTROL for request in requests) + len(result["streams"])
        syns_per_request = round(int(machine.run("lab", "loops").stdout) / connections, 2)

        def seen(target: Target) -> Seen:
            mine = (request for request in requests if request.name in (target.vip, _tls(target)))
            return Seen(
                target,
                result["began"],
                result["ended"],
                tuple(sorted(mine, key=lambda request: request.at)),
                tuple(Stream(**each) for each in result["streams"] if each["name"] == target.vip),
                tuple(Holding(each["at"], each["address"], tuple(each["nodes"])) for each in result["holders"] if each["address"] == target.address),
                tuple(Table(**each) for each in result["tables"]),
                syns_per_request,
                tuple(request for request in requests if request.name == CONTROL),
                tuple(Delay(**each) for each in result["delays"]),
                beside=seen(target.beside) if target.beside else None,
            )

        self.seen = seen(self.target)

    def _config(self) -> dict[str, Any]:
        targets = self.target.both
        many = len(targets)
        requests: list[dict[str, Any]] = []
        streams: list[dict[str, Any]] = []
        for target in targets:
            plain = endpoint(target.address, target.port)
            fast = {"name": target.vip, "address": plain, "host": target.host, "udp": target.udp, "every": many * FAST_MS, "hold": HOLD_MS}
            tls = {"name": _tls(target), "address": endpoint(target.address, target.tls_port), "host": target.host, "tls": True, "every": many * SLOW_MS}
            control = {"name": CONTROL, "address": target.control, "every": many * CONTROL_MS, "hold": HOLD_MS}
            # Handshakes are the first that a busy machine leaves waiting.
            control_tls = {"name": CONTROL, "address": target.control, "tls": True, "every": many * CONTROL_TLS_MS}
            requests += [fast, control] if target.udp else [fast, tls, control, control_tls]
            streams += [] if target.udp or target.host else [{"name": target.vip, "address": plain, "count": STREAMS // many, "every": STREAM_MS}]
        return {
            "requests": requests,
            "streams": streams,
            # From inside a node's own namespaces the others' cannot be seen.
            "holders": {"nodes": [] if self.node else list(machine.NODES), "addresses": [target.address for target in targets]},
            "sources": [] if self.node else [*CLIENTS, *CLIENTS_V6],
        }


def _tls(target: Target) -> str:
    return f"{target.vip} tls"


def now() -> float:
    """The machine's clock, which the probes use."""
    return float(machine.run("date", "+%s.%N").stdout)


def at(*command: str) -> float:
    """Run a command in the machine; the moment at which it began, or the last one that it tells on its descriptor 3."""
    return float(machine.run("sh", "-euc", 'date +%s.%N; exec "$@" 3>&1 >&2', "sh", *command, timeout_s=EVENT_S).stdout.splitlines()[-1])


def checks_waited(directors: Iterable[str], since: float) -> float:
    """For how many seconds all checks of a director stood still, at worst, as keepalived itself tells."""
    return max((lingered(machine.run("lab", "exec", node, *checkers_journal(since)).stdout) for node in directors), default=0.0)


def checkers_journal(since: float) -> list[str]:
    """The argument vector of what prints keepalived's words about health checks since a moment."""
    return ["journalctl", "--identifier=Keepalived_healthcheckers", "--output=cat", f"--since=@{since - 1:.0f}"]


def lingered(journal: str) -> float:
    """For how many seconds keepalived waited in close(2), by its own words.

    Closing a check's connection it waits up to 5 s for the last word of a host that has fallen silent in that moment (SO_LINGER; its issue 2271).
    """
    told = map(float, re.findall(r"A thread timer expired ([0-9.]+) seconds ago", journal))
    return round(sum(seconds for seconds in told if abs(seconds - LINGER_S) < LINGER_S / 10), 2)


def state() -> dict[str, tuple[int, tuple[str, ...]]]:
    """Per node that is on: the live servers in its kernel's table, and the addresses on its interface."""
    lines = (line.split() for line in machine.run("lab", "state").stdout.splitlines())
    return {node: (int(live), tuple(addresses)) for node, live, *addresses in lines}


def holder(target: Target) -> str:
    """The node that holds an address. Waits until it is one."""
    found: list[str] = []

    def seen() -> tuple[bool, str]:
        found[:] = [node for node, (_, addresses) in state().items() if target.address in addresses]
        return len(found) == 1, f"on {', '.join(found) or 'none'}"

    wait_for(f"one node to hold {target.address}", seen, WHOLE_S)
    return found[0]


def wait_until_whole(live: Mapping[str, int], target: Target) -> None:
    """Until each of these directors has that many live servers in its table, and one of them holds the address."""

    def seen() -> tuple[bool, str]:
        nodes = {node: found for node, found in state().items() if node in live}
        short = [
            f"{node} has {nodes[node][0] if node in nodes else 'no'} of {count} servers" for node, count in live.items() if nodes.get(node, (-1,))[0] != count
        ]
        holders = {each.address: [node for node, (_, addresses) in nodes.items() if each.address in addresses] for each in target.both}
        held = [f"{address} held by {', '.join(having) or 'none'}" for address, having in holders.items()]
        return not short and all(len(having) == 1 for having in holders.values()), "; ".join([*short, *held])

    wait_for(f"every director to see every server, and one to hold {target.address}", seen, WHOLE_S)
