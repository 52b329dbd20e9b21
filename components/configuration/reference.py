"""The tables of docs/reference/configuration.md, from the model: the same texts as in the JSON Schema and in the messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from components.configuration.allow import RULE_SETS, Allow
from components.configuration.cluster import Cluster
from components.configuration.errors import Kind, sections_of
from components.configuration.health_checks import Check
from components.configuration.keys import NAMESPACE, SECRETS
from components.configuration.model import NAME_RULES, Form, Model
from components.configuration.pools import Host
from components.configuration.words import NEEDLESS, RENAMED

PAGE = Path("docs/reference/configuration.md")

BEGIN = "<!-- Generated from components/configuration by `make schema`: change the model instead. -->\n"
END = "<!-- End of the generated part. -->\n"


def page(written: str) -> str:
    """The page with its generated part made anew. Raises ValueError if the page has no place for it."""
    before, begin, rest = written.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE}: the line {(END if begin else BEGIN).strip()!r} is missing")
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def tables() -> str:
    """A heading and a table for the keys beside the cluster, for every section, and for the words of keepalived.conf that are no keys."""
    parts = [_beside(), *map(_section, sections()), *_words()]
    return "\n\n".join(parts) + "\n"


def sections() -> list[type[Model]]:
    """Every section in the order of the configuration. A section that others extend is in front of them."""
    found: dict[type[Model], None] = {}
    for section in sections_of(Cluster):
        for extended in reversed(section.__mro__):
            if issubclass(extended, Model) and extended is not Model:
                found.setdefault(extended)
    return list(found)


def own_keys(section: type[Model]) -> dict[str, FieldInfo]:
    """The keys that a section has itself, or has otherwise than the section it extends."""
    return {key: section.model_fields[key] for key in section.__annotations__ if key in section.model_fields}


def description(field: FieldInfo) -> tuple[str, str]:
    """What a key means, and its word in keepalived.conf."""
    text = " ".join((field.description or "").split())
    found = re.fullmatch(r"(.*?) ?(?:keepalived: (\S.*)\.)?", text)
    assert found
    return found[1], found[2] or ""


def default(field: FieldInfo) -> str:
    """The default of a key, or `required`."""
    match field.default:
        case value if value is PydanticUndefined:
            return "required"
        case None:
            return "none"
        case bool(value):
            return f"`{str(value).lower()}`"
        case () | []:
            return "`[]`"
        case Model() | {}:
            return "`{}`"
        case float(value):
            return f"`{value:g}`"
        case value:
            return f"`{value}`"


def value(kind: Kind) -> str:
    """What a value may be: as the messages say it, with links to the sections."""
    if kind.models:
        mapping = f"[a mapping]({anchor((kind.models[0] if len(kind.models) == 1 else Check).heading)})"
        if kind.models == (Allow,):
            return f"{', '.join(f'`{name}`' for name in RULE_SETS)} or {mapping}"
        return f"an IPv4 or IPv6 address or {mapping}" if kind.models == (Host,) else mapping
    if get_origin(kind.core) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(kind.core))
    if any(isinstance(note, Form) for note in kind.notes):
        of_values = Kind.of(get_args(kind.core)[1]) if get_origin(kind.core) is dict else None
        return f"{kind.form.text}; each value {value(of_values)}" if of_values and (of_values.models or of_values.core is int) else kind.form.text
    if kind.bound("pattern") in NAME_RULES:
        return "a name"
    if get_origin(kind.core) is tuple:
        entries = Kind.of(get_args(kind.core)[0])
        most = f" of {limit} at most" if (limit := kind.bound("max_length")) else ""
        return f"a list{most}; each entry {value(entries)}"
    return kind.form.text


def heading(of_section: str) -> str:
    """A heading of the page: keys in backticks, words as they are."""
    if " " in of_section and ":" not in of_section:
        return of_section
    return ", ".join(f"`{part}`" for part in of_section.split(", "))


def anchor(of_heading: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return "#" + re.sub(r"[^\w -]", "", of_heading.lower()).replace(" ", "-")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join((_row(head), "|---" * len(head) + "|", *map(_row, rows)))


def _row(cells: tuple[str, ...]) -> str:
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return "".join(f"| {cell} " if cell else "| " for cell in escaped) + "|"


def _section(section: type[Model]) -> str:
    rows = []
    for key, field in own_keys(section).items():
        meaning, word = description(field)
        rows.append((f"`{key}`", value(Kind.of(field)), default(field), word, meaning))
    return "\n\n".join(
        (f"### {heading(section.heading)}", " ".join((section.__doc__ or "").split()), _table(("Key", "Value", "Default", "keepalived", "Meaning"), rows))
    )


def _beside() -> str:
    rows = [
        (
            "`openstack:cloud`",
            "entry of clouds.yaml; openstacksdk searches for that file in `OS_CLIENT_CONFIG_FILE`, the current folder and `~/.config/openstack`",
        ),
        *((f"`{NAMESPACE}:{key}{'.VIP' if secret.by_vip else ''}`", f"Secret. {secret.meaning}") for key, secret in SECRETS.items()),
    ]
    return f"### Beside the cluster: credentials and secrets\n\n{_table(('Key', 'Meaning'), rows)}"


def _words() -> tuple[str, ...]:
    renamed = [(f"`{word}`", f"`{here}`" if re.fullmatch(r"\w+", here) else here) for word, here in RENAMED.items()]
    reasons: dict[str, list[str]] = {}
    for word, reason in NEEDLESS.items():
        reasons.setdefault(reason, []).append(f"`{word}`")
    return (
        "### Words of keepalived.conf that are no keys here",
        "The error for such a word says the same. These words have another name here:",
        _table(("Word", "Here"), renamed),
        "These words are not needed. Leave them out:",
        _table(("Word", "Why"), [(", ".join(words), reason) for reason, words in reasons.items()]),
    )
