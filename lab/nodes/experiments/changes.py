"""Every kind of change of the configuration, through `pulumi up`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping

from lab.nodes import probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.scene import (
    LVS,
    Bound,
    Change,
    Description,
    Experiment,
    Scene,
    Step,
    backup_out,
    files_in_force,
    on_backup,
    service,
    two_directors,
)
from lab.nodes.probe import MASTER
from lab.stack import PROJECT

CHECK = "build/faults/check"
"""A check script whose content changes under its name."""


def _add_port(described: Description) -> None:
    described["vips"]["master"]["services"].append({**copy.deepcopy(service(described)), "port": 443})


def _remove_port(described: Description) -> None:
    described["vips"]["master"]["services"].pop()


def take_out(described: Description) -> None:
    """Without master2."""
    del described["pools"]["master"]["hosts"]["master2"]
    service(described).pop("weights", None)


def put_back(described: Description) -> None:
    """With master2 again."""
    described["pools"]["master"]["hosts"]["master2"] = stack.cluster()["pools"]["master"]["hosts"]["master2"]


def _take_out_and_move(described: Description) -> None:
    take_out(described)
    described["vips"]["master"]["owner"] = "master1"


removed = bounds.removed("master2")


def as_it_was(described: Description) -> None:
    """The example cluster again."""
    described.clear()
    described.update(stack.cluster())


def change(
    name: str, what: Change, bound: Callable[[Scene], Bound] = bounds.nothing_lost, live: Callable[[Scene], dict[str, int]] = lambda scene: scene.live()
) -> Step:
    """A step that deploys a change."""
    return Step(f"pulumi up: {name}", "change", lambda scene: scene.deploy(what), bound, live, evidence=Scene.not_in_force)


def _gone(when: str) -> Step:
    return Step(f"a server's process gone, {when}", "server", on_backup("systemctl stop lab-workload"), bounds.server_lost, backup_out)


def _back(when: str) -> Step:
    return Step(f"that process back, {when}", "server back", on_backup("systemctl start lab-workload"), bounds.server_back)


def _and_moved(name: str, what: Change) -> Step:
    """A step that deploys a change, and then moves the address: streams are older than what the next owner's table was made from."""

    def act(scene: Scene) -> None:
        scene.deploy(what)
        scene.on(probe.holder(scene.target), f"{LVS} hand-over {scene.target.vip}")

    return Step(f"pulumi up: {name}, then a move", "change", act, bounds.nothing_lost, evidence=Scene.not_in_force)


def _changes(*steps: Step, arrange: Change | None = None, auth_pass: Mapping[str, str] | None = None) -> Experiment:
    """A few of them, one on the other; the last one leads back."""
    return Experiment(MASTER, steps, arrange, auth_pass or {})


def _version_2(described: Description) -> None:
    described["keepalived"] = {"vrrp_version": 2}
    for vip in described["vips"].values():
        vip["advert_interval"] = 1
    described["vips"]["master"]["authentication"] = "PASS"


def _password(word: str) -> Callable[[Scene], None]:
    return lambda scene: scene.deploy(lambda described: None, {"master": word})


def _write_check(line: str) -> None:
    path = PROJECT / CHECK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")


def _misc_check(described: Description) -> None:
    _write_check("exit 0")
    # A process for each server every half second, on each director, is more than emulated processors have left.
    service(described)["health_check"] = {"type": "misc", "script": CHECK, "delay_loop": 1.5}


def _script(line: str) -> Change:
    return lambda described: _write_check(line)


def _several(described: Description) -> None:
    """What one commit may change together: an owner, a check's timing, a weight and a port."""
    _add_port(described)
    service(described)["health_check"].update(delay_loop=1)
    service(described).update(weights={"master2": 2})
    described["vips"]["master"]["owner"] = "master1"


def _undone() -> Experiment:
    """A commit, and its revert: every node then has the former version again, byte for byte."""
    former: dict[str, str] = {}

    def commit(scene: Scene) -> None:
        former.update({node.name: files_in_force(node.name) for node in scene.cluster.nodes()})
        scene.deploy(_several)

    def differ(scene: Scene) -> Iterable[str]:
        yield from scene.not_in_force()
        for node, files in former.items():
            if (found := files_in_force(node)) != files:
                lines = sorted(set(found.splitlines()) ^ set(files.splitlines()))
                yield f"{node} has other files than before the commit: {'; '.join(lines)}"

    return _changes(
        Step("pulumi up: a commit with several changes", "change", commit, bounds.nothing_lost, evidence=Scene.not_in_force),
        Step("pulumi up: that commit reverted", "change", lambda scene: scene.deploy(as_it_was), bounds.nothing_lost, evidence=differ),
    )


CHANGES = [
    _changes(
        change("a check's timing", lambda d: service(d)["health_check"].update(delay_loop=2)),
        change("that timing as it was", as_it_was),
    ),
    _changes(
        change("a real server removed", take_out, removed),
        change("a real server added", put_back),
        change("a real server's weight set to 0", lambda d: service(d).update(weights={"master2": 0})),
        change("a real server of weight 0 removed", take_out),
        _and_moved("that real server added again", put_back),
    ),
    _changes(
        change("a real server removed and another owner", _take_out_and_move, removed),
        change("that server and that owner as they were", as_it_was),
    ),
    _changes(
        change("a director removed", two_directors),
        change("a director added", lambda d: d["pools"]["master"].pop("directors")),
        change("a port added", _add_port),
        change("a port removed", _remove_port),
    ),
    _changes(
        _and_moved("a weight", lambda d: service(d).update(weights={"master1": 2})),
        change("another owner", lambda d: d["vips"]["master"].update(owner="master1")),
        change("advert interval", lambda d: d["vips"]["master"].update(advert_interval=0.4)),
        change("a priority", lambda d: d["vips"]["master"].update(priorities={"master2": 145})),
        change("weight, owner, interval and priority as they were", as_it_was),
    ),
    _changes(
        change("notification keys", lambda d: d.update(keepalived={"notifications": {
            "notification_email": ["ops@example.org"], "notification_email_from": "lvs@example.org", "smtp_server": "192.168.0.100"}})),
        change("another scheduler", lambda d: service(d).update(scheduler="sh"), bounds.scheduler_bound_anew),
        change("keys and scheduler as they were", as_it_was, bounds.scheduler_bound_anew),
    ),
    _changes(
        change("another forwarding method", lambda d: service(d).update(forwarding_method="TUN")),
        _gone("under another forwarding method"),
        change("that method as it was, a server gone", as_it_was, live=backup_out),
        _back("after another forwarding method"),
    ),
    _changes(
        _gone("before another check"),
        change("another check, a server gone", lambda d: service(d)["health_check"].update(connect_timeout=1), live=backup_out),
        change("that check as it was, a server gone", as_it_was, live=backup_out),
        _back("after another check"),
    ),
    _changes(
        change("a check script's content", _script("exit 0 # as before")),
        change("that content as it was", _script("exit 0")),
        arrange=_misc_check,
    ),
    _changes(
        Step("pulumi up: the VRRP password", "change", _password("second"), bounds.nothing_lost),
        Step("pulumi up: the VRRP password as it was", "change", _password("first"), bounds.nothing_lost),
        arrange=_version_2,
        auth_pass={"master": "first"},
    ),
    _undone(),
]  # fmt: skip
