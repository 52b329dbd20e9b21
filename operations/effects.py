"""What each kind of change does to a running cluster: the table of docs/reference/changes.md, and the words of a comment on a pull request.

Standard library only: operations/report.py runs without any package.
"""

from __future__ import annotations

from typing import NamedTuple


class Effect(NamedTuple):
    """A row of the table: the change, and what happens. Markdown."""

    change: str
    happens: str


RELOAD = Effect("a health check, a weight, a port", "The pool's hosts reload keepalived; connections stay")
SCHEDULER = Effect("another `scheduler`", "The hosts reload. For some milliseconds the kernel refuses new connections to that service")
FORWARDING = Effect(
    "another `forwarding_method`",
    "One director after the other hands its VIPs over and restarts keepalived with an empty table. After each restart the roll-out waits at least 65 s, "
    "until the other directors have told it of every connection",
)
OWNER = Effect(
    "`owner`",
    "The priorities change, then the new owner gets the VIP by a planned hand-over. During the roll-out, directors that have not changed yet hold the VIP. "
    "The new owner changes last and keeps the VIP during its change. Weights and servers may change in the same deployment",
)
HOST_ADDED = Effect("a host added", "The host is created, installed and has the VIP on `lo` before any director sends to it")
HOST_REMOVED = Effect(
    "a host removed",
    "Its real server gets weight 0 and its connections have 30 s to end. Then created servers are deleted; on existing hosts the program's files are removed. "
    "With `fallback: false`, the service refuses the host's share of new connections meanwhile. A director that holds a VIP stays, and the deployment fails "
    "with a message: run `operations drain` on it first",
)
VIRTUAL_ROUTER_ID = Effect("another `virtual_router_id`", "Until the owner changes, old and new directors both hold the VIP. Do this at a quiet time")
PROGRAM = Effect(
    "the program on the nodes (`node/`), by a new release of this repository",
    "Every host gets a new version with it and reloads, the canary first; connections stay",
)
ADVERTS = Effect(
    "the password, `vrrp_version`, `unicast`",
    "During the roll-out, an old and a new director both hold the VIP. Both choose the same real server for a connection",
)
DIRECTOR_REMOVED = Effect(
    "`directors` without a host",
    "The host hands its VIPs over and stops balancing. Its port loses the clients' ranges before that, so drain the host first if it holds a VIP",
)
VIP_REMOVED = Effect("a VIP or service removed", "It is removed from the hosts. The port and floating IP of a removed VIP are deleted in OpenStack")
VIP_ADDRESS = Effect(
    "another `address` of a VIP",
    "The hosts get the new address and give up the old one. In OpenStack the port that reserves it is replaced, and the floating IP moves to the new port",
)
ADDITIONAL = Effect(
    "`additional_addresses` of a VIP",
    "The hosts get a new address one after the other, the VIP's owner last, and give up a removed one in the same order; connections to the other "
    "addresses stay. In OpenStack, a port for each address is created or deleted",
)
TOGETHER = Effect(
    "`address_v6` of a VIP added or removed",
    "One director after the other hands its VIPs over before it starts or stops moving both addresses together. Without another director that can take "
    "them, no client is served for about a second",
)
CLIENTS = Effect(
    "`client_cidrs`, `allowed_cidrs`, `allow`",
    "Rules of the security group and allowed address pairs change in OpenStack. This alone reloads no host",
)
EXTERNAL = Effect(
    "another `external` network",
    "The router gets another gateway, and every VIP another floating IP: outside clients lose their connections and need the new address. Not tried",
)
FIRST_BOOT = Effect(
    "`image`, `flavor`, `availability_zone`, `cloud_config`, `root_volume`, `server_group_policy`",
    "Used only when a server is created. Running servers are not affected. A host that is removed and added again gets the new values",
)
PRIVATE_KEY = Effect("`ssh_private_key`", "Put its public half on every node (and the bastion) first: only newly created servers get it")
HOST_KEY_SEED = Effect("`host_key_seed`", "Do not change it: the host key of every created server would be refused")
RENAMED = Effect(
    "another name of a host or VIP, another address of a host",
    "Remove it, run `pulumi up`, add it again: two ports cannot have the same address",
)
NETWORK = Effect("`network.cidr`", "Create a new stack: this is another network")

EFFECTS = (
    RELOAD,
    SCHEDULER,
    FORWARDING,
    OWNER,
    HOST_ADDED,
    HOST_REMOVED,
    VIRTUAL_ROUTER_ID,
    PROGRAM,
    ADVERTS,
    DIRECTOR_REMOVED,
    VIP_REMOVED,
    VIP_ADDRESS,
    ADDITIONAL,
    TOGETHER,
    CLIENTS,
    EXTERNAL,
    FIRST_BOOT,
    PRIVATE_KEY,
    HOST_KEY_SEED,
    RENAMED,
    NETWORK,
)
"""The table, in the order of docs/reference/changes.md."""


def table() -> str:
    """The rows as that page has them."""
    return "".join(f"| {effect.change} | {effect.happens} |\n" for effect in EFFECTS)
