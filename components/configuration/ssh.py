"""The `ssh` section: how the program reaches the nodes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.configuration.model import Form, HostKey, Login, Model, Port, Range


class Bastion(Model):
    """The machine through which ssh reaches the nodes."""

    heading: ClassVar[str] = "ssh.bastion"

    host: Annotated[str, Field(pattern=r"^[^\s-]\S*$"), Form("the name or address of a machine, such as 203.0.113.9")]
    port: Port = 22
    user: Login = "root"
    host_key: HostKey = Field(description="its public host key: `ssh-ed25519 AAAA...`")


class Ssh(Model):
    """The login on every node, and the clients that may use ssh."""

    heading: ClassVar[str] = "ssh"

    user: Login = "debian"
    port: Port = 22
    bastion: Bastion | None = None
    allowed_cidrs: tuple[Range, ...] | None = Field(None, description="clients that may use ssh; network.client_cidrs when left out")
