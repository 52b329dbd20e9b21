"""Runs experiments, judges them, and keeps what came of them: a table, build/faults/results.json, and a picture each."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lab.nodes import machine, picture, probe
from lab.nodes.experiments import POOLS, Bound, Experiment, Scene, Step, all_live
from lab.nodes.probe import INFRA, MASTER, Probe, Seen
from lab.stack import PROJECT

RESULTS = PROJECT / "build" / "faults"
QUIET_S = 2.0
"""What the probes see before the event, and after all is in order again."""
ATTEMPTS = 2
SYNS_AT_MOST = 2.05
"""Client to director, director to server; a loop sends a SYN round until its TTL ends. The rest is what the kernel sent again."""
FAIR_SHARE = 1 / 3
"""Of an even share of the answers: clients are spread by a hash."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a step came to; `broken` says in words which bounds did not hold."""

    step: Step
    bound: Bound
    seen: Seen
    moment: float
    whole_after_s: float
    broken: tuple[str, ...]

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy to tell: requests past the balancer failed too."""
        return bool(self.broken and self.seen.noise)

    def row(self) -> dict[str, Any]:
        """This run in results.json."""
        seen = self.seen
        return {
            "name": self.step.name,
            "kind": self.step.kind,
            "runs": 1,
            "sent": len(seen.requests),
            "failed": len(seen.failures),
            "errors": seen.errors,
            "longest_gap_s": seen.longest_gap_s,
            "last_failure_s": seen.last_failure_after(self.moment),
            "streams": len(seen.streams),
            "streams_alive": len(seen.streams) - len(seen.lost_streams),
            "answers": seen.answers,
            "syns_per_request": seen.syns_per_request,
            "seconds_with_holders": {count: seconds for count in (0, 1, 2) if (seconds := seen.seconds_with_holders(count, self.moment))},
            "whole_after_s": self.whole_after_s,
            "noise": seen.noise,
            "bound": self.bound.text,
            "holds": not self.broken,
            "broken": list(self.broken),
        }


def run(experiment: Experiment) -> list[Outcome]:
    """All steps of an experiment, each under probes of its own; all once more when the machine was too busy to tell."""
    for _ in range(ATTEMPTS):
        outcomes = _run_all(experiment)
        if not any(outcome.noisy for outcome in outcomes):
            break
    return outcomes


def _run_all(experiment: Experiment) -> list[Outcome]:
    holder = probe.holder(experiment.target)
    scene = Scene(experiment.target, holder, next(node for node in POOLS[experiment.target.vip] if node != holder))
    try:
        return [_run(step, scene) for step in experiment.steps]
    except BaseException:
        mend()
        raise


def mend() -> None:
    """Undo every fault that an experiment which was cut short left behind, and wait until all is well."""
    machine.run("lab", "mend")
    for target in (MASTER, INFRA):
        probe.wait_until_whole(all_live(target=target), target)


def _run(step: Step, scene: Scene) -> Outcome:
    probes = Probe(scene.target, step.asked_from(scene))
    with probes:
        time.sleep(QUIET_S)  # part of the measurement
        scene.moment = probe.now()
        step.act(scene)
        probe.wait_until_whole(step.live(scene), scene.target)
        whole_after_s = round(probe.now() - scene.moment, 1)
        time.sleep(QUIET_S)  # part of the measurement
    bound = step.bound(scene)
    outcome = Outcome(step, bound, probes.seen, scene.moment, whole_after_s, tuple(broken(bound, scene, probes.seen)))
    print(line(outcome), flush=True)
    return outcome


def broken(bound: Bound, scene: Scene, seen: Seen) -> Iterable[str]:
    """What did not hold, in words."""
    counted = dataclasses.replace(seen, requests=tuple(request for request in seen.requests if bound.only in ("", request.name)))
    if bound.failed is not None and len(counted.failures) > bound.failed:
        yield f"{len(counted.failures)} of {len(counted.requests)} failed: {counted.errors}"
    if bound.gap_s is not None and seen.longest_gap_s > bound.gap_s:
        yield f"nobody was served for {seen.longest_gap_s} s"
    if bound.quiet_after_s is not None and (last := counted.last_failure_after(scene.moment)) > bound.quiet_after_s:
        yield f"a request failed {last} s after the event"
    if bound.one_owner_after_s is not None and (two := seen.seconds_with_holders(2, scene.moment)) > bound.one_owner_after_s:
        yield f"two nodes held the address for {two} s"
    lost = [stream for stream in seen.lost_streams if bound.may_lose_streams_of not in (stream.server, "*")]
    if lost:
        yield f"{len(lost)} of {len(seen.streams)} streams lost: {sorted({f'{s.server}: {s.error}' for s in lost})}"
    if seen.syns_per_request > SYNS_AT_MOST:
        yield f"{seen.syns_per_request} SYNs a request: frames loop"
    servers = POOLS[scene.target.vip]
    fair = sum(seen.answers.values()) / len(servers) * FAIR_SHARE
    if bound.every_server and (poor := [name for name in servers if seen.answers.get(name, 0) < fair]):
        yield f"{', '.join(poor)} answered less than a third of an even share: {seen.answers}"


def record(outcome: Outcome) -> None:
    """Add a run to results.json, where the worst of all runs of a step stands, and draw it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "results.json"
    rows: dict[str, dict[str, Any]] = {row["name"]: row for row in (json.loads(path.read_text()) if path.exists() else [])}
    row, before = outcome.row(), rows.get(outcome.step.name)
    if before is None or _badness(row) >= _badness(before):
        (RESULTS / f"{re.sub('[^a-z0-9]+', '-', outcome.step.name.lower()).strip('-')}.svg").write_text(
            picture.draw(outcome.step.name, outcome.seen, outcome.moment)
        )
    if before is not None:
        runs = before["runs"] + 1
        row = {**(before if _badness(before) > _badness(row) else row), "runs": runs}
    rows[outcome.step.name] = row
    path.write_text(json.dumps(list(rows.values()), indent=2) + "\n")


def line(outcome: Outcome) -> str:
    """A run as a line of the table."""
    row = outcome.row()
    broken = f"{'NOISE' if outcome.noisy else 'BROKEN'}: {'; '.join(outcome.broken)}"
    verdict = broken if outcome.broken else "holds"
    return (
        f"{row['name']:<52} {row['sent']:>5} sent {row['failed']:>4} failed  gap {row['longest_gap_s']:>5} s  "
        f"streams {row['streams_alive']:>2}/{row['streams']}  whole after {row['whole_after_s']:>5} s  {verdict}"
    )


def _badness(row: dict[str, Any]) -> tuple[bool, int, float]:
    return not row["holds"], row["failed"], row["longest_gap_s"]
