"""The arguments of the component, made from the model, and the way back: a mapping that the model reads, and its messages in the arguments' names.

Each section of the model becomes a type with the same keys, so that a new key of the model is an argument without a line here. What differs:

- A name is in camelCase (`virtual_router_id` is `virtualRouterId`), as in every Pulumi package. The SDK of Python has the model's names.
- The analyzer of Pulumi's SDK takes no union. A section that has several forms, such as a health check, becomes one type with the keys of all; the model
  refuses a key that does not belong to the form. A plain value of several types becomes `Any`.
- A short form is not there: a host is always a mapping with `address`.
"""

# Without `from __future__ import annotations`: Pulumi's analyzer reads the annotations as types.

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin

import pulumi
from pulumi.provider.experimental.util import camel_case

from components.configuration import ConfigurationError
from components.configuration.cluster import Cluster
from components.configuration.errors import Kind
from components.configuration.health_checks import SHORT_FORM, HttpCheck, Url
from components.configuration.model import Model

SCALARS = {bool: bool, int: int, float: float, str: str, IPv4Address: str, IPv4Network: str, Any: Any}


class Arguments:
    """The argument type of a section, each made once."""

    def __init__(self) -> None:
        self._made: dict[tuple[type[Model], ...], Any] = {}
        self.names: set[str] = set()
        self.descriptions: dict[tuple[str, str], str] = {}

    def of(self, *forms: type[Model]) -> Any:
        """The TypedDict of a section; of several forms, the one with the keys of all of them. Only what every form requires is required."""
        if forms not in self._made:
            keys: dict[str, Any] = {}
            for form in forms:
                for name, field in form.model_fields.items():
                    required = all(name in each.model_fields and each.model_fields[name].is_required() for each in forms)
                    keys[name] = self._argument(Kind.of(field)) if required else NotRequired[self._argument(Kind.of(field))]
                if form is HttpCheck:
                    keys |= {name: NotRequired[self._argument(Kind.of(Url.model_fields[name]))] for name in SHORT_FORM}
            base = forms[0] if len(forms) == 1 else next(each for each in forms[0].__mro__ if all(issubclass(form, each) for form in forms))
            # mypy wants the name and keys of a TypedDict in the text.
            made: Any = TypedDict(base.__name__, keys)  # type: ignore[misc]
            self.names |= keys.keys()
            described = {name: field.description for form in forms for name, field in form.model_fields.items()}
            self.descriptions |= {(base.__name__, name): text for name, text in described.items() if text}
            made.__doc__ = (base.__doc__ or "").strip()
            self._made[forms] = made
        return self._made[forms]

    def _argument(self, kind: Kind) -> Any:
        if kind.models:
            return self.of(*kind.models)
        match get_origin(kind.core), get_args(kind.core):
            case None, _:
                return SCALARS[kind.core]
            case origin, words if origin is Literal:
                types = {type(word) for word in words}
                return types.pop() if len(types) == 1 else Any
            case origin, (first, *_) if origin is tuple:
                return list[self._argument(Kind.of(first))]  # type: ignore[misc]
            case origin, (_, value) if origin is dict:
                return dict[str, self._argument(Kind.of(value))]  # type: ignore[misc]
        return Any


_made = Arguments()

SECTIONS: Mapping[str, Any] = _made.of(Cluster).__annotations__
"""The sections of the cluster as arguments, by the model's name: each a type, or NotRequired of it."""


class Beside(TypedDict):
    """The arguments beside the sections: the secrets, and the text of each script that a health check runs, by its name there."""

    ssh_private_key: pulumi.Input[str]
    host_key_seed: NotRequired[pulumi.Input[str]]
    auth_pass: NotRequired[pulumi.Input[dict[str, pulumi.Input[str]]]]
    check_scripts: NotRequired[dict[str, str]]


DESCRIPTIONS: Mapping[tuple[str, str], str] = _made.descriptions
"""What the model says of a key, by type and name."""

_NAMES = {name: camel_case(name) for name in (*_made.names, *Beside.__annotations__)}
_NAME = re.compile(rf"\b({'|'.join(sorted((name for name in _NAMES if '_' in name), key=len, reverse=True))})\b")
_SET_SECRET = re.compile(r"pulumi config set --secret (?:--path )?openshift-lvs:([\w.-]+).*")


def to_model(given: Mapping[str, Any]) -> dict[str, Any]:
    """The sections among the arguments, as the model reads them. Raises ConfigurationError for a value that is secret or not known yet."""
    return {section: _plain(section, given[section]) for section in SECTIONS if section in given}


def _plain(key: str, value: Any) -> Any:
    match value:
        case pulumi.Output():
            raise ConfigurationError(f"{key}: is a secret or an output of a resource; give a value that the program knows before it makes anything")
        case dict():
            return {name: _plain(f"{key}.{name}", each) for name, each in value.items()}
        case list():
            return [_plain(f"{key}.{index}", each) for index, each in enumerate(value)]
        case float() if value.is_integer():
            # The engine has one kind of number.
            return int(value)
    return value


def in_arguments(message: str) -> str:
    """A message of the model with the names of the arguments. A secret comes from an argument here, not from the stack's configuration."""
    message = _SET_SECRET.sub(r"give it as the secret argument \1", message).replace("openshift-lvs:", "")
    return _NAME.sub(lambda found: _NAMES[found[1]], message)
