"""The edge of the cloud: the bastion with the package repository on the tenant's network, and a client on the external network.

Both are network namespaces at the gateway. Whenever a tenant has a port named `bastion`, the namespace of that name is plugged into it; when
the port goes, so does the plug. Nothing polls Neutron: OVN's northbound database says when a port came, changed or went.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.cloud.system.configuration import OVN_NB, STATE
from lab.cloud.system.hypervisors import EXTERNAL_BRIDGE, GATEWAY, cable, ip, namespace, vsctl
from lab.cloud.system.init import start

BASTION, EXTERNAL = "bastion", "external"
EXTERNAL_ADDRESS = "203.0.113.10/24"
OPERATOR, OPERATOR_ADDRESS = "operator", "203.0.113.11/24"
"""The cloud's own namespace, where `pulumi` runs, as a machine on the external network: it reaches floating IPs."""
SSH_PORT = 2222
TAP = "bastion"

SSHD = f"""# One sshd per connection, inside the bastion's namespace; it forwards and does nothing else.
HostKey {STATE}/keys/bastion
AuthorizedKeysFile {STATE}/keys/operator.pub
# the keys' folder may lie under one that others can write
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding local
AllowStreamLocalForwarding no
GatewayPorts no
PermitTTY no
ForceCommand /bin/false
MaxSessions 100
"""


def edge() -> None:
    """The namespaces, the operator's address on the external network, the bastion's sshd and repository, and the watcher that plugs it."""
    for name in (BASTION, EXTERNAL):
        namespace(name)
    cable(EXTERNAL, "eth0", GATEWAY, "external")
    ip("-n", EXTERNAL, "address", "replace", EXTERNAL_ADDRESS, "dev", "eth0")
    vsctl(GATEWAY, "--may-exist", "add-port", EXTERNAL_BRIDGE, "external")
    cable("", OPERATOR, GATEWAY, OPERATOR)
    ip("address", "replace", OPERATOR_ADDRESS, "dev", OPERATOR)
    vsctl(GATEWAY, "--may-exist", "add-port", EXTERNAL_BRIDGE, OPERATOR)
    Path("/run/sshd").mkdir(exist_ok=True)
    Path("/etc/ssh/bastion").write_text(SSHD)
    listen = f"TCP-LISTEN:{SSH_PORT},bind=127.0.0.1,reuseaddr,fork,backlog=64"
    start("bastion", "socat", listen, f"EXEC:ip netns exec {BASTION} /usr/sbin/sshd -i -f /etc/ssh/bastion")
    start("repository", "ip", "netns", "exec", BASTION, "python3", "-m", "http.server", "--directory", "/opt/image/repository", "80")
    start("plug", "/usr/bin/python3", "-m", "lab.cloud.system.edge")


@dataclass(frozen=True)
class Port:
    """What the namespace has to look like to be this port of the tenant's."""

    id: str
    mac: str
    addresses: tuple[str, ...]
    gateway: str
    mtu: str


def plain(value: Any) -> Any:
    """OVSDB's JSON for sets and maps as Python's."""
    match value:
        case ["map", pairs]:
            return dict(pairs)
        case ["set", items]:
            return items
    return value


def rows(*query: str) -> list[dict[str, Any]]:
    answer = subprocess.run(["ovn-nbctl", f"--db={OVN_NB}", "--timeout=30", "--format=json", *query], capture_output=True, text=True, check=True).stdout
    table = json.loads(answer)
    return [dict(zip(table["headings"], map(plain, row), strict=True)) for row in table["data"]]


def wanted() -> Port | None:
    """The tenant's port named `bastion`, as OVN has it now."""
    found = rows("--columns=name,addresses,external_ids,dhcpv4_options", "find", "Logical_Switch_Port", rf"external_ids:neutron\:port_name={BASTION}")
    if not found:
        return None
    port = found[0]
    addresses = port["addresses"] if isinstance(port["addresses"], str) else port["addresses"][0]
    options: dict[str, str] = {}
    match port["dhcpv4_options"]:
        case ["uuid", uuid]:
            options = rows("--columns=options", "list", "DHCP_Options", uuid)[0]["options"]
    cidrs = tuple(port["external_ids"]["neutron:cidrs"].split())
    return Port(port["name"], addresses.split()[0], cidrs, options.get("router", ""), options.get("mtu", "1442"))


def unplug() -> None:
    vsctl(GATEWAY, "--if-exists", "del-port", "br-int", TAP)
    subprocess.run(["ip", "-n", GATEWAY, "link", "delete", TAP], capture_output=True)
    Path(f"/run/cable-{BASTION}-eth0").unlink(missing_ok=True)


def plug(port: Port) -> None:
    cable(BASTION, "eth0", GATEWAY, TAP)
    ip("-n", BASTION, "link", "set", "eth0", "address", port.mac, "mtu", port.mtu)
    for address in port.addresses:
        ip("-n", BASTION, "address", "replace", address, "dev", "eth0")
    if port.gateway:
        ip("-n", BASTION, "route", "replace", "default", "via", port.gateway)
    ids = [f"external_ids:{key}={value}" for key, value in (("iface-id", port.id), ("attached-mac", port.mac), ("iface-status", "active"))]
    vsctl(GATEWAY, "--may-exist", "add-port", "br-int", TAP, "--", "set", "interface", TAP, *ids)


def watch() -> None:
    """Keep the plug as the tenant's port wants it. The namespace itself stays, because servers run in it."""
    monitor = subprocess.Popen(
        ["ovsdb-client", "--no-headings", "monitor", OVN_NB, "OVN_Northbound", "Logical_Switch_Port", "name,addresses,external_ids"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert monitor.stdout
    unplug()
    plugged: Port | None = None
    for _ in monitor.stdout:
        port = wanted()
        if port != plugged:
            unplug()
            if port:
                plug(port)
            print(f"plugged into {port}" if port else "unplugged", flush=True)
            plugged = port
    raise SystemExit(f"ovsdb-client ended with status {monitor.wait()}")


if __name__ == "__main__":
    watch()
