"""The load balancer component on nodes that only record: order, what a change touches, secrets, removal. The whole program: test_program.py."""

from __future__ import annotations

import copy
import datetime
import itertools
import shlex
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest
from pulumi_openstack import compute

from components import keepalived
from components.configuration import Cluster
from components.load_balancer import BOOTING_DIAL_ERRORS, RUNNING_DIAL_ERRORS, LoadBalancer, LoadBalancerArgs, roll_out_order
from components.servers import Endpoint
from tests.unit import recording
from tests.unit.conftest import with_password
from tests.unit.recording import Deploy, Deployment, Registered

MASTERS = ["master0", "master1", "master2"]


@pytest.fixture
def goes_with(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """By command: the resource that it is deleted with, filled by every run."""
    found: dict[str, str] = {}
    register = recording.RecordingMonitor.RegisterResource

    def remember(self: recording.RecordingMonitor, request: Any) -> Any:
        found[request.name] = request.deletedWith
        return register(self, request)

    monkeypatch.setattr(recording.RecordingMonitor, "RegisterResource", remember)
    return found


def run(deploy: Deploy, data: Mapping[str, Any], passwords: Mapping[str, str] | None = None, key: str = "seed") -> Deployment:
    """The component alone, on servers that are bare resources, or on existing hosts."""
    cluster = Cluster.parse(data)

    def program() -> dict[str, pulumi.Output[str]]:
        hosts = {}
        for node in cluster.nodes():
            made = [] if node.pool.existing else [compute.Instance(node.name)]
            hosts[node.name] = Endpoint(str(node.host.address), f"ssh-ed25519 {node.name}", [*made])
        auth_pass = pulumi.Output.secret(dict(passwords or {}))
        return LoadBalancer("lb", LoadBalancerArgs(cluster, hosts, pulumi.Output.secret("private"), auth_pass, pulumi.Output.secret(key))).proofs

    return deploy(program)


def commands(done: Deployment) -> dict[str, Registered]:
    return done.of("Command")


def before(done: Deployment, name: str) -> set[str]:
    """Names of the commands that one waits for."""
    return {part.removeprefix("Command ") for part in done.before(commands(done)[name]) if part.startswith("Command ")}


def changed(old: Deployment, new: Deployment) -> dict[str, set[str]]:
    """By command that is in both: the inputs that differ."""
    pairs = {name: (one.inputs, commands(new)[name].inputs) for name, one in commands(old).items() if name in commands(new)}
    differing = {name: {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)} for name, (one, other) in pairs.items()}
    return {name: keys for name, keys in differing.items() if keys}


PROGRAM = f"/usr/local/lib/openshift-lvs/{keepalived.program_digest()}/openshift-lvs"


def verb(command: Registered) -> list[str]:
    """The command of the deployed program that runs on the node, and its arguments."""
    shell = shlex.split(command.inputs["create"])
    program, *words = shlex.split(shell[-1], comments=True)
    assert program == PROGRAM
    return words


def with_two_addresses(article: dict[str, Any]) -> dict[str, Any]:
    """The masters serve another address, which belongs to another of them."""
    article["vips"]["machine-config"] = {**article["vips"]["master"], "address": "192.168.0.252", "virtual_router_id": 53, "owner": "master1"}
    return article


def existing(pool: dict[str, Any]) -> None:
    """Its hosts are there already."""
    pool |= {"existing": True, "hosts": {name: {"address": address, "host_key": "ssh-ed25519 AAAA"} for name, address in pool["hosts"].items()}}


# Order


def test_everything_is_installed_and_delivered_before_anything_of_the_pool_is_activated(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    first = before(done, "activate-master1")
    assert first == {f"{step}-{host}" for step in ("install", "deliver") for host in MASTERS}


def test_hosts_are_installed_at_once_and_pools_do_not_wait_for_each_other(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    assert all(before(done, f"install-{host}") == set() for host in [*MASTERS, "infra0", "infra1"])
    assert not {name for name in before(done, "activate-infra0") if "master" in name}


def test_an_address_goes_home_when_all_of_its_pool_is_active_and_is_proven_after_that(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    everyone = {f"activate-{host}" for host in MASTERS}
    homes = {name for name in commands(done) if name.startswith("return-master-from-")}
    assert homes == {"return-master-from-master1", "return-master-from-master2"}
    for home in homes:
        assert everyone <= before(done, home)
    assert homes | everyone <= before(done, "proof-master")


def test_an_address_with_one_director_is_proven_too(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"]["directors"] = ["infra0"]
    done = run(deploy, article)
    assert not [name for name in commands(done) if name.startswith("return-infra-from")]
    assert {"activate-infra0", "activate-infra1"} <= before(done, "proof-infra")


def test_servers_change_before_backups_and_backups_before_owners(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["hosts"] |= {"master3": "192.168.0.8"}
    article["pools"]["master"]["directors"] = ["master0", "master1", "master3"]
    article["vips"]["master"]["owner"] = "master1"
    order = ["master2", "master0", "master3", "master1"]
    assert roll_out_order(Cluster.parse(article), "master") == order
    done = run(deploy, article)
    for earlier, later in itertools.pairwise(order):
        assert f"activate-{earlier}" in before(done, f"activate-{later}")


def test_the_proof_asks_for_every_address_of_a_vip(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["master"]["additional_addresses"] = ["192.168.0.252"]
    assert verb(commands(run(deploy, article))["proof-master"])[3:] == [f"192.168.0.{last}:8443" for last in (250, 252)]


def test_two_addresses_of_one_pool_have_one_roll_out_and_each_its_homes_and_proof(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, with_two_addresses(article))
    assert len([name for name in commands(done) if name.startswith("activate-master")]) == 3
    homes = {name for name in commands(done) if name.startswith("return-machine-config-from-")}
    assert homes == {"return-machine-config-from-master0", "return-machine-config-from-master2"}
    assert roll_out_order(Cluster.parse(article), "master") == ["master2", "master0", "master1"]
    assert verb(commands(done)["proof-machine-config"])[1:] == ["120", "20", "192.168.0.252:8443"]


# What runs


def test_what_is_delivered_is_what_is_rendered_and_what_is_activated_is_what_was_delivered(deploy: Deploy, article: dict[str, Any]) -> None:
    done = run(deploy, article)
    for node in Cluster.parse(article).nodes():
        files = keepalived.render(Cluster.parse(article), node.name)
        assert commands(done)[f"deliver-{node.name}"].inputs["stdin"] == keepalived.bundle(files)
        assert verb(commands(done)[f"deliver-{node.name}"]) == ["deliver", keepalived.version(files)]
        canary = ["canary"] if node.name in ("master1", "infra1") else []
        assert verb(commands(done)[f"activate-{node.name}"]) == ["activate", keepalived.version(files), *canary]
        # What was in force when it was delivered: an activation that the engine has forgotten is made again.
        assert commands(done)[f"activate-{node.name}"].inputs["stdin"].startswith(f"said by deliver-{node.name} to ")


def test_every_tcp_service_is_asked_for(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["infra"]["services"].append({"port": 53, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 53}})
    done = run(deploy, article)
    http = ["192.168.0.251:80", "path=/healthz", "host=192.168.0.251:80", "status=200-299"]
    assert verb(commands(done)["proof-infra"])[1:] == ["120", "20", *http, "192.168.0.251:443"]


def http(**check: Any) -> dict[str, Any]:
    return {"health_check": {"type": "http", "path": "/ready", **check}}


@pytest.mark.parametrize(
    ("port", "service", "words"),
    [
        (443, http(connect_port=1936), []),
        (3306, http(connect_port=9200), []),
        (80, http(connect_ip="192.168.0.9"), []),
        (443, http(type="ssl"), []),
        (25, {"health_check": {"type": "smtp"}}, []),
        (5432, {"health_check": {"type": "misc", "script": "lab/nodes/checks/answers-200"}}, []),
        (80, http(), ["path=/ready", "host=192.168.0.251:80", "status=200-299"]),
        (80, http(connect_port=80), ["path=/ready", "host=192.168.0.251:80", "status=200-299"]),
        (80, http(status_code="200-204 401"), ["path=/ready", "host=192.168.0.251:80", "status=200-204,401"]),
        (80, http(virtualhost="check.example.org") | {"virtualhost": "service"}, ["path=/ready", "host=check.example.org", "status=200-299"]),
        (80, http() | {"virtualhost": "service.example.org"}, ["path=/ready", "host=service.example.org", "status=200-299"]),
        (
            80,
            {"health_check": {"type": "http", "virtualhost": "check", "http_protocol": "1.1", "urls": [{"path": "/1", "virtualhost": "url"}, {"path": "/2"}]}},
            ["path=/1", "host=url", "status=200-299", "protocol=1.1"],
        ),
    ],
)
def test_the_proof_accepts_what_the_health_check_accepts(deploy: Deploy, article: dict[str, Any], port: int, service: dict[str, Any], words: list[str]) -> None:
    article["vips"]["infra"]["services"] = [{"port": port, **service}]
    assert verb(commands(run(deploy, article))["proof-infra"])[3:] == [f"192.168.0.251:{port}", *words]


def test_a_cluster_that_is_yet_to_be_installed_is_not_asked(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["master"]["answers_within"] = 0
    done = run(deploy, article)
    assert "proof-master" not in commands(done)
    assert done.returned["master"] == "not asked"


def test_a_user_that_is_not_root_uses_sudo_and_root_does_not(deploy: Deploy, article: dict[str, Any]) -> None:
    assert all(command.inputs["create"].startswith("sudo -n sh -c ") for command in commands(run(deploy, article)).values())
    article["ssh"] = {"user": "root"}
    assert all(command.inputs["create"].startswith("sh -c ") for command in commands(run(deploy, article)).values())


def test_a_server_that_boots_is_waited_for_and_a_wrong_address_is_not(deploy: Deploy, article: dict[str, Any]) -> None:
    existing(article["pools"]["infra"])
    done = commands(run(deploy, article))
    assert done["install-master0"].inputs["connection"]["dialErrorLimit"] == BOOTING_DIAL_ERRORS
    assert done["install-infra0"].inputs["connection"]["dialErrorLimit"] == RUNNING_DIAL_ERRORS


def test_every_connection_has_its_key_in_secret_and_verifies_the_host(deploy: Deploy, article: dict[str, Any]) -> None:
    for name, command in commands(run(deploy, article)).items():
        assert command.inputs["connection"]["hostKey"] == f"ssh-ed25519 {name.rpartition('-')[2]}" or name.startswith("proof-")
        assert command.inputs["connection"]["hostKey"].startswith("ssh-ed25519 ")
        assert "connection" in command.secrets


# Secrets


def test_the_password_travels_in_one_secret_stdin_per_director_of_its_address(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    done = run(deploy, with_password(article), {"master": "pa55word"})
    carrying = {name for name, command in commands(done).items() if "pa55word" in str(command.inputs)}
    assert carrying == {"secret-master0", "secret-master1"}
    for name in carrying:
        assert "stdin" in commands(done)[name].secrets
        assert "pa55word" not in commands(done)[name].inputs["create"]


def test_another_password_is_another_version_of_the_same_files(deploy: Deploy, article: dict[str, Any]) -> None:
    old, new = (run(deploy, with_password(article), {"master": password}) for password in ("pa55word", "drow55ap"))
    changes = changed(old, new)
    hosts = {f"deliver-{host}": {"create"} for host in MASTERS} | {f"activate-{host}": {"create", "stdin"} for host in MASTERS}
    assert changes == hosts | {f"secret-{host}": {"create", "stdin"} for host in MASTERS} | {
        name: {"create"}
        for name in (
            *(f"return-master-from-{host}" for host in ("master1", "master2")),
            *(f"check-adverts-master-on-{host}" for host in MASTERS),
            "proof-master",
        )
    }


def test_the_name_of_a_version_tells_nothing_of_the_password_without_the_key(deploy: Deploy, article: dict[str, Any]) -> None:
    one, other = (run(deploy, with_password(article), {"master": "pa55word"}, key) for key in ("seed", "another"))
    assert verb(commands(one)["activate-master0"]) != verb(commands(other)["activate-master0"])


# Changes


def test_a_change_of_a_service_is_text_in_the_commands_of_its_pool_and_nothing_comes_or_goes(deploy: Deploy, article: dict[str, Any]) -> None:
    old = run(deploy, article)
    article["vips"]["infra"]["services"][0]["health_check"]["path"] = "/ready"
    new = run(deploy, article)
    assert commands(old).keys() == commands(new).keys()
    hosts = ("infra0", "infra1")
    assert changed(old, new) == {f"{step}-{host}": {"create", "stdin"} for step in ("deliver", "activate") for host in hosts} | {
        "return-infra-from-infra1": {"create"},
        "check-adverts-infra-on-infra0": {"create"},
        "check-adverts-infra-on-infra1": {"create"},
        "proof-infra": {"create"},
    }


def test_a_preview_shows_the_line_that_changed(deploy: Deploy, article: dict[str, Any]) -> None:
    old = commands(run(deploy, article))["deliver-infra0"].inputs["stdin"].splitlines()
    article["vips"]["infra"]["services"][0]["health_check"]["path"] = "/ready"
    new = commands(run(deploy, article))["deliver-infra0"].inputs["stdin"].splitlines()
    assert {line.strip() for line in set(old) ^ set(new)} == {"path /healthz", "path /ready"}


def test_a_host_that_is_removed_takes_only_its_own_commands_along(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["infra"]["hosts"]["infra2"] = "192.168.0.7"
    old = run(deploy, article)
    without = copy.deepcopy(article)
    del without["pools"]["infra"]["hosts"]["infra2"]
    new = run(deploy, without)
    steps = ("install", "deliver", "activate", "return-infra-from", "check-adverts-infra-on")
    assert commands(old).keys() - commands(new).keys() == {f"{step}-infra2" for step in steps}
    assert not commands(new).keys() - commands(old).keys()
    assert not [name for name in changed(old, new) if "master" in name]


def test_another_owner_changes_priorities_and_who_hands_over_and_replaces_nothing(deploy: Deploy, article: dict[str, Any]) -> None:
    old = run(deploy, article)
    article["vips"]["infra"]["owner"] = "infra1"
    new = run(deploy, article)
    assert commands(old).keys() - commands(new).keys() == {"return-infra-from-infra1"}
    assert commands(new).keys() - commands(old).keys() == {"return-infra-from-infra0"}
    assert {name for name, keys in changed(old, new).items() if "stdin" in keys} == {
        f"{step}-{host}" for step in ("deliver", "activate") for host in ("infra0", "infra1")
    }


def test_a_command_that_has_another_name_than_before_is_not_made_anew(deploy: Deploy, article: dict[str, Any]) -> None:
    former = {name: command.former_names for name, command in commands(run(deploy, article)).items() if name.endswith(("infra1", "proof-infra"))}
    assert former == {
        **{f"{step}-infra1": frozenset() for step in ("install", "deliver", "activate")},
        "return-infra-from-infra1": {"home-infra-infra1"},
        "check-adverts-infra-on-infra1": {"alone-infra-infra1"},
        "proof-infra": frozenset(),
    }


# Removal


def test_what_ran_on_a_server_goes_with_the_server_and_is_not_undone(deploy: Deploy, article: dict[str, Any], goes_with: dict[str, str]) -> None:
    done = run(deploy, article)
    for name, command in commands(done).items():
        assert "delete" not in command.inputs, name
        host = next(node.name for node in Cluster.parse(article).nodes() if str(node.host.address) == command.inputs["connection"]["host"])
        assert goes_with[name].endswith(f"::{host}"), name


def test_what_ran_on_a_host_that_stays_is_undone_once(deploy: Deploy, article: dict[str, Any], goes_with: dict[str, str]) -> None:
    for pool in article["pools"].values():
        existing(pool)
    done = run(deploy, article)
    undone = {name: command.inputs["delete"] for name, command in commands(done).items() if "delete" in command.inputs}
    assert undone.keys() == {f"install-{host}" for host in (*MASTERS, "infra0", "infra1")}
    assert set(undone.values()) == {f"sudo -n sh -c '[ ! -e {PROGRAM} ] || {PROGRAM} remove'"}
    assert not [name for name in commands(done) if goes_with[name]]


def test_everything_is_brought_again_to_a_host_that_was_installed_anew(deploy: Deploy, article: dict[str, Any]) -> None:
    old = run(deploy, article)
    article["pools"]["master"]["hosts"]["master1"] = {"address": "192.168.0.3", "installed": datetime.date(2026, 11, 23)}
    again = {f"{step}-master1": {"create"} for step in ("install", "deliver")} | {"activate-master1": {"create", "stdin"}}
    rest = ("return-master-from-master1", "return-master-from-master2", *(f"check-adverts-master-on-{host}" for host in MASTERS), "proof-master")
    assert changed(old, run(deploy, article)) == again | {name: {"create"} for name in rest}


def test_the_first_director_is_the_canary_not_a_server(deploy: Deploy, article: dict[str, Any]) -> None:
    article["pools"]["master"]["directors"] = ["master0", "master1"]
    done = commands(run(deploy, article))
    assert [name for name, command in done.items() if name.startswith("activate-master") and verb(command)[-1] == "canary"] == ["activate-master1"]


def test_an_address_is_proven_once_its_directors_hear_none_of_the_past(deploy: Deploy, article: dict[str, Any]) -> None:
    assert verb(commands(run(deploy, article))["check-adverts-infra-on-infra1"]) == ["alone", "15"]
