"""`python -m operations VERB`: see `python -m operations --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from components.cluster import ConfigurationError
from operations import render


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Exit status 0: done; 1: the configuration is at fault, and the text says where."""
    parser = argparse.ArgumentParser(prog="python -m operations", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("render", help="print the files of each host: no engine, no cloud, no network")
    verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
    verb.add_argument("--host", help="this host only")
    verb.add_argument("--output", type=Path, help="write them below this folder instead, as HOST/FILE")
    verb.add_argument("--root", type=Path, default=Path.cwd(), help="the project's folder (here)")
    options = parser.parse_args(arguments)
    try:
        hosts = render.files(options.root, options.stack, options.host)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 1
    if options.output:
        render.write(hosts, options.output)
    else:
        print(render.text(hosts), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
