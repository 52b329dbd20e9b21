"""Runs experiments, judges them, and keeps what came of them: a table, build/faults/results.json, and a picture each."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lab.nodes import machine, picture, probe, stack
from lab.nodes.experiments.scene import Bound, Description, Experiment, Scene, Step
from lab.nodes.probe import INFRA, LEFT_WAITING, MASTER, Probe, Seen
from lab.stack import PROJECT, DeploymentError

RESULTS = PROJECT / "build" / "faults"
QUIET_S = 2.0
"""What the probes see before the event, and after all is in order again."""
SYNS_AT_MOST = 2.05
"""Client to director, director to server; a loop sends a SYN round until its TTL ends. The rest is what the kernel sent again."""
SYNS_SENT_AGAIN = 6
"""After 1, 3 and 7 s, each seen twice: what a request that waits for a lost server sends while all checks stand still."""
FAIR_SHARE = 1 / 3
"""Of an even share of the answers: clients are spread by a hash."""
TIMERS = 4
"""That a check or a takeover has in turn at most: a check waits its turn and times out, waits for its retry and times out. Each may be late."""
BEFORE_S = 600
"""What is done before an experiment may take so long: three API servers start."""
MEND_S = 180
"""API servers and kube-proxy take a minute to end."""
FAILURES_TOLD = 20
"""How many of the first and of the last results.json has, with their moments, beside those of the control."""
TOGETHER_S = 0.1
"""So far apart the takeovers of both addresses of a VIP may be."""
CUT_SHORT = (TimeoutError, machine.MachineError, DeploymentError, subprocess.TimeoutExpired)
"""What ends a step before its end; the text says what was awaited."""


@dataclass(frozen=True)
class Outcome:
    """What one run of a step came to; `broken` says in words which bounds did not hold. `again`: it was made once more, for the noise."""

    step: Step
    bound: Bound
    seen: Seen
    moment: float
    live: Mapping[str, int]
    whole_after_s: float | None
    broken: tuple[str, ...]
    over_s: float | None = None
    """By how many seconds a bound was missed, when all that is broken is that something took too long."""
    again: bool = False
    told: tuple[str, ...] = ()
    """What the step reported itself."""

    @property
    def cut_short(self) -> bool:
        """Whether the state that was awaited never came."""
        return self.whole_after_s is None

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy to tell: requests past the balancer failed too, or its own timers were as late as what was awaited."""
        explained = self.over_s is not None and self.over_s <= TIMERS * self.seen.delayed_s(self.moment)
        return bool(self.broken and (self.seen.noise or explained))

    def row(self) -> dict[str, Any]:
        """This run in results.json."""
        seen, merged = self.seen, self.seen.merged
        return {
            "name": self.step.name,
            "kind": self.step.kind,
            "runs": 1,
            "runs_again_for_noise": int(self.again),
            "sent": len(merged.requests),
            "failed": len(merged.failures),
            "errors": merged.errors,
            "failures": [
                {"name": each.name, "after_s": round(each.at - self.moment, 2), "connected_s": each.connected, "error": each.error}
                for each in [*merged.failures[:FAILURES_TOLD], *merged.failures[FAILURES_TOLD:][-FAILURES_TOLD:], *(r for r in seen.control if r.error)]
            ],
            "longest_gap_s": max(each.longest_gap_s for each in seen.each),
            "last_failure_s": merged.last_failure_after(self.moment),
            "streams": len(merged.streams),
            "streams_alive": len(merged.streams) - len(merged.lost_streams),
            "answers": merged.answers,
            **({"taken_after_s": [each.taken_after(self.moment) for each in seen.each], "apart_s": seen.apart_s(self.moment)} if seen.beside else {}),
            "syns_per_request": seen.syns_per_request,
            "seconds_with_holders": {count: seconds for count in (0, 1, 2) if (seconds := seen.seconds_with_holders(count, self.moment))},
            "one_owner_after_s": seen.one_owner_after(self.moment),
            "tables_after_s": seen.tables_right_after(self.live, self.moment),
            "tables_wrong_s": seen.tables_wrong_for(self.live, self.moment),
            "whole_after_s": self.whole_after_s,
            "noise": seen.noise,
            "delayed_s": seen.delayed_s(self.moment),
            "checks_waited_s": seen.checks_waited_s,
            "bound": self.bound.text,
            "holds": not self.broken,
            "broken": list(self.broken),
            "told": list(self.told),
        }


def run(experiment: Experiment, runs: int | None = None) -> list[Outcome]:
    """Every run of every step, recorded and printed. Ends with everything in order, or with a lab that was made anew.

    Its configuration stays in force, as the next experiment may have the same: `restore` at the end.
    """
    outcomes: list[Outcome] = []
    try:
        with arranged(experiment) as described:
            for _ in range(runs or experiment.runs):
                for outcome in _twice_if_noisy(experiment, described):
                    record(outcome)
                    outcomes.append(outcome)
    except CUT_SHORT as failure:
        outcomes.append(_unseen(experiment, f"before or after: {failure}"))
        record(outcomes[-1])
        mend()
    return outcomes


@contextmanager
def arranged(experiment: Experiment) -> Iterator[Description]:
    """The configuration of an experiment in force, and what else it needs."""
    described = stack.cluster()
    if experiment.arrange:
        experiment.arrange(described)
    try:
        # First: the checks of the configuration may ask what this starts.
        machine.run("sh", "-euc", experiment.before, timeout_s=BEFORE_S)
        if _Lab.in_force != (described, experiment.auth_pass):
            _put_in_force(described, experiment.auth_pass)
        yield described
    finally:
        machine.run("sh", "-euc", experiment.after, check=False, timeout_s=BEFORE_S)


class _Lab:
    """What the lab's nodes were given last, and are whole with."""

    in_force: tuple[Description, Mapping[str, str]] | None = None


def _put_in_force(described: Description, auth_pass: Mapping[str, str]) -> None:
    _Lab.in_force = None
    stack.up(described, auth_pass)
    for target in (MASTER, INFRA):
        vip = described["vips"][target.vip]
        for address in filter(None, (vip["address"], vip.get("address_v6"), *vip.get("additional_addresses", ()))):
            probe.wait_until_whole(Scene(target, "", "", described).live(), target._replace(address=address))
    _Lab.in_force = copy.deepcopy(described), auth_pass


def restore() -> None:
    """The example cluster again, for whoever uses the lab next."""
    with arranged(Experiment(MASTER, ())):
        pass


def _twice_if_noisy(experiment: Experiment, described: Description) -> list[Outcome]:
    """A run; once more when noise may have broken a bound. What was broken without noise stays, and so does what is broken again."""
    first = _run_all(experiment, described)
    if not any(outcome.noisy for outcome in first):
        return first
    second = [dataclasses.replace(outcome, again=True) for outcome in _run_all(experiment, described)]
    told = {outcome.step for outcome in second}
    return [outcome for outcome in first if not outcome.noisy or outcome.step not in told] + second


def _run_all(experiment: Experiment, described: Description) -> list[Outcome]:
    outcomes: list[Outcome] = []
    try:
        holder = probe.holder(experiment.target)
        scene = Scene(experiment.target, holder, "", copy.deepcopy(described), experiment.auth_pass)
        scene.backup = next(node for node in scene.cluster.directors(scene.cluster.vips[scene.target.vip].pool) if node != holder)
        for step in experiment.steps:
            outcomes.append(_run(step, scene))
            if outcomes[-1].cut_short:
                break
    except CUT_SHORT as failure:
        outcomes.append(_unseen(experiment, str(failure)))
    if outcomes[-1].cut_short:
        mend(described, experiment.auth_pass)
    return outcomes


def _unseen(experiment: Experiment, why: str) -> Outcome:
    """An experiment that could not be run counts as broken."""
    return Outcome(experiment.steps[0], Bound(why), Seen.nothing(experiment.target, time.time()), time.time(), {}, None, (why,))


def mend(described: Description | None = None, auth_pass: Mapping[str, str] | None = None) -> None:
    """Undo every fault and change that something which was cut short left behind, and wait until all is well. A lab that cannot be mended is made anew."""
    described = stack.cluster() if described is None else described
    try:
        machine.run("lab", "mend", timeout_s=MEND_S)
        _put_in_force(described, auth_pass or {})
    except CUT_SHORT as failure:
        print(f"the lab is made anew: {failure}", flush=True)
        cluster = machine.has_cluster()
        machine.down()
        stack.forget()
        machine.up(cluster)
        # The new machine has another port.
        described.update(ssh=stack.cluster()["ssh"])
        _put_in_force(described, auth_pass or {})


def _run(step: Step, scene: Scene) -> Outcome:
    target = scene.target.at(step.port, step.udp)
    scene.told.clear()
    probes = Probe(target, step.asked_from(scene))
    scene.moment = time.time()
    live: Mapping[str, int] = {}
    whole_after_s: float | None = None
    problems: list[str] = []
    seen = Seen.nothing(target, scene.moment)
    try:
        with probes:
            time.sleep(QUIET_S)  # part of the measurement
            scene.moment = probe.now()
            try:
                step.act(scene)
                live = step.live(scene)
                probe.wait_until_whole(live, target)
                problems += step.evidence(scene)
                whole_after_s = round(probe.now() - scene.moment, 1)
            except CUT_SHORT as failure:
                problems.append(str(failure))
            time.sleep(QUIET_S)  # part of the measurement
        seen = probes.seen
    except CUT_SHORT as failure:
        problems.append(str(failure))
        whole_after_s = None
    bound = step.bound(scene)
    if any(broken(bound, scene, seen)) or late(bound, scene, seen, live):
        seen = seen.waited(probe.checks_waited(live, scene.moment))
    too_late = late(bound, scene, seen, live)
    said = (*problems, *broken(bound, scene, seen), *too_late)
    outcome = Outcome(step, bound, seen, scene.moment, live, whole_after_s, said, over_s(said, too_late), told=tuple(scene.told))
    print(line(outcome), flush=True)
    return outcome


def broken(bound: Bound, scene: Scene, seen: Seen) -> Iterable[str]:
    """What did not hold, in words, but for what took too long."""
    if bound.reported:
        return
    counted = _counted(bound, seen)
    if len(counted.requests) < bound.least:
        yield f"only {len(counted.requests)} requests were made"
    refused = sum(request.error == "refused" for request in counted.failures)
    if bound.failed is not None and len(counted.failures) - min(refused, bound.refused) > bound.failed:
        yield f"{len(counted.failures)} of {len(counted.requests)} failed: {counted.errors}"
    silent = sum(request.error in LEFT_WAITING for request in counted.failures)
    if bound.never_silent and silent > bound.waiting:
        yield f"{silent} requests were left without an answer or a refusal"
    if bound.never_refused and refused:
        yield f"{refused} requests were refused"
    lost = [stream for stream in seen.lost_streams if not {"*", stream.server} & set(bound.may_lose_streams_of)]
    if lost:
        yield f"{len(lost)} of {len(seen.streams)} streams lost: {sorted({f'{s.server}: {s.error}' for s in lost})}"
    waiting = sum(request.error in LEFT_WAITING for request in seen.failures) / max(1, len(seen.requests)) if seen.checks_waited_s else 0
    if seen.syns_per_request > SYNS_AT_MOST + SYNS_SENT_AGAIN * waiting:
        yield f"{seen.syns_per_request} SYNs a request: frames loop"
    if bound.every_server:
        servers = scene.cluster.pools[scene.cluster.vips[scene.target.vip].pool].hosts
        fair = sum(seen.answers.values()) / len(servers) * FAIR_SHARE
        if poor := [name for name in servers if seen.answers.get(name, 0) < fair]:
            yield f"{', '.join(poor)} answered less than a third of an even share: {seen.answers}"
    if seen.beside:
        yield from (f"{seen.beside.target.vip}: {words}" for words in broken(bound, scene, seen.beside))


def late(bound: Bound, scene: Scene, seen: Seen, live: Mapping[str, int]) -> dict[str, float]:
    """What took longer than it may, in words, and by how many seconds; without end when it never came.

    `live`: the servers that each director's table came to have. For as long as keepalived's checks stood still, no director removes anybody.
    """
    if bound.reported:
        return {}

    def plus(limit: float | None) -> float | None:
        return None if limit is None else limit + seen.checks_waited_s

    took = {
        "nobody was served for {} s": (bound.gap_s, seen.longest_gap_s),
        "a request failed {} s after the event": (plus(bound.quiet_after_s), _counted(bound, seen).last_failure_after(scene.moment)),
        "one owner only after {} s": (bound.one_owner_after_s, seen.one_owner_after(scene.moment)),
        "the directors' tables were right only after {} s": (plus(bound.tables_after_s), seen.tables_right_after(live, scene.moment)),
        "a director's table was wrong for {} s": (plus(bound.tables_wrong_s), seen.tables_wrong_for(live, scene.moment)),
        "the takeovers of both addresses were {} s apart": (TOGETHER_S if seen.beside else None, seen.apart_s(scene.moment)),
    }
    over = {words.format(found): (math.inf if found is None else found - limit) for words, (limit, found) in took.items() if limit is not None}
    beside = {f"{seen.beside.target.vip}: {words}": seconds for words, seconds in late(bound, scene, seen.beside, live).items()} if seen.beside else {}
    return {words: seconds for words, seconds in over.items() if seconds > 0} | beside


def over_s(said: Sequence[str], too_late: Mapping[str, float]) -> float | None:
    """The most seconds by which a bound was missed; None when anything else was broken too."""
    return max(too_late.values()) if said and set(said) == set(too_late) else None


def _counted(bound: Bound, seen: Seen) -> Seen:
    return dataclasses.replace(seen, requests=tuple(request for request in seen.requests if bound.only in ("", request.name)))


def record(outcome: Outcome) -> None:
    """Add a run to results.json, where the worst of all runs of a step stands, and draw it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    rows = {row["name"]: row for row in results()}
    row, before = outcome.row(), rows.get(outcome.step.name)
    if before is None or _badness(row) >= _badness(before):
        (RESULTS / f"{re.sub('[^a-z0-9]+', '-', outcome.step.name.lower()).strip('-')}.svg").write_text(
            picture.draw(outcome.step.name, f"{outcome.bound.text}: {verdict(outcome)}", outcome.seen.merged, outcome.moment)
        )
    if before is not None:
        counts = {key: before.get(key, 0) + row[key] for key in ("runs", "runs_again_for_noise")}
        row = {**(before if _badness(before) > _badness(row) else row), **counts}
    rows[outcome.step.name] = row
    part = RESULTS / "results.part"
    part.write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    part.rename(RESULTS / "results.json")


def results() -> list[dict[str, Any]]:
    """The rows of results.json."""
    path = RESULTS / "results.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def table(names: Sequence[str] | None = None) -> str:
    """The worst of all runs of each row, or of these, as a Markdown table."""
    lines = ["| event or state | kind | runs | failed of | longest gap | streams alive | what must hold | holds |", "|---|---|---|---|---|---|---|---|"]
    for row in results():
        if names is None or row["name"] in names:
            holds = (
                ("-" if row["bound"] == "reported" else "yes") if row["holds"] else f"**no**: {'; '.join(row['broken'])}".replace("|", "\\|").replace("\n", " ")
            )
            lines.append(
                f"| {row['name']} | {row['kind']} | {row['runs']} | {row['failed']} of {row['sent']} | {row['longest_gap_s']:.2f} s "
                f"| {row['streams_alive']} of {row['streams']} | {row['bound']} | {holds} |"
            )
    return "\n".join(lines)


def line(outcome: Outcome) -> str:
    """A run as a line of the table."""
    row = outcome.row()
    apart = f"apart {row['apart_s']} s  " if outcome.seen.beside else ""
    return (
        f"{row['name']:<58} {row['sent']:>5} sent {row['failed']:>4} failed  gap {row['longest_gap_s']:>5} s  "
        f"streams {row['streams_alive']:>2}/{row['streams']}  tables {row['tables_after_s']} s  whole {row['whole_after_s']} s  "
        f"delayed {row['delayed_s']} s  {apart}{verdict(outcome)}" + "".join(f"\n    {words}" for words in outcome.told)
    )


def verdict(outcome: Outcome) -> str:
    """Whether it holds, or what did not."""
    if outcome.broken:
        return f"{'NOISE' if outcome.noisy else 'BROKEN'}: {'; '.join(outcome.broken)}"
    return f"holds: keepalived's checks waited {waited:g} s" if (waited := outcome.seen.checks_waited_s) else "holds"


def _badness(row: dict[str, Any]) -> tuple[bool, int, float]:
    return not row["holds"], row["failed"], row["longest_gap_s"]
