"""Frozen records with typed fields, as `dataclasses.dataclass(frozen=True)` makes them: same look, same type checks, no generated code.

`dataclasses` itself imports `inspect` and compiles methods for every class. On a slow processor that is half of the time of a command.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, dataclass_transform  # novermin: only for type checkers

    T = TypeVar("T", bound="Record")
else:

    def dataclass_transform(**_):
        return lambda cls: cls


@dataclass_transform(frozen_default=True)
class Record:
    """A class of annotated fields. The order of the annotations is the order of positional arguments; a value in the class is the default."""

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = type(self).__annotations__
        if len(values) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, not {len(values)}")
        given = {**dict(zip(fields, values)), **named}
        for name in given:
            if name not in fields:
                raise TypeError(f"{type(self).__name__} got an unexpected keyword argument '{name}'")
        for name in fields:
            if name not in given and not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} is missing '{name}'")
            self.__dict__[name] = given[name] if name in given else getattr(type(self), name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed; replace() makes another record")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def replace(record: T, **changes: Any) -> T:
    """A copy of a record with other values in some fields."""
    return type(record)(**{**vars(record), **changes})


def plain(value: object) -> object:
    """What `json` writes for a value that it does not know: a record's fields, a sorted set, the text of an address."""
    if isinstance(value, Record):
        return vars(value)
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
