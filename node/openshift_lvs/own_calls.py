"""Calls to a VIP from this node and from its pods, while this node's own server gets no connections: they go to the other servers.

Every server of a pool has the VIP on lo, so such a call ends at the node's own server. That is right while this server is healthy. While it is down,
drained or has weight 0, nftables translates the call's destination to a live server of the kernel's IPVS table, and its source to this node.
IPVS itself cannot balance these calls: their source is the VIP or a pod, to which no other server can answer.

The chains stay once they are there: without them the kernel would forget the translation of running connections.
"""

from __future__ import annotations

import os
import re

from . import host, ipvs, journal, programs, state
from .description import endpoint
from .errors import Refused
from .lock import SHORT_S, Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .description import Description
    from .ipvs import Table

TABLE = "openshift_lvs_own"
_CHAINS = {"prerouting": "prerouting priority dstnat - 1", "output": "output priority -101", "postrouting": "postrouting priority srcnat - 1"}


def redirect(description: Description, kernel: Table | None = None) -> None:
    """Bring the rules to the kernel's IPVS table. Does nothing where they are right, or where there were none and none are needed."""
    with Lock(state.OWN_CALLS_LOCK, SHORT_S, "own-calls"):
        elsewhere = _elsewhere(description, ipvs.table() if kernel is None else kernel)
        wanted = rules(description, elsewhere)
        if wanted == state.text(state.OWN_CALLS) or (not elsewhere and not os.path.exists(state.OWN_CALLS)):
            return
        before = state.text(state.OWN_CALLS)
        # Should this command end before the rules are loaded and recorded, the next one loads them again.
        state.write(state.OWN_CALLS, f"# being loaded\n{wanted}")
        try:
            programs.run("nft", "--file", "-", stdin=wanted)
        except Refused:
            # The kernel has all of them or none.
            state.write(state.OWN_CALLS, before)
            if not before:
                os.unlink(state.OWN_CALLS)
            raise
        state.write(state.OWN_CALLS, wanted)
        names = ", ".join(sorted(endpoint(vip, port) for vip, _, port in elsewhere))
        journal.note(f"calls from this node and its pods to {names} go to other servers" if names else "calls from this node end at its own server again")


def _elsewhere(description: Description, kernel: Table) -> dict[tuple[str, str, int], list[str]]:
    """The live servers of each service, by VIP, protocol and port, where this node's own server is not one of them and another one is."""
    live = ipvs.live(kernel)
    found = {}
    for vip in description.vips if description.runs_keepalived else ():
        for service in vip.services:
            servers = sorted(address for mark, address in live if mark == service.mark)
            if servers and str(description.address_of(vip.address.version)) not in servers:
                found.update({(str(address), service.protocol.lower(), service.port): servers for address in vip.addresses})
    return found


def rules(description: Description, elsewhere: dict[tuple[str, str, int], list[str]]) -> str:
    """A transaction of nft that makes the chains, and replaces their rules."""
    return "".join(
        _rules(description, family, version, {key: servers for key, servers in elsewhere.items() if (":" in key[0]) == (version == 6)})
        for version, family in host.FAMILIES.items()
        if version in _versions(description)
    )


def _versions(description: Description) -> set[int]:
    """The families that the tables are for: IPv4 always, as it was before there was another one, and those that have a table, whose rules may have to go."""
    loaded = _loaded()
    return {4, *description.versions, *(version for version, family in host.FAMILIES.items() if family in loaded)}


def _rules(description: Description, family: str, version: int, elsewhere: dict[tuple[str, str, int], list[str]]) -> str:
    # Only a connection's first packet: connection tracking may see running connections for the first time.
    first = {"tcp": "tcp flags & (fin | syn | rst | ack) == syn ", "udp": ""}
    translate = [
        f"{family} daddr {vip} {protocol} dport {port} {first[protocol]}dnat to jhash {family} saddr . {protocol} sport mod {len(servers)} map "
        f"{{ {', '.join(f'{number} : {server}' for number, server in enumerate(servers))} }}"
        for (vip, protocol, port), servers in elsewhere.items()
    ]
    answer_here = [
        f"ct original {family} daddr {vip} {family} daddr {{ {', '.join(servers)} }} {protocol} dport {port} snat to {description.address_of(version)}"
        for (vip, protocol, port), servers in elsewhere.items()
    ]
    # Outside clients are balanced by IPVS; what leaves a tunnel is balanced already. Of lo, own calls are translated in output, and test packets never.
    outside = [f'iifname {{ "{description.interface}", "tunl0", "lo" }} return']
    chains = {"prerouting": outside + translate if translate else [], "output": translate, "postrouting": answer_here}
    lines = [f"table {family} {TABLE} {{", *(f"    chain {name} {{ type nat hook {hook}; }}" for name, hook in _CHAINS.items()), "}"]
    for name, rules_of_chain in chains.items():
        lines += [f"flush chain {family} {TABLE} {name}", *(f"add rule {family} {TABLE} {name} {rule}" for rule in rules_of_chain)]
    return "\n".join(lines) + "\n"


def changed() -> str:
    """The first table that another program removed, or from which it removed rules; empty when all have as many rules as were loaded."""
    loaded = state.text(state.OWN_CALLS)
    for family in _loaded():
        status, shown, _ = programs.attempt("nft", "--handle", "list", "table", family, TABLE)
        if status:
            return f"table {family} {TABLE} was missing"
        # The lines of tables and chains end with `{ # handle NUMBER`.
        there = len(re.findall(r"[^{] # handle \d+$", shown, re.MULTILINE))
        if there != (number := loaded.count(f"add rule {family} {TABLE} ")):
            return f"table {family} {TABLE} had {there} rules, not {number}"
    return ""


def _loaded() -> list[str]:
    """The families of the tables that were loaded last, as nft calls them."""
    return re.findall(rf"^table (ip6?) {TABLE} ", state.text(state.OWN_CALLS), re.MULTILINE)


def load_again(seconds: float) -> None:
    """Load the rules that were there last. Raises TimedOut when another command brings them to the table for longer than these seconds."""
    with Lock(state.OWN_CALLS_LOCK, seconds, "watch"):
        programs.run("nft", "--file", "-", stdin=state.text(state.OWN_CALLS))
