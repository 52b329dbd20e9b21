"""The `keepalived` section: keepalived's global keys (keepalived.conf(5), global_defs)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.configuration.model import NUMBER, SECONDS, Mailbox, Model, Port, Word


class Notifications(Model):
    """The e-mail that keepalived sends."""

    heading: ClassVar[str] = "keepalived.notifications"

    notification_email: tuple[Mailbox, ...]
    """Recipients of the mail. keepalived: `notification_email`."""
    notification_email_from: Mailbox
    """Sender of the mail. keepalived: `notification_email_from`."""
    smtp_server: Word
    """Name or address of the mail server. keepalived: `smtp_server`."""
    smtp_port: Port = 25
    """Port of the mail server. keepalived: second word of `smtp_server`."""
    smtp_connect_timeout: Annotated[int, Field(ge=1, le=600), NUMBER, SECONDS] = 30
    """How long keepalived waits for the mail server. keepalived: `smtp_connect_timeout`."""
    smtp_helo_name: Word | None = None
    """The name that keepalived gives the mail server; its own host name if not set. keepalived: `smtp_helo_name`."""
    smtp_alert: bool | None = None
    """Send mail for every VIP and service that does not set `smtp_alert` itself; keepalived's own default if not set. keepalived: `smtp_alert`."""


class Keepalived(Model):
    """The global keys."""

    heading: ClassVar[str] = "keepalived"

    vrrp_version: Literal[2, 3] = 3
    """The version of VRRP. Version 3 counts advert intervals in hundredths of a second and has no password (RFC 9568). keepalived: `vrrp_version`."""
    notifications: Notifications | None = None
    """The mail that keepalived sends; none if not set."""
    router_id: Word | None = None
    """The name by which the mail names the host; the host's name if not set. keepalived: `router_id`."""
    checker_log_all_failures: bool = False
    """Log every failure of a health check, not only the first. keepalived: `checker_log_all_failures`."""
