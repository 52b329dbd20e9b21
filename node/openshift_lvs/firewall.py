"""The host's own firewall: what firewalld must let in, and which other nftables chains drop packets.

With firewalld, the program adds rich rules to the zones of the pool's interface, at run time and permanently, and removes them when no version needs
them any more. It keeps a list of the rules that it added: a rule that was there before stays. Chains of other programs are named, never changed.
"""

from __future__ import annotations

import json
import os

from . import host, journal, programs, state
from .description import IPIP, Description

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Rule = tuple[str, str]
    """Zone and rich rule."""

_OURS = ("openshift_lvs", "openshift_lvs_own", "openshift_lvs_listen", "lvs_test_packets")
_HERE = ("input", "prerouting")
LEGACY_TABLES = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}


def open_for(description: Description) -> None:
    """Let in what a version needs besides what is let in already. Raises Refused with firewalld's words."""
    if _running():
        _bring(sorted({*_wanted(description), *_added()}))


def settle(description: Description) -> None:
    """Let in what the version in force needs, and nothing else that this program let in."""
    if _running():
        _bring(sorted(_wanted(description)))


def close() -> None:
    """Take back everything that this program let in."""
    if _added() and _running():
        _bring([])


def other_chains(description: Description) -> list[dict[str, Any]]:
    """Other programs' chains for the families of the VIPs and of connection sync, as nft lists them in JSON."""
    families = {"inet", *(host.FAMILIES[version] for version in (*description.versions, description.sync_version))}
    status, shown, _ = programs.attempt("nft", "--json", "list", "chains")
    chains: list[dict[str, Any]] = [each["chain"] for each in json.loads(shown)["nftables"] if "chain" in each] if status == 0 and shown else []
    return [chain for chain in chains if chain["family"] in families and chain["table"] not in _OURS]


def dropping_chains(chains: list[dict[str, Any]]) -> tuple[str, ...]:
    """Which of these chains of other programs drop incoming packets unless a rule accepts them, as `table FAMILY NAME, chain NAME, priority N`."""
    drops = [chain for chain in chains if chain.get("policy") == "drop" and chain.get("hook") in _HERE]
    return tuple(f"table {chain['family']} {chain['table']}, chain {chain['name']}, priority {chain['prio']}" for chain in drops)


def in_prerouting(description: Description, chains: list[dict[str, Any]]) -> bool:
    """Whether another program has rules in prerouting, where destinations are translated: some of these chains, or legacy iptables, which nft does not list."""
    return any(chain.get("hook") == "prerouting" for chain in chains) or any(state.text(LEGACY_TABLES[version]) for version in description.versions)


def _running() -> bool:
    # Where firewalld does not run, firewall-cmd takes seconds on a slow processor to say so.
    return programs.succeeds("systemctl", "-q", "is-active", "firewalld.service") and programs.succeeds("firewall-cmd", "--state")


def _bring(wanted: list[Rule]) -> None:
    """Bring the rules that this program added to the wanted ones, except those that the host's operator has already."""
    added = _added()
    zones = sorted({zone for zone, _ in (*wanted, *added)})
    present = {(zone, rule) for zone in zones for rule in programs.run("firewall-cmd", "--permanent", f"--zone={zone}", "--list-rich-rules").splitlines()}
    obsolete = [each for each in added if each not in wanted]
    # A rule of ours that was removed by hand comes again.
    missing = [each for each in wanted if each not in present]
    ours = [each for each in wanted if each in added or each in missing]
    # First, so that an interrupted command leaves no rule that is not remembered.
    if ours or obsolete:
        state.write(state.FIREWALL, json.dumps([*ours, *obsolete], indent=1) + "\n")
    for how, rules in (("add", missing), ("remove", [each for each in obsolete if each in present])):
        for zone in sorted({zone for zone, _ in rules}):
            options = [f"--{how}-rich-rule={rule}" for at, rule in rules if at == zone]
            programs.run("firewall-cmd", "--quiet", "--permanent", f"--zone={zone}", *options)
            # Not a reload, which would remove what other programs added at run time.
            programs.run("firewall-cmd", "--quiet", f"--zone={zone}", *options)
    if ours:
        state.write(state.FIREWALL, json.dumps(ours, indent=1) + "\n")
    elif os.path.exists(state.FIREWALL):
        os.unlink(state.FIREWALL)
    if missing or obsolete:
        journal.note(f"firewalld: {len(missing)} rules added, {len(obsolete)} removed in zone {', '.join(zones)}")


def _added() -> list[Rule]:
    text = state.read(state.FIREWALL)
    return [(zone, rule) for zone, rule in json.loads(text)] if text else []


def _wanted(description: Description) -> list[Rule]:
    """Zone and rule of everything that a host of this version must receive, as firewalld writes rules."""
    interfaces = [description.interface]
    if any(service.forwarding_method == "TUN" for vip in description.vips for service in vip.services):
        interfaces.append("tunl0")
    zones = {_zone(interface) for interface in interfaces}
    return [(zone, f'rule family="ipv{version}" {rule} accept') for zone in sorted(zones) for version, rule in dict.fromkeys(_rules(description))]


def _zone(interface: str) -> str:
    return programs.attempt("firewall-cmd", f"--get-zone-of-interface={interface}")[1].strip() or programs.run("firewall-cmd", "--get-default-zone").strip()


def _rules(description: Description) -> Iterator[tuple[int, str]]:
    """The family of each rule, and the rule."""
    services = [(vip, service) for vip in description.vips for service in vip.services]
    tunnelled = any(service.forwarding_method == "TUN" for _, service in services)
    for director in (*description.directors, *description.directors_v6):
        version = director.version
        protocols: Iterable[int] = [vip.advert_protocol for vip in description.vips if vip.address.version == version] if description.director else []
        for protocol in [*protocols, *([IPIP] if tunnelled and version == 4 else [])]:
            yield version, f'source address="{director}" protocol value="{protocol}"'
        if description.director and director in description.directors:
            yield version, f'source address="{director}" port port="8848" protocol="udp"'
    for _, service in services:
        # Every host of the pool checks its servers, and is one of them.
        for server in service.real_servers if service.check_port else ():
            if server.address not in description.addresses:
                yield server.address.version, f'source address="{server.address}" port port="{service.check_port}" protocol="tcp"'
    for vip, service in services:
        # A server behind NAT gets packets for its own address.
        for target in (*vip.addresses, *([description.address] if service.forwarding_method == "NAT" else [])):
            yield target.version, f'destination address="{target}" port port="{service.port}" protocol="{service.protocol.lower()}"'
