"""The edge of the cloud: the bastion with the package repository on the tenant's network, and a client on the external network.

Both are network namespaces at the gateway. Whenever a tenant has a port named `bastion` or `bastion-v6`, the first namespace is plugged into it; when
the port goes, so does the plug. The external client has a route to each IPv6 subnet that is behind a router, as the provider's own routers would. Nothing
polls Neutron: OVN's northbound database says when a port came, changed or went.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from ipaddress import IPv6Interface, ip_interface
from pathlib import Path
from typing import Any

from lab.cloud.system.configuration import OVN_NB, STATE
from lab.cloud.system.hypervisors import EXTERNAL_BRIDGE, GATEWAY, cable, ip, namespace, vsctl
from lab.cloud.system.init import start

BASTION, EXTERNAL = "bastion", "external"
EXTERNAL_ADDRESSES = ("203.0.113.10/24", "2001:db8:0:ff::10/64")
OPERATOR, OPERATOR_ADDRESS = "operator", "203.0.113.11/24"
"""The cloud's own namespace, where `pulumi` runs, as a machine on the external network: it reaches floating IPs."""
SSH_PORT = 2222
INTERFACES = {"bastion": "eth0", "bastion-v6": "eth1"}
"""The interface of the bastion's namespace for each port of the tenant's. A reserved port has one address, so there is one for each family."""

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
        # Otherwise each interface of the bastion has the subnet's IPv6 route.
        ip("netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.default.accept_ra=0")
    cable(EXTERNAL, "eth0", GATEWAY, "external")
    for address in EXTERNAL_ADDRESSES:
        ip("-n", EXTERNAL, "address", "replace", address, "dev", "eth0")
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


def wanted(ports: list[dict[str, Any]], name: str) -> Port | None:
    """The tenant's port of this name, as OVN has it now."""
    found = [port for port in ports if port["external_ids"].get("neutron:port_name") == name]
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


def routes(ports: list[dict[str, Any]]) -> dict[str, str]:
    """The IPv6 subnets behind each router, and the router's IPv6 address on the external network."""

    def of(owner: str) -> list[tuple[str, IPv6Interface]]:
        """The router and the address of each IPv6 port with this owner."""
        mine = [port["external_ids"] for port in ports if port["external_ids"].get("neutron:device_owner") == owner]
        found = [(each["neutron:device_id"], ip_interface(cidr)) for each in mine for cidr in each["neutron:cidrs"].split()]
        return [(router, address) for router, address in found if isinstance(address, IPv6Interface)]

    gateways = dict(of("network:router_gateway"))
    return {str(inside.network): str(gateways[router].ip) for router, inside in of("network:router_interface") if router in gateways}


def unplug(name: str) -> None:
    vsctl(GATEWAY, "--if-exists", "del-port", "br-int", name)
    subprocess.run(["ip", "-n", GATEWAY, "link", "delete", name], capture_output=True)
    Path(f"/run/cable-{BASTION}-{INTERFACES[name]}").unlink(missing_ok=True)


def plug(name: str, port: Port) -> None:
    interface = INTERFACES[name]
    cable(BASTION, interface, GATEWAY, name)
    ip("-n", BASTION, "link", "set", interface, "address", port.mac, "mtu", port.mtu)
    for address in port.addresses:
        ip("-n", BASTION, "address", "replace", address, "dev", interface, *(["nodad"] if ":" in address else []))
    if port.gateway:
        ip("-n", BASTION, "route", "replace", "default", "via", port.gateway)
    ids = [f"external_ids:{key}={value}" for key, value in (("iface-id", port.id), ("attached-mac", port.mac), ("iface-status", "active"))]
    vsctl(GATEWAY, "--may-exist", "add-port", "br-int", name, "--", "set", "interface", name, *ids)


def watch() -> None:
    """Keep the plugs as the tenant's ports want them, and the routes. The namespaces themselves stay, because servers run in them."""
    monitor = subprocess.Popen(
        ["ovsdb-client", "--no-headings", "monitor", OVN_NB, "OVN_Northbound", "Logical_Switch_Port", "name,addresses,external_ids"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert monitor.stdout
    plugged: dict[str, Port | None] = dict.fromkeys(INTERFACES)
    routed: dict[str, str] = {}
    for name in INTERFACES:
        unplug(name)
    for _ in monitor.stdout:
        ports = rows("--columns=name,addresses,external_ids,dhcpv4_options", "list", "Logical_Switch_Port")
        for name in INTERFACES:
            port = wanted(ports, name)
            if port != plugged[name]:
                unplug(name)
                if port:
                    plug(name, port)
                print(f"{name}: plugged into {port}" if port else f"{name}: unplugged", flush=True)
                plugged[name] = port
        current = routes(ports)
        if current != routed:
            for subnet in routed.keys() - current.keys():
                ip("-n", EXTERNAL, "route", "delete", subnet)
            for subnet, gateway in current.items():
                ip("-n", EXTERNAL, "route", "replace", subnet, "via", gateway)
            print(f"routes: {current}", flush=True)
            routed = current
    raise SystemExit(f"ovsdb-client ended with status {monitor.wait()}")


if __name__ == "__main__":
    watch()
