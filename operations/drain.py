"""Taking a node out of service without a lost request, and putting it back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from components.configuration import Cluster, VirtualService
from components.configuration.model import endpoint
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.ipvs import RealServer
from operations.nodes import Nodes, looks
from operations.verify import facts

RETURN_SECONDS = 30
"""Until a node that is put back sees its servers and they see it; a check takes a few."""
MEMORY_SECONDS = 10
"""Until a VIP's new holder has met the connections of the one before."""
MEMORY_SECONDS_LEAST = 3
"""The same with a short deadline."""


class Refused(Exception):
    """What was asked for would cost requests, or did not come to its end. The text says what is in the way."""


class Step(NamedTuple):
    """What a host was told to do, or what was seen there. `result`: `ok`, `failed` when it was not done, `unknown` when connections may break later."""

    host: str
    text: str
    result: str = "ok"

    def __str__(self) -> str:
        return f"{self.host}: {self.text}"

    def to_json(self) -> dict[str, str]:
        """The step as JSON has it: see docs/reference/operations.md."""
        return {"subject": self.host, "result": self.result, "text": self.text}


class Alive(NamedTuple):
    """Connections to a host that have a socket: how many, by `ADDRESS:PORT` of the VIP. `ports`: where the host listens, so that its sockets are known."""

    ports: frozenset[str]
    connections: Counter[str]


@dataclass(frozen=True)
class Draining:
    """One host of a cluster on its way out, or back. `say` gets each step when it is done."""

    nodes: Nodes
    cluster: Cluster
    host: str
    say: Callable[[Step], None]

    def out(self, deadline: float, server_only: bool) -> None:
        """Hand its VIPs over, give it no new connection, and wait until its last one is gone. Raises Refused. Safe to run again."""
        ends = time.monotonic() + deadline
        seen, silent = self._look()
        self._refuse_the_last_server(seen)
        held = seen[self.host].held if self.host in seen else frozenset()
        unmet: set[tuple[str, str]] = set()
        if not server_only and self.host in seen and self.host in self._directors:
            self._refuse_the_last_director(seen)
            self._do({self.host: ("ownership", "off")}, "takes no VIP")
            if self._names(held):
                unmet = self._wait_for_memory(time.monotonic() + max(deadline / 2, MEMORY_SECONDS_LEAST), self.host, self._addresses)
        self._do(dict.fromkeys(seen, ("rotation", "out", self._address)), f"gives {self.host} no new connection")
        self._wait_for_connections(ends, deadline)
        if unmet and (left := unmet & set(self._connections(self.host, self._addresses))):
            raise Refused(f"{self.host}: {len(left)} silent connections that its VIPs' new holder does not know; they end when the host stops")
        if silent:
            raise Refused(f"{_told(silent)}; when that is repaired, run drain {self.host} again")

    def back(self) -> None:
        """Let it take VIPs, put it back into rotation, and return the VIPs that it owns to it. Raises Refused. Safe to run again.

        Its VIPs come first: as long as it is out of rotation everywhere, all directors send an unknown connection to the same server.
        """
        seen, silent = self._look()
        if self.host in seen and (self.host in self._directors or seen[self.host].owns_nothing):
            self._do({self.host: ("ownership", "on")}, "may take VIPs again")
        stays = self._bring_home() if self.host in seen and self.host in self._directors else ""
        self._do(dict.fromkeys(seen, ("rotation", "in", self._address)), f"balances to {self.host} again")
        if stays:
            raise Refused(stays)
        if silent:
            raise Refused(f"{_told(silent)}; when that is repaired, run undrain {self.host} again")

    @property
    def _pool(self) -> str:
        return self.cluster.node(self.host).pool_name

    @property
    def _address(self) -> str:
        return str(self.cluster.node(self.host).host.address)

    @property
    def _addresses(self) -> list[str]:
        return [str(address) for address in self.cluster.node(self.host).host.addresses]

    def _address_among(self, servers: Mapping[str, RealServer]) -> str:
        """The host's address as a real server of a service: that of the service's family."""
        return next((address for address in self._addresses if address in servers), "")

    @property
    def _directors(self) -> list[str]:
        return self.cluster.directors(self._pool)

    def _names(self, held: frozenset[str]) -> list[str]:
        return [name for name, vip in self.cluster.vips_of(self._pool).items() if not held.isdisjoint(map(str, vip.addresses))]

    def _look(self) -> tuple[dict[str, Facts], dict[str, str]]:
        """The facts of the pool's managed hosts, and why hosts do not answer where they do not."""
        known, silent = facts(self.nodes, self.cluster.managed(self._pool))
        lost = {host: answer.fault or "" for host, answer in silent.items()}
        if not any(host in self._directors for host in known):
            raise Refused(f"no director of pool {self._pool} can be reached: {'; '.join(lost.values())}")
        return known, lost

    def _holder(self, seen: Mapping[str, Facts], vip: str) -> str | None:
        return next((host for host in seen if str(self.cluster.vips[vip].address) in seen[host].held), None)

    def _services(self, seen: Mapping[str, Facts], name: str) -> Iterator[tuple[str, VirtualService, Mapping[str, RealServer]]]:
        """Each service of an address with its real servers, as its holder has them; nothing while no host that is reached holds it."""
        vip, holder = self.cluster.vips[name], self._holder(seen, name)
        for service in vip.services if holder else ():
            there = seen[str(holder)].table.get(vip.mark(service))
            yield f"{name}:{service.port}/{service.protocol}", service, there.servers if there else {}

    def _refuse_the_last_server(self, seen: Mapping[str, Facts]) -> None:
        for name in self.cluster.vips_of(self._pool):
            for label, service, servers in self._services(seen, name):
                if [address for address, server in servers.items() if server.weight and server.healthy] == [self._address_among(servers)]:
                    move = ", or move the service to another host" if service.expected_servers else ""
                    raise Refused(f"{self.host} is the last live server of {label}; undrain or repair another first{move}")

    def _refuse_the_last_director(self, seen: Mapping[str, Facts]) -> None:
        if seen[self.host].owns_nothing:
            return
        able = [
            host
            for host in self._directors
            if host != self.host and host in seen and seen[host].keepalived == "active" and not seen[host].owns_nothing and seen[host].view == "good"
        ]
        if not able:
            raise Refused(f"no other director of pool {self._pool} could take the VIPs of {self.host}: status says why; undrain or repair one first")

    def _do(self, questions: Mapping[str, tuple[str, ...]], done: str) -> None:
        answers = self.nodes.ask_each(questions)
        for host, answer in answers.items():
            self.say(Step(host, answer.fault, "failed") if answer.fault else Step(host, done))
        if any(answer.fault for answer in answers.values()):
            raise Refused(f"{self.host}: not done on every host, as shown above; repair that, and run the command again")

    def _wait_for_memory(self, ends: float, before: str, servers: Sequence[str]) -> set[tuple[str, str]]:
        """A director knows a connection of which it was told, or has passed a packet on; when the weights change it sends one that it does not know
        elsewhere.

        So before they change, the new holder should have met what the one `before` knows. Those that were silent all the time
        are returned.
        """
        unknown = set(self._connections(before, servers))
        for _ in looks(ends):
            seen, _ = self._look()
            holders = {holder for name in self.cluster.vips_of(self._pool) if (holder := self._holder(seen, name))}
            for holder in holders - {before}:
                unknown -= set(self._connections(holder, servers, every_state=True))
            if not unknown:
                return unknown
        unmet = f"{len(unknown)} connections sent nothing since the VIPs moved, so the new holder does not know them; they break if they send again"
        self.say(Step(before, unmet, "unknown"))
        return unknown

    def _connections(self, director: str, servers: Sequence[str], every_state: bool = False) -> Iterator[tuple[str, str]]:
        """Client and address of every connection to these servers that a director knows."""
        for server in servers:
            for line in self.nodes.ask([director], "connections", "to", server)[director].said.splitlines():
                state, client, address, _ = line.split()
                if every_state or state == "ESTABLISHED":
                    yield client, address

    def _wait_for_connections(self, ends: float, deadline: float) -> None:
        left: list[str] = []
        for _ in looks(ends):
            seen, _ = self._look()
            alive = cache(self._alive)
            left = [line for name in self.cluster.vips_of(self._pool) for line in self._left(seen, name, alive)]
            if not left:
                self.say(Step(self.host, "no connection left"))
                return
        raise Refused(f"{self.host}: after {deadline:g} s: {', '.join(left)}; it stays drained: run drain again to wait longer")

    def _left(self, seen: Mapping[str, Facts], name: str, alive: Callable[[str], Alive]) -> Iterator[str]:
        """What is still to wait for on a VIP: its holder knows the connections. `alive`: what `_alive` returns for a holder."""
        holder = self._holder(seen, name)
        if not holder:
            yield f"no reachable node holds {name}"
        for label, service, servers in self._services(seen, name):
            own = self._address_among(servers)
            number = servers[own].connections if own in servers else 0
            if number and holder and service.protocol == "TCP" and str(service.port) in (found := alive(holder)).ports:
                number = min(number, sum(found.connections[endpoint(address, service.port)] for address in self.cluster.vips[name].addresses))
            if number:
                yield f"{number} connections left on {label}"

    def _alive(self, holder: str) -> Alive:
        """The connections to the host that a holder knows and that have a socket, on the host or on the holder.

        The holder may know a connection that has ended: a message of connection sync, sent by the former holder before the client's FIN, came after it. A
        client on the holder counts by its own socket: a pod's address changes on the way to the host.
        """
        if not self.cluster.node(self.host).host.managed:
            return Alive(frozenset(), Counter())
        answers = self.nodes.ask({self.host, holder}, "sockets")
        if any(answer.fault for answer in answers.values()):
            return Alive(frozenset(), Counter())
        lines = {host: [line.split() for line in answer.said.splitlines()] for host, answer in answers.items()}
        clients = {peer for _, peer in lines[self.host]} | {local for local, _ in lines[holder]}
        ports = frozenset(port for word, port in lines[self.host] if word == "listens")
        return Alive(ports, Counter(address for client, address in self._connections(holder, self._addresses) if client in clients))

    def _bring_home(self) -> str:
        """Its own VIPs to it; why they stay where they are, when they do."""
        own = [name for name, vip in self.cluster.vips_of(self._pool).items() if vip.owner == self.host]
        servers = [str(address) for host in self.cluster.pools[self._pool].hosts.values() for address in host.addresses]
        for _ in looks(time.monotonic() + RETURN_SECONDS):
            seen, _ = self._look()
            mine = seen.get(self.host)
            if mine and mine.keepalived == "active" and mine.view == "good" and not mine.owns_nothing:
                # The two addresses of a VIP move with one command.
                away = {self.cluster.together(name): holder for name in own if (holder := self._holder(seen, name)) not in (None, self.host)}
                for names, holder in away.items():
                    self._do({str(holder): ("hand-over", names[0])}, f"handed {' and '.join(names)} to {self.host}")
                    self._wait_for_memory(time.monotonic() + MEMORY_SECONDS, str(holder), servers)
                return ""
        return f"{self.host}: after {RETURN_SECONDS} s its view of the servers is not good, so {', '.join(own)} stays where it is; see status" if own else ""


def _told(silent: Mapping[str, str]) -> str:
    return "; ".join(f"{host} was not told: {fault}" for host, fault in silent.items())
