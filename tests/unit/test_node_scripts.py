"""The program on a node, run for real: what its commands do, what they refuse, and that an interrupted one is finished by the next."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components import keepalived
from components.configuration import Cluster
from components.keepalived import File, bundle, render, version
from components.load_balancer import _install
from lab.phases import wait_for
from node.openshift_lvs import firewall, remove
from tests.unit.node_root import LIB, OPENSHIFT_LVS, PASSWORD, PROGRAM, Node, node, recording

MARK = str(51 << 20 | 8443)
HEARD = "nft add element ip openshift_lvs adverts_51 { 192.168.0.3 timeout 1h }"
"""What the rules do when another director holds the address, but that this is remembered for longer than any test lasts."""
QUICK = {"type": "tcp", "connect_timeout": 0.1, "delay_loop": 0.1, "delay_before_retry": 0.1, "retry": 0}
"""A check whose every say is had within a second."""

STACK: dict[str, Any] = {
    "network": {"cidr": "192.168.0.0/24"},
    "pools": {
        "master": {
            "image": "debian-12",
            "flavor": "m1.medium",
            "hosts": {"master0": "192.168.0.2", "master1": "192.168.0.3", "master2": "192.168.0.4"},
        }
    },
    "vips": {
        "master": {
            "address": "192.168.0.250",
            "pool": "master",
            "virtual_router_id": 51,
            "owner": "master0",
            "services": [{"port": 8443, "health_check": QUICK}],
        }
    },
}
KEEPALIVED_CALLS = ("systemctl start", "systemctl stop", "systemctl reload", "systemctl restart", "ipvsadm")


def cluster(**service: Any) -> Cluster:
    """Three masters behind one address, the service with these keys changed."""
    data = copy.deepcopy(STACK)
    data["vips"]["master"]["services"][0] |= service
    return Cluster.parse(data)


def without_master2() -> Cluster:
    data = copy.deepcopy(STACK)
    del data["pools"]["master"]["hosts"]["master2"]
    return Cluster.parse(data)


def with_second_address(**change: Any) -> Cluster:
    data = copy.deepcopy(STACK)
    first = data["vips"]["master"]
    data["vips"]["other"] = {**first, "address": "192.168.0.251", "virtual_router_id": 52, "services": [{"port": 443, "health_check": QUICK}], **change}
    return Cluster.parse(data)


def kernel_calls(fresh: Node) -> list[str]:
    """What keepalived and the table were told since the last look."""
    return [call for call in fresh.calls() if call.startswith(KEEPALIVED_CALLS) and "-daemon" not in call and "openshift-lvs-hearing" not in call]


def table(fresh: Node) -> dict[str, int]:
    """Weight by server of the first service."""
    lines = (line.split() for line in fresh.read("/stub/table").splitlines())
    return {server: int(weight) for mark, server, _, weight, _ in lines if mark == MARK}


def states(fresh: Node) -> str:
    """Every file of the node's configuration with its inode and time."""
    return fresh.sh("cd /etc/keepalived && ls -l --time-style=full-iso current && find . -type f -printf '%p %i %T@ %m\\n' | sort")


@pytest.fixture
def fresh() -> Iterator[Node]:
    """A node with the program and nothing delivered."""
    with node() as made:
        yield made


@contextmanager
def activated(host: str) -> Iterator[Node]:
    """That host with a first version in force."""
    with node() as made:
        made.roll_out(cluster(), host)
        made.calls()
        yield made


@pytest.fixture
def serving() -> Iterator[Node]:
    """The owner with a first version in force."""
    with activated("master0") as made:
        yield made


def test_shellcheck_has_nothing_to_say() -> None:
    stubs = sorted((Path(__file__).parent / "stubs").iterdir())
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", keepalived.PROGRAM / "install", *stubs], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# Delivery


def test_first_delivery_stages_the_files_and_puts_the_address_on_lo_and_nothing_else(fresh: Node) -> None:
    files = render(cluster(), "master0")
    name = fresh.deliver(files)
    for file in files:
        path = fresh.path(f"/etc/keepalived/versions/{name}/{file.path}")
        assert (path.read_text(), path.stat().st_mode & 0o777, path.stat().st_uid) == (file.text, file.mode, 0)
    assert fresh.addresses_on("lo") == {"192.168.0.250/32"}
    assert fresh.in_force is None
    assert kernel_calls(fresh) == []


def test_arp_settings_come_before_the_vip_and_the_other_sysctls_after_the_modules(fresh: Node) -> None:
    # arp_ignore at the moment when an address is put on lo.
    look = "/usr/sbin/sysctl -n net.ipv4.conf.all.arp_ignore net.ipv4.conf.lo.arp_ignore >>/stub/arp_ignore"
    fresh.write("/usr/local/sbin/ip", f"""#!/bin/sh\necho "ip $*" >>/stub/calls\n{look}\nexec /usr/sbin/ip "$@"\n""", 0o755)
    fresh.deliver(render(cluster(), "master0"))
    modprobe = ["modprobe ip_vs", "modprobe ip_vs_mh"]
    at_last = [call for call in fresh.calls() if call.startswith(("ip -batch", "modprobe", "sysctl"))]
    sysctl_conf = at_last.pop()
    assert at_last == [*modprobe, "sysctl -q -p -", "ip -batch -", *modprobe]
    assert sysctl_conf == "sysctl -q -p -"
    assert set(fresh.read("/stub/arp_ignore").split()) == {"1"}
    assert fresh.sh("/usr/sbin/sysctl -n net.ipv4.conf.all.arp_ignore net.ipv4.conf.lo.arp_announce").split() == ["1", "2"]
    assert "net.ipv4.vs.sloppy_tcp = 1" in fresh.read("/stub/sysctl")


def test_no_vip_comes_on_lo_where_the_arp_settings_fail(fresh: Node) -> None:
    fresh.write("/usr/local/sbin/sysctl", "#!/bin/sh\necho 'permission denied' >&2\nexit 1\n", 0o755)
    files = render(cluster(), "master0")
    assert fresh.verb("deliver", version(files), stdin=bundle(files)).returncode == 1
    assert fresh.addresses_on("lo") == set()


def test_the_end_of_a_tunnel_is_up_before_traffic_comes(fresh: Node) -> None:
    fresh.sh("ip link add tunl0 type veth peer name far")
    fresh.deliver(render(cluster(forwarding_method="TUN"), "master0"))
    assert ",UP" in fresh.sh("ip link show dev tunl0")
    assert "net.ipv4.conf.tunl0.rp_filter = 2" in fresh.read("/stub/sysctl")
    # What counts for every interface belongs to the node.
    assert "\nnet.ipv4.conf.all.rp_filter" not in fresh.read("/stub/sysctl.given")


def test_a_kernel_without_the_scheduler_is_refused_by_its_modules_name(fresh: Node) -> None:
    fresh.write("/stub/no-modules", "ip_vs_mh\n")
    files = render(cluster(), "master0")
    done = fresh.verb("deliver", version(files), stdin=bundle(files))
    assert done.returncode == 1
    assert "kernel module ip_vs_mh: not in" in done.stderr
    assert fresh.addresses_on("lo") == set()


def test_a_boot_without_a_module_still_puts_the_vip_on_lo_so_that_the_server_takes_its_connections(serving: Node) -> None:
    # As after a boot: nothing in /run, no VIP, no sysctl. The new kernel came without its extra modules.
    serving.sh("rm -rf /run/openshift-lvs; ip address delete 192.168.0.250/32 dev lo")
    serving.sh("for key in all.arp_ignore all.arp_announce lo.arp_ignore lo.arp_announce; do /usr/sbin/sysctl -q net.ipv4.conf.$key=0; done")
    serving.write("/stub/no-modules", "ip_vs_mh\n")
    done = serving.verb("apply")
    assert done.returncode == 1
    assert "kernel module ip_vs_mh: not in" in done.stderr
    assert serving.addresses_on("lo") == {"192.168.0.250/32"}
    keys = [f"net.ipv4.conf.{key}" for key in ("all.arp_ignore", "all.arp_announce", "lo.arp_ignore", "lo.arp_announce")]
    assert serving.sh(f"/usr/sbin/sysctl -n {' '.join(keys)}").split() == ["1", "2", "1", "2"]


def test_a_delivery_says_what_is_in_force_so_that_a_forgotten_activation_is_made_again(serving: Node) -> None:
    files = render(cluster(scheduler="rr"), "master0")
    said = serving.succeeds("deliver", version(files), stdin=bundle(files))
    assert said.startswith(f"{version(files)} delivered, versions/{serving.in_force} in force since 20")
    # The same one again, later: that the other one was tried in between is forgotten as well when the engine was killed.
    serving.sh(
        'ln -sfn "$(readlink /etc/keepalived/current)" /etc/keepalived/current; touch --no-dereference --date=2001-02-03T04:05:06Z /etc/keepalived/current'
    )
    assert serving.succeeds("deliver", version(files), stdin=bundle(files)).endswith(" in force since 2001-02-03 04:05:06\n")


def test_delivering_what_is_there_touches_nothing(serving: Node) -> None:
    before = states(serving)
    serving.deliver(render(cluster(), "master0"))
    assert states(serving) == before


def test_a_delivery_cut_short_is_finished_by_the_next(fresh: Node) -> None:
    files = render(cluster(), "master0")
    half = f"/etc/keepalived/versions/{version(files)}.part"
    fresh.write(f"{half}/keepalived.conf", "global_d")
    fresh.write(f"{half}/left-over", "")
    fresh.deliver(files)
    assert not fresh.path(half).exists()
    assert sorted(fresh.sh(f"ls /etc/keepalived/versions/{version(files)}").split()) == sorted(
        ["drained", "lvs.nft.listed", "node.conf", "program", "services", *(file.path for file in files)]
    )


def test_a_bundle_that_was_cut_off_on_its_way_is_no_version(fresh: Node) -> None:
    files = render(cluster(), "master0")
    name, text = version(files), bundle(files)
    for part in ("", text[: text.index("==> lvs.nft")]):
        done = fresh.verb("deliver", name, stdin=part)
        assert done.returncode == 1 and f"version {name} did not arrive whole" in done.stderr
    assert not fresh.path(f"/etc/keepalived/versions/{name}").exists()
    assert fresh.deliver(files) == name


def test_a_delivery_cut_short_inside_its_check_leaves_nothing_for_long(fresh: Node) -> None:
    fresh.write("/etc/keepalived/validate.a1b2c3/auth-master.conf", "secret")
    fresh.deliver(render(cluster(), "master0"))
    assert "validate" not in fresh.sh("ls /etc/keepalived")


@pytest.mark.parametrize(
    ("what", "to", "said"),
    [
        ("lvs_sched mh", "lvs_sched nosuch", "nosuch"),
        ("priority 150", "priority 1500", "1500"),
        ("real_server 192.168.0.3 {", "real_server 192.168.0.300 {", "192.168.0.300"),
        ("advert_int 0.3", "nat_mask 255.255.255.0", "nat_mask"),
        ("interface eth0", "interface eth7", "eth7"),
    ],
)
def test_a_file_that_keepalived_does_not_like_is_refused_before_the_swap(serving: Node, what: str, to: str, said: str) -> None:
    in_force, before = serving.in_force, states(serving)
    broken = tuple(file._replace(text=file.text.replace(what, to)) for file in render(cluster(), "master0"))
    done = serving.verb("deliver", version(broken), stdin=bundle(broken))
    assert done.returncode == 1
    assert "keepalived refuses the configuration:" in done.stderr and said in done.stderr
    done = serving.verb("activate", version(broken))
    assert done.returncode == 1
    assert kernel_calls(serving) == []
    assert serving.in_force == in_force
    assert states(serving).splitlines()[0] == before.splitlines()[0]


def test_rules_that_nft_does_not_like_are_refused_before_the_swap(serving: Node) -> None:
    broken = tuple(file._replace(text=file.text.replace("meta mark set", "meta mark sat")) for file in render(cluster(), "master0"))
    done = serving.verb("deliver", version(broken), stdin=bundle(broken))
    assert done.returncode != 0
    assert "sat" in done.stderr


def test_an_interface_that_is_not_there_is_named_with_those_that_are(fresh: Node) -> None:
    data = copy.deepcopy(STACK)
    data["pools"]["master"]["interface"] = "ens3"
    files = render(Cluster.parse(data), "master0")
    done = fresh.verb("deliver", version(files), stdin=bundle(files))
    assert done.returncode == 1
    assert "interface: ens3 is not on this node; it has" in done.stderr and "eth0" in done.stderr


def misc(tmp_path: Path, user: str = "nobody") -> tuple[File, ...]:
    (tmp_path / "check").write_text("#!/bin/sh\nexit 0\n")
    return render(cluster(health_check={"type": "misc", "script": "check", "user": user, "delay_loop": 0.1, "misc_timeout": 1}), "master0", tmp_path)


def test_the_script_of_a_check_is_delivered_and_may_be_run_by_its_user(fresh: Node, tmp_path: Path) -> None:
    name = fresh.deliver(misc(tmp_path))
    fresh.succeeds("activate", name)
    fresh.sh("setpriv --reuid=nobody --regid=nogroup --clear-groups /etc/keepalived/current/checks/check 192.168.0.2 8443")


@pytest.mark.parametrize("fault", ["missing", "not executable"])
def test_a_check_script_that_cannot_be_run_is_refused(fresh: Node, tmp_path: Path, fault: str) -> None:
    files = misc(tmp_path)
    if fault == "missing":
        broken = tuple(file for file in files if not file.path.startswith("checks/"))
    else:
        broken = tuple(file._replace(mode=0o644) if file.path.startswith("checks/") else file for file in files)
    done = fresh.verb("deliver", version(broken), stdin=bundle(broken))
    assert done.returncode == 1
    assert "checks/check" in done.stderr


def test_a_check_script_of_a_user_that_is_not_there_is_refused(fresh: Node, tmp_path: Path) -> None:
    files = misc(tmp_path, user="prober")
    done = fresh.verb("deliver", version(files), stdin=bundle(files))
    assert done.returncode == 1
    assert "health_check.user: prober is not a user of this node" in done.stderr


def test_an_expression_that_cannot_be_is_refused_on_the_node(fresh: Node) -> None:
    for regex, right in (("[[:nosuch:]]", False), (r"\N{BULLET}", False), (r"^v\d+\.[0-9]+ 'x' \\$", True)):
        files = render(cluster(health_check={"type": "http", "urls": [{"regex": regex}]}), "master0")
        done = fresh.verb("deliver", version(files), stdin=bundle(files))
        assert (done.returncode == 0) is right, done.stderr
        assert right or f"health_check.urls.regex: {regex}: " in done.stderr


ODD = {
    "plain": "one\ntwo\n",
    "empty": "",
    "only-line-feeds": "\n\n\n",
    "looks-like-a-header": "==> usr/bin/evil 0755\n  indented\n==>\n",
    "blanks": "trailing  \n\ttab\t\n    \n  two\n",
    "quotes": "'\"`$(touch /evil)`$HOME\\n\\\\ %s %d & | ; # !\n",
    "controls": "form\x0cfeed carriage\r\nvertical\x0btab\n",
    "letters": "Überraschung — ☂\n",
    "folder/in/folder": "deep\n",
}


def unpack(fresh: Node, folder: str, text: str) -> str:
    """Unpack a bundle on the node; what the program says against it."""
    fresh.write("/stub/bundle", text)
    return fresh.python(f"""
try:
    versions.unpack(open("/stub/bundle", newline="").read(), {folder!r})
except (versions.Refused, OSError) as fault:
    print(fault)
""")


def test_a_bundle_comes_out_as_it_went_in_whatever_is_in_it(fresh: Node) -> None:
    unpack(fresh, "/tmp/a folder", bundle(tuple(File(path, 0o640, text) for path, text in ODD.items())))
    for path, text in ODD.items():
        there = fresh.path(f"/tmp/a folder/{path}")
        assert there.read_bytes().decode() == text, path
        assert there.stat().st_mode & 0o777 == 0o640
    assert not fresh.path("/evil").exists()


def test_a_bundle_without_a_last_line_feed_gets_one(fresh: Node) -> None:
    unpack(fresh, "/tmp/x", bundle((File("file", 0o644, "one\ntwo"),)))
    assert fresh.read("/tmp/x/file") == "one\ntwo\n"


def test_what_is_no_bundle_is_refused(fresh: Node) -> None:
    assert unpack(fresh, "/tmp/x", "==> file 0644\nnot indented\n") == "not a line of a bundle: not indented"
    fresh.write("/tmp/occupied", "")
    assert "occupied" in unpack(fresh, "/tmp", "==> occupied/file 0644\n  text\n")


# Secrets


def with_password() -> Cluster:
    data = copy.deepcopy(STACK) | {"keepalived": {"vrrp_version": 2}}
    data["vips"]["master"] |= {"authentication": "PASS", "advert_interval": 1}
    return Cluster.parse(data)


def secret(password: str) -> str:
    secrets = keepalived.authentication(with_password(), "master0", {"master": password})
    return bundle(tuple(File(path, 0o600, text) for path, text in secrets.items()))


def deliver_secret(fresh: Node, password: str) -> str:
    name = fresh.deliver(render(with_password(), "master0"))
    fresh.succeeds("deliver-secret", name, stdin=secret(password))
    return name


def test_the_password_is_for_roots_eyes_only_and_comes_by_itself(fresh: Node) -> None:
    name = deliver_secret(fresh, "pa55word")
    there = fresh.path(f"/etc/keepalived/versions/{name}/auth-master.conf")
    assert there.stat().st_mode & 0o777 == 0o600
    assert "auth_pass pa55word" in there.read_text()
    assert "pa55word" not in bundle(render(with_password(), "master0"))
    fresh.succeeds("activate", name)
    assert fresh.sh("grep -rl pa55word /etc /run /tmp || true").split() == [f"/etc/keepalived/versions/{name}/auth-master.conf"]


def test_a_password_that_keepalived_would_cut_is_refused_when_it_comes(fresh: Node) -> None:
    name = fresh.deliver(render(with_password(), "master0"))
    secret = File("auth-master.conf", 0o600, "authentication {\n    auth_type PASS\n    auth_pass ninechars\n}\n")
    done = fresh.verb("deliver-secret", name, stdin=bundle((secret,)))
    assert done.returncode == 1
    assert "keepalived refuses the configuration:" in done.stderr


def test_a_version_whose_password_did_not_come_is_not_activated(fresh: Node) -> None:
    name = fresh.deliver(render(with_password(), "master0"))
    done = fresh.verb("activate", name)
    assert done.returncode == 1
    assert "auth-master.conf" in done.stderr
    assert fresh.in_force is None


# Activation


def test_first_activation_starts_keepalived_and_its_unit_at_boot(fresh: Node) -> None:
    name = fresh.deliver(render(cluster(), "master0"))
    assert fresh.succeeds("activate", name) == f"{name} in force\n"
    assert fresh.in_force == name
    assert kernel_calls(fresh) == ["systemctl start openshift-lvs-watch.service", "systemctl start openshift-lvs.service keepalived.service"]
    assert f"192.168.0.250 . 6 . 8443 : 0x{int(MARK):08x}" in fresh.sh("nft list table ip openshift_lvs")
    assert fresh.read("/run/openshift-lvs/drain-master") == "0\n"
    assert table(fresh) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}


def test_activating_what_is_in_force_touches_nothing(serving: Node) -> None:
    before = states(serving)
    name = serving.in_force
    assert name
    assert serving.succeeds("activate", name) == f"{name} in force, nothing to do\n"
    assert states(serving) == before
    assert kernel_calls(serving) == []


def test_what_an_activation_that_was_cut_short_left_said_of_nobody_goes_with_the_next(serving: Node) -> None:
    for file in ("/etc/keepalived/drained/192.168.0.99", "/run/openshift-lvs/drain-gone"):
        serving.write(file, "")
    assert "nothing to do" in serving.succeeds("activate", str(serving.in_force))
    assert not serving.sh("ls /etc/keepalived/drained/192.168.0.99 /run/openshift-lvs/drain-gone 2>/dev/null || true")


def test_a_change_reloads_and_never_restarts(serving: Node) -> None:
    old = serving.in_force
    new = serving.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master0")
    assert serving.in_force == new != old
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"]
    assert sorted(serving.sh("ls /etc/keepalived/versions").split()) == sorted([str(old), new])


def test_only_the_version_in_force_and_the_one_before_are_kept(serving: Node) -> None:
    second = serving.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master0")
    staged = serving.deliver(render(cluster(health_check={**QUICK, "retry": 2}), "master0"))
    third = serving.roll_out(cluster(health_check={**QUICK, "retry": 3}), "master0")
    assert staged != third
    assert sorted(serving.sh("ls /etc/keepalived/versions").split()) == sorted([second, third])


def test_a_version_that_was_not_delivered_is_refused_with_a_remedy(serving: Node) -> None:
    done = serving.verb("activate", "0123456789ab")
    assert done.returncode == 1
    assert "version 0123456789ab is not on this node; if it was installed anew, set another `installed`" in done.stderr


def test_a_server_that_fails_under_the_new_version_brings_the_old_one_back(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "connect_port": 9}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    done = serving.verb("activate", new)
    assert done.returncode == 1
    assert f"servers that answered before fail their checks now: {MARK} 192.168.0.3" in done.stderr
    assert "keepalived's own words" in done.stderr
    assert done.stderr.endswith(f"rolled back to {old}\n")
    assert serving.in_force == old
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"] * 2
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}


def with_a_port(**vip: Any) -> Cluster:
    data = copy.deepcopy(STACK)
    data["vips"]["master"] |= vip
    data["vips"]["master"]["services"].append({"port": 443, "health_check": QUICK})
    return Cluster.parse(data)


def no_server_listens_on_443(fresh: Node) -> None:
    """The servers of the service on port 443 leave the table at every reload."""
    fresh.write("/stub/on-reload", f"#!/bin/sh\nsed -i 's/^{51 << 20 | 443} 192.*/{51 << 20 | 443} - - 0 0/' /stub/table\n", 0o755)


def test_a_new_service_that_no_server_answers_brings_the_old_version_back(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(with_a_port(), "master0"))
    # Nobody listens on the new port, everybody on the old one.
    no_server_listens_on_443(serving)
    done = serving.verb("activate", new)
    assert done.returncode == 1
    assert "no server passes its check of the new service 192.168.0.250:443" in done.stderr
    assert done.stderr.endswith(f"rolled back to {old}\n")


def test_a_view_is_not_poor_for_a_service_that_was_rolled_back(serving: Node) -> None:
    new = serving.deliver(render(with_a_port(), "master0"))
    serving.sh(recording("master", "master-443", -100))
    serving.write("/stub/refuses-reload", "")
    assert serving.verb("activate", new).returncode == 1
    assert serving.read("/run/openshift-lvs/view-master") == "0\n"
    serving.succeeds("activate", new)
    assert serving.read("/run/openshift-lvs/view-master") == "0\n"


def test_delivering_a_version_changes_no_view(serving: Node) -> None:
    serving.sh(recording("master", "master-8443", -100))
    serving.deliver(render(with_a_port(), "master0"))
    assert serving.read("/run/openshift-lvs/view-master") == "-100\n"


def replaced() -> Cluster:
    data = copy.deepcopy(STACK)
    hosts = data["pools"]["master"]["hosts"]
    hosts |= {"master1": "192.168.0.13", "master2": "192.168.0.14"}
    return Cluster.parse(data)


def test_a_reload_that_replaces_servers_leaves_no_poor_view(fresh: Node) -> None:
    fresh.roll_out(cluster(), "master0")
    # What keepalived says of such a reload: the old servers' quorum is lost.
    fresh.write("/stub/on-reload", f"#!/bin/sh\n{recording('master', 'master-8443', -100)}\n", 0o755)
    fresh.roll_out(replaced(), "master0")
    assert fresh.read("/run/openshift-lvs/view-master") == "0\n"


@pytest.mark.parametrize(
    ("drained", "dead", "weight"),
    [((), ("192.168.0.4",), 0), ((), ("192.168.0.3", "192.168.0.4"), -100), (("192.168.0.4",), (), 0), (("192.168.0.3", "192.168.0.4"), (), 0)],
)
def test_only_what_has_its_quorum_is_counted_again(fresh: Node, drained: tuple[str, ...], dead: tuple[str, ...], weight: int) -> None:
    name = fresh.roll_out(cluster(), "master0")
    for server in drained:
        fresh.succeeds("rotation", "out", server)
    fresh.write("/stub/dead", "".join(f"{name} {server}\n" for server in dead))
    fresh.sh("systemctl reload keepalived.service")
    fresh.sh(recording("master", "master-8443", -100))
    fresh.succeeds("recount")
    assert fresh.read("/run/openshift-lvs/view-master") == f"{weight}\n"


def test_what_loses_its_quorum_while_it_is_counted_has_lost_it(serving: Node) -> None:
    serving.sh(recording("master", "master-8443", -100))
    # Its servers leave the table at the second look.
    looks = 'echo >>/stub/looks; if [ "$(wc -l </stub/looks)" = 2 ]; then : >/stub/table; fi\n'
    serving.write("/usr/local/sbin/ipvsadm", serving.read("/usr/local/sbin/ipvsadm").replace("set -eu\n", f"set -eu\n{looks}", 1), 0o755)
    serving.succeeds("recount")
    assert serving.read("/run/openshift-lvs/view-master") == "-100\n"


def test_an_operator_may_drain_a_server_while_a_version_is_activated(serving: Node) -> None:
    new = serving.deliver(render(cluster(quorum=1), "master0"))
    serving.write("/stub/on-reload", f"#!/bin/sh\n[ -e /etc/keepalived/drained/192.168.0.4 ] || {OPENSHIFT_LVS} rotation out 192.168.0.4\n", 0o755)
    assert serving.succeeds("activate", new).endswith("in force\n")
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 0}


def test_two_activations_do_not_meet(serving: Node) -> None:
    new = serving.deliver(render(cluster(quorum=1), "master0"))
    serving.write("/stub/on-reload", "#!/bin/sh\n: >/stub/reloading; until [ -e /stub/go-on ]; do /usr/bin/sleep 0.05; done\n", 0o755)
    said = serving.sh(f"""
        {OPENSHIFT_LVS} activate {new} >/stub/first 2>&1 &
        until [ -e /stub/reloading ]; do /usr/bin/sleep 0.05; done
        {OPENSHIFT_LVS} activate {new} >/stub/second 2>&1 &
        before=$(cat /proc/uptime); until [ "$(cat /proc/uptime)" != "$before" ]; do /usr/bin/sleep 0.05; done
        [ ! -s /stub/second ]; touch /stub/go-on; wait; cat /stub/first /stub/second
    """)
    assert said.splitlines() == [f"{new} in force", f"{new} in force, nothing to do"]


@pytest.mark.parametrize("verb", ["deliver", "deliver-secret", "go-home", "remove"])
def test_nothing_else_changes_a_node_while_an_activation_is_at_work(serving: Node, verb: str) -> None:
    other, authenticated = render(cluster(quorum=1), "master0"), render(with_password(), "master0")
    arguments, stdin = {
        "deliver": (version(other), bundle(other)),
        "deliver-secret": (serving.deliver(authenticated), secret(PASSWORD)),
        "go-home": ("master", ""),
        "remove": ("", ""),
    }[verb]
    serving.write("/stub/stdin", stdin)
    look = f"ls -lR /etc/keepalived; ls {LIB}; cat /run/openshift-lvs/view-master"
    serving.sh(f"""
        exec 9<>/run/openshift-lvs/lock; flock 9
        ({look}) >/stub/before; before=$(cat /proc/uptime)
        {OPENSHIFT_LVS} {verb} {arguments} </stub/stdin >/stub/said 2>&1 9<&- & changing=$!
        until [ "$(cat /proc/uptime)" != "$before" ]; do kill -0 $changing; /usr/bin/sleep 0.05; done
        ({look}) | cmp - /stub/before; [ ! -s /stub/said ]
        exec 9<&-; wait $changing
    """)


def test_a_command_that_waits_too_long_names_the_one_that_holds_the_lock(serving: Node) -> None:
    said = serving.python("""
import os
with lock.Lock(state.LOCK, 0, "activate 0123456789ab"):
    try:
        with lock.Lock(state.LOCK, 2, "deliver 1"):
            pass
    except lock.TimedOut as fault:
        print(str(fault).replace(str(os.getpid()), "PID"))
""")
    assert said == "/run/openshift-lvs/lock: waited 2 s; it is held by activate 0123456789ab, process PID; wait until that has ended, or end it"


def test_no_other_user_can_reach_a_lock_or_a_tracked_file(serving: Node) -> None:
    for script in ("flock --nonblock /run/openshift-lvs/lock true", "ls /run/openshift-lvs", "cat /run/openshift-lvs/drain-master"):
        done = serving.run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", script)
        assert done.returncode != 0 and "ermission denied" in done.stderr, script


def test_a_firewall_that_flushes_every_table_takes_the_marks_away_for_a_moment_only(serving: Node) -> None:
    before = serving.sh("nft --stateless list table ip openshift_lvs")
    unit = serving.read("/etc/systemd/system/nftables.service.d/openshift-lvs.conf")
    for key in ("ExecStartPost", "ExecReload", "ExecStopPost"):
        serving.sh("nft flush ruleset")
        serving.sh(re.search(rf"^{key}=-(.*)$", unit, re.MULTILINE)[1])  # type: ignore[index]
        assert serving.sh("nft --stateless list table ip openshift_lvs") == before


SEND_SYN = """
import socket, struct, sys
interface, target, source = sys.argv[1:]
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((interface, 0))
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, socket.inet_aton(source), socket.inet_aton("192.168.0.250"))
total = sum(struct.unpack("!10H", header))
header = header[:10] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + header[12:]
mac = bytes.fromhex(open(f"/sys/class/net/{target}/address").read().strip().replace(":", ""))
link.send(mac + bytes(6) + b"\\x08\\x00" + header + struct.pack("!HHIIBBHHH", 40000, 8443, 1, 0, 0x50, 2, 1024, 0, 0))
"""
"""Arguments: the interface that sends a SYN to the VIP, the interface at the other end of the link, the source address."""


def test_only_a_packet_that_enters_through_the_pools_interface_gets_a_mark(serving: Node) -> None:
    # A pod's bridge would do the same: the packet enters through an interface that is not the pool's.
    serving.sh("ip link add cni0 type veth peer name pod; ip link set cni0 up; ip link set pod up")
    serving.sh("ip link add tunl0 type veth peer name far; ip link set tunl0 up; ip link set far up")
    serving.sh(
        "nft -f -",
        stdin=f"""table ip observed {{
            set arrived {{ type ifname; flags dynamic; }}
            set marked {{ type ifname; flags dynamic; }}
            chain input {{
                type filter hook input priority 91
                ip daddr 192.168.0.250 tcp dport 8443 update @arrived {{ iifname }}
                meta mark {MARK} update @marked {{ iifname }}
            }}
        }}""",
    )
    for interface, target, source in (("wire", "eth0", "192.168.0.101"), ("pod", "cni0", "10.244.0.9"), ("far", "tunl0", "192.168.0.102")):
        serving.sh(f"python3 - {interface} {target} {source}", stdin=SEND_SYN)
    # The node's own call. Its SYN arrives on lo; nothing listens, so the connection is refused.
    serving.run("bash", "-c", ": <>/dev/tcp/192.168.0.250/8443")
    seen = {name: set(re.findall('"([a-z0-9]+)"', serving.sh(f"nft list set ip observed {name}"))) for name in ("arrived", "marked")}
    assert seen == {"arrived": {"eth0", "cni0", "tunl0", "lo"}, "marked": {"eth0"}}


def test_no_rule_of_another_program_sees_our_mark_and_none_takes_it_away(serving: Node) -> None:
    # As Calico does: it clears its bits in the filter, where ours would be among them. And a rule behind ours looks for any mark in the output.
    serving.sh(
        "nft -f -",
        stdin=f"""table ip calico {{
            counter seen {{ }}
            counter balanced {{ }}
            chain input {{ type filter hook input priority filter; meta mark set 0; }}
            chain behind {{ type filter hook input priority 91; meta mark {MARK} counter name balanced; }}
            chain output {{ type filter hook output priority raw; meta mark != 0 counter name seen; }}
            chain marked {{ type filter hook output priority -320; ip daddr 192.168.0.3 meta mark set {MARK}; }}
        }}""",
    )
    serving.sh("python3 - wire eth0 192.168.0.101", stdin=SEND_SYN)
    assert "packets 1" in serving.sh("nft list counter ip calico balanced")
    # What IPVS forwards enters the output hook with the mark; here another packet stands in for it.
    serving.run("bash", "-c", "echo >/dev/udp/192.168.0.3/9")
    assert "packets 0" in serving.sh("nft list counter ip calico seen")


def test_a_new_service_may_wait_for_its_servers_where_no_answer_is_asked_for(serving: Node) -> None:
    new = serving.deliver(render(with_a_port(answers_within=0), "master0"))
    no_server_listens_on_443(serving)
    assert serving.succeeds("activate", new) == f"{new} in force\n"


def test_a_reload_that_fails_brings_the_old_version_back(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/refuses-reload", "")
    done = serving.verb("activate", new)
    assert done.returncode == 1
    assert "reload failed" in done.stderr and f"rolled back to {old}" in done.stderr
    assert serving.in_force == old


def test_rules_that_do_not_load_bring_the_old_version_back(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/usr/local/sbin/nft", f'#!/bin/sh\n[ "$1" = --check ] || [ "$(readlink /etc/keepalived/current)" != versions/{new} ]\n', 0o755)
    done = serving.verb("activate", new)
    assert done.returncode == 1
    assert f"rolled back to {old}" in done.stderr
    assert serving.in_force == old


def test_a_rollback_that_did_not_reach_keepalived_is_finished_by_the_next_activation(serving: Node) -> None:
    old, new = serving.in_force, serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    serving.write("/stub/on-reload", "#!/bin/sh\n: >/stub/refuses-reload\n", 0o755)
    assert "in force again and not healthy either" in serving.verb("activate", new).stderr
    assert (serving.in_force, table(serving)) == (old, {"192.168.0.2": 1, "192.168.0.4": 1})
    serving.sh("rm -f /stub/refuses-reload /stub/on-reload")
    assert serving.succeeds("activate", str(old)) == f"{old} in force\n"
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}
    assert serving.succeeds("activate", str(old)) == f"{old} in force, nothing to do\n"


def test_a_version_before_that_knows_no_connection_sync_is_gone_back_to_all_the_same(serving: Node) -> None:
    serving.sh('sed -i \'s/"sync_id": 51/"sync_id": null/\' /etc/keepalived/current/host.json')
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    assert f"rolled back to {serving.in_force}" in serving.verb("activate", new).stderr


def test_what_was_rolled_back_can_be_tried_again(serving: Node) -> None:
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/refuses-reload", "")
    assert serving.verb("activate", new).returncode == 1
    assert serving.succeeds("activate", new) == f"{new} in force\n"


def test_a_server_that_was_dead_before_does_not_hold_a_change_up(serving: Node) -> None:
    serving.write("/stub/table", "".join(f"{MARK} 192.168.0.{n} DR 1 0\n" for n in (2, 4)))
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    assert serving.succeeds("activate", new) == f"{new} in force\n"


def test_a_weight_of_nothing_and_another_forwarding_method_are_changes_like_any(serving: Node) -> None:
    serving.write("/stub/table", serving.read("/stub/table").replace("DR", "NAT"))
    serving.sh(HEARD)
    serving.roll_out(cluster(weights={"master2": 0}), "master0")
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 0}


def test_a_sorry_server_at_work_is_no_server_that_was_removed(serving: Node) -> None:
    serving.roll_out(cluster(sorry_server="192.168.0.99"), "master0")
    serving.write("/stub/table", f"{MARK} 192.168.0.99 DR 1 9\n")
    serving.calls()
    serving.roll_out(cluster(sorry_server="192.168.0.99", health_check={**QUICK, "retry": 1}), "master0")
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"]


def test_a_first_activation_that_fails_leaves_no_version_in_force(fresh: Node) -> None:
    name = fresh.deliver(render(cluster(), "master0"))
    fresh.write("/stub/refuses-start", "")
    done = fresh.verb("activate", name)
    assert done.returncode == 1
    assert "keepalived is stopped: there is no version before to go back to" in done.stderr
    assert fresh.in_force is None


def test_a_version_in_force_stays_so_when_keepalived_has_a_bad_day(serving: Node) -> None:
    name = str(serving.in_force)
    serving.sh("rm /stub/active-keepalived.service")
    serving.write("/stub/refuses-start", "")
    done = serving.verb("activate", name)
    assert done.returncode == 1
    assert f"{name} stays in force: no other version was healthy before" in done.stderr
    assert serving.in_force == name


def test_a_dead_keepalived_is_started_again_by_the_version_in_force(serving: Node) -> None:
    serving.sh("rm /stub/active-keepalived.service")
    assert serving.succeeds("activate", str(serving.in_force)) == f"{serving.in_force} in force\n"
    assert kernel_calls(serving) == ["systemctl start openshift-lvs.service keepalived.service"]


def test_an_activation_cut_short_between_swap_and_reload_is_finished_by_the_next(serving: Node) -> None:
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.sh(f"ln -sfn versions/{new} /etc/keepalived/current")
    assert serving.succeeds("activate", new) == f"{new} in force\n"
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"]


def test_an_activation_cut_short_still_knows_where_to_go_back_to(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.sh(f"ln -sfn versions/{new} /etc/keepalived/current")
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    done = serving.verb("activate", new)
    assert (done.returncode, serving.in_force) == (1, old)


ELSEWHERE = "TCP 14:59 ESTABLISHED 192.168.0.101:40009 192.168.0.251:443 192.168.0.5:443\n"
CONNECTIONS = "".join(f"TCP 14:59 ESTABLISHED 192.168.0.101:4000{n} 192.168.0.250:8443 192.168.0.{n}:8443\n" for n in (2, 3, 4)) + ELSEWHERE


def test_a_director_whose_forwarding_method_changes_holds_nothing_and_begins_anew(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.sh(HEARD)
    serving.write("/stub/connections", CONNECTIONS)
    new = serving.deliver(render(cluster(forwarding_method="TUN"), "master0"))
    # What dies unseen is out again: its check runs anew.
    serving.write("/stub/dead", f"{new} 192.168.0.4\n")
    serving.sh(f"ipvsadm --edit-server --fwmark-service {MARK} --real-server 192.168.0.4 --gatewaying --weight 0")
    serving.calls()
    began = serving.uptime
    serving.succeeds("activate", new)
    assert "192.168.0.250/32" not in serving.addresses_on("eth0")
    calls = [call for call in serving.calls() if re.match("systemctl (stop|start|reload)|ipvsadm --(delete|stop)", call)]
    assert calls == [
        "systemctl stop keepalived.service",
        "ipvsadm --stop-daemon backup",
        f"ipvsadm --delete-service --fwmark-service {MARK}",
        "systemctl start openshift-lvs.service keepalived.service",
    ]
    assert serving.read("/stub/connections") == ELSEWHERE
    assert sorted(line.split()[0] for line in serving.read("/stub/daemons").splitlines()) == ["backup", "master"]
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1}
    assert serving.uptime - began > 62, "so that it was told of all connections"


@pytest.mark.parametrize(("leaves", "heard"), [(False, HEARD), (True, "true"), (True, HEARD.replace("192.168.0.3", "192.168.0.99"))])
def test_a_director_whose_address_no_other_takes_refuses_another_forwarding_method(serving: Node, leaves: bool, heard: str) -> None:
    data = copy.deepcopy(STACK)
    data["pools"]["master"]["directors"] = ["master0", "master1"]
    old = serving.roll_out(Cluster.parse(data), "master0")
    hold(serving, leaves)
    serving.calls()
    del data["pools"]["master"]["hosts"]["master2"]
    data["vips"]["master"]["services"][0]["forwarding_method"] = "TUN"
    new = serving.deliver(render(Cluster.parse(data), "master0"))
    serving.sh(heard)
    done = serving.verb("activate", new)
    assert done.returncode == 1
    assert "of 192.168.0.3 none took its VIPs" in done.stderr
    assert serving.in_force == old
    assert table(serving) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}, "the server that should have gone has its weight again"
    assert not [call for call in serving.calls() if re.match("systemctl (stop|start|reload)|ipvsadm --delete", call)]


def test_a_director_that_stands_alone_changes_its_forwarding_method_all_the_same(serving: Node) -> None:
    alone = copy.deepcopy(STACK)
    alone["pools"]["master"]["directors"] = ["master0"]
    serving.roll_out(Cluster.parse(alone), "master0")
    hold(serving, leaves=True)
    serving.write("/stub/connections", CONNECTIONS)
    alone["vips"]["master"]["services"][0]["forwarding_method"] = "TUN"
    serving.roll_out(Cluster.parse(alone), "master0")
    assert serving.read("/stub/connections") == ELSEWHERE


def test_a_director_that_was_stopped_starts_with_the_version_and_not_with_what_it_finds(serving: Node) -> None:
    serving.sh("systemctl stop keepalived.service")
    serving.write("/stub/table", f"{MARK} 192.168.0.99 DR 1 0\n")
    serving.calls()
    serving.roll_out(cluster(scheduler="rr"), "master0")
    calls = serving.calls()
    assert calls.index(f"ipvsadm --delete-service --fwmark-service {MARK}") < calls.index("systemctl start openshift-lvs.service keepalived.service")


def test_an_activation_cut_short_while_keepalived_stood_still_remembers_what_answered_before(serving: Node) -> None:
    new = serving.deliver(render(cluster(forwarding_method="TUN"), "master0"))
    serving.sh(HEARD)
    serving.sh(f"systemctl stop keepalived.service; ipvsadm --delete-service --fwmark-service {MARK}")
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    done = serving.verb("activate", new)
    assert f"servers that answered before fail their checks now: {MARK} 192.168.0.3" in done.stderr


def test_a_rollback_counts_the_quorum_again(serving: Node) -> None:
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    # keepalived says so of servers that were replaced, and were replaced again.
    serving.write("/stub/on-reload", f"#!/bin/sh\n{recording('master', 'master-8443', -100)}\n", 0o755)
    assert serving.verb("activate", new).returncode == 1
    assert serving.read("/run/openshift-lvs/view-master") == "0\n"


def test_the_time_that_checks_have_begins_after_the_reload(serving: Node) -> None:
    serving.write("/stub/on-reload", "#!/bin/sh\nsleep 1; sleep 1; sleep 1; sleep 1; sleep 1\ncut -d . -f 1 /proc/uptime >/stub/reloaded\n", 0o755)
    serving.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master0")
    assert serving.uptime - int(serving.read("/stub/reloaded")) > keepalived.describe(cluster(), "master0").check_seconds


def test_a_rollback_needs_nobody_who_listens(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{new} 192.168.0.3\n")
    # The last reader of its words is gone before there are any.
    serving.sh(f"{{ {OPENSHIFT_LVS} activate {new} || echo $? >/stub/status; }} 2>&1 | :; while [ ! -s /stub/status ]; do /usr/bin/sleep 0.1; done")
    assert serving.in_force == old
    assert table(serving)["192.168.0.3"] == 1


def test_what_was_cut_short_is_measured_by_what_answered_before_it(serving: Node) -> None:
    old = serving.in_force
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", "".join(f"{new} 192.168.0.{last}\n" for last in (2, 3, 4)))
    serving.sh(f"ln -sfn versions/{new} /etc/keepalived/current; systemctl reload keepalived.service")
    done = serving.verb("activate", new)
    assert (done.returncode, serving.in_force) == (1, old)


def lower_removed(fresh: Node, version: str) -> None:
    """What an activation of that version does before the switch, and no more: it is interrupted then."""
    fresh.python(f"activation._Activation({version!r}, state.target(state.PROVEN))._lower_removed()")


def test_what_a_removal_lowered_before_it_was_cut_short_is_raised_again(fresh: Node) -> None:
    old = fresh.roll_out(cluster(), "master0")
    new = fresh.deliver(render(without_master2(), "master0"))
    lower_removed(fresh, new)
    assert table(fresh)["192.168.0.4"] == 0
    assert fresh.succeeds("activate", old) == f"{old} in force, nothing to do\n"
    assert table(fresh)["192.168.0.4"] == 1
    lower_removed(fresh, new)
    fresh.succeeds("rotation", "out", "192.168.0.4")
    fresh.succeeds("activate", old)
    assert table(fresh)["192.168.0.4"] == 0  # the operator's word counts
    fresh.succeeds("rotation", "in", "192.168.0.4")
    lower_removed(fresh, new)
    fresh.sh(f"ln -sfn versions/{new} /etc/keepalived/current")  # cut short before the reload
    fresh.succeeds("activate", old)
    assert table(fresh)["192.168.0.4"] == 1
    fresh.roll_out(without_master2(), "master0")
    assert table(fresh) == {"192.168.0.2": 1, "192.168.0.3": 1}
    fresh.roll_out(cluster(), "master0")
    assert table(fresh)["192.168.0.4"] == 1


def test_another_virtual_router_id_takes_no_server_out_of_rotation(fresh: Node) -> None:
    fresh.roll_out(cluster(), "master0")
    changed = copy.deepcopy(STACK)
    changed["vips"]["master"]["virtual_router_id"] = 77
    new = fresh.deliver(render(Cluster.parse(changed), "master0"))
    lower_removed(fresh, new)
    assert table(fresh) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}


def test_going_back_to_the_old_version_after_one_that_was_cut_short_reloads(serving: Node) -> None:
    old = str(serving.in_force)
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.sh(f"ln -sfn versions/{new} /etc/keepalived/current")
    assert serving.succeeds("activate", old) == f"{old} in force\n"
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"]
    assert serving.in_force == old


def test_a_removed_server_gets_no_new_connection_and_its_last_ones_time_to_end(fresh: Node) -> None:
    fresh.roll_out(cluster(), "master0")
    hold(fresh, leaves=False)
    fresh.write("/stub/table", fresh.read("/stub/table").replace("192.168.0.4 DR 1 0", "192.168.0.4 DR 1 3"))
    fresh.calls()
    new = fresh.deliver(render(without_master2(), "master0"))
    fresh.succeeds("activate", new)
    drained = f"ipvsadm --edit-server --fwmark-service {MARK} --real-server 192.168.0.4 --gatewaying --weight 0"
    assert kernel_calls(fresh) == [drained, "systemctl reload keepalived.service"]
    # The stub ends one connection per look: three were left, so the reload came when none was.
    assert table(fresh) == {"192.168.0.2": 1, "192.168.0.3": 1}


def test_a_director_that_holds_no_address_waits_for_no_connection_that_others_told_it_of(serving: Node) -> None:
    serving.write("/stub/table", serving.read("/stub/table").replace("192.168.0.4 DR 1 0", "192.168.0.4 DR 1 3"))
    new = serving.deliver(render(without_master2(), "master0"))
    lower_removed(serving, new)
    assert serving.read("/stub/table").splitlines()[-1].startswith(f"{MARK} 192.168.0.4 DR 0 ")
    assert int(serving.read("/stub/table").split()[-1]) > 0


def test_a_removed_server_waits_for_its_connections(serving: Node) -> None:
    hold(serving, leaves=False)
    serving.write("/stub/table", serving.read("/stub/table").replace("192.168.0.4 DR 1 0", "192.168.0.4 DR 1 3"))
    new = serving.deliver(render(without_master2(), "master0"))
    serving.path("/stub/calls").write_text("")
    lower_removed(serving, new)
    assert serving.read("/stub/table").splitlines()[-1] == f"{MARK} 192.168.0.4 DR 0 0"
    looks = [call for call in serving.read("/stub/calls").splitlines() if call.startswith("ipvsadm --list --numeric")]
    assert len(looks) >= 3


def test_a_server_that_its_check_takes_away_meanwhile_is_no_failure(serving: Node) -> None:
    new = serving.deliver(render(without_master2(), "master0"))
    real = serving.read("/usr/local/sbin/ipvsadm")
    gone = real.replace("--edit-server)", "--edit-server)\n    sed -i '/192.168.0.4/d' /stub/table", 1)
    serving.write("/usr/local/sbin/ipvsadm", gone, 0o755)
    serving.succeeds("activate", new)
    assert serving.in_force == new


def test_a_removed_address_leaves_lo(serving: Node) -> None:
    serving.roll_out(with_second_address(), "master0")
    assert serving.addresses_on("lo") == {"192.168.0.250/32", "192.168.0.251/32"}
    serving.roll_out(cluster(), "master0")
    assert serving.addresses_on("lo") == {"192.168.0.250/32"}
    assert not serving.sh("ls /run/openshift-lvs | grep other || true")


def test_an_address_of_a_version_that_was_never_activated_leaves_lo_too(serving: Node) -> None:
    serving.deliver(render(with_second_address(), "master0"))
    assert "192.168.0.251/32" in serving.addresses_on("lo")
    serving.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master0")
    assert serving.addresses_on("lo") == {"192.168.0.250/32"}


def test_an_address_of_a_version_that_was_rolled_back_leaves_lo_too(serving: Node) -> None:
    new = serving.deliver(render(with_second_address(), "master0"))
    serving.write("/stub/refuses-reload", "")
    assert serving.verb("activate", new).returncode == 1
    assert serving.addresses_on("lo") == {"192.168.0.250/32"}


def server_only() -> Cluster:
    data = copy.deepcopy(STACK)
    data["pools"]["master"]["directors"] = ["master1", "master2"]
    data["vips"]["master"]["owner"] = "master1"
    return Cluster.parse(data)


def synced(fresh: Node) -> frozenset[str]:
    return frozenset(f"{daemon.side} on {daemon.interface} with {daemon.sync_id}" for daemon in fresh.facts.sync)


def test_a_director_tells_and_hears_of_connections_owner_or_not(serving: Node, backup: Node) -> None:
    assert synced(serving) == synced(backup) == {"master on eth0 with 51", "backup on eth0 with 51"}


def test_connection_sync_that_runs_as_it_should_is_not_touched(serving: Node) -> None:
    serving.roll_out(cluster(weights={"master2": 2}), "master0")
    assert not [call for call in serving.calls() if "-daemon" in call]


def test_connection_sync_follows_the_virtual_router_id(serving: Node) -> None:
    data = copy.deepcopy(STACK)
    data["vips"]["master"]["virtual_router_id"] = 61
    serving.roll_out(Cluster.parse(data), "master0")
    assert synced(serving) == {"master on eth0 with 61", "backup on eth0 with 61"}


@pytest.mark.parametrize(("mtu", "maxlen"), [(1442, 1414), (1500, 1472), (9000, 1472)])
def test_what_tells_of_connections_fits_the_network_and_those_who_hear_it(serving: Node, mtu: int, maxlen: int) -> None:
    serving.sh(f"ip link set eth0 mtu {mtu}; systemctl stop keepalived.service; systemctl start keepalived.service")
    tells, hears = sorted(serving.read("/stub/daemons").splitlines(), reverse=True)
    assert f"maxlen={maxlen}," in tells and "maxlen=1472," in hears


def test_connection_sync_begins_with_keepalived_since_a_booting_kernel_has_none(serving: Node) -> None:
    serving.sh(": >/stub/daemons; systemctl stop keepalived.service; systemctl start keepalived.service")
    assert synced(serving) == {"master on eth0 with 51", "backup on eth0 with 51"}


def test_a_server_that_is_no_director_has_the_address_and_health_checks_of_its_own(fresh: Node) -> None:
    fresh.roll_out(server_only(), "master0")
    assert fresh.addresses_on("lo") == {"192.168.0.250/32"}
    assert "systemctl start openshift-lvs.service keepalived.service" in fresh.calls()
    assert table(fresh) == {"192.168.0.2": 1, "192.168.0.3": 1, "192.168.0.4": 1}
    assert synced(fresh) == frozenset()
    fresh.succeeds("rotation", "out", "192.168.0.2")
    assert table(fresh)["192.168.0.2"] == 0
    assert "dnat to" in fresh.read("/run/openshift-lvs/own-calls")
    assert "mark" not in fresh.sh("nft list table ip openshift_lvs"), "only what refuses new connections to the ports for answers"


def test_a_director_no_longer_neither_marks_nor_balances(serving: Node) -> None:
    serving.write("/stub/connections", CONNECTIONS)
    began = serving.uptime
    serving.roll_out(server_only(), "master0")
    assert serving.uptime - began < 60, "no other host tells it of connections"
    assert kernel_calls(serving) == [
        "systemctl stop keepalived.service",
        f"ipvsadm --delete-service --fwmark-service {MARK}",
        "systemctl start openshift-lvs.service keepalived.service",
    ]
    assert serving.read("/stub/connections") == ELSEWHERE
    assert "mark" not in serving.sh("nft list table ip openshift_lvs")
    assert serving.read("/stub/daemons") == ""
    assert serving.addresses_on("lo") == {"192.168.0.250/32"}


def test_a_director_no_longer_hands_over_while_it_still_marks(serving: Node) -> None:
    hold(serving, leaves=True)
    seen = "[ -e /stub/marks-then ] || /usr/sbin/nft list table ip openshift_lvs >/stub/marks-then; /usr/sbin/ip address delete"
    serving.write("/usr/local/sbin/ip", serving.read("/usr/local/sbin/ip").replace("/usr/sbin/ip address delete", seen, 1), 0o755)
    serving.roll_out(server_only(), "master0")
    assert serving.addresses_on("eth0") == {"192.168.0.2/24"}
    assert "meta mark set" in serving.read("/stub/marks-then")


def test_a_canary_holds_nothing_while_another_can(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.succeeds("rotation", "out", "192.168.0.3")
    serving.succeeds("rotation", "out", "192.168.0.4")
    serving.succeeds("activate", serving.deliver(render(cluster(scheduler="wrr"), "master0")), "canary")
    assert "192.168.0.250/32" in serving.addresses_on("eth0"), "nobody else could take it"
    serving.succeeds("rotation", "in", "192.168.0.4")
    serving.succeeds("activate", serving.deliver(render(cluster(scheduler="rr"), "master0")), "canary")
    assert "192.168.0.250/32" not in serving.addresses_on("eth0")
    assert serving.read("/run/openshift-lvs/drain-master") == "0\n"


def test_an_address_is_not_handed_to_a_director_that_is_being_removed(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.succeeds("activate", serving.deliver(render(without_master2(), "master0")), "canary")
    assert "192.168.0.250/32" in serving.addresses_on("eth0"), "master2 could have been the one to take it"


def test_a_hand_over_that_was_cut_short_is_ended_by_the_next_activation(serving: Node) -> None:
    serving.write("/run/openshift-lvs/drain-master", "-254\n")
    serving.roll_out(cluster(scheduler="rr"), "master0")
    assert serving.read("/run/openshift-lvs/drain-master") == "0\n"


# Addresses


def hold(fresh: Node, leaves: bool) -> None:
    """The address is on the interface; a stand-in for keepalived takes it away as soon as it is drained."""
    fresh.sh("ip address add 192.168.0.250/32 dev eth0")
    if leaves:
        drained = "grep -qs -- -254 /run/openshift-lvs/drain-master"
        gone = "/usr/sbin/ip address delete 192.168.0.250/32 dev eth0 2>/dev/null"
        fresh.write("/usr/local/sbin/ip", f'#!/bin/sh\nif {drained}; then {gone}; fi\nexec /usr/sbin/ip "$@"\n', 0o755)


def test_draining_ends_when_the_address_is_gone_and_says_nothing(serving: Node) -> None:
    hold(serving, leaves=True)
    assert serving.succeeds("drain") == ""
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n"


@pytest.fixture
def backup() -> Iterator[Node]:
    """A backup with a first version in force."""
    with activated("master1") as made:
        yield made


def test_going_home_hands_over_and_then_stands_by_again(backup: Node) -> None:
    hold(backup, leaves=True)
    assert backup.succeeds("go-home", "master") == "master handed over\n"
    assert backup.read("/run/openshift-lvs/drain-master") == "0\n"
    assert backup.succeeds("go-home", "master") == ""


def test_an_owner_changes_in_place_unless_it_sees_a_server_fail(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master0")
    assert "192.168.0.250/32" in serving.addresses_on("eth0")
    data = cluster(health_check={**QUICK, "retry": 1}).model_dump(exclude_unset=True)
    data["vips"]["master"]["garp_master_delay"] = 7
    versions = [serving.deliver(render(each, "master0")) for each in (Cluster.parse(data), cluster(health_check={**QUICK, "retry": 2}))]
    serving.write("/stub/dead", "".join(f"{each} 192.168.0.4\n" for each in (serving.in_force, *versions)))
    serving.sh("systemctl reload keepalived.service")
    same_checks, new = versions
    serving.succeeds("activate", same_checks)
    assert "192.168.0.250/32" in serving.addresses_on("eth0"), "keepalived keeps what it knows of checks that are the same"
    serving.write("/etc/keepalived/drained/192.168.0.4", "")
    assert serving.python("print(servers.failing(here, ipvs.table()))") == "set()", "one that is drained does not fail"
    serving.sh("rm /etc/keepalived/drained/192.168.0.4")
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 2}), "master0"))
    serving.succeeds("activate", new)
    assert "192.168.0.250/32" not in serving.addresses_on("eth0")


def test_an_owner_keeps_its_address_where_other_servers_come_too(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.write("/stub/dead", f"{serving.in_force} 192.168.0.4\n")
    serving.sh("systemctl reload keepalived.service")
    serving.roll_out(cluster(weights={"master1": 2}), "master0")
    assert "192.168.0.250/32" in serving.addresses_on("eth0"), "the others' tables differ"


def test_no_director_hands_over_to_those_that_are_dead(backup: Node) -> None:
    hold(backup, leaves=True)
    backup.write("/stub/dead", "".join(f"{backup.in_force} 192.168.0.{n}\n" for n in (2, 4)))
    backup.sh("systemctl reload keepalived.service")
    assert backup.python("print(vrrp.others_able(here, here))") == "False"
    backup.roll_out(cluster(health_check={**QUICK, "retry": 1}), "master1")
    assert "192.168.0.250/32" in backup.addresses_on("eth0")


def test_back_to_the_version_before_after_a_cut_checks_are_waited_for_all_the_same(serving: Node) -> None:
    old, new = str(serving.in_force), serving.deliver(render(cluster(forwarding_method="TUN"), "master0"))
    serving.sh(f"ln -sfn versions/{new} /etc/keepalived/current; systemctl stop keepalived.service; systemctl start keepalived.service; {HEARD}")
    began = serving.uptime
    assert serving.succeeds("activate", old) == f"{old} in force\n"
    assert serving.uptime - began > 62


def test_a_server_that_died_before_keepalived_was_stopped_did_not_answer_before(serving: Node) -> None:
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", f"{serving.in_force} 192.168.0.4\n{new} 192.168.0.4\n")
    serving.sh("systemctl reload keepalived.service; systemctl stop keepalived.service")
    assert serving.succeeds("activate", new) == f"{new} in force\n"


def test_an_address_that_is_at_home_stays_there(serving: Node) -> None:
    hold(serving, leaves=True)
    assert serving.succeeds("go-home", "master") == ""
    assert "192.168.0.250/32" in serving.addresses_on("eth0")


def test_a_backup_that_holds_the_address_gives_it_away_before_it_changes(backup: Node) -> None:
    hold(backup, leaves=True)
    backup.roll_out(cluster(scheduler="rr"), "master1")
    assert "192.168.0.250/32" not in backup.addresses_on("eth0")


def test_a_director_that_has_changed_comes_after_those_that_have_not_until_the_roll_out_ends(backup: Node) -> None:
    backup.roll_out(cluster(weights={"master2": 2}), "master1")
    assert backup.read("/run/openshift-lvs/drain-master") == "-50\n"
    seen = backup.facts
    assert (seen.behind, seen.aside) == (["master"], []), "it may own the address"
    backup.succeeds("go-home", "master")
    assert backup.read("/run/openshift-lvs/drain-master") == "0\n"


def test_a_change_that_did_not_come_about_steps_nobody_back(backup: Node) -> None:
    new = backup.deliver(render(cluster(weights={"master2": 2}), "master1"))
    backup.write("/stub/refuses-reload", "")
    assert backup.verb("activate", new).returncode == 1
    assert backup.read("/run/openshift-lvs/drain-master") == "0\n"


def test_a_drained_node_that_has_changed_still_owns_nothing(backup: Node) -> None:
    backup.write("/etc/keepalived/drained/ownership", "")
    backup.roll_out(cluster(weights={"master2": 2}), "master1")
    assert backup.read("/run/openshift-lvs/drain-master") == "-254\n"


def test_who_will_be_the_owner_no_longer_gives_the_address_away_before_it_changes(serving: Node) -> None:
    data = copy.deepcopy(STACK)
    data["vips"]["master"]["owner"] = "master1"
    hold(serving, leaves=True)
    serving.roll_out(Cluster.parse(data), "master0")
    assert "192.168.0.250/32" not in serving.addresses_on("eth0")


def test_going_home_that_fails_does_not_leave_the_node_unable_to_own(backup: Node) -> None:
    hold(backup, leaves=False)
    done = backup.verb("go-home", "master")
    assert done.returncode == 1
    assert "to leave eth0; last seen: still here: 192.168.0.250" in done.stderr
    assert backup.read("/run/openshift-lvs/drain-master") == "0\n"


def test_an_instance_that_is_not_asked_about_may_keep_its_address(serving: Node) -> None:
    serving.roll_out(with_second_address(), "master0")
    serving.sh("ip address add 192.168.0.251/32 dev eth0")
    assert serving.python("print(vrrp.held(here, ['master']))") == "[]"
    assert serving.python("print(vrrp.held(here, ['other']))") == "['192.168.0.251']"
    assert serving.python("print(vrrp.held(here, here.instances))") == "['192.168.0.251']"


def test_a_stop_drains_and_leaves_no_address_behind(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.sh("systemctl stop keepalived.service")
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n"
    assert "192.168.0.250/32" not in serving.addresses_on("eth0")
    serving.sh("systemctl start keepalived.service")
    assert serving.read("/run/openshift-lvs/drain-master") == "0\n"


def test_a_node_that_was_drained_stays_drained_over_a_restart(serving: Node) -> None:
    serving.write("/etc/keepalived/drained/ownership", "")
    serving.sh("systemctl start keepalived.service")
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n"


def test_a_reload_does_not_forget_that_the_view_is_poor(serving: Node) -> None:
    new = serving.deliver(render(cluster(health_check={**QUICK, "retry": 1}), "master0"))
    serving.write("/stub/dead", "".join(f"{version} 192.168.0.{last}\n" for version in (serving.in_force, new) for last in (3, 4)))
    serving.sh("systemctl reload keepalived.service")
    serving.sh(recording("master", "master-8443", -100))
    serving.succeeds("activate", new)
    assert serving.read("/run/openshift-lvs/view-master") == "-100\n"


def test_a_service_that_comes_back_does_not_find_the_poor_view_of_its_past(serving: Node) -> None:
    serving.roll_out(with_second_address(), "master0")
    serving.sh(recording("other", "other-443", -100))
    serving.roll_out(cluster(), "master0")
    serving.roll_out(with_second_address(), "master0")
    assert serving.read("/run/openshift-lvs/view-other") == "0\n"


def test_a_view_is_as_poor_as_the_part_of_its_services_without_a_quorum(serving: Node) -> None:
    serving.roll_out(with_a_port(), "master0")
    serving.sh(recording("master", "master-8443", -100))
    assert serving.read("/run/openshift-lvs/view-master") == "-50\n"
    serving.sh(recording("master", "master-443", -100))
    assert serving.read("/run/openshift-lvs/view-master") == "-100\n"
    serving.sh(recording("master", "master-8443", 0))
    serving.roll_out(cluster(), "master0")
    assert serving.read("/run/openshift-lvs/view-master") == "0\n"  # what is served no longer counts no longer


def never_give_up_on_the_lock(made: Node) -> None:
    """Every pause of any process moves this node's clock, so a minute of it is over in a moment."""
    made.sh(f"sed -i 's/^SHORT_S = 60/SHORT_S = 1000/' {PROGRAM}/openshift_lvs/lock.py")


def test_a_quorum_that_is_lost_while_a_version_is_applied_counts(serving: Node) -> None:
    never_give_up_on_the_lock(serving)
    serving.sh(f"for turn in 1 2 3 4 5; do {OPENSHIFT_LVS} apply & done; {recording('master', 'master-8443', -100)}; wait")
    assert serving.read("/run/openshift-lvs/view-master") == "-100\n"


def test_two_services_that_lose_their_quorum_at_once_both_count(serving: Node) -> None:
    serving.roll_out(with_a_port(), "master0")
    never_give_up_on_the_lock(serving)
    run = "/run/openshift-lvs"
    serving.sh(f"""
        exec 9<>{run}/master.lock; flock 9; before=$(cat /proc/uptime)
        {recording("master", "master-8443", -100)} 9<&- &
        until [ "$(cat /proc/uptime)" != "$before" ]; do /usr/bin/sleep 0.01; done
        echo -100 >{run}/quorum/master/master-443
        exec 9<&-; wait""")
    assert serving.read(f"{run}/view-master") == "-100\n"


def test_a_director_that_starts_unchecked_starts_with_a_poor_view(fresh: Node) -> None:
    new = fresh.deliver(render(cluster(alpha=True), "master0"))
    fresh.write("/stub/dead", "".join(f"{new} 192.168.0.{last}\n" for last in (2, 3, 4)))
    fresh.succeeds("activate", new)
    assert fresh.read("/run/openshift-lvs/view-master") == "-100\n"


def test_facts_tell_which_witnesses_are_reached_a_refusal_counts(serving: Node) -> None:
    data = copy.deepcopy(STACK)
    data["pools"]["master"]["witnesses"] = ["192.0.2.1:22", "127.0.0.1:1"]
    serving.roll_out(Cluster.parse(data), "master0")
    assert serving.facts.witnesses == {"192.0.2.1:22": False, "127.0.0.1:1": True}


# Answers


WEB = """
import socketserver

class Web(socketserver.StreamRequestHandler):
    def handle(self):
        request, *headers = iter(lambda: self.rfile.readline().decode().strip(), "")
        _, path, protocol = request.split()
        if path == "/host":
            status = "200 OK" if "Host: apps.example.org" in headers else "503 Service Unavailable"
        elif path == "/modern":
            status = "200 OK" if protocol == "HTTP/1.1" and "Connection: close" in headers else "426 Upgrade Required"
        else:
            status = path.strip("/")
        self.wfile.write(f"HTTP/1.1 {status}\\r\\n\\r\\n".encode())

class Greeting(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.send(b"220 ready\\r\\n")
        self.request.recv(1000)

class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

import threading
greeting = Server(("127.0.0.1", 3306), Greeting)
threading.Thread(target=greeting.serve_forever, daemon=True).start()
Server(("127.0.0.1", 8080), Web).serve_forever()
"""
"""On port 8080 a server that answers /CODE with that status, /host only for its own name and /modern only for HTTP 1.1; on 3306 one that greets."""


@pytest.fixture(scope="module")
def web() -> Iterator[Node]:
    """A node with servers of its own."""
    with node() as made:
        made.write("/stub/web", WEB)
        made.sh("python3 /stub/web >/stub/web.said 2>&1 &")
        knock = ("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080")
        wait_for("the server to listen", lambda: ((done := made.run(*knock)).returncode == 0, done.stderr + made.read("/stub/web.said")), deadline_s=20)
        yield made


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("127.0.0.1:8080", None),
        ("127.0.0.1:3306", None),  # a TCP connection: what a database says, or does not say, is no fault
        ("127.0.0.1:8081", "no answer"),
        ("127.0.0.1:8080 path=/204 host=x status=200-299", None),
        ("127.0.0.1:8080 path=/401 host=x status=200-299,401", None),
        ("127.0.0.1:8080 path=/401 host=x status=401", None),
        ("127.0.0.1:8080 path=/401 host=x status=200-299", "HTTP status 401, and the check accepts 200-299 (sent as Host: x)"),
        ("127.0.0.1:8080 path=/404 host=x status=200-299,401", "HTTP status 404, and the check accepts 200-299,401 (sent as Host: x)"),
        ("127.0.0.1:8080 path=/host host=apps.example.org status=200-299", None),
        ("127.0.0.1:8080 path=/host host=127.0.0.1:8080 status=200-299", "HTTP status 503, and the check accepts 200-299 (sent as Host: 127.0.0.1:8080)"),
        ("127.0.0.1:8080 path=/modern host=x status=200-299 protocol=1.1", None),
        ("127.0.0.1:8080 path=/modern host=x status=200-299", "HTTP status 426, and the check accepts 200-299 (sent as Host: x)"),
        ("127.0.0.1:8080 path=/modern host=x status=200-299 protocol=1.0C", "HTTP status 426, and the check accepts 200-299 (sent as Host: x)"),
        ("127.0.0.1:3306 path=/ host=x status=200-299", "an answer that is not HTTP"),
    ],
)
def test_answers_accepts_what_the_health_check_accepts(web: Node, target: str, fault: str | None) -> None:
    address, *words = target.split()
    name = address + "".join(word.removeprefix("path=") for word in words if word.startswith("path="))
    done = web.verb("answers", "1", "3", address, *words)
    if fault is None:
        assert (done.returncode, done.stdout) == (0, f"{name} answered 3 of 3\n")
    else:
        assert (done.returncode, done.stderr) == (1, f"{name}: waited 1 s for 3 answers in a row; last seen: 0, then {fault}\n")


def test_answers_asks_every_target_and_stops_at_the_one_that_does_not_answer(web: Node) -> None:
    target = ("127.0.0.1:8080", "path=/200", "host=x", "status=200-299")
    assert web.succeeds("answers", "10", "5", *target, "127.0.0.1:8080", *target).splitlines() == [
        f"127.0.0.1:8080{path} answered 5 of 5" for path in ("/200", "", "/200")
    ]
    done = web.verb("answers", "1", "5", "127.0.0.1:3306", "127.0.0.1:8081", *target)
    assert (done.returncode, done.stdout) == (1, "127.0.0.1:3306 answered 5 of 5\n")


def test_a_delivery_listens_for_adverts_before_anything_is_in_force(fresh: Node) -> None:
    began = fresh.uptime
    fresh.deliver(render(cluster(), "master0"))
    assert fresh.uptime - began == 4


# Installation and removal

PACKAGE_MANAGER = '#!/bin/sh\necho "{name} $*" >>/stub/calls\n'


def install(fresh: Node, cut_off_after: int | None = None) -> subprocess.CompletedProcess[str]:
    """As the program does: the bundle by stdin, the script as text."""
    return fresh.run("sh", "-c", _install(), stdin=bundle(keepalived.program())[:cut_off_after])


def test_a_program_that_was_cut_off_on_its_way_is_not_installed() -> None:
    with node(installed=False) as bare:
        done = install(bare, len(bundle(keepalived.program())) // 2)
        assert (done.returncode, done.stderr) == (1, "the program did not arrive whole; pulumi up again\n")
        assert not bare.path(LIB).exists()
        assert not bare.sh("ls /tmp")


def test_installing_adds_the_program_compiled_and_touches_nothing_the_second_time() -> None:
    with node(installed=False) as bare:
        bare.write("/usr/bin/apt-get", PACKAGE_MANAGER.format(name="apt-get"), 0o755)
        done = install(bare)
        assert done.returncode == 0, done.stderr
        assert not [call for call in bare.calls() if call.startswith("apt-get")]
        assert done.stdout.startswith("Keepalived v2.")
        for file in keepalived.program():
            path = bare.path(f"{PROGRAM}/{file.path}")
            assert (path.read_text(), path.stat().st_mode & 0o777) == (file.text, file.mode)
        everything = f"find {LIB} -printf '%p %i %T@ %m\\n' | sort"
        before = bare.sh(everything)
        assert "/openshift_lvs/__pycache__/commands.cpython-" in before
        assert install(bare).returncode == 0
        assert bare.sh(everything) == before
        assert not bare.sh("ls /tmp")


def test_an_interrupted_installation_is_finished_by_the_next() -> None:
    with node(installed=False) as bare:
        bare.write(f"{PROGRAM}.part/openshift_lvs/commands.py", "half a pro")
        assert install(bare).returncode == 0
        assert bare.read(f"{PROGRAM}/openshift_lvs/commands.py") == (keepalived.PROGRAM / "openshift_lvs/commands.py").read_text()
        assert not bare.path(f"{PROGRAM}.part").exists()


def test_installing_changes_nothing_that_runs(serving: Node) -> None:
    serving.sh(f"mv {PROGRAM} {LIB}/another")
    serving.sh("ln -sfn /usr/local/lib/openshift-lvs/another /etc/keepalived/current/program")
    before = states(serving), serving.sh("ls -lR /etc/systemd /run/openshift-lvs")
    assert install(serving).returncode == 0
    assert (states(serving), serving.sh("ls -lR /etc/systemd /run/openshift-lvs")) == before
    assert kernel_calls(serving) == []


def test_an_ostree_system_is_refused_by_name() -> None:
    with node(installed=False) as bare:
        bare.write("/run/ostree-booted", "")
        bare.sh("rm -f /etc/os-release")
        bare.write("/etc/os-release", 'NAME="Red Hat Enterprise Linux CoreOS"\nPRETTY_NAME="Red Hat Enterprise Linux CoreOS 417"\n')
        done = install(bare)
        assert done.returncode == 1
        assert done.stderr.startswith("Red Hat Enterprise Linux CoreOS 417 is an ostree system: it has no package manager at run time")
        assert not bare.path(LIB).exists()


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="7.9"\n', "Red Hat Enterprise Linux Server 7.9 (Maipo)"),
        ('ID="centos"\nID_LIKE="rhel fedora"\nVERSION_ID="7"\n', "CentOS Linux 7 (Core)"),
    ],
)
def test_red_hat_7_is_refused_by_name(release: str, name: str) -> None:
    with node(installed=False) as bare:
        bare.sh("rm -f /etc/os-release")
        bare.write("/etc/os-release", f'{release}PRETTY_NAME="{name}"\n')
        done = install(bare)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{name} is too old: its kernel 3.10 has no scheduler mh, and its keepalived is 1.3; install Red Hat 9, ")
        assert not bare.path(LIB).exists()


@pytest.mark.parametrize("release", ['ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="9.4"\n', 'ID=debian\nVERSION_ID="7"\n', ""])
def test_another_release_is_not_taken_for_red_hat_7(release: str) -> None:
    with node(installed=False) as bare:
        bare.sh("rm -f /etc/os-release")
        bare.write("/etc/os-release", release)
        done = install(bare)
        assert done.returncode == 0, done.stderr


THEIRS = "vrrp_instance web {\n    virtual_ipaddress {\n        10.0.0.80/24 dev eth0\n        10.0.0.81\n    }\n}\n"


@pytest.mark.parametrize("state", ["active", "enabled"])
def test_a_host_whose_own_keepalived_is_in_use_is_refused_before_anything_changes(state: str) -> None:
    with node(installed=False) as bare:
        bare.write("/etc/keepalived/keepalived.conf", THEIRS)
        bare.write(f"/stub/{state}-keepalived.service", "")
        done = install(bare)
        assert done.returncode == 1
        assert done.stderr.startswith("keepalived is in use on this host with /etc/keepalived/keepalived.conf (VIPs 10.0.0.80 10.0.0.81); nothing was changed.")
        assert "systemctl disable --now keepalived" in done.stderr
        assert not bare.path(LIB).exists()
        bare.sh(f"rm /stub/{state}-keepalived.service")
        assert install(bare).returncode == 0, "the sample file of the package is no use of it"


def test_a_host_of_this_program_is_not_taken_for_another_keepalived(serving: Node) -> None:
    serving.write("/etc/keepalived/keepalived.conf", THEIRS)
    assert install(serving).returncode == 0


def test_an_old_python_is_refused_by_its_version() -> None:
    with node(installed=False) as bare:
        old = '#!/bin/sh\nif [ "$1" = --version ]; then echo "Python 3.6.8"; else exit 1; fi\n'
        bare.write("/usr/local/bin/python3", old, 0o755)
        done = install(bare)
        assert done.returncode == 1
        assert done.stderr.startswith("python3: Python 3.6.8 is too old; this program needs Python 3.9 or newer")
        assert not bare.path(LIB).exists()


@pytest.mark.parametrize("manager", ["apt-get", "dnf"])
def test_only_the_packages_that_are_missing_are_installed(manager: str) -> None:
    with node(installed=False) as bare:
        bare.write("/stub/manager", PACKAGE_MANAGER.format(name=manager), 0o755)
        bare.sh(f"rm /usr/bin/apt-get /usr/sbin/nft /usr/sbin/ipvsadm /usr/local/sbin/ipvsadm; mv /stub/manager /usr/bin/{manager}")
        assert install(bare).returncode == 0
        installed = [call for call in bare.calls() if call.startswith(manager) and " install " in call]
        assert len(installed) == 1
        assert installed[0].endswith(" ipvsadm nftables")


@pytest.mark.parametrize(("ends", "told"), [("", ""), ("exit 124", "cloud-init: not done after 120 s; packages are installed all the same\n")])
def test_packages_are_installed_when_the_first_boot_is_over_or_took_too_long(ends: str, told: str) -> None:
    with node(installed=False) as bare:
        bare.write("/usr/bin/cloud-init", PACKAGE_MANAGER.format(name="cloud-init"), 0o755)
        bare.write("/usr/bin/apt-get", PACKAGE_MANAGER.format(name="apt-get"), 0o755)
        bare.write("/usr/bin/timeout", f'#!/bin/sh\n[ "$1" = 120 ] && shift && "$@"\n{ends}\n', 0o755)
        bare.sh("rm /usr/sbin/nft")
        done = install(bare)
        assert (done.returncode, done.stderr) == (0, told)
        assert [call.split()[0] for call in bare.calls() if call.startswith(("cloud-init status --wait", "apt-get"))] == ["cloud-init", "apt-get", "apt-get"]


def test_where_selinux_enforces_keepalived_may_run_the_scripts_and_check_any_port() -> None:
    with node(installed=False) as bare:
        bare.write("/usr/bin/selinuxenabled", "#!/bin/sh\n", 0o755)
        for tool in ("semanage", "restorecon", "setsebool"):
            fails = "[ $2 != --add ]" if tool == "semanage" else ""
            bare.write(f"/usr/bin/{tool}", f'#!/bin/sh\necho "{tool} $*" >>/stub/calls\n{fails}\n', 0o755)
        assert install(bare).returncode == 0
        labels = "--type keepalived_unconfined_script_exec_t /usr/local/lib/openshift-lvs(/.*)?"
        assert bare.calls()[-4:] == [
            f"semanage fcontext --add {labels}",
            f"semanage fcontext --modify {labels}",
            "restorecon -R /usr/local/lib/openshift-lvs",
            "setsebool -P keepalived_connect_any on",
        ]


def test_without_a_package_manager_the_packages_are_named() -> None:
    with node(installed=False) as bare:
        bare.sh("rm /usr/bin/apt-get /usr/sbin/nft")
        done = install(bare)
        assert done.returncode == 1
        assert "neither apt-get nor dnf is here; install nftables by hand" in done.stderr


def test_removing_undoes_everything_but_the_packages(serving: Node) -> None:
    serving.write("/stub/table", serving.read("/stub/table") + "7 10.0.0.1 NAT 1 0\n")
    serving.deliver(render(with_second_address(), "master0"))
    hold(serving, leaves=True)
    assert serving.succeeds("remove") == "removed\n"
    assert serving.addresses_on("lo") == set()
    assert serving.addresses_on("eth0") == {"192.168.0.2/24"}
    assert serving.run("nft", "list", "table", "ip", "openshift_lvs").returncode != 0
    # Another's virtual server stays.
    assert serving.read("/stub/table") == "7 10.0.0.1 NAT 1 0\n"
    left = serving.sh(
        f"ls -d {LIB} /run/openshift-lvs /etc/keepalived/* /etc/systemd/system/openshift-lvs.service /etc/systemd/system/*.d/* 2>/dev/null || true"
    )
    assert left.split() == ["/etc/keepalived/keepalived.conf.sample"]


def test_removing_deletes_every_nftables_table_of_the_program_and_the_copy_that_a_killed_test_left(serving: Node) -> None:
    """A command that is killed leaves the table that it made for itself, and `validate` a copy of a version, which may have a password."""
    serving.sh("mkdir /etc/keepalived/validate.killed; touch /etc/keepalived/validate.killed/auth-master.conf; nft add table ip other")
    serving.python("from openshift_lvs import programs, remove\nfor each in remove.TABLES: programs.run('nft', 'add', 'table', *each)")
    serving.succeeds("remove")
    assert serving.sh("nft list tables") == "table ip other\n"
    assert serving.run("ls", "/etc/keepalived/validate.killed").returncode != 0


def test_the_tables_that_are_removed_and_not_taken_for_other_programs_are_all_that_the_program_names() -> None:
    texts = [path.read_text() for path in (keepalived.PROGRAM / "openshift_lvs").glob("*.py")]
    assert {name for text in texts for name in re.findall(r'^\w*TABLE = "(\w+)"', text, re.MULTILINE)} == {name for _, name in remove.TABLES}
    assert {name for family, name in remove.TABLES if family == "ip"} == set(firewall._OURS)


def test_removing_ends_connection_sync(serving: Node) -> None:
    assert serving.read("/stub/daemons")
    serving.succeeds("remove")
    assert serving.read("/stub/daemons") == ""


def test_removing_takes_the_address_away_that_a_dead_keepalived_left(serving: Node) -> None:
    hold(serving, leaves=False)
    serving.sh("rm /stub/active-keepalived.service")
    serving.succeeds("remove")
    assert serving.addresses_on("eth0") == {"192.168.0.2/24"}


def test_removing_from_a_host_whose_first_version_did_not_become_healthy_leaves_no_rules(fresh: Node) -> None:
    version = fresh.deliver(render(cluster(), "master0"))
    fresh.sh("touch /stub/refuses-start")
    assert fresh.verb("activate", version).returncode == 1
    assert (fresh.in_force, fresh.sh("nft list tables")) == (None, "table ip openshift_lvs\n")
    fresh.succeeds("remove")
    assert fresh.sh("nft list tables") == ""


def test_removing_from_a_host_on_which_nothing_was_activated_works_too(fresh: Node) -> None:
    fresh.deliver(render(cluster(), "master0"))
    assert fresh.succeeds("remove") == "removed\n"
    assert fresh.addresses_on("lo") == set()
