"""Undoing everything that the program did on a host that stays. Packages stay, and sysctls until a reboot."""

from __future__ import annotations

import contextlib
import os
import shutil

from . import firewall, hearing, host, ipvs, metrics, own_calls, probes, programs, state, test_packets, versions, vrrp
from .description import Description, current
from .errors import Refused

TABLES = (
    *((family, name) for family in host.FAMILIES.values() for name in (host.TABLE, own_calls.TABLE, vrrp.LISTEN_TABLE, test_packets.TABLE)),
    ("arp", probes.ARP_TABLE),
    ("ip6", probes.ARP_TABLE),
)
"""Family and name of every nftables table of this program. A command that is killed leaves one of the last three names."""


def remove() -> str:
    """Move the VIPs away, stop keepalived, remove the program's files. Safe to run twice."""
    in_force, program = current(), versions.program_of_this_process()
    programs.attempt("systemctl", "-q", "disable", "--now", host.WATCH_UNIT)
    if in_force:
        programs.attempt("systemctl", "-q", "disable", "--now", "keepalived.service")
        host.release_vips(in_force)
    # Also where no version is in force: the first one may not have become healthy.
    for family, name in TABLES:
        host.remove_table(family, name)
    hearing.end()
    firewall.close()
    delivered = [Description.read(versions.folder(name)) for name in versions.delivered()]
    # The connections that are left end by themselves.
    with contextlib.suppress(Refused):
        ipvs.forget(delivered)
    host.remove_vips(address for each in delivered for address in each.vip_addresses)
    metrics.remove(delivered)
    programs.attempt("systemctl", "-q", "disable", "--now", "openshift-lvs.service")
    for link in (state.CURRENT, state.PROVEN, state.EXECUTABLE):
        if os.path.lexists(link):
            os.unlink(link)
    versions.forget_interrupted_test()
    for folder in (state.VERSIONS, state.DRAINED, state.RUN):
        shutil.rmtree(folder, ignore_errors=True)
    ipvs.keep_sync(None)
    host.remove_units(program)
    shutil.rmtree(state.LIB)
    return "removed"
