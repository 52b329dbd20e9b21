"""What is said of a service whose packets get another destination by a rule of another program: by whose rule, and the remedy. test_packets.py finds it."""

from __future__ import annotations

import re

from .record import Record

_HOST_PORT = "publish the pod with hostNetwork instead of hostPort, or choose another port"
_SERVICE = "remove the VIP from the Service's externalIPs; for a NodePort choose another port, or keep the VIP out of nodePortAddresses"
_ANY = "remove that rule, or choose another port for the service"
_PROGRAMS = (
    (r"\btable ip6? cni_hostport\b|\bCNI-", "portmap", _HOST_PORT),
    (r"\btable ip6? crio-hostports\b|\bKUBE-(HOSTPORTS|HP-)", "CRI-O", _HOST_PORT),
    (r"\btable ip6? kube-proxy\b|\bKUBE-", "kube-proxy", _SERVICE),
    (r"\bOVN-KUBE-", "OVN-Kubernetes", _SERVICE),
    (r"\bANTREA-", "Antrea", _SERVICE),
    (r"\bCILIUM_", "Cilium", _HOST_PORT),
    (r"\bcali-", "Calico", _ANY),
    (r"\bDOCKER\b", "Docker", _ANY),
    (r"\bNETAVARK\b|\btable inet netavark\b", "Podman", _ANY),
    (r"\btable (ip6?|inet) firewalld\b", "firewalld", _ANY),
    ("", "a rule", _ANY),
)
"""What tells a program's rules: a pattern for the table and the chains, the program, and the remedy."""


class Translation(Record):
    """A service whose packets do not keep their destination on this host, or of which that is not known."""

    at: str
    """`VIP:PORT/PROTOCOL`, or `[VIP]:PORT/PROTOCOL` of an IPv6 VIP."""
    to: str = ""
    """The destination that they get, `ADDRESS:PORT`; empty when that is not known."""
    rule: str = ""
    """The table, and the chains from the hook to the rule; or why it is not known."""

    def __str__(self) -> str:
        """What happens, and the remedy."""
        if not self.to:
            return f"{self.at}: not known whether a rule of this host changes the destination: {self.rule}"
        program, remedy = next((program, remedy) for pattern, program, remedy in _PROGRAMS if re.search(pattern, self.rule))
        # Clients' packets are not tracked on a director, so no rule translates them.
        return f"{self.at} is translated to {self.to} by {program} ({self.rule}) for calls from this host, but not for clients; {remedy}"
