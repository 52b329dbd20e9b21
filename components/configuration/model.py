"""The base class of every section, and the field types that several sections use.

A field type carries a `Form` if its bounds alone do not tell what a right value is. components/configuration/errors.py puts it into the message.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError


@dataclass(frozen=True)
class Form:
    """What a right value is, as a message says it after the verb, with an example."""

    text: str
    verb: str = "must be"


@dataclass(frozen=True)
class Unit:
    """The unit of a number, which messages and the reference name."""

    text: str


SECONDS = Unit("seconds")

BYTES = Unit("bytes")

GIBIBYTES = Unit("GiB")


def wrong() -> PydanticCustomError:
    """The fault of a value that does not have the form of its field. The message comes from the field."""
    return PydanticCustomError("form", "form")


def _no_truth(given: object) -> object:
    if isinstance(given, bool):
        raise wrong()
    return given


def _address(given: object) -> IPv4Address | IPv6Address:
    """An address of either family. A zone (`%eth0`) is of one host only, so it is refused."""
    try:
        if isinstance(given, str) and "%" not in given:
            return ip_address(given)
    except ValueError:
        pass
    if isinstance(given, (IPv4Address, IPv6Address)):
        return given
    raise wrong()


def _range(given: object) -> IPv4Network | IPv6Network:
    """A network of either family, without bits behind its length."""
    try:
        if isinstance(given, str) and "%" not in given:
            return ip_network(given)
    except ValueError:
        pass
    if isinstance(given, (IPv4Network, IPv6Network)):
        return given
    raise wrong()


NUMBER = BeforeValidator(_no_truth)
"""For number fields, last: without it `yes`, which YAML reads as true, would count as 1."""


def text_or_number(pattern: str, least: int, most: int) -> BeforeValidator:
    """For fields of text, last: a number, which YAML reads from digits without quotes, counts as its digits. The schema then names both forms."""
    return BeforeValidator(
        lambda given: str(given) if type(given) is int else given,
        json_schema_input_type=Annotated[int, Field(ge=least, le=most)] | Annotated[str, Field(pattern=pattern)],
    )


def port_range(text: str) -> tuple[int, int]:
    """First and last port of `N` or `N-M`."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


Port = Annotated[int, Field(ge=1, le=65535), NUMBER]

Seconds = Annotated[float, Field(ge=0.001, le=3600), NUMBER, SECONDS]

AnyAddress = IPv4Address | IPv6Address

AnyRange = IPv4Network | IPv6Network

IPV4 = r"(\d{1,3}\.){3}\d{1,3}"

IPV6 = r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*"
"""What may be an IPv6 address: it has a colon. The program itself knows exactly."""

Address = Annotated[
    AnyAddress,
    PlainValidator(_address),
    Form("an IPv4 or IPv6 address, such as 192.168.0.5"),
    WithJsonSchema({"type": "string", "pattern": rf"^({IPV4}|{IPV6})$"}),
]

AddressV6 = Annotated[
    AnyAddress,
    PlainValidator(_address),
    Form("an IPv6 address, such as 2001:db8::5"),
    WithJsonSchema({"type": "string", "pattern": f"^{IPV6}$"}),
]

Range = Annotated[
    AnyRange,
    PlainValidator(_range),
    Form("a network as ADDRESS/LENGTH with zeros after the length, such as 192.168.0.0/24"),
    WithJsonSchema({"type": "string", "pattern": rf"^({IPV4}(/\d{{1,2}})?|{IPV6}(/\d{{1,3}})?)$"}),
]

RangeV6 = Annotated[
    AnyRange,
    PlainValidator(_range),
    Form("an IPv6 network as ADDRESS/LENGTH with zeros after the length, such as 2001:db8::/64"),
    WithJsonSchema({"type": "string", "pattern": rf"^{IPV6}(/\d{{1,3}})?$"}),
]


def endpoint(address: AnyAddress | str, port: int | str) -> str:
    """ADDRESS:PORT, or [ADDRESS]:PORT of an IPv6 address. The program on the nodes has its own: it needs nothing of this package, and this package not it."""
    return f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"


def within(range_: AnyRange, others: Iterable[AnyRange]) -> bool:
    """Whether a range lies in one of the others. A range of the other family contains nothing of it."""
    return any(range_.subnet_of(other) for other in others if other.version == range_.version)  # type: ignore[arg-type]


LABEL = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
Label = Annotated[str, Field(pattern=LABEL)]
"""The name of a pool, VIP or reserved port."""

HOST_NAME = r"^[a-z]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
HostName = Annotated[str, Field(pattern=HOST_NAME, max_length=63)]
"""The name of a host: one label, or several with dots between them. Linux takes 64 characters, but some programs only 63."""

NAME_RULES = {
    LABEL: "lower-case letters, digits and hyphens, 63 at most, a letter first",
    HOST_NAME: "lower-case letters, digits, hyphens and dots between them, 63 at most, a letter first",
}
"""What a message says of a name with that pattern."""

Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,15}$"), Form("the name of an interface, at most 15 characters, such as eth0 or bond0.100")]

Name = Annotated[str, Field(min_length=1), Form("a name")]
"""A name that another system gave: a network, an image, a flavor."""

Login = Annotated[str, Field(pattern="^[^\\s\"'-][^\\s\"']*$"), Form("the name of a user, such as debian, without blanks and quotes")]

WITHOUT = "without blanks, quotes, braces, #, ! and ~SEQ(, and no \\ at its end"
"""What would end a word of keepalived.conf, or make more words or lines of it."""


def no_sequence(text: str) -> str:
    """Refuse the words by which keepalived makes several lines of one (keepalived.conf(5), "Sequence blocks" and "List expansion")."""
    if re.search(r"~(SEQ|LST)\(", text):
        raise wrong()
    return text


CHARACTER = r"[^\s\"'{}#!\x00-\x1f\x7f]"

LAST_CHARACTER = r"[^\s\"'{}#!\x00-\x1f\x7f\\]"

Word = Annotated[
    str,
    Field(pattern=f"^{CHARACTER}*{LAST_CHARACTER}$", max_length=255),
    AfterValidator(no_sequence),
    Form(f"one word of at most 255 characters, {WITHOUT}"),
]
"""One word of keepalived.conf. A control character or a backslash at the end would change how keepalived reads the line."""

Mailbox = Annotated[
    str,
    Field(pattern=f"^[A-Za-z0-9]({CHARACTER}*{LAST_CHARACTER})?$", max_length=255),
    AfterValidator(no_sequence),
    Form("an address of mail, such as ops@example.com"),
]
"""It may be alone in its line, where keepalived takes a word that begins with @ or $ for a condition or a definition."""


def _real_key(key: str) -> str:
    """Refuse a key whose second word is not the base64 of a key of the type in its first word (RFC 4253, 6.6)."""
    kind, data = key.split(" ")[:2]
    try:
        blob = base64.b64decode(data, validate=True)
    except binascii.Error:
        raise wrong() from None
    head = len(kind).to_bytes(4, "big") + kind.encode()
    if blob[: len(head)] != head[: len(blob)]:
        raise wrong()
    return key


HOST_KEY = Form("a public host key, such as `ssh-ed25519 AAAA...`: a line that `ssh-keyscan -t ed25519 ADDRESS` prints")

PUBLIC_KEY = "(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*( .*)?"

HostKey = Annotated[
    str,
    Field(pattern=f"^{PUBLIC_KEY}$"),
    BeforeValidator(
        lambda key: re.sub(r"^\S+ (?=(ssh|ecdsa)-)", "", key) if isinstance(key, str) else key,
        json_schema_input_type=Annotated[str, Field(pattern=rf"^(\S+ )?{PUBLIC_KEY}$")],
    ),
    AfterValidator(_real_key),
    HOST_KEY,
]
"""A public key: `ssh-ed25519 AAAA...`. The name or address in front of it, as in known_hosts and ssh-keyscan(1), is removed."""


class Model(BaseModel):
    """A section. It refuses unknown keys, and its values do not change.

    The text under a key describes it in the reference and in the JSON Schema. It may end with `keepalived: WORD.`, the word of keepalived.conf.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    heading: ClassVar[str]
    """The heading of docs/reference/configuration.md under which the keys are, without backticks."""
