"""What the cloud runs from: three read-only layers, each cached by its content.

root        Debian with MariaDB, RabbitMQ, libvirt, QEMU, OpenSSH and the tools that the machine itself need not have; a later QEMU for the lab's machine
openstack   OpenStack's services in a virtual environment at /opt/openstack
ovn         Open vSwitch and OVN of a later Debian at /opt/ovn
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import cache, debian

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"

PACKAGES = [
    "mariadb-server", "rabbitmq-server",
    "libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "python3-libvirt", "qemu-system-x86", "qemu-utils", "genisoimage",
    "openssh-server", "socat", "iproute2", "iputils-ping", "ethtool", "procps", "tcpdump",
    "python3", "python3-venv", "mount", "kmod", "cpio", "busybox-static", "e2fsprogs", "dpkg-dev",
    # what the product installs on nodes, for tests that ask a real `keepalived -t`
    "keepalived", "ipvsadm", "nftables",
]  # fmt: skip

# libvirt insists on these accounts even when qemu.conf says root
ACCOUNTS = "grep -q ^libvirt-qemu: /etc/passwd || { groupadd -r libvirt-qemu && useradd -r -g libvirt-qemu -s /usr/sbin/nologin libvirt-qemu; }"

LATER = "trixie"
"""Debian 12's Open vSwitch 3.1.0 can abort in userspace conntrack; 3.5 does not. Its QEMU 7.2, without KVM, takes 2.5 times as long to start a
process in a machine as 10.0, which for its part takes twice as long to pass a small packet on to one."""
LIBRARIES = "usr/lib/x86_64-linux-gnu"
LATER_QEMU = "/usr/local/lib/qemu"
QEMU_DATA = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")
OVN_PROGRAMS = [
    "ovsdb-tool", "ovsdb-server", "ovsdb-client", "ovs-vsctl", "ovs-appctl", "ovs-ofctl", "ovs-vswitchd",
    "ovn-northd", "ovn-nbctl", "ovn-sbctl", "ovn-controller", "ovn-appctl", "ovn-trace",
]  # fmt: skip


def root() -> Path:
    """The Debian root file system; complete enough for `chroot ROOT keepalived -t -f FILE`."""

    def make(folder: Path) -> None:
        hook = f"--customize-hook=chroot \"$1\" sh -c '{ACCOUNTS}'"
        debian.bootstrap(folder / "root", folder / "build.log", PACKAGES, options=[hook])
        tree = folder / f"root{LATER_QEMU}"
        debian.bootstrap(tree, folder / "build.log", ["qemu-system-x86"], LATER, "extract")
        # Beside the loader, it does not find its data by itself.
        data = " ".join(f"-L {LATER_QEMU}/{path}" for path in QEMU_DATA)
        _wrap(LATER_QEMU, "usr/bin/qemu-system-x86_64", tree / "qemu-system-x86_64", [LIBRARIES, f"{LIBRARIES}/pulseaudio"], data)

    return cache.build("cloud-root", cache.digest(" ".join(PACKAGES), ACCOUNTS, LATER, LATER_QEMU), make) / "root"


def _wrap(tree: str, program: str, wrapper: Path, libraries: Sequence[str], arguments: str = "") -> None:
    """A script that runs a program of the later Debian in `tree`, as its root will see it, by that Debian's own dynamic loader."""
    path = ":".join(f"{tree}/{folder}" for folder in libraries)
    wrapper.write_text(f'#!/bin/sh\nexec {tree}/usr/lib64/ld-linux-x86-64.so.2 --library-path {path} {tree}/{program} {arguments} "$@"\n')
    wrapper.chmod(0o755)


def in_root(what: str, script: Path, opt: Path, log: Path, *arguments: str) -> None:
    """Run a shell script in a chroot of `root()` with `opt` at /opt, in namespaces that end with it."""
    shutil.copy(script, opt)
    enter = """
        mount --bind "$2" "$1/opt"; mount -t proc proc "$1/proc"; root=$1; shift 2
        exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 sh -eu "$@"
    """
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-euc", enter, "sh", root(), opt, f"/opt/{script.name}", *arguments]
    debian.run_logged(what, command, log)
    (opt / script.name).unlink()


def openstack() -> Path:
    """OpenStack from PyPI, every file checked against its hash.

    The machine's own pip fetches, so that its index settings count; Debian's Python installs, offline.
    """
    script, base = HERE / "openstack.sh", root()

    def make(folder: Path) -> None:
        opt, log = folder / "layer" / "opt", folder / "build.log"
        opt.mkdir(parents=True)
        fetch = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--require-hashes", "-r", REQUIREMENTS, "-w", opt / "wheels"]
        debian.run_logged("fetching OpenStack", fetch, log)
        in_root("installing OpenStack", script, opt, log)

    return cache.build("cloud-openstack", cache.digest(REQUIREMENTS, script, base.parent.name), make) / "layer"


def ovn() -> Path:
    """Open vSwitch and OVN, each program run by the dynamic loader of its own release."""

    def make(folder: Path) -> None:
        opt, log = folder / "layer" / "opt" / "ovn", folder / "build.log"
        (opt / "bin").mkdir(parents=True)
        tree = opt / "root"
        debian.bootstrap(tree, log, ["openvswitch-switch", "ovn-central", "ovn-host"], LATER, "extract")
        for name in OVN_PROGRAMS:
            found = next(p for folder in ("usr/bin", "usr/sbin", "usr/lib/openvswitch-switch") if (p := tree / folder / name).is_file() and not p.is_symlink())
            _wrap("/opt/ovn/root", str(found.relative_to(tree)), opt / "bin" / name, [LIBRARIES, f"{LIBRARIES}/openvswitch"])

    return cache.build("cloud-ovn", cache.digest(LATER, " ".join(OVN_PROGRAMS)), make) / "layer"


GUEST_PACKAGES = [
    "systemd", "systemd-sysv", "dbus", "udev", "kmod", "openssh-server", "iproute2", "iputils-ping", "procps", "python3",
    # what keepalived and nftables depend on: dpkg is slow without KVM, so nodes install only the packages themselves
    "libglib2.0-0", "libsnmp40", "libnl-3-200", "libnl-genl-3-200", "libnftnl11", "libnftables1", "libedit2", "libpopt0",
]  # fmt: skip
REPOSITORY_PACKAGES = ["keepalived", "ipvsadm", "nftables"]


def image() -> Path:
    """The nodes' image: {disk.qcow2,vmlinuz,initrd.img} in image/, and in repository/ an apt repository of what they install."""
    sources = HERE / "image"

    def make(folder: Path) -> None:
        opt, log = folder / "opt", folder / "build.log"
        tree, repository = opt / "tree", opt / "repository"
        opt.mkdir()
        debian.bootstrap(tree, log, GUEST_PACKAGES)
        shutil.copytree(debian.unpacked(debian.newest_kernel()), opt / "kernel", symlinks=True)
        shutil.copytree(sources / "files", opt / "files", symlinks=True)
        shutil.copy(sources / "init", opt / "init")
        debian.download(REPOSITORY_PACKAGES, tree / "var/lib/dpkg/status", repository, log)
        in_root("building the nodes' repository", sources / "repository.sh", opt, log)
        in_root("building the nodes' image", sources / "build.sh", opt, log)
        for result in ("image", "repository"):
            (opt / result).rename(folder / result)
        shutil.rmtree(opt)

    key = cache.digest(sources, " ".join(GUEST_PACKAGES), " ".join(REPOSITORY_PACKAGES))
    return cache.build("cloud-image", key, make)
