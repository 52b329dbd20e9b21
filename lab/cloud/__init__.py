"""A real OpenStack on one machine: a tree of processes in namespaces of its own, run from a root file system of its own.

The host sees one process tree and a folder in the cache, and nothing else: no interface, mount, listening port or installed package.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from lab import cache
from lab.cloud import kvm, layers
from lab.phases import Phases, wait_for

STEPS = {
    "infrastructure": "cloud: database, message queue, OVN",
    "schemas": "cloud: schemas",
    "services": "cloud: Keystone, Placement, Glance, Neutron, Nova",
    "hypervisors": "cloud: hypervisors",
    "offer": "cloud: image, flavor, external network",
    "edge": "cloud: bastion, repository, external client",
}
BASTION_PORT = 2222
ENVIRONMENT = {
    "PATH": "/opt/ovn/bin:/opt/openstack/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONPATH": "/srv/code",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "OS_CLOUD": "admin",
}
rootfs = layers.root


class CloudError(RuntimeError):
    """Something in the cloud is not as it must be; says what, and where to look."""


def state() -> Path:
    """What lasts: databases, disks, keys, clouds.yaml, logs. /srv inside."""
    return cache.root() / "cloud"


def clouds_yaml() -> Path:
    """The tenant's credentials (entry `local`)."""
    return state() / "clouds.yaml"


def operator_key() -> Path:
    """The private key whose public half the bastion takes; the public one is beside it."""
    return state() / "keys" / "operator"


def bastion_host_key() -> str:
    """The bastion's public host key, for known_hosts; it answers on 127.0.0.1:2222 of the cloud's network namespace."""
    return (state() / "keys" / "bastion.pub").read_text().strip()


def running() -> int | None:
    """The pid of the cloud's first process, which holds a lock for as long as it lives."""
    try:
        with (state() / "alive").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((state() / "pid").read_text())
    return None


def _pid() -> int:
    if pid := running():
        return pid
    raise CloudError("the local cloud is not running; start it: make up, or python -m lab.cloud up")


def enter() -> list[str]:
    """Prefix of a command of the host that is to run in the cloud's network namespace."""
    return ["nsenter", "--target", str(_pid()), "--net", "--"]


def inside() -> list[str]:
    """Prefix of a command that is to run inside the cloud: its files, processes and network."""
    settings = [f"{key}={value}" for key, value in ENVIRONMENT.items()]
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--root", "--wd"]
    return ["nsenter", "--target", str(_pid()), *namespaces, "--", "/usr/bin/env", "-i", *settings]


def within(namespace: str) -> list[str]:
    """Prefix of a command that is to run inside the cloud, in the network of one of its namespaces, such as `bastion` or `external`."""
    return [*inside(), "ip", "netns", "exec", namespace]


def _run(*command: str, note: Callable[[str], None] = lambda line: None) -> str:
    """Run a command in the cloud and return what it printed; `note` is told every line while it runs."""
    said = []
    with tempfile.TemporaryFile("w+") as faults:
        with subprocess.Popen([*inside(), *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=faults, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                said.append(line)
                note(line.strip())
        if process.returncode:
            faults.seek(0)
            reason = faults.read().strip()[-3000:]
            raise CloudError(f"{' '.join(command)} failed in the cloud with status {process.returncode}; logs are in {state() / 'log'}; it said:\n{reason}")
    return "".join(said)


def status() -> dict[str, dict[str, int]]:
    """Every service with its pid (0: dead, and about to be started again), seconds of life and restarts."""
    answer: dict[str, dict[str, int]] = json.loads(
        _run("/usr/bin/python3", "-c", "import json; from lab.cloud.system import init; print(json.dumps(init.status()))")
    )
    return answer


def up(phases: Phases) -> None:
    """From nothing, from a stopped cloud, or from one that lives already, to one that is ready."""
    with phases("cloud: Debian root file system"):
        layers.root()
    with phases("cloud: Open vSwitch and OVN"):
        ovn = layers.ovn()
    with phases("cloud: OpenStack from PyPI"):
        openstack = layers.openstack()
    with phases("cloud: image of the nodes"):
        image = layers.image()
    lowers = [openstack, ovn, layers.root()]
    content = cache.digest(*map(str, lowers), str(image), layers.HERE / "system")
    key, ready = state() / "key", state() / "ready"
    if running() and (not key.exists() or key.read_text() != content):
        with phases("cloud: ending one of other content"):
            down(wipe=False)
    if not running():
        with phases("cloud: whether KVM works"):
            kvm_works = kvm.works()
        with phases("cloud: process 1"):
            _boot(lowers, image, kvm_works)
            key.write_text(content)
    pids = {name: service["pid"] for name, service in status().items()}
    if ready.exists() and json.loads(ready.read_text()) == pids:
        with phases("cloud: check"):
            _run("/usr/bin/python3", "-m", "lab.cloud.system.steps", "check")
        return
    for step, phase in STEPS.items():
        with phases(phase):
            _run("/usr/bin/python3", "-m", "lab.cloud.system.steps", step, note=phases.note)
    with phases("cloud: check"):
        _run("/usr/bin/python3", "-m", "lab.cloud.system.steps", "check")
    ready.write_text(json.dumps({name: service["pid"] for name, service in status().items()}))


def _boot(lowers: Sequence[Path], image: Path, kvm_works: bool) -> None:
    folder, schemas = state(), cache.root() / "cloud-schemas"
    for path in (folder, folder / "log", schemas):
        path.mkdir(parents=True, exist_ok=True)
    for stale in ("pid", "ready"):
        (folder / stale).unlink(missing_ok=True)
    shutil.rmtree(folder / "code", ignore_errors=True)
    shutil.copytree(layers.HERE.parent, folder / "code" / "lab", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "image-key").write_text(image.name)
    command = [
        "unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "sh", layers.HERE / "system" / "boot.sh",
        folder, ":".join(map(str, lowers)), image, schemas,
    ]  # fmt: skip
    environment = {**os.environ, **({"KVM": "1"} if kvm_works else {})}
    with (folder / "log" / "init.log").open("a") as log:
        started = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)

    def alive() -> tuple[bool, str]:
        if started.poll() is not None:
            raise CloudError(f"the cloud's first process ended with status {started.returncode}; see {folder / 'log' / 'init.log'}")
        try:
            status()
        except CloudError as error:
            return False, str(error)
        return True, "process 1 answers"

    wait_for("the cloud's first process", alive, 60)


def down(wipe: bool = True) -> None:
    """End every process of the cloud, and with `wipe` forget its state as well; the built layers stay in the cache.

    Commands that were started through `enter()` end as well. Raises TimeoutError or CloudError that names what is left.
    """
    if pid := running():
        spaces = _namespaces(pid)
        # process 1 ends its services one by one on SIGTERM; its end is the end of all the others
        os.kill(pid, signal.SIGKILL if wipe else signal.SIGTERM)
        wait_for("the cloud's processes to end", lambda: (running() is None, f"process {pid} holds its lock"), 120)
        # What was started through enter() outlives the cloud, such as the plugins of an engine that was killed.
        for process in _within(spaces):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        wait_for("the cloud's namespaces to go", lambda: _left(spaces), 30)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(state()) in line]
    if mounts:
        raise CloudError(f"mounts of the cloud are left on the host: {mounts}")
    if wipe:
        shutil.rmtree(state(), ignore_errors=True)


def _of_process(pid: str | int) -> set[str]:
    found = set()
    for kind in ("net", "mnt", "pid"):
        with contextlib.suppress(OSError):
            found.add(str(Path(f"/proc/{pid}/ns/{kind}").readlink()))
    return found


def _namespaces(pid: int) -> set[str]:
    """The namespaces of the cloud: of every process in its process namespace, less the host's."""
    ours = str(Path(f"/proc/{pid}/ns/pid").readlink())
    return {space for process in _processes() if ours in (spaces := _of_process(process)) for space in spaces} - _of_process("self")


def _processes() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]


def _within(spaces: set[str]) -> list[str]:
    """The processes in any of these namespaces."""
    return [process for process in _processes() if _of_process(process) & spaces]


def _left(spaces: set[str]) -> tuple[bool, str]:
    commands = []
    for process in _within(spaces):
        with contextlib.suppress(OSError):
            commands.append(f"{process}: {Path(f'/proc/{process}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace').strip()}")
    return not commands, f"still in the cloud's namespaces: {commands}"


def client(source: Literal["bastion", "external"], address: str, port: int, count: int = 200, concurrency: int = 4, timeout_s: float = 5.0) -> dict[str, Any]:
    """Send `count` requests from the bastion (on the tenant's network) or from 203.0.113.10 on the external network.

    Returns {sent, failed, answers: {server: count}, errors: {what: count}, slowest_s}.
    """
    options = ["--count", str(count), "--concurrency", str(concurrency), "--timeout", str(timeout_s)]
    answer: dict[str, Any] = json.loads(_run("ip", "netns", "exec", source, "python3", "-m", "lab.cloud.system.client", address, str(port), *options))
    return answer


def hypervisor_of() -> dict[str, str]:
    """The hypervisor of every server, by the server's name."""
    return dict(line.split("\t") for line in _run("/usr/bin/python3", "-m", "lab.cloud.system.steps", "servers").splitlines())


def machine_of(server_id: str) -> int:
    """The pid on the host of the QEMU that runs a server. Raises CloudError, if none does."""
    for process in _processes():
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
            # libvirt gives a domain the id of Nova's server.
            if ("-uuid", server_id) in pairwise(words):
                return int(process)
    raise CloudError(f"no QEMU on this machine runs the server {server_id}; see its state: python -m lab.cloud exec openstack --os-cloud local server list")


def flows(hypervisor: str) -> list[str]:
    """The flows that a hypervisor's Open vSwitch carries now; one with `ct(` in its actions goes through connection tracking."""
    return _run("ovs-appctl", "-t", f"/run/ovs/{hypervisor}/vswitchd.ctl", "dpctl/dump-flows", "--names", "netdev@ovs-netdev").splitlines()
