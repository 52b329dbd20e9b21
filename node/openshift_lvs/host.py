"""What the host's kernel and systemd must have: ARP settings, VIPs on lo, kernel modules, sysctls, nftables rules, units."""

from __future__ import annotations

import os
import re

from . import clock, journal, programs, state
from .description import Description
from .errors import Refused, TimedOut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = "openshift_lvs"
FAMILIES = {4: "ip", 6: "ip6"}
"""The families that may have our table, as nft calls them."""
_DEPRECATED = " valid_lft forever preferred_lft 0"
"""An IPv6 VIP on lo: the kernel then chooses it as the source of no connection of this host (RFC 6724, section 5, rule 3)."""
RULES = "lvs.nft"
LISTED_RULES = "lvs.nft.listed"
SYSCTLS = "sysctl.conf"
SLOPPY_TCP = "net.ipv4.vs.sloppy_tcp"
MODULES = "modules.conf"
KEPT = "kept"
"""The set of connections that IPVS does not balance (unbalanced.py)."""
_KEPT_ELEMENT = r"\b[0-9a-f:.]+ \. \d+ \. [0-9a-f:.]+ \. \d+(?: timeout \w+)?(?: expires \w+)?"
_FOREIGN = {
    **dict.fromkeys(("4", "ipencap", "ipip"), "IPIP"),
    **dict.fromkeys(("51", "ah"), "VRRP behind AH"),
    **dict.fromkeys(("112", "vrrp"), "VRRP"),
    **dict.fromkeys(("17", "udp"), "connection sync"),
}
"""What the rules refuse from other machines, by IP protocol as nft shows it."""
_EARLY = ("net.ipv4.conf.all.arp_", "net.ipv4.conf.lo.arp_", "net.ipv6.conf.lo.")
"""The sysctls without which no VIP may be on lo."""
PROGRAM_UNITS = "systemd"
"""The folder of the units, below the program's."""
WATCH_UNIT = "openshift-lvs-watch.service"
PROC_SYS = "/proc/sys"
PROC_IPV6 = "/proc/net/if_inet6"
_TENTATIVE = 0x40
"""The flag of an address with which no program can send: duplicate address detection has not ended, or has refused it (linux/if_addr.h)."""
ADDRESS_S = 10
"""Seconds for this host's IPv6 address to be there before keepalived starts."""
KEEPALIVED_PID = "/run/keepalived.pid"


def addresses(interface: str) -> set[str]:
    """The addresses of an interface, without their prefix lengths; none when it is missing."""
    return _parse_addresses(programs.attempt("ip", "-oneline", "address", "show", "dev", interface)[1]).get(interface, set())


def all_addresses() -> dict[str, set[str]]:
    """The addresses of every interface, without their prefix lengths."""
    return _parse_addresses(programs.run("ip", "-oneline", "address", "show"))


def wait_for_ipv6(description: Description) -> None:
    """Wait until programs can send with this host's IPv6 address, ADDRESS_S at most. Does nothing on a host that sends no IPv6 adverts; starts no process.

    At a boot, DHCPv6 or a router may answer late, and duplicate address detection comes after that. keepalived sends its IPv6 adverts with this address.
    An instance with unicast adverts that starts without it is in the state FAULT until keepalived reloads, and so is its sync group.
    """
    if not description.director or 6 not in description.versions:
        return
    try:
        _await_ipv6(description)
    except TimedOut as late:
        journal.note(f"keepalived starts without its IPv6 address: {late}; with unicast adverts, systemctl reload keepalived once it is there")


def require_ipv6(description: Description) -> None:
    """Raise Refused when a host that is to serve IPv6 VIPs does not get its own IPv6 address within ADDRESS_S."""
    if 6 not in description.versions:
        return
    try:
        _await_ipv6(description)
    except TimedOut as late:
        raise Refused(
            f"pools.{description.pool}.hosts.{description.host}: {late}; let the host ask for it by DHCPv6, or configure it there, and pulumi up"
        ) from None


def _await_ipv6(description: Description) -> None:
    """Return when programs can send with this host's IPv6 address. Raises TimedOut."""
    own = description.address_of(6)
    assert own

    def unusable() -> str:
        rows = map(str.split, state.text(PROC_IPV6).splitlines())
        flags = next((int(flags, 16) for shown, _, _, _, flags, interface in rows if (shown, interface) == (own.packed.hex(), description.interface)), None)
        return "missing" if flags is None else "tentative" if flags & _TENTATIVE else ""

    clock.wait_for(ADDRESS_S, f"{own} on {description.interface}", unusable)


def moved(description: Description, found: dict[str, set[str]]) -> str:
    """What is said when another interface than the pool's has an address of this host, and the remedy. Empty where it has not, or no interface has."""
    for address in description.addresses:
        having = [interface for interface, there in found.items() if str(address) in there]
        if having and description.interface not in having:
            return (
                f"{address} is on {having[0]}, not on {description.interface}, where keepalived and the rules expect it; set "
                f"pools.{description.pool}.interface, or the one of host {description.host}, to {having[0]} and pulumi up"
            )
    return ""


def require_interface(description: Description) -> None:
    """Raise Refused when another interface than a version names has an address of this host."""
    if text := moved(description, all_addresses()):
        raise Refused(f"{text}. Nothing was changed")


def _parse_addresses(shown: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in shown.splitlines():
        words = line.split()
        if len(words) > 3 and words[2] in ("inet", "inet6"):
            found.setdefault(words[1], set()).add(words[3].partition("/")[0])
    return found


def prepare(folder: str, description: Description) -> None:
    """Everything that must be true before traffic may come. Adds, never removes. Safe to run twice.

    ARP settings come first, then VIPs, then modules: a server whose kernel lacks a module passes the other directors' health checks all the same,
    so it must have the VIPs. The other sysctls exist only once the modules are loaded.
    """
    sysctls = _lines(f"{folder}/{SYSCTLS}")
    early = [line for line in sysctls if line.startswith(_EARLY)]
    _set_sysctls(early)
    add_vips(description)
    load_modules(folder)
    if os.path.exists("/sys/class/net/tunl0"):
        programs.run("ip", "link", "set", "tunl0", "up")
    _set_sysctls([line for line in sysctls if line not in early])


def _set_sysctls(lines: list[str]) -> None:
    if lines:
        programs.run("sysctl", "-q", "-p", "-", stdin="".join(f"{line}\n" for line in lines))


def sysctls_in_force(folder: str) -> list[str]:
    """`name = value` in the kernel of every sysctl that a version sets; one that is missing is left out."""
    there = [(name, _sysctl(name)) for name, _ in wanted_sysctls(folder)]
    return [f"{name} = {value}" for name, value in there if value is not None]


def wanted_sysctls(folder: str) -> list[tuple[str, str]]:
    """Name and value of every sysctl that a version sets."""
    return [(name.strip(), " ".join(value.split())) for name, _, value in (line.partition("=") for line in _lines(f"{folder}/{SYSCTLS}"))]


def sysctls_that_differ(wanted: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Name, the value that is wanted and the value in the kernel, where they differ. One that the kernel does not have is left out."""
    there = [(name, value, _sysctl(name)) for name, value in wanted]
    return [(name, value, now) for name, value, now in there if now is not None and now != value]


def _sysctl(name: str) -> str | None:
    """The value in the kernel; None for one that it does not have. `watch` asks every other second, so it reads as little as possible."""
    try:
        file = os.open(f"{PROC_SYS}/{name.replace('.', '/')}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return " ".join(os.read(file, 100).decode().split())
    finally:
        os.close(file)


def set_sysctl(name: str, value: str) -> None:
    """Set one sysctl."""
    _set_sysctls([f"{name} = {value}"])


def keepalived_runs() -> bool:
    """Whether keepalived runs, without asking systemd: that would start a process."""
    pid = state.read(KEEPALIVED_PID)
    return pid.isdigit() and state.read(f"/proc/{pid}/comm") == "keepalived"


def load_modules(folder: str) -> None:
    """Load the modules that a version names. Raises Refused for one that this kernel does not have."""
    for module in _lines(f"{folder}/{MODULES}"):
        if not _loaded(module) and not programs.succeeds("modprobe", module):
            kernel = os.uname().release
            raise Refused(f"kernel module {module}: not in {kernel}; install the kernel's extra modules or choose another scheduler or method")


def _loaded(module: str) -> bool:
    """Whether a module is loaded, or built into the kernel so that there is nothing to load."""
    if any(line.startswith(f"{module} ") for line in state.read("/proc/modules").splitlines()):
        return True
    return f"/{module}.ko" in state.read(f"/lib/modules/{os.uname().release}/modules.builtin")


def add_vips(description: Description) -> list[str]:
    """Put the VIPs on lo, where they are not yet. Returns the ones that were missing."""
    there = addresses("lo")
    missing = [address for address in description.vip_addresses if address not in there]
    if missing:
        programs.run("ip", "-batch", "-", stdin="".join(f"address replace {_prefix(vip)} dev lo{_DEPRECATED if ':' in vip else ''}\n" for vip in missing))
        journal.note(f"put on lo: {', '.join(missing)}")
    return missing


def remove_vips(vips: Iterable[str]) -> None:
    """Take these addresses from lo, where they are there."""
    there = addresses("lo")
    for vip in sorted(set(vips) & there):
        programs.run("ip", "address", "delete", _prefix(vip), "dev", "lo")
        journal.note(f"taken from lo: {vip}: the version in force does not name it")


def release_vips(description: Description) -> None:
    """Take the VIPs from the interface that a keepalived which is gone left there."""
    for vip in description.vip_addresses:
        programs.attempt("ip", "address", "delete", _prefix(vip), "dev", description.interface)


def _prefix(address: str) -> str:
    """An address as a network of one address."""
    return f"{address}/{128 if ':' in address else 32}"


def load_rules(folder: str) -> None:
    """Load the nftables rules of a version in one transaction. The table of a family for which it has none is removed: a former director has one."""
    there: list[str] = []
    if os.path.exists(f"{folder}/{RULES}"):
        _load(folder)
        _admit(state.read(state.ROLL_OUT_DIRECTORS).splitlines())
        there = families(folder)
    # Each costs a process, and only stacks with IPv6 have the second one.
    delivered = {family for name in state.names(state.VERSIONS) for family in families(f"{state.VERSIONS}/{name}")}
    for family in sorted({"ip", *delivered}.difference(there)):
        if programs.succeeds("nft", "list", "table", family, TABLE):
            remove_table(family, TABLE)


def _load(folder: str) -> None:
    """Load the rules of a version. Connections that are kept at this node's own server (unbalanced.py) stay there for as long as they would have."""
    rules = f"{folder}/{RULES}"
    together = [f'include "{rules}"']
    for family in families(folder):
        if kept := re.findall(_KEPT_ELEMENT, programs.attempt("nft", "list", "set", family, TABLE, KEPT)[1]):
            together.append(f"add element {family} {TABLE} {KEPT} {{ {', '.join(kept)} }}")
    # Rules of another release may have no such set.
    if len(together) == 1 or not programs.succeeds("nft", "--file", "-", stdin="".join(f"{line}\n" for line in together)):
        programs.run("nft", "--file", rules)


def families(folder: str) -> list[str]:
    """The families for which a version has rules, as nft calls them; IPv4 for a version without rules."""
    return re.findall(rf"^table (ip6?) {TABLE} \{{$", state.text(f"{folder}/{RULES}"), re.MULTILINE) or ["ip"]


def admit_for_roll_out(new: Description, now: Description | None) -> None:
    """Accept what the directors of both versions send until `end_roll_out`: none of them may lose an advert of another.

    A director that comes may hold a VIP before every other director has the new rules; one that leaves may hold it until it is drained.
    """
    before, after = ({*each.directors, *each.directors_v6} if each else set() for each in (now, new))
    if now is None or before == after:
        return
    directors = sorted(str(each) for each in before | after)
    state.prepare_run()
    state.write(state.ROLL_OUT_DIRECTORS, "".join(f"{each}\n" for each in directors))
    _admit(directors)


def end_roll_out() -> None:
    """Accept adverts, connection sync and tunnels from the directors of the version in force only."""
    try:
        os.unlink(state.ROLL_OUT_DIRECTORS)
    except FileNotFoundError:
        return
    load_rules(state.CURRENT)


def _admit(directors: list[str]) -> None:
    """Add directors to the loaded rules, where these distinguish directors."""
    for family, own in (("ip", [each for each in directors if ":" not in each]), ("ip6", [each for each in directors if ":" in each])):
        if own:
            programs.attempt("nft", "add", "element", family, TABLE, "directors", f"{{ {', '.join(own)} }}")


def foreign_senders() -> tuple[str, ...]:
    """`ADDRESS WHAT` of the machines that sent what only directors send within the last hour, and were refused. At most 256."""
    found = []
    for family in families(state.CURRENT):
        shown = programs.attempt("nft", "list", "set", family, TABLE, "foreign")[1]
        found += re.findall(r"([0-9a-f:.]+) \. (\w+)", shown)
    return tuple(sorted(f"{address} {_FOREIGN.get(protocol, protocol)}" for address, protocol in found))


def listed(folder: str) -> str:
    """What nft lists after it has loaded the rules of a version, asked in a network namespace of its own."""
    script = 'nft --file "$0" && exec "$@"'
    return "".join(programs.run("unshare", "--net", "sh", "-c", script, f"{folder}/{RULES}", *_list(family)) for family in families(folder))


def _list(family: str) -> tuple[str, ...]:
    """What lists our table of a family, without elements that come with traffic. Debian 12's nft lists one family in a call."""
    return ("nft", "--stateless", "--terse", "list", "table", family, TABLE)


def rules_that_differ() -> str:
    """The first loaded rule that is not the version's, or the first that is missing; empty when there is none."""
    shown = {family: programs.attempt(*_list(family))[1] for family in families(state.CURRENT)}
    loaded = "".join(shown.values())
    if loaded and loaded == state.text(f"{state.CURRENT}/{LISTED_RULES}"):
        return ""
    for family, text in shown.items():
        if not text:
            return f"table {family} {TABLE} is missing"
    # Another nft may list the same rules in other words.
    wanted = listed(state.CURRENT)
    if loaded == wanted:
        return ""
    for ours, theirs in zip(wanted.splitlines(), loaded.splitlines()):
        if ours != theirs:
            return f"loaded: {theirs.strip()}; rendered: {ours.strip()}"
    return "loaded: fewer or more rules than rendered"


def remove_table(family: str, name: str) -> None:
    """Remove an nftables table, if it is there."""
    programs.attempt("nft", "delete", "table", family, name)


def _units(program: str) -> dict[str, str]:
    """The text of each unit of a program, by its path below systemd's folder."""
    source = f"{program}/{PROGRAM_UNITS}"
    return {os.path.relpath(f"{folder}/{name}", source): state.text(f"{folder}/{name}") for folder, _, names in os.walk(source) for name in names}


def install_units(program: str) -> None:
    """Put the units of a program in place, enable them, and start the resident process. Safe to run twice."""
    units = _units(program)
    changed = sorted(path for path, text in units.items() if state.text(f"{state.UNITS}/{path}") != text)
    if changed and os.path.exists(state.UNITS_TOLD):
        # Another release may have written its own units since.
        os.unlink(state.UNITS_TOLD)
    for path in changed:
        os.makedirs(os.path.dirname(f"{state.UNITS}/{path}"), exist_ok=True)
        state.write(f"{state.UNITS}/{path}", units[path])
    # Each takes a second on a slow processor, so systemd is told once of each text, also when the command that wrote the units was killed.
    told = "".join(f"# {path}\n{units[path]}" for path in sorted(units))
    if state.text(state.UNITS_TOLD) == told:
        return
    # A service without [Install] is started by its timer.
    own = sorted(path for path, text in units.items() if "/" not in path and path.endswith(".service") and "[Install]" in text)
    programs.run("systemctl", "-q", "enable", *own, "keepalived.service")
    programs.run("systemctl", "daemon-reload")
    # One that runs ends by itself after this activation if its program is not the one in force, and systemd starts the new one.
    if WATCH_UNIT in units:
        programs.run("systemctl", "start", WATCH_UNIT)
    else:
        programs.attempt("systemctl", "stop", WATCH_UNIT)
    state.write(state.UNITS_TOLD, told)
    if changed:
        journal.note(f"units changed: {', '.join(changed)}")


def watched(program: str) -> bool:
    """Whether a program has the resident process: releases before it have not."""
    return WATCH_UNIT in _units(program)


def remove_units(program: str) -> None:
    """Remove the units of a program."""
    for path in _units(program):
        if os.path.exists(f"{state.UNITS}/{path}"):
            os.unlink(f"{state.UNITS}/{path}")
    programs.run("systemctl", "daemon-reload")


def _lines(path: str) -> list[str]:
    return [line for line in state.read(path).splitlines() if line and not line.startswith("#")]
