"""The textfile for node_exporter: what it says of a node, how it is written, and when the timer runs."""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import Path

import pytest

from components import keepalived
from components.configuration import Cluster
from node.openshift_lvs import clock, metrics, remove, state
from node.openshift_lvs.commands import main
from node.openshift_lvs.description import Description
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.ipvs import RealServer, SyncDaemon, VirtualServer
from node.openshift_lvs.record import replace
from node.openshift_lvs.repairs import Repair
from node.openshift_lvs.vrrp import Transition
from operations import render
from tests.unit.conftest import GOLDEN, with_password
from tests.unit.node_functions import ADDRESSES, HERE, MARK, SERVER, System, description, in_force, service, vip

FOLDER = "/var/lib/textfiles"
STACKS = [*sorted(GOLDEN.glob("Pulumi.*.yaml")), GOLDEN.parent / "dual_stack" / "Pulumi.dual-stack.yaml"]
ENABLE = "systemctl -q enable --now openshift-lvs-metrics.timer"
DISABLE = "systemctl -q disable --now openshift-lvs-metrics.timer"


def with_metrics(said: Description, folder: str = FOLDER) -> Description:
    return replace(said, metrics_directory=folder)


@pytest.fixture
def node(system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A director whose version in force writes metrics; the folder."""
    monkeypatch.setattr(clock, "wall", lambda: 1772366400.25)
    folder = tmp_path / "textfiles"
    in_force("v1", with_metrics(description(), str(folder)))
    system.fill(description())
    return folder


def samples(seen: Facts, said: Description) -> dict[str, str]:
    """The value of each sample by its name and labels, without the prefix."""
    lines = [line for line in metrics.text(seen, said).splitlines() if not line.startswith("#")]
    return {name.removeprefix("openshift_lvs_"): value for name, _, value in (line.rpartition(" ") for line in lines)}


# What it says


def director() -> Facts:
    servers = {HERE: RealServer("DR", 1, 7), ADDRESSES[1]: RealServer("DR", 0, 2), ADDRESSES[2]: RealServer("DR", 0, 0)}
    return Facts(
        keepalived="active",
        version="v1",
        proven="v0",
        owns_nothing=True,
        drained=frozenset({ADDRESSES[1]}),
        held=frozenset({"192.168.0.250"}),
        table={MARK: VirtualServer("mh", (), None, servers)},
        sync=(SyncDaemon("master", "eth0", 51, 1472), SyncDaemon("backup", "eth0", 9, 1472)),
        views={"master": -50},
        drains={"master": -254},
        witnesses={"192.168.0.9:22": False},
        cut_off=-200,
        rules="loaded: one; rendered: another",
        strangers="a stranger",
        vrrp={"master": Transition("MASTER", 1772366400.5, "BACKUP")},
        priorities={"master": 150},
        watch="active",
        repairs=(Repair("table", 3, 60),),
    )


def test_each_address_of_a_vip_is_told_to_be_held_or_not(node: Path) -> None:
    several = replace(vip(), additional_addresses=(ip_address("192.168.0.252"),))
    found = {name: value for name, value in samples(director(), description(several)).items() if name.startswith("vip_")}
    assert found == {
        'vip_held{vip="master",address="192.168.0.250"}': "1",
        'vip_held{vip="master",address="192.168.0.252"}': "0",
        'vip_owned{vip="master",address="192.168.0.250"}': "1",
    }


def test_a_director_has_a_sample_for_every_fact(node: Path) -> None:
    address = '{vip="master",address="192.168.0.250"'
    server = '{vip="master",service="8443/TCP",server="host-%s",address="%s"}'
    here, drained, failing = (server % (each, each) for each in ADDRESSES)
    found = samples(director(), description())
    info = [name for name in found if name.startswith("version_info")]
    assert re.fullmatch(
        r'version_info\{host="master0",pool="master",role="director",version="v1",proven="v0",program="0123456789ab",configuration="[0-9a-f]{12}"\}', info[0]
    )
    assert {name: value for name, value in found.items() if not name.startswith("version_")} == {
        "keepalived_active": "1",
        "watch_active": "1",
        "director_drained": "1",
        f"vip_held{address}}}": "1",
        f"vip_owned{address}}}": "1",
        f'vrrp_state{address},state="MASTER"}}': "1",
        f'vrrp_state{address},state="BACKUP"}}': "0",
        f'vrrp_state{address},state="FAULT"}}': "0",
        f"vrrp_transition_timestamp_seconds{address}}}": "1772366400.5",
        f"vrrp_priority{address}}}": "150",
        f'vrrp_priority_adjustment{address},reason="drain"}}': "-254",
        f'vrrp_priority_adjustment{address},reason="view"}}': "-50",
        f'vrrp_priority_adjustment{address},reason="witness"}}': "-200",
        'service_expected_weight{vip="master",service="8443/TCP"}': "2",
        'service_fails_open{vip="master",service="8443/TCP"}': "0",
        f"server_weight{here}": "1",
        f"server_weight{drained}": "0",
        f"server_weight{failing}": "0",
        f"server_healthy{here}": "1",
        f"server_healthy{failing}": "0",
        f"server_connections{here}": "7",
        f"server_connections{drained}": "2",
        f"server_connections{failing}": "0",
        f'server_drained{{server="host-{HERE}",address="{HERE}"}}': "0",
        f'server_drained{{server="host-{ADDRESSES[1]}",address="{ADDRESSES[1]}"}}': "1",
        f'server_drained{{server="host-{ADDRESSES[2]}",address="{ADDRESSES[2]}"}}': "0",
        'connection_sync_running{side="master"}': "1",
        'connection_sync_running{side="backup"}': "0",
        'witness_reached{witness="192.168.0.9:22"}': "0",
        "rules_as_rendered": "0",
        "other_router": "1",
        'repairs_total{part="table"}': "3",
        "written_timestamp_seconds": "1772366400.25",
    }


def test_the_views_of_both_addresses_of_a_vip_lower_the_priority_of_each(node: Path) -> None:
    first, second = vip(), vip("master-v6", "fd00::250", owner="fd00::2")
    said = description(*(replace(each, together="master") for each in (first, second)), vip("old", "192.168.0.251", 52))
    found = samples(Facts(views={"master": -50, "master-v6": -25, "old": -100}), with_metrics(said))
    assert {name.partition('"')[2].partition('"')[0]: value for name, value in found.items() if 'reason="view"' in name} == {
        "master": "-75",
        "master-v6": "-75",
        "old": "-100",
    }


def test_every_metric_is_written_by_some_node_and_has_its_help_and_type_once(node: Path) -> None:
    text = metrics.text(director(), description())
    assert re.findall(r"^# TYPE openshift_lvs_(\S+) (?:gauge|counter)$", text, re.MULTILINE) == list(metrics.METRICS)
    assert re.findall(r"^# HELP openshift_lvs_(\S+) \S.*\.$", text, re.MULTILINE) == list(metrics.METRICS)


def test_a_real_server_tells_its_version_only(node: Path) -> None:
    found = samples(Facts(version="v1", proven="v1"), description(director=False, directors=()))
    assert [name.partition("{")[0] for name in found] == ["version_info", "version_since_timestamp_seconds", "watch_active", "written_timestamp_seconds"]
    assert 'role="server"' in next(iter(found))


def test_a_real_server_that_runs_keepalived_tells_whether_it_is_active(node: Path) -> None:
    found = samples(Facts(version="v1", proven="v1", keepalived="active"), SERVER)
    assert found["keepalived_active"] == "1"
    assert not [name for name in found if name.startswith(("vip_", "server_", "connection_sync"))]


def test_a_server_of_weight_0_has_no_health_and_is_not_expected(node: Path) -> None:
    said = description(vip(services=(service(weights={HERE: 1, ADDRESSES[1]: 0}, quorum=1),)))
    found = samples(replace(director(), drained=frozenset()), said)
    assert [name for name in found if name.startswith("server_healthy")] == [
        f'server_healthy{{vip="master",service="8443/TCP",server="host-{HERE}",address="{HERE}"}}'
    ]
    assert found['service_expected_weight{vip="master",service="8443/TCP"}'] == "1"


def test_a_service_that_the_kernel_lacks_has_weight_0(node: Path) -> None:
    found = samples(replace(director(), table={}), description())
    assert {value for name, value in found.items() if name.startswith("server_weight")} == {"0"}


def test_labels_are_escaped() -> None:
    assert metrics._labels({"witness": 'a"b\\c\nd'}) == '{witness="a\\"b\\\\c\\nd"}'


# The name of what the hosts of a pool have in common


@pytest.mark.parametrize("file", STACKS, ids=lambda file: file.name.split(".")[1])
def test_all_directors_of_a_pool_have_the_same_configuration(file: Path, tmp_path: Path) -> None:
    cluster = render.read(file)
    for pool in cluster.pools:
        if cluster.vips_of(pool):
            assert len({named(cluster, host, tmp_path) for host in cluster.directors(pool)}) == 1


def named(cluster: Cluster, host: str, folder: Path, version: str = "0123456789ab") -> str:
    for file in keepalived.render(cluster, host, GOLDEN):
        (folder / file.path).parent.mkdir(exist_ok=True)
        (folder / file.path).write_text(file.text)
    return metrics.pool_configuration(str(folder), version)


def test_a_change_of_a_check_script_has_another_name(tmp_path: Path) -> None:
    cluster = render.cluster(GOLDEN, "misc-check")
    before = named(cluster, "infra0", tmp_path)
    (tmp_path / "checks" / "backlog").write_text("#!/bin/sh\nexit 0\n")
    assert metrics.pool_configuration(str(tmp_path), "0123456789ab") != before


def test_a_change_of_a_check_or_a_password_has_another_name(article: dict[str, dict[str, dict[str, object]]], tmp_path: Path) -> None:
    before = named(Cluster.parse(article), "infra0", tmp_path)
    article["vips"]["infra"]["services"][0]["health_check"]["delay_loop"] = 7  # type: ignore[index]
    assert named(Cluster.parse(article), "infra0", tmp_path) != before
    secret = Cluster.parse(with_password(article))
    assert named(secret, "master0", tmp_path, "0123456789ab-00000001") != named(secret, "master0", tmp_path, "0123456789ab-00000002")


# How it is written


def test_the_file_is_replaced_in_one_step_for_every_user_to_read(node: Path) -> None:
    assert main(["metrics"]) == 0
    file = node / "openshift_lvs.prom"
    first = file.stat()
    assert first.st_mode & 0o777 == 0o644
    with file.open() as reader:
        assert main(["metrics"]) == 0
        assert reader.read().endswith("openshift_lvs_written_timestamp_seconds 1772366400.25\n"), "a reader keeps the whole file that it opened"
    assert file.stat().st_ino != first.st_ino
    assert [path.name for path in node.iterdir()] == ["openshift_lvs.prom"]


def test_without_metrics_in_the_configuration_nothing_is_written(system: System, tmp_path: Path) -> None:
    in_force("v1", description())
    before = sorted(tmp_path.rglob("*"))
    assert main(["metrics"]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_description_of_a_host_without_metrics_is_as_before(cluster: Cluster, article: dict[str, object]) -> None:
    assert "metrics" not in keepalived.describe(cluster, "infra0").to_json()
    article["metrics"] = {"directory": FOLDER}
    said = keepalived.describe(Cluster.parse(article), "infra0")
    assert f'"metrics_directory": "{FOLDER}"' in said.to_json()
    assert Description.from_json(said.to_json()) == said


# The timer


def enabled() -> None:
    wants = Path(state.UNITS, "timers.target.wants")
    wants.mkdir()
    (wants / metrics.TIMER).symlink_to(f"../{metrics.TIMER}")


def test_the_timer_starts_with_the_first_version_that_has_metrics(system: System) -> None:
    metrics.schedule(with_metrics(description()), [description()])
    assert system.asked == [ENABLE]
    assert system.notes == [f"writes metrics to {FOLDER}/openshift_lvs.prom"]


def test_a_timer_that_runs_is_not_started_again(system: System) -> None:
    enabled()
    metrics.schedule(with_metrics(description()), [with_metrics(description())])
    assert system.asked == []


def test_a_host_without_metrics_asks_systemd_nothing(system: System) -> None:
    metrics.schedule(description(), [description()])
    assert system.asked == []


def test_the_timer_ends_and_the_file_goes_with_the_first_version_without_metrics(node: Path, system: System) -> None:
    main(["metrics"])
    system.asked.clear()
    enabled()
    metrics.schedule(description(), [with_metrics(description(), str(node))])
    assert system.asked == [DISABLE]
    assert list(node.iterdir()) == []


def test_the_file_in_the_former_folder_goes(node: Path, system: System) -> None:
    main(["metrics"])
    system.asked.clear()
    enabled()
    metrics.schedule(with_metrics(description()), [with_metrics(description(), str(node)), with_metrics(description())])
    assert (system.asked, list(node.iterdir())) == ([], [])


def test_a_timer_that_does_not_start_stops_no_activation(system: System) -> None:
    system.answers[ENABLE] = (1, "", "Unit not found\n")
    metrics.schedule(with_metrics(description()), [])
    assert system.notes == ["writes no metrics: Unit not found"]


def test_removal_takes_timer_and_file_with_it(node: Path, system: System) -> None:
    main(["metrics"])
    system.asked.clear()
    enabled()
    remove.remove()
    assert DISABLE in system.asked
    assert list(node.iterdir()) == []


def test_every_unit_of_the_program_names_a_command_of_it() -> None:
    text = (keepalived.PROGRAM / "systemd" / "openshift-lvs-metrics.service").read_text()
    assert "ExecStart=/etc/keepalived/current/program/openshift-lvs metrics\n" in text
    assert (keepalived.PROGRAM / "openshift_lvs" / "metrics.py").is_file(), "what the unit's condition looks for"


def test_the_timer_runs_the_service_every_15_seconds_as_the_documents_say() -> None:
    timer = (keepalived.PROGRAM / "systemd" / metrics.TIMER).read_text()
    assert "[Timer]\nOnCalendar=*-*-* *:*:00/15\n" in timer
    # Without `Unit=` a timer starts the service of its own name (systemd.timer(5)).
    assert "Unit=" not in timer and (keepalived.PROGRAM / "systemd" / metrics.TIMER.replace(".timer", ".service")).is_file()
    for page in ("reference/metrics.md", "reference/configuration.md", "how-to/metrics-and-alerts.md"):
        assert "every 15 seconds" in (keepalived.ROOT / "docs" / page).read_text()
