"""firewalld on a host: what the program lets in, and that it takes back exactly this."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from components.configuration import Cluster
from components.keepalived import render, version
from tests.unit.node_root import Node, node
from tests.unit.test_node_scripts import STACK, cluster, without_master2

ZONE = "trusted-by-test"
OPERATORS = 'rule family="ipv4" source address="192.168.0.3" protocol value="112" accept'
"""A rule that the host's operator has, and that the program would add."""


def rules(made: Node, at: str = "permanent", zone: str = ZONE) -> list[str]:
    """The rich rules of a zone, without what all of them have."""
    path = made.path(f"/stub/firewalld/{at}-{zone}")
    return sorted(line.removeprefix('rule family="ipv4" ').removesuffix(" accept") for line in path.read_text().splitlines()) if path.exists() else []


@pytest.fixture
def guarded() -> Iterator[Node]:
    """A node with firewalld, nothing delivered."""
    with node() as made:
        made.sh("mkdir /stub/firewalld")
        yield made


def of_director(*others: str) -> list[str]:
    return sorted(
        [
            'destination address="192.168.0.250" port port="8443" protocol="tcp"',
            *(
                f'source address="{other}" {what}'
                for other in others
                for what in ('protocol value="112"', 'port port="8848" protocol="udp"', 'port port="8443" protocol="tcp"')
            ),
        ]
    )


def test_a_delivery_lets_in_what_directors_and_clients_send_now_and_permanently(guarded: Node) -> None:
    guarded.deliver(render(cluster(), "master0"))
    assert rules(guarded) == rules(guarded, "runtime") == of_director("192.168.0.3", "192.168.0.4")
    assert "--reload" not in guarded.read("/stub/calls"), "it would remove what other programs added at run time"


def test_where_firewalld_does_not_run_firewall_cmd_is_not_started() -> None:
    with node() as made:
        made.roll_out(cluster(), "master0")
        assert "firewall-cmd" not in made.read("/stub/calls")


def test_a_director_that_leaves_is_let_in_until_the_new_version_is_in_force(guarded: Node) -> None:
    guarded.roll_out(cluster(), "master0")
    files = render(without_master2(), "master0")
    guarded.deliver(files)
    assert rules(guarded) == of_director("192.168.0.3", "192.168.0.4")
    guarded.succeeds("activate", version(files))
    assert rules(guarded) == rules(guarded, "runtime") == of_director("192.168.0.3")


def test_a_removal_takes_back_what_the_program_added_and_leaves_what_was_there(guarded: Node) -> None:
    guarded.write(f"/stub/firewalld/permanent-{ZONE}", f"{OPERATORS}\n")
    guarded.write(f"/stub/firewalld/runtime-{ZONE}", f"{OPERATORS}\n")
    guarded.roll_out(cluster(), "master0")
    assert rules(guarded) == of_director("192.168.0.3", "192.168.0.4")
    guarded.succeeds("remove")
    assert rules(guarded) == rules(guarded, "runtime") == ['source address="192.168.0.3" protocol value="112"']
    assert not guarded.path("/etc/keepalived/firewalld.json").exists()


def test_an_interrupted_change_of_firewalld_is_finished_by_the_next_command(guarded: Node) -> None:
    files = render(cluster(), "master0")
    guarded.write(
        "/usr/local/sbin/firewall-cmd", guarded.read("/usr/local/sbin/firewall-cmd").replace("set -eu\n", "set -eu\n[ ! -e /stub/fails ] || exit 1\n"), 0o755
    )
    guarded.write("/usr/local/sbin/nft", '#!/bin/sh\n[ "$1" != add ] || touch /stub/fails\nexec /usr/sbin/nft "$@"\n', 0o755)
    guarded.deliver(files)
    assert rules(guarded) == of_director("192.168.0.3", "192.168.0.4")
    guarded.sh(f"sed -i '/8848/d' /stub/firewalld/permanent-{ZONE}")
    guarded.succeeds("activate", version(files))
    assert rules(guarded) == of_director("192.168.0.3", "192.168.0.4"), "a rule that was removed by hand is there again"


@pytest.mark.parametrize(("method", "director"), [("TUN", True), ("TUN", False), ("NAT", False)])
def test_servers_let_in_what_their_forwarding_method_sends(guarded: Node, method: str, director: bool) -> None:
    data: dict[str, Any] = copy.deepcopy(STACK)
    data["vips"]["master"]["services"][0]["forwarding_method"] = method
    if not director:
        data["pools"]["master"]["directors"] = ["master1"]
        data["vips"]["master"]["owner"] = "master1"
    guarded.deliver(render(Cluster.parse(data), "master0"))
    found = rules(guarded)
    assert ('source address="192.168.0.3" protocol value="4"' in found) == (method == "TUN" and director)
    assert ('destination address="192.168.0.2" port port="8443" protocol="tcp"' in found) == (method == "NAT")
    checked_from = [other for other in ("192.168.0.2", "192.168.0.3", "192.168.0.4") if f'source address="{other}" port port="8443" protocol="tcp"' in found]
    assert checked_from == ["192.168.0.3", "192.168.0.4"], "every other host of the pool checks this one's server"
    assert rules(guarded, zone="public") == (found if method == "TUN" else []), "the tunnel's packets come out of another interface"
