"""Delivered versions of a host's files: staging, keepalived's own test of them, the links that say which one is in force."""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import tempfile
import time

from . import host, legacy, programs, servers, state, vrrp
from .description import NAME, Description, current
from .errors import Refused

HEADER = "==> "
"""Begins the line before a file of a bundle: `==> PATH MODE`. Each of the file's lines follows behind two blanks."""
PROGRAM = "program"
"""The link in a version's folder to the program that it was delivered with."""
_VALIDATED = f"{state.BASE}/validate."


def folder(version: str) -> str:
    """The folder of a version."""
    return f"{state.VERSIONS}/{version}"


def delivered() -> list[str]:
    """The names of the versions on this host, without one whose delivery was interrupted."""
    return [name for name in state.names(state.VERSIONS) if os.path.exists(f"{folder(name)}/{NAME}")]


def unpack(bundle: str, into: str) -> None:
    """Write the files of a bundle into a folder. Raises Refused for text that is no bundle."""
    path, mode = "", 0
    lines: list[str] = []

    def finish() -> None:
        if path:
            os.makedirs(os.path.dirname(f"{into}/{path}"), exist_ok=True)
            with open(f"{into}/{path}", "w", encoding="utf-8", newline="\n") as file:
                file.write("".join(f"{line}\n" for line in lines))
            os.chmod(f"{into}/{path}", mode)

    # Only a line feed ends a line: str.splitlines knows form feeds and more.
    for line in bundle.removesuffix("\n").split("\n") if bundle else ():
        if line.startswith(HEADER):
            finish()
            path, _, octal = line[len(HEADER) :].rpartition(" ")
            mode, lines = int(octal, 8), []
        elif line.startswith("  ") and path:
            lines.append(line[2:])
        else:
            raise Refused(f"not a line of a bundle: {line}")
    os.makedirs(into, exist_ok=True)
    finish()


def deliver(version: str, bundle: bytes) -> str:
    """Stage a version. What runs does not change, except that VIPs may be added to lo: a server must have a VIP before a director sends to it.

    Returns a line that names what is in force and since when. `activate` gets that line, so that it runs again wherever another version is in
    force than the engine remembers.
    """
    came = hashlib.sha256(bundle).hexdigest()[:12]
    if came != version.partition("-")[0]:
        raise Refused(f"version {version} did not arrive whole: what came is {came}; pulumi up again")
    adopt_all()
    new, part = folder(version), f"{folder(version)}.part"
    # A version is named by its content: one that exists is the same, and may be in force.
    if not os.path.isdir(new):
        shutil.rmtree(part, ignore_errors=True)
        unpack(bundle.decode(), part)
        os.symlink(program_of_this_process(), f"{part}/{PROGRAM}")
        legacy.write_for_shell(part, Description.read(part))
        programs.sync(state.BASE)
        os.rename(part, new)
    description = Description.read(new)
    if not _awaits_secret(new):
        validate(new)
    host.require_ipv6(description)
    # A missing module is refused before the first VIP is there.
    host.load_modules(new)
    host.prepare(new, description)
    if description.director:
        vrrp.refuse_strangers(description, current())
    host.admit_for_roll_out(description, current())
    from . import firewall, hearing

    firewall.open_for(description)
    hearing.begin(version, description, current())
    programs.sync(state.BASE)
    return f"{version} delivered, {_in_force_since()}"


def deliver_secret(version: str, bundle: bytes) -> str:
    """Add the files with VRRP passwords to a staged version, for root only."""
    before = os.umask(0o077)
    try:
        unpack(bundle.decode(), folder(version))
    finally:
        os.umask(before)
    validate(folder(version))
    programs.sync(state.BASE)
    return f"authentication of {version} delivered"


def program_of_this_process() -> str:
    """The folder of the program that runs."""
    return os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def adopt_all() -> None:
    """Let this program work with every version on this host, also of the release before it."""
    for name in state.names(state.VERSIONS):
        legacy.adopt(folder(name), program_of_this_process())


def _in_force_since() -> str:
    if not (target := state.target(state.CURRENT)):
        return "nothing in force"
    moved = os.lstat(state.CURRENT).st_mtime_ns
    # The time tells two activations of the same version apart.
    return f"versions/{target} in force since {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(moved // 10**9))}"


def _awaits_secret(new: str) -> bool:
    return any(line.split()[:1] == ["include"] and "auth-" in line for line in state.read(f"{new}/keepalived.conf").splitlines())


def forget_interrupted_test() -> None:
    """Remove the copy of a version that `validate` makes and that stays if it is killed. A password may be in it."""
    for left in glob.glob(f"{_VALIDATED}*"):
        shutil.rmtree(left)


def validate(new: str) -> None:
    """Have keepalived and nft test a version's files. Any word of keepalived's is a fault: it uses what it understands and drops the rest.

    Raises Refused with what they say.
    """
    description = Description.read(new)
    _validate_rules(new)
    if not os.path.exists(f"{new}/keepalived.conf"):
        return
    if not os.path.exists(f"/sys/class/net/{description.interface}"):
        there = " ".join(state.names("/sys/class/net"))
        raise Refused(f"interface: {description.interface} is not on this node; it has {there}: name one of these as the pool's `interface`")
    # The test looks for tracked files and for what keepalived.conf includes.
    vrrp.track_files_exist(description)
    servers.write_drained_files(new, description)
    _validate_checks(new, description)
    forget_interrupted_test()
    view = tempfile.mkdtemp(prefix=_VALIDATED)
    try:
        # The test looks for scripts where keepalived.conf says, so it sees this folder as the current one.
        shutil.copytree(new, view, symlinks=True, dirs_exist_ok=True)
        os.chmod(view, 0o755)  # noqa: S103 - the user of a check script must reach it
        with open(f"{view}/keepalived.conf", encoding="utf-8") as file:
            lines = file.read().replace(f"{state.CURRENT}/", f"{view}/").splitlines(keepends=True)
        # keepalived 2.2.7 ends by SIGTERM when its test looks at a script of another user (its issue 2587); _validate_checks looks up the users.
        state.write(f"{view}/keepalived.conf", "".join(line for line in lines if not line.lstrip().startswith("user ")))
        status, output, errors = programs.attempt("keepalived", "--config-test", "--use-file", f"{view}/keepalived.conf")
        if status or output.strip() or errors.strip():
            raise Refused("keepalived refuses the configuration:\n" + (output + errors).replace(view, new).strip())
    finally:
        shutil.rmtree(view)


def _validate_rules(new: str) -> None:
    if os.path.exists(f"{new}/{host.RULES}"):
        programs.run("nft", "--check", "--file", f"{new}/{host.RULES}")
        if not os.path.exists(f"{new}/{host.LISTED_RULES}"):
            state.write(f"{new}/{host.LISTED_RULES}", host.listed(new))


def _validate_checks(new: str, description: Description) -> None:
    """What keepalived's test would accept although it cannot work: a user or a script that is missing, a regular expression with a fault."""
    for service in description.services:
        if service.check_user and not programs.succeeds("id", service.check_user):
            raise Refused(f"health_check.user: {service.check_user} is not a user of this node")
        if service.check_script and not os.access(f"{new}/{service.check_script}", os.X_OK):
            raise Refused(f"health_check.script: {new}/{service.check_script} is missing or not executable; keepalived would ignore it without a word")
        for regex in service.regexes:
            status, _, errors = programs.attempt("grep", "-P", "-e", regex, stdin="\n")
            if status > 1:
                raise Refused(f"health_check.urls.regex: {regex}: {errors.strip()}")


def tidy(keep: set[str]) -> None:
    """Remove every version but these, programs that no version links to, and the shell scripts of an earlier release when no version names them.

    The version before stays, since an operator may want to compare. A program that was installed after the version in force waits for its own version.
    """
    for name in os.listdir(state.VERSIONS):
        if name not in keep:
            shutil.rmtree(folder(name))
    used = {os.path.realpath(f"{folder(name)}/{PROGRAM}") for name in state.names(state.VERSIONS)} | {os.path.realpath(program_of_this_process())}
    delivered_at = os.path.getmtime(state.CURRENT)
    for name in state.names(state.LIB):
        path = f"{state.LIB}/{name}"
        if os.path.isdir(path) and path not in used and os.path.getmtime(path) < delivered_at:
            shutil.rmtree(path)
    legacy.remove_scripts([folder(name) for name in state.names(state.VERSIONS)])
