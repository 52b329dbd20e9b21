"""How services that have lost their quorum lower a director's VRRP priority.

A director whose services lack a quorum has a poor view: it adds a negative weight to its priority, so that a director with a better view is preferred
when the holder is lost. A holder with a poor view keeps the VIP (nopreempt). The weight is the mean over the services of a VRRP instance: a service that
no server answers has a poor view on every director, and a director that is cut off sees no server at all.
"""

from __future__ import annotations

import os

from . import journal, state
from .lock import SHORT_S, Lock


def instance_lock(instance: str, command: str, seconds: float = SHORT_S) -> Lock:
    """Held while the files of an instance change: the resident process records quorums, other commands write and recount them."""
    folder = f"{state.QUORUM}/{instance}"
    os.makedirs(folder, exist_ok=True)
    return Lock(f"{state.RUN}/{instance}.lock", seconds, command)


def record(instance: str, service: str, weight: int, seconds: float = SHORT_S) -> None:
    """Record the weight of a service: 0 with its quorum, the weight of a poor view without. A service that is not in force does not count.

    Raises TimedOut when another command holds the instance's lock for longer than these seconds.
    """
    path = f"{state.QUORUM}/{instance}/{service}"
    with instance_lock(instance, "quorum", seconds):
        if not os.path.exists(path):
            return
        before, since = state.read(path), journal.since(path)
        if before != str(weight):
            state.write(path, f"{weight}\n")
        count(instance)
    if before != str(weight):
        journal.note(f"{service}: {'quorum lost' if weight else 'quorum gained'} ({'held' if weight else 'lost'} since {since})")


def recount(instance: str, seconds: float) -> None:
    """Write the view of an instance from its services' weights. Raises TimedOut as `record` does."""
    with instance_lock(instance, "quorum", seconds):
        count(instance)


def mean_of(instance: str) -> int:
    """The mean of the weights that are recorded of an instance's services."""
    folder = f"{state.QUORUM}/{instance}"
    weights = [int(text) for name in state.names(folder) if (text := state.read(f"{folder}/{name}"))]
    return int(sum(weights) / len(weights)) if weights else 0


def count(instance: str) -> None:
    """As `recount`, for a caller that holds the instance's lock."""
    mean, path = mean_of(instance), state.view_file(instance)
    before, since = state.read(path), journal.since(path)
    if before == str(mean):
        return
    state.write(path, f"{mean}\n")
    if before:
        journal.note(f"{instance}: view adds {mean} to the priority, was {before} since {since}")
