"""Whether this director is cut off from the network: in a pool of two, neither director can tell by the other one whether it is or its peer is.

The resident process asks a witness every second. The one that answered last is asked; after a silence the next one is asked the next time. When none
answers, the director's VRRP priorities are lowered by a file that keepalived tracks.
"""

from __future__ import annotations

import errno
import select
import socket

from . import clock, connections, journal, state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .description import Description

EACH_S = 1.0
"""Seconds between two questions, in which a witness takes or refuses a connection, or is silent."""
FALL = 2
"""Silences in a row until the director counts as cut off."""
RISE = 3
"""Answers in a row until it does not any more: it must first hear which director holds the VIP."""


class Witnesses:
    """The question that is open, and how the last ones were answered."""

    def __init__(self) -> None:
        self.cut_off = state.read(state.CUT_OFF) not in ("", "0")
        self._turn = 0
        self._asked: socket.socket | None = None
        self._asked_at = 0.0
        self._result = 0
        """Result of connect(2): EINPROGRESS while the connection is being set up."""
        self._in_a_row = 0
        """Answers that are not as `cut_off` says."""

    def look(self, description: Description | None) -> None:
        """Take the answer to the last question and ask again, once a second. Never waits."""
        now = clock.now()
        if now < self._asked_at + EACH_S:
            return
        self._asked_at = now
        asked, self._asked = self._asked, None
        if asked is not None:
            answered = self._answered(asked)
            asked.close()
        if description is None or not description.witnesses:
            return
        if asked is not None:
            self._take(answered, description)
        self._asked, self._result = connections.begin(description.witnesses[self._turn % len(description.witnesses)])

    def _answered(self, asked: socket.socket) -> bool:
        if self._result != errno.EINPROGRESS:
            return self._result in connections.ANSWERED
        poll = select.poll()
        poll.register(asked, select.POLLOUT)
        return bool(poll.poll(0)) and asked.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in connections.ANSWERED

    def _take(self, answered: bool, description: Description) -> None:
        if not answered:
            self._turn += 1
        self._in_a_row = self._in_a_row + 1 if answered == self.cut_off else 0
        if self._in_a_row < (RISE if self.cut_off else FALL):
            return
        self._in_a_row = 0
        weight = 0 if self.cut_off else 2 * description.poor_view_weight
        state.write(state.CUT_OFF, f"{weight}\n")
        self.cut_off = not self.cut_off
        of = ", ".join(description.witnesses)
        journal.note(f"cut off: no witness answers ({of}); priorities {weight}" if self.cut_off else f"no longer cut off: a witness answers ({of})")
