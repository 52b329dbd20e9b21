"""docs/reference/configuration.md says of every key what the model says, and every page names commands, files and headings that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import keepalived
from components.configuration import reference, schema
from components.configuration.allow import RULE_SETS
from components.configuration.cluster import Cluster
from components.configuration.model import Model
from node.openshift_lvs import commands, observe
from node.openshift_lvs.ipvs import RealServer
from node.openshift_lvs.record import replace
from tests.unit.test_operations_verify import healthy

PROJECT = Path(__file__).parents[2]
PAGE = PROJECT / reference.PAGE

MODELS = {reference.heading(section.heading): section for section in reference.sections()}


def rows(heading: str) -> dict[str, list[str]]:
    """The cells of each key in the table under a heading."""
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row for row in cells}


def bounds(schema: Any) -> set[str]:
    """The numbers that bound a key, and the words it may be, wherever they stand in its schema."""
    if isinstance(schema, list):
        return {bound for part in schema for bound in bounds(part)}
    # A number that may also be text has its bounds in the text of its form.
    if not isinstance(schema, dict) or {"integer", "string"} <= {part.get("type") for part in schema.get("anyOf", [])}:
        return set()
    found = {f"{schema[key]:g}" if schema[key] < 1e6 else str(schema[key]) for key in ("minimum", "maximum", "exclusiveMaximum") if key in schema}
    found |= {f"`{word}`" for word in [*schema.get("enum", []), *([schema["const"]] if "const" in schema else [])]}
    return found | {bound for part in schema.values() for bound in bounds(part)}


def test_the_page_and_the_schema_are_those_of_the_model() -> None:
    assert PAGE.read_text() == reference.page(PAGE.read_text()), "make schema"
    assert (PROJECT / schema.NAME).read_text() == schema.text(), "make schema"


@pytest.mark.parametrize("heading", MODELS)
def test_every_key_has_a_meaning_in_whole_sentences(heading: str) -> None:
    for key, field in MODELS[heading].model_fields.items():
        meaning, _ = reference.description(field)
        assert re.fullmatch(r"[A-Z`].*[.)]", meaning), f"{heading} {key}: {meaning!r}; write what it means under the key"


@pytest.mark.parametrize("heading", MODELS)
def test_the_page_has_the_bounds_and_words_of_every_key(heading: str) -> None:
    properties = MODELS[heading].model_json_schema()["properties"]
    for key, row in rows(heading).items():
        lacking = {bound for bound in bounds(properties[key]) if not re.search(rf"(?<![\d.]){re.escape(bound)}(?![\d.])", row[1])}
        assert not lacking, f"{heading} {key}: {row[1]!r} does not say {lacking}"


def subclasses(model: type[Model]) -> set[type[Model]]:
    direct = set(model.__subclasses__())
    return direct.union(*map(subclasses, direct))


def test_the_page_documents_every_model_of_the_configuration() -> None:
    assert subclasses(Model) == set(MODELS.values())


def test_a_message_names_the_heading_under_which_a_key_is() -> None:
    headings = [model.__dict__["heading"] for model in MODELS.values()]
    assert len(set(headings)) == len(headings) == len(MODELS)
    written = re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [heading for heading in written if heading in MODELS] == list(MODELS)


@pytest.mark.parametrize("name", RULE_SETS)
def test_the_page_has_every_rule_of_a_named_set(name: str) -> None:
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert [tuple(row) for row in table] == [(f"`{name}`", rule.protocol, rule.ports or "", rule.use) for rule in RULE_SETS[name]]


LISTED = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
PAGES = sorted(PROJECT / name for name in set(subprocess.run(LISTED, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()))
PAGES = [page for page in PAGES if page.exists()]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings. The second heading with the same text gets -1 (GitHub) or _1 (mkdocs), so it cannot be linked to."""
    return {reference.anchor(heading) for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    links = set(re.findall(r"\]\(((?!\w+:)[^)\s]+)\)", prose(page)))
    broken = []
    for link in sorted(links):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and f"#{heading}" not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_make_target_that_a_page_names_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
    assert named <= targets


def test_every_file_and_test_that_the_contributors_table_names_is_there() -> None:
    table = [line for line in (PROJECT / "CONTRIBUTING.md").read_text().splitlines() if line.startswith("| ")]
    named = {word for line in table for word in re.findall(r"`([\w./-]+)`", line)}
    tests = {word for word in named if re.fullmatch(r"test_\w+\.py", word)}
    files = {word for word in named if "/" in word}
    assert len(tests) > 20 and len(files) > 20
    assert [name for name in sorted(tests) if not (PROJECT / "tests/unit" / name).is_file()] == []
    assert [name for name in sorted(files) if not (PROJECT / name).exists()] == []


def test_updates_are_proposed_for_every_folder_with_dependencies() -> None:
    updates = yaml.safe_load((PROJECT / ".github" / "dependabot.yml").read_text())["updates"]
    watched = {(update["package-ecosystem"], folder) for update in updates for folder in update.get("directories") or [update["directory"]]}
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split()
    kinds = {"go.mod": "gomod", "requirements.in": "pip"}
    there = {(kinds[path.name], f"/{path.parent}".removesuffix(".")) for path in map(Path, listed) if path.name in kinds}
    actions = {("github-actions", f"/{path.parent}") for path in map(Path, listed) if path.name == "action.yaml"}
    assert watched == {*there, *actions, ("github-actions", "/")}


def test_every_decision_is_in_the_list() -> None:
    folder = PROJECT / "docs" / "explanation" / "decisions"
    listed = re.findall(r"\((\d{4}-[a-z-]+\.md)\)", (folder / "README.md").read_text())
    assert listed == sorted(path.name for path in folder.glob("[0-9]*.md"))


# What calls a command, and messages, whose remedies name commands.
CALLERS = [
    path
    for folder in ("operations", "node", "templates")
    for path in sorted((PROJECT / folder).rglob("*.*"))
    if path.suffix in (".py", ".conf", ".service", ".j2")
]


@pytest.mark.parametrize("page", [*PAGES, *CALLERS], ids=lambda page: str(page.relative_to(PROJECT)))
def test_every_command_of_the_nodes_program_that_is_named_is_there(page: Path) -> None:
    named = re.findall(r"(?<!/run/)(?<![\w-])openshift-lvs ([a-z][a-z-]*)", page.read_text())
    assert set(named) <= {*commands.COMMANDS, "help"}
    assert not re.findall(r"/usr/local/lib/openshift-lvs/[a-z][a-z-]*", page.read_text()), "a script of the release before"


def test_the_page_shows_what_status_prints_on_a_node(article: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.openshift_lvs.journal.since", lambda path: "2026-03-01 14:02:11 UTC")
    example = Cluster.parse(article)
    seen = healthy(example, "infra1")
    table = {mark: {address: RealServer("DR", 1, 3) for address in virtual.servers} for mark, virtual in seen.table.items()}
    table[54526395]["192.168.0.5"] = RealServer("DR", 0, 0)
    seen = replace(
        seen,
        version="c87e7cfce47f",
        proven="c87e7cfce47f",
        since="2026-03-01 13:58:40 UTC",
        views={"infra": -100},
        table={mark: replace(virtual, servers=table[mark]) for mark, virtual in seen.table.items()},
    )
    printed = observe.report(seen, keepalived.describe(example, "infra1"))
    assert "".join(f"    {line}\n" for line in printed.splitlines()) in (PROJECT / "docs" / "reference" / "operations.md").read_text()
