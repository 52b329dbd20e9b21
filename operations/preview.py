"""Refuse a deployment that would lose what cannot be made again as it was, by what `pulumi preview --json` says of it.

A policy pack sees the new inputs of a resource only. A preview has the old ones too, and says what is deleted and replaced.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from components.configuration import ConfigurationError
from components.configuration.cluster import SECOND
from components.configuration.vips import additional_port

KEPT = {
    "FloatingIp": "clients outside use its address",
    "Instance": "the server and everything on it is lost",
    "Network": "every port is on it",
    "Port": "its address could go to another machine, and its server or VIP is cut off",
    "Router": "the floating IPs pass through it",
    "Subnet": "every port is on it",
}
"""The kinds that `protect: true` protects, and why each is kept."""
BASTION = "openshift-lvs:index:Bastion"
"""The component of a bastion that the program creates. It can be created again without a loss."""
REPLACING = {"replace", "create-replacement", "delete-replaced"}
"""The operations of a step by which a resource is replaced (pulumi/pulumi, sdk/go/common/apitype: OpType)."""
DELETING = {"delete", "delete-replaced"}


class Refusal(NamedTuple):
    """A step that must not be made unseen: `resource` such as `Port master0`, and what would happen."""

    resource: str
    text: str

    def __str__(self) -> str:
        return f"refused  {self.resource}: {self.text}; if this is intended, deploy by hand with --allow {self.resource!r}"

    def to_json(self) -> dict[str, str]:
        """The refusal as JSON has it: see docs/reference/operations.md."""
        return {"subject": self.resource, "result": "failed", "text": self.text}


def check(preview: Mapping[str, Any], removed: Collection[str], allowed: Collection[str]) -> list[Refusal]:
    """The steps of a preview that are refused. `removed` has the names that the change removes from the configuration (`removed_names`)."""
    found = dict.fromkeys(refusal for step in preview["steps"] for refusal in _step(step, removed))
    return [refusal for refusal in found if refusal.resource not in allowed]


def _step(step: Mapping[str, Any], removed: Collection[str]) -> Iterator[Refusal]:
    urn, operation = str(step["urn"]), str(step["op"])
    types, name = urn.split("::")[-2:]
    *parents, own = types.split("$")
    kind = own.rpartition(":")[2]
    resource = f"{kind} {name}"
    if kind not in KEPT or not own.startswith("openstack:") or BASTION in parents:
        return
    if operation in REPLACING:
        yield Refusal(resource, f"would be replaced: {KEPT[kind]}")
    elif operation in DELETING and name not in removed:
        yield Refusal(resource, f"would be deleted, and the change does not remove it from the configuration: {KEPT[kind]}")
    elif operation == "update":
        for pair in sorted(_pairs(step.get("oldState")) - _pairs(step.get("newState"))):
            yield Refusal(resource, f"would lose the allowed address pair {pair}: what the host sends from there is dropped at once")


def _pairs(state: Any) -> set[str]:
    """The allowed address pairs of a port."""
    inputs = state.get("inputs") if isinstance(state, Mapping) else None
    pairs = inputs.get("allowedAddressPairs") if isinstance(inputs, Mapping) else None
    return {str(pair.get("ipAddress")) for pair in pairs if isinstance(pair, Mapping)} if isinstance(pairs, list) else set()


def read(path: Path) -> Mapping[str, Any]:
    """What `pulumi preview --json` printed. Raises ConfigurationError when the file is not that."""
    try:
        given = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name the file with the output of pulumi preview --json") from None
    except ValueError as error:
        raise ConfigurationError(f"{path}: not JSON ({error}); write only the standard output of pulumi preview --json into the file") from None
    steps = given.get("steps") if isinstance(given, Mapping) else None
    if not isinstance(steps, list) or not all(
        isinstance(step, Mapping) and {"op", "urn"} <= step.keys() and str(step["urn"]).count("::") == 3 for step in steps
    ):
        raise ConfigurationError(f"{path}: has no steps; write it with pulumi preview --json, and look whether that failed")
    assert isinstance(given, Mapping)
    return given


def removed_names(root: Path, stack: str, base: str) -> set[str]:
    """What the configuration of `base` names and the project, as it lies here, does not: the names of hosts, of the ports of VIPs and reserved addresses, and
    of the subnet of `cidr_v6`.

    Raises ConfigurationError when there is no such commit, or when a configuration cannot be read.
    """
    name = f"Pulumi.{stack}.yaml"
    known = subprocess.run(["git", "-C", root, "rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], capture_output=True)
    if known.returncode:
        raise ConfigurationError(f"--base: {base!r} is not a commit here; fetch it first: git fetch origin BRANCH (a shallow clone: git fetch --unshallow)")
    shown = subprocess.run(["git", "-C", root, "show", f"{base}:./{name}"], capture_output=True)
    before = _names(f"{name} of {base}", shown.stdout if shown.returncode == 0 else b"")
    return before - _names(name, (root / name).read_bytes() if (root / name).is_file() else b"")


def _names(file: str, content: bytes) -> set[str]:
    """The names of ports, servers and a second subnet that a stack's file makes. Every release has had these keys, or none of these resources."""
    try:
        loaded = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError):
        raise ConfigurationError(f"{file}: not YAML in UTF-8, so the hosts that it names are not known; correct it, or name another --base") from None
    cluster = _below(loaded, "config", "openshift-lvs:cluster")
    names = {str(host) for pool in _below(cluster, "pools").values() if not _below(pool).get("existing") for host in _below(pool, "hosts")}
    names |= {f"management-{host}" for host in names}
    network, vips = _below(cluster, "network"), _below(cluster, "vips")
    for vip in vips:
        names |= _vip_ports(str(vip), _below(vips, vip))
    names |= {f"reserved-{name}" for name in _below(network, "reserved")} | ({f"subnet{SECOND}"} if network.get("cidr_v6") else set())
    return names


def _vip_ports(name: str, vip: Mapping[str, Any]) -> set[str]:
    """The names of the ports of a VIP, and of the one that its `address_v6` is."""
    second = f"{name}{SECOND}" if vip.get("address_v6") else name
    ports = {f"vip-{name}", f"vip-{second}"}
    additional = vip.get("additional_addresses")
    for given in additional if isinstance(additional, list) else ():
        # One that is no address made no port.
        with suppress(ValueError):
            address = ip_address(str(given))
            ports.add(additional_port(second if address.version == 6 else name, address))
    return ports


def _below(value: Any, *keys: str) -> Mapping[str, Any]:
    """The mapping at these keys, or an empty one."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, Mapping) else {}
