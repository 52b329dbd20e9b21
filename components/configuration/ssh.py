"""The `ssh` section: how the program reaches the nodes."""

from __future__ import annotations

from ipaddress import IPv4Network

from pydantic import Field

from components.configuration.model import HostKey, Model, Port


class Bastion(Model):
    """The machine through which ssh reaches the nodes."""

    host: str
    port: Port = 22
    user: str = "root"
    host_key: HostKey = Field(description="its public host key: `ssh-ed25519 AAAA...`")


class Ssh(Model):
    """The login on every node, and the clients that may use ssh."""

    user: str = "debian"
    port: Port = 22
    bastion: Bastion | None = None
    allowed_cidrs: tuple[IPv4Network, ...] | None = Field(None, description="clients that may use ssh; network.client_cidrs when left out")
