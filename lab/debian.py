"""Debian packages and root file systems from the machine's own mirror, without touching the machine.

apt runs with a state of its own under the cache: nothing is installed on the host and /var/lib/apt stays as it is.
The mirror is whatever the host's apt uses, asked at run time; its address appears only in logs inside the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lab import cache

SUITE = "bookworm"
UPDATE_AFTER_S = 6 * 3600
_WITHOUT_DOCUMENTATION = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "doc", "locale", "info")]


class BuildError(RuntimeError):
    """A build step failed; names the step, the log, and its last lines."""


def run_logged(what: str, command: Sequence[object], log: Path, **options: object) -> None:
    """Run `command` with its output appended to `log`; raise BuildError with the last lines when it fails."""
    with log.open("a") as out:
        done = subprocess.run([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    if done.returncode:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        kept = cache.root() / "logs" / f"{what.replace(' ', '-')}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(log.read_bytes())
        raise BuildError(f"{what} failed with status {done.returncode}; the whole log is {kept}; its end:\n{last}")


def apt_options(status: Path | None = None) -> list[str]:
    """Options that give apt a state of its own; `status` is the dpkg status that counts as installed (default: nothing is)."""
    home = cache.root() / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial", "log"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    (home / "nothing-installed").touch()
    settings = {
        "Dir::State": home / "state",
        "Dir::State::status": status or home / "nothing-installed",
        "Dir::Cache": home / "cache",
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "Dir::Log": home / "log",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]


def apt_update() -> None:
    """Fetch the package lists into the state of our own, unless that was done a short while ago."""
    stamp = cache.root() / "apt" / "updated"
    if stamp.exists() and time.time() - stamp.stat().st_mtime < UPDATE_AFTER_S:
        return
    options = apt_options()
    run_logged("apt-get update", ["apt-get", *options, "-o", "APT::Update::Error-Mode=any", "update"], cache.root() / "apt" / "log" / "update.log")
    stamp.touch()


def sources(suite: str = SUITE) -> list[str]:
    """The `deb` lines for `suite` on the mirrors that the host's own apt uses for its release."""
    apt_update()  # indextargets tells only of lists that are there
    listed = subprocess.run(
        ["apt-get", *apt_options(), "indextargets", "--format", "$(REPO_URI) $(CODENAME) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    found = [line.split() for line in dict.fromkeys(listed.splitlines())]
    lines = [f"deb {uri} {name.replace(SUITE, suite, 1)} main" for uri, name, component in found if component == "main" and name.split("-")[0] == SUITE]
    if not lines:
        raise BuildError(f"apt on this machine knows no source for Debian {SUITE}: it needs a line `deb MIRROR {SUITE} main` under /etc/apt")
    return lines


def unpacked(*packages: str) -> Path:
    """A folder with these packages' files, not installed; dependencies are the caller's matter."""

    def make(folder: Path) -> None:
        apt_update()
        debs = folder / ".debs"
        debs.mkdir()
        run_logged(f"apt-get download {packages[0]}", ["apt-get", *apt_options(), "download", *packages], debs / "log", cwd=debs)
        for deb in debs.glob("*.deb"):
            run_logged(f"dpkg -x {deb.name}", ["dpkg", "-x", deb, folder], debs / "log")

    return cache.build(f"deb-{packages[0]}", cache.digest(*packages), make)


def bootstrap(target: Path, log: Path, include: Sequence[str], suite: str = SUITE, variant: str = "apt", options: Sequence[str] = ()) -> None:
    """A root file system in `target` by mmdebstrap, in a mount namespace of its own so that a killed run leaves no mount."""
    # mmdebstrap is a Perl script: unpacking it is enough
    tool = unpacked("mmdebstrap") / "usr/bin/mmdebstrap"
    environment = {
        **os.environ,
        "TMPDIR": str(target.parent),
        "DEBIAN_FRONTEND": "noninteractive",
        "PATH": f"{tool.parent}:/usr/sbin:/usr/bin:/sbin:/bin:{os.environ['PATH']}",
    }
    command = [
        "unshare", "--mount", tool, f"--variant={variant}", "--mode=root", f"--include={','.join(include)}",
        '--aptopt=APT::Install-Recommends "false"', *_WITHOUT_DOCUMENTATION, *options, suite, target, *sources(suite),
    ]  # fmt: skip
    run_logged(f"building the {suite} root file system", command, log, env=environment)


def newest_kernel() -> str:
    """The package of the newest kernel for virtual machines."""
    apt_update()
    shown = subprocess.run(["apt-cache", *apt_options(), "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[1] for line in shown.splitlines() if "Depends: linux-image-" in line)


def download(packages: Sequence[str], status: Path, folder: Path, log: Path) -> None:
    """The .debs of `packages`, and of what they need beyond what the dpkg status file lists, into `folder`."""
    apt_update()
    (folder / "partial").mkdir(parents=True)
    options = [*apt_options(status), "-o", f"Dir::Cache::archives={folder}", "-o", f"Dir::State::extended_states={folder}/partial/extended_states"]
    command = ["apt-get", *options, "-o", "Debug::NoLocking=1", "--yes", "--download-only", "install", *packages]
    run_logged(f"downloading {' '.join(packages)}", command, log)
    shutil.rmtree(folder / "partial")
