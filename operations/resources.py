"""What the program asks of OpenStack for a stack, without a cloud: the project's own `__main__.py`, run on a recorder in place of the engine.

A script that imports nothing of the project it records, so that one release can record another. `operations diff` runs it for base and head:

    PYTHONPATH=PROJECT python -P operations/resources.py PROJECT STACK FILE

It writes a list in JSON, one entry for each resource: `kind` and `name`; `inputs` with the provider's keys; `ignored`, the inputs that count
only when the resource is created; `replaced_by`, the inputs whose change replaces it at the program's wish; `protect`. An id is the kind and name of what
it identifies, such as `Port master0`, and a name that was looked up is its kind and name, such as `image debian-12`.

No secret is read. The program gets stand-ins for its secrets, and what is made from them is left out.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pulumi
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from pulumi.runtime import mocks, rpc

PROJECT = "openshift-lvs"
CLOUD = "openstack:"
"""How the types of OpenStack's resources begin."""
IDENTITY = ("hostname", "ssh_keys", "ssh_authorized_keys")
"""The keys of a server's cloud-config that come from its name and from secrets."""
SECRET = "(secret)"  # noqa: S105 (what is shown in place of one)


class _Cloud(mocks.Mocks):
    """Finds every name, and gives every resource its name as its id."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        known = f"{_kind(args.typ)} {args.name}"
        outputs = {key: rpc.unwrap_rpc_secret(value) for key, value in args.inputs.items()}
        return known, {"name": known, "address": known, "stdout": "", **outputs}

    def call(self, args: mocks.MockCallArgs) -> Any:
        what = args.token.rpartition(":")[2].removeprefix("get").lower()
        return {"id": f"{what} {args.args.get('name') or args.args.get('cidr')}"}


class _Recorder(mocks.MockMonitor):
    """Keeps what the engine would be told of each resource of OpenStack."""

    def __init__(self) -> None:
        super().__init__(_Cloud())
        self.asked: list[dict[str, Any]] = []

    def RegisterResource(self, request: Any) -> Any:
        if request.type.startswith(CLOUD):
            given = rpc.deserialize_properties(request.object)
            self.asked.append(
                {
                    "kind": _kind(request.type),
                    "name": request.name,
                    "inputs": {key: _shown(key, value) for key, value in given.items()},
                    "ignored": sorted(request.ignoreChanges),
                    "replaced_by": sorted(request.replaceOnChanges),
                    "protect": bool(request.protect),
                }
            )
        return super().RegisterResource(request)  # type: ignore[no-untyped-call]


def record(project: Path, stack: str) -> list[dict[str, Any]]:
    """The resources of a stack, by kind and name. Raises pulumi.RunError when the program refuses the configuration."""
    cluster = yaml.safe_load((project / f"Pulumi.{stack}.yaml").read_text())["config"][f"{PROJECT}:cluster"]
    recorder = _Recorder()
    asyncio.set_event_loop(asyncio.new_event_loop())
    mocks.set_mocks(recorder.mocks, project=PROJECT, stack=stack, preview=False, monitor=recorder)
    secrets = {f"{PROJECT}:{key}": value for key, value in _stand_ins(cluster).items()}
    pulumi.runtime.set_all_config({f"{PROJECT}:cluster": json.dumps(cluster, default=str), **secrets}, list(secrets))

    def program() -> None:
        runpy.run_path(str(project / "__main__.py"))

    pulumi.runtime.test(program)()  # type: ignore[no-untyped-call]
    return sorted(recorder.asked, key=lambda resource: (resource["kind"], resource["name"]))


def _stand_ins(cluster: dict[str, Any]) -> dict[str, str]:
    """A value that the program accepts for each of its secrets."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32)).private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    passwords = {name: "stand-in" for name, vip in cluster["vips"].items() if vip.get("authentication")}
    return {"ssh_private_key": key.decode(), "host_key_seed": "stand-in for the seed", "auth_pass": json.dumps(passwords)}


def _shown(key: str, value: Any) -> Any:
    """An input as a reviewer may see it. Of a server's user data, that is the pool's `cloud_config`."""
    plain = _whole(rpc.unwrap_rpc_secret(value))
    if key == "publicKey":
        return SECRET
    if not rpc.is_rpc_secret(value):
        return plain
    if key == "userData":
        config = json.loads(plain.removeprefix("#cloud-config\n"))
        logins = config.get("ssh_authorized_keys", [])[1:]
        return {name: each for name, each in config.items() if name not in IDENTITY} | ({"ssh_authorized_keys": logins} if logins else {})
    return SECRET


def _whole(value: Any) -> Any:
    """Whole numbers as such: the engine's protocol has no others than floating ones."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _kind(token: str) -> str:
    """The last part of a type, such as `Port`."""
    return token.rpartition(":")[2]


if __name__ == "__main__":
    try:
        resources = record(Path(sys.argv[1]), sys.argv[2])
    except pulumi.RunError as refusal:
        sys.exit(str(refusal))
    Path(sys.argv[3]).parent.mkdir(exist_ok=True)
    Path(sys.argv[3]).write_text(json.dumps(resources, indent=1, sort_keys=True))
