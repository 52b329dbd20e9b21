"""What a machine of the segment that is no director sends: forged adverts and sync messages, a flood of routers, and packets without a handshake.

And a host with a keepalived of its own, whose VIP the program takes over. `packets` runs in the client's namespace, in the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lab.nodes import machine, probe, stack
from lab.nodes.experiments import bounds
from lab.nodes.experiments.changes import as_it_was
from lab.nodes.experiments.scene import LVS, Bound, Description, Experiment, Scene, Step, on_owner, owner_off, switch
from lab.nodes.probe import MASTER
from node.openshift_lvs.ipvs import connections_in

FORGED = "203.0.113.66"
"""The client in a forged sync message."""
FORGING_S = 10
FLOOD_S = 60
ACKS_EACH_S = 10_000
CONNECTIONS_MAX = 20_000
"""Few, so that the lab's slow client reaches them."""
LOOKS_S = 2
"""Seconds of packets until the node acts upon a table that is too long."""

PACKETS = f"""
import random, socket, struct, sys, time
kind, seconds, vip, port, number = sys.argv[1], float(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
mine = bytes.fromhex(open("/sys/class/net/eth0/address").read().replace(":", ""))

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF

def ip(source, target, protocol, payload, ttl=255):
    header = struct.pack("!BBHHHBBH", 0x45, 0xC0, 20 + len(payload), 1, 0, ttl, protocol, 0) + socket.inet_aton(source) + socket.inet_aton(target)
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload

def advert(source):
    body = struct.pack("!BBBBHH", 0x31, number, 255, 1, 30, 0) + socket.inet_aton(vip)
    pseudo = socket.inet_aton(source) + socket.inet_aton("224.0.0.18") + struct.pack("!BBH", 0, 112, len(body))
    body = body[:6] + struct.pack("!H", checksum(pseudo + body)) + body[8:]
    return bytes.fromhex("01005e000012") + mine + b"\\x08\\x00" + ip(source, "224.0.0.18", 112, body)

def sync():
    # A connection in the state ESTABLISHED, to the sender itself as the real server.
    connection = struct.pack("!BBHIHHHHII", 0, 6, 36, 0, 1, 40000, port, port, number << 20 | port, 900)
    connection += socket.inet_aton("{FORGED}") + socket.inet_aton(vip) + socket.inet_aton("{machine.CLIENT}")
    message = struct.pack("!BBHBBH", 0, number, 8 + len(connection), 1, 1, 0) + connection
    datagram = struct.pack("!HHHH", 8848, 8848, 8 + len(message), 0) + message
    return bytes.fromhex("01005e000051") + mine + b"\\x08\\x00" + ip("{machine.CLIENT}", "224.0.0.81", 17, datagram, 1)

end = time.monotonic() + seconds
while time.monotonic() < end:
    if kind == "advert":
        wire.send(advert("{machine.CLIENT}"))
    elif kind == "routers":
        wire.send(advert("192.168.0.%d" % random.randrange(110, 250)))
        wire.send(advert("10.%d.%d.1" % (random.getrandbits(8), random.getrandbits(8))))
    else:
        wire.send(sync())
    time.sleep(0.001 if kind == "routers" else 0.05)
"""


def _sends(kind: str, seconds: float, lasts: bool = True) -> Callable[[Scene], None]:
    """The client sends such packets; returns when they end, or at once."""

    def act(scene: Scene) -> None:
        vip = scene.cluster.vips[scene.target.vip]
        words = ["python3", "-c", PACKETS, kind, str(seconds), str(vip.address), str(vip.services[0].port), str(vip.virtual_router_id)]
        scene.do("systemd-run", "--quiet", "--collect", "--unit=packets", "ip", "netns", "exec", "client", *words)
        if lasts:
            time.sleep(seconds)  # the experiment itself: packets for so long

    return act


def _verify_names(what: str) -> Callable[[Scene], Iterable[str]]:
    """`verify` reports the client, and nothing else; the nodes forget it after that."""

    def evidence(scene: Scene) -> Iterable[str]:
        done = stack.operate("verify")
        if f"{machine.CLIENT} {what}" not in done.stdout:
            yield f"operations verify does not name {machine.CLIENT} with {what}: {done.stdout[-500:]}{done.stderr[-500:]}"
        for node in scene.live():
            if FORGED in machine.run("lab", "exec", node, "ipvsadm", "--list", "--numeric", "--connection").stdout:
                yield f"{node} has a connection of {FORGED}, of which no director told"
        yield from forget_senders(scene)

    return evidence


def forget_senders(scene: Scene) -> Iterable[str]:
    """Have the nodes forget which other machines sent what only directors send. Yields nothing."""
    for node in scene.cluster.nodes():
        machine.run("lab", "exec", node.name, LVS, "apply")
    return ()


def _acks(scene: Scene) -> None:
    """The client sends TCP packets that belong to no connection. A slow machine sends fewer than it is told: the row says how many."""
    vip = scene.cluster.vips[scene.target.vip]
    words = ["eth0", str(vip.address), str(vip.services[0].port), str(ACKS_EACH_S), str(FLOOD_S)]
    scene.moment = probe.now()
    sent, seconds = machine.run("ip", "netns", "exec", "client", "/usr/local/bin/traffic", "acks", *words, timeout_s=2 * FLOOD_S).stdout.split()
    scene.told.append(f"{sent} packets in {seconds} s")


def _bounded(scene: Scene) -> Iterable[str]:
    """Reports the entries of each director, and what they take of the kernel's memory."""
    size = int(machine.run("cat", "/sys/kernel/slab/ip_vs_conn/slab_size").stdout)
    most = CONNECTIONS_MAX + LOOKS_S * ACKS_EACH_S
    each = []
    for node in scene.live():
        known = connections_in(machine.run("lab", "exec", node, "cat", "/proc/net/ip_vs").stdout)
        each.append(f"{node} {known} ({known * size / 2**20:.1f} MB)")
        if known > most:
            yield f"{node} has {known} connections, more than {most}"
    scene.told.append(f"entries of {size} bytes: {', '.join(each)}")


def _on_directors(script: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        for node in scene.live():
            scene.on(node, script)

    return act


def _at_most(connections: int) -> str:
    """A script that sets `connections_max` without a deployment."""
    return f'sed -i \'s/"connections_max": [0-9]*/"connections_max": {connections}/\' /etc/keepalived/current/host.json; systemctl restart openshift-lvs-watch'


def _forgotten(scene: Scene) -> None:
    """Remove the entries of the flood. The kernel ends those of a server that leaves the table (expire_nodest_conn), and `watch` puts the table back."""
    _on_directors(f"{_at_most(scene.cluster.pools['master'].connections_max)}; ipvsadm --clear")(scene)


FLOOD = Experiment(
    MASTER,
    (
        Step("few connections are allowed", "spoofed", _on_directors(_at_most(CONNECTIONS_MAX)), bounds.nothing_lost),
        Step("10,000 ACKs a second for a minute", "spoofed", _acks, bounds.nothing_lost, evidence=_bounded),
        Step("the owner's link down after that", "spoofed", switch("carrier", "off"), bounds.node_lost, owner_off),
        Step("the owner's link up again after that", "spoofed", switch("carrier", "on"), bounds.way_back, evidence=_bounded),
        Step("the entries of the flood removed", "spoofed", _forgotten, bounds.reported),
    ),
)


# A host with a keepalived of its own


OWN = """
systemctl disable --now keepalived 2>/dev/null || true
mkdir -p /etc/keepalived
printf '%s\\n' 'vrrp_instance own {' ' interface eth0' ' virtual_router_id 61' ' priority 100' ' advert_int 1' ' virtual_ipaddress {' '  VIP/32' ' }' '}' \
    >/etc/keepalived/keepalived.conf
systemctl enable --now keepalived
"""


def _without_owner(scene: Scene) -> Callable[[Description], None]:
    def change(described: Description) -> None:
        del described["pools"]["master"]["hosts"][scene.owner]
        described["vips"]["master"].update(owner=scene.backup, answers_within=0)

    return change


def _own_keepalived(scene: Scene) -> None:
    """The owner leaves the program, and its own keepalived holds the VIP; the other directors have the program and take no VIP.

    A director that is removed while it sends adverts is refused.
    """
    scene.on(scene.owner, f"{LVS} ownership off")
    scene.deploy(_without_owner(scene))
    for node in scene.live():
        scene.on(node, f"{LVS} ownership off")
    scene.on(scene.owner, OWN.replace("VIP", str(scene.cluster.vips["master"].address)))


def _taken_over(scene: Scene) -> None:
    """As docs/how-to/take-over-a-keepalived.md says: the new director takes the VIP first, then the old keepalived ends."""
    scene.on(scene.backup, f"{LVS} ownership on")
    machine.run("sh", "-euc", f"until lab exec {scene.backup} ip address show dev eth0 | grep -q {scene.cluster.vips['master'].address}/; do sleep 0.05; done")
    machine.run(
        "lab", "exec", scene.owner, "sh", "-c", "systemctl disable --now keepalived; mv /etc/keepalived/keepalived.conf /etc/keepalived/keepalived.conf.before"
    )
    for node in scene.live():
        machine.run("lab", "exec", node, LVS, "ownership", "on")


def _hardly_a_gap(scene: Scene) -> Bound:
    """Streams through the old holder end with it; new connections find a holder at any moment."""
    return Bound("never 0.5 s without an answer", failed=None, gap_s=0.5, may_lose_streams_of=(scene.owner,))


NEIGHBOURS = [
    Experiment(
        MASTER,
        (Step("a neighbour sends adverts of priority 255", "neighbour", _sends("advert", FORGING_S), bounds.nothing_lost, evidence=_verify_names("VRRP")),),
    ),
    Experiment(
        MASTER,
        (
            Step("a neighbour tells of connections that do not exist", "neighbour", _sends("sync", FORGING_S), bounds.nothing_lost,
                 evidence=_verify_names("connection sync")),
        ),
    ),
    Experiment(
        MASTER,
        (
            Step("a thousand routers a second with our VRID", "neighbour", _sends("routers", FORGING_S), bounds.nothing_lost, evidence=forget_senders),
            Step("they send while the owner is drained", "neighbour", _sends("routers", FORGING_S, lasts=False), bounds.nothing_lost),
            Step("the owner drained, and back", "neighbour", on_owner(f"{LVS} drain && {LVS} start"), bounds.nothing_lost, evidence=forget_senders),
        ),
    ),
    FLOOD,
    Experiment(
        MASTER,
        (
            Step("a host's own keepalived holds the VIP", "own keepalived", _own_keepalived, bounds.reported,
                 lambda scene: {**scene.live(), scene.owner: 0}),
            Step("the program takes the VIP over", "own keepalived", _taken_over, _hardly_a_gap),
            Step("that host joins the pool", "own keepalived", lambda scene: scene.deploy(as_it_was), bounds.nothing_lost),
        ),
    ),
]  # fmt: skip
