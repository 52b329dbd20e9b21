"""One line in the system's journal for every change of state."""

from __future__ import annotations

import os
import syslog
import time

_FORMAT = "%Y-%m-%d %H:%M:%S UTC"


def note(text: str) -> None:
    """Write a line under the name `openshift-lvs`."""
    syslog.openlog("openshift-lvs", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_NOTICE, text)


def now() -> str:
    """This moment, as `2026-01-31 12:00:00 UTC`."""
    return utc(time.time())


def since(path: str) -> str:
    """When a file was written last, as `2026-01-31 12:00:00 UTC`; `never` when it is missing."""
    try:
        return utc(os.lstat(path).st_mtime)
    except FileNotFoundError:
        return "never"


def utc(seconds: float) -> str:
    """A time, in seconds since 1970, as `2026-01-31 12:00:00 UTC`."""
    return time.strftime(_FORMAT, time.gmtime(seconds))
