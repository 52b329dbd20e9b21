"""Requests from the tenant network and through the router, by IPv4 and IPv6, while the VIP moves: its owner is drained, stopped, killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from lab import cloud
from lab.nodes.probe import Request, checkers_journal, lingered
from lab.nodes.runner import TIMERS
from lab.phases import wait_for
from tests.cloud.conftest import Cluster, as_tenant
from tests.cloud.probes import GRACE_S, Running, asked, longest_wait_s, on_node, packets, summary, unanswered, waited
from tests.cloud.test_cluster import API, API_V6, holders

LVS = "/usr/local/sbin/openshift-lvs"
PORT = 8443
QUIET_S = 3
"""Requests before and after what happens."""
MOVES = 10
MOVED_S, HOME_S, BOOTED_S = 30, 60, 300
STOPPED_S = 10
DOWN_S = 15
"""How long requests go on while a killed owner is down: longer than a takeover and an eviction."""
START_AGAIN = """
server = cloud.compute.get_server(sys.argv[1])
cloud.compute.wait_for_server(server, status="SHUTOFF", interval=1, wait=120)
cloud.compute.start_server(server)
cloud.compute.wait_for_server(server, status="ACTIVE", interval=1, wait=120)
"""
"""Nova notices by itself that a QEMU has ended."""


def held(cluster: Cluster) -> tuple[list[str], str]:
    """The node that holds both addresses of the VIP, if one does, and where they are."""
    found, second = holders(cluster, API), holders(cluster, API_V6)
    return found if found == second and len(found) == 1 else [], f"{API} at {found}, {API_V6} at {second}"


def owner_of(cluster: Cluster) -> str:
    """The host that holds the API's VIP, which is its owner: every test leaves it so."""
    found, told = held(cluster)
    assert found == [cluster.committed["vips"]["master"]["owner"]], told
    return found[0]


def machine_of(cluster: Cluster, host: str) -> tuple[str, int]:
    """Nova's id of a host, and the pid of its QEMU."""
    (server,) = [server["id"] for server in cluster.tenant()["servers"] if server["name"] == host]
    return server, cloud.machine_of(server)


def elsewhere(cluster: Cluster, host: str = "") -> tuple[bool, str]:
    """Whether one node, other than this host, holds both addresses of the VIP, and where they are."""
    found, told = held(cluster)
    return bool(found) and found != [host], told


def verified(cluster: Cluster) -> tuple[bool, str]:
    """Whether `verify` finds nothing, and what it says."""
    done = cluster.operate("verify")
    return done.returncode == 0, f"{[line for line in done.stdout.splitlines() if 'FAILED' in line] or done.stdout[-500:]} {done.stderr[-500:]}"


def others(cluster: Cluster, owner: str) -> dict[str, Any]:
    """The pool's directors but the owner, as they are configured."""
    return {host: each for host, each in cluster.committed["pools"]["master"]["hosts"].items() if host != owner}


def timers(cluster: Cluster, owner: str) -> Running:
    """How many seconds late the timers of the other directors are while it runs, by host: one of them takes the VIP, and evicts the owner's server.

    keepalived does nothing else while it closes a check's connection. So this counts too, to the servers that stay.
    """
    directors = others(cluster, owner)
    servers = [word for each in directors.values() for family in ("address", "address_v6") for word in (each[family], str(PORT))]
    return Running({host: on_node(host, *packets("timers", *servers)) for host in directors})


def checks_waited(cluster: Cluster, owner: str, since: float) -> float:
    """For how many seconds all checks of another director stood still, as keepalived tells (its issue 2271). The lab's bounds have this too."""
    return max(lingered(cluster.on(host, *checkers_journal(since))) for host in others(cluster, owner))


def require_takeover(requests: list[Request], endpoint: dict[str, Any], late_s: Mapping[str, float], waited_s: float, **moments: float) -> None:
    """No request failed or waited longer than a takeover and `waited_s`, except those that were open at one of these moments.

    Skips if late timers of the directors, in seconds by host, explain how long requests waited: keepalived's are as late. The lab has the same rule.
    """
    bound = longest_wait_s(endpoint["takeover_seconds"] + GRACE_S + waited_s)
    slow, lost = waited(requests, bound, *moments.values()), unanswered(requests, *moments.values())
    told = f"{', '.join(f'{name} at {at:.2f}' for name, at in moments.items())}; timers {dict(late_s)} s late; {summary(requests)}"
    assert requests and not lost, f"{told}: {lost}"
    late = max(late_s.values())
    if slow and late > GRACE_S and max(request.seconds for request in slow) - bound <= TIMERS * late:
        pytest.skip(
            f"this machine is too slow to measure a takeover: the directors' timers were {late_s} s late, and the bound of {bound} s allows {GRACE_S} s; "
            f"run the test on a machine that does nothing else, or has KVM; {told}"
        )
    assert not slow, f"bound {bound} s; {told}: {slow}"


def bring_home(cluster: Cluster, owner: str) -> None:
    """Return the VIP to its owner."""
    back = cluster.operate("undrain", owner)
    assert back.returncode == 0, back.stdout + back.stderr

    def home() -> tuple[bool, str]:
        found, told = held(cluster)
        return found == [owner], told

    wait_for(f"{API} and {API_V6} to be at {owner}", home, HOME_S)


@pytest.mark.long
def test_drain_and_undrain_of_an_owner_lose_no_request(cluster: Cluster) -> None:
    owner = owner_of(cluster)
    with asked(cluster.endpoints, "master", PORT) as requests:
        time.sleep(QUIET_S)  # requests before it
        out = cluster.operate("drain", owner)
        meanwhile, _ = held(cluster)
        bring_home(cluster, owner)
        time.sleep(QUIET_S)  # requests after it
    assert out.returncode == 0, out.stdout + out.stderr
    assert meanwhile and owner not in meanwhile
    assert requests and not unanswered(requests), f"{summary(requests)}: {unanswered(requests)}"


@pytest.mark.long
def test_ten_moves_in_a_row_lose_no_request(cluster: Cluster) -> None:
    owner = holder = owner_of(cluster)
    path = [holder]
    with asked(cluster.endpoints, "master", PORT) as requests:
        try:
            for _ in range(MOVES):
                cluster.on(holder, LVS, "ownership", "off")
                wait_for(f"another node than {holder} to hold {API}", partial(elsewhere, cluster, holder), MOVED_S)
                cluster.on(holder, LVS, "ownership", "on")
                (holder,) = holders(cluster, API)
                path.append(holder)
        finally:
            cluster.on(holder, LVS, "ownership", "on")
            bring_home(cluster, owner)
        time.sleep(QUIET_S)  # requests after it
    print(f"{API} moved {' -> '.join(path)}")
    assert requests and not unanswered(requests), f"{path}; {summary(requests)}: {unanswered(requests)}"


def test_an_owner_that_is_stopped_for_ten_seconds_makes_no_request_wait_longer_than_a_takeover(cluster: Cluster) -> None:
    owner, endpoint = owner_of(cluster), cluster.endpoints["master"]
    _, qemu = machine_of(cluster, owner)
    with asked(cluster.endpoints, "master", PORT) as requests, timers(cluster, owner) as directors:
        time.sleep(QUIET_S)  # requests before it
        stopped = time.time()
        os.kill(qemu, signal.SIGSTOP)
        try:
            time.sleep(STOPPED_S)  # the event itself
        finally:
            continued = time.time()
            os.kill(qemu, signal.SIGCONT)
        wait_for(f"one node to hold {API} and {API_V6}", partial(elsewhere, cluster), HOME_S)
        time.sleep(QUIET_S)  # requests after it
    bring_home(cluster, owner)
    waited_s = checks_waited(cluster, owner, stopped)
    try:
        require_takeover(requests, endpoint, directors.told, waited_s, stopped=stopped, continued=continued)
    except AssertionError as seen:
        # Nothing else may be wrong than this known fault (docs/appendix/measurements.md, "Through OVN, under probes").
        require_takeover(requests, endpoint, directors.told, waited_s, stopped=stopped, continued=continued, heard=continued + GRACE_S)
        pytest.xfail(f"known fault: the owner takes its VIP back at once, while its own server is still evicted elsewhere: {seen}")


@pytest.mark.long
def test_an_owner_that_is_killed_makes_no_request_wait_longer_than_a_takeover_and_its_return_loses_none(cluster: Cluster) -> None:
    owner, endpoint = owner_of(cluster), cluster.endpoints["master"]
    server, qemu = machine_of(cluster, owner)
    with asked(cluster.endpoints, "master", PORT) as requests, timers(cluster, owner) as directors:
        time.sleep(QUIET_S)  # requests before it
        killed = time.time()
        os.kill(qemu, signal.SIGKILL)
        time.sleep(DOWN_S)  # takeover and eviction
    with asked(cluster.endpoints, "master", PORT) as returning:
        as_tenant(START_AGAIN, server)
        wait_for("verify to find nothing", partial(verified, cluster), BOOTED_S, poll_s=2)
        bring_home(cluster, owner)
        time.sleep(QUIET_S)  # requests after it
    require_takeover(requests, endpoint, directors.told, checks_waited(cluster, owner, killed), killed=killed)
    assert returning and not unanswered(returning), f"while {owner} returned: {summary(returning)}: {unanswered(returning)}"
