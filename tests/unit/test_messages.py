"""Every message about a wrong configuration, word for word: key, value, remedy. None has a word of the library that finds the fault."""

from __future__ import annotations

import copy
import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from components.configuration import Cluster, ConfigurationError
from components.configuration.errors import Kind
from components.configuration.health_checks import HttpCheck
from components.configuration.model import Model
from components.configuration.words import NEEDLESS, PLACED, RENAMED
from components.stack_file import CLUSTER, StackFile
from operations import render
from tests.unit.test_cluster import BARE, CHECK, REMOVED, SERVICE, put, refusal

FOREIGN = (
    "Input should",
    "valid dictionary",
    "valid string",
    "type=",
    "pydantic",
    "instance of",
    "Input tag",
    "Field required",
    "unable to",
    "Value error",
    "[key]",
)
"""Words of pydantic's messages."""

HOST_NAMES = "lower-case letters, digits, hyphens and dots between them, 63 at most, a letter first"
LABELS = "lower-case letters, digits and hyphens, 63 at most, a letter first"
WITHOUT = "without blanks, quotes, braces, #, ! and ~SEQ(, and no \\ at its end"
WORD = f"must be one word of at most 255 characters, {WITHOUT}"
YAML = "YAML reads yes, no, on and off without quotes as true and false"
KEY = "must be a public host key, such as `ssh-ed25519 AAAA...`: a line that `ssh-keyscan -t ed25519 ADDRESS` prints"
ADDRESS = "must be an IPv4 or IPv6 address, such as 192.168.0.5"
RANGE = "must be a network as ADDRESS/LENGTH with zeros after the length, such as 192.168.0.0/24"
SECONDS = "must be a number of seconds from 0.001 to 3600"
PORT = "must be a whole number from 1 to 65535"
CODES = 'must be codes from 100 to 599 and ranges of them in one text, such as "200-299 301"'
SCRIPT = "must be the path of a script, from the repository's root, such as checks/etcd"
PORTS = "must be a port from 1 to 65535 or a range of them, such as 6443 or 2379-2380"
PROTOCOL = "must be a protocol by name (tcp, udp, sctp, ipip, gre, esp, ...) or number (0 to 255), or any"
RULE_SET = "must be 'kubernetes', 'openshift' or 'calico'"
WITNESS = "not ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22"
INTERFACE = "must be the name of an interface, at most 15 characters, such as eth0 or bond0.100"
FLOATING_IP = "must be true (the program creates one, and the cloud chooses its address), false, or the IPv4 address of one that exists"
BY_SCRIPT = "use misc with a script that does it: {type: misc, script: PATH}"
BACKSLASH = "correct it, or put a backslash before the character"
PATH = f"must be a path that begins with /, such as /healthz, {WITHOUT}"
PAIR = "must be a list of two whole numbers above 0, such as [1024, 4096]"
FOLDER = "must be the absolute path of a folder without blanks and .., such as /var/lib/node_exporter/textfile_collector"
NO_PORT = "direct routing changes no port: the servers listen on the port of the service (decision 0002)"
SENDS_MAIL = "the program runs no script when a VIP moves; `smtp_alert` sends mail"
TAKEN = "choose another, because an address pair equal to a bound port's address takes that port down"
SUBNET = "is not a host address of the subnet 192.168.0.0/24; choose one from 192.168.0.1 to 192.168.0.254"
NO_IPV6 = "is IPv6, and no subnet of the stack is; set network.cidr_v6 and each host's address_v6, or give an IPv4 one"
NEVER_BACK = "a quorum that was lost once would never come back; 0 at most"
OUTSIDE = "a witness is outside the pool: a server of another one, a name server, a gateway that answers"
HTTP = {"type": "http", "path": "/"}


MADE = {"image": "debian-12", "flavor": "m1.small"}
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/ivFYeZyLdH6xKOyQe5nG+ROJlgBMUjwBjQtBKUx6G"
INFRA = {"image": "debian-12", "flavor": "m1.medium", "hosts": {"infra0": "192.168.0.5", "infra1": "192.168.0.6"}}
EXISTING = {"existing": True, "hosts": {"infra0": {"address": "192.168.0.5", "host_key": HOST_KEY}}}
NOTHING_MADE = "this pool has existing: true, and the program creates no port or server for it; remove it"


def url(**keys: Any) -> dict[str, Any]:
    return {"type": "http", "urls": [{"path": "/", **keys}]}


TABLE: list[tuple[str, Any, str]] = [
    # sections
    ("network", REMOVED, "network: missing; give a mapping; docs/reference/configuration.md has its keys under network"),
    ("network", 5, "network: 5: must be a mapping; docs/reference/configuration.md has its keys under network"),
    ("ssh", None, "ssh: empty; give it keys or remove the line"),
    ("ssh", "debian", "ssh: 'debian': must be a mapping; docs/reference/configuration.md has its keys under ssh"),
    ("pools", [], "pools: []: must be a mapping by name: each pool under its name, such as master"),
    ("vips", None, "vips: empty; give a mapping by name: each VIP under its name, such as master"),
    ("protect", "servers", "protect: 'servers': must be true or false"),
    ("pools.master", None, "pools.master: empty; give a mapping; docs/reference/configuration.md has its keys under pools.NAME"),
    # network
    ("network.cidr", REMOVED, "network.cidr: missing; give a network as ADDRESS/LENGTH with zeros after the length, such as 192.168.0.0/24"),
    ("network.cidr", "192.168.0.7/24", f"network.cidr: '192.168.0.7/24': {RANGE}; write 192.168.0.0/24"),
    ("network.cidr", "fd00::/64", "network.gateway: 192.168.0.1 is outside the subnet fd00::/64; choose an address in it, such as fd00::1"),
    ("network.cidr", 10, f"network.cidr: 10: {RANGE}"),
    ("network.gateway", "fd00::1", "network.gateway: fd00::1 is outside the subnet 192.168.0.0/24; choose an address in it, such as 192.168.0.1"),
    ("network.gateway", "router", f"network.gateway: 'router': {ADDRESS}"),
    ("network.external", "", "network.external: '': must be a name"),
    ("network.existing", 12, 'network.existing: 12: must be a name; put it in quotes: "12"'),
    ("network.name", "ocp", "network.name: unknown key; leave it out: the program names the network it creates; `existing` takes an existing one by name"),
    ("network.client_cidrs", "10.0.0.0/8", "network.client_cidrs: '10.0.0.0/8': must be a list: [10.0.0.0/8]"),
    ("network.client_cidrs", {}, f"network.client_cidrs: {{}}: must be a list, each entry {RANGE.removeprefix('must be ')}"),
    ("network.reserved", ["192.168.0.9"], "network.reserved: ['192.168.0.9']: must be a mapping NAME: ADDRESS, such as bastion: 192.168.0.100"),
    ("network.dns_nameservers", [8], f"network.dns_nameservers.0: 8: {ADDRESS}"),
    ("network.allow", {"protocol": "tcp"}, "network.allow: {'protocol': 'tcp'}: must be a list of mappings: begin each with `- `"),
    ("network.allow", [{"protocol": "icmp", "ports": 1}], "network.allow.0.ports: 1, and protocol icmp has no ports; leave it out"),
    ("network.allow", [{"protocol": "ipencap"}], f"network.allow.0.protocol: 'ipencap': {PROTOCOL}"),
    ("network.allow", [{"protocol": 256}], "network.allow.0.protocol: 256 is not the number of a protocol; give one from 0 to 255"),
    ("network.allow", [{"protocol": True}], f"network.allow.0.protocol: true: {PROTOCOL}; {YAML}"),
    ("network.allow", [{"protocol": 6}], "network.allow.0.ports: missing; give a port from 1 to 65535 or a range of them, such as 6443 or 2379-2380"),
    ("network.allow", [{"cidr": "10.0.0.0/8"}], "network.allow.0.protocol: missing; give a protocol, such as tcp, or rules: kubernetes, openshift, calico"),
    ("network.allow", ["kubernetse"], f"network.allow.0.rules: 'kubernetse': {RULE_SET}; did you mean 'kubernetes'?"),
    ("network.allow", [{"rules": "calico", "protocol": "tcp"}], "network.allow.0.rules: 'calico' and protocol in one entry; make two entries of them"),
    ("network.allow", "kubernetes", "network.allow: 'kubernetes': must be a list of mappings: begin each with `- `"),
    (
        "pools.infra.allow",
        [{"protocol": "udp"}],
        "pools.infra.allow.0.ports: missing; give a port from 1 to 65535 or a range of them, such as 6443 or 2379-2380",
    ),
    ("network.max_allowed_address_pair", 0, "network.max_allowed_address_pair: 0: must be a whole number from 1 to 1000"),
    (
        "network.max_allowed_address_pair",
        2,
        "network.max_allowed_address_pair: 2, and the port of master0 needs 3 allowed address pairs: 1 VIPs, 0 of pools.master.allowed_address_pairs, "
        "the others for the subnet and client_cidrs; spread the VIPs over more pools, combine ranges (client_cidrs: [0.0.0.0/0] is one), "
        "or set this key to what your cloud accepts",
    ),
    ("pools.infra.allowed_address_pairs", ["10.233.64.7/18"], f"pools.infra.allowed_address_pairs.0: '10.233.64.7/18': {RANGE}; write 10.233.64.0/18"),
    (
        "pools.infra.allowed_address_pairs",
        ["10.233.64.0/18", "192.168.0.2"],
        "pools.infra.allowed_address_pairs.1: 192.168.0.2 is pools.master.hosts.master0; a pair equal to a bound port's address takes that port down; "
        "remove it",
    ),
    ("network.return_ports", "any", "network.return_ports: 'any': must be a range of ports, such as 32768-60999"),
    ("network.return_ports", "80-60999", "network.return_ports: '80-60999': must be a range of ports, such as 32768-60999"),
    ("network.allow", [{"protocol": "tcp", "ports": "http"}], f"network.allow.0.ports: 'http': {PORTS}"),
    ("network.allow", [{"protocol": "tcp", "ports": True}], f"network.allow.0.ports: true: {PORTS}; {YAML}"),
    # ssh
    ("ssh.user", "", "ssh.user: '': must be the name of a user, such as debian, without blanks and quotes"),
    ("ssh.user", "-oProxyCommand", "ssh.user: '-oProxyCommand': must be the name of a user, such as debian, without blanks and quotes"),
    ("ssh.port", "ssh", f"ssh.port: 'ssh': {PORT}"),
    ("ssh.bastion", "203.0.113.9", "ssh.bastion: '203.0.113.9': must be a mapping; docs/reference/configuration.md has its keys under ssh.bastion"),
    ("ssh.bastion", {"host": "", "host_key": "ssh-ed25519 AAAA"}, "ssh.bastion.host: '': must be the name or address of a machine, such as 203.0.113.9"),
    ("ssh.bastion", {"host": "b"}, f"ssh.bastion.host_key: missing; {KEY.replace('must be', 'give')}"),
    ("ssh.bastion", {"host": "b", "host_key": "ssh-ed25519 notbase64"}, f"ssh.bastion.host_key: 'ssh-ed25519 notbase64': {KEY}"),
    ("ssh.bastion", {"host": "b", "host_key": "ssh-ed25519 AAAAB3NzaC1yc2E="}, f"ssh.bastion.host_key: 'ssh-ed25519 AAAAB3NzaC1yc2E=': {KEY}"),
    ("ssh.bastion", {"host": "b", "host_key": "SHA256:abc"}, f"ssh.bastion.host_key: 'SHA256:abc': {KEY}"),
    (
        "ssh.bastion",
        {},
        "ssh.bastion.host: missing; give the name or address of a machine, such as 203.0.113.9, or image and flavor: then the program creates a bastion",
    ),
    ("ssh.bastion", {"image": "debian-12"}, "ssh.bastion.flavor: missing; a bastion that the program creates needs an image and a flavor"),
    ("ssh.bastion", {"flavor": "m1.small"}, "ssh.bastion.image: missing; a bastion that the program creates needs an image and a flavor"),
    ("ssh.bastion", {**MADE, "host": "b"}, "ssh.bastion.image: given together with host; the program creates a bastion, or uses one that exists: remove one"),
    ("ssh.bastion", {**MADE, "port": 2222}, "ssh.bastion.port: 2222, and a bastion that the program creates listens on 22; remove it"),
    (
        "ssh",
        {"bastion": MADE},
        "ssh.allowed_cidrs: missing, so no client could use the bastion; name the ranges from which ssh may come, such as [198.51.100.0/24]",
    ),
    (
        "ssh",
        {"bastion": MADE, "allowed_cidrs": []},
        "ssh.allowed_cidrs: empty, so no client could use the bastion; name the ranges from which ssh may come, such as [198.51.100.0/24]",
    ),
    # keepalived
    ("keepalived.vrrp_version", 4, "keepalived.vrrp_version: 4: must be 2 or 3"),
    ("keepalived.router_id", "two words", f"keepalived.router_id: 'two words': {WORD}"),
    # metrics
    ("metrics", True, f"metrics: true: must be a mapping; docs/reference/configuration.md has its keys under metrics; {YAML}"),
    ("metrics", {}, f"metrics.directory: missing; {FOLDER.replace('must be', 'give')}"),
    ("metrics.directory", "textfiles", f"metrics.directory: 'textfiles': {FOLDER}"),
    ("metrics.directory", "/var/lib/../etc", f"metrics.directory: '/var/lib/../etc': {FOLDER}"),
    ("metrics.directory", "/var/lib/two words", f"metrics.directory: '/var/lib/two words': {FOLDER}"),
    ("keepalived.checker_log_all_failures", "sometimes", "keepalived.checker_log_all_failures: 'sometimes': must be true or false"),
    # pools
    ("pools.infra.hosts", ["infra0", "infra1"], "pools.infra.hosts: ['infra0', 'infra1']: must be a mapping NAME: ADDRESS, such as infra0: 192.168.0.5"),
    ("pools.infra.hosts.infra0", None, "pools.infra.hosts.infra0: no address given; write infra0: ADDRESS, such as infra0: 192.168.0.5"),
    ("pools.infra.hosts.infra0", 5, "pools.infra.hosts.infra0: 5: must be an IPv4 or IPv6 address, such as 192.168.0.5, or a mapping with `address`"),
    ("pools.infra.hosts.infra0", "fd00::5", f"pools.infra.hosts.infra0.address: fd00::5 {NO_IPV6}"),
    ("pools.infra.hosts", {1: "192.168.0.5"}, f"pools.infra.hosts: 1 is no name; {HOST_NAMES}"),
    ("pools.infra.hosts.Infra_0", "192.168.0.7", f"pools.infra.hosts: 'Infra_0' is no name; {HOST_NAMES}"),
    *(
        ("pools.infra.hosts", {name: "192.168.0.7"}, f"pools.infra.hosts: '{name}' is no name; {HOST_NAMES}")
        for name in ("infra0.", ".infra0", "infra..0", "infra0.-x", "infra0.Example.org")
    ),
    ("pools.infra.hosts", {f"{'i' * 60}.org": "192.168.0.7"}, f"pools.infra.hosts: '{'i' * 59}... is no name; {HOST_NAMES}"),
    ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "interface": "a b"}, f"pools.infra.hosts.infra0.interface: 'a b': {INTERFACE}"),
    ("pools.infra.hosts.infra0", {"address": "192.168.0.5", "ssh_address": "jump"}, f"pools.infra.hosts.infra0.ssh_address: 'jump': {ADDRESS}"),
    (
        "pools.infra.hosts.infra0",
        {"address": "192.168.0.5", "ssh_user": "-o"},
        "pools.infra.hosts.infra0.ssh_user: '-o': must be the name of a user, such as debian, without blanks and quotes",
    ),
    (
        "pools.infra.hosts.infra0",
        {"address": "192.168.0.5", "ssh_address": "10.20.0.5"},
        "pools.infra.hosts.infra0.ssh_address: 10.20.0.5, and a created server has only its address in the subnet; set network.management, or remove it",
    ),
    (
        "pools.infra.hosts.infra0",
        {"address": "192.168.0.5", "ssh_address": "192.168.0.6"},
        "pools.infra.hosts.infra0.ssh_address: 192.168.0.6 is the address of infra1 too; give this host's own",
    ),
    ("network.management", "mgmt", "network.management: 'mgmt': must be a mapping; docs/reference/configuration.md has its keys under network.management"),
    ("network.management", {"existing": "mgmt"}, f"network.management.cidr: missing; {RANGE.replace('must be', 'give')}"),
    (
        "network.management",
        {"existing": "mgmt", "cidr": "192.168.0.0/16"},
        "network.management.cidr: 192.168.0.0/16 overlaps the subnet 192.168.0.0/24; give the range of another network",
    ),
    (
        "network.management",
        {"existing": "mgmt", "cidr": "10.20.0.0/24"},
        "network.management: 'mgmt', and no created host has an address there; set ssh_address of the hosts in 10.20.0.0/24, or remove it",
    ),
    (
        "pools.infra.hosts.infra0",
        {"address": "192.168.0.5", "installed": "two words"},
        "pools.infra.hosts.infra0.installed: 'two words': must be a word of at most 40 letters, digits and _.:+-, such as the date 2026-03-01",
    ),
    ("pools.infra.directors", [], "pools.infra.directors: empty; name at least one director for vips.infra, or leave it out: then every managed host is one"),
    ("pools.infra.directors", "infra0", "pools.infra.directors: 'infra0': must be a list: [infra0]"),
    ("pools.infra.witnesses", ["192.168.0.1"], f"pools.infra.witnesses.0: '192.168.0.1': {WITNESS}"),
    ("pools.infra.witnesses", ["192.168.0.1:1"] * 4, "pools.infra.witnesses: 4 given; at most 3"),
    ("pools.infra.interface", "a-name-that-is-too-long", f"pools.infra.interface: 'a-name-that-is-too-long': {INTERFACE}"),
    ("pools.infra.image", "", "pools.infra.image: '': must be a name"),
    (
        "pools.infra",
        {**INFRA, "availability_zone": "a", "availability_zones": ["b"]},
        "pools.infra.availability_zones: given together with availability_zone ('a'); use the one or the other",
    ),
    ("pools.infra.availability_zones", "az1", "pools.infra.availability_zones: 'az1': must be a list of at least one name, such as [az1, az2]"),
    ("pools.infra.availability_zones", [], "pools.infra.availability_zones: []: must be a list of at least one name, such as [az1, az2]"),
    (
        "pools.infra.root_volume",
        50,
        "pools.infra.root_volume: 50: must be a mapping; docs/reference/configuration.md has its keys under pools.NAME.root_volume",
    ),
    ("pools.infra.root_volume", {"type": "ssd"}, "pools.infra.root_volume.size: missing; give a whole number of GiB from 1 to 65536"),
    ("pools.infra.root_volume", {"size": "50G"}, "pools.infra.root_volume.size: '50G': must be a whole number of GiB from 1 to 65536"),
    (
        "pools.infra.root_volume",
        {"size": 50, "delete_termination": True},
        "pools.infra.root_volume.delete_termination: unknown key; did you mean 'delete_on_termination'?",
    ),
    (
        "pools.infra.server_group_policy",
        "affinity",
        "pools.infra.server_group_policy: 'affinity': must be 'soft-anti-affinity', 'anti-affinity' or 'none'; did you mean 'anti-affinity'?",
    ),
    *(
        ("pools.infra", {**EXISTING, key: value}, f"pools.infra.{key}: {NOTHING_MADE}")
        for key, value in {
            "availability_zones": ["az1"],
            "root_volume": {"size": 50},
            "server_group_policy": "none",
            "allow": ["kubernetes"],
            "allowed_address_pairs": ["10.233.64.0/18"],
        }.items()
    ),
    (
        "pools.infra",
        {"existing": True, "hosts": {"infra0": {"address": "192.168.0.5", "host_key": HOST_KEY, "availability_zone": "az1"}}},
        f"pools.infra.hosts.infra0.availability_zone: {NOTHING_MADE}",
    ),
    *(
        (path, value, f"{path}: network.port_security is false, so no port has a security group or address pairs; remove it, or set port_security: true")
        for path, value in {
            "network.allow": ["kubernetes"],
            "pools.infra.allow": ["kubernetes"],
            "pools.infra.allowed_address_pairs": ["10.233.64.0/18"],
            "ssh.allowed_cidrs": ["198.51.100.0/24"],
        }.items()
    ),
    ("pools.infra.cloud_config", "runcmd", "pools.infra.cloud_config: 'runcmd': must be a mapping of cloud-config, such as timezone: UTC"),
    ("pools.infra.cloud_config", {1: 2}, "pools.infra.cloud_config: 1 is no name; put it in quotes"),
    ("pools.infra.cloud_config", {"hostname": "x"}, "pools.infra.cloud_config.hostname: the program sets it: a server's name is its key in hosts; remove it"),
    (
        "pools.infra.cloud_config",
        {"ssh_keys": {}},
        "pools.infra.cloud_config.ssh_keys: the program sets it: the host keys are derived from openshift-lvs:host_key_seed; remove it",
    ),
    (
        "pools.infra.cloud_config",
        {"ssh_authorized_keys": "k"},
        "pools.infra.cloud_config.ssh_authorized_keys: must be a list of public keys: [ssh-ed25519 AAAA...]",
    ),
    ("pools", {}, "pools: empty; describe the pool 'master' of vips.master"),
    # vips
    ("vips.infra.owner", REMOVED, "vips.infra.owner: missing; give the name of a host of the pool, such as master0"),
    ("vips.infra.owner", "Infra0", f"vips.infra.owner: 'Infra0' is no name; {HOST_NAMES}"),
    ("vips.infra.address", "fd00::1", f"vips.infra.address: fd00::1 {NO_IPV6}"),
    ("vips.infra.virtual_router_id", "many", "vips.infra.virtual_router_id: 'many': must be a whole number from 1 to 255"),
    ("vips.infra.virtual_router_id", 1.5, "vips.infra.virtual_router_id: 1.5: must be a whole number from 1 to 255"),
    ("vips.infra.virtual_router_id", None, "vips.infra.virtual_router_id: empty; give a whole number from 1 to 255"),
    ("vips.infra.advert_interval", "300ms", "vips.infra.advert_interval: '300ms': must be a number of seconds from 0.01 to 3"),
    ("vips.infra.advert_interval", None, "vips.infra.advert_interval: empty; give a number of seconds from 0.01 to 3, or remove the line"),
    ("vips.infra.priorities", 150, "vips.infra.priorities: 150: must be a mapping HOST: PRIORITY, such as master0: 150"),
    ("vips.infra.priorities", {"infra0": 255}, "vips.infra.priorities.infra0: 255: must be a whole number from 1 to 254"),
    ("vips.infra.authentication", "pass", "vips.infra.authentication: 'pass': must be 'PASS' or 'AH'; did you mean 'PASS'?"),
    ("vips.infra.floating_ip", "new", f"vips.infra.floating_ip: 'new': {FLOATING_IP}"),
    ("vips.infra.floating_ip", 1, f"vips.infra.floating_ip: 1: {FLOATING_IP}"),
    ("vips.infra.floating_ip", "fd00::1", f"vips.infra.floating_ip: 'fd00::1': {FLOATING_IP}"),
    (
        "vips.infra.floating_ip",
        "192.168.0.9",
        "vips.infra.floating_ip: 192.168.0.9 is in the subnet 192.168.0.0/24; give the address on the external network",
    ),
    ("vips.infra.services", BARE, "vips.infra.services: {'port': 8443, 'health_check': {'type': 'tcp'}}: must be a list of mappings: begin each with `- `"),
    ("vips.infra.services", None, "vips.infra.services: empty; give a list"),
    # services
    (f"{SERVICE}.port", True, f"{SERVICE}.port: true: {PORT}; {YAML}"),
    (f"{SERVICE}.port", "https", f"{SERVICE}.port: 'https': {PORT}"),
    (f"{SERVICE}.port", 0, f"{SERVICE}.port: 0 is keepalived's word for every port, and a service here has one; write a service for each port"),
    (f"{SERVICE}.port", 22, f"{SERVICE}.port: 22 is the port of the nodes' ssh (ssh.port); choose another port for one of them"),
    (f"{SERVICE}.protocol", "tcp", f"{SERVICE}.protocol: 'tcp': must be 'TCP' or 'UDP'; did you mean 'TCP'?"),
    (f"{SERVICE}.forwarding_method", "TUNNEL", f"{SERVICE}.forwarding_method: 'TUNNEL': must be 'DR', 'NAT' or 'TUN'; did you mean 'TUN'?"),
    (f"{SERVICE}.persistence_granularity", "24", f"{SERVICE}.persistence_granularity: '24': must be a netmask, such as 255.255.255.0"),
    (f"{SERVICE}.weights", [1, 2], f"{SERVICE}.weights: [1, 2]: must be a mapping HOST: WEIGHT, such as infra0: 2"),
    (f"{SERVICE}.weights", {"master0": True}, f"{SERVICE}.weights.master0: true: must be a whole number from 0 to 65535; {YAML}"),
    (f"{SERVICE}.quorum", 0, f"{SERVICE}.quorum: 0: must be a whole number from 1"),
    (f"{SERVICE}.ops", 2, f"{SERVICE}.ops: 2: must be true or false"),
    (f"{SERVICE}.target_port", 80, f"{SERVICE}.target_port: unknown key; leave it out: {NO_PORT}"),
    (f"{SERVICE}.real_port", 80, f"{SERVICE}.real_port: unknown key; leave it out: {NO_PORT}"),
    *(
        (f"{SERVICE}.sorry_server", address, f"{SERVICE}.sorry_server: {address} is {what}; name a machine outside this stack that has the VIP on lo")
        for address, what in (
            ("192.168.0.5", "host infra0 of pool 'infra', which does not have this VIP"),
            ("192.168.0.250", "the address of vips.master, not of a machine"),
            ("192.168.0.251", "the address of vips.infra, not of a machine"),
            ("192.168.0.1", "network.gateway"),
        )
    ),
    (f"{SERVICE}.preset", "openshift", f"{SERVICE}.preset: 'openshift': must be 'openshift3' or 'openshift4'; did you mean 'openshift4'?"),
    (
        SERVICE,
        {"preset": "openshift4", "port": 8443},
        f"{SERVICE}.port: 8443 is not in the preset openshift4, which has 6443, 22623, 80, 443; leave `preset` out for this port",
    ),
    (f"{SERVICE}.client_cidrs", "10.0.0.0/8", f"{SERVICE}.client_cidrs: '10.0.0.0/8': must be a list: [10.0.0.0/8]"),
    (
        f"{SERVICE}.client_cidrs",
        ["198.51.100.0/24"],
        f"{SERVICE}.client_cidrs.0: 198.51.100.0/24 is not within network.client_cidrs; directors forward with the client's address, "
        "which Neutron permits for those ranges only; add it there too",
    ),
    # health checks
    (CHECK, "tcp", f"{CHECK}: 'tcp': must be a mapping: write {{type: tcp}}"),
    (CHECK, "HTTP_GET", f"{CHECK}: 'HTTP_GET': must be a mapping: write {{type: http}}"),
    (CHECK, None, f"{CHECK}: empty; give a mapping, such as {{type: tcp}}"),
    (CHECK, REMOVED, f"{CHECK}: missing; give a mapping, such as {{type: tcp}}"),
    (CHECK, {"type": "https"}, f"{CHECK}.type: 'https': use ssl"),
    (CHECK, {"type": "TCP_CHECK"}, f"{CHECK}.type: 'TCP_CHECK': use tcp"),
    (CHECK, {"type": "SSL_GET"}, f"{CHECK}.type: 'SSL_GET': use ssl"),
    *((CHECK, {"type": word}, f"{CHECK}.type: '{word}': {BY_SCRIPT}") for word in ("dns", "ping", "udp", "DNS_CHECK")),
    (CHECK, {"type": "grpc"}, f"{CHECK}.type: 'grpc': must be 'tcp', 'http', 'ssl', 'smtp' or 'misc'"),
    (CHECK, {"type": "tcp", "connect_timeout": "2s"}, f"{CHECK}.connect_timeout: '2s': {SECONDS}; seconds, without a unit: 2"),
    (CHECK, {"type": "tcp", "connect_timeout": True}, f"{CHECK}.connect_timeout: true: {SECONDS}; {YAML}"),
    (CHECK, {"type": "tcp", "connect_ip": 5}, f"{CHECK}.connect_ip: 5: {ADDRESS}"),
    (CHECK, {"type": "tcp", "retry": 101}, f"{CHECK}.retry: 101: must be a whole number from 0 to 100"),
    (CHECK, {"type": "tcp", "interval": 2}, f"{CHECK}.interval: unknown key; here it is delay_loop"),
    (CHECK, {**HTTP, "timeout": 2}, f"{CHECK}.timeout: unknown key; here it is connect_timeout"),
    (CHECK, {"type": "misc", "script": "checks/etcd", "timeout": 2}, f"{CHECK}.timeout: unknown key; here it is misc_timeout"),
    (CHECK, {"type": "tcp", "port": 80}, f"{CHECK}.port: unknown key; here it is connect_port"),
    (CHECK, {"type": "tcp", "path": "/"}, f'{CHECK}.path: unknown key here; it belongs to "type: http, type: ssl" and urls (docs/reference/configuration.md)'),
    (CHECK, {**HTTP, "status_code": "2xx"}, f"{CHECK}.status_code: '2xx': {CODES}"),
    (CHECK, {**HTTP, "status_code": [200, 204]}, f"{CHECK}.status_code: [200, 204]: {CODES}"),
    (CHECK, {**HTTP, "status_code": "299-200"}, f"{CHECK}.status_code: 299-200 is no range; write 200-299"),
    (CHECK, url(status_code="2xx"), f"{CHECK}.urls.0.status_code: '2xx': {CODES}"),
    (CHECK, {"type": "http", "path": "healthz"}, f"{CHECK}.path: 'healthz': {PATH}"),
    (CHECK, url(path="a b"), f"{CHECK}.urls.0.path: 'a b': {PATH}"),
    (CHECK, url(digest="abc"), f"{CHECK}.urls.0.digest: 'abc': must be 32 hexadecimal digits in quotes, as genhash prints them"),
    (CHECK, url(regex_stack=[1]), f"{CHECK}.urls.0.regex_stack: [1]: {PAIR}"),
    (CHECK, url(regex_stack=[1, 2, 3]), f"{CHECK}.urls.0.regex_stack: [1, 2, 3]: {PAIR}"),
    (CHECK, url(regex='"'), f"{CHECK}.urls.0.regex: '\"': must be a regular expression in one line, without \", ~SEQ( and ~LST("),
    (CHECK, url(regex="("), f"{CHECK}.urls.0.regex: '(': missing ), unterminated subpattern at character 1; {BACKSLASH}"),
    (CHECK, url(regex="ok["), f"{CHECK}.urls.0.regex: 'ok[': unterminated character set at character 3; {BACKSLASH}"),
    (CHECK, url(regex="x)"), f"{CHECK}.urls.0.regex: 'x)': unbalanced parenthesis at character 2; {BACKSLASH}"),
    (CHECK, {**HTTP, "http_protocol": 2}, f"{CHECK}.http_protocol: 2: must be '1.0', '1.0C' or '1.1'"),
    (
        CHECK,
        {"type": "ssl", "path": "/", "enable_sni": True},
        f"{CHECK}.enable_sni: true, and no name of a host to send; set virtualhost in the check, in every url or in the service",
    ),
    (CHECK, {"type": "misc", "script": "/usr/bin/true"}, f"{CHECK}.script: '/usr/bin/true': {SCRIPT}"),
    (CHECK, {"type": "misc"}, f"{CHECK}.script: missing; {SCRIPT.replace('must be', 'give')}"),
    (CHECK, {"type": "misc", "script": "checks/etcd", "connect_timeout": 2}, f"{CHECK}.connect_timeout: unknown key; here it is misc_timeout"),
    # text that keepalived would read as more than a word
    *(("keepalived.router_id", text, f"keepalived.router_id: {text!r}: {WORD}") for text in ("a\0b", "a\\", "~SEQ(a,1,9)", "a\n}", "a\x1b")),
    (CHECK, url(regex="~LST(a,b)"), f"{CHECK}.urls.0.regex: '~LST(a,b)': must be a regular expression in one line, without \", ~SEQ( and ~LST("),
    (
        "keepalived.notifications",
        {"notification_email": ["@master0"], "notification_email_from": "a@x", "smtp_server": "mail"},
        "keepalived.notifications.notification_email.0: '@master0': must be an address of mail, such as ops@example.com",
    ),
    # unknown keys
    (
        "vips.infra.interface",
        "ens3",
        "vips.infra.interface: unknown key here; it belongs to pools.NAME and pools.NAME.hosts.HOST (docs/reference/configuration.md)",
    ),
    ("vips.infra.lb_algo", "rr", "vips.infra.lb_algo: unknown key; here it is scheduler in vips.NAME.services (docs/reference/configuration.md)"),
    ("vips.infra.colour", "red", "vips.infra.colour: unknown key; docs/reference/configuration.md has the keys under vips.NAME"),
    ("vips.infra.virtualRouterId", 1, "vips.infra.virtualRouterId: unknown key; did you mean 'virtual_router_id'?"),
    ("vips.infra", {1: 2}, "vips.infra.1: unknown key; docs/reference/configuration.md has the keys under vips.NAME"),
    ("vips.infra.nopreempt", True, "vips.infra.nopreempt: unknown key; leave it out: every instance has it, and a roll-out returns each VIP to its owner"),
    ("vips.infra.notify_master", "x", f"vips.infra.notify_master: unknown key; leave it out: {SENDS_MAIL}"),
    (
        "vips.infra.unicast_peer",
        [],
        "vips.infra.unicast_peer: unknown key; here it is unicast: true in vips.NAME; the peers are the other directors of the pool",
    ),
    # a wrong key
    ("vips.master.adress", "192.168.0.250", "vips.master.adress: unknown key; did you mean 'address'?"),
    ("network.client_cidr", [], "network.client_cidr: unknown key; did you mean 'client_cidrs'?"),
    (f"{SERVICE}.lb_algo", "wlc", f"{SERVICE}.lb_algo: unknown key; here it is scheduler"),
    (f"{SERVICE}.lb_kind", "DR", f"{SERVICE}.lb_kind: unknown key; here it is forwarding_method"),
    ("vips.master.advert_int", 1, "vips.master.advert_int: unknown key; here it is advert_interval"),
    (
        "vips.master.auth_pass",
        "secret",
        "vips.master.auth_pass: unknown key; here it is the secret openshift-lvs:auth_pass (pulumi config set --secret --path openshift-lvs:auth_pass.VIP)",
    ),
    (f"{CHECK}.nb_get_retry", 3, f"{CHECK}.nb_get_retry: unknown key; here it is retry"),
    (f"{SERVICE}.nat_mask", "255.255.255.0", f"{SERVICE}.nat_mask: unknown key; leave it out: keepalived 2 does not know it"),
    (
        f"{SERVICE}.state",
        "MASTER",
        f"{SERVICE}.state: unknown key; leave it out: every instance starts as BACKUP, and `owner` names the preferred director of the VIP",
    ),
    ("vips.master.priority", 150, "vips.master.priority: unknown key; here it is owner, or priorities by host"),
    (
        "vips.master.interface",
        "ens3",
        "vips.master.interface: unknown key here; it belongs to pools.NAME and pools.NAME.hosts.HOST (docs/reference/configuration.md)",
    ),
    ("vips.http", {"address": "192.168.0.9"}, "vips.http.pool: missing; give the name of a pool, such as master"),
    # addresses
    ("network.cidr", "192.168.0.0", "network.cidr: 192.168.0.0/32 has too few addresses for a cluster; is its length right? such as 192.168.0.0/24"),
    ("pools.master.hosts.master0", "192.168.1.2", f"pools.master.hosts.master0: 192.168.1.2 {SUBNET}"),
    ("pools.master.hosts.master0", "192.168.0.255", f"pools.master.hosts.master0: 192.168.0.255 {SUBNET}"),
    ("pools.master.hosts.master0", "192.168.0.2000", f"pools.master.hosts.master0.address: '192.168.0.2000': {ADDRESS}"),
    ("vips.master.address", "10.0.0.250", f"vips.master.address: 10.0.0.250 {SUBNET}"),
    (
        "vips.master.address",
        "192.168.0.3",
        f"vips.master.address: 192.168.0.3 is taken by pools.master.hosts.master1; {TAKEN}",
    ),
    (
        "vips.master.address",
        "192.168.0.1",
        f"vips.master.address: 192.168.0.1 is taken by network.gateway; {TAKEN}",
    ),
    (
        "vips.master.address",
        "192.168.0.251",
        f"vips.infra.address: 192.168.0.251 is taken by vips.master.address; {TAKEN}",
    ),
    (
        "pools.infra.hosts.infra1",
        "192.168.0.5",
        f"pools.infra.hosts.infra1: 192.168.0.5 is taken by pools.infra.hosts.infra0; {TAKEN}",
    ),
    (
        "network.reserved",
        {"bastion": "192.168.0.2"},
        f"pools.master.hosts.master0: 192.168.0.2 is taken by network.reserved.bastion; {TAKEN}",
    ),
    ("network.reserved", {"bastion": "192.0.2.1"}, f"network.reserved.bastion: 192.0.2.1 {SUBNET}"),
    ("network.gateway", "192.168.9.1", "network.gateway: 192.168.9.1 is outside the subnet 192.168.0.0/24; choose an address in it, such as 192.168.0.1"),
    ("network.gateway", REMOVED, "network.gateway: missing; the router to 'public' needs an address in 192.168.0.0/24, such as 192.168.0.1"),
    (
        "network.client_cidrs",
        ["128.0.0.0/1"],
        "network.client_cidrs: 128.0.0.0/1 overlaps multicast, which Neutron refuses; use 0.0.0.0/0 or 0.0.0.0/1, 128.0.0.0/2, 192.0.0.0/3",
    ),
    (
        "network.allow",
        [{"protocol": "tcp", "ports": "1-65535"}],
        "network.allow.0.ports: 1-65535 must be N or N-M within 1 to 65535, and not all of them (Neutron stores 1-65535 without ports)",
    ),
    (
        "network.allow",
        [{"protocol": "tcp", "ports": "90-80"}],
        "network.allow.0.ports: 90-80 must be N or N-M within 1 to 65535, and not all of them (Neutron stores 1-65535 without ports)",
    ),
    # VRRP
    ("vips.master.virtual_router_id", 52, "vips.infra.virtual_router_id: 52 is used by vips.master too; choose another (1 to 255)"),
    ("vips.master.virtual_router_id", 256, "vips.master.virtual_router_id: 256: must be a whole number from 1 to 255"),
    ("vips.master.owner", "infra0", "vips.master.owner: 'infra0' is not a director of pool 'master'; it has master0, master1, master2"),
    ("vips.master.owner", "master9", "vips.master.owner: 'master9' is not a director of pool 'master'; it has master0, master1, master2"),
    ("vips.master.pool", "masters", "vips.master.pool: 'masters' is not a pool; the pools are master, infra"),
    (
        "vips.master.priorities",
        {"master1": 140, "master2": 140},
        "vips.master.priorities: master2 and master1 both have 140; give each its own, because equal priorities have no fixed owner",
    ),
    (
        "vips.master.priorities",
        {"master1": 200},
        "vips.master.owner: master0 has not the highest priority, master1 has 200; give the owner the highest, or name another owner",
    ),
    ("vips.master.priorities", {"infra0": 100}, "vips.master.priorities.infra0: not a director of pool 'master'; it has master0, master1, master2"),
    ("vips.master.authentication", "PASS", "vips.master.authentication: VRRP version 3 has none (RFC 9568); set keepalived.vrrp_version: 2 or leave it out"),
    ("keepalived.vrrp_version", 2, "vips.master.advert_interval: 0.3 needs VRRP version 3; version 2 counts whole seconds"),
    # services and their checks
    (
        f"{SERVICE}.scheduler",
        "random",
        f"{SERVICE}.scheduler: 'random': must be 'mh', 'sh', 'dh', 'rr', 'wrr', 'lc', 'wlc', 'lblc', 'lblcr', 'fo', 'ovf', 'sed' or 'nq'",
    ),
    (f"{SERVICE}.port", 65536, f"{SERVICE}.port: 65536: must be a whole number from 1 to 65535"),
    (CHECK, {"connect_timeout": 1}, f"{CHECK}.type: missing; give 'tcp', 'http', 'ssl', 'smtp' or 'misc'"),
    (CHECK, {"type": "http"}, f"{CHECK}.path: missing; an http or ssl check needs at least one path, such as path: /healthz"),
    (
        CHECK,
        {"type": "misc", "script": "../../bin/sh"},
        f"{CHECK}.script: '../../bin/sh': must be the path of a script, from the repository's root, such as checks/etcd",
    ),
    (CHECK, {"type": "http", "path": "/", "enable_sni": True}, f"{CHECK}.enable_sni: an http check has no TLS; use type: ssl or leave it out"),
    (CHECK, {"type": "http", "path": "/", "urls": [{"path": "/"}]}, f"{CHECK}.urls: given together with path; use the one or the other"),
    (CHECK, {"type": "tcp", "connect_timeout": 0}, f"{CHECK}.connect_timeout: 0: must be a number of seconds from 0.001 to 3600"),
    (f"{SERVICE}.protocol", "UDP", f"{CHECK}: a tcp check of a UDP service needs connect_port, or use type: misc"),
    (f"{SERVICE}.weights", {"infra0": 2}, f"{SERVICE}.weights.infra0: not a host of the pool; it has master0, master1, master2"),
    (f"{SERVICE}.quorum", 4, f"{SERVICE}.quorum: 4 is more than all servers weigh together (3); 3 at most"),
    (
        SERVICE,
        {**BARE, "hysteresis": 1, "quorum": 3},
        f"{SERVICE}.hysteresis: 1 above the quorum of 3 is more than all servers weigh together (3): {NEVER_BACK}",
    ),
    (
        SERVICE,
        {**BARE, "expected_servers": 2, "fail_open": True},
        f"{SERVICE}.fail_open: true, and expected_servers is 2 of 3 hosts: a host without the service would get connections; leave fail_open out",
    ),
    (
        SERVICE,
        {**BARE, "sorry_server": "192.168.0.99", "fail_open": True},
        f"{SERVICE}.fail_open: true, and sorry_server answers when no server is healthy; remove one of the two",
    ),
    (
        SERVICE,
        {**BARE, "health_check": {"type": "misc", "script": "checks/a", "misc_dynamic": True}, "fail_open": True},
        f"{SERVICE}.fail_open: true, and the script of a misc_dynamic check decides which server gets connections; leave fail_open out",
    ),
    (f"{SERVICE}.expected_servers", 0, f"{SERVICE}.expected_servers: 0: must be a whole number from 1"),
    (f"{SERVICE}.expected_servers", 4, f"{SERVICE}.expected_servers: 4 is more than the number of hosts with a weight above 0; 3 at most, or leave it out"),
    (
        SERVICE,
        {**BARE, "expected_servers": 3, "weights": {"master2": 0}},
        f"{SERVICE}.expected_servers: 3 is more than the number of hosts with a weight above 0; 2 at most, or leave it out",
    ),
    (
        SERVICE,
        {**BARE, "expected_servers": 1, "quorum": 2},
        f"{SERVICE}.quorum: 2 is more than the expected servers weigh at least (1); 1 at most, or a higher expected_servers",
    ),
    (
        SERVICE,
        {**BARE, "expected_servers": 2, "weights": {"master0": 5}, "quorum": 3},
        f"{SERVICE}.quorum: 3 is more than the expected servers weigh at least (2); 2 at most, or a higher expected_servers",
    ),
    (
        SERVICE,
        {**BARE, "expected_servers": 2, "quorum": 2, "hysteresis": 1},
        f"{SERVICE}.hysteresis: 1 above the quorum of 2 is more than the expected servers weigh at least (2): {NEVER_BACK}",
    ),
    (SERVICE, {**BARE, "expected_servers": 2, "hysteresis": 2}, f"{SERVICE}.hysteresis: 2 must be below the quorum, which is 2"),
    (
        CHECK,
        {"type": "tcp", "delay_loop": 3600},
        f"{CHECK}: a silent server would be out after 3601.4 s; a roll-out waits for every check and gives up after 600 s; "
        "lower delay_loop, connect_timeout, retry, delay_before_retry or warmup",
    ),
    (
        "vips.master.answers_within",
        2,
        "vips.master.answers_within: 2 s is shorter than a takeover and a health check with these timings (2.936 s); give more, or 0 to ask nothing",
    ),
    (SERVICE, {**BARE, "affinity": "client", "scheduler": "wlc"}, f"{SERVICE}.affinity: client needs scheduler mh or sh; with wlc use persistence_timeout"),
    (
        SERVICE,
        {**BARE, "persistence_granularity": "255.255.255.0"},
        f"{SERVICE}.persistence_granularity: 255.255.255.0 means nothing without persistence_timeout; set that too, or remove this",
    ),
    (SERVICE, {**BARE, "ops": True}, f"{SERVICE}.ops: true, and protocol is TCP; remove it, because one-packet scheduling is for UDP only"),
    (SERVICE, {**BARE, "uthreshold": 10, "lthreshold": 10}, f"{SERVICE}.lthreshold: 10 must be below uthreshold, which is 10"),
    (
        CHECK,
        {"type": "http", "urls": [{"path": "/", "regex_options": ["caseless"]}]},
        f"{CHECK}.urls.0.regex: missing; the other regex keys say how it is matched",
    ),
    ("vips.infra.services.1.port", 80, "vips.infra.services.1.port: 80/TCP is the port of services.0 too; keep one of the two"),
    ("vips.master.services", [], "vips.master.services: empty; give the VIP at least one, such as {port: 80, health_check: {type: tcp}}"),
    # pools
    (
        "pools.master.image",
        REMOVED,
        "pools.master.image: missing; servers that the program creates need an image and a flavor; name one, or set existing: true",
    ),
    (
        "pools.master.flavor",
        REMOVED,
        "pools.master.flavor: missing; servers that the program creates need an image and a flavor; name one, or set existing: true",
    ),
    (
        "pools.master.existing",
        True,
        "pools.master.hosts.master0.host_key: missing; an existing host needs its public host key (ssh-keyscan -t ed25519 192.168.0.2)",
    ),
    ("pools.master.directors", ["master9"], "pools.master.directors: 'master9' is not a host of this pool; choose from master0, master1, master2"),
    ("pools.master.hosts", {}, "pools.master.hosts: empty; give the pool at least one host, such as infra0: 192.168.0.5"),
    (
        "pools.infra.witnesses",
        ["gateway:22"],
        "pools.infra.witnesses.0: 'gateway:22': not ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22",
    ),
    (
        "pools.infra.witnesses",
        ["192.168.0.1:0"],
        "pools.infra.witnesses.0: '192.168.0.1:0': not ADDRESS:PORT of something that takes or refuses a connection, such as 192.168.0.1:22",
    ),
    (
        "pools.infra.witnesses",
        ["192.168.0.6:22"],
        f"pools.infra.witnesses.0: 192.168.0.6:22 is pools.infra.hosts.infra1; {OUTSIDE}",
    ),
    (
        "pools.infra.witnesses",
        ["192.168.0.251:80"],
        f"pools.infra.witnesses.0: 192.168.0.251:80 is vips.infra.address; {OUTSIDE}",
    ),
    (
        "vips.infra.priorities",
        {"infra1": 101},
        "vips.infra.priorities: infra1 has 101; with witnesses 102 is the least: "
        "a director that sees too few servers adds -100, and one that is cut off must then rank below it. "
        "Set higher priorities, or no witnesses (pools.infra.witnesses: [])",
    ),
    (
        "pools.infra.hosts.master0",
        "192.168.0.7",
        "pools.infra.hosts.master0: the name is used by pools.master.hosts.master0 too; names of hosts are unique in a stack, so choose another",
    ),
    (
        "vips.master.owner",
        "Master0",
        f"vips.master.owner: 'Master0' is no name; {HOST_NAMES}",
    ),
    # text that keepalived.conf cannot carry
    (
        "keepalived.notifications",
        {"notification_email": ["ops@example.com"]},
        f"keepalived.notifications.smtp_server: missing; {WORD.replace('must be', 'give')}",
    ),
]


def prepared(article: dict[str, Any], says: str) -> dict[str, Any]:
    """The article, with the other key that a rule between two keys speaks of."""
    if "network.port_security is false" in says:
        article["network"]["port_security"] = False
    return article


@pytest.mark.parametrize(("path", "value", "says"), TABLE, ids=[f"{path}-{'removed' if value is REMOVED else value}"[:70] for path, value, _ in TABLE])
def test_a_wrong_configuration_has_this_message(article: dict[str, Any], path: str, value: Any, says: str) -> None:
    told = refusal(prepared(article, says), (path, value))
    assert says in told.splitlines()
    assert not [word for word in FOREIGN if word in told]


def deepest(data: Any, key: str) -> str:
    """The last part of a key that a configuration has; of the entry of a list, its number."""
    found = CLUSTER
    for step in key.split("."):
        keys = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
        named = {str(name): value for name, value in keys.items()}
        if step not in named:
            break
        data, found = named[step], step
    return found


@pytest.mark.parametrize(("path", "value", "says"), TABLE, ids=[f"{path}-{'removed' if value is REMOVED else value}"[:70] for path, value, _ in TABLE])
def test_a_message_names_the_file_and_the_line_of_its_key(article: dict[str, Any], tmp_path: Path, path: str, value: Any, says: str) -> None:
    put(prepared(article, says), path, value)
    text = yaml.safe_dump({"config": {"openstack:cloud": "x", CLUSTER: article}}, sort_keys=False)
    (tmp_path / "Pulumi.wrong.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        render.read(tmp_path / "Pulumi.wrong.yaml")
    told = next(line for line in str(refused.value).splitlines() if line.endswith(f": {says}"))
    number = re.fullmatch(r"Pulumi\.wrong\.yaml:(\d+): .*", told)
    assert number
    line, step = text.splitlines()[int(number[1]) - 1], deepest(article, says.partition(": ")[0])
    assert line.lstrip("- '").startswith(step) or (step.isdecimal() and line.lstrip().startswith("- ")), f"{told}\n{line}"


FILE = """\
# A comment.
config:
  openshift-lvs:auth_pass:
    master:
      secure: v1:abc
  openshift-lvs:cluster:
    network: {cidr: 192.168.0.0/24}
    pools:
      infra:
        image: debian-12
        flavor: m1.medium
        hosts: {infra0: 192.168.0.5,
                infra1: 192.168.0.6}
    vips:
      infra:
        address: 192.168.0.251
        pool: infra
        virtual_router_id: 52
        owner: infra0
        services:
          - {port: 80, health_check: {type: tcp}}
          - port: 443
            health_check:
              type: http
              path: /
"""

LINES = {
    "a value": (("path: /", "path: x"), [25]),
    "a key that is not known": (("pool: infra", "pool: infra\n        color: red"), [18]),
    "a key that is missing": (("        owner: infra0\n", ""), [15]),
    "a value without its own line": (("infra1: 192.168.0.6", "infra1: fd00::1"), [13]),
    "an entry of a list": (("- {port: 80,", "- {port: 0,"), [21]),
    "several": (("192.168.0.251", "x"), [16]),
    "a rule between sections: the key to change": (("owner: infra0", "owner: infra7"), [19]),
    "two services": (("port: 443", "port: 80"), [22]),
    "a key beside the cluster": (("openshift-lvs:auth_pass:", "openshift-lvs:auth_passs:"), [3]),
    "no cluster": (("openshift-lvs:cluster", "other:cluster"), [2]),
    "a script that is not there": (("type: http\n              path: /", "type: misc\n              script: checks/none"), [25]),
}


@pytest.mark.parametrize(("change", "lines"), LINES.values(), ids=LINES)
def test_the_line_is_that_of_the_key_to_change(tmp_path: Path, change: tuple[str, str], lines: list[int]) -> None:
    assert change[0] in FILE
    (tmp_path / "Pulumi.x.yaml").write_text(FILE.replace(*change))
    with pytest.raises(ConfigurationError) as refused:
        render.files(tmp_path, "x")
    assert [line.split(":")[1] for line in str(refused.value).splitlines()] == [str(line) for line in lines]


def test_a_line_that_is_no_fault_of_its_own_gets_no_line_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.x.yaml").write_text(FILE)
    file = StackFile.read(tmp_path / "Pulumi.x.yaml")
    assert file.located("network.external: 'x': the cloud could not be asked (first line:\nsecond: line)") == (
        "Pulumi.x.yaml:7: network.external: 'x': the cloud could not be asked (first line:\nsecond: line)"
    )


WRONG: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    10**12,
    1.5,
    float("nan"),
    "",
    "x y",
    "fd00::/64",
    "\n",
    [],
    [None],
    [[]],
    ["x y"],
    {},
    {"x y": None},
    {1: 2},
    {"a": {}},
    datetime.date(2026, 3, 1),
)
"""Values of every JSON type, and what else YAML has."""


def places(given: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of the model, with names and numbers for what has none of its own."""
    kind = Kind.of(given)
    if kind.core is Any:
        return
    yield path, kind
    for section in kind.models:
        step = () if len(kind.models) == 1 else (f"={get_args(section.model_fields['type'].annotation)[0]}",)
        for name, field in section.model_fields.items():
            yield from places(field, (*path, *step, name))
    if get_origin(kind.core) is dict:
        yield from places(get_args(kind.core)[1], (*path, "master0" if path[-1] in ("hosts", "weights", "priorities") else "master"))
    if get_origin(kind.core) is tuple:
        yield from places(get_args(kind.core)[0], (*path, "0"))


KEYS = [path for path, _ in places(Cluster) if path]


def changed(article: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The article with this value at the path; what leads there is made."""
    data = copy.deepcopy(article)
    here: Any = data
    for step, following in zip(path, (*path[1:], ""), strict=True):
        if step.startswith("="):
            here.clear()
            here["type"] = step[1:]
            continue
        new: Any = [{}] if following == "0" else {}
        if isinstance(here, list):
            if not following:
                here[0] = value
            elif not isinstance(here[0], (dict, list)):
                here[0] = new
            here = here[0]
        elif not following:
            here[step] = value
        else:
            if not isinstance(here.get(step), (dict, list)):
                here[step] = new
            here = here[step]
    return data


def told(data: dict[str, Any]) -> str:
    try:
        Cluster.parse(data)
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_no_wrong_value_of_any_key_gets_a_message_of_the_library(article: dict[str, Any], path: tuple[str, ...]) -> None:
    said = [told(changed(article, path, value)) for value in WRONG]
    lines = [line for each in said for line in each.splitlines()]
    assert lines
    key = next(step for step in path if not step.startswith("="))
    assert any(line.startswith(key) for line in lines)
    for line in lines:
        assert not [word for word in FOREIGN if word in line], line
        assert ": " in line and line == line.strip(), line


def test_the_keys_are_those_of_every_section() -> None:
    assert len(KEYS) > 120
    assert {("vips", "master", "services", "0", "health_check", "=misc", "script"), ("network", "allow", "0", "cidr"), ("ssh", "bastion", "host_key")} <= set(
        KEYS
    )


SECTIONS = [path for path, kind in places(Cluster) if kind.models and len(kind.models) == 1 and not any(step.startswith("=") for step in path)]
SECTIONS += [("vips", "master", "services", "0", "health_check", f"={check}") for check in ("tcp", "http", "smtp", "misc")]


def valid_keys(path: tuple[str, ...]) -> set[str]:
    """The keys that the model has at a place."""
    sections = dict(places(Cluster))
    check = path[-1][1:] if path and path[-1].startswith("=") else ""
    models: tuple[type[Model], ...] = sections[path[:-1] if check else path].models
    section = next(each for each in models if not check or check in get_args(each.model_fields["type"].annotation))
    return {*section.model_fields, *(("path", "status_code", "digest") if section is HttpCheck else ())}


@pytest.mark.parametrize("path", SECTIONS, ids=".".join)
def test_a_suggestion_is_a_key_that_is_valid_at_its_place(article: dict[str, Any], path: tuple[str, ...]) -> None:
    valid = valid_keys(path)
    words = {f"{key}x" for known in KEYS for key in known if not key.startswith("=")} | {"script", "nam", "prt", "helo", *RENAMED, *NEEDLESS}
    suggested = 0
    for word in sorted(words - valid):
        line = next(
            (line for line in told(changed(article, (*path, word), 1)).splitlines() if f".{word}: unknown key" in line or line.startswith(f"{word}: unknown")),
            "",
        )
        assert line, word
        if "did you mean" in line:
            suggested += 1
            assert line.rpartition("did you mean '")[2].rstrip("'?") in valid, line
    assert suggested


@pytest.mark.parametrize("word", [*RENAMED, *NEEDLESS, *(word for _, word, _ in PLACED)])
def test_a_word_of_keepalived_is_never_taken_for_a_misspelt_key(article: dict[str, Any], word: str) -> None:
    for path in ((word,), ("pools", "infra", word), ("vips", "infra", word), (*SERVICE.split("."), word)):
        line = told(changed(article, path, 1))
        if "unknown key" in line and word not in {word for _, word, _ in PLACED}:
            assert "; here it is " in line or "; leave it out: " in line, line


@pytest.mark.parametrize(
    "regex", [r"\d+\s", "(?i)x", "[[:digit:]]", "[[:alpha:](]", "(*UTF)x", r"\Q(\E", "(?<name>x)", "a*+", r"\h(?R)?", "{x}", "(?|a|b)", "a{2}{3}", "^*"]
)
def test_what_only_pcre_knows_is_a_valid_regular_expression(article: dict[str, Any], regex: str) -> None:
    put(article, CHECK, url(regex=regex))
    assert told(article) == ""


@pytest.mark.parametrize("options", [["allow_empty_class"], ["extended"]])
def test_an_option_that_changes_the_syntax_leaves_the_judgement_to_keepalived(article: dict[str, Any], options: list[str]) -> None:
    put(article, CHECK, url(regex="[]x(" if options == ["allow_empty_class"] else "a # (", regex_options=options))
    assert told(article) == ""


@pytest.mark.parametrize("path", ["vips.master.virtual_router_id", f"{SERVICE}.port", "ssh.port"])
def test_a_number_in_quotes_is_still_a_number(article: dict[str, Any], path: str) -> None:
    put(article, path, "77")
    assert told(article) == ""


def test_a_floating_ip_that_no_client_can_use_is_a_warning(article: dict[str, Any]) -> None:
    assert Cluster.parse(article).warnings == []
    article["network"]["client_cidrs"] = []
    article["vips"]["infra"]["floating_ip"] = "203.0.113.10"
    assert Cluster.parse(article).warnings == [
        "network.client_cidrs: empty, so no client outside the subnet can use the floating IPs of master, infra; "
        "name the clients, such as [0.0.0.0/0] for all, or set floating_ip: false in these vips"
    ]
    for vip in article["vips"].values():
        vip["floating_ip"] = False
    assert Cluster.parse(article).warnings == []


def test_a_floating_ip_on_a_network_without_port_security_is_a_warning(article: dict[str, Any]) -> None:
    article["network"]["port_security"] = False
    article["vips"]["infra"]["floating_ip"] = False
    assert Cluster.parse(article).warnings == [
        "network.port_security: false, so ML2/OVN sends no host the packets for the floating IPs of master, "
        "and their clients get no answer; set floating_ip: false in these vips, or port_security: true"
    ]


def test_a_floating_ip_that_is_wanted_but_cannot_be_is_a_warning(article: dict[str, Any]) -> None:
    del article["network"]["external"]
    article["vips"]["infra"]["floating_ip"] = True
    assert Cluster.parse(article).warnings == [
        "vips.infra.floating_ip: true, and network.external is not set, so the VIP gets none; set false, or name the external network"
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vips.master.floating_ip": "203.0.113.9", "vips.infra.floating_ip": "203.0.113.9"}, "vips.infra.floating_ip: 203.0.113.9 is the floating IP of "
         "vips.master too; one VIP can have it"),
        ({"vips.infra.floating_ip": "203.0.113.9", "network.external": None}, "network.external: missing, and vips.infra.floating_ip is 203.0.113.9; "
         "name the external network, so that the created network gets a router to it"),
    ],
)  # fmt: skip
def test_an_existing_floating_ip_that_cannot_work_is_refused(article: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    for path, value in changes.items():
        put(article, path, REMOVED if value is None else value)
    assert told(article) == says


def existing_hosts(article: dict[str, Any]) -> dict[str, Any]:
    """The article with hosts that exist, so that the program creates nothing in OpenStack."""
    for pool in article["pools"].values():
        hosts = {name: {"address": address, "host_key": HOST_KEY} for name, address in pool["hosts"].items()}
        pool.update(existing=True, hosts=hosts)
    return article


def test_a_floating_ip_of_existing_hosts_is_connected_by_the_user(article: dict[str, Any]) -> None:
    existing_hosts(article)["vips"]["infra"]["floating_ip"] = "203.0.113.9"
    assert told(article) == ("vips.infra.floating_ip: 203.0.113.9, and this stack creates nothing in OpenStack; connect it in your cloud, and set false here")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"network.external": REMOVED}, "network.external: missing; a bastion that the program creates gets a floating IP from it; name the external network"),
        ({"network.management": {"existing": "m", "cidr": "10.2.0.0/24"}, "pools.infra.hosts.infra0": {"address": "192.168.0.5", "ssh_address": "10.2.0.5"}},
         "pools.infra.hosts.infra0.ssh_address: 10.2.0.5, and a bastion that the program creates reaches only the subnet 192.168.0.0/24; "
         "remove ssh_address, or name a bastion that exists"),
    ],
)  # fmt: skip
def test_a_bastion_that_could_not_be_created_or_used_is_refused(article: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    article["ssh"].update(bastion=MADE, allowed_cidrs=["10.0.0.0/8"])
    for path, value in changes.items():
        put(article, path, value)
    assert told(article) == says


def test_a_stack_of_existing_hosts_creates_no_bastion(article: dict[str, Any]) -> None:
    existing_hosts(article)["ssh"].update(bastion=MADE, allowed_cidrs=["10.0.0.0/8"])
    assert told(article) == ("ssh.bastion.image: 'debian-12', and this stack creates nothing in OpenStack; name a bastion that exists (host, host_key)")


def test_an_ssh_address_outside_the_management_network_is_refused(article: dict[str, Any]) -> None:
    article["network"]["management"] = {"existing": "mgmt", "cidr": "10.20.0.0/24"}
    article["pools"]["infra"]["hosts"]["infra0"] = {"address": "192.168.0.5", "ssh_address": "10.21.0.5"}
    assert told(article) == (
        "pools.infra.hosts.infra0.ssh_address: 10.21.0.5 is not a host address of network.management.cidr 10.20.0.0/24; "
        "choose one from 10.20.0.1 to 10.20.0.254"
    )


def test_a_router_without_floating_ips_needs_no_clients(article: dict[str, Any]) -> None:
    article["network"]["client_cidrs"] = []
    for vip in article["vips"].values():
        vip["floating_ip"] = False
    assert told(article) == ""


def test_a_datagram_service_may_have_the_number_of_the_port_of_ssh(article: dict[str, Any]) -> None:
    put(article, SERVICE, {"port": 22, "protocol": "UDP", "health_check": {"type": "tcp", "connect_port": 80}})
    assert told(article) == ""


def test_a_root_login_that_first_boot_would_forbid_is_refused(article: dict[str, Any]) -> None:
    put(article, "pools.infra.cloud_config", {"disable_root": True})
    assert told(article) == ""
    article["ssh"]["user"] = "root"
    assert told(article) == "pools.infra.cloud_config.disable_root: true, and ssh.user is root; remove it or set another ssh.user"


def test_the_configuration_as_a_whole_is_named_by_its_key() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cluster.parse([])  # type: ignore[arg-type]
    assert str(refused.value) == "openshift-lvs:cluster: []: must be a mapping; docs/reference/configuration.md has its keys under openshift-lvs:cluster"
