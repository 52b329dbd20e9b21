"""The `health_check` of a service: keepalived's checkers, and how long each of them takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from components.configuration.model import NUMBER, Address, Form, Model, Port, Seconds, Word

CHECKS = ("tcp", "http", "ssl", "smtp", "misc")
"""The values of `type`."""


class Check(Model):
    """The keys of every health check (keepalived.conf(5), real_server). Times are in seconds. With the defaults an eviction takes 2 s at most."""

    heading: ClassVar[str] = "health_check"

    connect_timeout: Seconds = 0.7
    retry: Annotated[int, Field(ge=0, le=100), NUMBER] = 1
    delay_before_retry: Seconds = 0.1
    delay_loop: Seconds = 0.5
    warmup: Annotated[float, Field(ge=0, le=3600), NUMBER] | None = None
    alpha: bool | None = None

    @property
    def attempt(self) -> float:
        """Seconds after which an unanswered attempt fails."""
        return self.connect_timeout

    @property
    def cycle(self) -> float:
        """Seconds from one check of a port, URL or script to the next, on a healthy server."""
        return self.delay_loop

    @property
    def wait_when_down(self) -> float:
        """Seconds from a failed check of a server that is out of service to the check that may bring the server back."""
        return self.delay_loop


class ConnectingCheck(Check):
    """A health check that opens a connection."""

    heading: ClassVar[str] = "Checks that open a connection"

    connect_ip: Address | None = None
    connect_port: Port | None = None
    bindto: Address | None = None
    bind_port: Port | None = None
    bind_if: Word | None = None
    fwmark: Annotated[int, Field(ge=1, le=2**32 - 1), NUMBER] | None = None
    log_all_failures: bool | None = None


class TcpCheck(ConnectingCheck):
    """TCP_CHECK: the port accepts a connection."""

    heading: ClassVar[str] = "type: tcp"

    type: Literal["tcp"]


RegexOption = Literal[
    "allow_empty_class", "alt_bsux", "alt_circumflex", "alt_verbnames", "auto_callout", "caseless", "dollar_endonly", "dotall", "dupnames",
    "extended", "firstline", "match_unset_backref", "multiline", "never_backslash_c", "never_ucp", "never_utf", "no_auto_capture",
    "no_auto_possess", "no_dotstar_anchor", "no_start_optimize", "ucp", "ungreedy", "use_offset_limit", "utf",
]  # fmt: skip
"""The options that keepalived supports (PCRE2's names in lower case). keepalived ignores any other option without a message."""


Positive = Annotated[int, Field(gt=0), NUMBER]

StatusCode = Annotated[
    str,
    Field(pattern=r"^[1-5]\d\d(-[1-5]\d\d)?( [1-5]\d\d(-[1-5]\d\d)?)*$"),
    Form('codes and ranges of codes in one text, such as "200-299 301"'),
]

Path = Annotated[Word, Field(pattern="^/"), Form("a path that begins with /, such as /healthz, without blanks, quotes, braces, # and !")]


def _readable(text: str, options: Collection[str]) -> None:
    """Refuse a regular expression that is wrong in every dialect. keepalived's is PCRE2, so whatever only Python does not know is accepted."""
    # Syntax of PCRE2 that Python reads in another way, and would call a fault in the wrong place.
    if "(*" in text or "[:" in text or {"extended", "allow_empty_class"} & set(options):
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text)
    except re.error as error:
        if error.msg.startswith(REGEX_FAULTS):
            raise ValueError(f"regex: {text!r}: {error.msg} at character {(error.pos or 0) + 1}; correct it, or put a backslash before the character") from None
    except (RecursionError, OverflowError):
        pass


REGEX_FAULTS = ("missing ), unterminated subpattern", "unbalanced parenthesis", "unterminated character set", "bad escape (end of pattern)")
"""Python's names of the faults of a regular expression that PCRE2 has too."""


class Url(Model):
    """One URL of HTTP_GET or SSL_GET. `digest` is the MD5 sum of the page, as genhash prints it."""

    heading: ClassVar[str] = "urls"

    path: Path = "/"
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$"), Form("32 hexadecimal digits in quotes, as genhash prints them")] | None = None
    status_code: StatusCode | None = None
    virtualhost: Word | None = None
    regex: Annotated[str, Field(pattern=r'^[^"\n]+$'), Form('a regular expression without "')] | None = None
    regex_no_match: bool = False
    regex_options: tuple[RegexOption, ...] = ()
    regex_stack: Annotated[tuple[Positive, Positive], Form("a list of two whole numbers above 0, such as [1024, 4096]")] | None = None
    regex_min_offset: Annotated[int, Field(ge=0), NUMBER] | None = None
    regex_max_offset: Annotated[int, Field(ge=0), NUMBER] | None = None

    @property
    def accepted(self) -> str:
        """The healthy status codes, such as `200-299 401`. keepalived's default: HTTP_DEFAULT_STATUS_CODE_MIN to _MAX in check_http.h."""
        return self.status_code or "200-299"

    @model_validator(mode="before")
    @classmethod
    def _one_status(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and type(data.get("status_code")) is int:
            return {**data, "status_code": str(data["status_code"])}
        return data

    @model_validator(mode="after")
    def _rising(self) -> Url:
        for part in (self.status_code or "").split():
            first, _, last = part.partition("-")
            if last and last < first:
                raise ValueError(f"status_code: {part} is no range; write {last}-{first}")
        return self

    @model_validator(mode="after")
    def _regex_alone(self) -> Url:
        if not self.regex and (self.regex_no_match or self.regex_options or self.regex_stack or self.regex_min_offset or self.regex_max_offset):
            raise ValueError("regex: missing; the other regex keys say how it is matched")
        if self.regex_min_offset and self.regex_max_offset and self.regex_min_offset > self.regex_max_offset:
            raise ValueError(f"regex_min_offset: {self.regex_min_offset} is beyond regex_max_offset {self.regex_max_offset}")
        if self.regex:
            _readable(self.regex, self.regex_options)
        return self


class HttpCheck(ConnectingCheck):
    """HTTP_GET or SSL_GET: every URL answers as expected. `path`, `status_code` and `digest` are the short form of a single URL."""

    heading: ClassVar[str] = "type: http, type: ssl"

    type: Literal["http", "ssl"]
    urls: tuple[Url, ...] = ()
    http_protocol: Annotated[Literal["1.0", "1.0C", "1.1"] | None, BeforeValidator(lambda given: str(given) if isinstance(given, float) else given)] = None
    virtualhost: Word | None = None
    enable_sni: bool = False
    fast_recovery: bool = True

    @model_validator(mode="before")
    @classmethod
    def _one_url(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        short = {key: data[key] for key in ("path", "status_code", "digest") if key in data}
        if not short:
            return data
        if data.get("urls"):
            raise ValueError(f"urls: given together with {', '.join(short)}; use the one or the other")
        return {**{key: value for key, value in data.items() if key not in short}, "urls": [short]}

    @model_validator(mode="after")
    def _something_to_get(self) -> HttpCheck:
        if not self.urls:
            raise ValueError("path: missing; an http or ssl check gets at least one path, such as path: /healthz")
        if self.enable_sni and self.type != "ssl":
            raise ValueError("enable_sni: an http check has no TLS; use type: ssl or leave it out")
        return self

    @property
    def cycle(self) -> float:
        """keepalived gets one URL after the other, and waits `delay_loop` between two."""
        return len(self.urls) * self.delay_loop

    @property
    def wait_when_down(self) -> float:
        """keepalived retries the failed URL, then gets all URLs again: at once with `fast_recovery`, otherwise in a normal cycle."""
        return max(self.delay_loop, self.delay_before_retry) + (0 if self.fast_recovery else self.cycle)


class SmtpCheck(ConnectingCheck):
    """SMTP_CHECK: a mail server sends its greeting and accepts HELO."""

    heading: ClassVar[str] = "type: smtp"

    type: Literal["smtp"]
    helo_name: Word | None = None


class MiscCheck(Check):
    """MISC_CHECK: a script of the repository, delivered with the configuration. Exit status 0 means healthy.

    With `misc_dynamic` an exit status of 2 to 255 sets the weight to the status minus 2.
    The script runs as `user`. Its arguments are `arguments`, then the real server's address and port.
    """

    heading: ClassVar[str] = "type: misc"

    type: Literal["misc"]
    script: Annotated[
        str,
        Field(pattern=r"^(\w[\w.-]*/)*\w[\w.-]*$", description="path in the repository"),
        Form("the path of a script, from the repository's root, such as checks/etcd"),
    ]
    arguments: tuple[Word, ...] = ()
    misc_timeout: Annotated[int, Field(ge=1, le=3600), NUMBER] = 2
    misc_dynamic: bool = False
    user: Word = "nobody"
    retry: Annotated[int, Field(ge=0, le=100), NUMBER] = 0

    @property
    def attempt(self) -> float:
        """`misc_timeout` replaces `connect_timeout`."""
        return self.misc_timeout


HealthCheck = Annotated[TcpCheck | HttpCheck | SmtpCheck | MiscCheck, Field(discriminator="type")]
