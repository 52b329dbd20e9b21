"""`python -m lab.nodes up|down|status|exec NODE COMMAND...`: the data plane lab."""

from __future__ import annotations

import shlex
import subprocess
import sys

from lab.nodes import machine
from lab.phases import Phases


def main(arguments: list[str]) -> int:
    """Run one verb; the exit status is that of the command for `exec`, else 0."""
    phases = Phases()
    match arguments:
        case ["up"]:
            with phases("lab machine and nodes"):
                machine.up()
        case ["down"]:
            with phases("lab machine down"):
                machine.down()
        case ["status"]:
            print(f"running as process {pid}, ssh on 127.0.0.1:{machine.port()}" if (pid := machine.running()) else "not running")
        case ["exec", node, *command] if command:
            return subprocess.run([*machine.ssh(), "machine", shlex.join(["lab", "exec", node, *command])]).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
