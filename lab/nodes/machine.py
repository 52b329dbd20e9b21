"""The virtual machine: QEMU with a real kernel, KVM where it works; ssh to it is all that enters, and nothing leaves."""

from __future__ import annotations

import io
import os
import shlex
import shutil
import socket
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lab import cache
from lab.cloud import kvm, layers
from lab.nodes.image import image
from lab.phases import wait_for
from lab.stack import CLUSTER

HERE = Path(__file__).parent
MEMORY_MB = 2048
CLUSTER_MEMORY_MB = 4096
"""Three API servers with 263 MB each, three times etcd with 60 MB, and kube-proxy on every node."""
BOOT_S = 180
COMMAND_S = 60

STACK_FILE = HERE / "Pulumi.nodes.yaml"
NODES: dict[str, str] = {
    name: address for pool in yaml.safe_load(STACK_FILE.read_text())["config"][CLUSTER]["pools"].values() for name, address in pool["hosts"].items()
}
"""Names and addresses of the nodes, as STACK_FILE has them."""
CLIENT = "192.168.0.100"
BRIDGE = "192.168.0.254"
"""The machine's own address beside the nodes: its sshd is their bastion."""
CIDR_V6 = "fd00:0:0:1::/64"
"""The IPv6 subnet of the segment. Every node and client has an address in it, whatever the stack says."""
COUNTER = "instructions"
"""The socket at which the number of executed instructions is asked, in the state folder."""
CLUSTER_COMMAND = "usr/local/sbin/cluster"
"""What starts a cluster's programs, by its place under the machine's root."""

KERNEL_ARGUMENTS = "console=ttyS0 quiet mitigations=off audit=0 net.ifnames=0 tsc=reliable"
"""Emulated processors start at different moments, so the kernel would not trust their TSC, and read the time from a device, for each packet too."""


class MachineError(RuntimeError):
    """The machine is not there, or a command in it failed; quotes what it said."""


def state() -> Path:
    """Where keys, the engine's state and the running machine are kept."""
    return cache.root() / "nodes"


@dataclass(frozen=True)
class KeyPair:
    """An ssh key; both halves in OpenSSH's format."""

    private: str
    public: str

    @classmethod
    def kept(cls, name: str) -> KeyPair:
        """The key of that name in the state folder, made when it is not there."""
        path = state() / "keys" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            key = Ed25519PrivateKey.generate()
            encoded = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(encoded)
        loaded = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        public = loaded.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return cls(path.read_text(), public.decode())


def second(address: str) -> str:
    """The IPv6 address of whoever has this IPv4 address: it ends with the same digits. `guest/lab` gives the machines theirs by the same rule."""
    return CIDR_V6.replace("/64", address.rpartition(".")[2])


def up(cluster: bool = False, counted: bool = False) -> None:
    """Boot the machine and its nodes, unless they run with these very programs and keys. Returns when every node's sshd answers.

    `cluster`: with the programs that a cluster's nodes run. `counted`: an emulated machine counts its instructions.
    """
    built, payload = image(cluster), _payload(cluster)
    if running() and ((state() / "payload.tar").read_bytes() != payload or (counted and instructions() is None and not kvm.works())):
        down()
    if not running():
        _start(built, payload, CLUSTER_MEMORY_MB if cluster else MEMORY_MB, counted)
    wait_for("ssh into the lab machine", _answers, BOOT_S)
    if run("test", "-e", "/run/netns/client", check=False).returncode:
        run("lab", "up")

    def every_node() -> tuple[bool, str]:
        silent = run("lab", "ready").stdout.split()
        return not silent, f"no answer from {', '.join(silent) or 'none'}"

    wait_for("sshd on every node", every_node, BOOT_S)


def down() -> None:
    """Stop the machine; its disk is a snapshot, so nothing of it stays."""
    subprocess.run([*ssh(), "-O", "exit", "machine"], capture_output=True)
    if (pid := running()) is not None:
        os.kill(pid, 15)
        wait_for("the lab machine to end", lambda: (running() is None, f"process {pid} is there"), 20)


def has_cluster() -> bool:
    """Whether the machine, as it was booted last, has the programs that a cluster's nodes run."""
    payload = state() / "payload.tar"
    if not payload.exists():
        return False
    with tarfile.open(payload) as tar:
        return CLUSTER_COMMAND in tar.getnames()


def running() -> int | None:
    """The process of the running machine."""
    try:
        pid = int((state() / "qemu.pid").read_text())
        return pid if b"openshift-lvs-lab" in Path(f"/proc/{pid}/cmdline").read_bytes() else None
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def instructions() -> int | None:
    """How many instructions the machine has executed since it was booted, if it counts them."""
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.connect(str(state() / COUNTER))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        with asked.makefile() as answer:
            return int(answer.read())


def port() -> int:
    """The port on 127.0.0.1 that leads to the machine's sshd."""
    return int((state() / "port").read_text())


def run(*command: str, check: bool = True, stdin: str | None = None, timeout_s: float = COMMAND_S) -> subprocess.CompletedProcess[str]:
    """Run a command in the machine. Raises MachineError with its words when it fails and `check` is set."""
    try:
        done = subprocess.run([*ssh(), "machine", shlex.join(command)], input=stdin or "", capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise MachineError(f"{shlex.join(command)}: no end after {timeout_s:g} s; does the lab machine get any processor?") from None
    if check and done.returncode:
        raise MachineError(f"{shlex.join(command)}: exit status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done


def start(*command: str) -> subprocess.Popen[str]:
    """Start a command in the machine, with pipes to it."""
    return subprocess.Popen([*ssh(), "machine", shlex.join(command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _start(built: Path, payload: bytes, memory_mb: int, counted: bool) -> None:
    home = state()
    home.mkdir(parents=True, exist_ok=True)
    # What the engine remembers is of nodes that are gone.
    shutil.rmtree(home / "stack", ignore_errors=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        (home / "port").write_text(str(free.getsockname()[1]))
    (home / "known_hosts").write_text(f"[127.0.0.1]:{port()} {KeyPair.kept('machine').public}\n")
    (home / "payload.tar").write_bytes(payload)
    hardware = kvm.works()
    accelerator = ["-accel", "kvm", "-cpu", "host"] if hardware else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    seen = Path("/mnt")
    files, mine = seen / built.relative_to(cache.root()), seen / home.relative_to(cache.root())
    counter = ["-plugin", f"file={seen / _counter().relative_to(cache.root())},socket={mine / COUNTER}"] if counted and not hardware else []
    command = [
        f"{layers.LATER_QEMU}/qemu-system-x86_64", "-name", "openshift-lvs-lab", "-machine", "q35", *accelerator, "-smp", "2", "-m", str(memory_mb),
        "-kernel", files / "vmlinuz", "-initrd", files / "initrd.img", "-append", KERNEL_ARGUMENTS,
        "-drive", f"file={files / 'disk.img'},if=none,id=root,format=raw,snapshot=on,cache=unsafe", "-device", "virtio-blk-pci,drive=root",
        "-drive", f"file={mine / 'payload.tar'},if=none,id=payload,format=raw,readonly=on", "-device", "virtio-blk-pci,drive=payload",
        "-netdev", f"user,id=uplink,restrict=on,hostfwd=tcp:127.0.0.1:{port()}-:22", "-device", "virtio-net-pci,netdev=uplink",
        "-device", "virtio-rng-pci", "-display", "none", "-serial", f"file:{mine / 'console.log'}", "-daemonize", "-pidfile", mine / "qemu.pid",
        *counter,
    ]  # fmt: skip
    # QEMU comes from the cloud's root file system: the machine itself need not have it. Its mounts end with it.
    enter = 'mount --bind "$2" "$1/mnt"; [ "$3" = no ] || mount --rbind /dev "$1/dev"; root=$1; shift 3; exec chroot "$root" "$@"'
    whole = ["unshare", "--mount", "sh", "-euc", enter, "sh", layers.root(), cache.root(), "yes" if hardware else "no", "env", f"TMPDIR={mine}", *command]
    done = subprocess.run([str(word) for word in whole], capture_output=True, text=True)
    if done.returncode:
        raise MachineError(f"QEMU did not start: {done.stderr.strip()}")


def _answers() -> tuple[bool, str]:
    if running() is None:
        raise MachineError(f"the lab machine ended while it booted; its last words are in {state() / 'console.log'}")
    done = subprocess.run([*ssh(), "-o", "ConnectTimeout=3", "machine", "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.returncode == 0, done.stderr.strip() or "connected"


def ssh() -> list[str]:
    """The ssh command up to its host, which is always called `machine`."""
    home = state()
    options = {
        "HostName": "127.0.0.1",
        "Port": str(port()) if (home / "port").exists() else "22",
        "User": "root",
        "IdentityFile": home / "keys" / "login",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": home / "known_hosts",
        "HostKeyAlias": f"[127.0.0.1]:{port()}" if (home / "port").exists() else "none",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
        "ControlMaster": "auto",
        "ControlPath": home / "ssh-%p",
        "ControlPersist": "600",
    }
    return ["ssh", "-F", "none", *(f"-o{key}={value}" for key, value in options.items())]


def _payload(cluster: bool = False) -> bytes:
    """A tar that the machine unpacks over its root: keys, the nodes' host keys, and the lab's own tools, with those for a cluster's programs."""
    login = KeyPair.kept("login")
    files = {
        "root/.ssh/authorized_keys": (f"{login.public}\n".encode(), 0o600),
        "etc/ssh/ssh_host_ed25519_key": (KeyPair.kept("machine").private.encode(), 0o600),
        "etc/lab/nodes": ("".join(f"{name} {address}\n" for name, address in {**NODES, "client": CLIENT, "bridge": BRIDGE}.items()).encode(), 0o644),
        "usr/local/sbin/lab": ((HERE / "guest" / "lab").read_bytes(), 0o755),
        "usr/local/bin/traffic": (traffic().read_bytes(), 0o755),
        **({name: (path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644) for name, path in _cluster_files().items()} if cluster else {}),
        **{f"etc/lab/{name}/ssh_host_ed25519_key": (KeyPair.kept(name).private.encode(), 0o600) for name in NODES},
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _cluster_files() -> dict[str, Path]:
    """The command `cluster` and what it needs, by their places under the machine's root."""
    root = HERE / "guest" / "cluster"
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def traffic() -> Path:
    """The program of both ends of the traffic, built from the folder beside this file."""
    return _built(HERE / "traffic", "traffic", "go", "build", "-o")


def _counter() -> Path:
    """QEMU's plugin that counts instructions."""
    return _built(HERE / "instructions", "instructions.so", "gcc", "-O2", "-shared", "-fPIC", "instructions.c", "-o")


def _built(source: Path, name: str, *command: str) -> Path:
    """What a compiler makes of a folder; its command lacks the path of the result."""

    def make(folder: Path) -> None:
        built = subprocess.run([*command, folder / name], cwd=source, env={**os.environ, "CGO_ENABLED": "0"}, capture_output=True, text=True)
        if built.returncode:
            raise MachineError(f"{command[0]} in {source}: {built.stderr.strip()}")

    return cache.build(source.name, cache.digest(source), make) / name
