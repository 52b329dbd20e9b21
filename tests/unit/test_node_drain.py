"""Draining on a node: what its commands keep, over everything that may happen to a node. And routers that use our virtual_router_id."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest

from components.configuration import Cluster
from components.keepalived import bundle, render, version
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import MARK, STACK, activated, cluster, hold, kernel_calls, states, table, without_master2

MASTER1 = "192.168.0.3"


@pytest.fixture
def serving() -> Iterator[Node]:
    """master0 with a first version in force."""
    with activated("master0") as made:
        yield made


def included(serving: Node, directory: str = "/etc/keepalived/current") -> dict[str, str]:
    """What keepalived.conf includes for drained servers, without what is empty."""
    return dict(line.split(":", 1) for line in serving.sh(f"cd {directory}/drained && grep -H . * || true").splitlines())


def test_a_server_out_of_rotation_has_weight_0_by_a_reload_and_the_quorum_asks_no_more_than_is_left(serving: Node) -> None:
    serving.succeeds("rotation", "out", MASTER1)
    assert table(serving) == {"192.168.0.2": 1, MASTER1: 0, "192.168.0.4": 1}
    assert kernel_calls(serving) == ["systemctl reload keepalived.service"]
    # The majority of the two that are left is both, as it was of three.
    assert included(serving) == {f"{MASTER1}.conf": "weight 0"}
    serving.succeeds("rotation", "out", "192.168.0.4")
    assert included(serving) == {f"{MASTER1}.conf": "weight 0", "192.168.0.4.conf": "weight 0", "master-8443.conf": "quorum 1"}


def test_putting_it_back_leaves_no_trace_and_doing_either_twice_is_safe(serving: Node) -> None:
    before = states(serving)
    for _ in range(2):
        serving.succeeds("rotation", "out", MASTER1)
    for _ in range(2):
        serving.succeeds("rotation", "in", MASTER1)
    assert table(serving)[MASTER1] == 1
    assert included(serving) == {}
    assert [line.split()[0] for line in states(serving).splitlines()[1:]] == [line.split()[0] for line in before.splitlines()[1:]]


def test_a_quorum_that_was_given_is_never_raised_and_its_hysteresis_stays_within_reach(serving: Node) -> None:
    serving.roll_out(cluster(quorum=2, hysteresis=1), "master0")
    serving.succeeds("rotation", "out", MASTER1)
    assert included(serving) == {f"{MASTER1}.conf": "weight 0", "master-8443.conf": "hysteresis 0"}
    serving.roll_out(cluster(quorum=1), "master0")
    assert included(serving) == {f"{MASTER1}.conf": "weight 0"}


def test_keepalived_takes_what_is_included_without_a_word(serving: Node) -> None:
    serving.roll_out(cluster(hysteresis=1), "master0")
    serving.succeeds("rotation", "out", MASTER1)
    serving.succeeds("rotation", "out", "192.168.0.4")
    said = serving.run("keepalived", "--config-test", "--use-file", "/etc/keepalived/current/keepalived.conf")
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def test_a_drained_server_stays_so_in_every_new_version_and_in_the_one_that_comes_back(serving: Node) -> None:
    serving.succeeds("rotation", "out", MASTER1)
    serving.roll_out(cluster(scheduler="rr"), "master0")
    assert table(serving)[MASTER1] == 0
    files = render(cluster(scheduler="wrr"), "master0")
    serving.write("/stub/dead", f"{version(files)} 192.168.0.4\n")
    serving.deliver(files)
    done = serving.verb("activate", version(files))
    assert "rolled back" in done.stderr
    assert table(serving) == {"192.168.0.2": 1, MASTER1: 0, "192.168.0.4": 1}


def test_a_drained_server_that_is_removed_and_added_again_is_not_drained(serving: Node) -> None:
    serving.succeeds("rotation", "out", "192.168.0.4")
    serving.roll_out(without_master2(), "master0")
    serving.roll_out(cluster(), "master0")
    assert table(serving)["192.168.0.4"] == 1


def test_a_director_that_starts_gives_a_drained_server_the_place_that_it_has_elsewhere(serving: Node) -> None:
    serving.succeeds("rotation", "out", MASTER1)
    serving.sh("systemctl stop keepalived.service; : >/stub/table")
    serving.calls()
    serving.sh("systemctl start keepalived.service")
    edit = f"ipvsadm --edit-server --fwmark-service {MARK} --real-server {MASTER1} --gatewaying --weight"
    assert [call for call in serving.calls() if "--edit-server" in call] == [f"{edit} 1", f"{edit} 0"]
    assert table(serving)[MASTER1] == 0


def test_a_weight_that_the_kernel_does_not_take_is_an_error(serving: Node) -> None:
    serving.write("/usr/local/sbin/systemctl", "#!/bin/sh\nexit 0\n", 0o755)
    done = serving.verb("rotation", "out", MASTER1)
    assert done.returncode == 1
    assert f"for weight 0 for {MASTER1}" in done.stderr and "last seen" in done.stderr


def test_a_node_without_ownership_hands_over_and_owns_nothing_after_a_reboot(serving: Node) -> None:
    hold(serving, leaves=True)
    serving.succeeds("ownership", "off")
    assert serving.addresses_on("eth0") == {"192.168.0.2/24"}
    serving.sh("rm -r /run/openshift-lvs; systemctl start openshift-lvs.service; systemctl start keepalived.service")
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n"
    serving.roll_out(cluster(scheduler="rr"), "master0")
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n"
    serving.succeeds("go-home", "master")
    assert serving.read("/run/openshift-lvs/drain-master") == "-254\n", "a roll-out that ends meanwhile"
    serving.succeeds("ownership", "on")
    assert serving.read("/run/openshift-lvs/drain-master") == "0\n"


def test_an_address_does_not_go_home_to_an_owner_that_is_drained() -> None:
    with node() as backup:
        backup.roll_out(cluster(), "master1")
        hold(backup, leaves=True)
        backup.succeeds("rotation", "out", "192.168.0.2")
        assert backup.succeeds("go-home", "master") == "master stays: its owner, 192.168.0.2, is drained\n"
        assert "192.168.0.250/32" in backup.addresses_on("eth0")
        backup.succeeds("rotation", "in", "192.168.0.2")
        assert backup.succeeds("go-home", "master") == "master handed over\n"


def test_what_is_drained_or_put_back_while_keepalived_is_down_holds_when_it_starts(serving: Node) -> None:
    """A keepalived that stops leaves the table, and one that starts finds its servers there already."""
    serving.sh("rm /stub/active-keepalived.service")
    serving.succeeds("rotation", "out", MASTER1)
    assert table(serving)[MASTER1] == 0
    serving.succeeds("rotation", "in", MASTER1)
    assert table(serving)[MASTER1] == 1
    serving.write("/etc/keepalived/drained/192.168.0.4", "")
    serving.succeeds("start")
    assert table(serving) == {"192.168.0.2": 1, MASTER1: 1, "192.168.0.4": 0}


def test_a_server_that_left_the_pool_while_keepalived_was_down_is_gone_when_it_starts(serving: Node) -> None:
    others = "99 192.168.0.8 DR 1 0\n"
    before = serving.read("/stub/table") + others
    serving.write("/stub/table", before + f"{MARK} 192.168.0.7 DR 1 0\n")
    serving.succeeds("start")
    assert serving.read("/stub/table") == before


def test_a_sorry_server_at_work_keeps_its_weight() -> None:
    with node() as serving:
        serving.roll_out(cluster(sorry_server="192.168.0.9"), "master0")
        serving.write("/stub/table", f"{51 << 20 | 8443} 192.168.0.9 DR 1 0\n")
        serving.succeeds("start")
        assert table(serving) == {"192.168.0.9": 1}


# Strangers


def advert(source: str, vrid: int, vrrp_version: int = 3, *, behind: bytes = b"", interface: str = "wire") -> str:
    """A program that sends an advert of another router to eth0's wire, `behind` an authentication header when there is one."""
    protocol = 51 if behind else 112
    return f"""
import socket, struct
# keepalived has joined the group where it runs.
member = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4si", socket.inet_aton("224.0.0.18"), bytes(4), socket.if_nametoindex("eth0")))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("{interface}", 0))
vrrp = {behind!r} + bytes([{vrrp_version} << 4 | 1, {vrid}, 100, 1, 0, 100, 0, 0]) + socket.inet_aton("192.168.0.250")
header = struct.pack("!BBHHHBBH4s4s", 0x45, 0xC0, 20 + len(vrrp), 1, 0, 255, {protocol}, 0, socket.inet_aton("{source}"), socket.inet_aton("224.0.0.18"))
total = sum(struct.unpack("!10H", header))
total = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
header = header[:10] + struct.pack("!H", total) + header[12:]
wire.send(bytes.fromhex("01005e00001200005e0001{vrid:02x}0800") + header + vrrp)
"""


def send_again_and_again(fresh: Node, program: str) -> None:
    """Run such a program in every second that passes on the node; /stub/adverts has a line for each time."""
    fresh.write("/stub/advert", program)
    fresh.sh("mv /usr/local/sbin/sleep /stub/sleep")
    fresh.write("/usr/local/sbin/sleep", '#!/bin/sh\npython3 /stub/advert && echo sent >>/stub/adverts\nexec /stub/sleep "$@"\n', 0o755)


@pytest.mark.parametrize("vrrp_version", [2, 3])
def test_a_router_with_our_virtual_router_id_is_named_and_another_or_our_own_is_not(serving: Node, vrrp_version: int) -> None:
    serving.sh("python3 -", stdin=advert(MASTER1, 51, vrrp_version))
    serving.sh("python3 -", stdin=advert("192.168.0.77", 52, vrrp_version))
    assert serving.succeeds("alone", "0") == ""
    serving.sh("python3 -", stdin=advert("192.168.0.77", 51, vrrp_version))
    done = serving.verb("alone", "0")
    assert done.returncode == 1
    assert done.stderr == (
        "waited 0 s for former directors to fall silent; last seen: "
        "vips.master.virtual_router_id: 51 is used by 192.168.0.77 on eth0 too; "
        "choose another, or stop that router (a director of this program that is being removed: put it back, drain it, and remove it then)\n"
    )


AUTHENTICATED = bytes([112, 4]) + bytes(22)
"""An authentication header (RFC 4302) with 96 bits of ICV, as keepalived sends it."""


def test_a_router_that_authenticates_is_heard_by_those_that_do(serving: Node) -> None:
    authenticated = copy.deepcopy(STACK)
    authenticated["keepalived"] = {"vrrp_version": 2}
    authenticated["vips"]["master"].update(authentication="AH", advert_interval=1)
    rules = next(file.text for file in render(Cluster.parse(authenticated), "master0") if file.path.endswith("lvs.nft"))
    serving.sh("nft -f -", stdin=rules)
    serving.sh("python3 -", stdin=advert("192.168.0.77", 51, 2, behind=AUTHENTICATED))
    assert "192.168.0.77" in serving.sh("nft list set ip openshift_lvs strangers_51")


@pytest.mark.parametrize("behind", [b"", AUTHENTICATED])
def test_a_delivery_stops_at_a_stranger_before_anything_is_in_force(behind: bytes) -> None:
    with node() as fresh:
        send_again_and_again(fresh, advert("192.168.0.77", 51, behind=behind))
        files = render(cluster(), "master0")
        done = fresh.verb("deliver", version(files), stdin=bundle(files))
        assert done.returncode == 1
        assert "vips.master.virtual_router_id: 51 is used by 192.168.0.77" in done.stderr
        assert fresh.in_force is None
        assert "openshift_lvs" not in fresh.sh("nft list tables")
        assert "01:00:5e:00:00:12" not in fresh.sh("ip maddress show dev eth0")


ETH1 = "ip link add eth1 type veth peer name office; ip link set eth1 up; ip link set office up"
"""Another interface of the node, and the other end of its link."""


@pytest.mark.parametrize("behind", [b"", AUTHENTICATED])
def test_a_router_on_another_network_may_have_our_virtual_router_id(serving: Node, behind: bytes) -> None:
    serving.sh(ETH1)
    serving.sh("python3 -", stdin=advert("172.16.0.77", 51, behind=behind, interface="office"))
    assert serving.succeeds("alone", "0") == ""
    assert "172.16.0.77" not in serving.sh("nft list table ip openshift_lvs")


@pytest.mark.parametrize("behind", [b"", AUTHENTICATED])
def test_a_first_delivery_does_not_stop_at_a_router_on_another_network(behind: bytes) -> None:
    with node() as fresh:
        fresh.sh(ETH1)
        send_again_and_again(fresh, advert("172.16.0.77", 51, behind=behind, interface="office"))
        fresh.deliver(render(cluster(), "master0"))
        assert fresh.read("/stub/adverts").startswith("sent\nsent\n")


def test_a_director_that_is_removed_is_no_stranger_to_the_version_that_comes(serving: Node) -> None:
    serving.sh("python3 -", stdin=advert("192.168.0.4", 51))
    assert "192.168.0.4" in serving.sh("nft list set ip openshift_lvs adverts_51")
    serving.deliver(render(without_master2(), "master0"))
