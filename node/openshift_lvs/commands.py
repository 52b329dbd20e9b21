"""The commands of `openshift-lvs`: who calls each, and what it does. Every other module does the work.

A command imports only what it needs: systemd calls some while a VIP moves.
"""

from __future__ import annotations

import os
import sys

from .errors import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

PROGRAM = "openshift-lvs"
USAGE = 2
"""The exit status of a usage error; 1 is a command that was refused or failed."""


def deliver(version: str) -> str:
    from . import versions
    from .lock import Changes

    bundle = sys.stdin.buffer.read()
    with Changes(f"deliver {version}"):
        return versions.deliver(version, bundle)


def deliver_secret(version: str) -> str:
    from . import versions
    from .lock import Changes

    bundle = sys.stdin.buffer.read()
    with Changes(f"deliver-secret {version}"):
        return versions.deliver_secret(version, bundle)


def activate(version: str, canary: str = "") -> str:
    from . import activation
    from .lock import Changes

    with Changes(f"activate {version}"):
        return activation.activate(version, canary == "canary")


def go_home(vip: str) -> str:
    from . import vrrp
    from .description import in_force
    from .lock import Changes

    with Changes(f"go-home {vip}"):
        return vrrp.go_home(in_force(), vip)


def alone(seconds: str) -> None:
    from . import clock, host, translation, vrrp
    from .description import in_force

    description = in_force()
    clock.wait_for(float(seconds), "former directors to fall silent", lambda: vrrp.strangers(description, description))
    host.end_roll_out()
    # The VIP is on lo and with its owner, and is not proven yet: its holder alone could answer all requests.
    translation.require_none(description)


def hear(version: str) -> None:
    from . import hearing

    hearing.hear(version)


def answers(seconds: str, requests: str, *targets: str) -> None:
    from . import probes

    probes.answers(float(seconds), int(requests), probes.targets(list(targets)))


def remove() -> str:
    from . import remove as removal
    from .lock import Changes

    with Changes("remove"):
        return removal.remove()


def apply() -> None:
    from . import activation
    from .description import in_force

    activation.apply(in_force())


def start() -> None:
    from . import belief, host, ipvs, journal, servers, state, vrrp
    from .description import in_force

    description = in_force()
    host.wait_for_ipv6(description)
    vrrp.start(description)
    belief.begin()
    servers.write_drained_files(os.path.realpath(state.CURRENT), description)
    servers.correct_weights(description)
    try:
        ipvs.keep_sync(description)
    except (Refused, OSError) as fault:
        # Connections are balanced all the same, except the few that hashing alone sends elsewhere after a move.
        journal.note(f"connection sync did not start: {fault}")


def started() -> None:
    from . import servers
    from .description import in_force

    servers.keep_place_of_drained(in_force())


def drain() -> None:
    from . import vrrp
    from .description import in_force

    description = in_force()
    vrrp.drain(description, description.instances)


def rules() -> None:
    from . import host, state

    host.load_rules(state.CURRENT)


def watch() -> None:
    from . import watch as resident

    resident.watch()


def status(form: str = "") -> str:
    from . import observe
    from .description import current

    seen = observe.facts()
    return seen.to_json() if form == "--json" else observe.report(seen, current())


def ownership(how: str) -> None:
    from . import vrrp
    from .description import in_force

    vrrp.ownership(_one_of(how, "off", "on") == "off", in_force())


def rotation(how: str, address: str) -> None:
    from ipaddress import ip_address

    from . import own_calls, servers
    from .description import in_force

    description = in_force()
    # Not the name of another file in that folder.
    servers.rotation(_one_of(how, "out", "in") == "out", str(ip_address(address)), description)
    own_calls.redirect(description)


def hand_over(*vips: str) -> str:
    from . import vrrp
    from .description import in_force

    description = in_force()
    return vrrp.hand_over(description, [_one_of(vip, *description.instances) for vip in vips] or description.instances)


def validate(version: str) -> None:
    from . import versions
    from .lock import Changes

    with Changes(f"validate {version}"):
        versions.validate(versions.folder(version))


def recount() -> None:
    from . import vrrp
    from .description import in_force

    vrrp.recount(in_force())


def sync() -> None:
    from . import ipvs
    from .description import in_force

    ipvs.keep_sync(in_force())


def connections(which: str, address: str) -> str:
    from . import ipvs

    return "\n".join(ipvs.connections(_one_of(which, "from", "through", "to"), address))


def sockets() -> str:
    from . import sockets as own

    return own.everywhere()


def outside(*jobs: str) -> str:
    from . import probes
    from .description import in_force

    return "\n".join(probes.outside(in_force(), list(jobs)))


def metrics() -> None:
    from . import metrics as textfile
    from .description import in_force

    textfile.write(in_force())


def diagnose() -> str:
    from . import diagnose as diagnosis

    return diagnosis.collect()


COMMANDS: dict[str, tuple[Callable[..., str | None], str, str, str]] = {
    # name: function, arguments, caller, what it does
    "deliver": (deliver, "VERSION <BUNDLE", "engine", "stage a version; what runs does not change"),
    "deliver-secret": (deliver_secret, "VERSION <BUNDLE", "engine", "add the VRRP passwords to a staged version"),
    "activate": (activate, "VERSION [canary]", "engine", "bring a version into force; go back to the one before when it is not healthy"),
    "go-home": (go_home, "VIP", "engine", "end a roll-out: hand the VIP to its owner"),
    "alone": (alone, "SECONDS", "engine", "wait until no other router uses our virtual_router_ids; refuse former directors; fail where VIPs are translated"),
    "answers": (answers, "SECONDS REQUESTS TARGET...", "engine", "ask until each target gives so many answers in a row"),
    "remove": (remove, "", "engine", "undo everything that this program did on this host"),
    "hear": (hear, "VERSION", "systemd", "send and receive test packets until every director of the version is activated"),
    "apply": (apply, "", "systemd, operator", "bring ARP settings, VIPs on lo, modules, sysctls and rules to the version in force"),
    "start": (start, "", "systemd", "before keepalived starts: tracked files, weights, connection sync"),
    "started": (started, "", "systemd", "after keepalived started: the place of drained servers in the hash table"),
    "drain": (drain, "", "systemd, operator", "hand every VIP over, until keepalived starts again"),
    "watch": (watch, "", "systemd", "stay: repair what other programs change, let services fail open, redirect own calls, record quorums, ask witnesses"),
    "rules": (rules, "", "systemd", "load the nftables rules of the version in force"),
    "metrics": (metrics, "", "systemd", "write the textfile for node_exporter, where the version in force has `metrics`"),
    "status": (status, "[--json]", "operator", "explain this node; with --json every fact for `operations`"),
    "ownership": (ownership, "off|on", "operator", "take no VIP, over restarts and reboots; or end that"),
    "rotation": (rotation, "out|in ADDRESS", "operator", "give a real server no new connection; or end that"),
    "hand-over": (hand_over, "[VIP...]", "operator", "give the VIPs held here to another director"),
    "validate": (validate, "VERSION", "operator", "have keepalived and nft test a delivered version"),
    "recount": (recount, "", "operator", "correct the view from the kernel's table"),
    "sync": (sync, "", "operator", "run both sides of connection sync as the version in force says"),
    "connections": (connections, "from|through|to ADDRESS", "operator", "list connections of the kernel's table"),
    "sockets": (sockets, "", "operator", "list the host's TCP connections, those of its containers too, and the ports on which the host listens"),
    "outside": (outside, "VIP|VIP:PORT=COUNT...", "operator", "list the MACs that answer ARP for a VIP; open so many connections to a service"),
    "diagnose": (diagnose, "", "operator", "collect what a bug report needs, without secrets, as JSON"),
}


def main(words: Sequence[str]) -> int:
    """Run one command; its exit status: 0, 1 refused or failed, 2 usage error."""
    name, arguments = (words[0], words[1:]) if words else ("", ())
    if name in ("--help", "-h", "help"):
        _say(help_text(), sys.stdout)
        return 0
    if name not in COMMANDS:
        _say(f"{PROGRAM}: {name or 'no command'}: not a command\n{help_text()}", sys.stderr)
        return USAGE
    function, usage = COMMANDS[name][0], COMMANDS[name][1]
    if not _fits(usage, len(arguments)):
        _say(f"usage: {PROGRAM} {name} {usage}", sys.stderr)
        return USAGE
    os.umask(0o022)
    try:
        said = function(*arguments)
    except (Refused, ValueError, OSError) as fault:
        _say(str(fault), sys.stderr)
        return 1
    if said:
        _say(said, sys.stdout)
    return 0


def help_text() -> str:
    """The table of commands."""
    lines = [f"{PROGRAM} COMMAND: keepalived and LVS on this host", ""]
    for caller in ("engine", "systemd", "operator"):
        lines.append(f"called by {'an operator' if caller == 'operator' else 'the engine' if caller == 'engine' else caller}:")
        lines += [f"  {f'{name} {usage}':<36} {what}" for name, (_, usage, callers, what) in COMMANDS.items() if caller in callers]
    return "\n".join(lines)


def _fits(usage: str, count: int) -> bool:
    """Whether so many arguments fit a usage text: `[X]` may be missing, `X...` may be repeated, `<X` is standard input."""
    words = [word for word in usage.split() if not word.startswith("<")]
    least = sum(not word.startswith("[") for word in words)
    return least <= count and (count <= len(words) or usage.rstrip("]").endswith("..."))


def _one_of(word: str, *known: str) -> str:
    if word not in known:
        raise ValueError(f"{word}: not one of {', '.join(known)}")
    return word


def _say(text: str, stream: TextIO) -> None:
    """Write to a reader that may be gone: the work is done, and the exit status stays what it is."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
