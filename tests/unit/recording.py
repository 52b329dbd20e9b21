"""Runs a program function against a monitor that records what it registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import pulumi
from pulumi.runtime import mocks, rpc


@dataclass(frozen=True)
class Registered:
    """A resource as the engine was told of it. Keys of `inputs` are the provider's (camelCase); `secrets` names those that are secret."""

    type: str
    name: str
    urn: str
    parent: str
    inputs: dict[str, Any]
    secrets: frozenset[str]
    dependencies: frozenset[str]
    ignore_changes: frozenset[str]
    replace_on_changes: frozenset[str]
    delete_before_replace: bool
    create_timeout: str
    protect: bool
    former_names: frozenset[str]


@dataclass
class Deployment:
    """What one run of a program registered and looked up, and what it returned."""

    resources: list[Registered] = field(default_factory=list)
    looked_up: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    returned: Any = None

    def of(self, kind: str) -> dict[str, Registered]:
        """The resources of a type (the last part of its token, such as `Port`), by name."""
        return {resource.name: resource for resource in self.resources if resource.type.rpartition(":")[2] == kind}

    def before(self, resource: Registered) -> set[str]:
        """Types and names, as `Port vip-master`, of all that `resource` waits for, directly or not."""
        by_urn = {known.urn: known for known in self.resources}
        waiting, seen = [resource.urn], set[str]()
        while waiting:
            for urn in by_urn[waiting.pop()].dependencies - seen:
                seen.add(urn)
                waiting.append(urn)
        return {f"{by_urn[urn].type.rpartition(':')[2]} {by_urn[urn].name}" for urn in seen}


class RecordingMonitor(mocks.MockMonitor):
    """Pulumi's own mock keeps inputs only; the order of a deployment and its secrets are in the rest of a registration."""

    def __init__(self, deployment: Deployment, absent: frozenset[str]) -> None:
        super().__init__(Cloud(deployment, absent))
        self.deployment = deployment

    def RegisterResource(self, request: Any) -> Any:
        response = super().RegisterResource(request)  # type: ignore[no-untyped-call]
        if request.type != "pulumi:pulumi:Stack":
            given = rpc.deserialize_properties(request.object)
            self.deployment.resources.append(
                Registered(
                    type=request.type,
                    name=request.name,
                    urn=response.urn,
                    parent=request.parent,
                    inputs={key: rpc.unwrap_rpc_secret(value) for key, value in given.items()},
                    secrets=frozenset(key for key, value in given.items() if rpc.is_rpc_secret(value)),
                    dependencies=frozenset(request.dependencies),
                    ignore_changes=frozenset(request.ignoreChanges),
                    replace_on_changes=frozenset(request.replaceOnChanges),
                    delete_before_replace=request.deleteBeforeReplace,
                    create_timeout=request.customTimeouts.create,
                    protect=request.protect,
                    former_names=frozenset(alias.spec.name for alias in request.aliases),
                )
            )
        return response


class Cloud(mocks.Mocks):
    """Gives every resource an id and finds every name but the absent ones. An existing network whose name begins with `open` has no port security."""

    def __init__(self, deployment: Deployment, absent: frozenset[str]) -> None:
        self.deployment = deployment
        self.absent = absent

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        outputs = {key: rpc.unwrap_rpc_secret(value) for key, value in args.inputs.items()}
        if args.typ.endswith(":FloatingIp"):
            outputs["address"] = f"203.0.113.{len(args.name)}"
        if args.typ.endswith(":Keypair"):
            outputs["name"] = f"{args.name}-autonamed"
        if args.typ.endswith(":Command"):
            outputs["stdout"] = f"said by {args.name} to {outputs['create']}"
        if args.typ.endswith(":Network") and args.resource_id:
            outputs["portSecurityEnabled"] = not args.resource_id.startswith("open")
        return f"{args.name}-id", outputs

    def call(self, args: mocks.MockCallArgs) -> Any:
        kind = args.token.rpartition(":")[2]
        self.deployment.looked_up.append((kind, dict(args.args)))
        name = args.args.get("name") or args.args.get("cidr") or args.args.get("address")
        if name in self.absent:
            said = (
                "No openstack_networking_floatingip_v2 found"
                if kind == "getFloatingIp"
                else "Your query returned no results. Please change your search criteria"
            )
            return {}, [("", said)]
        return {"id": f"{name}-id"}


class Deploy(Protocol):
    """The fixture `deploy`: runs a program function to its end; names in `absent` are not in the cloud.

    A program that fails has left its traces in `into`.
    """

    def __call__(self, program: Callable[[], Any], absent: frozenset[str] = frozenset(), into: Deployment | None = None) -> Deployment: ...


def deploy(program: Callable[[], Any], absent: frozenset[str] = frozenset(), into: Deployment | None = None) -> Deployment:
    """Run the program; `returned` is what it returned, outputs resolved."""
    deployment = into or Deployment()
    mocks.set_mocks(
        Cloud(deployment, absent),
        project="openshift-lvs",
        stack="unit-tests",
        preview=False,
        monitor=RecordingMonitor(deployment, absent),
    )

    def whole() -> pulumi.Output[None]:
        return pulumi.Output.from_input(program()).apply(lambda value: setattr(deployment, "returned", value))

    pulumi.runtime.test(whole)()  # type: ignore[no-untyped-call]
    return deployment
