"""The alert rules of monitoring/ on what the nodes' textfiles said: promtool evaluates the real rules on samples that were really written.

Alerts wait for minutes or hours (`for`). While a fault lasts and nothing changes, a sample may stand for a longer time than the one to the next sample.
How old a file was when it was read stays as it was. So an alert for a stale file fires after the real time.
"""

from __future__ import annotations

import re
import subprocess
import threading
from dataclasses import dataclass, field
from typing import Any

import yaml

from lab import debian
from lab.nodes import machine
from lab.stack import PROJECT

RULES = PROJECT / "monitoring" / "alerts.yaml"
TESTS = PROJECT / "build" / "faults" / "alerts"
"""What promtool was given stays here, to be run again."""
DIRECTORY = "/var/lib/prometheus/node-exporter"
FILE = f"{DIRECTORY}/openshift_lvs.prom"
SAMPLE_S = 5
"""Seconds between two samples."""
EVALUATION_S = 15
EVALUATIONS = 500
"""So many at most: rules that wait for hours are evaluated less often."""
PROMTOOL_S = 120
TIMESTAMP = "_timestamp_seconds"
_UNITS = {"s": 1, "m": 60, "h": 3600}
_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")


@dataclass(frozen=True)
class Sample:
    """The textfile of each node at a moment of the machine's clock. `stands_for_s`: until the next sample, when it is None."""

    at: float
    files: dict[str, str]
    stands_for_s: int | None = None


@dataclass
class Recording:
    """Samples, one every SAMPLE_S seconds while the `with` lasts. Those that are taken meanwhile stand for `stands_for_s`."""

    samples: list[Sample] = field(default_factory=list)
    stands_for_s: int | None = None

    def __enter__(self) -> Recording:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _record(self) -> None:
        while not self._over.is_set():
            # A node or the machine may be too busy for one sample.
            said = machine.run("lab", "files", FILE, check=False)
            if not said.returncode:
                self.samples.append(read(said.stdout, self.stands_for_s))
            self._over.wait(SAMPLE_S)


def read(said: str, stands_for_s: int | None = None) -> Sample:
    """The sample that `lab files` printed."""
    at, *files = re.split(r"^==> (\S+)\n", said, flags=re.MULTILINE)
    return Sample(float(at), dict(zip(files[::2], files[1::2], strict=True)), stands_for_s)


def waits_s(alert: str) -> int:
    """For how many seconds the condition of an alert must hold before the alert fires."""
    (rule,) = (rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if rule["alert"] == alert)
    text = rule.get("for", "0s")
    return int(text[:-1]) * _UNITS[text[-1]]


def fired(name: str, samples: list[Sample], expected: set[str]) -> str:
    """Nothing when exactly these alerts fired at any time of the samples, else what promtool says. `name` is that of the test in TESTS."""
    TESTS.mkdir(parents=True, exist_ok=True)
    path = TESTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.yaml"
    path.write_text(yaml.safe_dump(rule_test(samples, expected), width=1000))
    promtool = debian.unpacked("prometheus") / "usr/bin/promtool"
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True, timeout=PROMTOOL_S)
    return f"{done.stdout}{done.stderr}" if done.returncode else ""


def rule_test(samples: list[Sample], expected: set[str]) -> dict[str, Any]:
    """A test for promtool in which exactly these alerts fire at any time of the samples."""
    used = set(re.findall(r"\bopenshift_lvs_\w+", RULES.read_text()))
    steps = [_steps(each, after) for each, after in zip(samples, [*samples[1:], None], strict=True)]
    series: dict[str, list[str]] = {}
    present: dict[str, bool] = {}
    begin = 0
    for number, (sample, count) in enumerate(zip(samples, steps, strict=True)):
        here = {
            key: value for node, text in sample.files.items() for key, value in _values(text, node, begin - sample.at).items() if key.partition("{")[0] in used
        }
        for key in here.keys() - series.keys():
            series[key] = [f"_x{sum(steps[:number])}"] if number else []
        for key, values in series.items():
            if key in here:
                step = SAMPLE_S if key.partition("{")[0].endswith(TIMESTAMP) else 0
                values.append(f"{here[key]:.15g}+{step}x{count - 1}")
            else:
                # As Prometheus marks a series that a target no longer has.
                values.append(f"stale _x{count - 1}" if present[key] and count > 1 else "stale" if present[key] else f"_x{count}")
            present[key] = key in here
        begin += count * SAMPLE_S
    firing = f'group by (alertname) (count_over_time(ALERTS{{alertstate="firing"}}[{begin}s]))'
    found = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(expected)]
    return {
        "rule_files": [str(RULES)],
        "evaluation_interval": f"{max(EVALUATION_S, begin // EVALUATIONS)}s",
        "tests": [
            {
                "interval": f"{SAMPLE_S}s",
                "input_series": [{"series": key, "values": " ".join(values)} for key, values in sorted(series.items())],
                "promql_expr_test": [{"expr": firing, "eval_time": f"{begin}s", "exp_samples": found}],
            }
        ],
    }


def _steps(sample: Sample, after: Sample | None) -> int:
    """For how many samples of promtool's series this one stands."""
    seconds = sample.stands_for_s or (after.at - sample.at if after else SAMPLE_S)
    return max(1, round(seconds / SAMPLE_S))


def _values(text: str, node: str, shift_s: float) -> dict[str, float]:
    """The samples of a textfile by series, as Prometheus would have them of that node; moments are moved by so many seconds."""
    found = {}
    for line in text.splitlines():
        if matched := _LINE.fullmatch(line):
            name, labels, value = matched.groups()
            key = f'{name}{{job="lab",instance="{node}"{f",{labels}" if labels else ""}}}'
            found[key] = float(value) + (shift_s if name.endswith(TIMESTAMP) else 0)
    return found
