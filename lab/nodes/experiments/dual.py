"""The example cluster with an IPv6 address beside each IPv4 one: rows of the other modules again, asked by IPv6, and by both families at once. And with an
additional address of a VIP, which is asked instead of the first.

Every row also looks for what went wrong elsewhere: an address that duplicate address detection refused, the two addresses of a VIP on different nodes, and
a host that sent a neighbour solicitation for a VIP of its own pool, which makes ML2/OVN move it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import chain

from lab.nodes import machine, probe
from lab.nodes.experiments import bounds
from lab.nodes.experiments.calls import from_node
from lab.nodes.experiments.changes import as_it_was, change, put_back, removed, take_out
from lab.nodes.experiments.crashes import CRASHES, PARTITIONS
from lab.nodes.experiments.planned import PLANNED
from lab.nodes.experiments.repairs import CHECKS_BLOCKED, of_traffic
from lab.nodes.experiments.scene import Change, Description, Experiment, Scene, Step, service
from lab.nodes.experiments.servers import SERVERS
from lab.nodes.experiments.steady import STEADY, rest
from lab.nodes.probe import BOTH, MASTER, MASTER_V6
from lab.phases import wait_for

NAME, ALONE, SEVERAL, KIND = "dual stack", "IPv6 alone", "several addresses", "dual"
"""What the names of the rows begin with, and their kinds."""
ADDITIONAL = MASTER._replace(address="192.168.0.252")
MOVED_S = 5
"""For the second address of a VIP to be where the first is, once that is in order; how far apart they moved is measured by itself."""
FAR_MTU = 1300
FAR_ECHO = """
import socket, sys
for last in range(1, 25):
    source = "fd00:0:0:2::%d" % last
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5, (source, 0)) as connection:
            connection.sendall(b"STREAM\\n" + 4000 * b"x" + b"\\n")
            answer = connection.makefile("rb").readline()
            print(source, answer.split()[0].decode() if answer else "nobody: closed")
    except OSError as failure:
        print(source, "nobody:", failure)
"""
"""Run in the namespace `far` of guest/lab: each of its addresses asks a server for more than a packet of FAR_MTU carries; tells who answered it."""
DATAGRAMS = (
    "for node in master0 master1 master2; do lab exec $node systemd-run --quiet --collect --unit=lab-datagrams /usr/local/bin/traffic serve 8443/udp; done"
)
NO_DATAGRAMS = "for node in master0 master1 master2; do lab exec $node systemctl stop lab-datagrams; done"


def dual_stack(described: Description) -> None:
    """An IPv6 address beside each IPv4 one."""
    described["network"]["cidr_v6"] = machine.CIDR_V6
    for each in chain(described["vips"].values(), *(pool["hosts"].values() for pool in described["pools"].values())):
        each["address_v6"] = machine.second(each["address"])


def _unicast(described: Description) -> None:
    """Adverts to each director instead of the multicast group: without a source of its own keepalived would send them from the link-local address."""
    dual_stack(described)
    for vip in described["vips"].values():
        vip["unicast"] = True


def ipv6_alone(described: Description) -> None:
    """IPv6 addresses instead of the IPv4 ones, but for the way to the nodes' ssh, which has both."""
    network = described["network"]
    network.update(cidr=machine.CIDR_V6, gateway=machine.second(network["gateway"]), client_cidrs=[machine.CIDR_V6])
    for each in chain(described["vips"].values(), *(pool["hosts"].values() for pool in described["pools"].values())):
        each["address"] = machine.second(each["address"])


def several(described: Description) -> None:
    """An additional address of the VIP of the masters."""
    described["vips"][ADDITIONAL.vip]["additional_addresses"] = [ADDITIONAL.address]


def _in_order(scene: Scene) -> Iterable[str]:
    """No address is a duplicate, no node has one address of the VIP without the other, and none asked for a VIP of its own pool."""
    addresses = {str(address) for name in scene.cluster.together(scene.target.vip) for address in scene.cluster.vips[name].addresses}

    def together() -> tuple[bool, str]:
        held = {node: sorted(addresses.intersection(there)) for node, (_, there) in probe.state().items()}
        return all(len(there) in (0, len(addresses)) for there in held.values()), f"{held}"

    wait_for(f"{' and '.join(sorted(addresses))} to be on the same nodes", together, MOVED_S)
    if duplicates := machine.run("lab", "duplicates").stdout:
        yield f"duplicate address detection refused: {duplicates}"
    # A host of another pool may: a deployment has it ask the VIP as a client does.
    own = {f"{node} {address}" for vip in scene.cluster.vips.values() for node in scene.cluster.pools[vip.pool].hosts for address in vip.addresses}
    if asking := sorted(own.intersection(machine.run("lab", "solicited").stdout.splitlines())):
        yield f"neighbour solicitations for a VIP were sent: {', '.join(asking)}"


def _checked(step: Step, name: str) -> Step:
    def evidence(scene: Scene) -> Iterable[str]:
        yield from step.evidence(scene)
        yield from _in_order(scene)

    return dataclasses.replace(step, name=f"{name}: {step.name}", kind=f"{KIND} {step.kind}", evidence=evidence)


def _with_both(what: Change) -> Change:
    """A change of the example cluster, and an IPv6 address beside each IPv4 one that it has then."""

    def changed(described: Description) -> None:
        what(described)
        dual_stack(described)

    return changed


def _again(experiment: Experiment, name: str, *, both: bool = False, arrange: Change | None = None) -> Experiment:
    """An experiment with the dual-stack cluster, or another one: asked by IPv6, or with `both` at both addresses of the VIP."""
    second = experiment.target if experiment.target.version == 6 else experiment.target.second
    return dataclasses.replace(
        experiment,
        target=experiment.target._replace(beside=second) if both else second,
        steps=tuple(_checked(step, name) for step in experiment.steps),
        arrange=arrange or (_with_both(experiment.arrange) if experiment.arrange else dual_stack),
        before="; ".join(filter(None, ("lab solicited reset", experiment.before))),
    )


def _alone(experiment: Experiment) -> Experiment:
    """An experiment with a stack of IPv6 addresses only: its VIP keeps its name."""
    target = experiment.target.second._replace(vip=experiment.target.vip)
    return _again(dataclasses.replace(experiment, target=target), ALONE, arrange=ipv6_alone)


def _additional(experiment: Experiment) -> Experiment:
    """An experiment whose requests go to the additional address of the VIP."""
    return dataclasses.replace(
        experiment,
        target=ADDITIONAL,
        steps=tuple(_checked(step, SEVERAL) for step in experiment.steps),
        arrange=several,
        before="; ".join(filter(None, ("lab solicited reset", experiment.before))),
    )


def _named(experiments: Iterable[Experiment], *names: str) -> list[Experiment]:
    """Of these experiments the ones with these names."""
    by_name = {experiment.name: experiment for experiment in experiments}
    return [by_name[name] for name in names]


# What only an IPv6 address can have


def _far_echo(scene: Scene) -> None:
    vip = scene.cluster.vips[scene.target.vip]
    scene.moment = probe.now()
    told = machine.run("ip", "netns", "exec", "far", "python3", "-c", FAR_ECHO, str(vip.address), str(vip.services[0].port), timeout_s=2 * machine.COMMAND_S)
    scene.told.extend(told.stdout.splitlines())


def _every_server_learned(scene: Scene) -> Iterable[str]:
    """Each far address was answered, by every server in turn, and each server sends to it in smaller packets now."""
    answered = dict(line.split(maxsplit=1) for line in scene.told)
    for address, server in answered.items():
        if server not in machine.NODES:
            yield f"{address} was answered by {server}"
        elif f" mtu {FAR_MTU}" not in machine.run("ip", "-n", server, "-6", "route", "get", address).stdout:
            yield f"{server} does not know the path MTU to {address}"
    if missing := set(scene.cluster.pools[scene.target.pool].hosts).difference(answered.values()):
        yield f"{', '.join(sorted(missing))} answered no far address"


def _datagrams(described: Description) -> None:
    dual_stack(described)
    tcp = service(described)
    described["vips"]["master"]["services"].append({**tcp, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": tcp["port"]}})


# Rows


_BY_DATAGRAMS = Step("steady, by datagrams", "steady", rest, bounds.nothing_lost, udp=True)
_FAR = Experiment(
    MASTER,
    (Step("packets that are too big on the way to the client", "path MTU", _far_echo, bounds.nothing_lost, evidence=_every_server_learned),),
    before="lab far make",
    after="lab far delete",
)
_TIMING = Experiment(
    MASTER,
    (
        change("a check's timing", lambda described: service(described)["health_check"].update(delay_loop=2)),
        change("that timing as it was", _with_both(as_it_was)),
    ),
)
_SERVER = Experiment(MASTER, (change("a real server removed", take_out, removed), change("a real server added", _with_both(put_back))))
_OWNERS_FAULTS = ("kill -9 of all of keepalived on the owner", "owner's link down", "owner isolated with carrier", "owner powered off")
_EACH = [
    *STEADY,
    *PLANNED,
    *CRASHES,
    *PARTITIONS,
    *_named(SERVERS, "a server's process gone"),
    *of_traffic(MASTER_V6),
    CHECKS_BLOCKED,
    from_node("a backup", lambda scene: scene.backup, MASTER_V6),
    from_node("the owner", lambda scene: scene.owner, MASTER_V6),
    _TIMING,
    _SERVER,
]
_AT_ONCE = [
    *_named(STEADY, "steady: three masters"),
    *_named(PLANNED, "owner drained", "keepalived restarted on the owner", "keepalived stopped on the owner", "keepalived reloaded on the owner"),
    *_named(PLANNED, "operations drain"),
    *_named(CRASHES, *_OWNERS_FAULTS),
    *_named(PARTITIONS, "partition: the owner and the rest"),
    *_named(SERVERS, "a server's process gone"),
    *of_traffic(BOTH),
    _TIMING,
]
_BY_UNICAST = [
    *_named(STEADY, "steady: three masters"),
    *_named(PLANNED, "owner drained"),
    *_named(CRASHES, "owner isolated with carrier"),
]
_ALONE = [
    *_named(STEADY, "steady: three masters"),
    *_named(PLANNED, "owner drained"),
    *_named(CRASHES, "kill -9 of all of keepalived on the owner", "owner isolated with carrier"),
]

_SEVERAL = [*_named(STEADY, "steady: three masters"), *_named(CRASHES, "owner isolated with carrier")]

_ROWS = [
    *(_again(experiment, f"{NAME}, IPv6") for experiment in (*_EACH, _FAR)),
    *(_again(experiment, f"{NAME}, both at once", both=True) for experiment in _AT_ONCE),
]
DUAL = [
    # What another configuration of the pool needs, after the rest: a deployment takes minutes.
    *sorted(_ROWS, key=lambda experiment: experiment.arrange is not dual_stack),
    _again(Experiment(MASTER, (_BY_DATAGRAMS,), before=DATAGRAMS, after=NO_DATAGRAMS), f"{NAME}, IPv6", arrange=_datagrams),
    *(_again(experiment, f"{NAME}, unicast adverts", both=True, arrange=_unicast) for experiment in _BY_UNICAST),
    *(_additional(experiment) for experiment in _SEVERAL),
    # Last: every address of the nodes changes, and changes back.
    *(_alone(experiment) for experiment in _ALONE),
]
