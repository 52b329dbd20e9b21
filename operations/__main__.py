"""`python -m operations VERB`: see `python -m operations --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from components.cluster import ConfigurationError
from operations import diff, render, report


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Exit status 0: done; 1: the configuration is at fault, and the text says where."""
    options = _parse(arguments)
    try:
        return _diff(options) if options.verb == "diff" else _render(options)
    except (ConfigurationError, diff.BaseError) as error:
        print(error, file=sys.stderr)
        return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m operations", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("render", help="print the files of each host: no engine, no cloud, no network")
    verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
    verb.add_argument("--host", help="this host only")
    verb.add_argument("--output", type=Path, help="write them below this folder instead, as HOST/FILE")
    verb.add_argument("--root", type=Path, default=Path.cwd(), help="the project's folder (here)")
    verb = verbs.add_parser("diff", help="print what the project, as it lies here, changes on each host of every stack since a commit")
    verb.add_argument("--base", required=True, help="a commit or branch: compared with where the project left it")
    verb.add_argument("--output", type=Path, help="write rendered files, hosts.diff and comment.md to this folder instead, made anew")
    verb.add_argument("--root", type=Path, default=Path.cwd(), help="the project's folder (here)")
    return parser.parse_args(arguments)


def _render(options: argparse.Namespace) -> int:
    hosts = render.files(options.root, options.stack, options.host)
    if options.output:
        render.write(hosts, options.output)
    else:
        print(render.text(hosts), end="")
    return 0


def _diff(options: argparse.Namespace) -> int:
    if options.output:
        return 0 if diff.diff(options.root, options.base, options.output) else 1
    with tempfile.TemporaryDirectory() as folder:
        accepted = diff.diff(options.root, options.base, Path(folder))
        print(report.report(Path(folder)), end="")
    return 0 if accepted else 1


if __name__ == "__main__":
    sys.exit(main())
