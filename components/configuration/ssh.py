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

    host: Annotated[str, Field(pattern=r"^[^\s-]\S*$"), MACHINE] | None = None
    """Name or address of the bastion, as seen from where `pulumi` runs; required for a bastion that exists."""
    port: Port = 22
    """The port of sshd on the bastion; a created one has 22."""
    user: Login | None = None
    """The login on the bastion. If not set: `root` for a bastion that exists, `ssh.user` for a created one."""
    host_key: HostKey | None = None
    """Its public host key (a line of `ssh-keyscan -t ed25519 HOST`), always verified; required for a bastion that exists."""
    image: Name | None = None
    """Image of the created bastion: it has systemd, cloud-init, and an sshd that reads `/etc/ssh/sshd_config.d` (OpenSSH 8.2 or newer: Debian 11, RHEL 9,
    Ubuntu 20.04).
    """
    flavor: Name | None = None
    """Flavor of the created bastion; a small one is enough."""
    root_volume: RootVolume | None = None
    """Volume from which the created bastion boots, like [`pools.NAME.root_volume`](#poolsnameroot_volume)."""

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
    """The login name; if it is not `root`, `sudo -n` must work."""
    port: Port = 22
    """The port of sshd on the nodes."""
    bastion: Bastion | None = None
    """The machine through which ssh reaches the nodes; directly if not set."""
    allowed_cidrs: tuple[Range, ...] | None = None
    """Sources that may connect to the nodes by ssh, in addition to the subnet; `client_cidrs` if not set. With a created bastion it is required, and the
    bastion accepts ssh from these sources only.
    """

    @property
    def creates_bastion(self) -> bool:
        """Whether the program creates the bastion."""
        return self.bastion is not None and self.bastion.created

    @property
    def bastion_user(self) -> str:
        """The login on the bastion."""
        given = self.bastion.user if self.bastion else None
        return given or (self.user if self.creates_bastion else "root")
