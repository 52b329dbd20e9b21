"""`python -m operations VERB`: see `python -m operations --help`."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

INTERRUPTED = 130

try:
    from components.configuration import Cluster, ConfigurationError, UsageError
    from node.openshift_lvs.journal import utc
    from operations import diff, help, imported, machine_config, preflight, preview, render, report
    from operations.diagnose import diagnose
    from operations.drain import Draining, Refused, Step
    from operations.nodes import CONNECT_SECONDS, Nodes, NodesError, reach
    from operations.progress import progress
    from operations.status import status
    from operations.verify import Finding, outcome, verify
except KeyboardInterrupt:
    # These imports take half a second or more.
    sys.exit(INTERRUPTED)

FAULT = 1
USAGE = 2
COULD_NOT_ASK = 3
BROKEN_PIPE = 141
"""128 + the number of the signal, as a shell says it."""
EXIT = {"ok": 0, "failed": FAULT, "unknown": COULD_NOT_ASK}
JSON_FORMAT = 1
"""Of everything that `--json` prints. It changes with the name or the meaning of a field; a field that is added does not change it."""
JSON_HELP = "print JSON: docs/reference/operations.md describes it"
REFRESH_S = 2
HOME_AND_CLEAR = "\x1b[H\x1b[J"
"""Cursor to the upper left corner, and the rest of the screen cleared (ECMA-48)."""


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. The exit status is as `--help` says: no error that a user can cause ends in a traceback."""
    options = argparse.Namespace(verb="")
    try:
        options = _parse(arguments)
        with nullcontext() if "watch" in options and options.watch else progress(" ".join((options.verb, options.stack if "stack" in options else "")).strip()):
            status = _answered(options)
        # What is left in the buffer fails here, and not when Python ends.
        print(end="", flush=True)
        return status
    except (ConfigurationError, Refused) as error:
        return _failed(FAULT, error)
    except (UsageError, diff.BaseError, imported.ImportFault) as error:
        return _failed(USAGE, error)
    except (preflight.CloudError, NodesError) as error:
        return _failed(COULD_NOT_ASK, error)
    except subprocess.SubprocessError as error:
        return _failed(COULD_NOT_ASK, f"{options.verb}: {error}")
    except BrokenPipeError:
        # The reader, such as `head`, has enough.
        return BROKEN_PIPE
    except OSError as error:
        return _failed(USAGE, f"{error.filename or options.verb}: {error.strerror or error}")
    except UnicodeError as error:
        return _failed(USAGE, f"{options.verb}: {error}; set a locale with UTF-8, such as LC_ALL=C.UTF-8")
    except KeyboardInterrupt:
        again = f"; {options.host} may be half way: run the same command again" if options.verb in ("drain", "undrain") else ""
        return _failed(INTERRUPTED, f"{options.verb}: interrupted{again}")
    finally:
        _end_output()


def _end_output() -> None:
    """Write what is left in the buffer, or drop it when it cannot be written: Python would print an error at its end (its documentation of SIGPIPE)."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(status: int, error: object) -> int:
    print(error, file=sys.stderr)
    return status


def _answered(options: argparse.Namespace) -> int:
    """Run one verb. With `--json`, a refused configuration and what could not be asked are printed as an object too. Raises the errors of the verb."""
    try:
        return _run(options)
    except (ConfigurationError, preflight.CloudError, NodesError, subprocess.SubprocessError) as error:
        if "json" in options and options.json:
            result = "failed" if isinstance(error, ConfigurationError) else "unknown"
            print(_json(options, {"result": result, "findings": [_finding(options, result, error)]}))
        raise


def _finding(options: argparse.Namespace, result: str, error: Exception) -> dict[str, str]:
    """An error as JSON has it. Its subject is what the verb was called for: a host, the source of an import, a stack, or the base of a comparison."""
    subject = next(str(getattr(options, name)) for name in ("host", "source", "stack", "base") if name in options)
    return {"subject": subject, "result": result, "text": str(error).removeprefix(f"{subject}: ")}


def _run(options: argparse.Namespace) -> int:
    match options.verb:
        case "diff":
            return _diff(options)
        case "render":
            return _render(options)
        case "machine-config":
            cluster = render.cluster(options.root, options.stack)
            into, pool, role = options.into, options.pool, options.role
            print(machine_config.into_ignition(cluster, pool, into) if into else machine_config.machine_config(cluster, pool, role), end="")
            return 0
        case "check-preview":
            return _check_preview(options)
        case "preflight":
            return _preflight(options)
        case "import":
            return _import(options)
        case _:
            return _on_nodes(options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=help.program(), description="Look at a cluster's files and at the cluster itself, and take hosts out of service.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("render", help="print the files of each host: no engine, no cloud, no network")
    verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
    verb.add_argument("--host", help="this host only")
    verb.add_argument("--output", type=_folder, metavar="FOLDER", help="write them below this folder instead, as HOST/FILE")
    verb = verbs.add_parser("machine-config", help="print what the real servers of a pool that the program does not manage need, as a MachineConfig")
    verb.add_argument("pool", help="name of the pool in the configuration")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--role", type=_role, default="worker", help="role of the nodes that get it (worker)")
    how.add_argument("--into", type=_file, metavar="FILE", help="print this Ignition configuration with the same content added, instead of a MachineConfig")
    verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
    verb = verbs.add_parser("diff", help="print what the project, as it lies here, changes on each host of every stack since a commit")
    verb.add_argument("--base", required=True, help="a commit or branch: compared with where the project left it")
    verb.add_argument("--output", type=_folder, metavar="FOLDER", help="write rendered files, hosts.diff and comment.md to this folder instead, made anew")
    verb.add_argument("--json", action="store_true", help=JSON_HELP)
    verb = verbs.add_parser("check-preview", help="refuse a preview that deletes or replaces what the change does not remove, or drops an address pair")
    verb.add_argument("file", type=Path, help="the output of pulumi preview --json")
    verb.add_argument("--stack", required=True, help="name of the stack")
    verb.add_argument("--base", required=True, help="the commit that is deployed now: what it names and Pulumi.STACK.yaml does not may be deleted")
    verb.add_argument("--allow", action="append", default=[], metavar="RESOURCE", help="let this one pass, such as 'Port master0'; may be repeated")
    verb.add_argument("--json", action="store_true", help=JSON_HELP)
    verb = verbs.add_parser("preflight", help="ask the cloud whether it has what the stack needs, before the first up; exit status 1 when something is missing")
    verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
    verb.add_argument("--config-file", type=Path, help="the stack's configuration file, when it is another")
    verb.add_argument("--cloud", help="entry of clouds.yaml; openstack:cloud of the stack when left out")
    verb.add_argument("--json", action="store_true", help=JSON_HELP)
    verb = verbs.add_parser("import", help="print the configuration for what a keepalived.conf does, and list what could not be carried over")
    verb.add_argument("source", metavar="HOST_OR_FILE", help="a keepalived.conf here, or a host that ssh reaches without a question")
    verb.add_argument("--json", action="store_true", help=JSON_HELP)
    for name, what in {
        "status": "show each host, each VIP on its directors, and the real servers; exit status 1 with a fault, 3 when a host could not be asked",
        "verify": "check that the cluster is what is rendered, from inside and from outside; exit status 1 with a fault, 3 when something could not be asked",
        "diagnose": "collect what a bug report about a host needs into one file, without secrets",
        "drain": "take a host out of service without a lost request, and wait for its connections; exit status 1 when some are left",
        "undrain": "put a drained host back into service",
    }.items():
        verb = verbs.add_parser(name, help=what)
        how = verb.add_mutually_exclusive_group()
        how.add_argument("--json", action="store_true", help=JSON_HELP)
        if name == "status":
            how.add_argument("--watch", action="store_true", help=f"refresh every {REFRESH_S} seconds, until Ctrl-C")
        if name == "diagnose":
            verb.add_argument("--output", type=Path, metavar="FILE", help="the file to make (diagnose-HOST-TIME.tar.gz in the current folder)")
        if name in ("drain", "undrain", "diagnose"):
            verb.add_argument("host", help="name of the host in the configuration")
        if name == "drain":
            verb.add_argument("--deadline", type=_seconds, default=60.0, metavar="SECONDS", help="how long its connections have to end (60)")
            verb.add_argument("--server-only", action="store_true", help="as a real server only: addresses that it holds stay")
        verb.add_argument("--stack", required=True, help="name of the stack: reads Pulumi.STACK.yaml")
        verb.add_argument("--config-file", type=Path, help="the stack's configuration file, when it is another")
        verb.add_argument("--identity", type=_file, metavar="FILE", help="the ssh key that opens the nodes, else what agent and ssh configuration offer")
        verb.add_argument("--connect-timeout", type=_whole_seconds, default=CONNECT_SECONDS, metavar="SECONDS",
                          help=f"how long a host may take to answer ssh ({CONNECT_SECONDS})")  # fmt: skip
    for name, verb in verbs.choices.items():
        if name != "import":
            verb.add_argument("--root", type=_project, default=Path.cwd(), help="the project's folder (here)")
    help.explain(parser, verbs.choices)
    return parser.parse_args(arguments)


def _folder(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file; name a folder")
    return Path(text)


def _project(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder; name the project's folder")
    return Path(text)


def _role(text: str) -> str:
    if not re.fullmatch(machine_config.ROLE, text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is no role of nodes, such as worker or master")
    return text


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file")
    return Path(text)


def _whole_seconds(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of seconds from 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0, such as 60")
    return seconds


def _render(options: argparse.Namespace) -> int:
    for warning in render.warnings(render.path(options.root, options.stack)):
        print(f"warning: {warning}", file=sys.stderr)
    hosts = render.files(options.root, options.stack, options.host)
    if options.output:
        render.write(hosts, options.output)
    else:
        print(render.text(hosts), end="")
    return 0


def _preflight(options: argparse.Namespace) -> int:
    path = options.config_file or render.path(options.root, options.stack)
    cluster = render.read(path)
    for warning in render.warnings(path):
        print(f"warning: {warning}", file=sys.stderr)
    cloud = preflight.connect(options.cloud or render.cloud(path)) if cluster.needs_openstack else None
    found: list[preflight.Finding] = []
    for finding in preflight.preflight(cloud, cluster):
        found.append(finding)
        if not options.json:
            print(finding, flush=True)
    lacking = sum(finding.holds is False for finding in found)
    if options.json:
        print(_json(options, {"result": "failed" if lacking else "ok", "findings": [finding.to_json() for finding in found]}))
    else:
        print(f"{lacking} missing" if lacking else "the cloud has what was looked for")
    return FAULT if lacking else 0


def _diff(options: argparse.Namespace) -> int:
    with nullcontext(options.output) if options.output else tempfile.TemporaryDirectory() as folder:
        accepted = diff.diff(options.root, options.base, Path(folder))
        if options.json:
            print(_json(options, report.to_json(Path(folder))))
        elif not options.output:
            print(report.report(Path(folder)).rstrip("\n"))
    return 0 if accepted else FAULT


def _check_preview(options: argparse.Namespace) -> int:
    found = preview.check(preview.read(options.file), preview.removed_names(options.root, options.stack, options.base), options.allow)
    if options.json:
        print(_json(options, {"result": "failed" if found else "ok", "findings": [refusal.to_json() for refusal in found]}))
    else:
        print("\n".join(map(str, found)) or "nothing that is kept would be deleted or replaced, and no allowed address pair removed")
    return FAULT if found else 0


def _import(options: argparse.Namespace) -> int:
    found = imported.import_(options.source)
    if options.json:
        notes = [note.to_json() for note in found.notes]
        print(_json(options, {"result": "ok", "configuration": found.configuration, "notes": notes, "findings": []}))
        return 0
    print(found.text, end="")
    if found.notes:
        print("Not carried over, or to decide:", file=sys.stderr)
        print(imported.report(found.notes), file=sys.stderr)
    return 0


def _on_nodes(options: argparse.Namespace) -> int:
    cluster = render.read(options.config_file) if options.config_file else render.cluster(options.root, options.stack)
    if "host" in options:
        cluster.node(options.host)
    with reach(cluster, options.stack, options.root, options.identity, options.connect_timeout) as nodes:
        match options.verb:
            case "status":
                return _status(options, nodes, cluster)
            case "verify":
                return _verify(options, nodes, cluster)
            case "diagnose" if options.host not in cluster.managed():
                raise UsageError(f"host: {options.host!r} has managed: false, so this project's program is not installed there; name another host")
            case "diagnose":
                made = diagnose(nodes, cluster, options.host, options.root, options.output)
                print(_json(options, {"result": "ok", **made.to_json(), "findings": []}) if options.json else made)
                return 0
            case _:
                return _drain(options, nodes, cluster)


def _status(options: argparse.Namespace, nodes: Nodes, cluster: Cluster) -> int:
    result = "unknown"
    try:
        while True:
            begin = time.monotonic()
            seen = status(nodes, cluster, options.root)
            result = seen.result
            if not options.watch:
                print(_json(options, seen.to_json()) if options.json else seen.text())
                break
            print(f"{HOME_AND_CLEAR}{options.stack}, {utc(time.time())}, every {REFRESH_S} s until Ctrl-C\n\n{seen.text()}", flush=True)
            time.sleep(max(0, begin + REFRESH_S - time.monotonic()))
    except KeyboardInterrupt:
        # Ctrl-C ends --watch, and its last look counts.
        if not options.watch:
            raise
    return EXIT[result]


def _verify(options: argparse.Namespace, nodes: Nodes, cluster: Cluster) -> int:
    found: list[Finding] = []
    for finding in verify(nodes, cluster, options.root):
        found.append(finding)
        if not options.json:
            print(finding, flush=True)
    result = outcome(found)
    if options.json:
        print(_json(options, {"result": result, "findings": [finding.to_json() for finding in found]}))
        return EXIT[result]
    counts = {word: sum(finding.result == word for finding in found) for word in ("failed", "unknown")}
    told = [f"{counts['failed']} failed"] if counts["failed"] else []
    told += [f"{counts['unknown']} could not be asked"] if counts["unknown"] else []
    print(", ".join(told) or "the cluster is what is rendered")
    return EXIT[result]


def _drain(options: argparse.Namespace, nodes: Nodes, cluster: Cluster) -> int:
    done: list[dict[str, str]] = []

    def say(step: Step) -> None:
        done.append(step.to_json())
        print(step, file=sys.stderr if options.json else sys.stdout, flush=True)

    draining = Draining(nodes, cluster, options.host, say)
    try:
        if options.verb == "drain":
            draining.out(options.deadline, options.server_only)
        else:
            draining.back()
    except Refused as error:
        if options.json:
            print(_json(options, {"result": "failed", "findings": [*done, _finding(options, "failed", error)]}))
        raise
    if options.json:
        print(_json(options, {"result": "ok", "findings": done}))
    return 0


def _json(options: argparse.Namespace, content: dict[str, Any]) -> str:
    return json.dumps({"format": JSON_FORMAT, "stack": options.stack if "stack" in options else None, "at": utc(time.time()), **content}, indent=2)


if __name__ == "__main__":
    sys.exit(main())
