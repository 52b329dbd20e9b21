"""What a bug report needs of this node, without secrets: `operations diagnose` puts it into one file.

VRRP passwords are left out in two ways: their files are never read into the report, and every text loses each password that this node knows.
"""

from __future__ import annotations

import json
import os
import re

from . import observe, programs, state
from .description import NAME
from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
TEXT_MAX = 1_000_000
"""Characters of one file of the report: the last ones of a journal, the first ones of anything else."""
JOURNAL_LINES = 3000
LEFT_OUT = (
    "VRRP passwords: the files auth-*.conf, the value after each auth_pass, and each password of this node wherever it occurs",
    "the arguments of processes other than keepalived's, environment variables, and files of other programs",
    "the list of connections, which has the addresses of clients",
    f"what is beyond {TEXT_MAX} characters of a file, or {JOURNAL_LINES} lines of a journal",
)
"""What the report says of itself."""
_INSTEAD = "(left out)"
_COMMANDS: dict[str, tuple[str, ...]] = {
    "commands/journal-keepalived": ("journalctl", "--no-pager", "--quiet", "--unit", "keepalived.service", "--lines", str(JOURNAL_LINES)),
    "commands/journal-openshift-lvs": ("journalctl", "--no-pager", "--quiet", "--identifier", "openshift-lvs", "--lines", str(JOURNAL_LINES)),
    "commands/journal-units": ("journalctl", "--no-pager", "--quiet", "--unit", "openshift-lvs*", "--lines", str(JOURNAL_LINES)),
    "commands/systemctl-status": ("systemctl", "--no-pager", "--lines", "0", "status", "keepalived.service", "nftables.service", "openshift-lvs*"),
    "commands/systemctl-cat": ("systemctl", "--no-pager", "cat", "keepalived.service", "openshift-lvs.service"),
    "commands/ipvsadm": ("ipvsadm", "--list", "--numeric", "--exact"),
    "commands/ipvsadm-stats": ("ipvsadm", "--list", "--numeric", "--exact", "--stats"),
    "commands/ipvsadm-daemon": ("ipvsadm", "--list", "--daemon"),
    "commands/nft-ruleset": ("nft", "list", "ruleset"),
    "commands/ip-address": ("ip", "-details", "address", "show"),
    "commands/ip-link": ("ip", "-statistics", "link", "show"),
    "commands/ip-route": ("ip", "route", "show", "table", "all"),
    "commands/ip-rule": ("ip", "rule", "show"),
    "commands/ip-6-rule": ("ip", "-6", "rule", "show"),
    "commands/ip-neighbour": ("ip", "neighbour", "show"),
    "commands/ip-maddress": ("ip", "maddress", "show"),
    "commands/sysctl": ("sysctl", "--all", "--pattern", r"^net\.(ipv4|ipv6|core|netfilter)\."),
    "commands/processes": ("ps", "-e", "-o", "pid,ppid,user,stat,etimes,comm"),
    "commands/keepalived-version": ("keepalived", "--version"),
    "commands/ipvsadm-version": ("ipvsadm", "--version"),
    "commands/nft-version": ("nft", "--version"),
    "commands/python-version": ("python3", "-IS", "--version"),
    "commands/uname": ("uname", "--all"),
}
_FILES = ("/etc/os-release", "/proc/modules", "/proc/uptime", "/proc/loadavg", "/proc/meminfo")


def collect() -> str:
    """One JSON object: `format`, `files` with each text by its path in the report, and `left_out`."""
    passwords, files = _passwords(), {}
    for path, text in _texts():
        # Before the cut: the rest of a password that is cut would stay.
        clean = _without(text, passwords)
        files[path] = clean[-TEXT_MAX:] if "/journal-" in path else clean[:TEXT_MAX]
    return json.dumps({"format": FORMAT, "files": files, "left_out": LEFT_OUT}, indent=1)


def _texts() -> Iterable[tuple[str, str]]:
    try:
        yield "status.json", observe.facts().to_json()
    except (Refused, ValueError, OSError) as fault:
        # Such a node needs a report most.
        yield "status.json", f"{fault}\n"
    for link in (state.CURRENT, state.PROVEN):
        if os.path.exists(f"{link}/{NAME}") and (link == state.CURRENT or state.target(link) != state.target(state.CURRENT)):
            yield from _folder(os.path.realpath(link), f"delivered/{os.path.basename(link)}")
    yield from _folder(state.RUN, "run")
    yield "commands/files", "".join(_listed(state.BASE)) + "".join(_listed(state.LIB))
    for path in _FILES:
        yield f"files{path}", state.text(path)
    for name, command in _COMMANDS.items():
        status, output, errors = programs.attempt(*command)
        yield name, f"$ {' '.join(command)}\n{output}{errors}" + (f"exit status {status}\n" if status else "")


def _folder(folder: str, into: str) -> Iterable[tuple[str, str]]:
    """The text files below a folder that every user may read; links are not followed."""
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = f"{at}/{name}"
            if name.startswith("auth-") or os.path.islink(path) or not os.path.isfile(path) or not os.stat(path).st_mode & 0o004:
                continue
            with open(path, encoding="utf-8", errors="replace") as file:
                yield f"{into}/{os.path.relpath(path, folder)}", file.read()


def _listed(folder: str) -> Iterable[str]:
    """A line for each file below a folder: mode, owner, size, time of the last change, path and target."""
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*folders, *names]):
            path = f"{at}/{name}"
            info = os.lstat(path)
            target = f" -> {os.readlink(path)}" if os.path.islink(path) else ""
            yield f"{info.st_mode:o} {info.st_uid} {info.st_size} {info.st_mtime:.0f} {path}{target}\n"


def _passwords() -> list[str]:
    """Every VRRP password on this node, the longest first: one may contain another."""
    found = set()
    for at, _, names in os.walk(state.BASE):
        for name in names:
            if name.endswith(".conf"):
                found |= set(re.findall(r"\bauth_pass\s+\"?([^\s\"]+)", _readable(f"{at}/{name}")))
    return sorted(found, key=lambda password: (-len(password), password))


def _readable(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _without(text: str, passwords: list[str]) -> str:
    """The text without these passwords, also as JSON writes them, and without any word after `auth_pass`."""
    for password in passwords:
        for written in (password, json.dumps(password)[1:-1]):
            text = text.replace(written, _INSTEAD)
    return re.sub(r"(\bauth_pass\s+)\S.*", rf"\1{_INSTEAD}", text)
