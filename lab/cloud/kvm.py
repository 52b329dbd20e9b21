"""Whether this machine can run virtual machines on its own processor; tried, because what /dev/kvm says is not enough."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

from lab import cache
from lab.cloud import layers

CREATE_VM = 0xAE01
DEADLINE_S = 15


def works() -> bool:
    """A kernel boots under KVM, as far as its panic for want of a root file system.

    On some machines a virtual machine can be made and then never gets anywhere: libvirt would report healthy servers that do nothing.
    The answer is kept until the machine starts again.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = cache.root() / f"kvm-{boot}"
    if not known.exists():
        known.write_text("yes" if _can_be_made() and _gets_somewhere() else "no")
    return known.read_text() == "yes"


def _can_be_made() -> bool:
    try:
        with Path("/dev/kvm").open("rb") as device:
            os.close(fcntl.ioctl(device, CREATE_VM, 0))
    except OSError:
        return False
    return True


def _gets_somewhere() -> bool:
    machine = "qemu-system-x86_64 -M pc -m 128 -accel kvm -nodefaults -display none -no-reboot -serial stdio"
    script = f"""
        mount --bind "$2" "$1/opt"; mount --bind /dev "$1/dev"
        exec chroot "$1" timeout {DEADLINE_S} {machine} -kernel /opt/image/vmlinuz -append 'console=ttyS0 panic=-1'
    """
    command = ["unshare", "--mount", "sh", "-euc", script, "sh", str(layers.root()), str(layers.image())]
    return b"Kernel panic" in subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).stdout
