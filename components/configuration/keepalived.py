"""The `keepalived` section: keepalived's global keys (keepalived.conf(5), global_defs)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.configuration.model import NUMBER, Model, Port, Word


class Notifications(Model):
    """The e-mail that keepalived sends."""

    heading: ClassVar[str] = "keepalived.notifications"

    notification_email: tuple[Word, ...]
    notification_email_from: Word
    smtp_server: Word
    smtp_port: Port = 25
    smtp_connect_timeout: Annotated[int, Field(ge=1, le=600), NUMBER] = 30
    smtp_helo_name: Word | None = None
    smtp_alert: bool | None = None


class Keepalived(Model):
    """The global keys."""

    heading: ClassVar[str] = "keepalived"

    vrrp_version: Literal[2, 3] = 3
    notifications: Notifications | None = None
    router_id: Word | None = Field(None, description="the host's name when left out")
    checker_log_all_failures: bool = False
