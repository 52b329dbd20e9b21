"""The `health_check` of a service: keepalived's checkers, and how long each of them takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from components.configuration.model import (
    BYTES,
    CHARACTER,
    LAST_CHARACTER,
    NUMBER,
    SECONDS,
    WITHOUT,
    Address,
    Form,
    Model,
    Port,
    Seconds,
    Word,
    no_sequence,
    text_or_number,
)

CHECKS = ("tcp", "http", "ssl", "smtp", "misc")
"""The values of `type`."""


class Check(Model):
    """The keys of every health check (keepalived.conf(5), real_server). Times are in seconds. With the defaults an eviction takes 1.9 s at most."""

    heading: ClassVar[str] = "health_check"

    retry: Annotated[int, Field(ge=0, le=100), NUMBER] = 0
    """Attempts after the first (keepalived's default: 1, in HTTP_GET and SSL_GET 3). keepalived: `retry`, formerly `nb_get_retry`."""
    delay_before_retry: Seconds = 0.1
    """Wait before a retry (keepalived's default: 1, in HTTP_GET and SSL_GET 3). keepalived: `delay_before_retry`."""
    delay_loop: Seconds = 0.5
    """Wait between two checks (keepalived's default: 60 s). keepalived: `delay_loop`."""
    warmup: Annotated[float, Field(ge=0, le=3600), NUMBER, SECONDS] | None = None
    """Maximum of the random wait before the first check. keepalived: `warmup`."""
    alpha: bool | None = None
    """The server counts as down until this check succeeded; `alpha` of the service if not set. keepalived: `alpha`."""

    @property
    def attempt(self) -> float:
        """Seconds after which an unanswered attempt fails."""
        raise NotImplementedError

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

    connect_timeout: Seconds = 1.4
    """How long an attempt waits for the connection, and then for the answer (keepalived's default: 5 s). keepalived: `connect_timeout`."""
    connect_ip: Address | None = None
    """The address that the check connects to; the real server's if not set. keepalived: `connect_ip`."""
    connect_port: Port | None = None
    """The port that the check connects to; the service's if not set; the security group accepts it from the subnet. keepalived: `connect_port`."""
    bindto: Address | None = None
    """Source address of the check. keepalived: `bindto`."""
    bind_port: Port | None = None
    """Source port of the check. keepalived: `bind_port`."""
    bind_if: Word | None = None
    """Interface through which the check connects. keepalived: `bind_if`."""
    fwmark: Annotated[int, Field(ge=1, le=2**32 - 1), NUMBER] | None = None
    """Firewall mark of the check's packets. keepalived: `fwmark`."""
    log_all_failures: bool | None = None
    """Log every failure of this check, not only the first. keepalived: `log_all_failures`."""

    @property
    def attempt(self) -> float:
        """`connect_timeout`."""
        return self.connect_timeout


class TcpCheck(ConnectingCheck):
    """TCP_CHECK: the port accepts a connection."""

    heading: ClassVar[str] = "type: tcp"

    type: Literal["tcp"]
    """The port must accept a connection. keepalived: `TCP_CHECK`."""


RegexOption = Literal[
    "allow_empty_class", "alt_bsux", "alt_circumflex", "alt_verbnames", "auto_callout", "caseless", "dollar_endonly", "dotall", "dupnames",
    "extended", "firstline", "match_unset_backref", "multiline", "never_backslash_c", "never_ucp", "never_utf", "no_auto_capture",
    "no_auto_possess", "no_dotstar_anchor", "no_start_optimize", "ucp", "ungreedy", "use_offset_limit", "utf",
]  # fmt: skip
"""The options that keepalived supports (PCRE2's names in lower case). keepalived ignores any other option without a message."""


Positive = Annotated[int, Field(gt=0), NUMBER]

CODES = r"^[1-5]\d\d(-[1-5]\d\d)?( [1-5]\d\d(-[1-5]\d\d)?)*$"

StatusCode = Annotated[
    str,
    Field(pattern=CODES),
    text_or_number(CODES, 100, 599),
    Form('codes from 100 to 599 and ranges of them in one text, such as "200-299 301"'),
]

Path = Annotated[
    str,
    Field(pattern=f"^/({CHARACTER}*{LAST_CHARACTER})?$", max_length=255),
    AfterValidator(no_sequence),
    Form(f"a path that begins with /, such as /healthz, {WITHOUT}"),
]


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


Regex = Annotated[
    str,
    Field(pattern=r'^[^"\x00-\x1f\x7f\x85\u2028\u2029]+$'),
    AfterValidator(no_sequence),
    Form('a regular expression in one line, without ", ~SEQ( and ~LST('),
]


class Url(Model):
    """One URL of HTTP_GET or SSL_GET. `digest` is the MD5 sum of the page, as genhash prints it."""

    heading: ClassVar[str] = "urls"

    path: Path = "/"
    """Path of the request. keepalived: `path`."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$"), Form("32 hexadecimal digits in quotes, as genhash prints them")] | None = None
    """MD5 of the page, as `genhash` prints it. keepalived: `digest`."""
    status_code: StatusCode | None = None
    """Accepted status codes; 200 to 299 if not set. keepalived: `status_code`."""
    virtualhost: Word | None = None
    """The Host of this request; the `virtualhost` of the check if not set. keepalived: `virtualhost`."""
    regex: Regex | None = None
    """Regular expression (PCRE) that the page must match. keepalived: `regex`."""
    regex_no_match: bool = False
    """The page must not match `regex`. keepalived: `regex_no_match`."""
    regex_options: tuple[RegexOption, ...] = ()
    """Options of PCRE2; keepalived itself ignores an unknown option. keepalived: `regex_options`."""
    regex_stack: Annotated[tuple[Positive, Positive], Form("a list of two whole numbers above 0, such as [1024, 4096]")] | None = None
    """Initial and maximum size of the JIT stack, in bytes. keepalived: `regex_stack`."""
    regex_min_offset: Annotated[int, Field(ge=0), NUMBER, BYTES] | None = None
    """Where in the page the match may begin at the earliest. keepalived: `regex_min_offset`."""
    regex_max_offset: Annotated[int, Field(ge=0), NUMBER, BYTES] | None = None
    """Where in the page the match may begin at the latest. keepalived: `regex_max_offset`."""

    @property
    def accepted(self) -> str:
        """The healthy status codes, such as `200-299 401`. keepalived's default: HTTP_DEFAULT_STATUS_CODE_MIN to _MAX in check_http.h."""
        return self.status_code or "200-299"

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
            raise ValueError(
                f"regex_min_offset: {self.regex_min_offset} is beyond regex_max_offset, which is {self.regex_max_offset}; lower it, or raise the other"
            )
        if self.regex:
            _readable(self.regex, self.regex_options)
        return self


SHORT_FORM = ("path", "status_code", "digest")
"""Keys of a url that may be directly in an http or ssl check."""


class HttpCheck(ConnectingCheck):
    """HTTP_GET or SSL_GET: every URL answers as expected. `path`, `status_code` and `digest` are the short form of a single URL."""

    heading: ClassVar[str] = "type: http, type: ssl"

    type: Literal["http", "ssl"]
    """Every url must answer as expected; `ssl` does the same over TLS, without verifying the certificate. keepalived: `HTTP_GET`, `SSL_GET`."""
    urls: tuple[Url, ...] = ()
    """What the check requests: at least one url, unless `path`, `status_code` or `digest` is directly in the check. keepalived: `url`."""
    http_protocol: (
        Annotated[
            Literal["1.0", "1.0C", "1.1"],
            BeforeValidator(
                lambda given: str(given) if isinstance(given, float) else given,
                json_schema_input_type=Literal["1.0", "1.0C", "1.1"] | Annotated[float, WithJsonSchema({"enum": [1.0, 1.1]})],
            ),
        ]
        | None
    ) = None
    """The version of HTTP that the request names; 1.0 if not set. keepalived: `http_protocol`."""
    virtualhost: Word | None = None
    """The Host that keepalived sends; if not set, the service's `virtualhost`; without that, ADDRESS:PORT of the connection. keepalived: `virtualhost`."""
    enable_sni: bool = False
    """Send the server name (TLS SNI), which is the `virtualhost` of the url, the check or the service; `ssl` only. keepalived: `enable_sni`."""
    fast_recovery: bool = True
    """The server returns after one success. keepalived: `fast_recovery`."""

    @model_validator(mode="before")
    @classmethod
    def _one_url(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        short = {key: data[key] for key in SHORT_FORM if key in data}
        if not short:
            return data
        if data.get("urls"):
            raise ValueError(f"urls: given together with {', '.join(short)}; use the one or the other")
        return {**{key: value for key, value in data.items() if key not in short}, "urls": [short]}

    @model_validator(mode="after")
    def _something_to_get(self) -> HttpCheck:
        if not self.urls:
            raise ValueError("path: missing; an http or ssl check needs at least one path, such as path: /healthz")
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
    """The mail server must greet and accept HELO. keepalived: `SMTP_CHECK`."""
    helo_name: Word | None = None
    """The name that keepalived gives in HELO; keepalived's own default if not set. keepalived: `helo_name`."""


class MiscCheck(Check):
    """MISC_CHECK: a script of the repository, delivered with the configuration. Exit status 0 means healthy.

    With `misc_dynamic` an exit status of 2 to 255 sets the weight to the status minus 2.
    The script runs as `user`. Its arguments are `arguments`, then the real server's address and port.
    """

    heading: ClassVar[str] = "type: misc"

    type: Literal["misc"]
    """A script must end with exit status 0. keepalived: `MISC_CHECK`."""
    script: Annotated[
        str,
        Field(pattern=r"^(\w[\w.-]*/)*\w[\w.-]*$"),
        Form("the path of a script, from the repository's root, such as checks/etcd"),
    ]
    """Path of the script in the repository. The script begins with `#!`; on the node it belongs to root and has mode 0755, as keepalived's script security
    requires. keepalived: `misc_path`.
    """
    arguments: tuple[Word, ...] = ()
    """Arguments of the script, in front of the address and port of the real server. keepalived: `misc_path`."""
    misc_timeout: Annotated[int, Field(ge=1, le=3600), NUMBER, SECONDS] = 2
    """Timeout of the script. keepalived: `misc_timeout`."""
    misc_dynamic: bool = False
    """An exit status of 2 to 255 sets the weight to the status minus 2. keepalived: `misc_dynamic`."""
    user: Word = "nobody"
    """The user that runs it. keepalived: `user`."""

    @property
    def attempt(self) -> float:
        """`misc_timeout`."""
        return self.misc_timeout


HealthCheck = Annotated[TcpCheck | HttpCheck | SmtpCheck | MiscCheck, Field(discriminator="type")]
