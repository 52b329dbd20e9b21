"""The entries of `network.allow` and `pools.NAME.allow`: traffic that the nodes accept beside what the program itself needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from components.configuration.model import Form, Model, Range, port_range, text_or_number, wrong

NUMBERS = {
    "icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "egp": 8, "udp": 17, "dccp": 33, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ospf": 89,
    "vrrp": 112, "pgm": 113, "sctp": 132, "udplite": 136,
}  # fmt: skip
"""The protocols that Neutron knows by name (neutron_lib.constants.IP_PROTOCOL_MAP, without IPv6), and their numbers."""

NEEDS_PORTS = ("tcp", "udp")

HAS_PORTS = (*NEEDS_PORTS, "sctp", "dccp", "udplite")

PROTOCOL = rf"^({'|'.join(sorted(NUMBERS))}|any|\d{{1,3}})$"

ANY_CASE = rf"^({'|'.join((*sorted(NUMBERS), *map(str.upper, sorted(NUMBERS))))}|any|ANY|\d{{1,3}})$"

PORTS = r"^\d{1,5}(-\d{1,5})?$"


def _protocol(given: object) -> object:
    """A number in digits, a name in lower case; a number that has a name as that name, because Neutron takes the two for the same rule."""
    if isinstance(given, bool):
        raise wrong()
    word = str(given).lower() if isinstance(given, (str, int)) else given
    return next((name for name, number in NUMBERS.items() if word == str(number)), word)


class PortRule(NamedTuple):
    """One rule of a set: protocol and ports, and who uses it."""

    protocol: str
    ports: str | None
    use: str


RULE_SETS: dict[str, tuple[PortRule, ...]] = {
    "kubernetes": (
        PortRule("tcp", "6443", "API server"),
        PortRule("tcp", "2379-2380", "etcd"),
        PortRule("tcp", "10250", "kubelet"),
        PortRule("tcp", "10256-10259", "kube-proxy, controller manager, scheduler"),
        PortRule("tcp", "30000-32767", "node ports"),
        PortRule("udp", "30000-32767", "node ports"),
        PortRule("udp", "4789", "overlay: VXLAN"),
        PortRule("udp", "8472", "overlay: VXLAN of Linux (flannel, Cilium)"),
        PortRule("udp", "6081", "overlay: Geneve"),
    ),
    "openshift": (
        PortRule("tcp", "6443", "API server"),
        PortRule("tcp", "22623", "machine config server"),
        PortRule("tcp", "2379-2380", "etcd"),
        PortRule("tcp", "10250-10259", "kubelet and other ports of Kubernetes"),
        PortRule("tcp", "1936", "metrics and health of the routers"),
        PortRule("tcp", "9000-9999", "services of the hosts, such as the node exporter"),
        PortRule("udp", "9000-9999", "services of the hosts"),
        PortRule("tcp", "30000-32767", "node ports"),
        PortRule("udp", "30000-32767", "node ports"),
        PortRule("udp", "4789", "overlay: VXLAN"),
        PortRule("udp", "6081", "overlay: Geneve"),
        PortRule("udp", "500", "IPsec: IKE"),
        PortRule("udp", "4500", "IPsec: NAT traversal"),
        PortRule("esp", None, "IPsec"),
    ),
    "calico": (
        PortRule("tcp", "179", "BGP"),
        PortRule("tcp", "5473", "Typha"),
        PortRule("ipip", None, "overlay: IP in IP"),
        PortRule("udp", "4789", "overlay: VXLAN"),
    ),
}
"""The named rule sets. Sources: Kubernetes, "Ports and Protocols" (kubernetes.io/docs/reference/networking/ports-and-protocols); OpenShift 4,
"Networking requirements for user-provisioned infrastructure"; Calico, "System requirements". The overlays of `kubernetes` are the assigned ports of
VXLAN and Geneve (RFC 7348, RFC 8926) and the default of Linux's vxlan(4) device.
"""

RuleSet = Literal["kubernetes", "openshift", "calico"]


class Allow(Model):
    """Traffic that the nodes accept: a named rule set (`kubernetes` alone is short for `{rules: kubernetes}`), or a protocol with its ports."""

    heading: ClassVar[str] = "allow"

    rules: RuleSet | None = None
    """A named set of rules; an entry `kubernetes` is short for `{rules: kubernetes}`."""
    protocol: (
        Annotated[
            str,
            Field(pattern=PROTOCOL),
            BeforeValidator(_protocol, json_schema_input_type=Annotated[int, Field(ge=0, le=255)] | Annotated[str, Field(pattern=ANY_CASE)]),
            Form("a protocol by name (tcp, udp, sctp, ipip, gre, esp, ...) or number (0 to 255), or any"),
        ]
        | None
    ) = None
    """Protocol of the traffic, instead of `rules`: `tcp`, `udp`, `sctp`, `ipip`, `gre`, `esp`, `ah` or another protocol that Neutron knows by name (Neutron
    API); `any` is every protocol.
    """
    ports: (
        Annotated[
            str,
            Field(pattern=PORTS),
            text_or_number(PORTS, 0, 65535),
            Form("a port from 1 to 65535 or a range of them, such as 6443 or 2379-2380"),
        ]
        | None
    ) = None
    """Ports of the traffic; required for `tcp` and `udp`, possible for `sctp`. Not the whole range: Neutron stores `1-65535` as a rule without ports, so
    every deployment would see a difference (Neutron API).
    """
    cidr: Range | None = None
    """Where the traffic may come from; the subnet if not set."""

    @property
    def port_range(self) -> tuple[int, int] | None:
        """First and last port; None for every port, or for a protocol that has none."""
        return port_range(self.ports) if self.ports else None

    @property
    def port_rules(self) -> tuple[tuple[str, tuple[int, int] | None], ...]:
        """Protocol and port range of every rule that the entry stands for."""
        if self.rules:
            return tuple((rule.protocol, port_range(rule.ports) if rule.ports else None) for rule in RULE_SETS[self.rules])
        return ((str(self.protocol), self.port_range),)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        ports = data.get("ports")
        # Other tools write port 0 for a protocol without ports.
        if type(ports) is int and not ports and _protocol(data.get("protocol", "")) not in HAS_PORTS:
            return {key: value for key, value in data.items() if key != "ports"}
        return data

    @model_validator(mode="after")
    def _complete(self) -> Allow:
        if self.rules and (self.protocol or self.ports):
            raise ValueError(f"rules: {self.rules!r} and {'protocol' if self.protocol else 'ports'} in one entry; make two entries of them")
        if not self.rules and not self.protocol:
            raise ValueError(f"protocol: missing; give a protocol, such as tcp, or rules: {', '.join(RULE_SETS)}")
        if self.protocol and self.protocol.isdecimal() and int(self.protocol) > 255:
            raise ValueError(f"protocol: {self.protocol} is not the number of a protocol; give one from 0 to 255")
        if self.protocol in NEEDS_PORTS and not self.ports:
            raise ValueError("ports: missing; give a port from 1 to 65535 or a range of them, such as 6443 or 2379-2380")
        if self.ports and self.protocol not in HAS_PORTS:
            raise ValueError(f"ports: {self.ports}, and protocol {self.protocol} has no ports; leave it out")
        if ports := self.port_range:
            first, last = ports
            if not 1 <= first <= last <= 65535 or ports == (1, 65535):
                raise ValueError(f"ports: {self.ports} must be N or N-M within 1 to 65535, and not all of them (Neutron stores 1-65535 without ports)")
        return self


AllowEntry = Annotated[
    Allow,
    BeforeValidator(lambda entry: {"rules": entry} if isinstance(entry, str) else entry, json_schema_input_type=RuleSet | Allow),
]
"""An entry whose only key is `rules` may be written as the name of the set."""
