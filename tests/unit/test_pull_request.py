"""What a pull request shows: real changes in a real git repository, and the scripts that the workflows run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from operations import change as changes
from operations import diff, effects, render, report, resources

PROJECT = Path(__file__).parents[2]
SCRIPTS = PROJECT / ".github" / "scripts"
GOLDEN = Path(__file__).parent / "golden"

Change = Callable[[str, str, str], None]


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", repository, *identity, *arguments], check=True, capture_output=True, text=True).stdout


def operations(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The operator's command as users run it, with the code that lies in that repository."""
    command = [sys.executable, "-m", "operations", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=300)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """This project's program in a repository of its own, on a branch from main."""
    path = tmp_path / "project"
    for part in ("components", "node", "operations", "templates"):
        shutil.copytree(PROJECT / part, path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "__main__.py", path)
    shutil.copy(GOLDEN / "Pulumi.example.yaml", path / "Pulumi.dev.yaml")
    (path / ".gitignore").write_text("__pycache__/\n/build/\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(path))
    git(path, "add", "--all")
    git(path, "commit", "--quiet", "--message=base")
    git(path, "checkout", "--quiet", "-b", "change")
    return path


@pytest.fixture
def change(repository: Path) -> Change:
    """Replace a text in a file, and commit."""

    def replace(name: str, old: str, new: str) -> None:
        file = repository / name
        assert old in file.read_text(), f"{name} has no {old!r} (any more)"
        file.write_text(file.read_text().replace(old, new))
        git(repository, "commit", "--quiet", "--all", "--message=change")

    return replace


def shown(repository: Path, base: str = "main") -> str:
    output = repository / "build"
    assert diff.diff(repository, base, output)
    return report.report(output)


Compared = Callable[..., str]


@pytest.fixture
def compared(tmp_path: Path) -> Compared:
    """What a change of the example's file would show: texts replaced by others. Quick, without git and with the code that runs here."""

    def run(*changes: tuple[str, str], stack: Path = GOLDEN / "Pulumi.example.yaml") -> str:
        text = stack.read_text()
        for side in ("base", "head"):
            project, output = tmp_path / f"{side}-project", tmp_path / "change" / side
            project.mkdir()
            shutil.copy(PROJECT / "__main__.py", project)
            (project / "Pulumi.dev.yaml").write_text(text)
            render.write(render.files(project, "dev"), output / "stacks" / "dev")
            (output / "resources").mkdir()
            (output / "resources" / "dev.json").write_text(json.dumps(resources.record(project, "dev"), sort_keys=True))
            for old, new in changes:
                assert side == "head" or old in text, f"the example has no {old!r} (any more)"
                text = text.replace(old, new)
        shown = report.report(tmp_path / "change")
        assert report.refused(tmp_path / "change") is ("two deployments" in shown)
        return shown

    return run


def summary(text: str) -> str:
    """The line after the mark."""
    return text.splitlines()[1]


def test_a_branch_that_changes_nothing_says_so_in_one_line_and_names_the_stack_once(repository: Path) -> None:
    done = operations(repository, "diff", "--base", "main")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert summary(text) == "**No host and no resource changes.**"
    assert "Unchanged: `dev`.\n" in text and text.count("`dev`") == 1
    assert "###" not in text and "```" not in text


def test_a_checks_timing_reloads_the_hosts_of_its_pool_and_no_other(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "path: /healthz}", "path: /healthz, delay_loop: 2}")
    text = shown(repository)
    assert summary(text) == "**2 of 5 hosts reload; nothing is replaced.**"
    assert "- `infra0`, `infra1`: reload; 2 files (`host.json`, `keepalived.conf`)\n" in text
    assert "- `master0`, `master1`, `master2`: no change\n" in text
    assert f"- {effects.RELOAD.change} (`infra0`, `infra1`): {effects.RELOAD.happens}\n" in text
    assert effects.SCHEDULER.happens not in text
    assert "\n-    delay_loop 0.5\n+    delay_loop 2\n" in text
    assert "`infra0`, `infra1`: `keepalived.conf`\n```diff\n" in text, "hosts with the same difference share it"


def test_the_whole_patch_names_every_stack_host_and_file_and_patch_takes_it(repository: Path, change: Change, tmp_path: Path) -> None:
    change("Pulumi.dev.yaml", "path: /healthz}", "path: /healthz, delay_loop: 2}")
    output = tmp_path / "output"
    assert operations(repository, "diff", "--base", "main", "--output", str(output)).returncode == 0
    text = (output / "hosts.diff").read_text()
    assert [line for line in text.splitlines() if line.startswith("+++")] == [
        f"+++ b/dev/{host}/{file}" for host in ("infra0", "infra1") for file in ("host.json", "keepalived.conf")
    ]
    subprocess.run(["git", "apply", "--directory=stacks", str(output / "hosts.diff")], cwd=output / "base", check=True)
    for side in ("base", "head"):
        assert "delay_loop 2" in (output / side / "stacks/dev/infra0/keepalived.conf").read_text()


def test_a_templates_change_shows_on_every_host_that_has_the_file_as_base_is_rendered_by_its_own_templates(repository: Path, change: Change) -> None:
    change("templates/etc/keepalived/current/sysctl.conf.j2", "net.ipv4.vs.sloppy_tcp = 1", "net.ipv4.vs.sloppy_tcp = 0")
    text = shown(repository)
    assert "- `infra0`, `infra1`, `master0`, `master1`, `master2`: reload; 1 file (`sysctl.conf`)\n" in text
    assert "-net.ipv4.vs.sloppy_tcp = 1\n+net.ipv4.vs.sloppy_tcp = 0\n" in text


def test_base_is_rendered_by_its_own_code(repository: Path, change: Change) -> None:
    change("components/configuration/cluster.py", "return 150 if host == vip.owner", "return 151 if host == vip.owner")
    assert "-    priority 150\n+    priority 151\n" in shown(repository)


def test_another_owner_moves_the_vip_and_both_commits_are_named(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "owner: infra0", "owner: infra1")
    text = shown(repository)
    assert summary(text) == "**2 of 5 hosts reload; `192.168.0.251` moves to `infra1`; nothing is replaced.**"
    base, head = (git(repository, "log", "-1", "--format=%h %s", "--abbrev=12", name).strip() for name in ("main", "HEAD"))
    assert base != head and f"Base `{base}`, head `{head}`." in text
    assert "- VIP `192.168.0.251` (`infra`) moves from `infra0` to `infra1`\n" in text
    assert "- priority of `infra1` for `192.168.0.251`: 140 → 150\n" in text
    assert "192.168.0.250` (`master`) moves" not in text
    assert f"- `owner` (`infra`): {effects.OWNER.happens}\n" in text
    assert effects.RELOAD.change not in text, "no health check, weight or port changes"


def test_json_has_the_step_of_each_host_the_vips_and_the_resources(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "owner: infra0", "owner: infra1")
    done = operations(repository, "diff", "--base", "main", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["format"], said["stack"], said["result"], said["every_host"], said["findings"]) == (1, None, "ok", [], [])
    dev = said["stacks"]["dev"]
    assert dev["changed"] is True and dev["drain_first"] == []
    assert {host: each["step"] for host, each in dev["hosts"].items()} == {
        **dict.fromkeys(("infra0", "infra1"), "reload"),
        **dict.fromkeys(("master0", "master1", "master2"), "no change"),
    }
    assert dev["hosts"]["infra0"]["files"] == ["host.json", "keepalived.conf"]
    assert dev["vips"]["infra"] == {
        "base": {"address": "192.168.0.251", "additional_addresses": [], "owner": "infra0"},
        "head": {"address": "192.168.0.251", "additional_addresses": [], "owner": "infra1"},
    }
    assert {"change": effects.OWNER.change, "concerns": ["infra"], "happens": effects.OWNER.happens} in dev["effects"]
    assert dev["resources"] == {"made": [], "deleted": [], "changed": [], "replaced": []}
    example = json.loads(re.findall(r"```json\n(.*?)```", (PROJECT / "docs" / "reference" / "operations.md").read_text(), re.DOTALL)[1])
    assert list(example) == list(dev)
    assert example["hosts"].items() <= dev["hosts"].items() and example["vips"].items() <= dev["vips"].items()
    assert example["effects"][0]["change"] == effects.OWNER.change


def test_json_of_a_refused_stack_has_the_reason_beside_the_folder_with_the_files(repository: Path, change: Change, tmp_path: Path) -> None:
    change("Pulumi.dev.yaml", "owner: infra0", "owner: nowhere")
    done = operations(repository, "diff", "--base", "main", "--json", "--output", str(tmp_path / "output"))
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["result"] == "failed" and said["stacks"] == {"dev": None}
    (finding,) = said["findings"]
    assert (finding["subject"], finding["result"]) == ("dev", "failed") and "nowhere" in finding["text"]
    assert finding["text"] in (tmp_path / "output" / "comment.md").read_text()


def test_another_address_and_a_new_and_a_lost_vip_are_said_and_the_reservation_is_replaced(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "address: 192.168.0.250", "address: 192.168.0.249")
    change("Pulumi.dev.yaml", "      infra:\n        address: 192.168.0.251", "      routers:\n        address: 192.168.0.252")
    text = shown(repository)
    assert "`192.168.0.250` becomes `192.168.0.249`; `192.168.0.252` is new; 1 resource is replaced (`Port vip-master`).**" in summary(text)
    assert "`192.168.0.251` is given up" in summary(text)
    assert "- VIP `192.168.0.250` (`master`) becomes `192.168.0.249`\n" in text
    assert "- VIP `192.168.0.251` (`infra`) is given up\n" in text
    assert "- VIP `192.168.0.252` (`routers`) is new, at `infra0`\n" in text
    assert "-     fixedIps: ipAddress=192.168.0.250, subnetId=Subnet subnet\n+     fixedIps: ipAddress=192.168.0.249, subnetId=Subnet subnet\n" in text
    assert "- FloatingIp vip-infra\n" in text and "+ FloatingIp vip-routers\n" in text
    assert f"- {effects.VIP_ADDRESS.change} (`master`): {effects.VIP_ADDRESS.happens}\n" in text


def test_a_rule_that_opens_to_everyone_is_in_the_summary_and_no_host_changes(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "      user: debian", "      user: debian\n      allowed_cidrs: [0.0.0.0/0]")
    text = shown(repository)
    assert summary(text) == "**no host changes; 1 rule opens to 0.0.0.0/0; 1 rule closes; nothing is replaced.**"
    assert "+ SecGroupRule tcp-22-from-0.0.0.0/0\n+     direction: ingress\n" in text and "+     portRangeMin: 22\n" in text
    assert "- SecGroupRule tcp-22-from-10.0.0.0/8\n" in text
    assert f"- {effects.CLIENTS.change} (`2 rules`): {effects.CLIENTS.happens}\n" in text


def test_clients_from_everywhere_show_as_rules_and_as_address_pairs_of_every_director(compared: Compared) -> None:
    text = compared(("client_cidrs: [192.168.0.0/24, 10.0.0.0/8]", "client_cidrs: [0.0.0.0/0]"))
    assert summary(text) == "**no host changes; 4 rules open to 0.0.0.0/0; 4 rules close; nothing is replaced.**"
    pair = "-     allowedAddressPairs: ipAddress=10.0.0.0/8\n+     allowedAddressPairs: ipAddress=0.0.0.0/0\n"
    for host in ("infra0", "infra1", "master0", "master1", "master2"):
        there = re.search(rf"^  Port {host}\n((?:[-+]     .*\n)+)", text, re.MULTILINE)
        assert there and set(there[1].splitlines()) == set(pair.splitlines())


def test_another_external_network_and_flavor_and_image_show_and_say_what_they_do_to_running_servers(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "external: public", "external: provider")
    infra = "        image: debian-12\n        flavor: m1.medium\n        hosts: {infra0"
    change("Pulumi.dev.yaml", infra, infra.replace("debian-12", "debian-13").replace("medium", "large"))
    text = shown(repository)
    assert summary(text) == "**no host changes; 2 resources are replaced (`FloatingIp vip-infra`, `FloatingIp vip-master`).**"
    assert "  Router router\n-     externalNetworkId: network public\n+     externalNetworkId: network provider\n" in text
    flavor, image = "-     flavorName: m1.medium\n+     flavorName: m1.large\n", "-     imageId: image debian-12\n+     imageId: image debian-13\n"
    assert f"  Instance infra0\n{flavor}{image}  Instance infra1\n{flavor}{image}" in text
    assert f"- {effects.FIRST_BOOT.change} (`infra0`, `infra1`): {effects.FIRST_BOOT.happens}\n" in text
    assert f"(`router router`, `vip-infra`, `vip-master`): {effects.EXTERNAL.happens}\n" in text
    assert "PRIVATE KEY" not in (repository / "build/head/resources/dev.json").read_text()


def test_a_servers_cloud_config_shows_and_its_identity_does_not(compared: Compared) -> None:
    text = compared(("        hosts: {infra0", "        cloud_config: {timezone: UTC, ssh_authorized_keys: [ssh-ed25519 COLLEAGUE]}\n        hosts: {infra0"))
    assert '+     userData: {"ssh_authorized_keys": ["ssh-ed25519 COLLEAGUE"], "timezone": "UTC"}\n' in text
    assert "ssh_keys" not in text and "host_key" not in text


KINDS = [
    ("scheduler", "{port: 80, ", "{port: 80, scheduler: sh, ", effects.SCHEDULER, "`infra0`, `infra1`", "2 of 5 hosts reload"),
    ("forwarding", "{port: 80, ", "{port: 80, forwarding_method: TUN, ", effects.FORWARDING, "`infra0`, `infra1`", "2 of 5 hosts restart keepalived"),
    ("router id", "virtual_router_id: 51", "virtual_router_id: 61", effects.VIRTUAL_ROUTER_ID, "`master0`, `master1`, `master2`", "3 of 5 hosts reload"),
    ("unicast", "owner: master0", "owner: master0\n        unicast: true", effects.ADVERTS, "`master0`, `master1`, `master2`", "3 of 5 hosts reload"),
    ("service", "\n          - {port: 443, health_check: {type: tcp}}", "", effects.VIP_REMOVED, "`infra-443`", "2 of 5 hosts reload"),
    ("director", "hosts: {infra0", "directors: [infra0]\n        hosts: {infra0", effects.DIRECTOR_REMOVED, "`infra1`", "1 host is no director any more"),
]


@pytest.mark.parametrize(("old", "new", "effect", "concerned", "summed"), [case[1:] for case in KINDS], ids=[case[0] for case in KINDS])
def test_each_kind_of_change_is_told_with_what_it_does(compared: Compared, old: str, new: str, effect: effects.Effect, concerned: str, summed: str) -> None:
    text = compared((old, new))
    assert f"- {effect.change} ({concerned}): {effect.happens}\n" in text
    assert summed in summary(text)


def test_the_pages_table_of_changes_is_the_table_of_the_code() -> None:
    page = (PROJECT / "docs/reference/changes.md").read_text()
    assert page.count("| Change | What happens |\n|---|---|\n") == 1
    assert page.partition("| Change | What happens |\n|---|---|\n")[2].partition("\n\n")[0].rstrip("\n") + "\n" == effects.table()


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"
INFRA = "hosts: {infra0: 192.168.0.5, infra1: 192.168.0.6}"
EXISTING = ", ".join(f"infra{n}: {{address: 192.168.0.{5 + n}, host_key: {KEY}}}" for n in range(2))
REFUSALS = {
    "a renamed host": (
        [("infra1: 192.168.0.6", "infra2: 192.168.0.6")],
        "infra2: 192.168.0.6 is the address of infra1 until this deployment ends. Remove infra1, deploy, then add infra2",
    ),
    "a host's other address": (
        [("infra1: 192.168.0.6", "infra1: 192.168.0.7")],
        "infra1: its address changes from 192.168.0.6 to 192.168.0.7. Remove infra1, deploy, then add it with the new address",
    ),
    "swapped addresses": (
        [(INFRA, "hosts: {infra0: 192.168.0.6, infra1: 192.168.0.5}")],
        "infra1: its address changes from 192.168.0.6 to 192.168.0.5. Remove infra1, deploy",
    ),
    "a renamed VIP": (
        [("      infra:\n        address:", "      routers:\n        address:")],
        "VIP routers: 192.168.0.251 is the address of VIP infra until this deployment ends. Remove infra, deploy, then add routers, or keep the name infra",
    ),
    "a VIP at the address of a removed host": (
        [(", infra1: 192.168.0.6}", "}"), ("address: 192.168.0.251", "address: 192.168.0.6")],
        "vip-infra: 192.168.0.6 is the address of infra1 until this deployment ends. Remove infra1, deploy, then add vip-infra",
    ),
    "an additional address that is another VIP": (
        [
            ("      infra:\n        address: 192.168.0.251", "      infra:\n        address: 192.168.0.252"),
            ("address: 192.168.0.250", "address: 192.168.0.250\n        additional_addresses: [192.168.0.251]"),
        ],
        "VIP master: 192.168.0.251 is the address of VIP infra until this deployment ends. Remove infra, deploy, then add master, or keep the name infra",
    ),
    "another subnet": ([("cidr: 192.168.0.0/24", "cidr: 192.168.0.0/23")], "Subnet subnet: another network, or another range. Keep it, and create a new stack"),
    "an existing network": ([("      external: public", "      existing: ocp")], "another network, or another range. Keep it, and create a new stack"),
    "a server in place of which a host exists": (
        [(INFRA, f"existing: true\n        hosts: {{{EXISTING}}}")],
        "infra0: becomes an existing host, and its server would be deleted. Remove infra0, deploy, then add the existing host",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_change_that_needs_two_deployments_is_refused_with_the_remedy(compared: Compared, name: str) -> None:
    changes, says = REFUSALS[name]
    text = compared(*changes)
    assert "refused, because it needs two deployments" in summary(text)
    assert "**Refused: this needs two deployments.**" in text and says in text


def test_a_renamed_host_fails_the_check(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "infra1: 192.168.0.6", "infra2: 192.168.0.6")
    done = operations(repository, "diff", "--base", "main")
    assert done.returncode == 1
    assert summary(done.stdout).startswith("**refused, because it needs two deployments; 1 of 5 hosts reloads; ")


DUAL_STACK = GOLDEN.parent / "dual_stack" / "Pulumi.dual-stack.yaml"
IPV6_REFUSALS = {
    "a renamed host": (
        [("master2: {", "master3: {")],
        "master3: fd00:0:0:1::4 is the address of master2 until this deployment ends. Remove master2, deploy, then add master3",
    ),
    "a host's other address": (
        [('address_v6: "fd00:0:0:1::4"', 'address_v6: "fd00:0:0:1::9"')],
        "master2: its address changes from fd00:0:0:1::4 to fd00:0:0:1::9. Remove master2, deploy, then add it with the new address",
    ),
    "a renamed VIP": (
        [("      new:\n", "      other:\n")],
        "VIP other: fd00:0:0:1::251 is the address of VIP new until this deployment ends. Remove new, deploy, then add other, or keep the name new",
    ),
}


@pytest.mark.parametrize("name", IPV6_REFUSALS)
def test_an_ipv6_address_that_needs_two_deployments_is_refused_once_with_the_remedy(compared: Compared, name: str) -> None:
    changes, says = IPV6_REFUSALS[name]
    assert compared(*changes, stack=DUAL_STACK).count(says) == 1


def test_the_ipv6_vips_of_a_stack_are_in_its_summary(compared: Compared) -> None:
    text = compared(("fd00:0:0:1::250", "fd00:0:0:1::249"), ("address: fd00:0:0:1::251", "address: fd00:0:0:1::252"), stack=DUAL_STACK)
    assert "`fd00:0:0:1::250` becomes `fd00:0:0:1::249`; `fd00:0:0:1::251` becomes `fd00:0:0:1::252`; " in summary(text)
    assert "refused" not in summary(text)


def test_a_second_address_that_goes_says_what_it_does_to_the_first(compared: Compared) -> None:
    text = compared(("        address_v6: fd00:0:0:1::250\n", ""), stack=DUAL_STACK)
    assert f"- {effects.TOGETHER.change} (`master`): {effects.TOGETHER.happens}\n" in text
    assert f"- {effects.VIP_REMOVED.change} (`master-v6`, `master-v6-53-udp`, `master-v6-6443`): {effects.VIP_REMOVED.happens}\n" in text


def test_additional_addresses_that_come_and_go_are_said_with_their_ports(compared: Compared, tmp_path: Path) -> None:
    second = "        address_v6: fd00:0:0:1::250\n"
    base = (second, f"{second}        additional_addresses: [192.168.0.252, 'fd00:0:0:1::252']\n")
    text = compared(base, stack=DUAL_STACK)
    assert "; `192.168.0.252` is new; `fd00:0:0:1::252` is new; nothing is replaced.**" in summary(text)
    assert "- additional address `fd00:0:0:1::252` of VIP `master-v6` is new\n" in text
    assert f"- {effects.ADDITIONAL.change} (`master`, `master-v6`): {effects.ADDITIONAL.happens}\n" in text
    assert "+ Port vip-master-192.168.0.252\n" in text and "+ Port vip-master-v6-fd00.0000.0000.0001.0000.0000.0000.0252\n" in text
    dev = report.to_json(tmp_path / "change")["stacks"]["dev"]
    assert [dev["vips"]["master"][side]["additional_addresses"] for side in ("base", "head")] == [[], ["192.168.0.252"]]


def test_clients_of_ipv6_from_everywhere_come_first_in_the_summary(compared: Compared) -> None:
    text = compared(("client_cidrs: [203.0.113.0/24, 2001:db8::/32]", 'client_cidrs: [203.0.112.0/24, "::/0"]'), stack=DUAL_STACK)
    assert re.search(r"; \d rules open to ::/0; \d rules open to `203\.0\.112\.0/24`; ", summary(text))


def test_an_owner_of_both_addresses_of_a_vip_is_to_be_drained_once(compared: Compared, tmp_path: Path) -> None:
    host = '          master0: {address: 192.168.0.2, address_v6: "fd00:0:0:1::2"}\n'
    text = compared((host, ""), ("directors: [master0, master1]", "directors: [master1, master2]"), ("owner: master0", "owner: master1"), stack=DUAL_STACK)
    assert re.findall("before the deployment: .*", text) == [
        "before the deployment: `operations drain` `master0`, which may hold `192.168.0.250`, `fd00:0:0:1::250`"
    ]
    dev = report.to_json(tmp_path / "change")["stacks"]["dev"]
    assert dev["drain_first"] == ["master0"]
    vip = {"address": "fd00:0:0:1::250", "additional_addresses": []}
    assert dev["vips"]["master-v6"] == {side: {**vip, "owner": owner} for side, owner in (("base", "master0"), ("head", "master1"))}


def test_a_new_stack_tells_of_both_families_that_it_is_open_to(tmp_path: Path) -> None:
    for name, text in (
        ("stacks/new/host/sysctl.conf", ""),
        ("resources/new.json", json.dumps([{"kind": "SecGroupRule", "name": each, "inputs": {"remoteIpPrefix": each}} for each in ("::/0", "0.0.0.0/0")])),
    ):
        (tmp_path / "head" / name).parent.mkdir(parents=True)
        (tmp_path / "head" / name).write_text(text)
    assert "its rules open ports to 0.0.0.0/0 and ::/0" in summary(report.report(tmp_path))


def test_what_is_done_in_one_deployment_is_not_refused(compared: Compared) -> None:
    assert "refused" not in summary(compared(("infra1: 192.168.0.6", "infra2: 192.168.0.7"), ("address: 192.168.0.250", "address: 192.168.0.249")))


def test_an_owner_that_leaves_is_to_be_drained_first(compared: Compared) -> None:
    text = compared((INFRA, "hosts: {infra1: 192.168.0.6}"), ("owner: infra0", "owner: infra1"))
    assert "- before the deployment: `operations drain` `infra0`, which may hold `192.168.0.251`\n" in text
    assert "1 host is removed; `192.168.0.251` moves to `infra1`; 2 rules close; 1 server is deleted" in summary(text)


def test_json_names_the_hosts_to_drain_first_new_and_lost_vips_and_the_resources(compared: Compared, tmp_path: Path) -> None:
    compared(
        (INFRA, "hosts: {infra1: 192.168.0.6}"),
        ("owner: infra0", "owner: infra1"),
        ("      infra:\n        address: 192.168.0.251", "      routers:\n        address: 192.168.0.252"),
        ("address: 192.168.0.250", "address: 192.168.0.249"),
    )
    dev = report.to_json(tmp_path / "change")["stacks"]["dev"]
    assert dev["hosts"]["infra0"]["step"] == "removed from the stack" and dev["drain_first"] == ["infra0"]
    assert dev["vips"]["infra"] == {"base": {"address": "192.168.0.251", "additional_addresses": [], "owner": "infra0"}, "head": None}
    assert dev["vips"]["routers"] == {"base": None, "head": {"address": "192.168.0.252", "additional_addresses": [], "owner": "infra1"}}
    assert "FloatingIp vip-routers" in dev["resources"]["made"] and "Instance infra0" in dev["resources"]["deleted"]
    assert dev["resources"]["replaced"] == ["Port vip-master"] and "Port vip-master" in dev["resources"]["changed"]


def test_a_configuration_that_only_the_program_refuses_is_refused(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "cidr: 192.168.0.0/24", "cidr: 192.168.0.0/24\n      dns_nameservers: [9.9.9.9]")
    (repository / "__main__.py").write_text("import pulumi\n\nraise pulumi.RunError('network.cidr: no address is left')\n")
    done = operations(repository, "diff", "--base", "main")
    assert done.returncode == 1
    assert summary(done.stdout) == "**the configuration is refused.**"
    assert "network.cidr: no address is left" in done.stdout


def test_a_new_and_a_removed_host_are_said(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "infra1: 192.168.0.6", "infra2: 192.168.0.7")
    text = shown(repository)
    assert "- `infra1`: removed from the stack\n" in text
    assert "- `infra2`: new\n" in text
    assert re.search(r"^- `infra0`: reload; \d files \(`host.json`, `keepalived.conf`", text, re.MULTILINE)
    opened = "2 rules open to `192.168.0.7/32`; 2 rules close"
    assert summary(text) == f"**1 of 5 hosts reloads; 1 host is new; 1 host is removed; {opened}; 1 server is deleted; nothing is replaced.**"
    assert "+ Instance infra2\n" in text and "- Instance infra1\n" in text and "+     flavorName: m1.medium\n" in text
    assert f"- a host added (`infra2`): {effects.HOST_ADDED.happens}\n" in text and f"- a host removed (`infra1`): {effects.HOST_REMOVED.happens}\n" in text


def test_a_host_that_directs_no_longer_is_told(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "hosts: {infra0", "directors: [infra0]\n        hosts: {infra0")
    assert "- `infra1`: is no director any more; " in shown(repository)


@pytest.mark.parametrize(
    ("before", "after", "step"),
    [
        (None, "server", "keepalived starts"),
        ("server", None, "keepalived stops"),
        ("server", "server", "reload"),
        ("server", "director", "becomes a director"),
        ("director", "server", "is no director any more"),
        (None, "director", "becomes a director"),
    ],
)
def test_what_the_roll_out_does_on_a_host_follows_from_its_role(before: str | None, after: str | None, step: str) -> None:
    def side(role: str | None, text: str) -> changes.Side:
        described = json.dumps({"checks_only": True} if role == "server" else {})
        return changes.Side({"infra1": {"host.json": described, "sysctl.conf": text, **({"keepalived.conf": ""} if role else {})}})

    assert changes.Change("dev", side(before, "one\n"), side(after, "two\n")).step("infra1") == step


def test_a_new_and_a_deleted_stack_are_said(repository: Path) -> None:
    git(repository, "mv", "Pulumi.dev.yaml", "Pulumi.prod.yaml")
    text = shown(repository)
    assert "### Stack `dev`\n\nThe stack is deleted. Its hosts (`infra0`, `infra1`, `master0`, `master1`, `master2`) keep" in text
    assert "### Stack `prod`\n\nThe stack is new.\n" in text
    assert "- `infra0`, `infra1`, `master0`, `master1`, `master2`: new\n" in text
    assert "**`dev`: the stack is removed from the project, and nothing is touched.** **`prod`: a new stack; 5 hosts are new;" in summary(text)
    assert (
        "+ Router router\n+     adminStateUp: true\n+     externalNetworkId: network public\n" in text and "+ SecGroupRule vrrp-from-192.168.0.2/32\n" in text
    )


def test_stacks_that_do_not_change_are_mentioned_once(repository: Path, change: Change) -> None:
    git(repository, "checkout", "--quiet", "main")
    for stack in ("prod", "test"):
        shutil.copy(repository / "Pulumi.dev.yaml", repository / f"Pulumi.{stack}.yaml")
    commit(repository, {})
    git(repository, "checkout", "--quiet", "-b", "another")
    change("Pulumi.test.yaml", "path: /healthz}", "path: /healthz, delay_loop: 2}")
    text = shown(repository)
    assert summary(text) == "**`test`: 2 of 5 hosts reload; nothing is replaced.**"
    assert "Unchanged: `dev`, `prod`.\n" in text and text.count("`dev`") == text.count("`prod`") == 1


def test_a_folder_with_anything_else_in_it_is_not_made_anew(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    done = operations(repository, "diff", "--base", "main", "--output", str(tmp_path))
    assert done.returncode == 2
    assert f"--output: {tmp_path} has " in done.stderr and "name another folder" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "all of it"


def test_a_refused_configuration_shows_its_error_and_fails(repository: Path, change: Change, tmp_path: Path) -> None:
    change("Pulumi.dev.yaml", "owner: master0", "ownr: master0")
    output = tmp_path / "output"
    done = operations(repository, "diff", "--base", "main", "--output", str(output))
    assert done.returncode == 1
    comment = (output / "comment.md").read_text()
    assert "**The configuration is refused**" in comment
    assert "vips.master.ownr: unknown key; did you mean 'owner'?" in comment
    assert str(repository) not in comment


def test_a_base_that_was_refused_does_not_hide_the_head_that_mends_it(repository: Path, change: Change) -> None:
    git(repository, "checkout", "--quiet", "main")
    change("Pulumi.dev.yaml", "owner: master0", "ownr: master0")
    git(repository, "checkout", "--quiet", "-b", "mended")
    change("Pulumi.dev.yaml", "ownr: master0", "owner: master0")
    text = shown(repository)
    missing = r"Pulumi\.dev\.yaml:\d+: vips\.master\.owner: missing; give the name of a host of the pool, such as master0"
    unknown = r"Pulumi\.dev\.yaml:\d+: vips\.master\.ownr: unknown key"
    assert re.search(rf"The base could not be rendered, so everything counts as new:\n```text\n{missing}\n{unknown}", text)
    (finding,) = report.to_json(repository / "build")["findings"]
    assert (finding["subject"], finding["result"]) == ("dev", "unknown") and re.match(f"base cannot be compared: {missing}\n{unknown}", finding["text"])
    assert "`master0`, `master1`, `master2`: new\n" in text


NEW_PROGRAM = "every host gets a new version of it with a reload, canary first"


def test_a_change_of_the_program_is_told_once_and_reloads_every_host(repository: Path, change: Change) -> None:
    change("node/openshift_lvs/vrrp.py", "LEAVE_S = 10", "LEAVE_S = 11")
    change("node/systemd/openshift-lvs.service", "[Unit]", "[Unit]\n# The VIPs.")
    text = shown(repository)
    named = "`node/openshift_lvs/vrrp.py`, `node/systemd/openshift-lvs.service`"
    assert f"### Every host\n\n- The program changes ({named}): {NEW_PROGRAM}\n" in text
    assert "- `infra0`, `infra1`, `master0`, `master1`, `master2`: reload; only the program changes\n" in text
    assert summary(text) == "**5 of 5 hosts reload; nothing is replaced.**"
    assert "```" not in text, "the digest of every host's host.json is no difference to look at"


def test_the_whole_patch_has_the_programs_digest(repository: Path, change: Change) -> None:
    change("node/openshift_lvs/vrrp.py", "LEAVE_S = 10", "LEAVE_S = 11")
    shown(repository)
    patch = (repository / "build" / "hosts.diff").read_text()
    assert patch.count('\n-  "program": "') == patch.count('\n+  "program": "') == 5


def test_a_host_that_directs_nothing_gets_a_new_program_with_a_reload(repository: Path, change: Change) -> None:
    git(repository, "checkout", "--quiet", "main")
    change("Pulumi.dev.yaml", "hosts: {infra0", "directors: [infra0]\n        hosts: {infra0")
    git(repository, "checkout", "--quiet", "-b", "another")
    change("node/openshift_lvs/vrrp.py", "LEAVE_S = 10", "LEAVE_S = 11")
    assert "`infra1`, `master0`, `master1`, `master2`: reload; only the program changes\n" in shown(repository)


def test_a_configuration_that_changes_with_the_program_is_shown_without_the_programs_digest(repository: Path, change: Change) -> None:
    change("node/openshift_lvs/vrrp.py", "LEAVE_S = 10", "LEAVE_S = 11")
    change("Pulumi.dev.yaml", "path: /healthz}", "path: /healthz, delay_loop: 2}")
    text = shown(repository)
    assert text.count(NEW_PROGRAM) == 1
    assert "- `infra0`, `infra1`: reload; 2 files (`host.json`, `keepalived.conf`)\n" in text
    assert "- `master0`, `master1`, `master2`: reload; only the program changes\n" in text
    assert '-  "check_seconds": 2,\n+  "check_seconds": 4,\n' in text
    assert not re.search(r'^[-+]  "program"', text, re.MULTILINE)


def test_a_change_of_the_installation_runs_it_again_and_reloads_nothing(repository: Path, change: Change) -> None:
    change("node/install", "set -eu", "set -eu  # strict")
    text = shown(repository)
    assert "### Every host\n\n- `node/install` changes and runs again (`install-HOST`), without a reload\n" in text
    assert summary(text) == "**No host reloads; what is installed on every host changes.**"
    assert report.to_json(repository / "build")["every_host"] == ["node/install"]


def test_python_that_was_compiled_is_no_part_of_the_program(repository: Path, change: Change) -> None:
    (repository / "node/openshift_lvs/__pycache__").mkdir()
    (repository / "node/openshift_lvs/__pycache__/vrrp.pyc").write_text("")
    assert "Every host" not in shown(repository)
    change("node/openshift_lvs/vrrp.py", "LEAVE_S = 10", "LEAVE_S = 11")
    assert "The program changes (`node/openshift_lvs/vrrp.py`): " in shown(repository)


OLD_RELEASE = """
import sys
from pathlib import Path
target = Path(sys.argv[sys.argv.index("--output") + 1])
for host in ("infra0", "infra1", "master0", "master1", "master2"):
    (target / host).mkdir(parents=True)
    for name in ("keepalived.conf", "node.conf", "services"):
        (target / host / name).write_text(f"{name} of the release with scripts\\n")
"""


OLD_PROGRAM = """
import pulumi

from components.network import ClusterNetwork, NetworkArgs
from components.servers import Servers, ServersArgs, find_images
from components.stack import Stack

stack = Stack.read(pulumi.Config())
network = ClusterNetwork("network", NetworkArgs(stack.cluster))
Servers("servers", ServersArgs(stack.cluster, find_images(stack.cluster), network, stack.host_key_seed, stack.ssh_public_key))
"""
"""What that release asked of OpenStack."""


def with_scripts(repository: Path) -> None:
    """The release that had shell scripts in place of the program, or what a comparison sees of it."""
    shutil.rmtree(repository / "node")
    (repository / "operations/__main__.py").write_text(OLD_RELEASE)
    (repository / "__main__.py").write_text(OLD_PROGRAM)
    commit(repository, {"templates/usr/local/lib/openshift-lvs/apply": "#!/bin/sh", "templates/etc/systemd/system/openshift-lvs.service": "[Unit]"})


def test_the_program_in_place_of_the_scripts_of_the_release_before_is_told(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    with_scripts(repository)
    git(repository, "checkout", "--quiet", "-b", "program")
    git(repository, "revert", "--no-edit", "HEAD")
    text = shown(repository)
    assert "### Every host\n\n- The program (`node/`) replaces the scripts: every host gets a new version with a reload, canary first\n" in text
    assert "- `infra0`, `infra1`, `master0`, `master1`, `master2`: reload; 8 files (`host.json`, `keepalived.conf`, `lvs.nft`, " in text
    assert "-services of the release with scripts\n" in text


def test_scripts_in_place_of_the_program_are_told_where_the_head_is_older(repository: Path) -> None:
    with_scripts(repository)
    text = shown(repository)
    assert "### Every host\n\n- Scripts replace the program (`node/`): every host gets a new version with a reload, canary first\n" in text
    assert "- `infra0`, `infra1`, `master0`, `master1`, `master2`: reload; 8 files (`host.json`, `keepalived.conf`, `lvs.nft`, " in text


def test_scripts_and_units_that_every_host_gets_are_listed(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    with_scripts(repository)
    git(repository, "checkout", "--quiet", "-b", "scripts")
    commit(repository, {"templates/usr/local/lib/openshift-lvs/apply": "set -eu"})
    text = shown(repository)
    assert "Scripts or units change and are installed anew (`install-HOST`), without a reload: `usr/local/lib/openshift-lvs/apply`" in text
    assert "Unchanged: `dev`" in text


def test_what_main_did_since_the_branch_began_is_not_shown(repository: Path, change: Change) -> None:
    git(repository, "checkout", "--quiet", "main")
    change("Pulumi.dev.yaml", "owner: master0", "owner: master1")
    git(repository, "checkout", "--quiet", "change")
    assert summary(shown(repository)) == "**No host and no resource changes.**"


def test_a_merge_in_a_shallow_clone_is_compared_with_its_first_parent_as_the_workflow_does(repository: Path, change: Change, tmp_path: Path) -> None:
    change("Pulumi.dev.yaml", "owner: infra0", "owner: infra1")
    git(repository, "checkout", "--quiet", "main")
    change("Pulumi.dev.yaml", "owner: master0", "owner: master1")
    git(repository, "merge", "--quiet", "--no-edit", "change")
    git(tmp_path, "clone", "--quiet", "--depth=2", f"file://{repository}", "clone")
    text = shown(tmp_path / "clone", "HEAD^1")
    assert "moves from `infra0` to `infra1`" in text
    assert "moves from `master0`" not in text


def test_a_change_that_is_not_committed_is_shown_and_the_repository_is_left_as_it_was(repository: Path) -> None:
    stack = repository / "Pulumi.dev.yaml"
    stack.write_text(stack.read_text().replace("owner: master0", "owner: master1"))
    before = git(repository, "status", "--porcelain") + git(repository, "worktree", "list") + git(repository, "for-each-ref")
    assert "moves from `master0` to `master1`" in shown(repository)
    assert git(repository, "status", "--porcelain") + git(repository, "worktree", "list") + git(repository, "for-each-ref") == before


def test_an_unknown_base_names_it_and_says_what_to_fetch(repository: Path) -> None:
    done = operations(repository, "diff", "--base", "origin/main")
    assert done.returncode == 2
    assert "--base: 'origin/main' is not a commit here; fetch it first: git fetch origin BRANCH" in done.stderr


def test_a_base_without_a_common_commit_names_the_remedy(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--orphan", "stranger")
    git(repository, "commit", "--quiet", "--message=stranger")
    with pytest.raises(diff.BaseError, match="has no common commit with HEAD here"):
        diff.diff(repository, "main", repository / "build")


# --- what a pull request needs checked ---


def scope(repository: Path, *base: str) -> str:
    done = subprocess.run([SCRIPTS / "scope", *base], cwd=repository, capture_output=True, text=True, check=True)
    return done.stdout


def commit(repository: Path, lines: dict[str, str]) -> None:
    """Add a line to each of these files, new or not, and commit them."""
    for name, line in lines.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(f"{line}\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=change")


def named_check(script: str) -> str:
    return f"services: [{{port: 80, health_check: {{type: misc, script: {script}, user: nobody}}}}]"


def test_a_change_of_stacks_only_leaves_the_program_alone(repository: Path, change: Change) -> None:
    change("Pulumi.dev.yaml", "owner: master0", "owner: master1")
    commit(repository, {"Pulumi.prod.yaml": "config: {}"})
    assert scope(repository, "main") == "program=false\n"
    git(repository, "mv", "Pulumi.dev.yaml", "Pulumi.test.yaml")
    git(repository, "commit", "--quiet", "--message=renamed")
    assert scope(repository, "main") == "program=false\n"


@pytest.mark.parametrize("name", ["components/configuration/vips.py", "Pulumi.yaml", "lab/Pulumi.local.yaml", "README.md", "checks/api", "Pulumi.dev.yaml.py"])
def test_a_change_of_anything_else_beside_a_stack_is_one_of_the_program(repository: Path, name: str) -> None:
    commit(repository, {"Pulumi.dev.yaml": "# more", name: "# more"})
    assert scope(repository, "main") == "program=true\n"


@pytest.mark.parametrize("written", ["checks/api", '"checks/api"', "'checks/api'"])
def test_a_check_script_that_a_stack_names_is_configuration(repository: Path, written: str) -> None:
    commit(repository, {"Pulumi.prod.yaml": named_check(written), "checks/api": "#!/bin/sh"})
    assert scope(repository, "main") == "program=false\n"
    commit(repository, {"checks/apis": "#!/bin/sh"})
    assert scope(repository, "main") == "program=true\n"


def test_a_check_script_that_goes_with_its_stack_is_configuration(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "main")
    commit(repository, {"Pulumi.prod.yaml": named_check("checks/api"), "checks/api": "#!/bin/sh"})
    git(repository, "checkout", "--quiet", "-b", "removed")
    git(repository, "rm", "--quiet", "Pulumi.prod.yaml", "checks/api")
    git(repository, "commit", "--quiet", "--message=removed")
    assert scope(repository, "main") == "program=false\n"


@pytest.mark.parametrize("script", ["components/configuration/vips.py", "node/install", ".github/scripts/scope", "Makefile"])
def test_a_file_of_the_program_stays_one_when_a_stack_names_it_as_a_check(repository: Path, script: str) -> None:
    commit(repository, {"Pulumi.prod.yaml": named_check(script), script: "# more"})
    assert scope(repository, "main") == "program=true\n"


def test_a_file_of_the_program_that_becomes_a_check_script_is_missed(repository: Path) -> None:
    (repository / "checks").mkdir()
    git(repository, "mv", "node/install", "checks/api")
    commit(repository, {"Pulumi.prod.yaml": named_check("checks/api")})
    assert scope(repository, "main") == "program=true\n"


def test_without_a_base_or_a_change_everything_is_checked(repository: Path) -> None:
    assert scope(repository) == scope(repository, "") == scope(repository, "main") == "program=true\n"


def test_a_base_that_is_not_there_fails_and_says_nothing_of_the_program(repository: Path) -> None:
    done = subprocess.run([SCRIPTS / "scope", "HEAD^9"], cwd=repository, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stdout == ""


def test_a_merge_in_a_shallow_clone_is_judged_by_what_it_brings(repository: Path, change: Change, tmp_path: Path) -> None:
    change("Pulumi.dev.yaml", "owner: infra0", "owner: infra1")
    git(repository, "checkout", "--quiet", "main")
    change("components/configuration/vips.py", "POOR_VIEW_WEIGHT = -100", "POOR_VIEW_WEIGHT = -90")
    git(repository, "merge", "--quiet", "--no-edit", "change")
    git(tmp_path, "clone", "--quiet", "--depth=2", f"file://{repository}", "clone")
    assert scope(tmp_path / "clone", "HEAD^1") == "program=false\n"


def test_the_workflow_skips_lint_and_tests_only_where_the_script_says_so() -> None:
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "check.yaml").read_text())["jobs"]
    skipped = {name: job["if"] for name, job in jobs.items() if "scope" in job.get("needs", "")}
    assert set(skipped) == {"lint", "test"}
    # A scope job that fails has no output, and a job that is skipped counts as passed.
    assert set(skipped.values()) == {"${{ !cancelled() && needs.scope.outputs.program != 'false' }}"}
    assert "if" not in jobs["scope"] and "if" not in jobs["stacks"]


# --- the report of rendered files, which may come from anyone ---


def rendered(folder: Path, side: str, stack: str, host: str, **files: str) -> None:
    target = folder / side / "stacks" / stack / host
    target.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (target / name).write_text(text)


def test_content_cannot_end_its_fence(tmp_path: Path) -> None:
    rendered(tmp_path, "base", "dev", "m0", file="a\n")
    rendered(tmp_path, "head", "dev", "m0", file="```\n````\n@everyone [approved](https://example.org)\n```\n")
    lines = report.report(tmp_path).splitlines()
    start, end = lines.index("`````diff"), lines.index("`````")
    assert any("@everyone" in line for line in lines[start:end])
    assert not any("@everyone" in line for line in [*lines[:start], *lines[end:]])


def test_a_name_cannot_end_its_code_span_or_its_line(tmp_path: Path) -> None:
    rendered(tmp_path, "head", "dev", "m0`\n# <b>approved @everyone", file="a\n")
    line = next(line for line in report.report(tmp_path).splitlines() if line.startswith("- "))
    assert line == "- `` m0`\\n# <b>approved @everyone ``: new"


def test_characters_that_hide_or_turn_text_are_shown_as_escapes(tmp_path: Path) -> None:
    rendered(tmp_path, "head", "dev", "m0", file="weight \u202e1\x1b[2J\n")
    assert "weight \\u202e1\\u001b[2J" in report.report(tmp_path)


def test_a_link_in_an_artifact_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("token-of-the-runner")
    folder = tmp_path / "change"
    rendered(folder, "head", "dev", "m0", file="a\n")
    (folder / "head/stacks/dev/m0/link").symlink_to(secret)
    (folder / "head/stacks/dev/m1").symlink_to(tmp_path)
    (folder / "head/refused").mkdir()
    (folder / "head/refused/dev").symlink_to(secret)
    (folder / "preview").symlink_to(tmp_path)
    assert "token-of-the-runner" not in report.report(folder)
    assert "token-of-the-runner" not in report.patch(folder)


def test_a_long_comment_ends_whole_within_githubs_limit_and_points_to_the_rest(tmp_path: Path) -> None:
    for number in range(60):
        rendered(tmp_path, "head", "dev", f"m{number:02}", file=f"{number} ä\n" * 500)
    text = report.report(tmp_path, report.COMMENT_LIMIT)
    assert 40_000 < len(text.encode()) <= 65_536
    assert text.count("```") % 2 == 0, "no fence is left open"
    assert "60 hosts are new" in text.splitlines()[1] and "`m59`: new\n" in text, "the summary comes first"
    assert text.endswith("prints the hosts' part.\n")
    assert "hosts.diff" in text
    assert report.patch(tmp_path).count("+++ ") == 60


def test_a_summary_beyond_the_limit_is_cut_too(tmp_path: Path) -> None:
    for number in range(200):
        rendered(tmp_path, "head", "dev", f"m{number:03}", file="a\n")
    assert len(report.report(tmp_path, 1_000).encode()) <= 1_000


def test_a_preview_that_is_too_long_is_cut_within_its_fence(tmp_path: Path) -> None:
    rendered(tmp_path, "head", "dev", "m0", file="a\n")
    (tmp_path / "preview").mkdir()
    (tmp_path / "preview" / "dev.txt").write_text("".join(f"``` line {number}\n" for number in range(10_000)))
    text = report.report(tmp_path, report.COMMENT_LIMIT)
    assert 65_000 < len(text.encode()) <= 65_536
    assert re.search(r"</summary>\n\n````text\n``` line 0\n(``` line \d+\n)+````\n\n</details>\n\n\*\*The rest does not fit", text)


def test_a_last_line_that_loses_its_end_is_a_difference(tmp_path: Path) -> None:
    rendered(tmp_path, "base", "dev", "m0", file="a\n")
    rendered(tmp_path, "head", "dev", "m0", file="a")
    assert "+\\ No newline at end of file" in report.report(tmp_path)


def test_an_empty_artifact_is_said_not_hidden(tmp_path: Path) -> None:
    assert "Nothing was rendered" in report.report(tmp_path)


def test_a_preview_is_part_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "preview").mkdir()
    (tmp_path / "preview" / "dev.txt").write_text("~ command:remote:Command: (update)\n")
    assert "### `pulumi preview --diff` of `dev`\n```text\n~ command:remote:Command: (update)\n```\n" in report.report(tmp_path)


def test_the_report_needs_the_standard_library_only(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "operations.report", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(report.MARK)


# --- the workflows' scripts, with what they call replaced by a recorder ---


@pytest.fixture
def called(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script with a stand-in for the program it calls; calls.txt has that one's arguments."""

    def run(script: str, program: str, body: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        stub = tmp_path / "bin" / program
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/calls.txt\n{body}\n')
        stub.chmod(0o755)
        return subprocess.run(
            [SCRIPTS / script, *arguments],
            env={"PATH": f"{stub.parent}:{os.environ['PATH']}", "GITHUB_REPOSITORY": "owner/project", **environment},
            capture_output=True,
            text=True,
        )

    return run


RUN = {"HEAD_OWNER": "someone", "HEAD_BRANCH": "a branch; rm -rf /", "HEAD_SHA": "0123abc"}
GH = 'case "$*" in *pulls*) echo "$PULL" ;; *--paginate*) echo "$THERE" ;; esac'


def comment(tmp_path: Path) -> Path:
    (tmp_path / "comment.md").write_text(f"{report.MARK}\ntext\n")
    return tmp_path / "comment.md"


def test_the_first_report_becomes_a_comment(called: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = called("comment", "gh", GH, str(comment(tmp_path)), PULL="7", THERE="", **RUN)
    calls = (tmp_path / "calls.txt").read_text()
    assert done.returncode == 0, done.stderr
    assert "head=someone:a branch; rm -rf /" in calls
    assert f"--method POST repos/owner/project/issues/7/comments -F body=@{tmp_path}/comment.md" in calls


def test_a_later_report_replaces_the_comment(called: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    assert called("comment", "gh", GH, str(comment(tmp_path)), PULL="7", THERE="99", **RUN).returncode == 0
    calls = (tmp_path / "calls.txt").read_text()
    assert "--method PATCH repos/owner/project/issues/comments/99" in calls
    assert "POST" not in calls


def test_a_pull_request_that_moved_on_gets_no_comment(called: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = called("comment", "gh", GH, str(comment(tmp_path)), PULL="", THERE="", **RUN)
    assert done.returncode == 0
    assert "no open pull request has 0123abc as its head" in done.stdout
    assert (tmp_path / "calls.txt").read_text().count("\n") == 1, "the question, and nothing after it"


def test_a_preview_ends_as_pulumi_did_and_leaves_no_credentials(called: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    body = (
        'echo "$OS_CLIENT_CONFIG_FILE" >"$SEEN"; cat "$OS_CLIENT_CONFIG_FILE" >>"$SEEN"; echo "${PULUMI_BACKEND_URL-unset}" >>"$SEEN"; echo "a change"; exit 3'
    )
    target, seen, summary = tmp_path / "out/dev.txt", tmp_path / "seen", tmp_path / "summary"
    done = called(
        "preview", "pulumi", body, "dev", str(target),
        CLOUDS_YAML="clouds: {}", PULUMI_BACKEND_URL="", SEEN=str(seen), GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip
    assert done.returncode == 3
    assert target.read_text() == "a change\n"
    assert summary.read_text().endswith("\n    a change\n")
    clouds, text, backend = seen.read_text().splitlines()
    assert (text, backend) == ("clouds: {}", "unset")
    assert not Path(clouds).exists()
    assert "preview --stack dev --diff --non-interactive --color never" in (tmp_path / "calls.txt").read_text()


URN = "urn:pulumi:dev::openshift-lvs::openshift-lvs:index:Network$openstack:networking/port:Port::vip-master"
CHECKED = f"""case "$*" in *--json*) echo '{{"steps": [{{"op": "replace", "urn": "{URN}"}}]}}' ;; *) echo "a change" ;; esac"""
GIVEN = {"CLOUDS_YAML": "clouds: {}", "BASE": "HEAD", "PYTHON": sys.executable}
Called = Callable[..., subprocess.CompletedProcess[str]]


def test_a_preview_that_would_replace_a_port_fails_and_says_so_first(called: Called, tmp_path: Path) -> None:
    target = tmp_path / "out/dev.txt"
    done = called("preview", "pulumi", CHECKED, "dev", str(target), **GIVEN)
    assert done.returncode == 1, done.stderr
    assert target.read_text().startswith("refused  Port vip-master: would be replaced") and target.read_text().endswith("\n\na change\n")
    assert called("preview", "pulumi", CHECKED, "dev", str(target), **GIVEN, ALLOW="Port vip-infra, Port vip-master").returncode == 0
    assert called("preview", "pulumi", CHECKED, "dev", str(target), **GIVEN, ALLOW="Port vip-infra").returncode == 1


def test_a_deployment_previews_once_more_and_deploys_only_what_is_not_refused(called: Called, tmp_path: Path) -> None:
    calls = tmp_path / "calls.txt"
    assert called("up", "pulumi", CHECKED, "dev", str(tmp_path / "dev.txt"), **GIVEN).returncode == 1
    assert not any(line.startswith("up ") for line in calls.read_text().splitlines())
    done = called("up", "pulumi", CHECKED, "dev", str(tmp_path / "dev.txt"), **GIVEN, ALLOW="Port vip-master")
    assert done.returncode == 0, done.stderr
    assert calls.read_text().splitlines()[-1] == "up --stack dev --yes --skip-preview --non-interactive --color never"


def test_drift_is_found_in_openstack_and_on_the_nodes_and_nothing_is_changed(called: Called, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "python $*" >>{tmp_path}/calls.txt\nstat -c %a "$7" >{tmp_path}/mode\nexit "$VERIFIED"\n')
    python.chmod(0o755)
    body = 'case "$*" in refresh*) exit "$REFRESHED" ;; config*) echo KEY ;; esac'
    for refreshed, verified in (("0", "0"), ("1", "0"), ("0", "1"), ("1", "1")):
        done = called("drift", "pulumi", body, "dev", CLOUDS_YAML="clouds: {}", PYTHON=str(python), REFRESHED=refreshed, VERIFIED=verified)
        assert bool(done.returncode) == ("1" in (refreshed, verified)), done.stderr
    calls = (tmp_path / "calls.txt").read_text()
    assert "refresh --stack dev --preview-only --expect-no-changes --diff --non-interactive" in calls
    assert "python -m operations verify --stack dev --identity " in calls and calls.count("python -m") == 4, "the nodes are asked in any case"
    assert (tmp_path / "mode").read_text() == "600\n" and "KEY" not in calls


WORKFLOWS = sorted([*(PROJECT / ".github/workflows").glob("*.yaml"), *(PROJECT / ".github/actions").glob("*/action.yaml")])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.relative_to(PROJECT / ".github")))
def test_every_action_is_pinned_by_its_commit_with_the_version_beside_it(path: Path) -> None:
    used = re.findall(r"uses: *(.*)", path.read_text())
    assert [line for line in used if not re.fullmatch(r"(\./\.github/actions/\w+|[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)", line)] == []


def test_an_action_has_the_same_commit_wherever_it_is_used() -> None:
    used = {line for path in WORKFLOWS for line in re.findall(r"uses: *([\w.-]+/[\w.-]+@.*)", path.read_text())}
    assert len({line.partition("@")[0] for line in used}) == len(used) > 0


def test_a_deployment_waits_for_the_approval_of_its_stacks_environment_and_one_runs_at_a_time() -> None:
    deploy = yaml.safe_load((PROJECT / ".github/workflows/deploy.yaml").read_text())
    up = deploy["jobs"]["up"]
    assert up["environment"] == "${{ matrix.stack }}" and up["needs"] == "preview"
    assert deploy["concurrency"] == {"group": "deploy", "cancel-in-progress": False} and up["strategy"]["max-parallel"] == 1
    assert "environment" not in deploy["jobs"]["preview"], "what is approved is shown before"


def test_a_preview_without_credentials_names_the_secret(called: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    done = called("preview", "pulumi", "", "dev", str(tmp_path / "dev.txt"))
    assert done.returncode != 0
    assert "CLOUDS_YAML" in done.stderr
    assert not (tmp_path / "calls.txt").exists()
