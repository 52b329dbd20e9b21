"""The `ssh` section: how the program reaches the nodes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from components.configuration.model import HOST_KEY, Form, HostKey, Login, Model, Name, Port, Range
from components.configuration.pools import RootVolume

MACHINE = Form("the name or address of a machine, such as 203.0.113.9")


class Bastion(Model):
    """The machine through which ssh reaches the nodes: one that exists (`host`, `host_key`), or one that the program creates (`image`, `flavor`)."""

    heading: ClassVar[str] = "ssh.bastion"

    host: Annotated[str, Field(pattern=r"^[^\s-]\S*$"), MACHINE] | None = Field(None, description="of a bastion that exists: its name or address")
    port: Port = 22
    user: Login | None = Field(None, description="the login on the bastion; root when left out, and ssh.user on a created one")
    host_key: HostKey | None = Field(None, description="of a bastion that exists: its public host key, `ssh-ed25519 AAAA...`")
    image: Name | None = Field(None, description="of a bastion that the program creates")
    flavor: Name | None = Field(None, description="of a bastion that the program creates")
    root_volume: RootVolume | None = Field(None, description="of a bastion that the program creates, for flavors without a disk")

    @property
    def created(self) -> bool:
        """Whether the program creates the bastion."""
        return self.image is not None

    @model_validator(mode="after")
    def _one_kind(self) -> Bastion:
        made = {key: value for key in ("image", "flavor", "root_volume") if (value := getattr(self, key)) is not None}
        there = {key: value for key in ("host", "host_key") if (value := getattr(self, key)) is not None}
        if made and there:
            raise ValueError(f"{next(iter(made))}: given together with {next(iter(there))}; the program creates a bastion, or uses one that exists: remove one")
        if not made:
            if not self.host:
                raise ValueError(f"host: missing; give {MACHINE.text}, or image and flavor: then the program creates a bastion")
            if not self.host_key:
                raise ValueError(f"host_key: missing; give {HOST_KEY.text}")
            return self
        for key in ("image", "flavor"):
            if key not in made:
                raise ValueError(f"{key}: missing; a bastion that the program creates needs an image and a flavor")
        if self.port != 22:
            raise ValueError(f"port: {self.port}, and a bastion that the program creates listens on 22; remove it")
        return self


class Ssh(Model):
    """The login on every node, and the clients that may use ssh."""

    heading: ClassVar[str] = "ssh"

    user: Login = "debian"
    port: Port = 22
    bastion: Bastion | None = None
    allowed_cidrs: tuple[Range, ...] | None = Field(None, description="clients that may use ssh; network.client_cidrs when left out")

    @property
    def creates_bastion(self) -> bool:
        """Whether the program creates the bastion."""
        return self.bastion is not None and self.bastion.created

    @property
    def bastion_user(self) -> str:
        """The login on the bastion."""
        given = self.bastion.user if self.bastion else None
        return given or (self.user if self.creates_bastion else "root")
