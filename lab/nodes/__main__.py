"""`python -m lab.nodes VERB`: the data plane lab.

up [--cluster]        the machine, its nodes, and the example cluster on them by `pulumi up`; with a cluster's own programs on the nodes
down                  the machine away; nothing of it stays
status                whether it runs
exec NODE COMMAND...  on a node, whatever state its network is in
faults [--runs N] [WORD...]
                      the experiments with one of these words in a step's name or kind (all), N times each, to build/faults/
report                what they came to so far, as a Markdown table
cost [--services N]   requests per second and processor time per request, with N services (1 and 50) and with a former release's rules in turn
cost watch            processor time and memory of the resident process of each node
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence

from lab.nodes import cost, machine, runner, stack
from lab.nodes.experiments import EXPERIMENTS
from lab.phases import Phases


def main(arguments: list[str]) -> int:
    """Run one verb; the exit status is that of the command for `exec`, 1 where a bound did not hold, else 0."""
    phases = Phases()
    match arguments:
        case ["up", *rest] if rest in ([], ["--cluster"]):
            with phases("lab machine and nodes"):
                machine.up(cluster=bool(rest))
            with phases("pulumi up"):
                stack.up()
        case ["down"]:
            with phases("lab machine down"):
                machine.down()
                stack.forget()
        case ["status"]:
            print(f"running as process {pid}, ssh on 127.0.0.1:{machine.port()}" if (pid := machine.running()) else "not running")
        case ["faults", "--runs", number, *words] if number.isdecimal() and int(number):
            return faults(words, int(number))
        case ["faults", *words] if "--runs" not in words:
            return faults(words, None)
        case ["report"]:
            print(runner.table())
        case ["cost"]:
            return cost.compare(cost.SERVICES)
        case ["cost", "--services", number] if number.isdecimal() and int(number):
            return cost.compare([int(number)])
        case ["cost", "watch"]:
            return cost.watch()
        case ["exec", node, *command] if command:
            return subprocess.run([*machine.ssh(), "machine", shlex.join(["lab", "exec", node, *command])]).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


def faults(words: Sequence[str], runs: int | None) -> int:
    """Run the chosen experiments and print their table; 0 when there were some and every bound held."""
    chosen = [e for e in EXPERIMENTS if not words or any(word in text for word in words for step in e.steps for text in (step.name, step.kind))]
    if not chosen:
        print(f"no experiment has {' or '.join(words)} in its name or kind", file=sys.stderr)
        return 1
    if any(experiment.cluster for experiment in chosen):
        machine.up(cluster=True)
    runner.mend()
    outcomes = [outcome for experiment in chosen for outcome in runner.run(experiment, runs)]
    runner.restore()
    print(runner.table([outcome.step.name for outcome in outcomes]))
    return 1 if any(outcome.broken for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
