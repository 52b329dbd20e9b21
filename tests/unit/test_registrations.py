"""What whole stacks register with Pulumi, against records that a person reviews: a new key leaves the stacks that do not have it as they are.

golden/registrations/NAME.yaml has every resource under its URN, with its inputs and the options that decide about a plan. The stacks are
golden/Pulumi.example.yaml, that of dual_stack, and those beside the records for what these do not have. Secrets and the texts for the nodes are only
named: golden/NAME has the files on the nodes, and a new text updates a command in place. When a change of the records is meant:

    python -m tests.unit.test_registrations
    git diff tests/unit/golden/registrations
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit import recording
from tests.unit.recording import Deploy, Registered
from tests.unit.test_program import run

GOLDEN = Path(__file__).parent / "golden"
RECORDS = GOLDEN / "registrations"
NAMED = {**dict.fromkeys(("create", "delete", "stdin"), "(text)"), **dict.fromkeys(("userData", "privateKey"), "(secret)")}
"""Inputs of which the record has the name only."""
DUAL_STACK = GOLDEN.parent / "dual_stack" / "Pulumi.dual-stack.yaml"
STACKS = {path.name.split(".")[1]: path for path in (GOLDEN / "Pulumi.example.yaml", DUAL_STACK, *sorted(RECORDS.glob("Pulumi.*.yaml")))}


def record(deploy: Deploy, stack: str) -> str:
    """The record of a stack, as its file has it."""
    cluster = yaml.safe_load(STACKS[stack].read_text())["config"]["openshift-lvs:cluster"]
    resources = {resource.urn.partition("::openshift-lvs::")[2]: shown(resource) for resource in run(deploy, cluster).resources}
    return yaml.safe_dump(resources, width=160, default_flow_style=None)


def shown(resource: Registered) -> dict[str, Any]:
    """The inputs and the options of a resource. An option that is not set is left out."""
    options = {
        "ignore_changes": sorted(resource.ignore_changes),
        "replace_on_changes": sorted(resource.replace_on_changes),
        "delete_before_replace": resource.delete_before_replace,
        "protect": resource.protect,
        "former_names": sorted(resource.former_names),
    }
    return {"inputs": _readable(resource.inputs)} | {option: value for option, value in options.items() if value}


def _readable(value: Any) -> Any:
    """The value without secrets and texts for nodes. Every number that Pulumi transports is a float, so a whole one is written as such."""
    if isinstance(value, dict):
        return {key: NAMED.get(key) or _readable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_readable(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_registers_what_its_record_has(deploy: Deploy, stack: str) -> None:
    assert record(deploy, stack) == (RECORDS / f"{stack}.yaml").read_text(), __doc__


@pytest.mark.parametrize("stack", STACKS)
def test_no_name_of_a_resource_has_what_separates_the_parts_of_a_urn(stack: str) -> None:
    names = yaml.safe_load((RECORDS / f"{stack}.yaml").read_text())
    assert [name for name in names if name.count("::") != 1] == []


if __name__ == "__main__":
    for name in STACKS:
        (RECORDS / f"{name}.yaml").write_text(record(recording.deploy, name))
