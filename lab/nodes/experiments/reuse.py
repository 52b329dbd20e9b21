"""The cluster made by another Pulumi program, with the plugin."""

from __future__ import annotations

from lab.nodes import probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.changes import as_it_was, change
from lab.nodes.experiments.scene import Description, Experiment, Scene, Step, service
from lab.nodes.probe import MASTER
from lab.stack import DeploymentError


def _longer_timeout(described: Description) -> None:
    service(described)["health_check"]["connect_timeout"] = 2


def _by_example(scene: Scene) -> None:
    as_it_was(scene.described)
    scene.moment = probe.now()
    endpoints = stack.up_example()["endpoints"]
    if (found := {name: each["address"] for name, each in endpoints.items()}) != (wanted := {n: str(vip.address) for n, vip in scene.cluster.vips.items()}):
        raise DeploymentError(f"the outputs have {found}, not {wanted}")


REUSE = [
    Experiment(
        MASTER,
        (
            change("a timeout that the program in YAML does not have", _longer_timeout),
            Step("pulumi up of the program in YAML, with the plugin", "reuse", _by_example, bounds.nothing_lost, evidence=Scene.not_in_force),
            change("the same cluster after the program in YAML", as_it_was),
        ),
    )
]
