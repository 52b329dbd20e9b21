"""How a fault becomes a message: `key: value: remedy`, and for an unknown key the one that may be meant."""

from __future__ import annotations

import difflib
import itertools
from typing import Any

from pydantic import BaseModel

from components.configuration.health_checks import CHECKS
from components.configuration.model import LABEL, Model

RENAMED = {
    "lb_algo": "scheduler",
    "lvs_sched": "scheduler",
    "lb_kind": "forwarding_method",
    "lvs_method": "forwarding_method",
    "advert_int": "advert_interval",
    "nb_get_retry": "retry",
    "auth_pass": "the secret openshift-lvs:auth_pass (pulumi config set --secret --path openshift-lvs:auth_pass.VIP)",
    "virtual_ipaddress": "address",
    "misc_path": "script",
    "auth_type": "authentication",
    "priority": "owner, or priorities by host",
}
"""Keys of articles and older files, and their names here."""

NEEDLESS = {
    "nat_mask": "keepalived 2 does not know it",
    "state": "every instance starts as BACKUP, and `owner` says where the address belongs",
}
"""Keys of articles and older files that have no use here, and why."""


class ConfigurationError(Exception):
    """The configuration cannot work. The message has the key, the value and the remedy."""


def explain(model: type[Model], fault: Any) -> str:
    """The message for one fault of a pydantic ValidationError."""
    # pydantic puts the type of a health check into the location, as if it were a key.
    location = [str(part) for before, part in itertools.pairwise(("", *fault["loc"])) if before != "health_check" or part not in CHECKS]
    key = ".".join(location)
    if fault["type"] == "extra_forbidden":
        return f"{key}: unknown key{_instead(model, location[-1])}"
    if fault["type"] == "union_tag_not_found":
        return f"{key}.type: missing; {', '.join(CHECKS)}"
    if fault["type"] == "string_pattern_mismatch" and fault["ctx"]["pattern"] == LABEL:
        key = key.removesuffix(".[key]").removesuffix(f".{fault['input']}")
        return f"{key}: {fault['input']!r} is no name; lower-case letters, digits and hyphens, 63 at most, a letter first"
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "ip_v4_network":
        return f"{key}: {fault['input']!r} is not a network as ADDRESS/LENGTH with zeros after the length, such as 192.168.0.0/24"
    if fault["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {fault['input']!r}: {message}"


def _instead(model: type[Model], wrong: str) -> str:
    """The part of a message that names the key that may be meant by an unknown one."""
    if wrong in RENAMED:
        return f"; here it is {RENAMED[wrong]}"
    if wrong in NEEDLESS:
        return f"; leave it out: {NEEDLESS[wrong]}"
    keys = _known_keys(model)
    if wrong in keys:
        return f" here; it belongs to {keys[wrong]} (docs/configuration.md)"
    near = difflib.get_close_matches(wrong, sorted(keys), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _known_keys(model: type[BaseModel]) -> dict[str, str]:
    """Every key of the model and of the models within it, with the names of the models that have it."""
    whole = model.model_json_schema()
    keys: dict[str, list[str]] = {key: ["HttpCheck"] for key in ("path", "status_code", "digest")}
    for schema in (whole, *whole.get("$defs", {}).values()):
        for key in schema.get("properties", ()):
            keys.setdefault(key, []).append(schema["title"])
    return {key: ", ".join(models) for key, models in keys.items()}
