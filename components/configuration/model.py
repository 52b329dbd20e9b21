"""The base class of every section, and the field types that several sections use."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]

Seconds = Annotated[float, Field(ge=0.001, le=3600)]

LABEL = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$"
Label = Annotated[str, Field(pattern=LABEL)]
"""The name of a pool, host, VIP or reserved port."""

Word = Annotated[str, Field(pattern=r"^[^\s\"'{}#!]+$", max_length=255)]
"""One word of keepalived.conf: no blank, quote, brace or comment sign."""

HostKey = Annotated[
    str,
    Field(pattern=r"^(ssh|ecdsa)-[a-z0-9-]+ [A-Za-z0-9+/]+=*( .*)?$"),
    BeforeValidator(lambda key: re.sub(r"^\S+ (?=(ssh|ecdsa)-)", "", key) if isinstance(key, str) else key),
]
"""A public key: `ssh-ed25519 AAAA...`. The name or address in front of it, as in known_hosts and ssh-keyscan(1), is removed."""


class Model(BaseModel):
    """A section. It refuses unknown keys, and its values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
