"""What `operations import` makes of a keepalived.conf: the configuration of a stack, and a list of everything that it could not carry over.

Read are the file and what it includes, as keepalived.conf(5) has them: blocks, quotes, comments (# and !), definitions ($NAME=VALUE), old words.
A host of the file that the program would manage needs a host key, which no keepalived.conf has: the printed one opens no host and must be replaced.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from components.configuration import Cluster, ConfigurationError
from components.configuration.words import NEEDLESS
from operations.nodes import NodesError

FILE = "/etc/keepalived/keepalived.conf"
SSH_SECONDS = 60
UNKNOWN_KEY = "ssh-ed25519 " + base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + bytes(32)).decode() + " replace-this-key"
"""Of the form of a host key, and no host's."""

Read = Callable[[str], list[tuple[str, str]]]
"""The path and text of every file that a path or a pattern names."""


class ImportFault(Exception):
    """The file cannot be read. The text says why."""


class Note(NamedTuple):
    """One thing that was not carried over, or that needs a decision."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"

    def to_json(self) -> dict[str, str]:
        """The note as JSON has it: see docs/reference/operations.md."""
        return {"place": self.place, "text": self.text}


@dataclass
class Statement:
    """A line of keepalived.conf: its words, where it is, and the statements of its block."""

    words: list[str]
    place: str
    block: list[Statement] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0]

    @property
    def value(self) -> str:
        """Everything behind the first word."""
        return " ".join(self.words[1:])

    def find(self, *names: str) -> Statement | None:
        """The last statement of the block with one of these names, which is the one that counts for keepalived."""
        return next((each for each in reversed(self.block) if each.name in names), None)


@dataclass
class Imported:
    """The configuration of the stack, and the notes in the order of the file."""

    cluster: dict[str, Any]
    notes: list[Note]

    @property
    def configuration(self) -> dict[str, Any]:
        """The content of a Pulumi.STACK.yaml."""
        return {"config": {"openshift-lvs:cluster": self.cluster}}

    @property
    def text(self) -> str:
        """The YAML of a Pulumi.STACK.yaml."""
        shown: str = yaml.safe_dump(self.configuration, sort_keys=False, allow_unicode=True, width=140)
        return shown


# Reading


def files_here(path: str) -> list[tuple[str, str]]:
    """Files of this machine."""
    try:
        return [(str(found), found.read_text(errors="replace")) for found in sorted(Path(path).parent.glob(Path(path).name))]
    except OSError as fault:
        raise ImportFault(f"{path}: {fault.strerror}") from None


def files_of(host: str) -> Read:
    """Files of a host that OpenSSH reaches without a question; what root alone may read, by `sudo -n`."""

    def read(path: str) -> list[tuple[str, str]]:
        names = _ask(host, f"ls -d -- {_pattern(path)} 2>/dev/null || sudo -n sh -c {shlex.quote(f'ls -d -- {_pattern(path)}')}").splitlines()
        return [(name, _ask(host, f"cat -- {shlex.quote(name)} 2>/dev/null || sudo -n cat -- {shlex.quote(name)}")) for name in names]

    return read


def _pattern(path: str) -> str:
    """A path for a shell in which only the signs of a pattern keep their meaning."""
    return "".join(part if part in ("*", "?", "[", "]") else shlex.quote(part) for part in re.split(r"([*?\[\]])", path) if part)


def _ask(host: str, script: str) -> str:
    command = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "--", host, script]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SSH_SECONDS)
    except subprocess.TimeoutExpired:
        raise NodesError(f"{host}: no answer within {SSH_SECONDS} s") from None
    if done.returncode == 255:
        raise NodesError(f"{host}: {done.stderr.strip()}; give a file, or a host that `ssh {host}` reaches without a question")
    return done.stdout


def parse(path: str, read: Read, notes: list[Note]) -> list[Statement]:
    """The statements of a file and of what it includes. Raises ImportFault for a file that is missing."""
    found = read(path)
    if not found:
        raise ImportFault(f"{path}: no such file")
    top: list[Statement] = []
    stack = [top]
    definitions: dict[str, str] = {}
    for name, text in found:
        _parse(name, text, read, notes, stack, definitions)
    return top


def _parse(name: str, text: str, read: Read, notes: list[Note], stack: list[list[Statement]], definitions: dict[str, str]) -> None:
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{name}:{number}"
        if defined := re.match(r"\s*\$(\w+)=(.*)", line):
            definitions[defined[1]] = " ".join(_words(defined[2]))
            continue
        words = _words(re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda used: definitions.get(used[1] or used[2], used[0]), line))
        if words and words[0].startswith("@"):
            notes.append(Note(place, f"{' '.join(words)}: a line for one configuration id only was read as if it were for all"))
            words = words[1:]
        if words[:1] == ["include"]:
            target = " ".join(words[1:])
            target = target if target.startswith("/") else str(Path(name).parent / target)
            included = read(target)
            if not included:
                notes.append(Note(place, f"include {target}: no such file"))
            for path, inner in included:
                _parse(path, inner, read, notes, stack, definitions)
            continue
        statement: list[str] = []

        def end(statement: list[str], place: str = place) -> None:
            if statement:
                stack[-1].append(Statement(list(statement), place))
                statement.clear()

        for word in words:
            if word == _BRACES["{"]:
                end(statement)
                if stack[-1]:
                    stack.append(stack[-1][-1].block)
            elif word == _BRACES["}"]:
                end(statement)
                if len(stack) > 1:
                    stack.pop()
            else:
                statement.append(word)
        end(statement)


_BRACES = {"{": "\0{", "}": "\0}"}
"""What stands for a brace that begins or ends a block: one in quotes does not."""


def _words(line: str) -> list[str]:
    """The words of a line, without its comment; braces are words of their own outside of quotes."""
    found = re.findall(r'"((?:\\.|[^"\\])*)"|([#!].*)|([{}])|([^\s"{}]+)', line)
    words = []
    for quoted, comment, brace, plain in found:
        if comment:
            break
        words.append(_BRACES[brace] if brace else plain or quoted)
    return words


# Translation

_GLOBAL = {"router_id": "router_id", "vrrp_version": "vrrp_version", "checker_log_all_failures": "checker_log_all_failures"}
_MAIL = ("notification_email_from", "smtp_connect_timeout", "smtp_helo_name", "smtp_alert")
_INSTANCE = {"garp_master_delay": int, "garp_master_refresh": int}
_INSTANCE_READ = {
    "interface", "virtual_router_id", "advert_int", "authentication", "virtual_ipaddress", "unicast_src_ip", "unicast_peer", "mcast_src_ip",
    "smtp_alert", "nopreempt", "version", *_INSTANCE,
}  # fmt: skip
_SERVICE = {"quorum": int, "hysteresis": int, "persistence_timeout": int, "persistence_granularity": str, "virtualhost": str}
_FLAGS = ("alpha", "omega", "ops")
_DEFAULTS = ("delay_loop", "retry", "delay_before_retry", "connect_timeout", "warmup")
_SERVICE_READ = {
    "lb_algo", "lvs_sched", "lb_kind", "lvs_method", "protocol", "real_server", "sorry_server", "smtp_alert", "mh-port", "mh-fallback", "sh-port",
    "sh-fallback", "inhibit_on_failure", *_SERVICE, *_FLAGS, *_DEFAULTS,
}  # fmt: skip
_CHECKS = {"TCP_CHECK": "tcp", "HTTP_GET": "http", "SSL_GET": "ssl", "SMTP_CHECK": "smtp", "MISC_CHECK": "misc"}
_SECONDS = ("connect_timeout", "delay_before_retry", "delay_loop", "warmup")
_CONNECTION = {"connect_ip": str, "connect_port": int, "bindto": str, "bind_port": int, "bind_if": str, "fwmark": int}
_URL = {"path": str, "digest": str, "status_code": str, "virtualhost": str, "regex": str, "regex_min_offset": int, "regex_max_offset": int}
_SERVER_READ = {"weight", "inhibit_on_failure", "uthreshold", "lthreshold", *_CHECKS}
_OWN = {
    "priority": "the owner has 150, the others 140, 130, ...; `priorities` sets other values",
    "vrrp_script": "the program tracks the health checks of the services, and the `witnesses` of the pool",
    "ha_suspend": "directors without the VIP check the servers too, so that they are ready",
    "vrrp_garp_master_refresh": "it is garp_master_refresh of each VIP",
}


def translate(statements: list[Statement], notes: list[Note]) -> Imported:
    """The configuration of a stack for what these statements do."""
    return _Translation(statements, notes).imported()


@dataclass
class _Service:
    """A virtual_server at one address and port, with its real servers by address."""

    address: str
    keys: dict[str, Any]
    weights: dict[str, int]
    place: str


class _Translation:
    def __init__(self, statements: list[Statement], notes: list[Note]) -> None:
        self.statements, self.notes = statements, notes
        self.directors: list[str] = []
        self.interfaces: list[str] = []
        self.services: list[_Service] = []
        self.lengths: set[ipaddress.IPv4Network] = set()
        self.used_ids = {int(vrid.value) for each in self._all("vrrp_instance") if (vrid := each.find("virtual_router_id")) and vrid.value.isdecimal()}

    def imported(self) -> Imported:
        keepalived = self._global()
        known = {"global_defs", "vrrp_instance", "virtual_server", "virtual_server_group", "vrrp_script", "vrrp_sync_group", "static_ipaddress"}
        for each in self.statements:
            if each.name not in known:
                self._left_out(each)
        vips = dict(vip for each in self._all("vrrp_instance") for vip in self._instance(each))
        for each in self._all("vrrp_sync_group", "vrrp_script", "static_ipaddress"):
            self._left_out(each)
        for each in self._all("virtual_server"):
            self._virtual_server(each)
        pools = self._pools(vips)
        cluster: dict[str, Any] = {"network": {"cidr": self._cidr(vips, pools)}, "keepalived": keepalived, "pools": pools, "vips": vips}
        if pools:
            self._note("pools", "no keepalived.conf has host keys: replace each host_key by a line of `ssh-keyscan -t ed25519 ADDRESS`; check the names too")
        try:
            Cluster.parse(cluster)
        except ConfigurationError as fault:
            for line in str(fault).splitlines():
                self._note("not accepted yet", line)
        return Imported(cluster, self.notes)

    def _all(self, *names: str) -> Iterator[Statement]:
        return (each for each in self.statements if each.name in names)

    def _note(self, place: str, text: str) -> None:
        self.notes.append(Note(place, text))

    def _left_out(self, each: Statement, where: str = "") -> None:
        reason = _OWN.get(each.name) or NEEDLESS.get(each.name) or "this program has no key for it"
        self._note(each.place, f"{where}{' '.join(each.words)}: not carried over: {reason}")

    def _global(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        mail: dict[str, Any] = {}
        for each in (line for section in self._all("global_defs") for line in section.block):
            if each.name == "checker_log_all_failures":
                found[each.name] = _truth(each)
            elif each.name in _GLOBAL:
                found[each.name] = _number(each.value)
            elif each.name == "notification_email":
                mail[each.name] = [line.name for line in each.block]
            elif each.name == "smtp_server":
                mail["smtp_server"] = each.words[1]
                if len(each.words) > 2:
                    mail["smtp_port"] = _number(each.words[2])
            elif each.name in _MAIL:
                mail[each.name] = _truth(each) if each.name == "smtp_alert" else _number(each.value)
            else:
                self._left_out(each)
        if {"notification_email", "notification_email_from", "smtp_server"} <= set(mail):
            found["notifications"] = mail
        elif mail:
            self._note("global_defs", "e-mail needs notification_email, notification_email_from and smtp_server; not carried over")
        if "router_id" in found:
            # One stack for all hosts.
            self._note("global_defs", f"router_id {found.pop('router_id')}: not carried over: each host's name is its router_id")
        versions = [int(version.value) for each in self._all("vrrp_instance") if (version := each.find("version")) and version.value.isdecimal()]
        # 2 is keepalived's own default.
        return {"vrrp_version": max(versions, default=2), **found}

    def _instance(self, instance: Statement) -> Iterator[tuple[str, dict[str, Any]]]:
        vip: dict[str, Any] = {}
        name = _label(instance.value or "vip")
        for each in instance.block:
            if each.name in _INSTANCE:
                vip[each.name] = _number(each.value)
            elif each.name in ("unicast_src_ip", "mcast_src_ip"):
                self._director(each.value)
                # The host whose file this is.
                master = instance.find("state")
                if master and master.value == "MASTER":
                    vip["owner"] = each.value
            elif each.name not in _INSTANCE_READ:
                self._left_out(each, f"vrrp_instance {instance.value}: ")
        interface = instance.find("interface")
        self.interfaces += [interface.value] if interface else []
        for each in (line for block in instance.block if block.name == "unicast_peer" for line in block.block):
            self._director(each.name)
            vip["unicast"] = True
        if advert := instance.find("advert_int"):
            vip["advert_interval"] = _number(advert.value)
        else:
            vip["advert_interval"] = 1
        if alert := instance.find("smtp_alert"):
            vip["smtp_alert"] = _truth(alert)
        if authentication := instance.find("authentication"):
            kind = authentication.find("auth_type")
            vip["authentication"] = kind.value.upper() if kind else "PASS"
            self._note(authentication.place, f"auth_pass: a secret: pulumi config set --secret --path openshift-lvs:auth_pass.{name}")
        vrid = instance.find("virtual_router_id")
        owned = vip.pop("owner", None)
        numbered = count(1)
        for each in (line for block in instance.block if block.name == "virtual_ipaddress" for line in block.block):
            address, _, length = each.name.partition("/")
            try:
                ipaddress.IPv4Address(address)
            except ValueError:
                self._note(each.place, f"{' '.join(each.words)}: not carried over: only IPv4 is; add it as `address_v6`, or as a VIP")
                continue
            number = next(numbered)
            if len(each.words) > 1:
                self._note(each.place, f"{' '.join(each.words[1:])}: not carried over: a VIP is on the `interface` of its pool, with prefix length 32")
            if length and int(length) < 30:
                self.lengths.add(ipaddress.IPv4Network(each.name, strict=False))
            own = int(vrid.value) if vrid and vrid.value.isdecimal() else 51
            if number > 1:
                own = next(free for free in range(1, 256) if free not in self.used_ids)
                self._note(each.place, f"{address}: each VIP needs a virtual_router_id of its own; {own} is not in this file, check the segment")
            self.used_ids.add(own)
            named = name if number == 1 else f"{name}-{number}"
            yield named, {"address": address, "pool": "", "virtual_router_id": own, "owner": owned or "", **vip, "services": [], "answers_within": 0}

    def _director(self, address: str) -> None:
        if address not in self.directors:
            self.directors.append(address)

    def _targets(self, server: Statement) -> list[tuple[str, int]]:
        """Address and port of a virtual_server, or of each member of its group."""
        if server.words[1:2] == ["group"]:
            group = next((each for each in self._all("virtual_server_group") if each.words[1:] == server.words[2:]), None)
            members = group.block if group else []
            if not group:
                self._note(server.place, f"group {' '.join(server.words[2:])}: no such virtual_server_group")
        else:
            members = [Statement(server.words[1:], server.place)]
        found = []
        for member in members:
            address, port = member.name, member.words[1] if len(member.words) > 1 else ""
            try:
                ipaddress.IPv4Address(address)
                found.append((address, int(port)))
            except ValueError:
                why = "its addresses are not in this file" if address == "fwmark" else "only an IPv4 address with a port can be carried over"
                self._note(member.place, f"{' '.join(member.words)}: not carried over: {why}")
        return found

    def _virtual_server(self, server: Statement) -> None:
        keys: dict[str, Any] = {"port": 0}
        protocol = server.find("protocol")
        if protocol and protocol.value.upper() != "TCP":
            keys["protocol"] = protocol.value.upper()
        if scheduler := server.find("lb_algo", "lvs_sched"):
            keys["scheduler"] = scheduler.value
            flags = {each.name for each in server.block}
            if scheduler.value in ("mh", "sh"):
                keys["affinity"] = "connection" if f"{scheduler.value}-port" in flags else "client"
                keys["fallback"] = f"{scheduler.value}-fallback" in flags
        if method := server.find("lb_kind", "lvs_method"):
            keys["forwarding_method"] = method.words[1].upper()
        for each in server.block:
            if each.name in _SERVICE:
                keys[each.name] = _SERVICE[each.name](each.value)
            elif each.name in _FLAGS:
                keys[each.name] = True
            elif each.name == "smtp_alert":
                keys[each.name] = _truth(each)
            elif each.name == "sorry_server":
                keys[each.name] = each.words[1]
            elif each.name not in _SERVICE_READ:
                self._left_out(each, f"virtual_server {server.value}: ")
        real = [each for each in server.block if each.name == "real_server"]
        targets = self._targets(server)
        for address, port in targets:
            weights = self._real_servers(real, port, first=(address, port) == targets[0])
            check = self._check(server, real, keys.get("protocol", "TCP"), first=(address, port) == targets[0])
            inhibit = bool(server.find("inhibit_on_failure")) or any(each.find("inhibit_on_failure") for each in real)
            limits = {key: int(found.value) for key in ("uthreshold", "lthreshold") if real and (found := real[0].find(key))}
            rest = {**limits, **({} if inhibit else {"inhibit_on_failure": False})}
            self.services.append(_Service(address, {**keys, "port": port, **rest, "health_check": check}, weights, server.place))

    def _real_servers(self, real: list[Statement], port: int, first: bool) -> dict[str, int]:
        weights: dict[str, int] = {}
        for each in real:
            address = each.words[1]
            try:
                ipaddress.IPv4Address(address)
            except ValueError:
                if first:
                    self._note(each.place, f"{' '.join(each.words)}: not carried over: only IPv4 is; add it as `address_v6` of its host")
                continue
            weight = each.find("weight")
            weights[address] = int(weight.value) if weight else 1
            if not first:
                continue
            if len(each.words) > 2 and each.words[2] not in (str(port), "0"):
                self._note(each.place, f"port {each.words[2]}: not carried over: servers listen on the port of the service, {port}")
            for line in each.block:
                if line.name not in _SERVER_READ:
                    self._left_out(line, f"real_server {address}: ")
        return weights

    def _check(self, server: Statement, real: list[Statement], protocol: str, first: bool) -> dict[str, Any]:
        """The check of the first real server; the others must have the same."""
        found: list[dict[str, Any]] = []
        notes: list[Note] = []
        for each in real:
            checks = [line for line in each.block if line.name.endswith(("_CHECK", "_GET"))]
            mine = [line for line in checks if line.name in _CHECKS]
            for line in [line for line in checks if line not in mine[:1]]:
                if line.name in _CHECKS:
                    notes.append(Note(line.place, f"{line.name}: not carried over: a service has one health check"))
            found.append(self._one_check(server, mine[0], each, notes) if mine else {})
        if found and any(check != found[0] for check in found):
            notes.append(Note(server.place, "its real servers have different checks: the first one's is carried over for all"))
        if first:
            self.notes += dict.fromkeys(notes)
        if found and found[0]:
            return found[0]
        if first:
            self._note(server.place, "no health check that can be carried over: type tcp was written, choose one")
        port = {"connect_port": int(server.words[-1])} if protocol == "UDP" and server.words[-1].isdecimal() else {}
        return {"type": "tcp", **port, **self._defaults(server)}

    def _defaults(self, server: Statement) -> dict[str, Any]:
        # keepalived's own default of delay_loop is 60 s.
        given = {name: each.value for name in _DEFAULTS if (each := server.find(name))}
        return {"delay_loop": 60, **{name: _number(value) for name, value in given.items()}}

    def _one_check(self, server: Statement, check: Statement, real: Statement, notes: list[Note]) -> dict[str, Any]:
        kind = _CHECKS[check.name]
        found: dict[str, Any] = {"type": kind, **self._defaults(server)}
        urls = []
        lines = [inner for line in check.block for inner in (line.block if line.name == "host" else [line])]
        for line in lines:
            name = {"nb_get_retry": "retry"}.get(line.name, line.name)
            if name in _SECONDS or name in ("retry", "misc_timeout"):
                found[name] = _number(line.value)
            elif name in _CONNECTION and kind != "misc":
                found[name] = _CONNECTION[name](line.value)
            elif name == "url" and kind in ("http", "ssl"):
                urls.append({each.name: _URL[each.name](each.value) for each in line.block if each.name in _URL})
                notes += [Note(each.place, f"{' '.join(each.words)}: not carried over") for each in line.block if each.name not in _URL]
            elif name == "misc_path" and kind == "misc":
                script, *arguments = shlex.split(line.value)
                found["script"] = f"checks/{Path(script).name}"
                # The program gives them to every script, last.
                while arguments and arguments[-1] in real.words[1:]:
                    arguments.pop()
                found |= {"arguments": arguments} if arguments else {}
                notes.append(Note(line.place, f"{script}: copy it to {found['script']} in the repository; it gets address and port as its last arguments"))
            elif name in ("virtualhost", "http_protocol", "helo_name", "user"):
                found[name] = line.value
            elif name in ("alpha", "log_all_failures", "enable_sni", "fast_recovery", "misc_dynamic"):
                found[name] = _truth(line)
            else:
                notes.append(Note(line.place, f"{check.name}: {' '.join(line.words)}: not carried over: this program has no key for it"))
        if kind == "misc":
            found.pop("connect_timeout", None)
        if urls:
            found["urls"] = urls
        if "connect_port" not in found and kind != "misc" and len(real.words) > 2 and real.words[2] != server.words[-1] and real.words[2].isdecimal():
            found["connect_port"] = int(real.words[2])
        # It connects to the real server itself.
        if found.get("connect_ip") == real.words[1]:
            del found["connect_ip"]
        return found

    def _pools(self, vips: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Put services into VIPs, and hosts into pools: VIPs that share a real server share a pool."""
        by_address = {vip["address"]: vip for vip in vips.values()}
        for service in self.services:
            if service.address in by_address:
                by_address[service.address]["services"].append(service.keys)
            else:
                self._note(service.place, f"{service.address}: not carried over: no vrrp_instance of this file has this address")
        for name, vip in list(vips.items()):
            if not vip["services"] and not self._guess(name, vip):
                del vips[name]
        groups: list[tuple[set[str], list[str]]] = []
        for name, vip in vips.items():
            hosts = {address for service in self.services if service.address == vip["address"] for address in service.weights} or set(self.directors)
            names = [name]
            for group in [group for group in groups if group[0] & (hosts | set(self.directors))]:
                groups.remove(group)
                hosts |= group[0]
                names = [*group[1], *names]
            groups.append((hosts | set(self.directors), names))
        pools: dict[str, Any] = {}
        for hosts, names in groups:
            pool = "nodes" if len(groups) == 1 else f"nodes-{names[0]}"
            ordered = sorted(hosts, key=lambda address: int(ipaddress.IPv4Address(address)))
            named = {address: f"node-{address.replace('.', '-')}" for address in ordered}
            pools[pool] = {"existing": True, "interface": (self.interfaces or ["eth0"])[0], "hosts": {}}
            pools[pool]["hosts"] = {named[address]: {"address": address, "host_key": UNKNOWN_KEY} for address in ordered}
            directors = [named[address] for address in ordered if address in self.directors]
            if directors and len(directors) < len(ordered):
                pools[pool]["directors"] = directors
            elif not directors:
                self._note(f"pools.{pool}", "the file does not name the directors: every real server is one; set `directors`, and add hosts that are none")
            for name in names:
                vip = vips[name]
                vip["pool"] = pool
                if vip["owner"] not in named:
                    self._note(f"vips.{name}.owner", "the file does not tell which host has the highest priority: choose one")
                vip["owner"] = named.get(vip["owner"], (directors or list(named.values()))[0])
                for service, keys in zip((s for s in self.services if s.address == vip["address"]), vip["services"], strict=False):
                    weights = {named[address]: service.weights.get(address, 0) for address in ordered}
                    keys |= {"weights": {host: weight for host, weight in weights.items() if weight != 1}} if set(weights.values()) != {1} else {}
        if len(set(self.interfaces)) > 1:
            self._note("pools", f"instances are on {', '.join(dict.fromkeys(self.interfaces))}: set the `interface` of each pool")
        return pools

    def _guess(self, name: str, vip: dict[str, Any]) -> bool:
        """Give a VIP without a virtual server the port that a tracked script asks for. Whether there is one."""
        scripts = " ".join(line.value for each in self._all("vrrp_script") for line in each.block if line.name == "script")
        port = re.search(r"(?:localhost|127\.0\.0\.1|\]|/tcp/[\w.]+)[:/](\d{2,5})", scripts)
        if not port or not self.directors:
            self._note(f"vrrp_instance {name}", f"{vip['address']}: not carried over: no virtual_server has this address, so there is no service to balance")
            return False
        self._note(f"vips.{name}.services", f"no virtual_server has {vip['address']}: port {port[1]} is the one that a tracked script asks for; correct it")
        vip["services"] = [{"port": int(port[1]), "health_check": {"type": "tcp"}}]
        return True

    def _cidr(self, vips: dict[str, dict[str, Any]], pools: dict[str, Any]) -> str:
        addresses = [ipaddress.IPv4Address(vip["address"]) for vip in vips.values()]
        addresses += [ipaddress.IPv4Address(host["address"]) for pool in pools.values() for host in pool["hosts"].values()]
        candidates = [network for network in self.lengths if all(address in network for address in addresses)]
        candidates += [ipaddress.IPv4Network((int(addresses[0]) >> 32 - length << 32 - length, length)) for length in range(24, -1, -1)] if addresses else []
        chosen = next((network for network in candidates if all(address in network for address in addresses)), ipaddress.IPv4Network("192.168.0.0/24"))
        self._note("network.cidr", f"{chosen} holds all addresses of the file: write the subnet that they are in")
        return str(chosen)


def _label(name: str) -> str:
    """A name as keys have it: small letters, digits and hyphens, a letter first."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60]
    return plain if plain[:1].isalpha() else f"vip-{plain}".strip("-")


def _number(text: str) -> int | float | str:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _truth(statement: Statement) -> bool:
    return statement.value.lower() not in ("false", "no", "off", "0")


def import_(source: str) -> Imported:
    """What a keepalived.conf says: of a file of this machine, or of a host by ssh.

    Raises ImportFault when it cannot be read or has no VIP, and NodesError when the host does not answer.
    """
    notes: list[Note] = []
    here = Path(source).exists() or "/" in source
    top = parse(source if here else FILE, files_here if here else files_of(source), notes)
    if not any(statement.name in ("vrrp_instance", "virtual_server") for statement in top):
        raise ImportFault(f"{source}: has no vrrp_instance and no virtual_server; name a keepalived.conf that has one")
    return translate(top, notes)


def report(notes: Iterable[Note]) -> str:
    """The notes as lines."""
    return "\n".join(str(note) for note in notes)
