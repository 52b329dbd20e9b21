"""The virtual machine's image: Debian with what the nodes have preinstalled, cached by content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import cache, debian
from lab.cloud import layers
from lab.nodes import kube

HERE = Path(__file__).parent
INITRD_INIT = HERE.parent / "cloud" / "image" / "init"

PACKAGES = [
    "systemd", "systemd-sysv", "systemd-container", "dbus", "udev", "kmod", "openssh-server", "iproute2", "iputils-ping", "iputils-arping", "procps",
    "python3", "keepalived", "ipvsadm", "nftables", "tcpdump",
]  # fmt: skip
CLUSTER_PACKAGES = ["etcd-server", "haproxy", "iptables", "ipset", "conntrack", "firewalld", "network-manager", "openssl"]
"""What a cluster's nodes have besides. Each is started by the experiment that needs it, never by itself."""
_SERVICES = ("etcd", "haproxy", "firewalld", "NetworkManager", "nm-")


def image(cluster: bool = False) -> Path:
    """A folder with disk.img (a root file system), vmlinuz and initrd.img; with the programs of a cluster's nodes in it when `cluster`."""
    sources = HERE / "image"
    packages = [*PACKAGES, *(CLUSTER_PACKAGES if cluster else [])]

    def make(folder: Path) -> None:
        opt, log = folder / "opt", folder / "build.log"
        opt.mkdir()
        debian.bootstrap(opt / "tree", log, packages)
        if cluster:
            _add_programs(opt / "tree")
        shutil.copytree(debian.unpacked(debian.newest_kernel()), opt / "kernel", symlinks=True)
        shutil.copytree(sources / "files", opt / "files", symlinks=True)
        shutil.copytree(debian.unpacked("keepalived") / ".debs", opt / "debs", ignore=shutil.ignore_patterns("log"))
        shutil.copy(INITRD_INIT, opt / "init")
        layers.in_root("building the lab machine's image", sources / "build.sh", opt, log)
        (opt / "image").rename(folder / "image")
        shutil.rmtree(opt)

    key = cache.digest(sources, INITRD_INIT, " ".join(packages), *([kube.programs().name] if cluster else []))
    return cache.build("cluster-image" if cluster else "nodes-image", key, make) / "image"


def _add_programs(tree: Path) -> None:
    """Kubernetes and CNI where a node has them, and no service of a package of CLUSTER_PACKAGES enabled."""
    plugins = tree / "opt/cni/bin"
    plugins.mkdir(parents=True)
    for program in kube.programs().iterdir():
        if os.access(program, os.X_OK):
            shutil.copy(program, plugins if program.name in kube.PLUGINS else tree / "usr/local/bin")
    enabled = tree / "etc/systemd/system"
    for link in [*enabled.glob("*.wants/*"), *enabled.glob("dbus-*")]:
        if link.readlink().name.startswith(_SERVICES):
            link.unlink()
