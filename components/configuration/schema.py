"""The JSON Schema of `Pulumi.STACK.yaml`, from the model: an editor completes and checks a stack with it.

It checks each key by itself: unknown keys, types, ranges and words. The rules between keys are the program's alone. In two ways it asks for more than the
program does: true and false are not written as yes and no, and a number is not in quotes.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic.fields import FieldInfo

from components.configuration import reference
from components.configuration.cluster import Cluster
from components.configuration.errors import Kind
from components.configuration.health_checks import CHECKS, SHORT_FORM, HttpCheck, Url
from components.configuration.keys import NAMESPACE, SECRETS, Secret
from components.configuration.services import VirtualService

NAME = "Pulumi.schema.json"
"""The file in the project's folder. A stack names it in its first line: `# yaml-language-server: $schema=Pulumi.schema.json`."""

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The dialect that yaml-language-server knows best."""

TEXT = {"type": "string"}

BESIDE = {
    "encryptionsalt": "Written by `pulumi stack init`.",
    "encryptedkey": "Written by `pulumi stack init`.",
    "secretsprovider": "Written by `pulumi stack init`.",
}
"""The keys of the file beside `config`, which Pulumi writes."""


def schema() -> dict[str, Any]:
    """The schema of a stack's file."""
    cluster = Cluster.model_json_schema(by_alias=False)
    definitions = cluster.pop("$defs")
    definitions[Cluster.__name__] = cluster
    for section in reference.sections():
        if section.__name__ in definitions:
            keys = definitions[section.__name__]["properties"]
            for key, field in section.model_fields.items():
                keys[key]["description"] = describe(field)
    urls = definitions[Url.__name__]["properties"]
    definitions[HttpCheck.__name__]["properties"] |= {key: urls[key] for key in SHORT_FORM}
    _with_preset(definitions)
    return {
        "$schema": DIALECT,
        "title": "A stack of openshift-lvs",
        "description": "Generated from components/configuration by `make schema`.",
        "type": "object",
        "properties": {
            "config": {
                "description": "The configuration of the stack.",
                "type": "object",
                "properties": {
                    f"{NAMESPACE}:cluster": {"$ref": f"#/definitions/{Cluster.__name__}"},
                    **{f"{NAMESPACE}:{key}": _secret(secret) for key, secret in SECRETS.items()},
                    "openstack:cloud": {**TEXT, "description": "Entry of clouds.yaml."},
                },
                # Other namespaces belong to providers.
                "patternProperties": {f"^(?!{NAMESPACE}:)[^:]+:": {}},
                "additionalProperties": False,
                "required": [f"{NAMESPACE}:cluster"],
            },
            **{key: {**TEXT, "description": meaning} for key, meaning in BESIDE.items()},
            "environment": {"description": "Environments of Pulumi ESC."},
        },
        "additionalProperties": False,
        "required": ["config"],
        "definitions": {name: _section(section) for name, section in sorted(definitions.items())},
    }


def text() -> str:
    """The schema as the file has it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def describe(field: FieldInfo) -> str:
    """What a key means, what its value may be, and its word in keepalived.conf."""
    meaning, word = reference.description(field)
    return plain(f"{meaning} Value: {reference.value(Kind.of(field))}." + (f" keepalived: {word}." if word else ""))


def plain(description: str) -> str:
    """A description in one line, without the links of the reference page."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(description.split()))


def _with_preset(definitions: dict[str, Any]) -> None:
    """A preset has a health check: with it, the key may be missing, or have only the keys that replace those of the preset's check."""
    service = definitions[VirtualService.__name__]
    check = service["properties"]["health_check"]
    service["properties"]["health_check"] = {"description": check.pop("description")}
    service["required"].remove("health_check")
    keys: dict[str, Any] = {}
    for model in Kind.of(VirtualService.model_fields["health_check"]).models:
        keys |= definitions[model.__name__]["properties"]
    keys["type"] = {"enum": list(CHECKS), "description": keys["type"]["description"]}
    definitions["ChangedCheck"] = {"type": "object", "properties": keys, "additionalProperties": False}
    service["if"] = {"required": ["preset"]}
    service["then"] = {"properties": {"health_check": {"$ref": "#/$defs/ChangedCheck"}}}
    service["else"] = {"properties": {"health_check": check}, "required": ["health_check"]}


def _secret(secret: Secret) -> dict[str, Any]:
    encrypted = {"type": "object", "properties": {"secure": TEXT}, "required": ["secure"], "additionalProperties": False}
    value: dict[str, Any] = {"anyOf": [encrypted, TEXT]}
    if secret.by_vip:
        value = {"anyOf": [{"type": "object", "additionalProperties": value}, *value["anyOf"]]}
    return {"description": f"Secret (pulumi config set --secret). {plain(secret.meaning)}", **value}


def _section(section: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section in the form of the file."""
    keys = {key: _value(value) for key, value in section["properties"].items()}
    return {**_value({key: value for key, value in section.items() if key != "properties"}), "properties": keys}


def _value(given: Any) -> Any:
    """The schema of a value. pydantic adds a title and a default of null, which tell nothing."""
    if isinstance(given, list):
        return [_value(part) for part in given]
    if not isinstance(given, dict):
        return given
    made = {key: _value(value) for key, value in given.items() if key not in ("title", "discriminator") and (key, value) != ("default", None)}
    if "$ref" in made:
        # In this dialect nothing counts beside a $ref.
        reference = {"$ref": made.pop("$ref").replace("#/$defs/", "#/definitions/")}
        return {**made, "allOf": [reference]} if made else reference
    if isinstance(made.get("description"), str):
        made["description"] = plain(made["description"])
    if "patternProperties" in made:
        made["additionalProperties"] = False
    return made
