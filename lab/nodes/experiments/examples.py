"""Stacks of examples/ on the lab's nodes, with the lab's hosts and addresses; and a service that runs on two hosts of a pool of five."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from lab.nodes import machine, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.calls import drained, master2
from lab.nodes.experiments.changes import as_it_was
from lab.nodes.experiments.scene import Bound, Change, Description, Experiment, Scene, Step, service, verified, verify_says
from lab.nodes.probe import MASTER
from lab.stack import CLUSTER, PROJECT

KIND = "example"
MASTERS = ("master0", "master1", "master2")
STEADY_S = 12
"""600 requests."""
START_S = 600
"""Three API servers start, on emulated processors."""
DATABASE = "lab-database"
"""The unit that stands for PostgreSQL and Patroni: it answers /primary on 8008 with 200, unless the node is told otherwise."""
PRIMARY, NEXT = "master0", "master1"
REPLICA, NO_REPLICA = "echo '8008 error' >/run/workload", "rm -f /run/workload"


def example(name: str) -> Description:
    """The VIP of an example on the masters, with the service that the probes ask added. The pools and the rest are the lab's."""
    given = yaml.safe_load((PROJECT / "examples" / name / f"Pulumi.{name}.yaml").read_text())["config"][CLUSTER]
    ((_, vip),) = given["vips"].items()
    described = stack.cluster()
    names = dict(zip(sorted(given["pools"][vip["pool"]]["hosts"]), MASTERS, strict=True))
    ours = described["vips"]["master"]
    kept = {key: ours[key] for key in ("address", "pool", "virtual_router_id")}
    described["vips"]["master"] = {**_renamed(vip, names), **kept, "services": [*_renamed(vip["services"], names), service(described)]}
    return described


def _renamed(value: Any, names: dict[str, str]) -> Any:
    """The value with other names of hosts, as keys and as values."""
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def _become(name: str) -> Change:
    def change(described: Description) -> None:
        described.clear()
        described.update(example(name))

    return change


def _deployed(
    name: str,
    change: Change,
    live: Callable[[Scene], dict[str, int]] = lambda scene: scene.live(),
    evidence: Callable[[Scene], Iterable[str]] = verified,
    removed: tuple[str, ...] = (),
) -> Step:
    """A deployment, after which `operations verify` is content unless another evidence is asked for. Streams to `removed` hosts may end."""
    bound = bounds.removed(*removed) if removed else bounds.nothing_lost
    return Step(f"pulumi up: {name}", KIND, lambda scene: scene.deploy(change), bound, live, evidence=evidence)


def _asked(name: str, port: int, bound: Callable[[Scene], Bound], live: Callable[[Scene], dict[str, int]] = lambda scene: scene.live()) -> Step:
    """A step in which nothing happens but requests to a port of the example."""
    return Step(name, KIND, lambda scene: time.sleep(STEADY_S), bound, live, port=port)


def _back(name: str, *removed: str) -> Step:
    return _deployed(f"the example cluster after {name}", as_it_was, removed=removed)


# Kubernetes


def _api_servers_start(scene: Scene) -> None:
    machine.run("cluster", "api", *MASTERS, timeout_s=START_S)


def _proven(described: Description) -> None:
    # The file has it: the example begins without the proof.
    del described["vips"]["master"]["answers_within"]


# A database


def _on_each(script: str, nodes: Iterable[str] = MASTERS) -> str:
    return "; ".join(f"lab exec {node} sh -euc '{script}'" for node in nodes)


def _one_primary(scene: Scene) -> dict[str, int]:
    """The tables: every server of the service that the probes ask, and one of the database's."""
    return dict.fromkeys(scene.cluster.directors("master"), len(MASTERS) + 1)


def _one_primary_without_replica(scene: Scene) -> dict[str, int]:
    """The same, while a host with a replica is drained."""
    return {node: count - 1 for node, count in _one_primary(scene).items()}


def _replica(verb: str, live: Callable[[Scene], dict[str, int]]) -> Step:
    """A host that does not pass the database's check is drained, or returned."""
    return Step(f"the example database: {verb} a replica's host", KIND, drained(verb, master2), bounds.nothing_lost, live, port=5432, evidence=verified)


def _primary_moves(scene: Scene) -> None:
    """The new primary answers before the old one stops to: in between, connections reach either."""
    scene.on(NEXT, NO_REPLICA)
    time.sleep(bounds.SERVER_S)
    scene.on(PRIMARY, REPLICA)


# Five hosts


FEW = ("master1", "infra0")
"""The two hosts, of five in the pool, that run the service on FEW_PORT: a director and a real server that is no director."""
FEW_PORT = 5432
FEW_UNIT = "lab-few"
FEW_SERVE = f"systemd-run --quiet --collect --unit={FEW_UNIT} /usr/local/bin/traffic serve {FEW_PORT}"
WITHOUT = "infra1"
"""A host that does not run it."""


def _five_hosts(described: Description) -> None:
    masters = list(described["pools"]["master"]["hosts"])
    described["pools"]["master"]["hosts"].update(described["pools"].pop("infra")["hosts"])
    described["pools"]["master"]["directors"] = masters
    del described["vips"]["infra"]
    described["vips"]["master"]["services"].append({"port": FEW_PORT, "expected_servers": len(FEW), "health_check": {"type": "tcp"}})


def _few(less: int) -> Callable[[Scene], dict[str, int]]:
    """How many live servers each director's table has, without `less` of them: five of the service that all hosts run, two of the other one."""
    return lambda scene: dict.fromkeys(scene.cluster.directors("master"), len(scene.cluster.pools["master"].hosts) + len(FEW) - less)


def _few_asked(
    name: str,
    act: Callable[[Scene], None],
    less: int = 0,
    bound: Callable[[Scene], Bound] = bounds.nothing_lost,
    evidence: Callable[[Scene], Iterable[str]] = verified,
) -> Step:
    return Step(f"a service on two of five hosts: {name}", KIND, act, bound, _few(less), port=FEW_PORT, evidence=evidence)


def _one_of_few_lost(scene: Scene) -> Bound:
    return bounds.server_lost(scene)._replace(may_lose_streams_of=(FEW[1],))


def _one_of_few_missed(_: Scene) -> Iterable[str]:
    """`operations verify` fails, and says so of the service. It cannot know which of the other hosts should run it."""
    return verify_says(f"master:{FEW_PORT}/TCP: 1 of {len(FEW)} expected servers live")


EXAMPLES = [
    Experiment(
        MASTER,
        (
            _deployed("the example existing-hosts", _become("existing-hosts")),
            _asked("the example existing-hosts: clients ask 80", 80, bounds.steady),
            _asked("the example existing-hosts: clients ask 443", 443, bounds.steady),
            _back("existing-hosts"),
        ),
    ),
    Experiment(
        MASTER,
        (
            _deployed("the example database", _become("database"), _one_primary),
            _asked("the example database: clients ask 5432", 5432, bounds.nothing_lost, _one_primary),
            _replica("drain", _one_primary_without_replica),
            _replica("undrain", _one_primary),
            Step("the example database: the primary moves", KIND, _primary_moves, bounds.nothing_lost, _one_primary, port=5432, evidence=verified),
            _back("database"),
        ),
        before="; ".join(
            [
                _on_each(f"systemd-run --quiet --collect --unit={DATABASE} /usr/local/bin/traffic serve 5432 8008"),
                *(f'lab exec {node} sh -euc "{REPLICA}"' for node in MASTERS if node != PRIMARY),
            ]
        ),
        after=_on_each(f"systemctl stop {DATABASE}; {NO_REPLICA}"),
    ),
    Experiment(
        MASTER,
        (
            # No API server answers yet, so verify has faults, and the directors' view is poor.
            _deployed("the example kubernetes-kubeadm, without an API server", _become("kubernetes-kubeadm"), evidence=lambda scene: ()),
            Step("the example kubernetes-kubeadm: the API servers start", KIND, _api_servers_start, bounds.reported),
            _deployed("the example kubernetes-kubeadm, with the proof", _proven),
            _back("kubernetes-kubeadm"),
        ),
        after="cluster mend",
        cluster=True,
    ),
    Experiment(
        MASTER,
        (
            _deployed("a service on two of five hosts", _five_hosts, _few(0)),
            _few_asked("clients", lambda scene: time.sleep(STEADY_S)),
            # Two less: it runs both services. A host of the other three runs only one.
            _few_asked("one of the two is drained", drained("drain", lambda _: FEW[1]), 2),
            _few_asked("it is returned", drained("undrain", lambda _: FEW[1])),
            _few_asked("one of the others is drained", drained("drain", lambda _: WITHOUT), 1),
            _few_asked("that one is returned", drained("undrain", lambda _: WITHOUT)),
            _few_asked("one of the two is stopped", lambda scene: scene.on(FEW[1], f"systemctl stop {FEW_UNIT}"), 1, _one_of_few_lost, _one_of_few_missed),
            _few_asked("it runs again", lambda scene: scene.on(FEW[1], FEW_SERVE), 0, bounds.server_back),
            _back("five hosts", "infra0", "infra1"),
        ),
        before=_on_each(FEW_SERVE, FEW),
        after=_on_each(f"systemctl stop {FEW_UNIT}", FEW),
    ),
]
