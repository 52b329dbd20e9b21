"""Values as the engine sends them: plain JSON, in which secrets are wrapped and what is not known yet is a mark."""

from __future__ import annotations

from typing import Any

Properties = dict[str, Any]

UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
"""The engine's mark for a value that is not known before an update."""
SIGNATURE, HIDDEN = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
"""The key that no other object has, and what it holds when the object wraps a secret."""


def is_secret(value: Any) -> bool:
    return isinstance(value, dict) and value.get(SIGNATURE) == HIDDEN


def secret(value: Any) -> Any:
    """The value as a secret; one that is a secret already stays as it is."""
    return value if is_secret(value) else {SIGNATURE: HIDDEN, "value": value}


def plain(value: Any) -> Any:
    """The value without the marks of secrets in it."""
    if is_secret(value):
        return plain(value["value"])
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
