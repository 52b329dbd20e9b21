"""What `verify` and `status` make of what the nodes say, against what is rendered for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from components import keepalived
from components.configuration import Cluster
from components.configuration.model import AnyAddress, endpoint
from components.keepalived import File
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.ipvs import RealServer, SyncDaemon, VirtualServer, parse
from node.openshift_lvs.record import replace
from node.openshift_lvs.repairs import Repair
from node.openshift_lvs.translation import Translation
from operations import nodes, render
from operations import verify as verify_module
from operations.nodes import Answer, Nodes
from operations.status import status
from operations.verify import Finding, outcome, verify
from tests.unit.conftest import with_password

MASTERS = {"master0": "192.168.0.2", "master1": "192.168.0.3", "master2": "192.168.0.4"}
INFRAS = {"infra0": "192.168.0.5", "infra1": "192.168.0.6"}


class Said(Nodes):
    """Nodes that say what the test wants, healthy at first."""

    def __init__(self, cluster: Cluster) -> None:
        self.facts = {node.name: healthy(cluster, node.name) for node in cluster.nodes()}
        self.unreached: set[str] = set()
        self.instead: dict[str, str] = {}
        """What a host says instead of its facts."""
        self.later: dict[str, list[Facts]] = {}
        """The facts of a host from its second answer on, one for each."""
        self.macs = {"192.168.0.250": "02:00:00:00:00:02", "192.168.0.251": "02:00:00:00:00:05"}
        self.handshakes = "".join(f"FIN_WAIT {{client}}:{40000 + n} {{target}} 192.168.0.{5 + n % 2}:0\n" for n in range(20))
        self.connected: list[str] = []
        self.asked: list[str] = []
        """Every command that was run on a host."""

    def _ask(self, host: str, verb: str, *arguments: str) -> Answer:
        if host in self.unreached:
            return Answer("", "not reachable at 192.0.2.1: Connection refused", reached=False)
        self.asked.append(" ".join((host, verb, *arguments)))
        match verb, *arguments:
            case "status", "--json":
                now = self.facts[host]
                if self.later.get(host):
                    self.facts[host] = self.later[host].pop(0)
                return Answer(self.instead[host] if host in self.instead else now.to_json())
            case "outside", *jobs:
                services = [job.partition("=")[0] for job in jobs if "=" in job]
                self.connected += services
                ports = " ".join(str(40000 + n) for n in range(20))
                answers = [f"arp {job} {mac}" for job in jobs if job in self.macs for mac in self.macs[job].split()]
                return Answer("\n".join([*answers, *(f"tcp {at} {ports}" for at in services)]))
            case "connections", "from", client:
                return Answer("".join(self.handshakes.format(client=client, target=target) for target in self.connected))
        raise AssertionError(verb)


def healthy(cluster: Cluster, host: str) -> Facts:
    """The facts of a host that is as rendered."""
    node = cluster.node(host)
    vips = cluster.vips_of(node.pool_name)
    files = keepalived.render(cluster, host)
    version = keepalived.version(files)
    address = str(node.host.address)
    servers = {
        version: {str(machine.address_of(version)): RealServer("DR", 1, 0) for machine in node.pool.hosts.values()}
        for version in {vip.address.version for vip in vips.values()}
    }
    return Facts(
        host=host,
        keepalived="active",
        version=version,
        proven=version,
        since="2001-02-03 04:05:06",
        # A version's folder has files beside the delivered ones, for the release before.
        files={file.path: digest(file.text) for file in files} | {"node.conf": digest("INTERFACE=eth0\n"), "services": digest("")},
        mac=f"02:00:00:00:00:0{address[-1]}",
        held=frozenset({address, *(str(each) for vip in vips.values() if vip.owner == host for each in vip.addresses)}),
        lo=frozenset({"127.0.0.1", *(str(each) for vip in vips.values() for each in vip.addresses)}),
        sysctl=frozenset(line for line in text(files, "sysctl.conf").splitlines() if line.startswith("net")),
        table={
            vip.mark(service): VirtualServer("mh", tuple(sorted(service.scheduler_flags)), None, servers[vip.address.version])
            for vip in vips.values()
            for service in vip.services
        },
        sync=tuple(SyncDaemon(side, "eth0", cluster.sync_id(node.pool_name) or 0, 1472) for side in ("master", "backup")),
        views=dict.fromkeys(vips, 0),
        drains=dict.fromkeys(vips, 0),
        witnesses=dict.fromkeys(cluster.witnesses(node.pool_name)[:1], True),
    )


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def text(files: tuple[File, ...], path: str) -> str:
    return next(file.text for file in files if file.path == path)


def with_server(seen: Facts, address: str, other: RealServer, at: str | None = None) -> Facts:
    """The facts with another real server in place of this one in every virtual server, at another address where one is given."""
    return replace(
        seen,
        table={
            mark: replace(
                virtual, servers={at or address if there == address else there: other if there == address else real for there, real in virtual.servers.items()}
            )
            for mark, virtual in seen.table.items()
        },
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves on by a second whenever one looks."""
    ticks = iter(range(10_000))
    for module in (nodes, verify_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _: None))


@pytest.fixture
def said(cluster: Cluster) -> Said:
    return Said(cluster)


def findings(said: Said, cluster: Cluster) -> list[Finding]:
    said.connected.clear()
    return list(verify(said, cluster, keepalived.ROOT))


def failed(said: Said, cluster: Cluster) -> list[str]:
    return [str(finding) for finding in findings(said, cluster) if finding.holds is False]


def test_a_cluster_that_is_as_rendered_has_no_fault_and_every_check_a_line(said: Said, cluster: Cluster) -> None:
    found = findings(said, cluster)
    assert [str(finding) for finding in found if not finding.holds] == []
    assert {finding.subject for finding in found} == {*MASTERS, *INFRAS, "master", "infra"}
    assert "ok      infra     arp: only 02:00:00:00:00:05 (infra0) answers, asked from master0" in map(str, found)
    assert "ok      infra     path 80/TCP: handshakes from master0: infra0 10, infra1 10" in map(str, found)


RULES = "loaded: meta mark set 2; rendered: meta mark set 1"
"""What the program says of rules that were changed."""


@pytest.mark.parametrize(
    ("host", "change", "words"),
    [
        ("master1", lambda f: replace(f, keepalived="failed"), ["FAILED  master1   keepalived: failed"]),
        (
            "master1",
            lambda f: replace(f, rules=RULES),
            [f"kernel: nft rules differ: {RULES}; openshift-lvs apply on the node"],
        ),
        ("infra1", lambda f: replace(f, lo=frozenset({"127.0.0.1"})), ["192.168.0.251 is not on lo; openshift-lvs apply on the node"]),
        (
            "infra1",
            lambda f: replace(f, sysctl=f.sysctl - {"net.ipv4.vs.backup_only = 0"} | {"net.ipv4.vs.backup_only = 1"}),
            ["net.ipv4.vs.backup_only = 0 is rendered"],
        ),
        (
            "infra1",
            lambda f: replace(f, sysctl=f.sysctl - {"net.ipv4.vs.sloppy_tcp = 1"} | {"net.ipv4.vs.sloppy_tcp = 0"}),
            ["FAILED  infra1    connections: more than pools.infra.connections_max: packets without a handshake create no more"],
        ),
        (
            "infra1",
            lambda f: replace(f, sync=tuple(replace(daemon, sync_id=9) for daemon in f.sync)),
            ["connection sync: backup on eth0 with 9, master on eth0 with 9 runs, both should on eth0 with 52; "],
        ),
        ("infra1", lambda f: replace(f, sync=f.sync[:1]), ["both should on eth0 with 52; openshift-lvs sync on the node"]),
        (
            "infra1",
            lambda f: with_server(f, "192.168.0.6", RealServer("DR", 7, 0)),
            ["infra1 has weight 7, should have 1; systemctl restart keepalived"],
        ),
        ("infra1", lambda f: replace(f, drains={"infra": -254}), ["FAILED  infra1    ownership: may not take infra, and is not drained", "undrain infra1"]),
        (
            "infra1",
            lambda f: replace(f, drains={"infra": -100}),
            ["FAILED  infra1    ownership: has a lowered priority for infra: a roll-out has not ended; pulumi up"],
        ),
        (
            "infra1",
            lambda f: replace(f, views={"infra": -100}),
            ["FAILED  infra1    view: priority for infra lowered by 100 as if servers were lost, and none is; openshift-lvs recount on the node"],
        ),
        (
            "infra1",
            lambda f: replace(f, witnesses=dict.fromkeys(f.witnesses, False)),
            ["FAILED  infra1    witnesses: 192.168.0.2:8443 silent; so it counts as cut off", "pools.infra.witnesses"],
        ),
        ("infra1", lambda f: with_server(f, "192.168.0.6", RealServer("NAT", 1, 0)), ["infra1 by NAT, rendered DR"]),
        (
            "infra1",
            lambda f: with_server(f, "192.168.0.6", RealServer("DR", 1, 0), at="192.168.0.9"),
            ["1 of 2 servers live; infra1 is out of rotation: its check fails here; 192.168.0.9 is no"],
        ),
        (
            "infra1",
            lambda f: replace(f, table={mark: replace(virtual, scheduler="wlc", flags=(), persistence=50) for mark, virtual in f.table.items()}),
            ["is wlc persistent 50, rendered mh (mh-fallback,mh-port)", "ipvsadm -D -f"],
        ),
        (
            "infra1",
            lambda f: replace(f, table={7 << 32 | mark: virtual for mark, virtual in f.table.items()}),
            ["no virtual server with mark 54526032; systemctl restart keepalived"],
        ),
        ("infra1", lambda f: replace(f, strangers="vips.infra.virtual_router_id: 52 is used by 10.0.0.9 on eth0 too"), ["52 is used by 10.0.0.9"]),
        (
            "infra1",
            lambda f: replace(f, foreign=tuple(f"10.0.0.{number} VRRP" for number in range(1, 9))),
            ["neighbours: in the last hour: 10.0.0.1 VRRP, ", "10.0.0.5 VRRP and 3 more; refused here, since no director has that address"],
        ),
        ("infra1", lambda f: replace(f, moved="192.168.0.6 is on br-ex, not on eth0"), ["interface: 192.168.0.6 is on br-ex, not on eth0"]),
        (
            "infra1",
            lambda f: replace(f, translated=(Translation("192.168.0.251:443/TCP", "10.88.0.2:8443", "table ip nat, chain PREROUTING, CNI-HOSTPORT-DNAT"),)),
            ["translation: 192.168.0.251:443/TCP is translated to 10.88.0.2:8443 by portmap (table ip nat, ", "publish the pod with hostNetwork"],
        ),
        (
            "infra1",
            lambda f: replace(f, files={path: digest for path, digest in f.files.items() if path != "host.json"}),
            ["host.json changed on the node since delivery"],
        ),
    ],
)
def test_a_node_that_is_otherwise_is_named_with_what_is_seen_and_the_remedy(
    said: Said, cluster: Cluster, host: str, change: Callable[[Facts], Facts], words: list[str]
) -> None:
    healthy = said.facts[host]
    said.facts[host] = change(healthy)
    assert said.facts[host] != healthy
    found = failed(said, cluster)
    assert found and all(line.split()[1] == host for line in found)
    for word in words:
        assert word in found[0]


def test_another_version_in_force_is_named_with_the_one_that_is_rendered(said: Said, cluster: Cluster) -> None:
    version = keepalived.version(keepalived.render(cluster, "master2"))
    said.facts["master2"] = replace(said.facts["master2"], version="0123456789ab", proven="0123456789ab")
    assert failed(said, cluster) == [
        f"FAILED  master2   version: 0123456789ab in force; {version} is rendered: pulumi up, or this checkout is not what was deployed"
    ]


def test_a_node_on_which_an_activation_was_cut_short_is_found(said: Said, cluster: Cluster) -> None:
    said.facts["master2"] = replace(said.facts["master2"], proven="none")
    assert "and none was healthy last: an activation was cut short" in failed(said, cluster)[0]


def test_a_node_that_is_not_reached_is_unknown_and_does_not_stop_the_rest(said: Said, cluster: Cluster) -> None:
    said.unreached = {"infra0"}
    assert [str(finding) for finding in findings(said, cluster) if finding.result not in ("ok", "not applicable")] == [
        "UNKNOWN infra0    reachable: not reachable at 192.0.2.1: Connection refused",
        "UNKNOWN infra     holder: no node that is reached holds 192.168.0.251; infra0 could not be asked",
    ]
    assert outcome(findings(said, cluster)) == "unknown"


def test_a_vip_that_no_director_holds_is_a_fault_once_all_were_asked(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], held=frozenset())
    assert failed(said, cluster) == ["FAILED  infra     holder: no node that is reached holds 192.168.0.251; is keepalived active, and a director not drained?"]
    said.unreached = {"master2"}
    assert outcome(findings(said, cluster)) == "failed", "a fault counts more than a host that could not be asked"


def test_two_holders_are_named(said: Said, cluster: Cluster) -> None:
    said.facts["infra1"] = replace(said.facts["infra1"], held=said.facts["infra1"].held | {"192.168.0.251"})
    assert "infra0, infra1 all hold 192.168.0.251: they do not hear each other's adverts" in failed(said, cluster)[0]


def test_a_second_machine_that_answers_arp_is_named_by_its_mac(said: Said, cluster: Cluster) -> None:
    said.macs["192.168.0.251"] += " 02:00:00:00:00:64"
    assert "arp: asked from master0, 02:00:00:00:00:05 (infra0), 02:00:00:00:00:64 (no host of this stack) answers" in failed(said, cluster)[0]
    said.macs["192.168.0.251"] = ""
    assert "no MAC answers; only 02:00:00:00:00:05 (infra0) should; on infra0: journalctl -u keepalived, ip address; on its port: " in failed(said, cluster)[0]


class Both(Said):
    """The hosts of the example with both families, whose owners answer for both addresses of their VIPs."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.cluster = cluster
        self.macs = {str(address): self.facts[vip.owner].mac for vip in cluster.vips.values() for address in vip.addresses}

    def _ask(self, host: str, verb: str, *arguments: str) -> Answer:
        if verb == "outside":
            answered = super()._ask(host, verb, *arguments)
            return Answer("\n".join(line.replace("arp", "ndp") if line.startswith("arp 2001:") else line for line in answered.said.splitlines()))
        if verb == "connections":
            return Answer("".join(self._handshakes(ip_address(arguments[1]))))
        return super()._ask(host, verb, *arguments)

    def _handshakes(self, client: AnyAddress) -> Iterator[str]:
        """Ten connections of a client to each server of each service that was asked, as ipvsadm shows them."""
        for vip in self.cluster.vips.values():
            for target in [endpoint(each, service.port) for each in vip.addresses for service in vip.services if each.version == client.version]:
                servers = [host.address_of(client.version) for host in self.cluster.pools[vip.pool].hosts.values()]
                for number in range(20 if target in self.connected else 0):
                    yield f"FIN_WAIT {endpoint(client, 40000 + number)} {target} {endpoint(servers[number % len(servers)], 0)}\n"


@pytest.fixture
def both() -> Both:
    """The example with an address of each family on every host and VIP."""
    return Both(render.cluster(keepalived.ROOT / "examples" / "dual-stack", "dual-stack"))


def test_each_address_of_a_vip_is_asked_in_its_family_and_has_lines_of_its_own(both: Both) -> None:
    found = findings(both, both.cluster)
    assert [str(finding) for finding in found if not finding.holds] == []
    assert {
        "ok      router    arp: only 02:00:00:00:00:05 (infra0) answers, asked from master0",
        "ok      router-v6 ndp: only 02:00:00:00:00:05 (infra0) answers, asked from master0",
        "ok      router    path 80/TCP: handshakes from master0: infra0 10, infra1 10",
        "ok      router-v6 path 80/TCP: handshakes from master0: infra0 10, infra1 10",
        "ok      router-v6 holder: 2001:db8:0:1::251 is on infra0",
    } <= set(map(str, found))
    both.macs["2001:db8:0:1::251"] = "02:00:00:00:00:64"
    (line,) = failed(both, both.cluster)
    assert "router-v6 ndp: asked from master0, 02:00:00:00:00:64 (no host of this stack) answers; only 02:00:00:00:00:05 (infra0) should" in line


def test_addresses_of_a_vip_on_different_directors_are_a_fault_with_the_remedy(both: Both) -> None:
    second = "2001:db8:0:1::251"
    for host, change in (("infra0", both.facts["infra0"].held - {second}), ("infra1", both.facts["infra1"].held | {second})):
        both.facts[host] = replace(both.facts[host], held=change)
    both.macs[second] = both.facts["infra1"].mac
    assert failed(both, both.cluster) == [
        f"FAILED  router-v6 holder: {second} is on infra1, and 192.0.2.251, which always has the same holder, is on infra0; undrain infra0"
    ]


def test_the_remedies_for_a_table_of_ipv6_are_commands_that_ipvsadm_takes(both: Both) -> None:
    service = both.cluster.vips["router-v6"].services[0]
    number = both.cluster.vips["router-v6"].mark(service)
    facts = both.facts["infra1"]
    there = facts.table[number]
    stray = {**there.servers, "2001:db8:0:1::77": next(iter(there.servers.values()))}
    both.facts["infra1"] = replace(facts, table={**facts.table, number: replace(there, servers=stray)})
    (line,) = failed(both, both.cluster)
    assert line.endswith(f"2001:db8:0:1::77 is no real server of ours; on the node: ipvsadm -d -f {number} -6 -r [2001:db8:0:1::77]:0")
    both.facts["infra1"] = replace(facts, table={**facts.table, number: replace(there, scheduler="rr")})
    (line,) = failed(both, both.cluster)
    assert line.endswith(f"; on the node: ipvsadm -D -f {number} -6; systemctl restart keepalived")


ADDITIONAL = "192.0.2.252"


@pytest.fixture
def several() -> Both:
    """The example with both families, whose VIP `router` has an additional IPv4 address."""
    example = yaml.safe_load((keepalived.ROOT / "examples" / "dual-stack" / "Pulumi.dual-stack.yaml").read_text())["config"]["openshift-lvs:cluster"]
    example["vips"]["router"]["additional_addresses"] = [ADDITIONAL]
    return Both(Cluster.parse(example))


def move(said: Said, address: str, before: str, *after: str) -> None:
    """Take an address from the interface of a host, and give it to others."""
    for host in (before, *after):
        said.facts[host] = replace(said.facts[host], held=said.facts[host].held | {address} if host in after else said.facts[host].held - {address})


def test_an_additional_address_has_lines_of_its_own(several: Both) -> None:
    found = findings(several, several.cluster)
    assert [str(finding) for finding in found if not finding.holds] == []
    assert {
        "ok      router    holder: 192.0.2.251 is on infra0",
        "ok      router    holder: 192.0.2.252 is on infra0 too",
        "ok      router    arp: only 02:00:00:00:00:05 (infra0) answers, asked from master0",
        "ok      router    arp 192.0.2.252: only 02:00:00:00:00:05 (infra0) answers, asked from master0",
        "ok      router    path 80/TCP: handshakes from master0: infra0 10, infra1 10",
        "ok      router    path 192.0.2.252:80/TCP: handshakes from master0: infra0 10, infra1 10",
    } <= set(map(str, found))
    assert status(several, several.cluster, keepalived.ROOT).vips["router"].additional_addresses == [ADDITIONAL]


def test_an_additional_address_that_the_holder_lacks_or_another_host_has_is_a_fault_with_the_remedy(several: Both) -> None:
    move(several, ADDITIONAL, "infra0")
    assert failed(several, several.cluster) == [
        "FAILED  router    holder: 192.0.2.252 is not on infra0, which holds 192.0.2.251; systemctl restart keepalived on infra0"
    ]
    move(several, ADDITIONAL, "infra0", "infra0", "infra1")
    assert failed(several, several.cluster) == [
        "FAILED  router    holder: 192.0.2.252 is on infra1, and 192.0.2.251, which always has the same holder, is on infra0; on infra1: systemctl restart "
        "keepalived"
    ]


def test_an_additional_address_that_is_not_on_lo_or_for_which_another_machine_answers_is_a_fault(several: Both) -> None:
    several.facts["infra1"] = replace(several.facts["infra1"], lo=several.facts["infra1"].lo - {ADDITIONAL})
    several.macs[ADDITIONAL] = "02:00:00:00:00:64"
    lo, arp = failed(several, several.cluster)
    assert lo == "FAILED  infra1    kernel: 192.0.2.252 is not on lo; openshift-lvs apply on the node"
    assert "router    arp 192.0.2.252: asked from master0, 02:00:00:00:00:64 (no host of this stack) answers; only 02:00:00:00:00:05 (infra0) should" in arp


def test_a_server_that_never_completes_a_handshake_is_named(said: Said, cluster: Cluster) -> None:
    said.handshakes = "FIN_WAIT {client}:40000 {target} 192.168.0.5:0\nSYN_RECV {client}:40001 {target} 192.168.0.6:0\n"
    found = [line for line in failed(said, cluster) if "infra " in line]
    assert len(found) == 2
    assert "infra1 does not answer through the address (1 without a handshake): does it listen there, is the address on its lo?" in found[0]


def test_a_live_server_that_is_never_chosen_is_named_but_not_where_a_client_has_one_server(said: Said, cluster: Cluster) -> None:
    said.handshakes = "ESTABLISHED {client}:40000 {target} 192.168.0.5:0\n"
    assert [line.split(": ", 1)[1] for line in failed(said, cluster)] == ["handshakes from master0: infra0 1, infra1 0; infra1 was sent nothing"] * 2


def test_connections_of_an_earlier_question_do_not_count(said: Said, cluster: Cluster) -> None:
    said.handshakes = said.handshakes.replace(":400", ":399")
    assert "nothing that master0 sent arrived at the holder" in str(next(each for each in findings(said, cluster) if each.check == "path 80/TCP"))


def test_a_priority_that_a_node_corrects_itself_is_no_fault(said: Said, cluster: Cluster) -> None:
    late = said.facts["infra1"]
    said.facts["infra1"] = replace(late, views={"infra": -100})
    said.later = {"infra1": [said.facts["infra1"], late]}
    assert failed(said, cluster) == []
    # Its priority only: the last facts count for everything else too.
    said.facts["infra1"] = replace(late, views={"infra": -100})
    said.later = {"infra1": [replace(late, keepalived="failed")]}
    assert failed(said, cluster) == ["FAILED  infra1    keepalived: failed; systemctl status keepalived on the node says why"]
    # A priority is rightly lowered if a server is out of rotation: the host is asked only once.
    fail(said, cluster, "infra", "infra0")
    said.facts["infra1"] = replace(said.facts["infra1"], views={"infra": -100})
    said.asked.clear()
    failed(said, cluster)
    assert said.asked.count("infra1 status --json") == 1


def test_each_question_to_a_node_is_one_command(said: Said, cluster: Cluster) -> None:
    assert [finding for finding in findings(said, cluster) if not finding.holds] == []
    assert said.asked[:5] == [f"{host} status --json" for host in (*MASTERS, *INFRAS)]
    assert sorted(said.asked[5:]) == [
        "infra0 connections from 192.168.0.2",
        "infra0 outside 192.168.0.250 192.168.0.250:8443=3",
        "master0 connections from 192.168.0.5",
        "master0 outside 192.168.0.251 192.168.0.251:80=30 192.168.0.251:443=30",
    ]


def test_a_node_that_gives_no_answer_from_outside_leaves_what_it_was_asked_unknown(said: Said, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Said._ask
    silent = Answer("", "no end of outside after 60 s", reached=False)
    monkeypatch.setattr(Said, "_ask", lambda self, host, verb, *words: silent if verb == "outside" and host == "master0" else ask(self, host, verb, *words))
    assert [str(finding) for finding in findings(said, cluster) if not finding.holds] == [
        "UNKNOWN infra     arp: master0 could not ask: no end of outside after 60 s",
        "UNKNOWN infra     path 80/TCP: could not be asked: no end of outside after 60 s",
        "UNKNOWN infra     path 443/TCP: could not be asked: no end of outside after 60 s",
    ]


def test_a_pool_alone_is_said_not_to_be_seen_from_outside(article: dict[str, dict[str, dict[str, object]]]) -> None:
    del article["pools"]["master"], article["vips"]["master"]
    alone = Cluster.parse(article)
    found = findings(Said(alone), alone)
    assert "-       infra     outside: no host outside pool infra can be asked, so nothing was seen from outside" in map(str, found)
    assert not [finding for finding in found if finding.holds is False]


def drained(said: Said, server: str, *hosts: str) -> None:
    for host in hosts:
        said.facts[host] = replace(with_server(said.facts[host], server, RealServer("DR", 0, 0)), drained=frozenset({server}))


def test_a_drained_server_is_told_and_is_no_fault(said: Said, cluster: Cluster) -> None:
    drained(said, "192.168.0.4", *MASTERS)
    found = findings(said, cluster)
    assert not [finding for finding in found if finding.holds is False]
    assert "ok      master0   table master:8443/TCP: 2 of 3 servers live, drained: master2" in map(str, found)
    assert "ok      master    drained: master2 is drained" in map(str, found)


def test_a_director_that_was_not_told_of_a_drain_is_a_fault(said: Said, cluster: Cluster) -> None:
    drained(said, "192.168.0.4", "master0", "master1")
    assert failed(said, cluster) == ["FAILED  master    drained: master2 is drained on master0, master1 and not on master2: drain or undrain master2 again"]


def test_a_server_that_is_no_director_runs_keepalived_and_has_a_table_but_no_connection_sync(article: dict[str, Any]) -> None:
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    cluster = Cluster.parse(article)
    said = Said(cluster)
    said.facts["master2"] = replace(said.facts["master2"], sync=(), views={}, drains={}, witnesses={})
    assert failed(said, cluster) == []
    assert {finding.check for finding in findings(said, cluster) if finding.subject == "master2"} >= {"keepalived", "table master:8443/TCP"}
    drained(said, MASTERS["master1"], "master0", "master1")
    assert [fault for fault in failed(said, cluster) if "is drained on master0, master1 and not on master2" in fault]
    said.facts["master2"] = replace(said.facts["master2"], keepalived="inactive", table={})
    faults = "\n".join(failed(said, cluster))
    assert "keepalived: inactive; " in faults and "no virtual server with mark" in faults


def test_a_drained_server_with_a_weight_is_a_fault(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], drained=frozenset({"192.168.0.6"}))
    said.facts["infra1"] = replace(said.facts["infra1"], drained=frozenset({"192.168.0.6"}))
    assert "infra1 has weight 1, should have 0" in failed(said, cluster)[0]


def test_the_fingerprint_of_a_password_is_no_other_version(article: dict[str, dict[str, dict[str, object]]]) -> None:
    secret = Cluster.parse(with_password(article))
    said = Said(secret)
    for host in MASTERS:
        version = f"{said.facts[host].version}-0badc0de"
        said.facts[host] = replace(said.facts[host], version=version, proven=version)
    assert failed(said, secret) == []


def test_a_host_on_which_nothing_is_in_force_says_so(said: Said, cluster: Cluster) -> None:
    said.facts["infra1"] = Facts(keepalived="inactive")
    version = keepalived.version(keepalived.render(cluster, "infra1"))
    version_none, inactive = (line for line in failed(said, cluster) if " infra1 " in line)
    assert version_none.startswith(f"FAILED  infra1    version: none in force; {version} is rendered: pulumi up; ")
    assert inactive == "FAILED  infra1    keepalived: inactive; systemctl status keepalived on the node says why"


def test_a_director_of_which_it_is_not_known_whether_it_translates_is_no_fault(said: Said, cluster: Cluster) -> None:
    translated = (Translation("192.168.0.251:443/TCP", "10.88.0.2:8443", "table ip nat, chain KUBE-SERVICES"), Translation("192.168.0.251:80/TCP", rule="why"))
    said.facts["infra0"] = replace(said.facts["infra0"], translated=translated)
    assert [(finding.holds, finding.seen) for finding in findings(said, cluster) if finding.check == "translation" and finding.subject == "infra0"][1] == (
        None,
        "192.168.0.251:80/TCP: not known whether a rule of this host changes the destination: why",
    )


@pytest.mark.parametrize(
    ("rule", "program", "remedy"),
    [
        ("table ip nat, chain PREROUTING, CNI-HOSTPORT-DNAT, CNI-DN-0", "portmap", "hostNetwork"),
        ("table ip cni_hostport, chain prerouting, hostports", "portmap", "hostNetwork"),
        ("table ip nat, chain PREROUTING, KUBE-HOSTPORTS, KUBE-HP-0", "CRI-O", "hostNetwork"),
        ("table ip nat, chain PREROUTING, KUBE-SERVICES, KUBE-SEP-0", "kube-proxy", "externalIPs"),
        ("table nat of legacy iptables, chain KUBE-SEP-0", "kube-proxy", "externalIPs"),
        ("table ip kube-proxy, chain nat-prerouting, services", "kube-proxy", "externalIPs"),
        ("table inet firewalld, chain nat_PREROUTING, nat_PRE_public", "firewalld", "remove that rule"),
        ("table ip mine, chain first", "a rule", "remove that rule"),
    ],
)
def test_the_program_of_a_rule_is_told_by_its_chains(rule: str, program: str, remedy: str) -> None:
    said = str(Translation("192.168.0.251:443/TCP", "10.88.0.2:8443", rule))
    assert said.startswith(f"192.168.0.251:443/TCP is translated to 10.88.0.2:8443 by {program} ({rule}) for calls from this host, but not for clients")
    assert remedy in said


def test_every_fact_comes_as_it_went(cluster: Cluster) -> None:
    seen = replace(healthy(cluster, "infra0"), owns_nothing=True, drained=frozenset({"192.168.0.6"}), rules=RULES)
    seen = replace(seen, strangers="one\ntwo", foreign=("10.0.0.9 IPIP",))
    assert Facts.from_json(seen.to_json()) == seen


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("", "Expecting value: line 1 column 1 (char 0)"),
        ("host        infra1, pool infra, director and real server", "Expecting value: line 1 column 1 (char 0)"),
        ("null", "'NoneType' object"),
        ("[]", "pop expected at most 1 argument"),
        ("{}", "another release"),
        ('{"format": 1}', "'drained'"),
        ('{"format": 1, "drained": [], "held": [], "lo": [], "sysctl": [], "sync": [], "table": []}', "'list' object has no attribute 'items'"),
    ],
)
def test_facts_in_another_format_are_a_fault_of_that_host_with_a_remedy(said: Said, cluster: Cluster, output: str, reason: str) -> None:
    said.instead["infra1"] = output
    found = failed(said, cluster)
    assert len(found) == 1
    assert found[0].startswith("FAILED  infra1    reachable: status --json: not in this checkout's format (")
    assert reason in found[0]
    assert found[0].endswith("): pulumi up, or use the checkout that was deployed")
    assert found[0] in status(said, cluster, keepalived.ROOT).text()


def test_the_kernels_table_is_read_with_flags_persistence_and_without_others_services() -> None:
    shown = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
FWM  7 wlc persistent 50 mask 255.255.255.0
  -> 192.168.0.5:0                Tunnel  3      12         0
FWM  8 rr ops
TCP  10.0.0.1:443 rr
  -> 10.0.0.2:443                 Masq    1      0          0
"""
    table = parse(shown)
    assert set(table) == {7, 8}
    assert (table[7].scheduler, table[7].persistence, table[8].flags) == ("wlc", 50, ("ops",))
    assert table[7].servers == {"192.168.0.5": RealServer("TUN", 3, 12)}
    assert table[8].servers == {}


# Services that run on some hosts of their pool


@pytest.fixture
def five(article: dict[str, Any]) -> Cluster:
    """Five infra nodes with routers on two of them."""
    article["pools"]["infra"]["hosts"] |= {"infra2": "192.168.0.7", "infra3": "192.168.0.8", "infra4": "192.168.0.9"}
    for service in article["vips"]["infra"]["services"]:
        service["expected_servers"] = 2
    return Cluster.parse(article)


def fail(said: Said, cluster: Cluster, pool: str, *servers: str) -> None:
    """Let these servers fail their health check on every director of the pool."""
    for host in cluster.pools[pool].hosts:
        for server in servers:
            said.facts[host] = with_server(said.facts[host], str(cluster.node(server).host.address), RealServer("DR", 0, 0))


def tables(said: Said, cluster: Cluster, host: str) -> set[str]:
    """What verify says of the services' tables of a host, without the services."""
    return {f"{finding.holds} {finding.seen}" for finding in findings(said, cluster) if finding.subject == host and finding.check.startswith("table")}


def test_servers_beyond_the_expected_ones_may_fail_their_health_check(five: Cluster) -> None:
    said = Said(five)
    fail(said, five, "infra", "infra2", "infra3", "infra4")
    assert failed(said, five) == []
    assert tables(said, five, "infra3") == {"True 2 of 2 expected servers live (infra2, infra3, infra4 fail their health check)"}


def test_a_server_more_than_expected_is_told(five: Cluster) -> None:
    said = Said(five)
    said.handshakes = "".join(f"FIN_WAIT {{client}}:{40000 + n} {{target}} 192.168.0.{5 + n % 4}:0\n" for n in range(20))
    fail(said, five, "infra", "infra4")
    assert failed(said, five) == []
    assert tables(said, five, "infra0") == {"True 4 servers live, 2 expected (infra4 fails its health check)"}


def test_fewer_live_servers_than_expected_are_a_fault_with_the_names_of_those_that_fail(five: Cluster) -> None:
    said = Said(five)
    said.handshakes = "FIN_WAIT {client}:40000 {target} 192.168.0.5:0\n"
    fail(said, five, "infra", "infra1", "infra2", "infra3", "infra4")
    out = "; ".join(f"infra{n} is out of rotation: its check fails here" for n in range(1, 5))
    assert tables(said, five, "infra3") == {f"False 1 of 2 expected servers live; {out}"}
    assert len(failed(said, five)) == 2 * 5


def test_a_drained_server_is_one_expected_server_less_but_one_must_be_live(five: Cluster) -> None:
    said = Said(five)
    said.handshakes = "FIN_WAIT {client}:40000 {target} 192.168.0.6:0\n"
    fail(said, five, "infra", "infra2", "infra3", "infra4")
    drained(said, "192.168.0.5", *five.pools["infra"].hosts)
    assert failed(said, five) == []
    assert tables(said, five, "infra1") == {"True 1 of 2 expected servers live (infra2, infra3, infra4 fail their health check), drained: infra0"}
    fail(said, five, "infra", "infra1")
    assert all(seen.startswith("False 0 of 2 expected servers live, drained: infra0; infra1 is out of") for seen in tables(said, five, "infra1"))


def test_with_enough_live_servers_other_faults_are_told_all_the_same(five: Cluster) -> None:
    said = Said(five)
    fail(said, five, "infra", "infra3", "infra4")
    said.facts["infra2"] = with_server(said.facts["infra2"], "192.168.0.7", RealServer("DR", 7, 0))
    said.facts["infra1"] = replace(said.facts["infra1"], views={"infra": -100})
    told = [line for line in failed(said, five) if not line.startswith("FAILED  infra ")]
    assert told[0].startswith("FAILED  infra1    view: priority for infra lowered by 100 as if servers were lost")
    assert [line.partition("; ")[2].partition(";")[0] for line in told[1:]] == ["infra2 has weight 7, should have 1"] * 2


@pytest.mark.parametrize("leader", ["master0", "master2"])
def test_only_the_leader_of_a_database_is_live(article: dict[str, Any], leader: str) -> None:
    check = {"type": "http", "path": "/primary", "connect_port": 8008}
    article["vips"]["master"]["services"] = [{"port": 5432, "expected_servers": 1, "health_check": check}]
    patroni = Cluster.parse(article)
    said = Said(patroni)
    others = [host for host in MASTERS if host != leader]
    fail(said, patroni, "master", *others)
    assert tables(said, patroni, "master1") == {f"True 1 of 1 expected servers live ({', '.join(others)} fail their health check)"}
    fail(said, patroni, "master", leader)
    assert all(seen.startswith("False 0 of 1 expected servers live; master0 is out of rotation") for seen in tables(said, patroni, "master1"))
    drained(said, "192.168.0.3", *MASTERS)
    assert all(seen.startswith("False 0 of 1 expected servers live, drained: master1; master0 is") for seen in tables(said, patroni, "master1"))


def test_servers_of_a_service_that_fails_open_count_as_failed(said: Said, cluster: Cluster) -> None:
    failing = with_server(said.facts["master0"], MASTERS["master1"], RealServer("DR", 1, 0, healthy=False))
    opened = replace(failing, table={mark: replace(virtual, open_since="2026-01-31 12:00:00 UTC") for mark, virtual in failing.table.items()})
    said.facts["master0"] = opened
    told = [str(finding) for finding in verify(said, cluster, keepalived.ROOT) if finding.subject == "master0" and "table" in finding.check]
    assert all(line.startswith("FAILED") for line in told)
    assert "2 of 3 servers live, fails open since 2026-01-31 12:00:00 UTC; master1 gets connections although its check fails here" in told[0]
    assert "master:8443 2/3 (fails open)" in status(said, cluster, keepalived.ROOT).text()


@pytest.mark.parametrize(
    ("repair", "words"),
    [
        (Repair("IPVS table", 1, 5, "kube-proxy"), ["ok", "IPVS table: once since the boot, last 5 s ago; changed by kube-proxy"]),
        (Repair("IPVS table", 9, 5, "kube-proxy", contested=True), ["FAILED", "9 times", "another program changes it again and again"]),
        (Repair("IPVS table", 1, 4000), []),
    ],
)
def test_repairs_of_the_last_hour_are_reported_and_are_a_fault_only_if_another_program_goes_on(
    said: Said, cluster: Cluster, repair: Repair, words: list[str]
) -> None:
    said.facts["master0"] = replace(said.facts["master0"], watch="active", repairs=(repair,))
    told = [str(finding) for finding in verify(said, cluster, keepalived.ROOT) if finding.check == "repaired"]
    assert len(told) == bool(words)
    assert all(word in told[0] for word in words)


def test_a_resident_process_that_does_not_run_is_a_fault(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], watch="failed")
    told = [str(finding) for finding in verify(said, cluster, keepalived.ROOT) if finding.check == "watch"]
    assert told == [
        "FAILED  infra0    watch: openshift-lvs-watch.service is failed: nothing is repaired, no service fails open, and neither a lost quorum nor silent "
        "witnesses lower the VRRP priority; systemctl start openshift-lvs-watch on the node"
    ]


def test_chains_that_may_drop_packets_are_named_where_something_does_not_arrive(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], filters=("table inet filter, chain input, priority 0",))
    assert not failed(said, cluster), "a firewall is no fault"
    said.handshakes = ""
    lines = [line for line in failed(said, cluster) if "path 80/TCP" in line]
    assert lines and lines[0].endswith("; infra0 drops what no rule accepts in table inet filter, chain input, priority 0")
