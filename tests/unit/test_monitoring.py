"""monitoring/: the alert rules by promtool, the dashboard, and that both use nothing but metrics that a node writes."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import keepalived
from lab import debian
from node.openshift_lvs import metrics, state
from operations import render
from tests.unit.conftest import GOLDEN
from tests.unit.node_functions import description
from tests.unit.test_node_metrics import director
from tests.unit.test_operations_verify import healthy

FOLDER = Path(__file__).parents[2] / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
TESTS = yaml.load((FOLDER / "alerts.test.yaml").read_text(), yaml.BaseLoader)["tests"]
"""Every value as text: YAML would read 0x90, zero ninety times, as a hexadecimal number."""
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text()
NAMES = [rule["alert"] for rule in RULES]
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
ADDED = {"job", "instance"}
"""The labels that Prometheus adds to every sample."""


@pytest.fixture(scope="module")
def promtool() -> Path:
    """The program that Prometheus comes with, of Debian's package; not installed."""
    return debian.unpacked("prometheus") / "usr/bin/promtool"


def run(*command: str | Path, stdin: str = "", folder: Path = FOLDER) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=60)


def used(text: str) -> set[str]:
    """The metrics of this program that a text names, without their prefix."""
    return set(re.findall(r"\bopenshift_lvs_([a-z_]+)", text))


@pytest.fixture
def labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The labels with which a node writes each metric."""
    monkeypatch.setattr(state, "CURRENT", str(tmp_path))
    written = re.findall(r"^openshift_lvs_(\w+)(?:\{(.*)\})? ", metrics.text(director(), description()), re.MULTILINE)
    return {name: set(re.findall(r'(\w+)="', pairs)) for name, pairs in written}


def grouped(query: str, word: str) -> set[str]:
    """The labels in the parentheses behind `by`, `on` or `group_left`."""
    return {label for found in re.findall(rf"\b{word} \(([^)]*)\)", query) for label in found.split(", ")}


# Alerts


def test_promtool_accepts_the_rules_and_each_alert_fires_in_its_fault_alone(promtool: Path) -> None:
    checked = run(promtool, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = run(promtool, "test", "rules", "alerts.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", NAMES)
def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not(name: str) -> None:
    expected = [bool(case["exp_alerts"]) for test in TESTS for case in test.get("alert_rule_test", ()) if case["alertname"] == name]
    assert {True, False} <= set(expected)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_an_alert_that_never_fires_or_fires_at_once_fails_its_tests(promtool: Path, tmp_path: Path, rule: dict[str, Any]) -> None:
    never = {**rule, "expr": "vector(1) == 0"}
    cases = [[case for case in test.get("alert_rule_test", ()) if case["alertname"] == rule["alert"]] for test in TESTS]
    tests = [{**test, "alert_rule_test": mine, "promql_expr_test": []} for test, mine in zip(TESTS, cases, strict=True) if mine]
    content = {"rule_files": ["alerts.yaml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "alerts.test.yaml").write_text(yaml.safe_dump(content))
    at_once = {key: value for key, value in rule.items() if key != "for"} | ({} if "for" in rule else {"expr": rule["expr"].replace("2.5", "0")})
    for broken, works in ((rule, True), (never, False), (at_once, False)):
        (tmp_path / "alerts.yaml").write_text(yaml.safe_dump({"groups": [{"name": "broken", "rules": [broken]}]}))
        assert run(promtool, "test", "rules", "alerts.test.yaml", folder=tmp_path).returncode == (0 if works else 1)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_every_alert_says_how_grave_it_is_and_is_on_the_page_with_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    assert re.search(rf"^\| `{rule['alert']}` \| [^|]{{20,}} \| [^|]{{20,}} \|$", PAGE, re.MULTILINE)


def test_the_page_names_no_other_alert() -> None:
    assert set(re.findall(r"`(OpenshiftLvs\w+)`", PAGE)) == set(NAMES)


# Metrics


@pytest.mark.parametrize("stack", ["example", "service-options"])
def test_promtool_accepts_what_every_host_writes(promtool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stack: str) -> None:
    monkeypatch.setattr(state, "CURRENT", str(tmp_path))
    cluster = render.cluster(GOLDEN, stack)
    for node in cluster.nodes():
        text = metrics.text(healthy(cluster, node.name), keepalived.describe(cluster, node.name))
        checked = run(promtool, "check", "metrics", stdin=text)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), text


def test_alerts_and_dashboard_use_metrics_that_a_node_writes() -> None:
    assert used(yaml.safe_dump(RULES)) <= set(metrics.METRICS)
    assert used(yaml.safe_dump(TESTS)) <= set(metrics.METRICS)
    assert used(json.dumps(DASHBOARD)) <= set(metrics.METRICS)


def test_alerts_and_dashboard_use_labels_that_a_node_writes(labels: dict[str, set[str]]) -> None:
    series = [each["series"] for test in TESTS for each in test["input_series"]]
    for query in [*(rule["expr"] for rule in RULES), *(target["expr"] for target in TARGETS), *series]:
        for name, matchers in re.findall(r"\bopenshift_lvs_([a-z_]+)\{([^}]*)\}", query):
            assert set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers)) <= labels[name] | ADDED, query
        if names := used(query):
            written = ADDED.union(*(labels[name] for name in names), re.findall(r'label_replace\(.*?, "(\w+)"', query))
            assert grouped(query, "by") | grouped(query, "on") | grouped(query, "group_left") <= written, query


def test_every_metric_is_on_the_page_with_its_type_and_labels(labels: dict[str, set[str]]) -> None:
    rows = re.findall(r"^\| `openshift_lvs_(\w+)` \| (gauge|counter) \| ([^|]*) \|", PAGE, re.MULTILINE)
    assert {name: (kind, set(re.findall(r"`(\w+)`", listed))) for name, kind, listed in rows} == {
        name: (kind, labels[name]) for name, (kind, _) in metrics.METRICS.items()
    }


# The dashboard


def test_every_metric_is_on_the_dashboard() -> None:
    assert set(metrics.METRICS) == used(json.dumps(DASHBOARD))


def test_panels_have_titles_descriptions_and_places_of_their_own() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels) > 10
    assert all(panel["description"].endswith(".") and panel["targets"] for panel in panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24
        taken |= cells


def test_the_dashboard_shows_one_stack_at_a_time() -> None:
    """Two stacks may have VIPs and servers of the same name: sums without `job` would mix them."""
    (job,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "job")
    assert not job["multi"] and not job["includeAll"]


def test_every_name_in_a_legend_is_a_label_of_its_query(labels: dict[str, set[str]]) -> None:
    for target in TARGETS:
        query = target["expr"]
        if re.match(r"\w+ by ", query):
            there = grouped(query.partition(")")[0] + ")", "by")
        else:
            first = re.findall(r"openshift_lvs_([a-z_]+)", query)[0]
            there = labels[first] | grouped(query, "group_left")
        assert set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))) <= there, query


def test_promtool_parses_every_query_of_the_dashboard(promtool: Path, tmp_path: Path) -> None:
    queries = [target["expr"].replace("$job", "dev") for target in TARGETS]
    rules = [{"record": f"query:number_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = run(promtool, "check", "rules", "queries.yaml", folder=tmp_path)
    assert checked.returncode == 0 and f"{len(queries)} rules found" in checked.stdout, checked.stdout + checked.stderr
