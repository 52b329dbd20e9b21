"""Calls to a VIP from this node and from its pods, while this node's own server gets no connections: they go to the other servers.

Every server of a pool has the VIP on lo, so such a call ends at the node's own server. That is right while this server is healthy. While it is down,
drained or has weight 0, nftables translates the call's destination to a live server of the kernel's IPVS table, and its source to this node.
IPVS itself cannot balance these calls: their source is the VIP or a pod, to which no other server can answer.

The chains stay once they are there: without them the kernel would forget the translation of running connections.
"""

from __future__ import annotations

import os

from . import ipvs, journal, programs, state
from .lock import Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .description import Description
    from .ipvs import Table

TABLE = "openshift_lvs_own"
LOCK_S = 5
_CHAINS = {"prerouting": "prerouting priority dstnat - 1", "output": "output priority -101", "postrouting": "postrouting priority srcnat - 1"}


def redirect(description: Description, kernel: Table | None = None) -> None:
    """Bring the rules to the kernel's IPVS table. Does nothing where they are right, or where there were none and none are needed."""
    with Lock(f"{state.OWN_CALLS}.lock", LOCK_S, "own-calls"):
        elsewhere = _elsewhere(description, ipvs.table() if kernel is None else kernel)
        wanted = rules(description, elsewhere)
        if wanted == state.text(state.OWN_CALLS) or (not elsewhere and not os.path.exists(state.OWN_CALLS)):
            return
        programs.run("nft", "--file", "-", stdin=wanted)
        state.write(state.OWN_CALLS, wanted)
        names = ", ".join(sorted(f"{vip}:{port}" for vip, _, port in elsewhere))
        journal.note(f"calls from this node and its pods to {names} go to other servers" if names else "calls from this node end at its own server again")


def _elsewhere(description: Description, kernel: Table) -> dict[tuple[str, str, int], list[str]]:
    """The live servers of each service, by VIP, protocol and port, where this node's own server is not one of them and another one is."""
    live = ipvs.live(kernel)
    found = {}
    for vip in description.vips if description.runs_keepalived else ():
        for service in vip.services:
            servers = sorted(address for mark, address in live if mark == service.mark)
            if servers and str(description.address) not in servers:
                found[str(vip.address), service.protocol.lower(), service.port] = servers
    return found


def rules(description: Description, elsewhere: dict[tuple[str, str, int], list[str]]) -> str:
    """A transaction of nft that makes the chains, and replaces their rules."""
    # Only a connection's first packet: connection tracking may see running connections for the first time.
    first = {"tcp": "tcp flags & (fin | syn | rst | ack) == syn ", "udp": ""}
    translate = [
        f"ip daddr {vip} {protocol} dport {port} {first[protocol]}dnat to jhash ip saddr . {protocol} sport mod {len(servers)} map "
        f"{{ {', '.join(f'{number} : {server}' for number, server in enumerate(servers))} }}"
        for (vip, protocol, port), servers in elsewhere.items()
    ]
    answer_here = [
        f"ct original ip daddr {vip} ip daddr {{ {', '.join(servers)} }} {protocol} dport {port} snat to {description.address}"
        for (vip, protocol, port), servers in elsewhere.items()
    ]
    # Outside clients are balanced by IPVS; what leaves a tunnel is balanced already. Of lo, own calls are translated in output, and test packets never.
    outside = [f'iifname {{ "{description.interface}", "tunl0", "lo" }} return']
    chains = {"prerouting": outside + translate if translate else [], "output": translate, "postrouting": answer_here}
    lines = [f"table ip {TABLE} {{", *(f"    chain {name} {{ type nat hook {hook}; }}" for name, hook in _CHAINS.items()), "}"]
    for name, rules_of_chain in chains.items():
        lines += [f"flush chain ip {TABLE} {name}", *(f"add rule ip {TABLE} {name} {rule}" for rule in rules_of_chain)]
    return "\n".join(lines) + "\n"


def missing() -> bool:
    """Whether another program removed the chains."""
    return bool(state.text(state.OWN_CALLS)) and not programs.succeeds("nft", "list", "table", "ip", TABLE)


def load_again() -> None:
    """Load the rules that were there last."""
    programs.run("nft", "--file", "-", stdin=state.text(state.OWN_CALLS))
