"""`python -m operations.report FOLDER`: what `operations diff` left in FOLDER, as Markdown for a pull request.

Standard library only, and nothing of FOLDER is run, imported or trusted: the workflow that may write comments calls this
on what an unknown author's branch produced. So every word of it is in a code span or fence that it cannot end, and
symbolic links are not followed.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MARK = "<!-- openshift-lvs: what a change does to each host -->"
"""First line of the comment, by which the next run finds it."""
COMMENT_LIMIT = 65_536
"""GitHub's limit for a comment is in characters; kept in bytes, it holds either way."""

_INSTANCE = re.compile(r"^vrrp_instance (\S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_PRIORITY = re.compile(r"^ +priority (\d+)$", re.MULTILINE)
_ADDRESS = re.compile(r"virtual_ipaddress \{\s+([0-9.]+)")

_PROGRAM = re.compile(r'^  "program": "(.*)",$', re.MULTILINE)
"""The line of a host's host.json that names the program by a digest of its content."""
_PROGRAM_FILES = "node/"
_INSTALL = "node/install"
"""Not part of the digest: it only puts the program beside the one in force."""

Files = Mapping[str, str]
"""The files of one host: text by path."""


@dataclass
class Side:
    """A stack on one side of the change: its hosts' files, or why it was refused."""

    hosts: dict[str, Files] = field(default_factory=dict)
    refused: str | None = None

    @classmethod
    def read(cls, tree: Path, stack: str) -> Side:
        """What was rendered of that stack; nothing when it is not there."""
        refused = tree / "refused" / stack
        hosts: dict[str, Files] = {host: _texts(tree / "stacks" / stack / host) for host in _names(tree / "stacks" / stack)}
        return cls(hosts, _text(refused) if refused.is_file() and not refused.is_symlink() else None)


@dataclass
class Address:
    """A highly available address as the hosts' files have it."""

    address: str
    priorities: dict[str, int] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The host that the address belongs to."""
        return max(self.priorities, key=lambda host: self.priorities[host])


def report(folder: Path, limit: int | None = None) -> str:
    """The whole report, or as much of it as fits in `limit` bytes and a pointer to the rest."""
    return _fit([f"{MARK}\n## What this change does to each host\n", *_every_host(folder), *_stacks(folder), *_previews(folder)], limit)


def patch(folder: Path) -> str:
    """Every difference as one unified diff, host by host."""
    changed = []
    for stack in _known_stacks(folder):
        base, head = Side.read(folder / "base", stack), Side.read(folder / "head", stack)
        for host in _union(base.hosts, head.hosts) if not head.refused else []:
            for path, lines in _differences(base.hosts.get(host, {}), head.hosts.get(host, {})).items():
                name = f"{stack}/{host}/{path}"
                changed.append(f"--- a/{name}\n+++ b/{name}\n{lines}")
    return "".join(changed)


def _stacks(folder: Path) -> Iterator[str]:
    stacks = _known_stacks(folder)
    if not stacks:
        yield "\nNothing was rendered: the log of the run says why.\n"
    for stack in stacks:
        base, head = Side.read(folder / "base", stack), Side.read(folder / "head", stack)
        yield f"\n### Stack {_code(stack)}\n\n"
        if head.refused is not None:
            yield f"**The configuration is refused**, and nothing would be touched:\n{_fence(head.refused)}"
            continue
        if not head.hosts:
            yield f"The stack is deleted. Its hosts ({_list(base.hosts)}) keep what they have until `pulumi destroy`.\n"
            continue
        if base.refused is not None:
            yield f"The base could not be rendered, so everything counts as new:\n{_fence(base.refused)}\n"
        elif not base.hosts:
            yield "The stack is new.\n\n"
        yield from (f"- {line}\n" for line in _address_lines(_addresses(base.hosts), _addresses(head.hosts)))
        yield from (f"- {_code(host)}: {_effect(base.hosts.get(host), head.hosts.get(host))}\n" for host in _union(base.hosts, head.hosts))
        yield from _diffs(base.hosts, head.hosts)


def _diffs(base: Mapping[str, Files], head: Mapping[str, Files]) -> Iterator[str]:
    """One fence per difference; hosts with the same one share it."""
    alike: dict[tuple[str, str], list[str]] = {}
    for host in _union(base, head):
        for path, lines in _shown_differences(base.get(host, {}), head.get(host, {})).items():
            alike.setdefault((path, lines), []).append(host)
    for (path, lines), hosts in alike.items():
        yield f"\n{_list(hosts)}: {_code(path)}\n{_fence(lines, 'diff')}"


def _every_host(folder: Path) -> Iterator[str]:
    """What every host receives unchanged. A pull request shows its text already."""
    base, head = _texts(folder / "base" / "nodes"), _texts(folder / "head" / "nodes")
    paths = [*_differences(base, head)]
    program = [path for path in paths if path.startswith(_PROGRAM_FILES) and path != _INSTALL]
    scripts = [path for path in paths if not path.startswith(_PROGRAM_FILES)]
    new_version = any(before != after for before, after in _digests(folder))
    lines = []
    if new_version and scripts:
        what = "The program (`node/`) replaces the scripts" if _INSTALL in head else "Scripts replace the program (`node/`)"
        lines.append(f"{what}: every host gets a new version with a reload, canary first")
    elif new_version:
        named = f" ({_list(program)})" if program else ""
        lines.append(f"The program changes{named}: every host gets a new version of it with a reload, canary first")
    elif scripts and not program:
        lines.append(f"Scripts or units change and are installed anew (`install-HOST`), without a reload: {_list(scripts)}")
    if _INSTALL in base and _INSTALL in head and _INSTALL in paths:
        lines.append(f"{_code(_INSTALL)} changes and runs again (`install-HOST`), without a reload")
    if lines:
        yield "\n### Every host\n\n" + "".join(f"- {line}\n" for line in lines)


def _digests(folder: Path) -> Iterator[tuple[str | None, str | None]]:
    """The program's digest before and after, of every host that both sides have."""
    for stack in _known_stacks(folder):
        base, head = Side.read(folder / "base", stack), Side.read(folder / "head", stack)
        yield from ((_program(base.hosts[host]), _program(head.hosts[host])) for host in base.hosts.keys() & head.hosts.keys())


def _program(files: Files) -> str | None:
    found = _PROGRAM.search(files.get("host.json", ""))
    return found[1] if found else None


def _previews(folder: Path) -> Iterator[str]:
    for name, text in _texts(folder / "preview").items():
        yield f"\n### `pulumi preview --diff` of {_code(name.removesuffix('.txt'))}\n{_fence(text)}"


def _address_lines(base: Mapping[str, Address], head: Mapping[str, Address]) -> Iterator[str]:
    for name in _union(base, head):
        if name not in base:
            yield f"address {_code(head[name].address)} ({_code(name)}) is new, at {_code(head[name].owner)}"
            continue
        if name not in head:
            yield f"address {_code(base[name].address)} ({_code(name)}) is given up"
            continue
        old, new = base[name], head[name]
        if old.address != new.address:
            yield f"address {_code(old.address)} ({_code(name)}) becomes {_code(new.address)}"
        if old.owner != new.owner:
            yield f"address {_code(new.address)} ({_code(name)}) moves from {_code(old.owner)} to {_code(new.owner)}"
        for host, priority in new.priorities.items():
            if old.priorities.get(host, priority) != priority:
                yield f"priority of {_code(host)} for {_code(new.address)}: {old.priorities[host]} → {priority}"


def _addresses(hosts: Mapping[str, Files]) -> dict[str, Address]:
    found: dict[str, Address] = {}
    for host, files in hosts.items():
        for name, block in _INSTANCE.findall(files.get("keepalived.conf", "")):
            if (priority := _PRIORITY.search(block)) and (address := _ADDRESS.search(block)):
                found.setdefault(name, Address(address[1])).priorities[host] = int(priority[1])
    return found


def _effect(before: Files | None, after: Files | None) -> str:
    """What the roll-out does on a host."""
    if after is None:
        return "removed from the stack"
    if before is None:
        return "new"
    if before == after:
        return "no change"
    changed = _shown_differences(before, after)
    ran, runs = "keepalived.conf" in before, "keepalived.conf" in after
    effect = {(True, True): "reload", (False, True): "keepalived starts", (True, False): "keepalived stops", (False, False): "settings applied"}[ran, runs]
    if not changed:
        return f"{effect}; only the program changes"
    return f"{effect}; {len(changed)} file{'s' if len(changed) > 1 else ''} ({_list(changed)})"


def _shown_differences(before: Files, after: Files) -> dict[str, str]:
    """The differences without the program's digest, where both sides have one: `Every host` says once that the program changes."""
    if _program(before) and _program(after):
        before, after = ({**files, "host.json": _PROGRAM.sub('  "program": "...",', files["host.json"])} for files in (before, after))
    return _differences(before, after)


def _differences(before: Files, after: Files) -> dict[str, str]:
    """The hunks of every file that differs, without the two lines that name it."""
    return {
        path: "".join(f"{line}\n" for line in [*difflib.unified_diff(_lines(before.get(path)), _lines(after.get(path)), lineterm="")][2:])
        for path in _union(before, after)
        if before.get(path) != after.get(path)
    }


def _lines(text: str | None) -> list[str]:
    if not text:
        return []
    *lines, last = text.split("\n")
    return [*lines, last, "\\ No newline at end of file"] if last else lines


def _fit(sections: list[str], limit: int | None) -> str:
    text = "".join(sections)
    if limit is None or len(text.encode()) <= limit:
        return text
    pointer = (
        "\n**The rest does not fit into a comment.** All of it is in the artifacts of this check's run (`hosts.diff`, `preview/STACK.txt`); "
        "`python -m operations diff --base REF` prints the hosts' part.\n"
    )
    kept, room = "", limit - len(pointer.encode())
    for section in sections:
        if len(section.encode()) > room:
            return kept + _cut(section, room) + pointer
        kept, room = kept + section, room - len(section.encode())
    return kept + pointer


def _cut(section: str, room: int) -> str:
    """The lines of a section with a fence that fit, and the fence's end; nothing when the fence would not even begin."""
    *lines, end = section.splitlines(keepends=True)
    fence, kept = end.rstrip(), ""
    for line in lines:
        if len((kept + line + end).encode()) > room:
            break
        kept += line
    return kept + end if fence.startswith("```") and f"\n{fence}" in kept else ""


def _code(text: str) -> str:
    """A code span that its content cannot end, on one line."""
    shown = _visible(text).replace("\n", "\\n").replace("\t", "\\t")
    ticks = "`" * (_longest_run(shown) + 1)
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _list(texts: Mapping[str, object] | list[str]) -> str:
    return ", ".join(_code(text) for text in texts)


def _fence(text: str, language: str = "text") -> str:
    """A fenced block that its content cannot end: the fence is longer than any run of backticks in it."""
    ticks = "`" * max(3, _longest_run(text) + 1)
    return f"{ticks}{language}\n{_visible(text).rstrip()}\n{ticks}\n"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _visible(text: str) -> str:
    """Control and direction-changing characters as escapes, so that what is read is what is there."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\u{ord(char):04x}" for char in text)


def _known_stacks(folder: Path) -> list[str]:
    return sorted({name for side in ("base", "head") for kind in ("stacks", "refused") for name in _names(folder / side / kind)})


def _union(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return sorted({*one, *other})


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.is_symlink()) if folder.is_dir() and not folder.is_symlink() else []


def _texts(folder: Path) -> dict[str, str]:
    """Every regular file below a folder; a link is left out, as it could lead to any file of this machine."""
    found: dict[str, str] = {}
    for name in _names(folder):
        path = folder / name
        if path.is_dir():
            found |= {f"{name}/{below}": text for below, text in _texts(path).items()}
        elif path.is_file():
            found[name] = _text(path)
    return found


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m operations.report", description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.stdout.write(report(parser.parse_args().folder, COMMENT_LIMIT))
