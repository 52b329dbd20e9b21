"""Every file that this program keeps on a node. Only this module names them.

FILE
    content; written by; read by; after a reboot

/usr/local/lib/openshift-lvs/DIGEST/
    this program, one folder per content; installation; the versions that link to it; stays
/usr/local/sbin/openshift-lvs
    link to the program of the version in force; activate; an operator, `operations`; stays
/etc/keepalived/versions/VERSION/
    a host's files, host.json (its description) and program (a link); deliver; keepalived, every command; stays
/etc/keepalived/versions/VERSION/drained/
    what keepalived.conf includes for drained servers: weight 0, a lower quorum; deliver, activate, rotation; keepalived; stays
/etc/keepalived/versions/VERSION/auth-VIP.conf
    VRRP password, mode 0600; deliver-secret; keepalived; stays
/etc/keepalived/current
    link to the version in force; activate; keepalived, every command; stays
/etc/keepalived/proven
    link to the version that was healthy last, other than `current` only during an activation; activate; activate, status; stays
/etc/keepalived/drained/ADDRESS
    empty: this real server gets no new connection; rotation; activate, start, status; stays
/etc/keepalived/drained/ownership
    empty: this director takes no VIP; ownership; start, activate, status; stays
/etc/keepalived/firewalld.json
    the rules that this program added to firewalld: zone and rule; deliver, activate, remove; the same; stays
/etc/systemd/system/openshift-lvs.service, UNIT.service.d/openshift-lvs.conf
    units of the version in force; activate; systemd; stays
/run/openshift-lvs/drain-VIP
    weight on the VRRP priority: 0, -254 (takes no VIP), or less than 0 during a roll-out; start, activate, hand-over, ownership;
    keepalived, status; gone, `start` writes it
/run/openshift-lvs/view-VIP
    weight on the VRRP priority for services without quorum; start, watch, recount; keepalived, status; gone, `start` writes it
/run/openshift-lvs/cut-off
    weight on the VRRP priorities: 0, or less while no witness answers; start, watch; keepalived, watch, status; gone, `start` writes it
/run/openshift-lvs/quorum/VIP/SERVICE
    0, or the weight of a poor view; start, watch, recount; watch, recount; gone, `start` writes it
/run/openshift-lvs/activation.json
    what an interrupted activation must know (activation.Progress); activate; activate; gone
/run/openshift-lvs/own-calls
    the loaded rules for calls from this node, once there were any (after `# being loaded` perhaps not yet); watch, activate, rotation; the same; gone
/run/openshift-lvs/verdicts
    a pipe: a line for each verdict of keepalived's health checks (lvs_notify_fifo); keepalived, start; watch; gone, `start` makes it
/run/openshift-lvs/belief
    the last verdict on each real server, the quorums, and since when services fail open (belief.Belief); watch; activate, recount, status; gone
/run/openshift-lvs/repairs
    what was repaired, how often and when (repairs.Repair); watch; watch, status; gone
/run/openshift-lvs/directors
    directors that come or leave with a roll-out, a line each: the rules accept adverts of theirs too; deliver, alone; apply, rules; gone
/run/openshift-lvs/hearing.json
    which directors hear each other's test packets (hearing.Heard); hear; activate; gone
/run/openshift-lvs/units
    the text of the units that systemd has read and enabled; activate; activate; gone
/run/openshift-lvs/lock, VIP.lock
    the command that changes versions, or that counts quorums; lock; lock; gone
/run/openshift-lvs/own-calls.lock
    the command that loads the rules for calls from this node; lock; lock; gone
/run/openshift-lvs/test-packets.lock
    the command that sends itself test packets; lock; lock; gone

/run/openshift-lvs belongs to root and has mode 0700, so that no other user can hold a lock in it.
"""

from __future__ import annotations

import os

LIB = "/usr/local/lib/openshift-lvs"
EXECUTABLE = "/usr/local/sbin/openshift-lvs"
BASE = "/etc/keepalived"
VERSIONS = f"{BASE}/versions"
CURRENT = f"{BASE}/current"
PROVEN = f"{BASE}/proven"
DRAINED = f"{BASE}/drained"
OWNERSHIP = f"{DRAINED}/ownership"
FIREWALL = f"{BASE}/firewalld.json"
UNITS = "/etc/systemd/system"
RUN = "/run/openshift-lvs"
LOCK = f"{RUN}/lock"
QUORUM = f"{RUN}/quorum"
CUT_OFF = f"{RUN}/cut-off"
ACTIVATION = f"{RUN}/activation.json"
UNITS_TOLD = f"{RUN}/units"
OWN_CALLS = f"{RUN}/own-calls"
OWN_CALLS_LOCK = f"{OWN_CALLS}.lock"
VERDICTS = f"{RUN}/verdicts"
BELIEF = f"{RUN}/belief"
REPAIRS = f"{RUN}/repairs"
HEARING = f"{RUN}/hearing.json"
TEST_PACKETS_LOCK = f"{RUN}/test-packets.lock"
ROLL_OUT_DIRECTORS = f"{RUN}/directors"


def prepare_run() -> None:
    """Make the folder in /run, for root only."""
    os.makedirs(RUN, mode=0o700, exist_ok=True)
    if os.stat(RUN).st_mode & 0o077:
        os.chmod(RUN, 0o700)


def drain_file(vip: str) -> str:
    """The file that carries the weight of a drain or a roll-out for a VIP."""
    return f"{RUN}/drain-{vip}"


def view_file(vip: str) -> str:
    """The file that carries the weight of the view for a VIP."""
    return f"{RUN}/view-{vip}"


def text(path: str) -> str:
    """The text of a file; empty when the file is missing."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def read(path: str) -> str:
    """The text of a file without blanks at its ends; empty when the file is missing."""
    return text(path).strip()


def write(path: str, text: str) -> None:
    """Replace a file in one step: a reader sees the old or the new text, never a part."""
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(part, path)


def link(path: str, target: str) -> None:
    """Point a symbolic link to a target in one step."""
    part = f"{path}.new"
    if os.path.lexists(part):
        os.unlink(part)
    os.symlink(target, part)
    os.rename(part, path)


def target(path: str) -> str:
    """The name that a link points to, without its folder; empty when there is no link."""
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""


def names(folder: str) -> list[str]:
    """The sorted names in a folder, without what another command is writing; none when the folder is missing."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.endswith(".part"))
    except FileNotFoundError:
        return []


def drained() -> set[str]:
    """The real servers that an operator took out of rotation, by address."""
    return {name for name in names(DRAINED) if name != "ownership"}


def owns_nothing() -> bool:
    """Whether an operator drained this director: it takes no VIP."""
    return os.path.exists(OWNERSHIP)
