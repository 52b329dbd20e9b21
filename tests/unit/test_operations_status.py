"""What `operations status` shows of the hosts, of each VIP on its directors, and of the real servers; and what scripts get from it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from components import keepalived
from components.configuration import Cluster
from node.openshift_lvs.ipvs import RealServer
from node.openshift_lvs.record import replace
from node.openshift_lvs.repairs import Repair
from node.openshift_lvs.vrrp import Transition
from operations import __main__ as operations
from operations.nodes import NodesError
from operations.status import Status, status
from tests.unit.test_operations_nodes import commands as commands
from tests.unit.test_operations_nodes import program
from tests.unit.test_operations_verify import MASTERS, Both, Said, drained, fail, healthy, with_server
from tests.unit.test_operations_verify import both as both
from tests.unit.test_operations_verify import five as five
from tests.unit.test_program import existing

GOLDEN = Path(__file__).parent / "golden"
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "operations.md").read_text()
NOON = 1772366400.0
"""2026-03-01 12:00:00 UTC."""


@pytest.fixture
def said(cluster: Cluster) -> Said:
    return Said(cluster)


def seen(said: Said, cluster: Cluster) -> Status:
    return status(said, cluster, keepalived.ROOT)


def lines(said: Said, cluster: Cluster, word: str) -> list[str]:
    """The lines of the text with that word, blanks between columns as one."""
    compact = [re.sub(r"  +", "  ", line).strip() for line in seen(said, cluster).text().splitlines()]
    return [line for line in compact if word in line]


def cut_off(said: Said) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], witnesses=dict.fromkeys(said.facts["infra0"].witnesses, False), cut_off=-200)


# The hosts


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (lambda said: None, "infra0  active  {infra0}  infra  infra:80 2/2, infra:443 2/2  good  -  -"),
        (cut_off, "infra0  active  {infra0}  infra  infra:80 2/2, infra:443 2/2  cut off  -  -"),
        (lambda said: drained(said, "192.168.0.6", "infra0"), "infra0  active  {infra0}  infra  infra:80 1/2, infra:443 1/2  good  infra1  -"),
    ],
)
def test_every_host_has_a_line(said: Said, cluster: Cluster, change: Callable[[Said], None], row: str) -> None:
    change(said)
    assert row.format(infra0=keepalived.version(keepalived.render(cluster, "infra0"))) in lines(said, cluster, "infra0  active")


def test_repairs_are_counted_by_part(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], repairs=(Repair("rules", 2, 60), Repair("table", 1, 5)))
    assert lines(said, cluster, "infra0  active")[0].endswith("good  -  rules 2, table 1")


def test_another_version_than_the_rendered_one_is_shown_with_both_names(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], version="0123456789ab", proven="0123456789ab")
    rendered = keepalived.version(keepalived.render(cluster, "infra0"))
    assert lines(said, cluster, "infra0  active")[0].startswith(f"infra0  active  0123456789ab, rendered {rendered}  infra  ")
    assert seen(said, cluster).result == "failed"


def test_a_host_that_is_not_reached_is_named_in_the_table_and_below(said: Said, cluster: Cluster) -> None:
    said.unreached = {"master2"}
    assert lines(said, cluster, "master2")[0] == "master2  not reached  -  -  -  -  -  -"
    assert lines(said, cluster, "master2")[-1] == "UNKNOWN master2  reachable: not reachable at 192.0.2.1: Connection refused"
    assert (seen(said, cluster).result, seen(said, cluster).hosts["master2"]) == ("unknown", None)


def test_every_host_is_asked_once(said: Said, cluster: Cluster) -> None:
    seen(said, cluster)
    assert said.asked == [f"{node.name} status --json" for node in cluster.nodes()]


def test_the_expected_servers_count_as_all(five: Cluster) -> None:
    said = Said(five)
    fail(said, five, "infra", "infra2", "infra3", "infra4")
    assert "infra:80 2/2, infra:443 2/2  good" in seen(said, five).text()
    fail(said, five, "infra", "infra1")
    assert "infra:80 1/2, infra:443 1/2  good" in seen(said, five).text()


def test_a_service_that_fails_open_counts_no_server_as_live(said: Said, cluster: Cluster) -> None:
    seen_by = said.facts["infra0"]
    failing = {address: replace(real, healthy=False) for address, real in seen_by.table[54526395].servers.items()}
    table = {**seen_by.table, 54526395: replace(seen_by.table[54526395], servers=failing, open_since="2026-03-01 12:00:00 UTC")}
    said.facts["infra0"] = replace(seen_by, table=table)
    assert "infra:80 2/2, infra:443 0/2 (fails open)  good" in lines(said, cluster, "infra0  active")[0]
    assert "infra:443/TCP  infra0  1  fails on infra0  0" in lines(said, cluster, "infra:443/TCP")


# The VIPs


def test_a_vip_has_a_line_for_each_director_with_its_state_and_priority(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], vrrp={"infra": Transition("MASTER", NOON, "BACKUP")}, priorities={"infra": 150})
    said.facts["infra1"] = replace(said.facts["infra1"], vrrp={"infra": Transition("BACKUP", NOON + 1)}, priorities={"infra": 140})
    assert lines(said, cluster, "infra 192.168.0.251") == [
        "infra 192.168.0.251  infra0  owner, holder  MASTER  2026-03-01 12:00:00 UTC  BACKUP  150",
    ]
    assert "infra1  backup  BACKUP  2026-03-01 12:00:01 UTC  -  140" in lines(said, cluster, "infra1")


def test_a_node_of_the_former_release_shows_what_its_addresses_and_the_configuration_tell(said: Said, cluster: Cluster) -> None:
    old = json.loads(said.facts["infra0"].to_json())
    for name in ("vrrp", "priorities", "repairs"):
        del old[name]
    said.instead["infra0"] = json.dumps(old)
    assert lines(said, cluster, "infra 192.168.0.251") == ["infra 192.168.0.251  infra0  owner, holder  MASTER  -  -  150"]
    assert seen(said, cluster).result == "ok"


def test_facts_that_only_a_later_release_knows_are_left_out(said: Said, cluster: Cluster) -> None:
    said.instead["infra0"] = json.dumps({**json.loads(said.facts["infra0"].to_json()), "weather": "fine"})
    assert seen(said, cluster).result == "ok"


@pytest.mark.parametrize(
    ("changes", "priority"),
    [
        ({}, "150"),
        ({"views": {"infra": -50}}, "100 = 150 - 50 (view)"),
        ({"drains": {"infra": -51}, "views": {"infra": -100}}, "1 = 150 - 51 (roll-out) - 100 (view)"),
        ({"drains": {"infra": -254}}, "none: drained"),
        ({"witnesses": {"192.168.0.2:8443": False}, "cut_off": -200}, "1 = 150 - 200 (no witness)"),
        ({"witnesses": {"192.168.0.2:8443": False}}, "1 = 150 - 200 (no witness)"),
        ({"keepalived": "failed"}, "none: keepalived is stopped"),
        ({"priorities": {"infra": 120}, "views": {"infra": -20}}, "100 = 120 - 20 (view)"),
    ],
)
def test_the_priority_in_force_says_what_it_comes_from(said: Said, cluster: Cluster, changes: dict[str, Any], priority: str) -> None:
    said.facts["infra0"] = replace(said.facts["infra0"], **changes)
    assert lines(said, cluster, "infra 192.168.0.251")[0].endswith(f"  {priority}")


def test_the_views_of_both_addresses_of_a_vip_lower_the_priority_of_each(both: Both) -> None:
    both.facts["infra0"] = replace(both.facts["infra0"], views={"router": -50, "router-v6": -25})
    for address in ("router 192.0.2.251", "router-v6 2001:db8:0:1::251"):
        assert lines(both, both.cluster, address)[0].endswith("  75 = 150 - 75 (view)")


def test_a_stopped_keepalived_has_no_state(said: Said, cluster: Cluster) -> None:
    said.facts["infra1"] = replace(said.facts["infra1"], keepalived="failed", vrrp={"infra": Transition("MASTER", NOON)})
    assert "infra1  backup  stopped  -  -  none: keepalived is stopped" in lines(said, cluster, "infra1")


# The real servers


def test_a_real_server_has_weight_and_connections_of_the_holder_and_the_health_on_every_director(said: Said, cluster: Cluster) -> None:
    said.facts["infra0"] = with_server(said.facts["infra0"], "192.168.0.6", RealServer("DR", 1, 7))
    said.facts["infra1"] = with_server(said.facts["infra1"], "192.168.0.6", RealServer("DR", 0, 3))
    assert "infra1  1  fails on infra1  7" in lines(said, cluster, "infra1")
    drained(said, "192.168.0.4", *MASTERS)
    assert "master2  0  drained  0" in lines(said, cluster, "master2")
    fail(said, cluster, "infra", "infra0")
    assert "infra:443/TCP  infra0  0  fails  0" in lines(said, cluster, "infra:443/TCP")


def test_the_servers_of_a_vip_without_a_reached_director_are_shown_without_numbers(said: Said, cluster: Cluster) -> None:
    said.unreached = {"infra0", "infra1"}
    assert "infra:80/TCP  infra0  -  -  -" in lines(said, cluster, "infra:80/TCP")


# The command line


@pytest.fixture
def reached(said: Said, monkeypatch: pytest.MonkeyPatch) -> Said:
    """The nodes as the command line reaches them."""

    @contextlib.contextmanager
    def reach(*_: object) -> Iterator[Said]:
        yield said

    monkeypatch.setattr(operations, "reach", reach)
    return said


def run(verb: str, *options: str) -> int:
    return operations.main([verb, "--stack", "example", "--root", str(GOLDEN), *options])


def test_five_hosts_are_asked_at_once_and_each_once(article: dict[str, Any], tmp_path: Path, commands: Path) -> None:
    """Each answers when all five were asked, so one after the other they would never answer."""
    del article["network"]["external"]
    cluster = Cluster.parse(existing(article))
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": {"openshift-lvs:cluster": article}}))
    for node in cluster.nodes():
        (tmp_path / node.name).write_text(healthy(cluster, node.name).to_json())
    met = f'echo >>{tmp_path}/asked; until [ "$(wc -l <{tmp_path}/asked)" -ge 5 ]; do sleep 0.05; done'
    program(commands, "ssh", f"for word; do case $word in -oHostKeyAlias=*) host=${{word#*=}} ;; esac; done; {met}; cat {tmp_path}/$host")
    assert operations.main(["status", "--stack", "dev", "--root", str(tmp_path)]) == 0
    assert (tmp_path / "asked").read_text() == "\n" * 5


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_the_exit_status_tells_a_fault_from_a_host_that_could_not_be_asked(reached: Said, verb: str) -> None:
    assert run(verb) == 0
    reached.unreached = {"master2"}
    assert run(verb) == 3
    reached.facts["infra0"] = replace(reached.facts["infra0"], keepalived="failed")
    assert run(verb) == 1


@pytest.mark.parametrize("verb", ["status", "verify", "diagnose master0", "drain master0"])
def test_nodes_that_cannot_be_asked_at_all_are_exit_status_3(verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def reach(*_: object) -> None:
        raise NodesError("ssh: not on this machine; install the OpenSSH client")

    monkeypatch.setattr(operations, "reach", reach)
    name, *host = verb.split()
    assert run(name, *host) == 3
    assert capsys.readouterr() == ("", "ssh: not on this machine; install the OpenSSH client\n")


def shape(value: Any) -> Any:
    """The names and types of JSON; of names that come from the configuration and of a list, only what the first one has."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value[:1]]
    return type(value).__name__


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_json_has_a_format_and_the_same_findings_as_the_text(reached: Said, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    reached.unreached = {"master2"}
    assert run(verb, "--json") == 3
    said = json.loads(capsys.readouterr().out)
    assert (said["format"], said["stack"], said["result"]) == (1, "example", "unknown")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", said["at"])
    unknown = {"subject": "master2", "check": "reachable", "result": "unknown", "text": "not reachable at 192.0.2.1: Connection refused"}
    assert unknown in said["findings"]
    reached.connected.clear()
    run(verb)
    told = capsys.readouterr().out
    assert all(each["text"] in told for each in said["findings"])


def test_the_page_describes_every_field_of_the_json(reached: Said, capsys: pytest.CaptureFixture[str]) -> None:
    reached.unreached = {"master2"}
    run("status", "--json")
    said = json.loads(capsys.readouterr().out)
    example = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    assert list(example) == list(said)
    assert shape(example["hosts"]["infra0"]) == shape(said["hosts"]["infra0"]) | {"drained_servers": ["str"], "repairs": {"rules": "int"}}
    infra = said["vips"]["infra"]
    infra["directors"]["infra0"] |= {"since": "", "before": ""}
    del infra["directors"]["infra1"]
    infra["services"][0]["fails_open"] = [""]
    del infra["services"][0]["servers"]["infra1"]
    del infra["services"][0]["servers"]["infra0"]["health"]["infra1"]
    assert shape(example["vips"]["infra"]) == shape(infra)
    assert shape(example["findings"]) == shape(said["findings"])


def test_watch_draws_again_until_it_is_interrupted_and_the_last_look_counts(
    reached: Said, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = iter(range(3))

    def sleep(seconds: float) -> None:
        assert seconds == 2
        if next(turns) == 2:
            reached.unreached = {"master2"}
            raise KeyboardInterrupt
        reached.facts["infra1"] = replace(reached.facts["infra1"], repairs=(Repair("table", 1, 0),))

    # Only for this module: threads of other tests of this process sleep too.
    monkeypatch.setattr("operations.__main__.time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0, time=time.time))
    assert run("status", "--watch") == 0
    drawn = capsys.readouterr().out.split("\x1b[H\x1b[J")
    assert drawn[0] == "" and len(drawn) == 4
    assert ["table 1" in each for each in drawn] == [False, False, True, True]
    assert drawn[1].startswith("example, ")


def test_watch_and_json_together_are_a_usage_error(reached: Said, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("status", "--watch", "--json")
    assert ended.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err
