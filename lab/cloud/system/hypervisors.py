"""The machines of the cloud: network namespaces with an Open vSwitch in user space, an OVN controller and, but for the gateway, libvirt
and Nova. An underlay bridge in a namespace of its own joins them.

The gateway is a chassis without servers: routers, floating IPs, the bastion and the external network hang on it, so that what they do to a
packet (address translation needs connection tracking) never shows on a hypervisor.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.cloud.system import configuration
from lab.cloud.system.configuration import OVN_SB, STATE
from lab.cloud.system.control_plane import run, say, socket_made, sql, wait_for_service
from lab.cloud.system.init import start
from lab.phases import wait_for

NODES = [f"node{number}" for number in range(1, 6)]
GATEWAY = "gateway"
EXTERNAL_BRIDGE = "br-ex"


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def namespaces() -> list[str]:
    return [line.split()[0] for line in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()]


def namespace(name: str) -> None:
    if name not in namespaces():
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")


def cable(namespace_a: str, a: str, namespace_b: str, b: str) -> None:
    """A veth pair; checksums are made in software, because Open vSwitch in user space passes on unfinished ones as they are.

    The namespace "" is the cloud's own.
    """
    if Path(f"/run/cable-{namespace_a}-{a}").exists():
        return
    ip("link", "add", a, *(["netns", namespace_a] if namespace_a else []), "type", "veth", "peer", "name", b, "netns", namespace_b)
    for where, end in ((namespace_a, a), (namespace_b, b)):
        subprocess.run([*(["ip", "netns", "exec", where] if where else []), "ethtool", "-K", end, "tx", "off"], check=True, capture_output=True)
        ip(*(["-n", where] if where else []), "link", "set", end, "up")
    Path(f"/run/cable-{namespace_a}-{a}").touch()


def vsctl(chassis: str, *arguments: str) -> None:
    run("ovs-vsctl", f"--db=unix:/run/ovs/{chassis}/db.sock", "--timeout=60", *arguments, log=f"{chassis}-vsctl")


def start_chassis(name: str, number: int) -> None:
    """A network namespace, its Open vSwitch and its OVN controller. The switch's database is made anew: Nova and OVN fill it."""
    folder = Path("/run/ovs") / name
    namespace(name)
    cable(name, "underlay", "underlay", name)
    ip("-n", "underlay", "link", "set", name, "master", "bridge")
    folder.mkdir(exist_ok=True)
    if not (folder / "conf.db").exists():
        run("ovsdb-tool", "create", folder / "conf.db", "/opt/ovn/root/usr/share/openvswitch/vswitch.ovsschema", log=f"{name}-vsctl")
    within = ["ip", "netns", "exec", name]
    env = {"OVS_RUNDIR": str(folder), "OVN_RUNDIR": str(folder), "OVS_LOGDIR": str(STATE / "log"), "OVN_LOGDIR": str(STATE / "log")}
    start(
        f"{name}-ovsdb",
        *within,
        "ovsdb-server",
        folder / "conf.db",
        f"--remote=punix:{folder}/db.sock",
        f"--unixctl={folder}/ovsdb.ctl",
        "-vconsole:warn",
        **env,
    )
    wait_for_service(f"{name}-ovsdb", lambda: socket_made(folder / "db.sock"))
    vsctl(name, "--no-wait", "init")
    start(f"{name}-vswitchd", *within, "ovs-vswitchd", f"unix:{folder}/db.sock", f"--unixctl={folder}/vswitchd.ctl", "-vconsole:warn", **env)
    ids = {
        "system-id": name, "hostname": name, "ovn-remote": OVN_SB, "ovn-encap-type": "geneve", "ovn-encap-ip": f"10.99.0.{number}",
        "ovn-bridge": "br-int", "ovn-bridge-datapath-type": "netdev",
    }  # fmt: skip
    bridges = {"br-int": ["fail-mode=secure"], "br-underlay": []}
    if name == GATEWAY:
        ids |= {"ovn-bridge-mappings": f"public:{EXTERNAL_BRIDGE}", "ovn-cms-options": "enable-chassis-as-gw"}
        bridges[EXTERNAL_BRIDGE] = []
    made = [
        part
        for bridge, options in bridges.items()
        for part in ("--", "--may-exist", "add-br", bridge, "--", "set", "bridge", bridge, "datapath_type=netdev", *options)
    ]
    vsctl(
        name,
        "set",
        "open",
        ".",
        *(f"external_ids:{key}={value}" for key, value in ids.items()),
        *made,
        "--",
        "--may-exist",
        "add-port",
        "br-underlay",
        "underlay",
    )
    ip("-n", name, "address", "replace", f"10.99.0.{number}/24", "dev", "br-underlay")
    for bridge in bridges.keys() - {"br-int"}:
        ip("-n", name, "link", "set", bridge, "up")
    start(f"{name}-controller", *within, "ovn-controller", f"unix:{folder}/db.sock", "-vconsole:warn", **env)


LIBVIRTD = """#!/bin/sh
# libvirtd of NODE: the folders that every libvirtd takes for its own are this node's.
set -eu
hostname NODE
for pair in run/libvirt-NODE:run/libvirt srv/libvirt/NODE/etc:etc/libvirt srv/libvirt/NODE/lib:var/lib/libvirt \\
    srv/libvirt/NODE/log:var/log/libvirt srv/libvirt/NODE/cache:var/cache/libvirt run/ovs/NODE:run/openvswitch; do
    mkdir -p "/${pair%:*}" "/${pair#*:}"
    mount --bind "/${pair%:*}" "/${pair#*:}"
done
cat > /etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
END
# Nova sends everything over one connection: at the default of 5 requests libvirtd stops answering keepalives, and every start fails
cat > /etc/libvirt/libvirtd.conf <<END
auth_unix_rw = "none"
max_client_requests = 50
max_workers = 20
keepalive_interval = -1
END
# libvirt sets a tap up, and Open vSwitch in user space makes it promiscuous. Each reads all flags and writes them back, at about the same time: when Open
# vSwitch writes last, the tap is down again and its server cut off. So it is set up once more when both are done.
mkdir -p /etc/libvirt/hooks
cat > /etc/libvirt/hooks/qemu <<'END'
#!/bin/sh
set -eu
[ "$2" = started ] || exit 0
for tap in $(grep -o "<target dev='tap[^']*" | cut -d "'" -f 2); do
    timeout 30 sh -c 'until ip -o link show "$0" | grep -q PROMISC; do sleep 0.1; done' "$tap" || {
        echo "waited 30 s for Open vSwitch to take $tap: $(ip -o link show "$tap")" >&2
        exit 1
    }
    ip link set "$tap" up
done
# A server's processor must not wait for the programs beside the cloud, such as the engine: the kernel shares time between sessions first
autogroup=/proc/$(cat "/run/libvirt/qemu/$1.pid")/autogroup
[ ! -e "$autogroup" ] || echo -10 > "$autogroup"
END
chmod 755 /etc/libvirt/hooks/qemu
renice -n -10 -p $$
exec libvirtd -p /run/libvirt/libvirtd.pid
"""


def start_hypervisor(node: str, virt_type: str) -> None:
    script = Path(f"/run/libvirtd-{node}")
    script.write_text(LIBVIRTD.replace("NODE", node))
    for folder in ("/run/libvirt", "/run/openvswitch"):
        Path(folder).mkdir(exist_ok=True)
    # a host name and mounts of its own, in the node's network namespace: QEMU's taps land beside that node's Open vSwitch
    start(f"{node}-libvirtd", "ip", "netns", "exec", node, "unshare", "--uts", "--mount", "sh", script)
    wait_for_service(f"{node}-libvirtd", lambda: socket_made(Path(f"/run/libvirt-{node}/libvirt-sock")))
    # in the namespace of the control plane, whose APIs listen on loopback
    start(f"{node}-compute", "nova-compute", "--config-file", "/etc/nova/nova.conf", "--config-file", configuration.write_compute(node, virt_type))


def hypervisors() -> None:
    """The gateway and five hypervisors; returns when Nova counts on all of them."""
    namespace("underlay")
    if not Path("/run/underlay").exists():
        ip("-n", "underlay", "link", "add", "bridge", "type", "bridge")
        ip("-n", "underlay", "link", "set", "bridge", "up")
        Path("/run/underlay").touch()
    for number, name in enumerate([GATEWAY, *NODES], 1):
        start_chassis(name, number)
    virt_type = "kvm" if Path("/dev/kvm").exists() else "qemu"
    for node in NODES:
        start_hypervisor(node, virt_type)

    def registered() -> tuple[bool, str]:
        hosts = sql("select host from nova.compute_nodes where deleted = 0").split()[1:]
        return set(NODES) <= set(hosts), f"{len(hosts)} of {len(NODES)} registered"

    wait_for("the hypervisors in Nova", registered, 300, note=say)
    run("nova-manage", "cell_v2", "discover_hosts", log="discover-hosts")

    def chassis() -> tuple[bool, str]:
        names = subprocess.run(
            ["ovn-sbctl", f"--db={OVN_SB}", "--bare", "--columns=name", "list", "chassis"], capture_output=True, text=True, check=True
        ).stdout.split()
        return {GATEWAY, *NODES} <= set(names), f"OVN has {sorted(names)}"

    wait_for("the chassis in OVN", chassis, 120, note=say)
