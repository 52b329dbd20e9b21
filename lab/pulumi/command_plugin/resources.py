"""The two resources: their inputs, the defaults, and what a change of inputs means. Nothing runs here."""

from __future__ import annotations

from typing import Any

from .properties import UNKNOWN, Properties, is_secret, plain, secret

REMOTE = "command:remote:Command"
LOCAL = "command:local:Command"
OUTPUTS = ("stdout", "stderr")
LOGGING = ("stdout", "stderr", "stdoutAndStderr", "none")

_COMMON: dict[str, type] = {
    "create": str,
    "update": str,
    "delete": str,
    "stdin": str,
    "environment": dict,
    "triggers": list,
    "logging": str,
    "addPreviousOutputInEnv": bool,
}
_ENDPOINT: dict[str, type] = {
    "host": str,
    "user": str,
    "port": float,
    "password": str,
    "privateKey": str,
    "privateKeyPassword": str,
    "agentSocketPath": str,
    "hostKey": str,
    "dialErrorLimit": float,
    "perDialTimeout": float,
}
_INPUTS = {REMOTE: _COMMON | {"connection": dict}, LOCAL: _COMMON | {"dir": str, "interpreter": list}}
_DEFAULTS = {"addPreviousOutputInEnv": True}
_ENDPOINT_DEFAULTS = {"user": "root", "port": 22.0, "dialErrorLimit": 10.0, "perDialTimeout": 15.0}

Failures = list[tuple[str, str]]
"""The property and what is wrong with it."""


def check(kind: str, inputs: Properties) -> tuple[Properties, Failures]:
    """The inputs with the published plugin's defaults filled in, and what is wrong with them."""
    if kind not in _INPUTS:
        return inputs, [("", f"{kind} is not served by this stand-in, which knows {REMOTE} and {LOCAL}: use the published plugin")]
    failures = list(_wrong(inputs, _INPUTS[kind], ""))
    checked = _DEFAULTS | inputs
    if plain(inputs.get("logging")) not in (None, UNKNOWN, *LOGGING):
        failures.append(("logging", f"{plain(inputs['logging'])!r} is none of {', '.join(LOGGING)}"))
    if kind == REMOTE:
        if "connection" not in inputs:
            failures.append(("connection", "is required"))
        elif not failures:
            connection = plain(inputs["connection"])
            failures += _wrong(connection, _ENDPOINT | {"proxy": dict}, "connection.", required="host")
            if isinstance(connection, dict) and "proxy" in connection:
                failures += _wrong(connection["proxy"], _ENDPOINT, "connection.proxy.", required="host")
            checked["connection"] = secret(_with_defaults(inputs["connection"]))
    return checked, failures


def diff(old: Properties, new: Properties) -> dict[str, str]:
    """Each input that changed with the kind of change, in the engine's words; only `triggers` replace."""
    changes = {}
    for key in sorted(old.keys() | new.keys()):
        before, after = plain(old.get(key)), plain(new.get(key))
        if before != after:
            kind = "ADD" if before is None else "DELETE" if after is None else "UPDATE"
            changes[key] = kind + "_REPLACE" if key == "triggers" else kind
    return changes


def _with_defaults(endpoint: Any) -> Any:
    """A connection or a proxy with its defaults, secret where it was."""
    if is_secret(endpoint):
        return secret(_with_defaults(endpoint["value"]))
    if not isinstance(endpoint, dict):
        return endpoint
    filled = _ENDPOINT_DEFAULTS | endpoint
    return filled | {"proxy": _with_defaults(filled["proxy"])} if "proxy" in filled else filled


def _wrong(values: Any, known: dict[str, type], path: str, required: str = "") -> Failures:
    values = plain(values)
    if values == UNKNOWN or not isinstance(values, dict):
        return []
    failures = [] if not required or required in values else [(path + required, "is required")]
    for key, value in values.items():
        if key not in known:
            failures.append((path + key, f"is not served by this stand-in, which knows {', '.join(known)}"))
        elif value != UNKNOWN and not isinstance(value, known[key]):
            failures.append((path + key, f"is a {type(value).__name__}, not a {known[key].__name__}"))
    return failures
