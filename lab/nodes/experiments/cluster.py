"""Nodes on which a cluster runs: kube-proxy, pods by CNI, other programs' marks, a router, API servers, firewalls and network services.

They need the machine with these programs (`Experiment.cluster`), and are of the kind `cluster`. `guest/cluster` starts and ends what they name.
Their bounds are those that shall hold. Where the program does not do its part yet, a row is broken, or reports what happens.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable
from typing import Any

from lab.nodes import machine, probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.calls import asks, drained, in_every_state, master2, pod_on, weightless
from lab.nodes.experiments.repairs import FORGOTTEN
from lab.nodes.experiments.scene import (
    Bound,
    Change,
    Description,
    Experiment,
    Scene,
    Step,
    on_backup,
    on_owner,
    owner_off,
    owner_out,
    switch,
    two_directors,
    verified,
    verify_says,
)
from lab.nodes.experiments.updates import refused, two_seconds
from lab.nodes.probe import INFRA, MASTER, Target
from lab.phases import wait_for

KIND = "cluster"
MASTERS = ("master0", "master1", "master2")
ROUTERS = ("infra0", "infra1")
SERVER_NODE = "infra1"
"""Has the API server that kube-proxy watches: no director of the pool whose VIP is asked."""
SERVER = machine.NODES[SERVER_NODE]
REPAIR_S = 5.0
"""What another program takes from the kernel's tables is there again within this."""
STEADY_S = 12
"""600 requests."""
READY_S = 300
LONG_PORTS = (22623, 40000)
"""Bit 14 of the one, and bit 15 of the other, is one that kube-proxy gives a meaning in marks."""
RARE_S = 5.0
"""Seconds between two health checks of one server, with seven services."""
CONNECTIONS = 400
HOST, LOGIN = "app.apps.example.org", "login.apps.example.org"
ROUTED = INFRA._replace(host=HOST)
ASKS_UNKNOWN = """
import http.client, sys
router = http.client.HTTPConnection(sys.argv[1], timeout=10)
router.request("GET", "/", headers={"Host": "unknown.example.org"})
print(router.getresponse().status)
"""
MEND = "cluster mend"
TRANSLATED = " is translated to "
"""In what the program says of a service whose packets do not reach IPVS."""
AGAIN_S = 60

Which = Callable[[Scene], str]


def _owner(scene: Scene) -> str:
    return scene.owner


def _backup(scene: Scene) -> str:
    return scene.backup


def _rest(_: Scene) -> None:
    time.sleep(STEADY_S)  # the experiment itself: nothing happens for so long


def _command(verb: str, which: Which, *arguments: str) -> Callable[[Scene], None]:
    return lambda scene: scene.do("cluster", verb, which(scene), *arguments)


def _experiment(target: Target, *steps: Step, arrange: Change | None = None, before: str | Iterable[str] = "", after: str = MEND) -> Experiment:
    script = before if isinstance(before, str) else "; ".join(before)
    return Experiment(target, steps, arrange, before=script, after=after, cluster=True)


def _step(name: str, act: Callable[[Scene], None], bound: Callable[[Scene], Bound] = bounds.nothing_lost, **more: Any) -> Step:
    return Step(name, KIND, act, bound, **more)


def _each(nodes: Iterable[str], command: str) -> str:
    """A shell command for each node at the same time; NODE in it is its name. Fails when one of them fails."""
    begun = "".join(f'{{ {command.replace("NODE", node)}; }} & all="$all $!"; ' for node in nodes)
    return f'all=""; {begun}for one in $all; do wait "$one"; done'


def _on_masters(command: str) -> Callable[[Scene], None]:
    return lambda scene: scene.do("sh", "-euc", _each(MASTERS, command))


def _on_two(command: str) -> Callable[[Scene], None]:
    return lambda scene: scene.do("sh", "-euc", _each((scene.owner, scene.backup), command))


def _asked(name: str, port: int | None = None, bound: Callable[[Scene], Bound] = bounds.steady, **more: Any) -> Step:
    """A step in which nothing happens."""
    return _step(name, _rest, bound, port=port, **more)


# kube-proxy


def _repaired(_: Scene) -> Bound:
    """Another program takes our entries: no client notices, and they are there again soon."""
    return Bound(
        f"0 failed, every stream alive, tables and rules as rendered again within {REPAIR_S:g} s, verify succeeds",
        tables_wrong_s=REPAIR_S + bounds.LOOK_S,
    )


def _rules(node: str) -> str:
    """The rules of a node as it has them, without what changes by itself, and with OWN for the node's own address."""
    shown = machine.run("lab", "exec", node, "nft", "--stateless", "--terse", "list", "table", "ip", "openshift_lvs", check=False).stdout
    return shown.replace(f"{machine.NODES[node]},", "OWN,")


def _as_rendered(which: Which) -> Callable[[Scene], Iterable[str]]:
    """The node has the rules that another director has, and `operations verify` is content."""

    def evidence(scene: Scene) -> Iterable[str]:
        node = which(scene)
        other = next(name for name in scene.live() if name != node)

        def same() -> tuple[bool, str]:
            mine = _rules(node)
            return bool(mine) and mine == _rules(other), f"{node} has {mine or 'no rules'}"

        wait_for(f"the rules of {node} to be those of {other}", same, REPAIR_S)
        yield from verified(scene)

    return evidence


def _kube_proxy(mode: str) -> Experiment:
    def steps(who: str, which: Which) -> tuple[Step, ...]:
        def restarted(scene: Scene) -> None:
            scene.do("sh", "-euc", f"lab exec {which(scene)} systemctl restart kube-proxy; cluster synced {which(scene)}")

        def step(what: str, act: Callable[[Scene], None]) -> Step:
            return _step(f"kube-proxy ({mode}) {what} on {who}", act, _repaired, evidence=_as_rendered(which))

        return (
            step("starts", _command("proxy", which, mode, SERVER)),
            step("restarts", restarted),
            step("is stopped and cleans up", _command("no-proxy", which)),
        )

    return _experiment(MASTER, *steps("the owner", _owner), *steps("a backup", _backup), before=f"{FORGOTTEN}; {_api_server()}")


def _cleaned_up() -> Experiment:
    """Without an API server: kube-proxy only removes what it may have left."""
    return _experiment(
        MASTER, _step("kube-proxy cleans up on the owner", on_owner("kube-proxy --cleanup"), _repaired, evidence=_as_rendered(_owner)), before=FORGOTTEN
    )


def _api_server() -> str:
    return f"cluster api {SERVER_NODE}; cluster objects {SERVER}"


# Marks of other programs


def _more_services(described: Description) -> None:
    """Long ports, and UDP on every port. Seven services are more than emulated processors check at the default pace, so all are checked more rarely."""
    services = described["vips"]["master"]["services"]
    services[0]["health_check"]["delay_loop"] = RARE_S
    services += [{**copy.deepcopy(services[0]), "port": port} for port in LONG_PORTS]
    services += [
        {**copy.deepcopy(services[0]), "port": port, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 8443, "delay_loop": RARE_S}}
        for port in (8443, *LONG_PORTS)
    ]


def _marks(name: str, rules: str, bits: str = "") -> Experiment:
    def begin(scene: Scene) -> None:
        vip = scene.cluster.vips[scene.target.vip]
        ours = ", ".join(str(vip.mark(service)) for service in vip.services)
        scene.do("sh", "-euc", _each(MASTERS, f"cluster marks NODE {rules} '{ours}' {bits}"))

    def unseen(_: Scene) -> Iterable[str]:
        for node in MASTERS:
            if count := int(machine.run("cluster", "seen", node).stdout):
                yield f"{name} saw {count} packets with a mark of ours on {node}"

    return _experiment(
        MASTER,
        _step(f"marks of {name}: its rules begin", begin),
        *(_asked(f"marks of {name}: TCP {port}", port, evidence=unseen) for port in (8443, *LONG_PORTS)),
        *(_asked(f"marks of {name}: UDP {port}", port, udp=True, evidence=unseen) for port in (8443, *LONG_PORTS)),
        asks(f"marks of {name}: a backup calls the VIP", _backup, kind=KIND),
        _step(f"marks of {name}: a pod is made", _command("pod", _backup)),
        asks(f"marks of {name}: a pod calls the VIP", pod_on(_backup), kind=KIND),
        _step(f"marks of {name}: the pod is removed", _command("no-pod", _backup), evidence=unseen),
        _step(f"marks of {name}: its rules end", _on_masters("cluster no-marks NODE")),
        arrange=_more_services,
        before=_each(MASTERS, "cluster ports NODE"),
    )


# Pods and own calls


def _pods(name: str, which: Which, target: Target = MASTER, arrange: Change | None = None) -> Experiment:
    """A pod on a node, and the node itself, call a VIP in each state of the node's own server."""
    return _experiment(
        target,
        _step(f"{name}: a pod is made", _command("pod", which)),
        *in_every_state(name, which, KIND),
        _step(f"{name}: the pod is removed", _command("no-pod", which)),
        arrange=arrange,
    )


def _rp_filter(value: int) -> list[Experiment]:
    key, kept = "net.ipv4.conf.eth0.rp_filter", "/run/cluster-NODE-rp_filter"
    before = _each(MASTERS, f"lab exec NODE sysctl -n {key} >{kept} && lab exec NODE sysctl -qw {key}={value}")
    after = _each(MASTERS, f"lab exec NODE sysctl -qw {key}=$(cat {kept})")
    steps = in_every_state(f"a backup with rp_filter {value}", _backup, KIND, pod=False)
    without_weight = asks(f"a server of weight 0 with rp_filter {value} calls the VIP", master2, kind=KIND)
    # No program of a cluster takes part.
    return [Experiment(MASTER, steps, before=before, after=after), Experiment(MASTER, (without_weight,), weightless, before=before, after=after)]


def _connects(scene: Scene) -> Iterable[str]:
    for address in (machine.CLIENT, machine.NODES["infra0"]):
        done = machine.run("cluster", "connect", scene.backup, str(CONNECTIONS), address, "8443", timeout_s=READY_S)
        failed, _, why = done.stdout.strip().partition(" ")
        scene.told.append(f"{failed} of {CONNECTIONS} connections from a pod to {address} failed {why}".strip())
        if failed != "0":
            yield scene.told[-1]


def _everything() -> Experiment:
    """kube-proxy on every master, a pod on a backup, and what happens to directors meanwhile."""
    name = "kube-proxy (ipvs) on every master"

    return _experiment(
        MASTER,
        _step(f"{name}: a pod is made", _command("pod", _backup)),
        asks(f"{name}: a pod calls the VIP", pod_on(_backup), kind=KIND),
        _step(f"{name}: the owner is drained", drained("drain", _owner), live=owner_out),
        asks(f"{name}: a pod calls the VIP, the owner drained", pod_on(_backup), _owner, KIND),
        _step(f"{name}: the owner is returned", drained("undrain", _owner)),
        _step(f"{name}: keepalived restarts on the owner", on_owner("systemctl restart keepalived")),
        _step(f"{name}: the owner is isolated", switch("wire", "out"), bounds.node_lost, live=owner_off),
        _step(f"{name}: its isolation is healed", switch("wire", "in"), bounds.way_back),
        _step(f"{name}: the pod is removed", _command("no-pod", _backup), evidence=verified),
        before=[_api_server(), _each(MASTERS, f"cluster proxy NODE ipvs {SERVER}")],
    )


# Connection tracking and a firewall


def _bootstrap_port(described: Description) -> None:
    services = described["vips"]["master"]["services"]
    services.append({**copy.deepcopy(services[0]), "port": LONG_PORTS[0]})


def _tracked(conntrack: int, *, firewalld: bool) -> Experiment:
    name = f"vs.conntrack {conntrack}, firewalld {'on' if firewalld else 'off'}"
    before = [
        _each(MASTERS, "cluster ports NODE"),
        _each(MASTERS, f"lab exec NODE sysctl -qw net.ipv4.vs.conntrack={conntrack}"),
        *([_each(MASTERS, "cluster firewalld NODE")] if firewalld else []),
    ]
    return _experiment(
        MASTER,
        _asked(f"{name}: clients"),
        _asked(f"{name}: clients ask {LONG_PORTS[0]}", LONG_PORTS[0]),
        _step(f"{name}: keepalived restarted on the owner", on_owner("systemctl restart keepalived")),
        _step(f"{name}: a pod is made", _command("pod", _backup)),
        *in_every_state(f"{name}, a backup", _backup, KIND, server_units="lab-workload lab-ports"),
        asks(f"{name}, a backup: it calls {LONG_PORTS[0]}", _backup, kind=KIND, port=LONG_PORTS[0]),
        asks(f"{name}, a backup: its pod calls {LONG_PORTS[0]}", pod_on(_backup), kind=KIND, port=LONG_PORTS[0]),
        _step(f"{name}: the pod is removed", _command("no-pod", _backup)),
        *([_step(f"{name}: firewalld reloads on the owner", on_owner("firewall-cmd --reload"), _repaired)] if firewalld else []),
        arrange=_bootstrap_port,
        before=before,
        after=f"{MEND}; {_each(MASTERS, 'lab exec NODE sysctl -qw net.ipv4.vs.conntrack=0')}",
    )


# A router


def _router_checks(described: Description) -> None:
    """By the router's health on 1936, and by a Host whose application asks for a password."""
    http, https = described["vips"]["infra"]["services"]
    http["health_check"] = {"type": "http", "virtualhost": LOGIN, "status_code": "401"}
    https["health_check"] = {"type": "http", "path": "/healthz/ready", "connect_port": 1936}


def _unknown_host(scene: Scene) -> Iterable[str]:
    """The router answers 503 to a Host that it does not know."""
    status = machine.run("ip", "netns", "exec", "client", "python3", "-c", ASKS_UNKNOWN, scene.target.address).stdout.strip()
    if status != "503":
        yield f"the router answers {status} to an unknown Host"


# An API server


def _api_service(described: Description) -> None:
    check = {"type": "ssl", "path": "/readyz", "delay_loop": 1.5, "connect_timeout": 3}
    described["vips"]["master"]["services"].append({"port": 6443, "affinity": "client", "health_check": check})


def _under_watch(name: str, act: Callable[[Scene], None], *, must_hold: bool) -> Step:
    """The event while a client lists, writes and holds a watch through the VIP. `must_hold`: nothing of that may fail."""
    lost: list[str] = []

    def acted(scene: Scene) -> None:
        machine.run("sh", "-euc", f"cluster kubeconfig {MASTER.address} >/run/cluster-pki/vip.conf")
        running = machine.start("ip", "netns", "exec", "client", "/usr/local/sbin/api-client", MASTER.address)
        assert running.stdout
        if running.stdout.readline().strip() != "ready":
            raise machine.MachineError(f"the API's client did not start: {running.communicate(timeout=READY_S)[1]}")
        act(scene)
        _rest(scene)
        said, complaint = running.communicate(timeout=READY_S)
        if running.returncode:
            raise machine.MachineError(f"the API's client failed: {complaint}")
        result = json.loads(said)
        scene.told.append(
            f"{result['asked']} requests, failed {result['failed'] or 'none'}; watches ended {result['watches_ended'] or 'never'}; "
            f"{result['unseen']} of {result['written']} objects without an event"
        )
        lost[:] = scene.told if result["failed"] or result["watches_ended"] or result["unseen"] else []

    bound = bounds.nothing_lost if must_hold else bounds.reported
    return _step(f"a watch through the VIP: {name}", acted, bound, evidence=lambda scene: lost if must_hold else ())


def _rolling_restart(scene: Scene) -> None:
    scene.moment = probe.now()
    for node in MASTERS:
        machine.run("sh", "-euc", f"lab exec {node} systemctl restart kube-apiserver; cluster ready {node}", timeout_s=READY_S)
        probe.wait_until_whole(scene.live(), scene.target)


def _api(shutdown_delay_s: int) -> Experiment:
    moved = _under_watch("keepalived restarts on the owner", on_owner("systemctl restart keepalived"), must_hold=True)
    restarted = _under_watch(f"the API servers restart one after the other, shutdown delay {shutdown_delay_s} s", _rolling_restart, must_hold=False)
    return _experiment(
        MASTER,
        *([] if shutdown_delay_s else [moved]),
        restarted,
        arrange=_api_service,
        before=f"cluster api --shutdown-delay {shutdown_delay_s} {' '.join(MASTERS)}",
    )


# Translations of the VIP's ports


def _port(number: int) -> Change:
    def arrange(described: Description) -> None:
        services = described["vips"]["master"]["services"]
        if number != services[0]["port"]:
            services.append({**copy.deepcopy(services[0]), "port": number})

    return arrange


def _named(at: str, program: str, nodes: Callable[[Scene], Iterable[str]]) -> Callable[[Scene], Iterable[str]]:
    """`operations verify` fails, and names the translation with its program on each of these nodes."""

    def evidence(scene: Scene) -> Iterable[str]:
        done = stack.operate("verify")
        faults = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
        scene.told += faults
        for node in nodes(scene):
            named = any(f" {node} " in line and f"{at}{TRANSLATED}" in line and f" by {program} (" in line for line in faults)
            if not done.returncode or not named:
                yield f"operations verify does not name what {program} does with {at} on {node}: {faults or done.stderr[-500:]}"

    return evidence


def _translated(
    name: str,
    port: int,
    program: str,
    nodes: Callable[[Scene], Iterable[str]],
    act: Callable[[Scene], None],
    undo: Callable[[Scene], None],
    before: str | Iterable[str] = "",
) -> Experiment:
    """Who answers is in the row's `answers`. While the translation lasts, `verify` names it and `pulumi up` fails; afterwards both succeed."""

    def undone(scene: Scene) -> None:
        undo(scene)
        scene.deploy(lambda described: None)

    at = f"{MASTER.address}:{port}/TCP"
    refusal = _step(f"translated: {name}, pulumi up", refused(two_seconds, f"{at}{TRANSLATED}"), bounds.reported, port=port)
    return _experiment(
        MASTER,
        _step(f"translated: {name}", act, bounds.reported, port=port, evidence=_named(at, program, nodes)),
        _asked(f"translated: {name}, afterwards", port, bound=bounds.reported),
        refusal,
        _step(f"no longer translated: {name}", undone, bounds.reported, port=port, evidence=verified),
        arrange=_port(port),
        before=before,
    )


PROXIES = _on_masters(f"cluster proxy NODE iptables {SERVER}"), _on_masters("cluster no-proxy NODE")


# The node's network


def _bridge(who: str, which: Which) -> Experiment:
    def named(scene: Scene) -> Iterable[str]:
        node = which(scene)
        said = f"{machine.NODES[node]} is on br-ex, not on eth0"
        yield from verify_says(said)
        if said not in scene.journal(node):
            yield f"the journal of {node} does not say {said!r}"

    return _experiment(
        MASTER,
        _step(f"eth0 of {who} moves into br-ex", _command("bridge", which), bounds.reported, evidence=named),
        _step(f"eth0 of {who} is as it was", _command("no-bridge", which), bounds.reported, evidence=_verified_again),
    )


def _verified_again(scene: Scene) -> Iterable[str]:
    """As verified, once keepalived has found its interface again."""

    def content() -> tuple[bool, str]:
        faults = "; ".join(verified(scene))
        return not faults, faults

    wait_for("operations verify to succeed", content, AGAIN_S)
    return ()


def _service_restarts(name: str, manager: str, script: str) -> Experiment:
    def steps(who: str, act: Callable[[str], Callable[[Scene], None]], which: Which) -> tuple[Step, ...]:
        return (
            _step(f"{name}: it manages eth0 of {who}", _command("network", which, manager), _repaired),
            _step(f"{name} on {who}", act(script), _repaired, evidence=_as_rendered(which)),
            _step(f"{name}: it leaves eth0 of {who} alone", _command("no-network", which), bounds.reported),
        )

    return _experiment(MASTER, *steps("the owner", on_owner, _owner), *steps("a backup", on_backup, _backup))


CLUSTER = [
    _cleaned_up(),
    *(_kube_proxy(mode) for mode in ("iptables", "ipvs", "nftables")),
    _marks("Calico, 0xffff0000", "calico", "0xffff0000"),
    _marks("Calico in kubespray, 0xfff00000", "calico", "0xfff00000"),
    _marks("Cilium, 0x0f00", "cilium"),
    _marks("kube-proxy, 0x4000 and 0x8000", "kube-proxy"),
    _everything(),
    _pods("pods by CNI on a backup", _backup),
    _pods("pods by CNI on the owner", _owner),
    _pods("pods by CNI on a server that is no director", master2, arrange=two_directors),
    _pods("pods by CNI on a server that is no director, the infra VIP", master2, INFRA, two_directors),
    _pods("pods by CNI on a master, the infra VIP", lambda _: "master1", INFRA),
    _pods("pods by CNI on an infra node, the masters' VIP", lambda _: "infra0"),
    *(experiment for value in (0, 1, 2) for experiment in _rp_filter(value)),
    *(_tracked(conntrack, firewalld=firewalld) for firewalld in (False, True) for conntrack in (0, 1)),
    _experiment(
        MASTER,
        _step("a pod opens 400 connections to outside and to another node", _command("pod", _backup), evidence=_connects),
        _step("that pod is removed", _command("no-pod", _backup)),
        before="cluster outside",
    ),
    _experiment(
        ROUTED,
        _asked("HAProxy as the router: checks by its health on 1936, and by a Host that answers 401", evidence=_unknown_host),
        _step("HAProxy as the router: it stops on a backup", on_backup("systemctl stop lab-router"), bounds.server_lost, live=lambda s: s.live(s.backup)),
        _step("HAProxy as the router: it starts again", on_backup("systemctl start lab-router"), bounds.server_back),
        arrange=_router_checks,
        before=_each(ROUTERS, "cluster router NODE"),
    ),
    *(_api(delay) for delay in (0, 10)),
    _translated(
        "443 by hostPort on two of three masters", 443, "portmap", lambda scene: (scene.owner, scene.backup),
        _on_two("cluster pod NODE 443"), _on_two("cluster no-pod NODE"),
    ),
    _translated(
        "a Service with the VIP as its externalIP", 8443, "kube-proxy", lambda _: MASTERS, *PROXIES,
        [_api_server(), f"cluster service {SERVER} external 8443 {MASTER.address}"],
    ),
    _translated(
        "a NodePort on the VIP", 30443, "kube-proxy", lambda _: MASTERS, *PROXIES,
        [_each(MASTERS, "cluster ports NODE"), _api_server(), f"cluster service {SERVER} nodeport 443 30443"],
    ),
    _bridge("a backup", _backup),
    _bridge("the owner", _owner),
    _service_restarts("networkd restarts", "networkd", "systemctl restart systemd-networkd"),
    _service_restarts("a DHCP lease is renewed", "dhcp", "networkctl renew eth0"),
    _service_restarts("NetworkManager restarts", "NetworkManager", "systemctl restart NetworkManager"),
]  # fmt: skip
