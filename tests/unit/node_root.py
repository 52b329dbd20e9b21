"""A node for the program: the lab's Debian under an overlay, in namespaces of its own, with stubs for what needs a kernel with IPVS.

Real are the program, keepalived -t, ip, nft and sysctl (except net.ipv4.vs). Stubs stand in front of systemctl, ipvsadm, modprobe and journalctl;
they write what they are asked to /stub/calls. `systemctl` runs what the unit files on the node say, except keepalived itself: starting or reloading
it fills the stub's table of virtual servers from the version in force, as keepalived does. Time is /proc/uptime, a file that moves on by a second
whenever the program pauses, which takes no time.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components import keepalived
from components.configuration import Cluster
from components.keepalived import File
from lab.cloud import layers
from node.openshift_lvs.facts import Facts

LIB = "/usr/local/lib/openshift-lvs"
PROGRAM = f"{LIB}/{keepalived.program_digest()}"
OPENSHIFT_LVS = f"{PROGRAM}/openshift-lvs"
CLOCK = {
    "    return time.monotonic()\n": '    with open("/proc/uptime", encoding="ascii") as file:\n        return float(file.read().split()[0])\n',
    "    time.sleep(LOOK_S)\n": '    import subprocess\n\n    subprocess.run(["sleep", "1"], check=True)\n    time.sleep(0.01)\n',
}
"""What the program's clock does on a node under test, by what it does elsewhere."""
STUBS = Path(__file__).parent / "stubs"
PASSWORD = "pa55word"  # noqa: S105 (a test's)


@dataclass
class Node:
    """One node: its files as they are on it, and a way to run a verb there."""

    pid: int
    """The first process of its namespaces."""

    def path(self, name: str) -> Path:
        """A file of the node. Only for relative links: an absolute one would lead out of it."""
        return Path(f"/proc/{self.pid}/root/{name.lstrip('/')}")

    def read(self, name: str) -> str:
        return self.path(name).read_text()

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def run(self, *command: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the node as an ssh session would."""
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wdns=/"]
        clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **environment}
        return subprocess.run([*enter, *command], input=stdin, env=clean, capture_output=True, text=True, timeout=60)

    def verb(self, verb: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run one of the program's commands."""
        return self.run(OPENSHIFT_LVS, verb, *arguments, stdin=stdin)

    def python(self, script: str) -> str:
        """Run statements in the program, its modules imported, with `here` as the description in force; what they print."""
        modules = "activation, clock, description, host, ipvs, legacy, lock, own_calls, servers, state, unbalanced, versions, vrrp, watch"
        begin = f"import sys; sys.path.insert(0, {PROGRAM!r})\nfrom openshift_lvs import {modules}\nhere = description.current()\n"
        done = self.run("python3", "-IS", "-c", begin + script)
        assert done.returncode == 0, f"{script}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    @property
    def facts(self) -> Facts:
        """What the node says of itself."""
        return Facts.from_json(self.succeeds("status", "--json"))

    def succeeds(self, verb: str, *arguments: str, stdin: str = "") -> str:
        """Run one of the program's commands and return what it says."""
        done = self.verb(verb, *arguments, stdin=stdin)
        assert done.returncode == 0, f"{verb}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, script: str, stdin: str = "") -> str:
        """Run a shell command that must succeed; its output."""
        done = self.run("sh", "-euc", script, stdin=stdin)
        assert done.returncode == 0, f"{script}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def deliver(self, files: tuple[File, ...]) -> str:
        """Stage files as the program does; the version's name."""
        version = keepalived.version(files)
        self.succeeds("deliver", version, stdin=keepalived.bundle(files))
        return version

    def _deliver_as(self, cluster: Cluster, host: str, root: Path) -> str:
        """Stage what the cluster says of that host, whose IPv6 address eth0 gets first; the version's name."""
        for address in cluster.node(host).host.addresses:
            if address.version == 6:
                self.run("ip", "address", "replace", f"{address}/64", "dev", "eth0", "nodad")
        return self.deliver(keepalived.render(cluster, host, root))

    def roll_out(self, cluster: Cluster, host: str, root: Path = keepalived.ROOT) -> str:
        """Deliver and activate what the cluster says of that host; the version's name."""
        version = self._deliver_as(cluster, host, root)
        self.succeeds("activate", version)
        return version

    @property
    def uptime(self) -> int:
        """Seconds since the boot, as the scripts read them."""
        return int(self.read("/proc/uptime").partition(".")[0])

    def accepts(self, cluster: Cluster, host: str, root: Path = keepalived.ROOT) -> None:
        """Deliver as the program does, secrets too: `validate` on the node has keepalived and nft test it."""
        version = self._deliver_as(cluster, host, root)
        secrets = keepalived.authentication(cluster, host, dict.fromkeys(cluster.vips, PASSWORD))
        if secrets:
            self.succeeds("deliver-secret", version, stdin=keepalived.bundle(tuple(File(path, 0o600, text) for path, text in secrets.items())))
        assert self.succeeds("validate", version) == ""

    def calls(self) -> list[str]:
        """What the stubs were asked since the last look, questions left out."""
        log = self.path("/stub/calls")
        lines = log.read_text().splitlines()
        log.write_text("")
        return [line for line in lines if not line.startswith(("systemctl -q is-active", "systemctl is-active", "ipvsadm --list"))]

    @property
    def in_force(self) -> str | None:
        """The version that `current` points to."""
        link = self.path("/etc/keepalived/current")
        return link.readlink().name if link.is_symlink() else None

    def addresses_on(self, interface: str) -> set[str]:
        """IPv4 addresses of an interface, without the loopback's own."""
        lines = self.sh(f"ip -4 -o address show dev {interface}").splitlines()
        return {line.split()[3] for line in lines} - {"127.0.0.1/8"}


def recording(instance: str, service: str, weight: int) -> str:
    """A shell command that records a service's quorum as the resident process does."""
    script = f'import sys; sys.path.insert(0, "{PROGRAM}"); from openshift_lvs import quorum; quorum.record(*sys.argv[1:3], {weight})'
    return f"python3 -IS -c '{script}' {instance} {service}"


@contextlib.contextmanager
def node(installed: bool = True, root: Path | None = None) -> Iterator[Node]:
    """A node that lives as long as the context: an interface eth0, the stubs, and the program in place unless told otherwise.

    `root`: the file system whose programs it runs, never changed; the lab's Debian when none is given.
    """
    setup = """
        mount -t tmpfs node "$2"; mkdir "$2/upper" "$2/work" "$2/root"
        mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" node "$2/root"
        cd "$2/root"
        mount -t proc proc proc; mount -t sysfs sys sys; mount -t tmpfs run run; [ -e dev/null ] || : >dev/null; mount --bind /dev/null dev/null
        ip link set lo up; ip link add eth0 type veth peer name wire; ip address add 192.168.0.2/24 dev eth0; ip link set wire up; ip link set eth0 up
        mkdir -p stub usr/local/sbin; : >stub/calls; : >stub/table; : >stub/daemons
        cp -p "$3"/* usr/local/sbin/
        echo 1000000.00 0.00 >stub/uptime; mount --bind stub/uptime proc/uptime
        exec chroot . sh -c 'echo ready; read -r forever'
    """
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc", setup, "sh"]
    with (
        tempfile.TemporaryDirectory(prefix="node-") as folder,
        subprocess.Popen(
            [*unshare, root or layers.root(), folder, STUBS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdin and process.stdout and process.stderr
        try:
            if process.stdout.readline() != "ready\n":
                raise AssertionError(f"the node did not come up: {process.stderr.read()}")
            made = Node(int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()))
            if installed:
                for file in keepalived.program():
                    made.write(f"{PROGRAM}/{file.path}", file.text, file.mode)
                replace_clock(made)
            yield made
        finally:
            process.stdin.close()
            process.wait(10)


def replace_clock(made: Node) -> None:
    """Give the installed program the node's own clock."""
    text = made.read(f"{PROGRAM}/openshift_lvs/clock.py")
    for real, fake in CLOCK.items():
        assert real in text, "the program's clock has changed"
        text = text.replace(real, fake)
    made.write(f"{PROGRAM}/openshift_lvs/clock.py", text)
