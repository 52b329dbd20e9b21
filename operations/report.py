"""`python -m operations.report FOLDER`: what `operations diff` left in FOLDER, as Markdown for a pull request.

Standard library only, and nothing of FOLDER is run, imported or trusted: the workflow that may write comments calls this
on what an unknown author's branch produced. So every word of it is in a code span or fence that it cannot end, and
symbolic links are not followed.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from operations import change
from operations.change import ANYWHERE, Change, Side

MARK = "<!-- openshift-lvs: what a change does to each host -->"
"""First line of the comment, by which the next run finds it."""
COMMENT_LIMIT = 65_536
"""GitHub's limit for a comment is in characters; kept in bytes, it holds either way."""
FOLDED_LINES = 20
"""A longer fence is folded."""
SOURCES = 3
"""So many sources of rules are in the summary."""

_PROGRAM_FILES = "node/"
_INSTALL = "node/install"
"""Not part of the program's digest: it only puts the program beside the one in force."""


class Fence(NamedTuple):
    """A fenced text under a title. Title: Markdown and, for where it is folded, plain text."""

    title: str
    plain: str
    language: str
    text: str


Section = str | Fence


def report(folder: Path, limit: int | None = None) -> str:
    """The whole report, or as much of it as fits in `limit` bytes and a pointer to the rest."""
    changes = [Change.read(folder, stack) for stack in change.known_stacks(folder)]
    alike = [each for each in changes if each.nothing]
    sections: list[Section] = [f"{MARK}\n{_summary(folder, changes)}\n\n{_commits(folder)}"]
    if alike:
        sections.append(f"Unchanged: {_list(each.stack for each in alike)}.\n")
    if not changes:
        sections.append("\nNothing was rendered: the log of the run says why.\n")
    sections += _every_host(folder, changes)
    for each in changes:
        if not each.nothing:
            sections += _stack(each)
    return _fit([*sections, *_previews(folder)], limit)


def patch(folder: Path) -> str:
    """Every difference as one unified diff, host by host."""
    changed = []
    for stack in change.known_stacks(folder):
        base, head = Side.read(folder / "base", stack), Side.read(folder / "head", stack)
        for host in change.union(base.hosts, head.hosts) if head.refused is None else []:
            for path, lines in change.differences(base.hosts.get(host, {}), head.hosts.get(host, {})).items():
                name = f"{stack}/{host}/{path}"
                changed.append(f"--- a/{name}\n+++ b/{name}\n{lines}")
    return "".join(changed)


def refused(folder: Path) -> bool:
    """Whether a stack of head is refused: by its model or program, or because it needs two deployments."""
    changes = [Change.read(folder, stack) for stack in change.known_stacks(folder)]
    return any(each.refused is not None or each.refusals for each in changes)


def to_json(folder: Path) -> dict[str, Any]:
    """The comparison as JSON has it: see docs/reference/operations.md."""
    changes = [Change.read(folder, stack) for stack in change.known_stacks(folder)]
    return {
        "result": "failed" if refused(folder) else "ok",
        "every_host": [*change.differences(*(change.texts(folder / side / "nodes") for side in ("base", "head")))],
        "stacks": {each.stack: each.to_json() for each in changes},
        "findings": [finding for each in changes for finding in each.findings],
    }


# --- the summary ---


def _summary(folder: Path, changes: list[Change]) -> str:
    """One line for all stacks."""
    changed = [each for each in changes if not each.nothing]
    if not changed and any(_every_host(folder, changes)):
        return "**No host reloads; what is installed on every host changes.**"
    if not changed:
        return "**No host and no resource changes.**"
    several = len(changes) > 1
    return " ".join(f"**{f'{_code(each.stack)}: ' if several else ''}{'; '.join(_clauses(each))}.**" for each in changed)


def _clauses(each: Change) -> Iterator[str]:
    if each.refused is not None:
        yield "the configuration is refused"
        return
    if not each.head.hosts:
        yield "the stack is removed from the project, and nothing is touched"
        return
    if each.refusals:
        yield "refused, because it needs two deployments"
    if not each.base.hosts:
        yield "base cannot be compared" if each.base.refused is not None else "a new stack"
    yield from _host_clauses(each)
    yield from _vip_clauses(each)
    yield from _resource_clauses(each)


def _host_clauses(each: Change) -> Iterator[str]:
    total, steps = len(each.head.hosts), [each.step(host) for host in each.all_hosts]
    clauses = [
        *_count(steps.count("reload"), f"of {total} hosts reloads", f"of {total} hosts reload"),
        *_count(steps.count("restart of keepalived"), f"of {total} hosts restarts keepalived", f"of {total} hosts restart keepalived"),
        *_count(steps.count("settings applied"), f"of {total} hosts gets new settings", f"of {total} hosts get new settings"),
        *_count(steps.count("keepalived starts"), f"of {total} hosts starts keepalived", f"of {total} hosts start keepalived"),
        *_count(steps.count("keepalived stops"), f"of {total} hosts stops keepalived", f"of {total} hosts stop keepalived"),
        *_count(steps.count(change.BECOMES), "host becomes a director", "hosts become directors"),
        *_count(steps.count(change.LEAVES), "host is no director any more", "hosts are no directors any more"),
        *_count(steps.count("new"), "host is new", "hosts are new"),
        *_count(steps.count("removed from the stack"), "host is removed", "hosts are removed"),
    ]
    yield from clauses or ["no host changes"]


def _vip_clauses(each: Change) -> Iterator[str]:
    base, head = each.base.vips, each.head.vips
    for name in change.union(base, head) if each.base.hosts else []:
        if name not in head:
            yield f"{_code(base[name].address)} is given up"
        elif name not in base:
            yield f"{_code(head[name].address)} is new"
        else:
            if base[name].address != head[name].address:
                yield f"{_code(base[name].address)} becomes {_code(head[name].address)}"
            yield from (f"{_code(address)} is new" for address in head[name].added(base[name]))
            yield from (f"{_code(address)} is given up" for address in base[name].added(head[name]))
            if base[name].owner != head[name].owner:
                yield f"{_code(head[name].address)} moves to {_code(head[name].owner)}"


def _resource_clauses(each: Change) -> Iterator[str]:
    if not each.listed:
        yield "OpenStack's part is not known"
        return
    if not each.base.hosts:
        if sources := [source for source in ANYWHERE if source in each.opened]:
            yield f"its rules open ports to {' and '.join(sources)}"
        return
    sources = list(dict.fromkeys(each.opened))
    for source in sources[:SOURCES]:
        yield from _count(each.opened.count(source), f"rule opens to {_source(source)}", f"rules open to {_source(source)}")
    yield from _count(sum(each.opened.count(source) for source in sources[SOURCES:]), "more rule opens", "more rules open")
    yield from _count(len(each.closed), "rule closes", "rules close")
    if "Instance" in {resource.kind for resource in each.deleted}:
        yield from _count(sum(resource.kind == "Instance" for resource in each.deleted), "server is deleted", "servers are deleted")
    named = f" ({_list(resource.title for resource in each.replaced)})"
    yield from list(_count(len(each.replaced), f"resource is replaced{named}", f"resources are replaced{named}")) or ["nothing is replaced"]


def _source(source: str) -> str:
    return source if source in ANYWHERE else _code(source)


def _count(number: int, one: str, many: str) -> Iterator[str]:
    if number:
        yield f"{number} {one if number == 1 else many}"


def _commits(folder: Path) -> str:
    base, head = (change.text_of(folder / side / "commit") for side in ("base", "head"))
    return f"Base {_code(base.strip())}, head {_code(head.strip())}. " if base and head else ""


# --- the parts ---


def _stack(each: Change) -> Iterator[Section]:
    yield f"\n### Stack {_code(each.stack)}\n\n"
    if each.refused is not None:
        yield f"**The configuration is refused**, and nothing would be touched:\n{_fence(each.refused)}"
        return
    if not each.head.hosts:
        yield f"The stack is deleted. Its hosts ({_list(each.base.hosts)}) keep what they have until `pulumi destroy`.\n"
        return
    if each.refusals:
        yield f"**Refused: this needs two deployments.** Nothing may be deployed of it.\n{_fence(chr(10).join(each.refusals))}\n"
    if each.base.refused is not None:
        yield f"The base could not be rendered, so everything counts as new:\n{_fence(each.base.refused)}\n"
    elif not each.base.hosts:
        yield "The stack is new.\n\n"
    elif not each.listed:
        yield f"The resources in OpenStack cannot be compared, because base could not be asked for its own:\n{_fence(each.base.unlisted or 'unknown')}\n"
    yield from (f"- {line}\n" for line in _vip_lines(each))
    steps: dict[str, list[str]] = {}
    for host in each.all_hosts:
        steps.setdefault(_step(each, host), []).append(host)
    yield from (f"- {_list(hosts)}: {step}\n" for step, hosts in steps.items())
    yield from (f"- before the deployment: `operations drain` {_code(host)}, which may hold {_list(vips)}\n" for host, vips in each.drains.items())
    if each.kinds:
        yield "\nWhat happens:\n\n"
        # No table: a pipe in a name would end its cell.
        yield from (f"- {effect.change} ({_list(found)}): {effect.happens}\n" for effect, found in each.kinds.items())
    if lines := each.resource_lines:
        yield Fence(f"**OpenStack**: {_resource_counts(each)}", f"OpenStack: {_resource_counts(each)}", "diff", lines)
    yield from _diffs(each)


def _resource_counts(each: Change) -> str:
    changed = each.resource_lines.count("\n  ") + each.resource_lines.startswith("  ")
    counts = {"made": len(each.made), "deleted": len(each.deleted), "changed": changed, "replaced": len(each.replaced)}
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count)


def _vip_lines(each: Change) -> Iterator[str]:
    base, head = each.base.vips, each.head.vips
    for name in change.union(base, head):
        if name not in base:
            yield f"VIP {_code(head[name].address)} ({_code(name)}) is new, at {_code(head[name].owner)}"
            continue
        if name not in head:
            yield f"VIP {_code(base[name].address)} ({_code(name)}) is given up"
            continue
        old, new = base[name], head[name]
        if old.address != new.address:
            yield f"VIP {_code(old.address)} ({_code(name)}) becomes {_code(new.address)}"
        yield from (f"additional address {_code(address)} of VIP {_code(name)} is new" for address in new.added(old))
        yield from (f"additional address {_code(address)} of VIP {_code(name)} is given up" for address in old.added(new))
        if old.owner != new.owner:
            yield f"VIP {_code(new.address)} ({_code(name)}) moves from {_code(old.owner)} to {_code(new.owner)}"
        for host, priority in new.priorities.items():
            if old.priorities.get(host, priority) != priority:
                yield f"priority of {_code(host)} for {_code(new.address)}: {old.priorities[host]} → {priority}"


def _step(each: Change, host: str) -> str:
    """What the roll-out does on a host, and to which files."""
    step = each.step(host)
    if step in ("new", "removed from the stack", "no change"):
        return step
    changed = each.differences(host)
    if not changed:
        return f"{step}; only the program changes"
    return f"{step}; {len(changed)} file{'s' if len(changed) > 1 else ''} ({_list(changed)})"


def _diffs(each: Change) -> Iterator[Fence]:
    """One fence for each difference; hosts with the same one share it."""
    alike: dict[tuple[str, str], list[str]] = {}
    for host in each.all_hosts:
        for path, lines in each.differences(host).items():
            alike.setdefault((path, lines), []).append(host)
    for (path, lines), hosts in alike.items():
        yield Fence(f"{_list(hosts)}: {_code(path)}", f"{', '.join(hosts)}: {path}", "diff", lines)


def _every_host(folder: Path, changes: list[Change]) -> Iterator[str]:
    """What every host receives unchanged. A pull request shows its text already."""
    base, head = change.texts(folder / "base" / "nodes"), change.texts(folder / "head" / "nodes")
    paths = [*change.differences(base, head)]
    program = [path for path in paths if path.startswith(_PROGRAM_FILES) and path != _INSTALL]
    scripts = [path for path in paths if not path.startswith(_PROGRAM_FILES)]
    new_version = any(change.program(each.base.hosts[host]) != change.program(each.head.hosts[host]) for each in changes for host in each.kept)
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


def _previews(folder: Path) -> Iterator[Section]:
    for name, text in change.texts(folder / "preview").items():
        stack = name.removesuffix(".txt")
        yield Fence(f"### `pulumi preview --diff` of {_code(stack)}", f"pulumi preview --diff of {stack}", "text", text)


# --- Markdown ---


def _fit(sections: list[Section], limit: int | None) -> str:
    """All sections, or the first ones, a fence that is cut where it must be, and a pointer."""
    text = "".join(map(_shown, sections))
    if limit is None or len(text.encode()) <= limit:
        return text
    pointer = (
        "\n**The rest does not fit into a comment.** All of it is in the artifacts of this check's run (`hosts.diff`, `preview/STACK.txt`); "
        "`python -m operations diff --base REF` prints the hosts' part.\n"
    )
    kept, room = "", limit - len(pointer.encode())
    for section in sections:
        if (size := len(_shown(section).encode())) > room:
            return kept + (_cut(section, room) if isinstance(section, Fence) else "") + pointer
        kept, room = kept + _shown(section), room - size
    return kept + pointer


def _shown(section: Section) -> str:
    """A section as Markdown: a long fence is folded."""
    if isinstance(section, str):
        return section
    fence = _fence(section.text, section.language)
    if section.text.count("\n") <= FOLDED_LINES:
        return f"\n{section.title}\n{fence}"
    # Markdown is not read within a line of HTML.
    lines = section.text.count("\n")
    return f"\n<details><summary><code>{html.escape(_line(section.plain))}</code> ({lines} lines)</summary>\n\n{fence}\n</details>\n"


def _cut(fence: Fence, room: int) -> str:
    """As many lines of a fence as fit; nothing when not one of them does."""
    lines = fence.text.splitlines(keepends=True)
    few, many = 0, len(lines)
    while few < many:
        half = (few + many + 1) // 2
        few, many = (half, many) if len(_shown(fence._replace(text="".join(lines[:half]))).encode()) <= room else (few, half - 1)
    return _shown(fence._replace(text="".join(lines[:few]))) if few else ""


def _code(text: str) -> str:
    """A code span that its content cannot end, on one line."""
    shown = _line(text)
    ticks = "`" * (_longest_run(shown) + 1)
    pad = " " if len(ticks) > 1 else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _line(text: str) -> str:
    return _visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _list(texts: Mapping[str, object] | Iterable[str]) -> str:
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m operations.report", description=__doc__)
    parser.add_argument("folder", type=Path)
    sys.stdout.write(report(parser.parse_args().folder, COMMENT_LIMIT))
