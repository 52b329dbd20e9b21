"""Whether the cluster is what the repository says, seen from each node and from outside the pool.

A check's result is one line; what is drained on purpose is no fault.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from components import keepalived
from components.configuration import Cluster, Vip, VirtualService
from components.configuration.model import AnyAddress, endpoint
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.host import SLOPPY_TCP
from node.openshift_lvs.ipvs import VirtualServer, real_server
from node.openshift_lvs.observe import WATCH_STOPPED
from operations.nodes import Answer, Nodes, looks

MISSED_CHANCE = 1e-6
"""How likely the connections of one question may miss a healthy server."""
RECENT_S = 3600
"""Repairs of the last hour are reported."""
VIEW_S = 10
"""Until a node has corrected a priority that is lowered for servers which are back: it compares both 3 s after a report of keepalived."""
CONNECTIONS_MAX = 400
"""For one service: a burst that no service minds."""
NOT_SLOPPY = f"{SLOPPY_TCP} = 0"
"""The node itself sets it while it has too many connections."""
_FAMILY_OPTION = {4: "", 6: " -6"}
"""Of ipvsadm."""
FOREIGN_NAMED = 5
"""So many foreign senders are named."""


@dataclass(frozen=True)
class Finding:
    """One check: of a host or a VIP, what was seen, and the remedy when it is a fault.

    `holds` None: it cannot be checked in this stack. `asked` False: it could not be asked now.
    """

    subject: str
    check: str
    holds: bool | None
    seen: str
    asked: bool = True

    @property
    def result(self) -> str:
        """`ok`, `failed`, `unknown` when it could not be asked, or `not applicable`."""
        return "unknown" if not self.asked else {True: "ok", False: "failed", None: "not applicable"}[self.holds]

    def __str__(self) -> str:
        word = {"ok": "ok", "failed": "FAILED", "unknown": "UNKNOWN", "not applicable": "-"}[self.result]
        return f"{word:<7} {self.subject:<9} {self.check}: {self.seen}"

    def to_json(self) -> dict[str, str]:
        """The finding as JSON has it: see docs/reference/operations.md."""
        return {"subject": self.subject, "check": self.check, "result": self.result, "text": self.seen}


def outcome(found: Iterable[Finding]) -> str:
    """`failed` with a fault, else `unknown` when something could not be asked, else `ok`."""
    results = {finding.result for finding in found}
    return next((result for result in ("failed", "unknown") if result in results), "ok")


def facts(nodes: Nodes, hosts: Iterable[str]) -> tuple[dict[str, Facts], dict[str, Answer]]:
    """The facts of the hosts that gave them, and the answers of the others."""
    known: dict[str, Facts] = {}
    silent: dict[str, Answer] = {}
    for host, answer in nodes.ask(hosts, "status", "--json").items():
        if answer.fault is not None:
            silent[host] = answer
            continue
        try:
            known[host] = Facts.from_json(answer.said)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            why = f"status --json: not in this checkout's format ({fault}): pulumi up, or use the checkout that was deployed"
            silent[host] = Answer(answer.said, why)
    return known, silent


def verify(nodes: Nodes, cluster: Cluster, root: Path) -> Iterator[Finding]:
    """Every check, in the order of the configuration. Asks the nodes, and opens connections from outside each pool.

    Every question to a node is one command: its facts, what it sees of other pools from outside, and the connections that arrived at it.
    """
    known, silent = facts(nodes, cluster.managed())
    known.update(_corrected(nodes, cluster, known))
    yield from from_facts(cluster, known, silent, root)
    yield from _from_outside(nodes, cluster, known)


def _corrected(nodes: Nodes, cluster: Cluster, known: Mapping[str, Facts]) -> dict[str, Facts]:
    """The last facts of the hosts whose priority was behind their table. keepalived reports a change of the table late on a busy node."""
    latest: dict[str, Facts] = {}
    behind = [host for host, seen in known.items() if _behind(cluster, host, seen)]
    for turn in looks(time.monotonic() + VIEW_S):
        if turn:
            latest.update(facts(nodes, behind)[0])
            behind = [host for host in behind if host not in latest or _behind(cluster, host, latest[host])]
        if not behind:
            break
    return latest


def from_facts(cluster: Cluster, known: Mapping[str, Facts], silent: Mapping[str, Answer], root: Path) -> Iterator[Finding]:
    """The checks that need nothing but the facts of the hosts, and the answers of those that gave none."""
    for host in cluster.managed():
        if host in silent:
            yield Finding(host, "reachable", False, silent[host].fault or "", asked=silent[host].reached)
        else:
            yield from inside(cluster, host, known[host], root)
    for name, vip in cluster.vips.items():
        yield _holder(cluster, name, vip, known)
        yield from _together(name, vip, known)
        yield from _drained_alike(cluster, name, vip, known)


def inside(cluster: Cluster, host: str, seen: Facts, root: Path) -> Iterator[Finding]:
    """What a host says of itself, against what is rendered for it."""
    node = cluster.node(host)
    vips = cluster.vips_of(node.pool_name)
    is_director = bool(vips) and host in cluster.directors(node.pool_name)
    rendered = keepalived.render(cluster, host, root)
    files = {file.path: file.text for file in rendered}
    has_password = is_director and any(vip.authentication for vip in vips.values())
    version = keepalived.version(rendered)
    yield _version(host, version, has_password, seen, files)
    if vips:
        active = seen.keepalived == "active"
        yield Finding(host, "keepalived", active, seen.keepalived + ("" if active else "; systemctl status keepalived on the node says why"))
    if is_director:
        if seen.aside and not seen.owns_nothing:
            stuck = f"may not take {', '.join(seen.aside)}, and is not drained: a hand-over was cut short; undrain {host}"
            yield Finding(host, "ownership", False, stuck)
        if seen.behind:
            yield Finding(host, "ownership", False, f"has a lowered priority for {', '.join(seen.behind)}: a roll-out has not ended; pulumi up")
        if seen.witnesses:
            yield _witnesses(host, node.pool_name, seen)
    if seen.version == "none":
        return
    yield from _repairs(host, seen)
    if seen.moved:
        yield Finding(host, "interface", False, seen.moved)
    yield _settings(host, files, seen, {str(address) for vip in vips.values() for address in vip.addresses}, is_director)
    for name, vip in vips.items():
        yield from _tables(cluster, host, name, vip, seen)
        if _view_is_behind(cluster, host, name, vip, seen):
            stale = f"priority for {name} lowered by {-seen.views[name]} as if servers were lost, and none is; openshift-lvs recount on the node"
            yield Finding(host, "view", False, stale)
    if is_director:
        if NOT_SLOPPY in seen.sysctl:
            too_many = f"more than pools.{node.pool_name}.connections_max: packets without a handshake create no more; the node's journal has the number"
            yield Finding(host, "connections", False, f"{too_many}; if their senders are real, set more")
        yield _sync(host, node.interface, cluster.sync_id(node.pool_name), seen)
        yield Finding(host, "virtual_router_id", not seen.strangers, seen.strangers or "no other router uses ours")
        yield from _translations(host, seen)
    if "lvs.nft" in files:
        yield _neighbours(host, seen)


def _version(host: str, version: str, has_password: bool, seen: Facts, files: Mapping[str, str]) -> Finding:
    def fault(text: str) -> Finding:
        return Finding(host, "version", False, text)

    wanted = f"{version}-..." if has_password else version
    if seen.version == "none":
        again = f"where that finds nothing to do, since it was installed anew: set another `installed` of host {host} and pulumi up"
        return fault(f"none in force; {wanted} is rendered: pulumi up; {again}")
    if seen.version.partition("-")[0] != version:
        return fault(f"{seen.version} in force; {wanted} is rendered: pulumi up, or this checkout is not what was deployed")
    if seen.proven != seen.version:
        return fault(f"{seen.version} is in force, and {seen.proven} was healthy last: an activation was cut short; pulumi up")
    changed = [path for path, text in files.items() if seen.files.get(path) != hashlib.sha256(text.encode()).hexdigest()]
    if changed:
        return fault(
            f"{', '.join(changed)} changed on the node since delivery; put back what `operations render --stack STACK --host {host}` prints, reload keepalived"
        )
    return Finding(host, "version", True, f"{seen.version} in force, as rendered")


def _witnesses(host: str, pool: str, seen: Facts) -> Finding:
    told = ", ".join(f"{witness} {'reached' if found else 'silent'}" for witness, found in seen.witnesses.items())
    reached = any(seen.witnesses.values())
    remedy = f"; so it counts as cut off, and its priority is lowered: mend its link, or name others in pools.{pool}.witnesses"
    return Finding(host, "witnesses", reached, told + ("" if reached else remedy))


def _settings(host: str, files: Mapping[str, str], seen: Facts, addresses: set[str], is_director: bool) -> Finding:
    # Too many connections are a finding of their own.
    there = seen.sysctl | ({f"{SLOPPY_TCP} = 1"} if NOT_SLOPPY in seen.sysctl else set())
    faults = [f"{line} is rendered" for line in files["sysctl.conf"].splitlines() if line.startswith("net.") and line not in there]
    faults += [f"{address} is not on lo" for address in sorted(addresses - seen.lo)]
    if seen.rules:
        faults.append(f"nft rules differ: {seen.rules}")
    remedy = "; openshift-lvs apply on the node"
    return Finding(host, "kernel", not faults, "; ".join(faults) + remedy if faults else "sysctls, addresses on lo and rules as rendered")


def _repairs(host: str, seen: Facts) -> Iterator[Finding]:
    """What the node repaired lately. Only what another program keeps changing is a fault."""
    if seen.watch not in ("", "active"):
        yield Finding(host, "watch", False, f"openshift-lvs-watch.service is {seen.watch}: {WATCH_STOPPED} on the node")
    for each in seen.repairs:
        if each.seconds_ago > RECENT_S and not each.contested:
            continue
        times = "once" if each.count == 1 else f"{each.count} times"
        said = f"{each.what}: {times} since the boot, last {each.seconds_ago} s ago" + (f"; changed by {each.by}" if each.by else "")
        remedy = "; another program changes it again and again: end that (on the node: journalctl -t openshift-lvs)"
        yield Finding(host, "repaired", not each.contested, said + (remedy if each.contested else ""))


def _sync(host: str, interface: str, sync_id: int | None, seen: Facts) -> Finding:
    running = {f"{daemon.side} on {daemon.interface} with {daemon.sync_id}" for daemon in seen.sync}
    if running == {f"{side} on {interface} with {sync_id}" for side in ("master", "backup")}:
        return Finding(host, "connection sync", True, "tells and hears of connections")
    runs = f"{', '.join(sorted(running)) or 'no side'} runs, both should on {interface} with {sync_id}"
    return Finding(host, "connection sync", False, f"{runs}; openshift-lvs sync on the node")


def _neighbours(host: str, seen: Facts) -> Finding:
    if not seen.foreign:
        return Finding(host, "neighbours", True, "no other machine sent what only directors send")
    shown = ", ".join(seen.foreign[:FOREIGN_NAMED]) + (f" and {len(seen.foreign) - FOREIGN_NAMED} more" if len(seen.foreign) > FOREIGN_NAMED else "")
    remedy = "refused here, since no director has that address; find out whose it is (a director's must be in pools.NAME.hosts)"
    return Finding(host, "neighbours", False, f"in the last hour: {shown}; {remedy}")


def _translations(host: str, seen: Facts) -> Iterator[Finding]:
    """What other programs on a director do with the packets of services. One that drops the test packet hides it."""
    for each in seen.translated:
        yield Finding(host, "translation", False if each.to else None, str(each))
    if not seen.translated:
        yield Finding(host, "translation", True, "no other program translates a service's destination")


def _tables(cluster: Cluster, host: str, name: str, vip: Vip, seen: Facts) -> list[Finding]:
    return [_service(cluster, host, f"{name}:{service.port}/{service.protocol}", vip, service, seen) for service in vip.services]


def _behind(cluster: Cluster, host: str, seen: Facts) -> bool:
    """Whether the host's priority for a VIP is lowered for servers, and its table has them all."""
    vips = cluster.vips_of(cluster.node(host).pool_name)
    return any(_view_is_behind(cluster, host, name, vip, seen) for name, vip in vips.items())


def _view_is_behind(cluster: Cluster, host: str, name: str, vip: Vip, seen: Facts) -> bool:
    if not seen.views.get(name) or any(service.dynamic_weights for service in vip.services):
        return False
    return all(table.holds for table in _tables(cluster, host, name, vip, seen))


def _service(cluster: Cluster, host: str, name: str, vip: Vip, service: VirtualService, seen: Facts) -> Finding:
    check, number = f"table {name}", vip.mark(service)
    there = seen.table.get(number)
    if there is None:
        return Finding(host, check, False, f"no virtual server with mark {number}; systemctl restart keepalived on the node")
    flags = [*service.scheduler_flags, *(["ops"] if service.ops else [])]
    wanted = VirtualServer(service.scheduler, tuple(sorted(flags)), service.persistence_timeout, {})
    if _shown(wanted) != _shown(there):
        remedy = f"; on the node: ipvsadm -D -f {number}{_FAMILY_OPTION[vip.address.version]}; systemctl restart keepalived"
        return Finding(host, check, False, f"is {_shown(there)}, rendered {_shown(wanted)}{remedy}")
    faults, drained, failing, live = [], [], [], 0
    hosts = cluster.pools[vip.pool].hosts
    for server, machine in hosts.items():
        address = str(machine.address_of(vip.address.version))
        real, weight = there.servers.get(address), service.weight(server)
        if address in seen.drained:
            drained.append(server)
            weight = 0
        if real is None or (weight and not (real.weight and real.healthy)):
            if weight:
                failing.append(server)
        elif real.weight != weight and not service.dynamic_weights:
            faults.append(f"{server} has weight {real.weight}, should have {weight}; systemctl restart keepalived on the node")
        elif real.method != service.forwarding_method:
            faults.append(f"{server} by {real.method}, rendered {service.forwarding_method}; systemctl restart keepalived on the node")
        else:
            live += real.weight > 0
    enough = service.expected_servers is not None and live >= _needed(service, hosts, drained)
    if not enough:
        says = "gets connections although its check fails here" if there.open_since else "is out of rotation: its check fails here"
        faults = [f"{server} {says}" for server in failing] + faults
    others = set(there.servers) - {str(machine.address_of(vip.address.version)) for machine in hosts.values()} - {str(service.sorry_server)}
    faults += [
        f"{address} is no real server of ours; on the node: ipvsadm -d -f {number}{_FAMILY_OPTION[vip.address.version]} -r {real_server(address)}"
        for address in sorted(others)
    ]
    seen_live = f"{live} of {len(hosts)} servers live"
    if expected := service.expected_servers:
        seen_live = f"{live} of {expected} expected servers live" if live <= expected else f"{live} servers live, {expected} expected"
    if enough and failing:
        seen_live += f" ({', '.join(failing)} {'fails its' if len(failing) == 1 else 'fail their'} health check)"
    seen_live += f", fails open since {there.open_since}" if there.open_since else ""
    seen_live += f", drained: {', '.join(drained)}" if drained else ""
    return Finding(host, check, not faults, "; ".join([seen_live, *faults]))


def _needed(service: VirtualService, hosts: Iterable[str], drained: Iterable[str]) -> int:
    """How many servers must be live if only some are expected. Any drained server may be one of the expected ones. At least one must be live."""
    weighted = {server for server in hosts if service.weight(server)}
    out = weighted & set(drained)
    return min(len(weighted - out), max(1, (service.expected_servers or len(weighted)) - len(out)))


def _shown(server: VirtualServer) -> str:
    flags = f" ({','.join(server.flags)})" if server.flags else ""
    return f"{server.scheduler}{flags}" + (f" persistent {server.persistence}" if server.persistence else "")


def holders(vip: Vip, known: Mapping[str, Facts]) -> list[str]:
    """The hosts that have the VIP on their interface."""
    return [host for host, seen in known.items() if str(vip.address) in seen.held]


def _holder(cluster: Cluster, name: str, vip: Vip, known: Mapping[str, Facts]) -> Finding:
    address, having, directors = str(vip.address), holders(vip, known), cluster.directors(vip.pool)
    if not having:
        none = f"no node that is reached holds {address}"
        if missing := [host for host in directors if host not in known]:
            return Finding(name, "holder", False, f"{none}; {', '.join(missing)} could not be asked", asked=False)
        return Finding(name, "holder", False, f"{none}; is keepalived active, and a director not drained?")
    if len(having) > 1:
        several = f"{', '.join(having)} all hold {address}: they do not hear each other's adverts; is VRRP (IP protocol 112) let through?"
        several += "".join(_filtered(host, known[host]) for host in having)
        return Finding(name, "holder", False, several)
    holder, first = having[0], cluster.vips[cluster.together(name)[0]]
    if len(other := holders(first, known)) == 1 and other != having:
        apart = f"{address} is on {holder}, and {first.address}, which always has the same holder, is on {other[0]}; undrain {vip.owner}"
        return Finding(name, "holder", False, apart)
    away = "" if holder == vip.owner else f", which is not its owner {vip.owner}"
    away += " (drained)" if vip.owner in known and known[vip.owner].owns_nothing else f", brought home by undrain {vip.owner}" if away else ""
    return Finding(name, "holder", holder in directors, f"{address} is on {holder}{away}" + ("" if holder in directors else "; it is no director of the pool"))


def _together(name: str, vip: Vip, known: Mapping[str, Facts]) -> Iterator[Finding]:
    """Whether the holder of a VIP has its additional addresses too, and no other host has one."""
    having = holders(vip, known)
    for address in vip.addresses[1:] if len(having) == 1 else ():
        holder = having[0]
        others = [host for host, seen in known.items() if host != holder and str(address) in seen.held]
        if others:
            apart = f"{address} is on {', '.join(others)}, and {vip.address}, which always has the same holder, is on {holder}"
            yield Finding(name, "holder", False, f"{apart}; on {', '.join(others)}: systemctl restart keepalived")
        elif str(address) not in known[holder].held:
            yield Finding(name, "holder", False, f"{address} is not on {holder}, which holds {vip.address}; systemctl restart keepalived on {holder}")
        else:
            yield Finding(name, "holder", True, f"{address} is on {holder} too")


def _from_outside(nodes: Nodes, cluster: Cluster, known: Mapping[str, Facts]) -> Iterator[Finding]:
    """Who answers for each VIP, and whether every live server behind it does.

    A host of another pool asks, in one command for all VIPs of a pool. Then the table of each holder tells whose handshakes were completed.
    """
    askers: dict[str, str] = {}
    jobs: dict[str, list[str]] = {}
    for name, vip in cluster.vips.items():
        asker = next((node.name for node in cluster.nodes() if node.pool_name != vip.pool and node.name in known and known[node.name].version != "none"), None)
        having = holders(vip, known)
        if len(having) == 1 and asker:
            askers[name] = asker
            for address in vip.addresses:
                jobs.setdefault(asker, []).append(str(address))
                jobs[asker] += [f"{endpoint(address, service.port)}={_count(service, live)}" for service, live in _asked(vip, known[having[0]]) if live]
        elif len(having) == 1:
            yield Finding(name, "outside", None, f"no host outside pool {vip.pool} can be asked, so nothing was seen from outside")
    asked = nodes.ask_each({asker: ("outside", *words) for asker, words in jobs.items()})
    clients: dict[tuple[str, int], AnyAddress] = {}
    for name, asker in askers.items():
        of_vip = cluster.vips[name].address.version
        clients[holders(cluster.vips[name], known)[0], of_vip] = cluster.node(asker).host.address_of(of_vip)
    arrived: dict[tuple[str, int], Answer] = {}
    for version in sorted({version for _, version in clients}):
        asked_of = {holder: ("connections", "from", str(client)) for (holder, family), client in clients.items() if family == version}
        arrived |= {(holder, version): answer for holder, answer in nodes.ask_each(asked_of).items()}
    for name, asker in askers.items():
        vip = cluster.vips[name]
        holder = holders(vip, known)[0]
        there = holder, vip.address.version
        lines = [line.split() for line in asked[asker].said.splitlines()]
        protocol = "arp" if vip.address.version == 4 else "ndp"
        for address in vip.addresses:
            macs = {words[2] for words in lines if words[:2] == [protocol, str(address)]}
            check = protocol if address == vip.address else f"{protocol} {address}"
            yield _answers(name, check, asker, holder, known, asked[asker], macs)
        for address, service, live in ((address, *each) for address in vip.addresses for each in _asked(vip, known[holder])):
            at = endpoint(address, service.port)
            check = f"path {service.port if address == vip.address else at}/TCP"
            if not live:
                yield Finding(name, check, False, f"{holder} has no live server: mend one, or undrain one (operations status)")
                continue
            if fault := asked[asker].fault or arrived[there].fault:
                yield Finding(name, check, False, f"could not be asked: {fault}", asked=asked[asker].reached and arrived[there].reached)
                continue
            ours = {endpoint(clients[there], int(port)) for words in lines if words[:2] == ["tcp", at] for port in words[2:]}
            new = [words for words in map(str.split, arrived[there].said.splitlines()) if words[1] in ours and words[2] == at]
            found = _handshakes(cluster, name, check, set(live), _one_server(service), asker, new)
            yield found if found.holds else replace(found, seen=found.seen + _filtered(holder, known[holder]))


def _asked(vip: Vip, holder: Facts) -> Iterator[tuple[VirtualService, dict[str, int]]]:
    """The services that are asked from outside, each with the weights of its live servers in the holder's table."""
    for service in vip.services:
        if service.protocol == "TCP":
            there = holder.table.get(vip.mark(service))
            yield service, {address: real.weight for address, real in there.servers.items() if real.weight and real.healthy} if there else {}


def _one_server(service: VirtualService) -> bool:
    """Whether all connections of one client reach the same server."""
    return bool(service.affinity == "client" or service.persistence_timeout)


def _count(service: VirtualService, live: Mapping[str, int]) -> int:
    """How many connections meet every live server, but for MISSED_CHANCE."""
    if _one_server(service):
        return 3
    return min(CONNECTIONS_MAX, math.ceil(-math.log(MISSED_CHANCE / len(live)) * sum(live.values()) / min(live.values())))


def _answers(name: str, check: str, asker: str, holder: str, known: Mapping[str, Facts], answer: Answer, macs: set[str]) -> Finding:
    if answer.fault:
        return Finding(name, check, False, f"{asker} could not ask: {answer.fault}", asked=answer.reached)
    owners = {seen.mac: host for host, seen in known.items()}
    shown = ", ".join(sorted(f"{mac} ({owners.get(mac, 'no host of this stack')})" for mac in macs))
    if macs == {known[holder].mac}:
        return Finding(name, check, True, f"only {shown} answers, asked from {asker}")
    remedy = (
        "; take the address from whoever else has it, and see that its sysctls are as rendered"
        if macs
        else f"; on {holder}: journalctl -u keepalived, ip address; on its port: the address pair and the security group"
    )
    return Finding(name, check, False, f"asked from {asker}, {shown or 'no MAC'} answers; only {known[holder].mac} ({holder}) should{remedy}")


def _drained_alike(cluster: Cluster, name: str, vip: Vip, known: Mapping[str, Facts]) -> Iterator[Finding]:
    """A host that is new, or was away, has not been told of a drain."""
    hosts = cluster.pools[vip.pool].hosts
    reached = [host for host in hosts if host in known]
    for server, machine in hosts.items():
        told = [host for host in reached if str(machine.address) in known[host].drained]
        if told and len(told) < len(reached):
            others = ", ".join(host for host in reached if host not in told)
            yield Finding(name, "drained", False, f"{server} is drained on {', '.join(told)} and not on {others}: drain or undrain {server} again")
        elif told:
            yield Finding(name, "drained", True, f"{server} is drained")


def _filtered(host: str, seen: Facts) -> str:
    """The chains of other programs that may be the reason why something does not arrive at a host."""
    return f"; {host} drops what no rule accepts in {', '.join(seen.filters)}" if seen.filters else ""


def _handshakes(cluster: Cluster, name: str, check: str, live: set[str], one_server: bool, asker: str, new: Sequence[Sequence[str]]) -> Finding:
    """What became of the connections that were opened: each is `STATE CLIENT:PORT VIP:PORT SERVER:PORT` of the holder's table."""
    names = {str(address): node.name for node in cluster.nodes() for address in node.host.addresses}
    done = Counter(server.rpartition(":")[0].strip("[]") for state, _, _, server in new if state != "SYN_RECV")
    stuck = Counter(server.rpartition(":")[0].strip("[]") for state, _, _, server in new if state == "SYN_RECV")
    shown = ", ".join(f"{names.get(address, address)} {done[address]}" for address in sorted(live | set(done)) if done[address] or not one_server)
    faults = [
        f"{names.get(address, address)} does not answer through the address ({number} without a handshake): does it listen there, is the address on its lo?"
        for address, number in sorted(stuck.items())
    ]
    if not one_server:
        faults += [f"{names.get(address, address)} was sent nothing" for address in sorted(live - set(done) - set(stuck))]
    if not done and not stuck:
        faults = [f"nothing that {asker} sent arrived at the holder: has its port the address pair, and its security group the service's port?"]
    alone = " (one client has one server)" if one_server else ""
    return Finding(name, check, not faults, "; ".join([f"handshakes from {asker}: {shown or 'none'}{alone}", *faults]))
