"""Rendering: whole files against golden files that a person reviews, and every one of them before a real `keepalived -t`.

The stacks are golden/Pulumi.NAME.yaml: `example`, the cluster that most unit tests use; the article's own keepalived.conf translated; each
health check with all its options; and every option of a service. When a change of the files is meant:

    python -m operations render --root tests/unit/golden --stack NAME --output tests/unit/golden/NAME
    sed -i 's/^  "program": .*/  "program": "DIGEST",/' tests/unit/golden/NAME/*/host.json
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import HealthCheck as Stress
from hypothesis import given, settings
from hypothesis import strategies as st

from components import keepalived
from components.configuration import POOR_VIEW_WEIGHT, Cluster, ConfigurationError
from components.configuration.health_checks import HttpCheck, MiscCheck, SmtpCheck, TcpCheck, Url
from components.configuration.model import Model
from components.configuration.services import Scheduler, VirtualService
from components.configuration.vips import Vip
from components.keepalived import File
from node.openshift_lvs.description import Description
from operations import render
from tests.unit.node_root import PASSWORD, Node, node

GOLDEN = Path(__file__).parent / "golden"
STACKS = [path.name.split(".")[1] for path in sorted(GOLDEN.glob("Pulumi.*.yaml"))]
PASSWORDS = {"master": PASSWORD}
IN_TIME_S, TIMER_LATE_S = 1, 0.17
"""Within this a server may answer at the defaults; and how late a timer fired on the lab's busy nodes, at worst (docs/appendix/measurements.md)."""


@pytest.fixture(scope="module")
def real() -> Iterator[Node]:
    """One node that is asked about everything rendered here."""
    with node() as made:
        yield made


def configuration() -> dict[str, Any]:
    """The cluster of golden/Pulumi.example.yaml as a mapping that a test may change."""
    data: dict[str, Any] = yaml.safe_load((GOLDEN / "Pulumi.example.yaml").read_text())["config"]["openshift-lvs:cluster"]
    return copy.deepcopy(data)


def rendered(data: dict[str, Any]) -> dict[str, tuple[File, ...]]:
    """The files of every host."""
    cluster = Cluster.parse(data)
    return {host.name: keepalived.render(cluster, host.name) for host in cluster.nodes()}


def text(files: tuple[File, ...], name: str = "keepalived.conf") -> str:
    return next(file.text for file in files if file.path == name)


def without_digest(text: str) -> str:
    """The text of a file with a placeholder for the program's digest, which changes with every change of node/."""
    return re.sub(r'^  "program": "[0-9a-f]{12}",$', '  "program": "DIGEST",', text, flags=re.MULTILINE)


@pytest.mark.parametrize("stack", STACKS)
def test_rendered_files_are_the_golden_ones(stack: str) -> None:
    hosts = render.files(GOLDEN, stack)
    wanted = {str(path.relative_to(GOLDEN / stack)): without_digest(path.read_text()) for path in (GOLDEN / stack).rglob("*") if path.is_file()}
    assert {f"{host}/{file.path}": without_digest(file.text) for host, files in hosts.items() for file in files} == wanted, __doc__


def test_a_host_is_told_the_digest_of_its_program() -> None:
    assert f'\n  "program": "{keepalived.program_digest()}",\n' in text(rendered(configuration())["master0"], "host.json")


@pytest.mark.parametrize("stack", STACKS)
def test_a_real_keepalived_accepts_every_golden_file_without_a_word(real: Node, stack: str) -> None:
    cluster = render.cluster(GOLDEN, stack)
    for host in cluster.nodes():
        real.accepts(cluster, host.name, GOLDEN)


@pytest.mark.parametrize("scheduler", get_args(Scheduler))
def test_a_real_keepalived_knows_every_scheduler_of_the_model(real: Node, scheduler: str) -> None:
    data = configuration()
    data["vips"]["infra"]["services"][0] |= {"scheduler": scheduler}
    real.accepts(Cluster.parse(data), "infra0")


@pytest.mark.parametrize("method", ["DR", "NAT", "TUN"])
def test_a_real_keepalived_takes_every_forwarding_method(real: Node, method: str) -> None:
    data = configuration()
    data["vips"]["infra"]["services"][0] |= {"forwarding_method": method}
    real.accepts(Cluster.parse(data), "infra0")


def test_a_real_keepalived_takes_ah_authentication_and_an_address_alone(real: Node) -> None:
    data = configuration() | {"keepalived": {"vrrp_version": 2}}
    data["vips"]["master"] |= {"authentication": "AH", "advert_interval": 1}
    data["vips"]["infra"] |= {"advert_interval": 2}
    data["pools"]["infra"]["directors"] = ["infra0"]
    for host in ("master0", "infra0"):
        real.accepts(Cluster.parse(data), host)


def test_a_real_keepalived_takes_health_checks_without_vrrp(real: Node) -> None:
    mail = {"notification_email": ["ops@example.org"], "notification_email_from": "lvs@example.org", "smtp_server": "192.168.0.100"}
    data = configuration() | {"keepalived": {"notifications": {**mail, "smtp_alert": True}}}
    data["pools"]["infra"] |= {"directors": ["infra0"], "witnesses": ["192.168.0.1:22"]}
    data["vips"]["infra"]["smtp_alert"] = True
    data["vips"]["infra"]["services"][0]["smtp_alert"] = True
    for host in ("infra0", "infra1"):
        real.accepts(Cluster.parse(data), host)


def test_a_check_script_comes_along_where_keepalived_looks_for_it() -> None:
    files = render.files(GOLDEN, "misc-check")["infra0"]
    script = next(file for file in files if file.path == "checks/backlog")
    assert (script.mode, script.text) == (0o755, (GOLDEN / "checks/backlog").read_text())
    assert f'misc_path "{keepalived.CURRENT}/checks/backlog active --fast 192.168.0.5 9000"' in text(files)


@pytest.mark.parametrize("check", [{"type": "tcp"}, {"type": "http", "path": "/"}, {"type": "ssl", "path": "/"}, {"type": "smtp"}])
def test_at_the_defaults_keepalived_waits_for_a_server_that_answers_within_a_second(check: dict[str, Any]) -> None:
    data = configuration()
    data["vips"]["infra"]["services"] = [{"port": 80, "health_check": check}]
    waits = re.findall(r"^ +connect_timeout (\S+)$", text(rendered(data)["infra0"]), flags=re.MULTILINE)
    assert len(waits) == len(data["pools"]["infra"]["hosts"])
    assert min(map(float, waits)) >= IN_TIME_S + TIMER_LATE_S


def test_rendering_twice_gives_the_same_bytes() -> None:
    first, second = rendered(configuration()), rendered(configuration())
    assert {host: keepalived.bundle(files) for host, files in first.items()} == {host: keepalived.bundle(files) for host, files in second.items()}


def test_the_order_of_pools_and_addresses_does_not_change_a_file() -> None:
    data = configuration()
    turned = {**data, "pools": dict(reversed(data["pools"].items())), "vips": dict(reversed(data["vips"].items()))}
    assert rendered(turned) == rendered(data)


def test_a_change_of_one_pool_leaves_the_files_of_the_other_alone() -> None:
    before = rendered(configuration())
    data = configuration()
    data["pools"]["infra"]["hosts"]["infra2"] = "192.168.0.7"
    data["vips"]["infra"]["services"][0]["health_check"]["path"] = "/ready"
    after = rendered(data)
    assert [host for host in before if before[host] != after[host]] == ["infra0", "infra1"]


def test_a_host_may_have_another_interface_such_as_a_vlan_of_a_bond(article: dict[str, Any]) -> None:
    article["pools"]["infra"]["hosts"]["infra0"] = {"address": "192.168.0.5", "interface": "bond0.100"}
    cluster = Cluster.parse(article)
    files = {host: {file.path: file.text for file in keepalived.render(cluster, host)} for host in ("infra0", "infra1")}
    assert {name for name, text in files["infra0"].items() if "bond0.100" in text} == {"host.json", "keepalived.conf", "lvs.nft", "release.batch"}
    assert not [name for name, text in files["infra0"].items() if "eth0" in text] and "    interface eth0\n" in files["infra1"]["keepalived.conf"]


def test_another_address_of_a_host_shows_in_its_neighbours_only_where_they_name_it() -> None:
    before = rendered(configuration())
    data = configuration()
    data["pools"]["master"]["hosts"]["master1"] = "192.168.0.9"
    after = rendered(data)
    for host in ("master0", "master2"):
        changed = [
            (one, other)
            for old, new in zip(before[host], after[host], strict=True)
            for one, other in zip(old.text.splitlines(), new.text.splitlines(), strict=True)
            if one != other
        ]
        assert changed
        assert all(one.replace("192.168.0.3", "192.168.0.9") == other for one, other in changed)


def test_an_operators_note_about_one_host_changes_only_its_priority() -> None:
    before = rendered(configuration())
    data = configuration()
    data["vips"]["master"]["priorities"] = {"master2": 120}
    after = rendered(data)
    assert [host for host in before if before[host] != after[host]] == ["master2"]
    assert "    priority 120\n" in text(after["master2"])


@pytest.mark.parametrize("priorities", [{}, {"master1": 102, "master2": 101}, {"master2": 120}])
def test_a_director_that_has_changed_comes_between_those_that_have_not_and_those_that_see_too_little(priorities: dict[str, int]) -> None:
    data = configuration()
    data["vips"]["master"]["priorities"] = priorities
    cluster = Cluster.parse(data)
    each = [cluster.priority(cluster.vips["master"], host) for host in cluster.directors("master")]
    stepped_back = [priority + cluster.step_back_weight("master") for priority in each]
    assert max(stepped_back) < min(each)
    assert min(stepped_back) > max(each) + POOR_VIEW_WEIGHT


def test_a_director_that_has_changed_comes_after_those_that_have_not_however_far_apart_they_are() -> None:
    data = configuration()
    data["vips"]["master"]["priorities"] = {"master0": 199, "master1": 101, "master2": 100}
    assert Cluster.parse(data).step_back_weight("master") == -100


def test_no_two_directors_have_the_same_priority_and_the_owner_has_the_highest() -> None:
    data = configuration()
    data["pools"]["infra"]["hosts"] = {f"infra{number}": str(IPv4Address("192.168.0.10") + number) for number in range(60)}
    data["vips"]["infra"]["owner"] = "infra7"
    cluster = Cluster.parse(data)
    priorities = {host: cluster.priority(cluster.vips["infra"], host) for host in cluster.directors("infra")}
    assert len(set(priorities.values())) == 60
    assert max(priorities, key=lambda host: priorities[host]) == "infra7"
    assert all(1 <= priority <= 254 for priority in priorities.values())


def test_a_server_that_is_no_director_gets_health_checks_and_nothing_of_vrrp() -> None:
    data = configuration()
    data["pools"]["master"]["directors"] = ["master0", "master1"]
    files = rendered(data)
    names = ["host.json", "keepalived.conf", "lvs.nft", "release.batch", "sysctl.conf", "modules.conf"]
    assert [file.path for file in files["master2"]] == names == [file.path for file in files["master0"]]
    served, checked = text(files["master0"]), text(files["master2"])
    assert "real_server 192.168.0.4 " in checked and checked.count("TCP_CHECK") == served.count("TCP_CHECK")
    assert not re.search("vrrp_instance|vrrp_script|track_|quorum_up|smtp", checked)
    # Its rules say which ports are reachable from outside. They mark no packet.
    assert "mark" not in text(files["master2"], "lvs.nft").split("table ip openshift_lvs {")[1]
    assert "real_server 192.168.0.4 " in text(files["master0"])
    assert "net.ipv4.vs." not in text(files["master2"], "sysctl.conf")
    described = [Description.from_json(text(files[host], "host.json")) for host in ("master0", "master2")]
    assert described[0].services == described[1].services and described[1].instances == ()
    assert [(each.director, each.checks_only) for each in described] == [(True, False), (False, True)]
    assert "checks_only" not in text(files["master0"], "host.json")


def test_the_order_of_names_in_the_file_changes_no_file_of_a_host() -> None:
    # Pulumi hands mappings over in the order of their names, `operations` reads the file itself.
    def turned(value: Any) -> Any:
        return {name: turned(each) for name, each in reversed(value.items())} if isinstance(value, dict) else value

    assert rendered(turned(configuration())) == rendered(configuration())


def test_every_service_has_a_mark_of_its_own_that_the_rules_of_kube_proxy_do_not_read() -> None:
    data = configuration()
    everything = [
        {"port": port, "protocol": protocol, "health_check": {"type": "tcp", "connect_port": 1}}
        for port in (1, 80, 16383, 16384, 16464, 32768, 49152, 65535)
        for protocol in ("TCP", "UDP")
    ]
    data["vips"]["infra"]["services"] = data["vips"]["master"]["services"] = everything
    files = rendered(data)
    services = [service for host in ("master0", "infra0") for service in Description.from_json(text(files[host], "host.json")).services]
    marks = [service.mark for service in services]
    assert len(set(marks)) == len(marks) == 2 * len(everything)
    assert sum(len(service.real_servers) for service in services) == (3 + 2) * len(everything)
    assert not any(mark & 0xC000 or mark >= 2**32 for mark in marks)


def test_a_service_needs_the_majority_of_its_weight_and_with_a_sorry_server_any() -> None:
    data = configuration()
    service = data["vips"]["master"]["services"][0]
    service["weights"] = {"master0": 5, "master1": 2}
    assert "    quorum 5\n" in text(rendered(data)["master0"])
    service["sorry_server"] = "192.168.0.99"
    assert "    quorum 1\n" in text(rendered(data)["master0"])


def test_a_regular_expression_reaches_keepalived_as_it_was_written() -> None:
    """keepalived takes one backslash of a quoted string for itself, so each is there twice."""
    assert r'regex "^v[0-9]+\\.[0-9]+"' in text(render.files(GOLDEN, "http-check")["infra0"])


@pytest.mark.parametrize(
    ("script", "content", "fault"),
    [
        ("checks/none", None, "'checks/none' is not a file of the repository"),
        ("checks/plain", b"exit 0\n", "'checks/plain' does not begin with #!"),
        ("checks/binary", b"\x7fELF\xff\xfe", "'checks/binary' is not text"),
    ],
    ids=["missing", "no interpreter", "a program"],
)
def test_a_check_script_that_cannot_run_is_refused_with_its_key(tmp_path: Path, script: str, content: bytes | None, fault: str) -> None:
    (tmp_path / "checks").mkdir()
    if content is not None:
        (tmp_path / script).write_bytes(content)
    data = configuration()
    data["vips"]["infra"]["services"][0]["health_check"] = {"type": "misc", "script": script}
    with pytest.raises(ConfigurationError) as error:
        keepalived.render(Cluster.parse(data), "infra0", tmp_path)
    assert f"vips.infra.services.0.health_check.script: {fault}" in str(error.value)


def test_two_check_scripts_of_one_name_are_refused_and_the_same_one_twice_is_not(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "check").write_text(f"#!/bin/sh\n# {folder}\n")
    data = configuration()
    first, second = data["vips"]["infra"]["services"]
    first["health_check"] = second["health_check"] = {"type": "misc", "script": "one/check"}
    assert [file.path for file in keepalived.render(Cluster.parse(data), "infra0", tmp_path)].count("checks/check") == 1
    second["health_check"] = {"type": "misc", "script": "two/check"}
    with pytest.raises(ConfigurationError, match="different script of the name 'checks/check'"):
        keepalived.render(Cluster.parse(data), "infra0", tmp_path)


def test_the_password_is_in_a_file_of_its_own_and_its_host_is_a_director() -> None:
    data = configuration() | {"keepalived": {"vrrp_version": 2}}
    data["vips"]["master"] |= {"authentication": "PASS", "advert_interval": 1}
    data["vips"]["infra"] |= {"advert_interval": 1}
    data["pools"]["master"]["directors"] = ["master0", "master1"]
    cluster = Cluster.parse(data)
    assert all("pa55word" not in file.text for host in cluster.nodes() for file in keepalived.render(cluster, host.name))
    assert "    include auth-master.conf\n" in text(keepalived.render(cluster, "master0"))
    wanted = {"auth-master.conf": "authentication {\n    auth_type PASS\n    auth_pass pa55word\n}\n"}
    assert keepalived.authentication(cluster, "master0", PASSWORDS) == wanted
    assert keepalived.authentication(cluster, "master2", PASSWORDS) == {}
    assert keepalived.authentication(cluster, "infra0", PASSWORDS) == {}


@pytest.mark.parametrize(
    ("service", "fault"),
    [
        ({"hysteresis": 2}, "services.0.hysteresis: 2 must be below the quorum, which is 2"),
        ({"weights": {"infra0": 0, "infra1": 0}}, "services.0.weights: all are 0, so no server would get a connection"),
        ({"sorry_server": "192.168.0.6"}, "services.0.sorry_server: 192.168.0.6 is infra1, a real server of the same service"),
        ({"health_check": {"type": "http", "path": "/", "status_code": "299-200"}}, "status_code: 299-200 is no range; write 200-299"),
        ({"health_check": {"type": "http", "urls": [{"regex": "a", "regex_options": ["caselss"]}]}}, "regex_options.0: 'caselss'"),
        ({"health_check": {"type": "http", "urls": [{"regex": "a", "regex_min_offset": 9, "regex_max_offset": 5}]}}, "regex_min_offset: 9 is beyond"),
        ({"health_check": {"type": "tcp", "delay_loop": 0.0001}}, "delay_loop: 0.0001"),
    ],
)
def test_what_keepalived_would_bend_or_ignore_is_refused_with_its_key(service: dict[str, Any], fault: str) -> None:
    data = configuration()
    data["vips"]["infra"]["services"][0] |= service
    with pytest.raises(ConfigurationError) as error:
        Cluster.parse(data)
    assert f"vips.infra.{fault}" in str(error.value) or fault in str(error.value).partition("vips.infra.services.0.health_check.")[2]


def test_an_advert_interval_that_keepalived_would_round_is_refused() -> None:
    data = configuration()
    data["vips"]["infra"]["advert_interval"] = 0.015
    with pytest.raises(ConfigurationError, match=r"^vips\.infra\.advert_interval: 0\.015 is no multiple of 0\.01"):
        Cluster.parse(data)


TIMES: dict[str, list[Any]] = {
    "delay_before_retry": [0.001, 1.5, 3600],
    "delay_loop": [0.001, 59.999999, 3600],
    "retry": [0, 100],
    "warmup": [0, 0.000001, 3600],
    "alpha": [True, False],
}
CONNECTION: dict[str, list[Any]] = {
    **TIMES,
    "connect_timeout": [0.001, 3600],
    "connect_ip": ["10.0.0.1"],
    "connect_port": [1, 65535],
    "bindto": ["192.168.0.5"],
    "bind_port": [1, 65535],
    "bind_if": ["eth0", "lo"],
    "fwmark": [1, 2**32 - 1],
    "log_all_failures": [True, False],
}
REGULAR = [r"\d+\s", "a|b", "(?i)x", "[!#]x", "{x}", "$", "a  b", r"\\", "'x'", "x{1,2}", "[[:digit:]]", "©"]
URL: dict[str, list[Any]] = {
    "path": ["/a?b=c&d=e", "/~user/$x", "/%20x", r"/a\b", "/é", "/*", "/a;b", "/(x)|y"],
    "status_code": ["100", "200-299", "200 204-206 301"],
    "digest": ["640205b7b0fc66c1ea91c463fac6334d"],
    "virtualhost": ["a.b", "a:8080", "[::1]"],
}
MATCH: dict[str, list[Any]] = {
    "regex_no_match": [True],
    "regex_options": [["caseless"], ["multiline", "dotall", "extended", "ucp", "utf"]],
    "regex_stack": [[1, 1], [1024, 4096]],
    "regex_min_offset": [0, 10],
    "regex_max_offset": [11, 100000],
}
HTTP: dict[str, list[Any]] = {**CONNECTION, "http_protocol": ["1.0", "1.0C", "1.1"], "virtualhost": ["a.b"], "fast_recovery": [True, False]}
CHECKS: dict[str, dict[str, list[Any]]] = {
    "tcp": CONNECTION,
    "http": HTTP,
    "ssl": {**HTTP, "enable_sni": [True]},
    "smtp": {**CONNECTION, "helo_name": ["a.b"]},
    "misc": {
        **TIMES,
        "arguments": [["a"], ["a-b", "--c=d", "$X", "~x", "%s", "@x"]],
        "misc_timeout": [1, 3600],
        "misc_dynamic": [True],
        "user": ["nobody", "daemon"],
    },
}
MODELS: dict[str, type[Model]] = {"tcp": TcpCheck, "http": HttpCheck, "ssl": HttpCheck, "smtp": SmtpCheck, "misc": MiscCheck}
SERVICE: dict[str, list[Any]] = {
    "scheduler": list(get_args(Scheduler)),
    "fallback": [False],
    "fail_open": [False],
    "persistence_timeout": [1, 31 * 86400],
    "forwarding_method": ["NAT", "TUN"],
    "weights": [{"infra0": 0}, {"infra0": 65535, "infra1": 65535}],
    "alpha": [True],
    "omega": [True],
    "inhibit_on_failure": [False],
    "uthreshold": [0, 65535],
    "lthreshold": [0, 1],
    "sorry_server": ["10.1.1.1"],
    "virtualhost": ["a.b"],
    "smtp_alert": [True, False],
}
ADDRESS: dict[str, list[Any]] = {
    "virtual_router_id": [1, 255],
    "advert_interval": [0.01, 0.29, 3],
    "priorities": [{"infra0": 254, "infra1": 160}, {"infra0": 3, "infra1": 1}],
    "unicast": [True],
    "garp_master_delay": [0, 3600],
    "garp_master_refresh": [0, 86400],
    "smtp_alert": [True, False],
}


UNTRIED = {
    "port",
    "protocol",
    "health_check",
    "affinity",
    "persistence_granularity",
    "expected_servers",
    "quorum",
    "hysteresis",
    "ops",
    "preset",
    "client_cidrs",
}
UNTRIED |= {
    "address",
    "address_v6",
    "additional_addresses",
    "sorry_server_v6",
    "pool",
    "owner",
    "services",
    "authentication",
    "floating_ip",
    "answers_within",
    "type",
    "script",
    "urls",
    "regex",
    "virtual_router_id",
}
"""Keys whose value depends on others, or of which keepalived is not told. Tests above and golden files have them."""


@pytest.mark.parametrize(
    ("model", "tried"),
    [(Vip, ADDRESS), (VirtualService, SERVICE), (Url, {**URL, **MATCH}), *((check, {"enable_sni": [], **CHECKS[kind]}) for kind, check in MODELS.items())],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_every_key_of_the_model_is_tried_on_a_real_keepalived(model: type[Model], tried: dict[str, list[Any]]) -> None:
    assert {*model.model_fields} - UNTRIED <= {*tried}


@settings(max_examples=24, derandomize=True, database=None, deadline=None, suppress_health_check=list(Stress))
@given(chance=st.randoms(use_true_random=False))
def test_whatever_the_model_takes_keepalived_takes_too(real: Node, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Keys and their extreme values in combinations that no one would think of."""
    monkeypatch.setattr("components.configuration.services.EVICTION_MAX", math.inf)

    def some(choices: dict[str, list[Any]]) -> dict[str, Any]:
        return {key: chance.choice(values) for key, values in choices.items() if chance.random() < 0.4}

    def check() -> dict[str, Any]:
        kind = chance.choice(list(CHECKS))
        needs: dict[str, Any] = {"script": "checks/backlog"} if kind == "misc" else {}
        if kind in {"http", "ssl"}:
            needs = {"urls": [url() for _ in range(chance.randint(1, 3))]}
        chosen = some(CHECKS[kind])
        return {"type": kind, **chosen, **({"virtualhost": "a.b"} if "enable_sni" in chosen else {}), **needs}

    def url() -> dict[str, Any]:
        return some(URL) | ({"regex": chance.choice(REGULAR), **some(MATCH)} if chance.random() < 0.5 else {})

    data: dict[str, Any] = yaml.safe_load((GOLDEN / "Pulumi.tcp-check.yaml").read_text())["config"]["openshift-lvs:cluster"]
    data["vips"]["infra"] |= {**some(ADDRESS), "answers_within": 0}
    data["vips"]["infra"]["services"] = [{"port": port, **some(SERVICE), "health_check": check()} for port in (1, 443, 65535)]
    real.accepts(Cluster.parse(data), "infra0", GOLDEN)
