"""How a fault becomes a message: `key: value: remedy`, and for an unknown key the one that may be meant.

pydantic finds the faults. Its own texts are written for programmers, so none of them is used: what a value must be comes from its field.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from components.configuration.health_checks import CHECKS, SHORT_FORM, HttpCheck
from components.configuration.model import NAME_RULES, AnyRange, Form, Model, Unit
from components.configuration.pools import Host
from components.configuration.words import NEEDLESS, PLACED, RENAMED

ROOT = "openshift-lvs:cluster"

PAGE = "docs/reference/configuration.md"

LONGEST = 60
"""Characters of a wrong value that a message shows."""

BY_SCRIPT = ("dns", "ping", "udp", "bfd", "file", "icmp")
"""Checkers of keepalived that have no `type` here."""

YAML_TRUTH = "; YAML reads yes, no, on and off without quotes as true and false"


class ConfigurationError(Exception):
    """The configuration cannot work. The message has the key, the value and the remedy."""


class UsageError(Exception):
    """An option of a command is wrong, not the configuration. The message has the option, the value and the remedy."""


class Kind(NamedTuple):
    """The type of a field: without Annotated and None, and what was annotated (outermost first)."""

    core: Any
    notes: tuple[Any, ...]

    @classmethod
    def of(cls, given: Any) -> Kind:
        """The kind of an annotation, or of a field of a model."""
        notes: list[Any] = []
        if isinstance(given, FieldInfo):
            notes += reversed(given.metadata)
            given = given.annotation
        while True:
            if get_origin(given) is Annotated:
                given, *found = get_args(given)
                for note in reversed(found):
                    notes += reversed(note.metadata) if isinstance(note, FieldInfo) else [note]
            elif len(parts := _alternatives(given)) == 1 and parts[0] is not given:
                given = parts[0]
            else:
                return cls(given, tuple(notes))

    @property
    def models(self) -> tuple[type[Model], ...]:
        """The sections that a value of this kind may be."""
        return tuple(part for part in _alternatives(self.core) if isinstance(part, type) and issubclass(part, Model))

    def bound(self, name: str) -> Any:
        """The bound `ge`, `gt`, `le` or `pattern` of the value."""
        return next((found for note in self.notes if (found := getattr(note, name, None)) is not None), None)

    @property
    def form(self) -> Form:
        """What a value of this kind is."""
        if given := next((note for note in self.notes if isinstance(note, Form)), None):
            return given
        if self.models:
            return Form(f"a mapping; {PAGE} has its keys under {_quoted(self.models[0].heading)}")
        match get_origin(self.core) or self.core:
            case origin if origin is Literal:
                return Form(_or([repr(word) for word in get_args(self.core)]))
            case origin if origin is bool:
                return Form("true or false")
            case origin if origin in (int, float):
                return Form(("a whole number" if origin is int else "a number") + self._unit() + self._range())
            case origin if origin is tuple:
                return Form("a list")
            case origin if origin is dict:
                return Form("a mapping by name")
            case _:
                return Form("text")

    def _unit(self) -> str:
        return next((f" of {note.text}" for note in self.notes if isinstance(note, Unit)), "")

    def _range(self) -> str:
        least, most, above = self.bound("ge"), self.bound("le"), self.bound("gt")
        if least is None:
            return "" if above is None else f" above {above}"
        return f" from {least}" if most is None else f" from {least} to {most}"


class Place(NamedTuple):
    """Where a fault is: the key as the user wrote it, what must be there, and the section around it."""

    key: str
    kind: Kind | None
    section: type[Model]
    required: bool
    is_name: bool


def explain(model: type[Model], data: Any, fault: Any) -> str:
    """The message for one fault of a pydantic ValidationError."""
    place = _locate(model, data, fault["loc"])
    match fault["type"]:
        case "value_error":
            # A rule of this program, which names the key within the section.
            said = str(fault["ctx"]["error"])
            return f"{place.key}.{said}" if fault["loc"] else said
        case "extra_forbidden" | "invalid_key":
            return f"{place.key}: unknown key{_instead(model, place.section, str(fault['loc'][-1]))}"
        case "missing" if isinstance(fault["loc"][-1], str):
            return f"{place.key}: missing; {_give(place)}"
        case "union_tag_not_found":
            return f"{place.key}.type: missing; give {_or([repr(check) for check in CHECKS])}"
        case "union_tag_invalid":
            return f"{place.key}.type: {_shown(fault['input'].get('type'))}: {_check_type(fault['input'].get('type'))}"
        case "missing":
            place = _locate(model, data, fault["loc"][:-1])
        case "too_long" if place.kind and place.kind.bound("max_length") is not None:
            return f"{place.key}: {fault['ctx']['actual_length']} given; at most {fault['ctx']['max_length']}"
    return _wrong_value(place, fault["input"])


def _locate(model: type[Model], data: Any, location: Sequence[str | int]) -> Place:
    """Follow a location of pydantic's, in which the type of a health check and the end of a key's name are steps too."""
    kind, section, required, is_name = Kind(model, ()), model, True, False
    steps: list[str] = []
    parts = list(location)
    while parts:
        part = parts.pop(0)
        if len(kind.models) > 1:
            kind = Kind(next(each for each in kind.models if part in get_args(each.model_fields["type"].annotation)), ())
            continue
        # The short form of one url has neither `urls` nor a number.
        if kind.models == (HttpCheck,) and part == "urls" and isinstance(data, Mapping) and "urls" not in data and parts:
            parts.pop(0)
            kind = Kind.of(get_args(Kind.of(HttpCheck.model_fields["urls"]).core)[0])
            continue
        if kind.models:
            section = kind.models[0]
            field = section.model_fields.get(str(part))
            steps.append(str(part))
            required = field is not None and field.is_required()
            if field is None:
                return Place(".".join(steps), None, section, required, is_name)
            kind = Kind.of(field)
        elif get_origin(kind.core) is dict:
            of_keys, of_values = get_args(kind.core)
            if parts == ["[key]"]:
                return Place(".".join(steps), Kind.of(of_keys), section, True, True)
            steps.append(str(part))
            kind, required = Kind.of(of_values), True
        else:
            of_entries = get_args(kind.core)
            steps.append(str(part))
            kind, required = Kind.of(of_entries[0]) if of_entries else Kind(str, ()), True
        data = _inside(data, part)
    return Place(".".join(steps) or ROOT, kind, section, required, is_name)


def _inside(data: Any, part: str | int) -> Any:
    try:
        return data[part]
    except (KeyError, IndexError, TypeError):
        return None


def _wrong_value(place: Place, given: Any) -> str:
    """The message for a value that cannot be at its place."""
    kind = place.kind or Kind(str, ())
    if given is None and not place.is_name:
        return _nothing(place, kind)
    if kind.bound("pattern") in NAME_RULES:
        return f"{place.key}: {_shown(given)} is no name; {NAME_RULES[kind.bound('pattern')]}"
    if place.is_name:
        return f"{place.key}: {_shown(given)} is no name; put it in quotes"
    if kind.models == (Host,):
        return f"{place.key}: {_shown(given)}: must be an IPv4 or IPv6 address, such as 192.168.0.5, or a mapping with `address`"
    if len(kind.models) > 1:
        return f"{place.key}: {_shown(given)}: must be a mapping: write {_type_of_check(given)}"
    form = kind.form
    return f"{place.key}: {_shown(given)}: {form.verb} {form.text}{_hint(kind, given)}"


def _nothing(place: Place, kind: Kind) -> str:
    """The message for a key with nothing behind it, which YAML reads as null."""
    name = place.key.rpartition(".")[2]
    if kind.models == (Host,):
        return f"{place.key}: no address given; write {name}: ADDRESS, such as {name}: 192.168.0.5"
    if kind.models and not place.required:
        return f"{place.key}: empty; give it keys or remove the line"
    return f"{place.key}: empty; {_give(place)}{'' if place.required else ', or remove the line'}"


def _give(place: Place) -> str:
    kind = place.kind or Kind(str, ())
    if kind.bound("pattern") in NAME_RULES and not any(isinstance(note, Form) for note in kind.notes):
        return "give a name"
    if len(kind.models) > 1:
        return "give a mapping, such as {type: tcp}"
    return f"give {kind.form.text}"


def _hint(kind: Kind, given: Any) -> str:
    """The end of a message, if the value shows what was meant."""
    core = get_origin(kind.core) or kind.core
    entries = [Kind.of(part) for part in get_args(kind.core)] if core is tuple else []
    if isinstance(given, bool) and core is not bool:
        return YAML_TRUTH
    if core is tuple and kind.form.text == "a list":
        if entries[0].models:
            return " of mappings: begin each with `- `"
        if isinstance(given, (str, int, float)) and str(given).isprintable():
            return f": [{given}]"
        return f", each entry {entries[0].form.text}"
    if core is str and isinstance(given, (int, float)) and re.fullmatch(str(kind.bound("pattern") or ".*"), str(given)):
        return f'; put it in quotes: "{given}"'
    if not isinstance(given, str):
        return ""
    if core is Literal:
        words = {str(word).lower(): word for word in get_args(kind.core)}
        near = difflib.get_close_matches(given.lower(), list(words), n=1, cutoff=0.6)
        return f"; did you mean {words[near[0]]!r}?" if near else ""
    if core in (int, float) and (found := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(?:s|sec|secs|second|seconds)", given)):
        return f"; seconds, without a unit: {found[1]}"
    return _without_host_bits(given) if kind.core == AnyRange else ""


def _without_host_bits(given: str) -> str:
    try:
        return f"; write {ipaddress.ip_network(given, strict=False)}"
    except ValueError:
        return ""


def _check_type(given: Any) -> str:
    """What to write instead of a wrong type of a health check."""
    word = str(given).lower().removesuffix("_check").removesuffix("_get")
    if word == "https":
        return "use ssl"
    if word in CHECKS:
        return f"use {word}"
    if word in BY_SCRIPT:
        return "use misc with a script that does it: {type: misc, script: PATH}"
    return f"must be {_or([repr(check) for check in CHECKS])}"


def _type_of_check(given: Any) -> str:
    word = str(given).lower().removesuffix("_check").removesuffix("_get")
    return f"{{type: {word if word in CHECKS else 'tcp'}}}"


def _shown(value: Any) -> str:
    """A value as the user wrote it, as far as that is known."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _quoted(heading: str) -> str:
    return f'"{heading}"' if " " in heading else heading


def _instead(model: type[Model], section: type[Model], wrong: str) -> str:
    """The part of a message that names the key that may be meant by an unknown one. It suggests only keys that are valid in the section."""
    here = keys_of(section)
    where = _headings(model)
    for place, word, says in PLACED:
        if issubclass(section, place) and word == wrong:
            return says
    if wrong in RENAMED:
        name = RENAMED[wrong]
        return f"; here it is {name}" + (f" in {where[name]} ({PAGE})" if name in where and name not in here else "")
    if wrong in NEEDLESS:
        return f"; leave it out: {NEEDLESS[wrong]}"
    if wrong in where:
        return f" here; it belongs to {where[wrong]} ({PAGE})"
    plain = {key.lower().replace("_", ""): key for key in here}
    near = difflib.get_close_matches(wrong.lower().replace("_", "").replace("-", ""), list(plain), n=1, cutoff=0.6)
    return f"; did you mean {plain[near[0]]!r}?" if near else f"; {PAGE} has the keys under {_quoted(section.heading)}"


def _headings(model: type[Model]) -> dict[str, str]:
    """Every key of the model and of the sections within it, with the headings of the documentation that have it."""
    keys: dict[str, list[str]] = {}
    for section in sections_of(model):
        for key in keys_of(section):
            # A key that a section takes over from another is documented there.
            first = next((each for each in reversed(section.__mro__) if issubclass(each, Model) and key in each.model_fields), section)
            headings = keys.setdefault(key, [])
            if (heading := _quoted(first.heading)) not in headings:
                headings.append(heading)
    return {key: " and ".join(headings) for key, headings in keys.items()}


def keys_of(section: type[Model]) -> list[str]:
    """The keys that a section may have in a stack's file: its own, and for an http check those of its only url."""
    return [*section.model_fields, *(SHORT_FORM if section is HttpCheck else ())]


def sections_of(given: Any) -> list[type[Model]]:
    """Every section within an annotation, a field or a model, once, in the order of the configuration."""
    return list(dict.fromkeys(_sections(given)))


def _sections(given: Any) -> Iterator[type[Model]]:
    kind = Kind.of(given)
    for section in kind.models:
        yield section
        for field in section.model_fields.values():
            yield from _sections(field)
    if not kind.models:
        for part in get_args(kind.core):
            yield from _sections(part)


def _alternatives(given: Any) -> tuple[Any, ...]:
    if get_origin(given) in (Union, types.UnionType):
        return tuple(part for part in get_args(given) if part is not type(None))
    return (given,)
