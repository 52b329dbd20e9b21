"""`python -m lab VERB`: the example cluster on a real OpenStack of its own, on this machine.

up            everything, from nothing to both addresses answering; goes on where an earlier run stopped
down          everything away: no process, namespace, mount or interface stays
pulumi ARGS   the engine with the stack's environment, such as `pulumi preview --diff`
ssh HOST      a shell on a node, host keys verified
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from lab import cache, cloud, local, proof, pulumi
from lab.phases import Phases

BUILD = Path(__file__).parent.parent / "build"


def up() -> int:
    """0 when every request through every address was answered."""
    phases = Phases()
    try:
        with phases("engine"):
            pulumi.environment()
        cloud.up(phases)
        with phases("stack"):
            stack = local.prepare()
        with phases("pulumi up"):
            stack.run("up", "--yes", "--skip-preview", note=phases.note)
            outputs = stack.outputs()
            local.remember(outputs)
        with phases("requests through every address"):
            answers = list(proof.ask(outputs, phases.note))
    except (RuntimeError, TimeoutError, subprocess.CalledProcessError) as error:
        print(f"\nmake up failed: {error}", file=sys.stderr)
        return 1
    finally:
        phases.write(BUILD / "up" / "phases.json")
    (BUILD / "up" / "answers.json").write_text(json.dumps([a._asdict() for a in answers], indent=2) + "\n")
    print(proof.report(outputs, answers))
    print(f"\n{time.monotonic() - phases.began:.0f} s; the machine's memory peaked at {phases.peak_memory_mb} MB")
    failed = [a for a in answers if a.failed or a.sent != proof.REQUESTS]
    for a in failed:
        print(f"\nmake up failed: {a.failed} of {a.sent} requests from {a.source} through {a.target} were not answered: {a.errors}", file=sys.stderr)
    return 1 if failed else 0


def down() -> int:
    """0 when nothing is left."""
    phases = Phases()
    try:
        with phases("down"):
            cloud.down()
    except (RuntimeError, TimeoutError) as error:
        print(f"\nmake down failed: {error}", file=sys.stderr)
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Run one verb; one `up` or `down` at a time on a machine."""
    verb = arguments[0] if arguments else ""
    if verb in ("up", "down"):
        cache.root().mkdir(parents=True, exist_ok=True)
        with (cache.root() / ".lab.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another `make up` or `make down` is running on this machine; wait for it", file=sys.stderr)
                return 1
            return up() if verb == "up" else down()
    try:
        if verb == "pulumi":
            argv = local.stack().command(*arguments[1:])
            os.chdir(BUILD.parent)
            os.execvpe(argv[0], argv, local.stack().environment())
        if verb == "ssh" and len(arguments) > 1:
            argv = local.ssh(*arguments[1:])
            os.execvp(argv[0], argv)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
