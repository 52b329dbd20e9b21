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
    return time.strftime(_FORMAT, time.gmtime())


def since(path: str) -> str:
    """When a file was written last, as `2026-01-31 12:00:00 UTC`; `never` when it is missing."""
    try:
        return time.strftime(_FORMAT, time.gmtime(os.lstat(path).st_mtime))
    except FileNotFoundError:
        return "never"
