"""The virtual machine's image: Debian with what the nodes have preinstalled, cached by content."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import cache, debian
from lab.cloud import layers

HERE = Path(__file__).parent
INITRD_INIT = HERE.parent / "cloud" / "image" / "init"

PACKAGES = [
    "systemd", "systemd-sysv", "systemd-container", "dbus", "udev", "kmod", "openssh-server", "iproute2", "iputils-ping", "iputils-arping", "procps",
    "python3", "keepalived", "ipvsadm", "nftables", "tcpdump",
]  # fmt: skip


def image() -> Path:
    """A folder with disk.img (a root file system), vmlinuz and initrd.img."""
    sources = HERE / "image"

    def make(folder: Path) -> None:
        opt, log = folder / "opt", folder / "build.log"
        opt.mkdir()
        debian.bootstrap(opt / "tree", log, PACKAGES)
        shutil.copytree(debian.unpacked(debian.newest_kernel()), opt / "kernel", symlinks=True)
        shutil.copytree(sources / "files", opt / "files", symlinks=True)
        shutil.copytree(debian.unpacked("keepalived") / ".debs", opt / "debs", ignore=shutil.ignore_patterns("log"))
        shutil.copy(INITRD_INIT, opt / "init")
        layers.in_root("building the lab machine's image", sources / "build.sh", opt, log)
        (opt / "image").rename(folder / "image")
        shutil.rmtree(opt)

    key = cache.digest(sources, INITRD_INIT, " ".join(PACKAGES))
    return cache.build("nodes-image", key, make) / "image"
