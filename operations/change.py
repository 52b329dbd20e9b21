"""What a change does to one stack: the base and head of it as `operations diff` left them, compared.

Standard library only, and nothing of what is read is trusted: it may come from a stranger's branch. Words of it are returned as they are;
operations/report.py puts them where they cannot end a code span or a fence.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_network
from itertools import chain
from pathlib import Path
from typing import Any

from operations import effects
from operations.effects import Effect

Files = Mapping[str, str]
"""The files of one host: text by path."""

ANYWHERE = ("0.0.0.0/0", "::/0")

_INSTANCE = re.compile(r"^vrrp_instance (\S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_SERVICE = re.compile(r"^virtual_server ([^\n{]+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_PRIORITY = re.compile(r"^ +priority (\d+)$", re.MULTILINE)
_ADDRESS = re.compile(r"virtual_ipaddress \{\s+([0-9a-f.:]+)")
_ADDITIONAL = re.compile(r"virtual_ipaddress_excluded \{([^}]*)\}")
_VIRTUAL_ROUTER_ID = re.compile(r"^ +virtual_router_id .*$", re.MULTILINE)
_ADVERTS = re.compile(r"^ +(?:vrrp_version .*|unicast_peer .*|include auth-.*)$", re.MULTILINE)
_SCHEDULER = re.compile(r"^ +lvs_sched .*$", re.MULTILINE)
_METHOD = re.compile(r"^ +lvs_method .*$", re.MULTILINE)
BECOMES, LEAVES = "becomes a director", "is no director any more"
"""Steps of a host. keepalived starts with the other role."""
_PROGRAM = re.compile(r'^  "program": "(.*)",$', re.MULTILINE)
"""The line of a host's host.json that names the program by a digest of its content."""

_REPLACED_BY = {
    "FloatingIp": {"pool"},
    "Instance": {"configDrive", "networks"},
    "Keypair": {"name", "publicKey"},
    "Port": {"networkId"},
    "RouterInterface": {"routerId", "subnetId"},
    "SecGroupRule": {"direction", "ethertype", "portRangeMax", "portRangeMin", "protocol", "remoteIpPrefix", "securityGroupId"},
    "ServerGroup": {"name", "policies"},
    "Subnet": {"cidr", "ipVersion", "networkId"},
}
"""The inputs whose change replaces a resource: ForceNew in the source of the Terraform provider 3.4.0, of those that this program sets."""


@dataclass(frozen=True)
class Resource:
    """A resource of OpenStack as operations/resources.py recorded it."""

    kind: str
    name: str
    lines: tuple[str, ...]
    """Its inputs, `KEY: VALUE`, one line for each entry of a list."""
    inputs: Mapping[str, Any]
    ignored: frozenset[str]
    replaced_by: frozenset[str]

    @property
    def title(self) -> str:
        """Such as `Port master0`."""
        return f"{self.kind} {self.name}"

    def values(self, key: str, below: str) -> list[str]:
        """What the entries of a list have under `below`, such as the `ipAddress` of each of the `fixedIps`."""
        return [str(entry[below]) for entry in _mappings(self.inputs.get(key)) if below in entry]


@dataclass
class Side:
    """A stack on one side of the change: its hosts' files and its resources, or why it was refused."""

    hosts: dict[str, Files] = field(default_factory=dict)
    refused: str | None = None
    resources: dict[str, Resource] | None = None
    """By title; None if they could not be listed, and then `unlisted` says why."""
    unlisted: str | None = None

    @classmethod
    def read(cls, tree: Path, stack: str) -> Side:
        """What was rendered of that stack; nothing if it is not there."""
        hosts: dict[str, Files] = {host: texts(tree / "stacks" / stack / host) for host in names(tree / "stacks" / stack)}
        listed = text_of(tree / "resources" / f"{stack}.json")
        return cls(hosts, text_of(tree / "refused" / stack), _resources(listed) if listed is not None else None, text_of(tree / "unlisted" / stack))

    @cached_property
    def described(self) -> dict[str, dict[str, Any]]:
        """Each host's host.json."""
        return {host: _mapping(files.get("host.json")) for host, files in self.hosts.items()}

    @cached_property
    def addresses(self) -> dict[str, tuple[str, ...]]:
        """Each host's address, and its second one if it has one. A release before host.json has none here."""
        return {host: tuple(str(given[key]) for key in ("address", "address_v6") if key in given) for host, given in self.described.items()}

    def directs(self, host: str) -> bool:
        """Whether a host is a director. A server that is not a director has a keepalived.conf without VRRP instances."""
        return "keepalived.conf" in self.hosts.get(host, {}) and not self.described[host].get("checks_only")

    @cached_property
    def vips(self) -> dict[str, Vip]:
        """The VIPs as the directors' files have them."""
        found: dict[str, Vip] = {}
        for host, files in self.hosts.items():
            for name, block in _INSTANCE.findall(files.get("keepalived.conf", "")):
                if (priority := _PRIORITY.search(block)) and (address := _ADDRESS.search(block)):
                    additional = tuple(each for within in _ADDITIONAL.findall(block) for each in re.findall(r"[0-9a-f.:]+(?=/)", within))
                    found.setdefault(name, Vip(address[1], additional)).priorities[host] = int(priority[1])
        return found

    @cached_property
    def services(self) -> set[str]:
        """The names of the virtual servers, such as `infra-80`."""
        return {str(service.get("name")) for vip in self._described_vips() for service in _mappings(vip.get("services"))}

    @cached_property
    def together(self) -> set[str]:
        """The VIPs that always have one holder with another one: those of the two addresses of a VIP."""
        return {str(vip.get("name")) for vip in self._described_vips() if vip.get("together")}

    def _described_vips(self) -> Iterator[dict[str, Any]]:
        for given in self.described.values():
            yield from _mappings(given.get("vips"))

    def of(self, kind: str) -> dict[str, Resource]:
        """The resources of a kind, by name."""
        return {resource.name: resource for resource in (self.resources or {}).values() if resource.kind == kind}


@dataclass
class Vip:
    """A VIP: its address, additional addresses of the same family, and the priority of each director."""

    address: str
    additional: tuple[str, ...] = ()
    priorities: dict[str, int] = field(default_factory=dict)

    @property
    def addresses(self) -> tuple[str, ...]:
        """All its addresses."""
        return (self.address, *self.additional)

    def added(self, before: Vip) -> list[str]:
        """The additional addresses that it did not have before."""
        return [address for address in self.additional if address not in before.addresses]

    @property
    def owner(self) -> str:
        """The director with the highest priority."""
        return max(self.priorities, key=lambda host: self.priorities[host])

    def to_json(self) -> dict[str, Any]:
        """Addresses and owner as JSON has them: see docs/reference/operations.md."""
        return {"address": self.address, "additional_addresses": [*self.additional], "owner": self.owner}


@dataclass(frozen=True)
class Change:
    """A stack before and after."""

    stack: str
    base: Side
    head: Side

    @classmethod
    def read(cls, folder: Path, stack: str) -> Change:
        """The stack's two sides in what `operations diff` left."""
        return cls(stack, Side.read(folder / "base", stack), Side.read(folder / "head", stack))

    @property
    def refused(self) -> str | None:
        """Why the configuration is refused: by the model, or by the program when it asks for the resources."""
        return self.head.refused if self.head.refused is not None else self.head.unlisted

    @property
    def nothing(self) -> bool:
        """Whether both sides were accepted and are the same."""
        known = self.refused is None and self.base.refused is None
        return known and self.base.hosts == self.head.hosts and self.base.resources == self.head.resources

    def to_json(self) -> dict[str, Any] | None:
        """What changes as JSON has it: see docs/reference/operations.md. None if the configuration is refused."""
        if self.refused is not None:
            return None
        changed = [after for before, after in self._pairs() if before.lines != after.lines]
        resources = {"made": self.made, "deleted": self.deleted, "changed": changed, "replaced": self.replaced}
        return {
            "changed": not self.nothing,
            "hosts": {host: {"step": self.step(host), "files": [*self.differences(host)]} for host in self.all_hosts},
            "drain_first": sorted(self.drains),
            "vips": {
                name: {word: side.vips[name].to_json() if name in side.vips else None for word, side in (("base", self.base), ("head", self.head))}
                for name in union(self.base.vips, self.head.vips)
            },
            "effects": [{"change": effect.change, "concerns": found, "happens": effect.happens} for effect, found in self.kinds.items()],
            "resources": {word: [each.title for each in found] for word, found in resources.items()} if self.listed else None,
        }

    @property
    def findings(self) -> list[dict[str, str]]:
        """Why the stack is refused, and what of base could not be compared, as JSON has it."""
        refused = [self.refused] if self.refused is not None else self.refusals
        unknown = [text for text in (self.base.refused, self.base.unlisted) if text is not None and self.refused is None]
        return [
            *({"subject": self.stack, "result": "failed", "text": text.strip()} for text in refused),
            *({"subject": self.stack, "result": "unknown", "text": f"base cannot be compared: {text.strip()}"} for text in unknown),
        ]

    # --- hosts ---

    @property
    def all_hosts(self) -> list[str]:
        """The hosts of both sides."""
        return union(self.base.hosts, self.head.hosts)

    @property
    def kept(self) -> list[str]:
        """The hosts that both sides have."""
        return sorted(self.base.hosts.keys() & self.head.hosts.keys())

    def step(self, host: str) -> str:
        """What the roll-out does on a host, in a word or two."""
        before, after = self.base.hosts.get(host), self.head.hosts.get(host)
        if after is None:
            return "removed from the stack"
        if before is None:
            return "new"
        if before == after:
            return "no change"
        if "server.nft" in after:
            return "not managed: apply its files (operations machine-config)"
        if host in self._on(effects.FORWARDING):
            return "restart of keepalived"
        directed, directs = self.base.directs(host), self.head.directs(host)
        if directed != directs:
            return BECOMES if directs else LEAVES
        ran, runs = "keepalived.conf" in before, "keepalived.conf" in after
        return {(True, True): "reload", (False, True): "keepalived starts", (True, False): "keepalived stops", (False, False): "settings applied"}[ran, runs]

    def differences(self, host: str) -> dict[str, str]:
        """The hunks of each file of a host that differs, without the program's digest where both sides have one: that is said once for all hosts."""
        before, after = self.base.hosts.get(host, {}), self.head.hosts.get(host, {})
        if program(before) and program(after):
            before, after = ({**files, "host.json": _PROGRAM.sub('  "program": "...",', files["host.json"])} for files in (before, after))
        return differences(before, after)

    @cached_property
    def kinds(self) -> dict[Effect, list[str]]:
        """The kinds of change that there are, in the order of the table, and the hosts or VIPs that each concerns."""
        return {effect: found for effect in effects.EFFECTS if (found := self._on(effect))}

    def _on(self, effect: Effect) -> list[str]:
        base, head = self.base, self.head
        both = [(host, base.hosts[host].get("keepalived.conf", ""), head.hosts[host].get("keepalived.conf", "")) for host in self.kept]
        vips = sorted(base.vips.keys() & head.vips.keys())
        match effect:
            case effects.RELOAD:
                return [host for host in self.kept if self.step(host) == "reload" and self._services_differ(host)]
            case effects.SCHEDULER:
                return [host for host, before, after in both if _another(_SERVICE, _SCHEDULER, before, after)]
            case effects.FORWARDING:
                return [host for host, before, after in both if _another(_SERVICE, _METHOD, before, after)]
            case effects.OWNER:
                return [name for name in vips if base.vips[name].owner != head.vips[name].owner]
            case effects.HOST_ADDED:
                return [host for host in union(head.hosts, {}) if base.hosts and host not in base.hosts]
            case effects.HOST_REMOVED:
                return [host for host in union(base.hosts, {}) if host not in head.hosts]
            case effects.VIRTUAL_ROUTER_ID:
                return [host for host, before, after in both if _another(_INSTANCE, _VIRTUAL_ROUTER_ID, before, after)]
            case effects.PROGRAM:
                return [host for host in self.kept if program(base.hosts[host]) != program(head.hosts[host])]
            case effects.ADVERTS:
                stay = [host for host in self.kept if base.directs(host) and head.directs(host)]
                return [host for host, before, after in both if host in stay and _ADVERTS.findall(before) != _ADVERTS.findall(after)]
            case effects.DIRECTOR_REMOVED:
                return [host for host in self.kept if self.step(host) == LEAVES]
            case effects.VIP_REMOVED:
                return sorted({*(base.vips.keys() - head.vips.keys()), *(base.services - head.services)}) if head.hosts else []
            case effects.VIP_ADDRESS:
                return [name for name in vips if base.vips[name].address != head.vips[name].address]
            case effects.ADDITIONAL:
                return [name for name in vips if set(base.vips[name].additional) != set(head.vips[name].additional)]
            case effects.TOGETHER:
                return [name for name in vips if (name in base.together) != (name in head.together)]
            case effects.CLIENTS:
                rules = [f"{len(found)} rule{'s' if len(found) > 1 else ''}"] if (found := [*self.opened, *self.closed]) and base.hosts else []
                return [*rules, *(port for port in self._changed("Port") if "allowedAddressPairs" in self._inputs(f"Port {port}"))]
            case effects.EXTERNAL:
                return [*(f"router {name}" for name in self._changed("Router")), *self._changed("FloatingIp")]
            case effects.FIRST_BOOT:
                return [
                    after.name if after.kind == "Instance" else after.title
                    for before, after in self._pairs()
                    if _different(before.inputs, after.inputs) & after.ignored
                ]
            case _:
                return []

    def _services_differ(self, host: str) -> bool:
        """Whether more differs than the host's VRRP instances, and than host.json, which follows from the other files."""
        changed = self.differences(host).keys() - {"host.json"}
        before, after = (_INSTANCE.sub("", side.hosts[host].get("keepalived.conf", "")) for side in (self.base, self.head))
        return bool(changed - {"keepalived.conf"}) or before != after

    @property
    def drains(self) -> dict[str, list[str]]:
        """The hosts to drain before the deployment, and the VIPs of each: it owned them and leaves the stack, or is no director any more."""
        leaving = {host for host in self.base.hosts if host not in self.head.hosts} | set(self._on(effects.DIRECTOR_REMOVED))
        found: dict[str, list[str]] = {}
        for vip in self.base.vips.values():
            if vip.owner in leaving and self.head.hosts:
                found.setdefault(vip.owner, []).extend(vip.addresses)
        return found

    # --- OpenStack ---

    @property
    def listed(self) -> bool:
        """Whether the resources of both sides are known, or the stack is new."""
        return self.head.resources is not None and (self.base.resources is not None or not self.base.hosts)

    @property
    def made(self) -> list[Resource]:
        """Resources that head has and base has not."""
        return [resource for title, resource in (self.head.resources or {}).items() if title not in (self.base.resources or {})] if self.listed else []

    @property
    def deleted(self) -> list[Resource]:
        """Resources that base has and head has not."""
        return [resource for title, resource in (self.base.resources or {}).items() if title not in (self.head.resources or {})] if self.listed else []

    @property
    def replaced(self) -> list[Resource]:
        """Resources that cannot be changed in place."""
        return [
            after
            for before, after in self._pairs()
            if (_different(before.inputs, after.inputs) - after.ignored) & (_REPLACED_BY.get(after.kind, set()) | after.replaced_by)
        ]

    @property
    def opened(self) -> list[str]:
        """The source of each new rule of the security group, the widest first."""
        return _sources(self.made)

    @property
    def closed(self) -> list[str]:
        """The source of each rule that is deleted."""
        return _sources(self.deleted)

    @property
    def resource_lines(self) -> str:
        """What differs, as a diff of the resources' inputs."""
        lines: list[str] = []
        for title in union(self.base.resources or {}, self.head.resources or {}) if self.listed else []:
            before, after = (self.base.resources or {}).get(title), (self.head.resources or {}).get(title)
            if before and after and before.lines != after.lines:
                lines += [f"  {title}", *(f"{line[0]}     {line[2:]}" for line in difflib.ndiff(before.lines, after.lines) if line[0] in "+-")]
            elif not (before and after):
                sign, there = ("-", before) if before else ("+", after)
                assert there
                lines += [f"{sign} {title}", *(f"{sign}     {line}" for line in there.lines)]
        return "".join(f"{line}\n" for line in lines)

    def _pairs(self) -> Iterator[tuple[Resource, Resource]]:
        """Each resource that differs, before and after."""
        for title, after in (self.head.resources or {}).items():
            before = (self.base.resources or {}).get(title)
            if before and before != after:
                yield before, after

    def _changed(self, kind: str) -> list[str]:
        return [after.name for before, after in self._pairs() if after.kind == kind and before.inputs != after.inputs]

    def _inputs(self, title: str) -> set[str]:
        assert self.base.resources and self.head.resources
        return _different(self.base.resources[title].inputs, self.head.resources[title].inputs)

    # --- what needs two deployments ---

    @property
    def refusals(self) -> list[str]:
        """What one deployment cannot do, each with the remedy."""
        if not self.base.hosts or not self.head.hosts or self.refused is not None:
            return []
        return [*self._another_network(), *self._renamed_hosts(), *self._renamed_vips(), *self._made_or_existing(), *self._taken_over()]

    def _another_network(self) -> Iterator[str]:
        for before, after in self._pairs():
            if after.kind in ("Port", "Subnet") and _different(before.inputs, after.inputs) & {"cidr", "networkId"}:
                yield f"{after.title}: another network, or another range. Keep it, and create a new stack for the other one"
                return

    def _renamed_hosts(self) -> Iterator[str]:
        base, head = self.base.addresses, self.head.addresses
        for host in self.kept:
            for before, after in zip(base[host], head[host], strict=False):
                if before != after:
                    yield (
                        f"{host}: its address changes from {before} to {after}. Remove {host}, deploy, then add it with the new address, or add the "
                        "new address under another name"
                    )
        for host in head.keys() - base.keys():
            for address in head[host]:
                for old in [old for old, there in base.items() if address in there and address not in head.get(old, ())]:
                    what = f"Remove {old}" if old not in head else f"Give {old} its other address first, as above"
                    yield f"{host}: {address} is the address of {old} until this deployment ends. {what}, deploy, then add {host}"

    def _renamed_vips(self) -> Iterator[str]:
        base, head = self.base.vips, self.head.vips
        for name in sorted(head):
            others = [(old, address) for old in sorted(base) if old != name for address in head[name].addresses if address in base[old].addresses]
            for old, address in others:
                yield (
                    f"VIP {name}: {address} is the address of VIP {old} until this deployment ends. Remove {old}, deploy, then add {name}, or keep "
                    f"the name {old}"
                )

    def _made_or_existing(self) -> Iterator[str]:
        if not self.listed:
            return
        before, after = self.base.of("Instance"), self.head.of("Instance")
        for host in self.kept:
            if host in before and host not in after:
                yield f"{host}: becomes an existing host, and its server would be deleted. Remove {host}, deploy, then add the existing host"
            if host in after and host not in before:
                yield f"{host}: becomes a created server, and an existing host has its address. Remove {host}, deploy, then add it as a server"

    def _taken_over(self) -> Iterator[str]:
        """Ports that want an address which another port has until the end of the deployment, beyond hosts and VIPs under another name."""
        if not self.listed:
            return
        holders = {address: port for port in self.base.of("Port").values() for address in port.values("fixedIps", "ipAddress")}
        named = {*chain(*self.head.addresses.values())} & {*chain(*self.base.addresses.values())}
        named |= {
            address
            for name, vip in self.head.vips.items()
            for old, before in self.base.vips.items()
            for address in vip.addresses
            if old != name and address in before.addresses
        }
        for port in self.head.of("Port").values():
            for address in port.values("fixedIps", "ipAddress"):
                holder = holders.get(address)
                if holder and holder.name != port.name and address not in named:
                    until = f"{address} is the address of {holder.name} until this deployment ends"
                    yield f"{port.name}: {until}. Remove {holder.name}, deploy, then add {port.name}"


def differences(before: Files, after: Files) -> dict[str, str]:
    """The hunks of every file that differs, without the two lines that name it."""
    return {
        path: "".join(f"{line}\n" for line in [*difflib.unified_diff(_lines(before.get(path)), _lines(after.get(path)), lineterm="")][2:])
        for path in union(before, after)
        if before.get(path) != after.get(path)
    }


def program(files: Files) -> str | None:
    """The digest of the program that a host's files name. A release before the program has none."""
    found = _PROGRAM.search(files.get("host.json", ""))
    return found[1] if found else None


def known_stacks(folder: Path) -> list[str]:
    """The stacks of both sides, also those that were refused."""
    return sorted({name for side in ("base", "head") for kind in ("stacks", "refused") for name in names(folder / side / kind)})


def union(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The keys of both, sorted."""
    return sorted({*one, *other})


def names(folder: Path) -> list[str]:
    """What is in a folder, without links."""
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() and not folder.is_symlink() else []


def texts(folder: Path) -> dict[str, str]:
    """Every regular file below a folder; a link is left out, as it could lead to any file of this machine."""
    found: dict[str, str] = {}
    for name in names(folder):
        path = folder / name
        if path.is_dir():
            found |= {f"{name}/{below}": text for below, text in texts(path).items()}
        elif (text := text_of(path)) is not None:
            found[name] = text
    return found


def text_of(path: Path) -> str | None:
    """A regular file's text; None if there is none, or a link, in its folder's place too."""
    if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
        return None
    return path.read_bytes().decode(errors="replace")


def _lines(text: str | None) -> list[str]:
    if not text:
        return []
    *lines, last = text.split("\n")
    return [*lines, last, "\\ No newline at end of file"] if last else lines


def _mapping(text: str | None) -> dict[str, Any]:
    try:
        given = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return given if isinstance(given, dict) else {}


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _resources(text: str) -> dict[str, Resource] | None:
    """The recorded resources by title; None if the text is no such record."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found: dict[str, Resource] = {}
    for each in given if isinstance(given, list) else [None]:
        if not isinstance(each, dict) or not isinstance(inputs := each.get("inputs"), dict):
            return None
        lines = [*(line for key, value in inputs.items() for line in _input_lines(key, value)), *(["protect: true"] if each.get("protect") is True else [])]
        ignored, replaced_by = (frozenset(map(str, each.get(key) or ())) for key in ("ignored", "replaced_by"))
        resource = Resource(str(each.get("kind")), str(each.get("name")), tuple(lines), inputs, ignored, replaced_by)
        found[resource.title] = resource
    return found


def _input_lines(key: str, value: Any) -> Iterator[str]:
    for each in value if isinstance(value, list) and value else [value]:
        yield f"{key}: {each if isinstance(each, str) else ', '.join(f'{k}={v}' for k, v in each.items()) if _flat(each) else json.dumps(each)}"


def _flat(value: Any) -> bool:
    """Whether a value is a mapping of texts, which reads better without the signs of JSON."""
    return isinstance(value, dict) and bool(value) and all(isinstance(each, str) for each in value.values())


def _different(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    return {key for key in {*before, *after} if before.get(key) != after.get(key)}


def _sources(resources: Iterable[Resource]) -> list[str]:
    sources = [str(resource.inputs.get("remoteIpPrefix")) for resource in resources if resource.kind == "SecGroupRule"]
    return sorted(sources, key=_width)


def _width(source: str) -> tuple[int, str]:
    try:
        return ip_network(source).prefixlen, source
    except ValueError:
        return 0, source


def _another(block: re.Pattern[str], line: re.Pattern[str], before: str, after: str) -> bool:
    """Whether a block that both texts have has another such line."""
    old, new = dict(block.findall(before)), dict(block.findall(after))
    return any(line.findall(old[name]) != line.findall(new[name]) for name in old.keys() & new.keys())
