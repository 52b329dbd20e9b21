"""What must hold, by kind of event: in seconds and requests."""

from __future__ import annotations

import os
from collections.abc import Callable

from lab.nodes.experiments.scene import Bound, Scene

LOOK_S = 0.1
"""What a bound in seconds is given on top, for the probes' own pace and the machine's noise."""
SLACK_S = float(os.environ.get("SLACK_S") or LOOK_S)
"""The same for the loss of a director, whose bound has no room of its own: $SLACK_S where other work may go on beside the lab."""
REFUSED = 5
"""A tenth of a second of the probes' connections: a grace period on a slow machine."""
REPAIRED_S = 5.0
"""What another program changed is as it was within this."""
SERVER_S = 4.0
"""A server that fails is out of rotation within this, and back within it."""


def nothing_lost(_: Scene) -> Bound:
    """Planned work costs nothing."""
    return Bound("0 failed, every stream alive")


def removed(*servers: str) -> Callable[[Scene], Bound]:
    """These are no servers any more: only their streams may end."""
    return lambda scene: nothing_lost(scene)._replace(text="0 failed, streams to servers that stay alive", may_lose_streams_of=servers)


def scheduler_bound_anew(_: Scene) -> Bound:
    """The kernel (ip_vs_edit_service) is without a scheduler for a grace period of RCU, and refuses what comes meanwhile."""
    return Bound(f"{REFUSED} refused at most, nothing else failed, every stream alive", refused=REFUSED)


def steady(_: Scene) -> Bound:
    """Nothing happens, and every server has its share."""
    return Bound("0 failed, every stream alive, every server answers", every_server=True)


def in_rotation(scene: Scene) -> Bound:
    """A server answers late, but in time for its check: no director evicts it, not even for a moment."""
    return steady(scene)._replace(text=f"{steady(scene).text}, no server out of rotation", tables_wrong_s=0.0)


def reported(_: Scene) -> Bound:
    """A choice that costs something: how much, is measured."""
    return Bound("reported", reported=True)


def node_lost(scene: Scene) -> Bound:
    """Nobody is served for 3 x advert + skew (RFC 9568); the node's own share fails until the checks remove it."""
    vip = scene.cluster.vips[scene.target.vip]
    gap = scene.cluster.takeover_seconds(vip) + SLACK_S
    out = vip.eviction_seconds
    return Bound(
        f"nobody served for {gap:.2f} s at most, nothing fails after {out + SLACK_S:.1f} s, other servers' streams alive",
        failed=None,
        may_lose_streams_of=(scene.owner,),
        gap_s=gap,
        quiet_after_s=out + SLACK_S,
    )


def way_back(scene: Scene) -> Bound:
    """It costs nothing, and there is one owner within two adverts."""
    adverts = 2 * scene.cluster.vips[scene.target.vip].advert_interval
    return Bound(f"0 failed, every stream alive, one owner within {adverts:.1f} s", one_owner_after_s=adverts + SLACK_S)


def server_lost(scene: Scene) -> Bound:
    """Its share fails until it is out of rotation."""
    return Bound(
        f"out of rotation within {SERVER_S:g} s and nothing fails after it, other servers' streams alive",
        failed=None,
        may_lose_streams_of=(scene.backup,),
        quiet_after_s=SERVER_S,
        tables_after_s=SERVER_S + LOOK_S,
    )


def server_back(_: Scene) -> Bound:
    """It costs nothing, and the server soon has its share."""
    return Bound(f"0 failed, every stream alive, back in rotation within {SERVER_S:g} s", tables_after_s=SERVER_S + LOOK_S)


def repaired(_: Scene) -> Bound:
    """The node repairs it by itself. Until then the holder serves alone, and the streams of other servers that speak meanwhile are reset."""
    return Bound(
        f"repaired within {REPAIRED_S:g} s, nothing fails after it; only streams that the kernel forgot are lost",
        failed=None,
        may_lose_streams_of=("*",),
        quiet_after_s=REPAIRED_S,
        tables_after_s=REPAIRED_S + LOOK_S,
    )


def refilled(scene: Scene) -> Bound:
    """The node puts its table back by itself. Its rules hold back what other servers have, so a request may be late, and no stream ends (decision 0020)."""
    return repaired(scene)._replace(text=f"repaired within {REPAIRED_S:g} s, nothing fails after it, every stream alive", may_lose_streams_of=())


def repaired_unseen(_: Scene) -> Bound:
    """The node repairs it by itself, and no client notices."""
    return Bound(f"0 failed, every stream alive, repaired within {REPAIRED_S:g} s", tables_after_s=REPAIRED_S + LOOK_S)


def failed_open(_: Scene) -> Bound:
    """Every check fails and every server works. A SYN between the last verdict and failing open is sent again."""
    return Bound(f"0 refused, {REFUSED} SYNs sent again at most, every stream alive", failed=REFUSED, never_refused=True)


def nobody_left(_: Scene) -> Bound:
    """No server at all: a clear refusal, by the servers themselves once the service fails open. A SYN of the moment before that is sent again."""
    text = f"refused, never silent but for {REFUSED} SYNs that are sent again at most"
    return Bound(text, failed=None, may_lose_streams_of=("*",), never_silent=True, waiting=REFUSED)


def sorry(_: Scene) -> Bound:
    """No server at all, and another that says so."""
    return Bound(
        f"refused, never silent, and answered by the sorry server within {SERVER_S:g} s",
        failed=None,
        may_lose_streams_of=("*",),
        never_silent=True,
        quiet_after_s=SERVER_S,
        tables_after_s=SERVER_S + LOOK_S,
    )


def everybody_back(scene: Scene) -> Bound:
    """Streams have nowhere to come from; requests are answered again."""
    return sorry(scene)._replace(text=f"all in rotation and nothing fails after {SERVER_S:g} s, never silent")
