"""Updates that are wrong, or cut short: the first host only, and back."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable

from lab.nodes import machine, probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.changes import as_it_was
from lab.nodes.experiments.neighbours import forget_senders
from lab.nodes.experiments.scene import LVS, Bound, Change, Description, Experiment, Scene, Step, in_force, service
from lab.nodes.probe import MASTER
from lab.phases import wait_for
from lab.stack import DeploymentError

CANARY = "master1"
"""The first backup in the order of the roll-out."""
ACTIVATION_S = 240
FORGOTTEN_S = 30
GIVEN_UP_S = 60
"""A deployment whose host is gone is ended by its operator after this, if it has not ended itself."""


def refused(wrong: Change, words: str) -> Callable[[Scene], None]:
    """A deployment that must fail with these words."""

    def act(scene: Scene) -> None:
        try:
            stack.up(scene.changed(wrong))
        except DeploymentError as failure:
            if words not in str(failure):
                raise DeploymentError(f"it was refused, and not with {words!r}: {failure}") from failure
        else:
            raise DeploymentError("the deployment succeeded, and should have been refused")

    return act


def midway(event: Callable[[Scene, subprocess.Popen[str]], None]) -> Callable[[Scene], None]:
    """The event, at the moment when the canary has the new version in force and no other host has."""

    def act(scene: Scene) -> None:
        before = in_force(CANARY)
        with stack.begun(scene.changed(two_seconds)) as up:

            def activated() -> tuple[bool, str]:
                if up.poll() is not None:
                    raise DeploymentError(f"the deployment ended before {CANARY} was seen to change: {up.communicate()[0][-500:]}")
                return (now := in_force(CANARY)) != before, f"{now} in force"

            wait_for(f"the new version on {CANARY}", activated, ACTIVATION_S)
            event(scene, up)

    return act


def _vanishes(scene: Scene, up: subprocess.Popen[str]) -> None:
    scene.do("lab", "power", CANARY, "off")
    try:
        up.communicate(timeout=GIVEN_UP_S)
    except subprocess.TimeoutExpired:
        return
    if not up.returncode:
        raise DeploymentError("the deployment succeeded, though its first host was gone")


def engine_killed(scene: Scene, up: subprocess.Popen[str]) -> None:
    """Nothing: leaving `begun` kills the engine."""
    scene.moment = probe.now()


def two_seconds(described: Description) -> None:
    """A change that costs nothing."""
    service(described)["health_check"]["delay_loop"] = 2


def _nothing(described: Description) -> None:
    pass


def _only_the_canary(scene: Scene) -> Iterable[str]:
    return scene.not_in_force(but=CANARY)


def _canary_gone(scene: Scene) -> Bound:
    """A server that is lost costs its own share, whatever was done on it."""
    return bounds.server_lost(scene)._replace(text="the lost host's own share until its eviction; no other host touched", may_lose_streams_of=(CANARY,))


def _next_up(after: str, change: Change = _nothing) -> Step:
    return Step(f"the next pulumi up after {after}", "wrong update", lambda scene: scene.deploy(change), bounds.nothing_lost, evidence=Scene.not_in_force)


def _wrong(what: str, change: Change, words: str) -> Experiment:
    wrong = Step(f"wrong update: {what}", "wrong update", refused(change, words), bounds.nothing_lost, evidence=Scene.not_in_force)
    return Experiment(MASTER, (wrong, _next_up(what)))


def _unknown_user(described: Description) -> None:
    service(described)["health_check"] = {"type": "misc", "script": "lab/nodes/checks/answers-200", "user": "nosuchuser"}


def _stranger(scene: Scene) -> None:
    scene.do("lab", "stranger", "on", str(scene.cluster.vips[scene.target.vip].virtual_router_id))
    moment = scene.moment
    refused(two_seconds, "virtual_router_id")(scene)
    scene.moment = moment


def _verify_names_it(scene: Scene) -> Iterable[str]:
    yield from scene.not_in_force()
    done = stack.operate("verify")
    if not done.returncode or f"is used by {machine.CLIENT} " not in done.stdout:
        yield f"operations verify does not name the stranger: {done.stdout[-500:]}{done.stderr[-500:]}"


def _forgotten(scene: Scene) -> Iterable[str]:
    def heard() -> tuple[bool, str]:
        done = machine.run("lab", "exec", scene.backup, LVS, "alone", "0", check=False)
        return not done.returncode, done.stderr.strip()

    wait_for("the nodes to hear no stranger", heard, FORGOTTEN_S)
    return forget_senders(scene)


def _all_is_verified(scene: Scene) -> Iterable[str]:
    yield from scene.not_in_force()
    done = stack.operate("verify")
    if done.returncode:
        yield f"operations verify: {[line for line in done.stdout.splitlines() if 'FAILED' in line] or done.stderr[-500:]}"


STRANGERS = [
    Experiment(
        MASTER,
        (
            Step("a stranger uses our VRID", "stranger", _stranger, bounds.nothing_lost, evidence=_verify_names_it),
            Step("the stranger gone", "way back", lambda scene: scene.do("lab", "stranger", "off"), bounds.nothing_lost, evidence=_forgotten),
            Step("the next pulumi up after a stranger", "stranger", lambda scene: scene.deploy(_nothing), bounds.nothing_lost, evidence=_all_is_verified),
        ),
    ),
]

UPDATES = [
    _wrong("an interface that is not there", lambda d: d["pools"]["master"].update(interface="eth9"), "eth9 is not on this node"),
    _wrong("a check as a user that is not there", _unknown_user, "nosuchuser is not a user of this node"),
    _wrong("a service that does not come up", lambda d: service(d).update(health_check={"type": "http", "path": "/nope"}), "rolled back to"),
    Experiment(
        MASTER,
        (
            Step("the first host vanishes mid-way", "wrong update", midway(_vanishes), _canary_gone, lambda scene: scene.live(off=CANARY),
                 evidence=_only_the_canary),
            Step("the vanished host back", "way back", lambda scene: scene.do("lab", "power", CANARY, "on"), bounds.nothing_lost),
            _next_up("a vanished host: the same change", two_seconds),
            _next_up("that: as it was", as_it_was),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("the first host vanishes mid-way again", "wrong update", midway(_vanishes), _canary_gone, lambda scene: scene.live(off=CANARY),
                 evidence=_only_the_canary),
            Step("that host back", "way back", lambda scene: scene.do("lab", "power", CANARY, "on"), bounds.nothing_lost),
            _next_up("a vanished host: back to the configuration before"),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("the engine killed mid-way", "wrong update", midway(engine_killed), bounds.nothing_lost, evidence=_only_the_canary),
            _next_up("a killed engine: the same change", two_seconds),
            _next_up("that one: as it was", as_it_was),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("the engine killed mid-way again", "wrong update", midway(engine_killed), bounds.nothing_lost, evidence=_only_the_canary),
            _next_up("a killed engine: back to the configuration before"),
        ),
    ),
]  # fmt: skip
