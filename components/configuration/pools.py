"""The `pools` section: the hosts of each pool, the directors among them, and the witnesses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from ipaddress import IPv4Address
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, Field, field_validator, model_validator

from components.configuration.allow import Allow
from components.configuration.model import NUMBER, Address, Form, HostKey, HostName, Interface, Login, Model, Name, Range, wrong

WITNESSES = 3
"""Maximum number of witnesses of a pool. A silent witness costs a second, so a director could not ask more of them in time."""


CREATED_ONLY = ("availability_zones", "root_volume", "server_group_policy", "allow", "allowed_address_pairs")
"""Keys of the ports and servers that the program creates. It creates none for existing hosts, so these keys would have no effect."""

CLOUD_CONFIG_OWN = {
    "hostname": "a server's name is its key in hosts",
    "ssh_keys": "the host keys are derived from openshift-lvs:host_key_seed",
}
"""The keys of cloud-config that the program sets itself, and from what. A value in `cloud_config` would have no effect."""


def _address_and_port(text: str) -> str:
    address, _, port = text.partition(":")
    try:
        IPv4Address(address)
    except ValueError:
        port = ""
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise wrong()
    return text


Witness = Annotated[
    str,
    AfterValidator(_address_and_port),
    Form("ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22", verb="not"),
]
"""ADDRESS:PORT outside the pool. If no witness answers, a director knows that it is cut off from its peers."""


class Host(Model):
    """One node of a pool."""

    heading: ClassVar[str] = "pools.NAME.hosts.HOST"

    address: Address
    host_key: HostKey | None = Field(None, description="public host key, for an existing host; the program derives the keys of the servers that it creates")
    interface: Interface | None = Field(None, description="the interface to the subnet on this host; the pool's when left out")
    ssh_address: Address | None = Field(None, description="where ssh reaches this host, such as an address on a management network; `address` when left out")
    ssh_user: Login | None = Field(None, description="the login on this host; ssh.user when left out")
    availability_zone: Name | None = Field(None, description="of this server; the pool's when left out")
    installed: (
        Annotated[str, Field(pattern=r"^[\w.:+-]{1,40}$"), Form("a word of at most 40 letters, digits and _.:+-, such as the date 2026-03-01")] | None
    ) = None
    """Any word, such as a date. A different word means that the host was installed again, so that everything is delivered to it again."""

    @field_validator("installed", mode="before")
    @classmethod
    def _date(cls, value: object) -> object:
        # YAML reads a date as a date, and Pulumi adds midnight to it.
        return re.sub(r"^(\d{4}-\d\d-\d\d) .*", r"\1", str(value)) if isinstance(value, (str, int, float, date)) else value


class RootVolume(Model):
    """The volume from which a server boots, for flavors without a disk and for disks that outlive the hypervisor."""

    heading: ClassVar[str] = "pools.NAME.root_volume"

    size: Annotated[int, Field(ge=1, le=65536), NUMBER] = Field(description="in GiB")
    type: Name | None = Field(None, description="name of a volume type; the cloud's default when left out")
    delete_on_termination: bool = Field(True, description="false: the volume stays when its server is deleted")


class Pool(Model):
    """Hosts of one kind. Each is a real server. Each is also a director, unless `directors` names fewer."""

    heading: ClassVar[str] = "pools.NAME"

    hosts: Annotated[dict[HostName, Host], Form("a mapping NAME: ADDRESS, such as infra0: 192.168.0.5")]
    image: Name | None = None
    flavor: Name | None = None
    existing: bool = False
    directors: tuple[HostName, ...] | None = None
    witnesses: tuple[Witness, ...] | None = Field(None, max_length=WITNESSES)
    """The default is in Cluster.witnesses."""
    interface: Interface = Field("eth0", description="the interface to the subnet, on every host that names no other")
    availability_zone: Name | None = None
    availability_zones: Annotated[tuple[Name, ...], Field(min_length=1), Form("a list of at least one name, such as [az1, az2]")] | None = Field(
        None, description="zones over which the hosts are spread, in the order of `hosts`; instead of `availability_zone`"
    )
    root_volume: RootVolume | None = Field(None, description="boot from a volume made of the image, instead of from the flavor's disk")
    server_group_policy: Literal["soft-anti-affinity", "anti-affinity", "none"] = Field(
        "soft-anti-affinity", description="how Nova spreads the servers of the pool over hypervisors; none: no server group"
    )
    allow: tuple[Allow, ...] = Field((), description="other traffic that the servers of this pool accept, beside network.allow")
    allowed_address_pairs: tuple[Range, ...] = Field(
        (), description="more addresses and ranges that these servers may send from: pod networks without an overlay, addresses that another program moves"
    )
    cloud_config: Annotated[dict[str, Any], Form("a mapping of cloud-config, such as timezone: UTC")] = Field(
        {}, description="more cloud-config (YAML as a mapping) for the first boot of these servers"
    )

    def zone_of(self, name: str) -> str | None:
        """The availability zone of a host: its own, the next one of `availability_zones`, or the pool's."""
        if zone := self.hosts[name].availability_zone:
            return zone
        if self.availability_zones:
            return self.availability_zones[list(self.hosts).index(name) % len(self.availability_zones)]
        return self.availability_zone

    @model_validator(mode="before")
    @classmethod
    def _short_hosts(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("hosts"), Mapping):
            hosts = {name: {"address": host} if isinstance(host, str) else host for name, host in data["hosts"].items()}
            return {**data, "hosts": hosts}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Pool:
        if not self.hosts:
            raise ValueError("hosts: a pool needs at least one host")
        for name in self.directors or ():
            if name not in self.hosts:
                raise ValueError(f"directors: {name!r} is not one of this pool's hosts ({', '.join(self.hosts)})")
        for key, reason in CLOUD_CONFIG_OWN.items():
            if key in self.cloud_config:
                raise ValueError(f"cloud_config.{key}: the program sets it: {reason}; remove it")
        logins = self.cloud_config.get("ssh_authorized_keys", [])
        if not isinstance(logins, (list, tuple)):
            raise ValueError("cloud_config.ssh_authorized_keys: must be a list of public keys: [ssh-ed25519 AAAA...]")
        if self.availability_zone and self.availability_zones:
            raise ValueError(f"availability_zones: given together with availability_zone ({self.availability_zone!r}); use the one or the other")
        if self.existing:
            given = [key for key in CREATED_ONLY if key in self.model_fields_set]
            given += [f"hosts.{name}.availability_zone" for name, host in self.hosts.items() if host.availability_zone]
            for key in given:
                raise ValueError(f"{key}: this pool has existing: true, and the program creates no port or server for it; remove it")
            for name, host in self.hosts.items():
                if not host.host_key:
                    raise ValueError(
                        f"hosts.{name}.host_key: an existing host needs its public host key (ssh-keyscan -t ed25519 {host.ssh_address or host.address})"
                    )
        else:
            for key in ("image", "flavor"):
                if not getattr(self, key):
                    raise ValueError(f"{key}: missing; servers that the program makes need an image and a flavor (or say existing: true)")
        return self


class Node(NamedTuple):
    """A host together with its name and its pool."""

    name: str
    pool_name: str
    pool: Pool
    host: Host

    @property
    def interface(self) -> str:
        """The interface to the subnet."""
        return self.host.interface or self.pool.interface

    @property
    def ssh_address(self) -> IPv4Address:
        """Where ssh reaches the host."""
        return self.host.ssh_address or self.host.address
