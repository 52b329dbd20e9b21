"""The configuration model: what cannot work is refused by key, value and remedy, and what is derived is right."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.configuration import Cluster, ConfigurationError, UsageError, check_auth_pass
from components.configuration.cluster import SECOND

PROJECT = Path(__file__).parents[2]
REMOVED = object()


def put(data: dict[str, Any], path: str, value: Any) -> None:
    """Set (or remove) one key of nested mappings and lists."""
    *parents, last = path.split(".")
    here: Any = data
    for key in parents:
        here = here[int(key)] if isinstance(here, list) else here.setdefault(key, {})
    if value is REMOVED:
        del here[last]
    elif isinstance(here, list):
        here[int(last)] = value
    else:
        here[last] = value


def refusal(data: dict[str, Any], *changes: tuple[str, Any]) -> str:
    """What the model says of the cluster with these changes."""
    for path, value in changes:
        put(data, path, value)
    with pytest.raises(ConfigurationError) as refused:
        Cluster.parse(data)
    return str(refused.value)


SERVICE = "vips.master.services.0"
CHECK = f"{SERVICE}.health_check"
BARE = {"port": 8443, "health_check": {"type": "tcp"}}


def test_each_of_two_directors_asks_the_servers_of_the_other_pools_whether_it_is_cut_off(article: dict[str, Any]) -> None:
    assert Cluster.parse(article).witnesses("infra") == ("192.168.0.2:8443", "192.168.0.3:8443", "192.168.0.4:8443")
    assert Cluster.parse(article).witnesses("master") == ()
    article["pools"]["infra"]["witnesses"] = ["192.168.0.1:53"]
    assert Cluster.parse(article).witnesses("infra") == ("192.168.0.1:53",)
    article["pools"]["infra"]["witnesses"] = []
    assert Cluster.parse(article).witnesses("infra") == ()


def test_a_pool_that_does_not_exist_is_refused_when_the_witnesses_of_an_earlier_vip_would_be_its_hosts(article: dict[str, Any]) -> None:
    article["vips"] = {name: article["vips"][name] for name in ("infra", "master")}
    assert refusal(article, ("vips.master.pool", "masters")) == "vips.master.pool: 'masters' is not a pool; the pools are master, infra"


@pytest.mark.parametrize(
    ("hosts", "service", "quorum", "expected_weight"),
    [
        (5, {}, 3, 5),
        (5, {"expected_servers": 2}, 2, 2),
        (3, {"expected_servers": 1}, 1, 1),
        (5, {"expected_servers": 5}, 3, 5),
        # any three of them weigh 3 at least, and hosts with weight 0 are none of them
        (5, {"expected_servers": 3, "weights": {"master0": 9, "master4": 0}}, 2, 3),
        (5, {"expected_servers": 2, "weights": {f"master{n}": 4 for n in range(5)}}, 5, 8),
        (5, {"expected_servers": 3, "quorum": 3}, 3, 3),
        (5, {"expected_servers": 3, "quorum": 1}, 1, 3),
        (5, {"expected_servers": 3, "sorry_server": "192.168.0.99"}, 1, 3),
        (5, {"expected_servers": 3, "quorum": 2, "hysteresis": 1}, 2, 3),
    ],
)
def test_the_quorum_is_the_majority_of_the_expected_weight(
    article: dict[str, Any], hosts: int, service: dict[str, Any], quorum: int, expected_weight: int
) -> None:
    put(article, SERVICE, {**BARE, **service})
    of = of_size(article, hosts, 0).vips["master"].services[0]
    names = [f"master{n}" for n in range(hosts)]
    assert (of.quorum_of(names), of.expected_weight(names)) == (quorum, expected_weight)


@pytest.mark.parametrize(
    ("service", "opens", "refusals_dropped"),
    [
        ({}, True, True),
        ({"fail_open": False}, False, False),
        ({"sorry_server": "192.168.0.99"}, False, False),
        ({"health_check": {"type": "misc", "script": "checks/a", "misc_dynamic": True}}, False, False),
        ({"health_check": {"type": "misc", "script": "checks/a"}}, True, True),
        ({"expected_servers": 2}, False, False),
        ({"expected_servers": 3}, True, True),
        ({"expected_servers": 2, "weights": {"master0": 0}}, True, True),
        # IPVS itself refuses on purpose.
        ({"uthreshold": 10}, True, False),
        ({"fallback": False}, True, False),
        ({"scheduler": "wlc", "fallback": False}, True, True),
        ({"protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 53}}, True, False),
    ],
)
def test_a_service_fails_open_where_a_server_that_fails_its_check_may_have_the_service(
    article: dict[str, Any], service: dict[str, Any], opens: bool, refusals_dropped: bool
) -> None:
    put(article, SERVICE, {**BARE, **service})
    made = Cluster.parse(article)
    of, hosts = made.vips["master"].services[0], made.pools["master"].hosts
    assert (of.fails_open(hosts), of.refusals_dropped(hosts)) == (opens, refusals_dropped)


def test_every_fault_is_told_at_once_one_a_line(article: dict[str, Any]) -> None:
    told = refusal(article, ("network.gatway", "192.168.0.1"), ("vips.master.port", 8443)).splitlines()
    assert [line.partition(":")[0] for line in told] == ["network.gatway", "vips.master.port"]


def test_a_host_that_is_not_there_is_refused_with_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=r"'master9' is not in this stack; its hosts are master0, master1, master2, infra0, infra1"):
        cluster.node("master9")


@pytest.mark.parametrize("service", [{"scheduler": "wlc"}, {"persistence_timeout": 50}])
def test_several_addresses_of_a_pool_may_have_any_scheduler(article: dict[str, Any], service: dict[str, Any]) -> None:
    services = [{"port": 8443, "health_check": {"type": "tcp"}, **service}]
    put(article, "vips.second", {"address": "192.168.0.252", "pool": "master", "virtual_router_id": 53, "owner": "master1", "services": services})
    assert list(Cluster.parse(article).vips_of("master")) == ["master", "second"]


def test_a_stack_of_existing_hosts_needs_no_openstack(article: dict[str, Any]) -> None:
    assert Cluster.parse(article).needs_openstack
    for pool in article["pools"].values():
        hosts = {name: {"address": address, "host_key": "ssh-ed25519 AAAA"} for name, address in pool["hosts"].items()}
        pool.update(existing=True, hosts=hosts)
    assert not Cluster.parse(article).needs_openstack


def with_password(article: dict[str, Any]) -> Cluster:
    for name in article["vips"]:
        put(article, f"vips.{name}.advert_interval", 1)
    put(article, "keepalived.vrrp_version", 2)
    put(article, "vips.master.authentication", "PASS")
    return Cluster.parse(article)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, ["openshift-lvs:auth_pass.master: missing", "pulumi config set --secret --path openshift-lvs:auth_pass.master"]),
        ({"master": "nine-char"}, ["openshift-lvs:auth_pass.master: has 9 characters", "8"]),
        ({"master": "with a"}, ["openshift-lvs:auth_pass.master", "blank"]),
        ({"master": "right", "infra": "unused"}, ["openshift-lvs:auth_pass.infra", "remove it or set vips.infra.authentication: PASS"]),
    ],
)
def test_a_password_that_cannot_work_is_refused_and_never_quoted(article: dict[str, Any], given: dict[str, str], says: list[str]) -> None:
    with pytest.raises(ConfigurationError) as refused:
        check_auth_pass(with_password(article), given)
    told = str(refused.value)
    assert not [part for part in says if part not in told], told
    assert not any(password in told for password in given.values())


def test_a_password_of_eight_characters_is_taken(article: dict[str, Any]) -> None:
    check_auth_pass(with_password(article), {"master": "eight-ch"})


def of_size(article: dict[str, Any], hosts: int, owner: int) -> Cluster:
    put(article, "pools.master.hosts", {f"master{n}": f"192.168.0.{10 + n}" for n in range(hosts)})
    put(article, "vips.master.owner", f"master{owner}")
    return Cluster.parse(article)


@pytest.mark.parametrize("hosts", [1, 2, 3, 11, 12, 60, 100])
@pytest.mark.parametrize("owner_at", ["first", "last"])
def test_priorities_are_distinct_and_highest_on_the_owner_in_a_pool_of_any_size(article: dict[str, Any], hosts: int, owner_at: str) -> None:
    owner = 0 if owner_at == "first" else hosts - 1
    cluster = of_size(article, hosts, owner)
    vip = cluster.vips["master"]
    priorities = {host: cluster.priority(vip, host) for host in cluster.directors("master")}
    assert len(set(priorities.values())) == hosts
    assert all(1 <= priority <= 254 for priority in priorities.values())
    assert max(priorities, key=lambda host: priorities[host]) == f"master{owner}"
    backups = [priority for host, priority in priorities.items() if host != f"master{owner}"]
    assert all(earlier > later for earlier, later in pairwise(backups)), "the backups stand in the order of the pool"


def test_a_director_with_a_poor_view_stands_below_every_other(article: dict[str, Any]) -> None:
    said = refusal(article, ("vips.master.priorities", {"master0": 254, "master1": 120, "master2": 110}))
    assert "vips.master.priorities" in said and "from 254 down to 110" in said


def test_a_pool_with_more_directors_than_priorities_is_refused(article: dict[str, Any]) -> None:
    hosts = {f"master{n}": f"192.168.0.{10 + n}" for n in range(160)}
    assert "vips.master.priorities" in refusal(article, ("pools.master.hosts", hosts))


@pytest.mark.parametrize(
    ("advert", "version", "seconds"),
    [
        # RFC 9568, 6.1: Active_Down_Interval = 3 x advert + (256 - priority) x advert / 256, for the first backup's priority, 140
        (0.3, 3, 1.036),
        (1.0, 3, 3.453),
        (3.0, 3, 10.359),
        # RFC 3768, 6.1: Skew_Time = (256 - priority) / 256 seconds
        (2, 2, 6.453),
    ],
)
def test_the_time_of_a_takeover_follows_the_rfc(article: dict[str, Any], advert: float, version: int, seconds: float) -> None:
    put(article, "keepalived.vrrp_version", version)
    for name in article["vips"]:
        put(article, f"vips.{name}.advert_interval", advert)
        put(article, f"vips.{name}.answers_within", 600)
    cluster = Cluster.parse(article)
    assert cluster.takeover_seconds(cluster.vips["master"]) == seconds


def test_the_highest_backup_takes_over_first_whatever_its_place(article: dict[str, Any]) -> None:
    put(article, "vips.master.priorities", {"master0": 250, "master1": 160, "master2": 240})
    cluster = Cluster.parse(article)
    assert cluster.takeover_seconds(cluster.vips["master"]) == round(0.3 * (3 + 16 / 256), 3)


@pytest.mark.parametrize(
    ("check", "seconds"),
    [
        ({"type": "tcp"}, 1.9),
        # the article's timings, which were measured to take 51 s for a silent server: checks that wait for the loop come on top
        ({"type": "tcp", "delay_loop": 6, "connect_timeout": 10, "retry": 3, "delay_before_retry": 3}, 55),
        ({"type": "tcp", "retry": 1}, 3.4),
        ({"type": "misc", "script": "checks/etcd", "misc_timeout": 5}, 5.5),
        # keepalived gets one url after the other, a delay_loop between them
        ({"type": "http", "urls": [{"path": "/a"}, {"path": "/b"}, {"path": "/c"}]}, 2.9),
    ],
)
def test_the_time_of_an_eviction_is_the_loop_and_every_attempt(article: dict[str, Any], check: dict[str, Any], seconds: float) -> None:
    put(article, CHECK, check)
    assert Cluster.parse(article).vips["master"].services[0].eviction_seconds == seconds


@pytest.mark.parametrize(
    ("check", "seconds"),
    [
        ({"type": "tcp"}, 1.9),
        ({"type": "misc", "script": "checks/etcd", "misc_timeout": 5}, 5.5),
        ({"type": "http", "urls": [{"path": "/a"}, {"path": "/b"}], "delay_before_retry": 2}, 3.4),
        ({"type": "http", "urls": [{"path": "/a"}, {"path": "/b"}], "fast_recovery": False}, 2.9),
    ],
)
def test_the_time_of_a_recovery_is_an_attempt_under_way_and_a_wait(article: dict[str, Any], check: dict[str, Any], seconds: float) -> None:
    put(article, CHECK, check)
    assert Cluster.parse(article).vips["master"].services[0].recovery_seconds == seconds


@pytest.mark.parametrize(
    ("service", "flags"),
    [
        ({}, ("mh-port", "mh-fallback")),
        ({"affinity": "client"}, ("mh-fallback",)),
        ({"scheduler": "sh", "fallback": False}, ("sh-port",)),
        ({"scheduler": "rr"}, ()),
        ({"scheduler": "wlc", "persistence_timeout": 50}, ()),
        ({"persistence_timeout": 50}, ("mh-port", "mh-fallback")),
    ],
)
def test_a_scheduler_that_hashes_is_told_by_flags_what_to_hash(article: dict[str, Any], service: dict[str, Any], flags: tuple[str, ...]) -> None:
    put(article, SERVICE, {"port": 8443, "health_check": {"type": "tcp"}, **service})
    assert Cluster.parse(article).vips["master"].services[0].scheduler_flags == flags


def test_the_marks_of_an_addresses_services_are_distinct_and_keep_kube_proxys_bits_clear(article: dict[str, Any]) -> None:
    services = [
        {"port": port, "protocol": protocol, "health_check": {"type": "tcp", "connect_port": 22}}
        for protocol in ("TCP", "UDP")
        for port in (1, 80, 443, 6443, 16384, 22623, 32768, 49152, 65535)
    ]
    put(article, "vips.master.services", services)
    marks = [service.mark for service in Cluster.parse(article).vips["master"].services]
    assert len(set(marks)) == len(services)
    assert not any(mark & 0xC000 for mark in marks)


def test_the_short_form_of_a_check_is_one_url(article: dict[str, Any]) -> None:
    put(article, CHECK, {"type": "http", "path": "/healthz", "status_code": 200})
    url = Cluster.parse(article).vips["master"].services[0].health_check.urls[0]  # type: ignore[union-attr]
    assert (url.path, url.status_code) == ("/healthz", "200")


def test_what_yaml_reads_as_a_number_is_the_http_version_that_was_written(article: dict[str, Any]) -> None:
    put(article, CHECK, {"type": "http", "path": "/", "http_protocol": 1.1})
    assert Cluster.parse(article).vips["master"].services[0].health_check.http_protocol == "1.1"  # type: ignore[union-attr]


def test_a_host_key_may_be_a_line_of_ssh_keyscan(article: dict[str, Any]) -> None:
    put(article, "pools.master.hosts.master0", {"address": "192.168.0.2", "host_key": "192.168.0.2 ssh-ed25519 AAAA"})
    assert Cluster.parse(article).node("master0").host.host_key == "ssh-ed25519 AAAA"


def test_the_local_stack_is_the_articles_cluster_on_another_cloud_with_ipv6_beside_it(article: dict[str, Any]) -> None:
    local = Cluster.parse(yaml.safe_load((PROJECT / "lab" / "Pulumi.local.yaml").read_text())["config"]["openshift-lvs:cluster"])
    for of in (addresses, owners, ports):
        assert {name: each for name, each in of(local).items() if not name.endswith(SECOND)} == of(Cluster.parse(article))
    assert all(name + SECOND in local.vips for name in article["vips"])


def addresses(cluster: Cluster) -> dict[str, Any]:
    return {node.name: str(node.host.address) for node in cluster.nodes()} | {name: str(vip.address) for name, vip in cluster.vips.items()}


def owners(cluster: Cluster) -> dict[str, Any]:
    return {name: vip.owner for name, vip in cluster.vips.items()}


def ports(cluster: Cluster) -> dict[str, Any]:
    return {name: [service.port for service in vip.services] for name, vip in cluster.vips.items()}


def service(article: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """The service of the masters' VIP as the model reads it, only what is not a default."""
    article["vips"]["master"]["services"] = [keys]
    return Cluster.parse(article).vips["master"].services[0].model_dump(mode="json", exclude_defaults=True)


@pytest.mark.parametrize(
    ("preset", "port", "check"),
    [
        ("openshift3", 8443, {"type": "ssl", "urls": [{"path": "/healthz"}]}),
        ("openshift3", 80, {"type": "http", "connect_port": 1936, "urls": [{"path": "/healthz"}]}),
        ("openshift3", 443, {"type": "http", "connect_port": 1936, "urls": [{"path": "/healthz"}]}),
        ("openshift4", 6443, {"type": "ssl", "urls": [{"path": "/readyz"}]}),
        ("openshift4", 22623, {"type": "ssl", "urls": [{"path": "/healthz"}]}),
        ("openshift4", 80, {"type": "http", "connect_port": 1936, "urls": [{"path": "/healthz/ready"}]}),
        ("openshift4", 443, {"type": "http", "connect_port": 1936, "urls": [{"path": "/healthz/ready"}]}),
    ],
)
def test_a_preset_has_the_health_check_of_each_port(article: dict[str, Any], preset: str, port: int, check: dict[str, Any]) -> None:
    assert service(article, preset=preset, port=port)["health_check"] == check


@pytest.mark.parametrize(
    ("own", "check"),
    [
        ({"delay_loop": 2}, {"type": "http", "connect_port": 1936, "delay_loop": 2.0, "urls": [{"path": "/healthz/ready"}]}),
        ({"path": "/", "connect_port": 8080}, {"type": "http", "connect_port": 8080, "urls": [{}]}),
        ({"urls": [{"path": "/a"}, {"path": "/b"}]}, {"type": "http", "connect_port": 1936, "urls": [{"path": "/a"}, {"path": "/b"}]}),
        ({"type": "tcp"}, {"type": "tcp"}),
    ],
)
def test_every_key_of_a_preset_can_be_replaced(article: dict[str, Any], own: dict[str, Any], check: dict[str, Any]) -> None:
    found = service(article, preset="openshift4", port=443, health_check=own, scheduler="rr", client_cidrs=["10.0.0.0/9"])
    assert found["health_check"] == check and found["scheduler"] == "rr" and found["client_cidrs"] == ["10.0.0.0/9"]


def test_a_port_that_is_no_number_is_refused_with_a_preset_too(article: dict[str, Any]) -> None:
    assert "vips.master.services.0.port: []: must be a whole number" in refusal(article, (SERVICE, {"preset": "openshift4", "port": []}))
    assert service(article, preset="openshift4", port="6443")["health_check"]["type"] == "ssl"


def test_the_machine_config_server_is_for_the_subnet_unless_the_service_says_otherwise(article: dict[str, Any]) -> None:
    assert service(article, preset="openshift4", port=22623)["client_cidrs"] == []
    assert service(article, preset="openshift4", port=22623, client_cidrs=["10.0.0.0/8"])["client_cidrs"] == ["10.0.0.0/8"]
