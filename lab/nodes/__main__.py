"""`python -m lab.nodes VERB`: the data plane lab.

up                    the machine, its nodes, and the article's cluster on them by `pulumi up`
down                  the machine away; nothing of it stays
status                whether it runs
exec NODE COMMAND...  on a node, whatever state its network is in
faults [WORD...]      the experiments with one of these words in their name (all), to build/faults/
"""

from __future__ import annotations

import shlex
import subprocess
import sys

from lab.nodes import machine, runner, stack
from lab.nodes.experiments import EXPERIMENTS, Experiment
from lab.phases import Phases


def main(arguments: list[str]) -> int:
    """Run one verb; the exit status is that of the command for `exec`, else 0."""
    phases = Phases()
    match arguments:
        case ["up"]:
            with phases("lab machine and nodes"):
                machine.up()
            with phases("pulumi up"):
                stack.up()
        case ["down"]:
            with phases("lab machine down"):
                machine.down()
                stack.forget()
        case ["status"]:
            print(f"running as process {pid}, ssh on 127.0.0.1:{machine.port()}" if (pid := machine.running()) else "not running")
        case ["faults", *words]:
            runner.mend()
            outcomes = [outcome for experiment in EXPERIMENTS if not words or any(word in experiment.name for word in words) for outcome in _report(experiment)]
            return 0 if outcomes and not any(outcome.broken for outcome in outcomes) else 1
        case ["exec", node, *command] if command:
            return subprocess.run([*machine.ssh(), "machine", shlex.join(["lab", "exec", node, *command])]).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def _report(experiment: Experiment) -> list[runner.Outcome]:
    outcomes = runner.run(experiment)
    for outcome in outcomes:
        runner.record(outcome)
    return outcomes


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
