"""The files of one host, from the cluster's configuration alone: (cluster, host) -> text. Pure but for reading templates and check scripts."""

from __future__ import annotations

import functools
import hashlib
import math
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from components.configuration import POOR_VIEW_WEIGHT, Cluster, ConfigurationError, HttpCheck, MiscCheck, Node, Vip, VirtualService
from components.configuration.model import AnyAddress, AnyRange, within
from components.ingress import open_return_ports
from node.openshift_lvs import description
from node.openshift_lvs.ipvs import SYNC_GROUPS

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / "templates"
PROGRAM = ROOT / "node"
"""What every host receives unchanged."""
CURRENT = "/etc/keepalived/current"
"""Where a node finds the version in force: a symbolic link that is swapped in one step."""
_DELIVERED = ("openshift-lvs", "openshift_lvs/*.py", "systemd/**/*")
"""The program's files. `install` is run from its text instead."""
_FAMILIES = {
    4: {"ip": "ip", "address": "ipv4_addr", "protocol": "ip protocol", "icmp": "icmp", "header": 20, "next_header": 9},
    6: {"ip": "ip6", "address": "ipv6_addr", "protocol": "meta l4proto", "icmp": "icmpv6", "header": 40, "next_header": 6},
}
"""The words of nft for each family, the bytes of its header, and where in it the protocol is."""
SERVER_FOLDER = "/etc/openshift-lvs"
"""Where a real server that the program does not manage has its files."""
_SERVER_FILES = (("server.nft", 0o644), ("own-calls", 0o755), ("openshift-lvs-server.service", 0o644))
_MODULES = {"DR": (), "NAT": (), "TUN": ("ipip",)}


class File(NamedTuple):
    """A file on a node: its path below the folder it is delivered to, its rights, its text."""

    path: str
    mode: int
    text: str


def render(cluster: Cluster, host: str, root: Path = ROOT) -> tuple[File, ...]:
    """Every file of that host's version folder, byte-stable and in a fixed order; of an unmanaged host, what its operator puts there (`server_files`).

    `root` is where the scripts of MISC_CHECK are looked up. Raises ConfigurationError when one is missing.
    """
    node = cluster.node(host)
    if not node.host.managed:
        return server_files(cluster, node.pool_name)
    vips = cluster.vips_of(node.pool_name)
    is_director = host in cluster.directors(node.pool_name)
    families = [_family(cluster, node, cidr) for cidr in cluster.network.cidrs]
    context = {
        "host": host,
        "pool": node.pool_name,
        "interface": node.interface,
        "is_director": is_director,
        "keepalived": cluster.keepalived.model_dump(mode="json"),
        "witnesses": cluster.witnesses(node.pool_name) if is_director else (),
        "vips": [_vip(cluster, node, name, vip) for name, vip in vips.items()],
        "modules": _modules(vips),
        "families": families,
        "sync_id": cluster.sync_id(node.pool_name),
        "methods": sorted({service.forwarding_method for vip in vips.values() for service in vip.services}),
    }
    has_rules = any(family["is_director"] or family["sync_group"] or family["tunnelled"] or family["returned"] for family in families)
    # A server that is no director runs keepalived too, for its own calls: with health checks and without VRRP.
    names = [*(["keepalived.conf"] if vips else []), *(["lvs.nft"] if has_rules else []), *(["release.batch"] if vips else []), "sysctl.conf", "modules.conf"]
    files = [File(name, 0o644, _template(f"etc/keepalived/current/{name}.j2").render(context)) for name in names]
    described = File(description.NAME, 0o644, describe(cluster, host).to_json())
    return (described, *files, *_check_scripts(vips, root))


def server_files(cluster: Cluster, pool: str) -> tuple[File, ...]:
    """The files of the real servers of a pool that the program does not manage: nftables rules, a script and its unit. The same for all of them."""
    context = {
        "pool": pool,
        "folder": SERVER_FOLDER,
        "interface": cluster.pools[pool].interface,
        "families": [{**_FAMILIES[cidr.version], "version": cidr.version, "returned": _returned(cluster, pool, cidr)} for cidr in cluster.network.cidrs],
        "vips": [
            {"addresses": vip.addresses, "services": [{**s.model_dump(mode="json"), "own_check": shlex.join(_own_check(s))} for s in vip.services]}
            for vip in cluster.vips_of(pool).values()
        ],
    }
    return tuple(File(name, mode, _template(f"etc/openshift-lvs/{name}.j2").render(context)) for name, mode in _SERVER_FILES)


def _own_check(service: VirtualService) -> list[str]:
    """A command that succeeds while the own server of a host answers the service: the first URL of its health check, else a TCP connection."""
    check = service.health_check
    port = service.port if isinstance(check, MiscCheck) else check.connect_port or service.port
    if not isinstance(check, HttpCheck):
        return ["bash", "-c", f"</dev/tcp/127.0.0.1/{port}"]
    url = check.urls[0]
    name = url.virtualhost or check.virtualhost or service.virtualhost
    scheme = "https" if check.type == "ssl" else "http"
    return ["curl", "--fail", "--globoff", "--insecure", *(["--header", f"Host: {name}"] if name else []), f"{scheme}://127.0.0.1:{port}{url.path}"]


def describe(cluster: Cluster, host: str) -> description.Description:
    """What the program on that host must know of it: `host.json`."""
    node = cluster.node(host)
    vips = cluster.vips_of(node.pool_name)
    directors = cluster.directors(node.pool_name)
    is_director = host in directors and bool(vips)
    hosts = node.pool.hosts
    return description.Description(
        host=host,
        pool=node.pool_name,
        program=program_digest(),
        interface=node.interface,
        address=node.host.address,
        address_v6=node.host.address_v6,
        director=is_director,
        directors=tuple(hosts[other].address for other in directors if other != host) if is_director else (),
        directors_v6=tuple(address for other in directors if other != host and (address := hosts[other].address_v6)) if is_director else (),
        sync_id=cluster.sync_id(node.pool_name),
        poor_view_weight=POOR_VIEW_WEIGHT,
        step_back_weight=cluster.step_back_weight(node.pool_name),
        witnesses=cluster.witnesses(node.pool_name) if is_director else (),
        check_seconds=math.ceil(max((s.verdict_seconds for vip in vips.values() for s in vip.services), default=0)),
        vips=tuple(
            description.Vip(
                name=name,
                address=vip.address,
                additional_addresses=vip.addresses[1:],
                virtual_router_id=vip.virtual_router_id,
                owner=hosts[vip.owner].address_of(vip.address.version),
                answers_expected=bool(vip.answers_within),
                services=tuple(_described(cluster, name, vip, service) for service in vip.services),
                advert_protocol=description.AH if vip.authentication == "AH" else description.VRRP,
                unicast=vip.unicast,
                together=cluster.together(name)[0] if len(cluster.together(name)) > 1 else "",
            )
            for name, vip in vips.items()
        ),
        metrics_directory=cluster.metrics.directory if cluster.metrics else None,
        connections_max=node.pool.connections_max if is_director else 0,
        checks_only=bool(vips) and not is_director,
    )


def _described(cluster: Cluster, vip_name: str, vip: Vip, service: VirtualService) -> description.Service:
    hosts = cluster.pools[vip.pool].hosts
    check = service.health_check
    return description.Service(
        name=_service_name(vip_name, service),
        protocol=service.protocol,
        port=service.port,
        mark=vip.mark(service),
        forwarding_method=service.forwarding_method,
        quorum=service.quorum_of(hosts),
        hysteresis=service.hysteresis,
        expected_weight=service.expected_weight(hosts),
        alpha=bool(service.alpha),
        sorry_server=service.sorry_server,
        check_script=_script_name(check) if isinstance(check, MiscCheck) else None,
        check_user=check.user if isinstance(check, MiscCheck) else None,
        regexes=tuple(url.regex for url in check.urls if url.regex) if isinstance(check, HttpCheck) else (),
        check_port=None if isinstance(check, MiscCheck) else check.connect_port or service.port,
        real_servers=tuple(description.RealServer(name, host.address_of(vip.address.version), service.weight(name)) for name, host in hosts.items()),
        scheduler=service.scheduler,
        scheduler_flags=service.scheduler_flags,
        ops=service.ops,
        persistence_timeout=service.persistence_timeout,
        persistence_granularity=service.persistence_granularity,
        inhibit_on_failure=service.inhibit_on_failure,
        uthreshold=service.uthreshold or 0,
        lthreshold=service.lthreshold or 0,
        dynamic_weights=service.dynamic_weights,
        fail_open=service.fails_open(hosts),
    )


def bundle(files: tuple[File, ...]) -> str:
    """Files as one readable text, which the host takes apart again; a reviewer reads it in a diff.

    A line `==> PATH MODE`, then the file's lines, each behind two blanks.
    """
    # Only a line feed ends a line, here as on the host: str.splitlines knows form feeds and more.
    return "".join(f"==> {file.path} {file.mode:04o}\n" + "".join(f"  {line}\n" for line in _lines(file.text)) for file in files)


def version(files: tuple[File, ...]) -> str:
    """12 hexadecimal digits that name this content; the host computes them again."""
    return hashlib.sha256(bundle(files).encode()).hexdigest()[:12]


@functools.cache
def program() -> tuple[File, ...]:
    """What every host receives unchanged: the program, laid out as in its folder on the host."""
    paths = sorted(path for pattern in _DELIVERED for path in PROGRAM.glob(pattern) if path.is_file())
    return tuple(File(str(path.relative_to(PROGRAM)), 0o755 if path.stat().st_mode & 0o100 else 0o644, path.read_text()) for path in paths)


@functools.cache
def program_digest() -> str:
    """12 hexadecimal digits that name the program: its folder on a host. A version names the program that it was delivered with."""
    return version(program())


def authentication(cluster: Cluster, host: str, auth_pass: dict[str, str]) -> dict[str, str]:
    """The secret files of a host, by name: the authentication block that keepalived.conf includes for each instance that has one."""
    vips = cluster.vips_of(cluster.node(host).pool_name)
    return {
        f"auth-{name}.conf": f"authentication {{\n    auth_type {vip.authentication}\n    auth_pass {auth_pass[name]}\n}}\n"
        for name, vip in vips.items()
        if vip.authentication and host in cluster.directors(vip.pool)
    }


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


@functools.cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,
    )
    environment.filters["seconds"] = lambda value: f"{value:.6f}".rstrip("0").rstrip(".")
    environment.filters["hexadecimal"] = lambda address: f"{int(address):#010x}"
    return environment.get_template(name)


def _vip(cluster: Cluster, node: Node, name: str, vip: Vip) -> dict[str, Any]:
    directors = cluster.directors(vip.pool)
    addresses = {other: str(host.address_of(vip.address.version)) for other, host in node.pool.hosts.items()}
    together = cluster.together(name)
    return {
        **vip.model_dump(mode="json"),
        "name": name,
        "version": vip.address.version,
        "addresses": list(map(str, vip.addresses)),
        "prefixes": [f"{address}/{address.max_prefixlen}" for address in vip.addresses],
        "together": together if len(together) > 1 else (),
        "priority": cluster.priority(vip, node.name) if node.name in directors else None,
        "source": addresses[node.name],
        "peers": [addresses[other] for other in directors if other != node.name],
        "services": [_service(cluster, name, vip, service) for service in vip.services],
    }


def _service(cluster: Cluster, vip_name: str, vip: Vip, service: VirtualService) -> dict[str, Any]:
    hosts = cluster.pools[vip.pool].hosts
    check = service.health_check.model_dump(mode="json")
    if "connect_port" in check:
        # A virtual server by firewall mark has real servers without a port; the check needs it.
        check["connect_port"] = check["connect_port"] or service.port
    return {
        **service.model_dump(mode="json"),
        "name": _service_name(vip_name, service),
        "mark": vip.mark(service),
        "flags": service.scheduler_flags,
        "quorum": service.quorum_of(hosts),
        "refusals_dropped": service.refusals_dropped(hosts),
        "real_servers": [{"name": name, "address": str(host.address_of(vip.address.version)), "weight": service.weight(name)} for name, host in hosts.items()],
        "check": {
            **check,
            "keyword": {"tcp": "TCP_CHECK", "http": "HTTP_GET", "ssl": "SSL_GET", "smtp": "SMTP_CHECK", "misc": "MISC_CHECK"}[service.health_check.type],
            "misc_path": f"{CURRENT}/{_script_name(service.health_check)}" if isinstance(service.health_check, MiscCheck) else None,
        },
    }


def _service_name(vip_name: str, service: VirtualService) -> str:
    return f"{vip_name}-{service.port}" + ("" if service.protocol == "TCP" else "-udp")


def _family(cluster: Cluster, node: Node, cidr: AnyRange) -> dict[str, Any]:
    """What the rules of one family must know."""
    all_vips = cluster.vips_of(node.pool_name)
    vips = {name: vip for name, vip in all_vips.items() if vip.address.version == cidr.version}
    directors = cluster.directors(node.pool_name)
    # Connection sync is in the first subnet: IPv4 where there are both, even if all VIPs are IPv6.
    syncs = node.name in directors and bool(all_vips) and cidr == cluster.network.cidr
    return {
        **_FAMILIES[cidr.version],
        "version": cidr.version,
        "sync_group": SYNC_GROUPS[cidr.version] if syncs else None,
        "is_director": node.name in directors and bool(vips),
        "vips": [_vip(cluster, node, name, vip) for name, vip in vips.items()],
        "addresses": [str(address) for vip in vips.values() for address in vip.addresses],
        "own_address": str(node.host.address_of(cidr.version)),
        "directors": [str(node.pool.hosts[director].address_of(cidr.version)) for director in directors],
        "tunnelled": _tunnelled(node, vips),
        "returned": _returned(cluster, node.pool_name, cidr),
    }


def _tunnelled(node: Node, vips: dict[str, Vip]) -> list[AnyAddress]:
    """The inner destinations of tunnel packets that only directors may send: VIPs and the host's own address."""
    balanced = [address for vip in vips.values() if any(service.forwarding_method == "TUN" for service in vip.services) for address in vip.addresses]
    return [*balanced, node.host.address] if balanced else []


def _returned(cluster: Cluster, pool: str, cidr: AnyRange) -> dict[str, Any] | None:
    """What a server's rules must know to refuse new connections to the ports that its security group opens for answers; None without this group."""
    if not cluster.network.port_security or cluster.pools[pool].existing:
        return None
    first, last = cluster.network.return_port_range
    # The subnet needs no rule: all of it may connect.
    outside = [rule for rule in open_return_ports(cluster, pool) if rule.source.version == cidr.version and not within(rule.source, [cidr])]
    return {"ports": f"{first}-{last}", "subnet": cidr, "open": outside}


def _modules(vips: dict[str, Vip]) -> list[str]:
    services = [service for vip in vips.values() for service in vip.services]
    extra = {module for service in services for module in _MODULES[service.forwarding_method]}
    return ["ip_vs", *sorted({f"ip_vs_{service.scheduler}" for service in services} | extra)]


def _script_name(check: MiscCheck) -> str:
    return f"checks/{Path(check.script).name}"


def _check_scripts(vips: dict[str, Vip], root: Path) -> list[File]:
    files: dict[str, File] = {}
    for name, vip in vips.items():
        for index, service in enumerate(vip.services):
            if not isinstance(check := service.health_check, MiscCheck):
                continue
            key = f"vips.{name}.services.{index}.health_check.script"
            if not (root / check.script).is_file():
                raise ConfigurationError(f"{key}: {check.script!r} is not a file of the repository; give a path from its root")
            # 0755 and root's: what keepalived's script security asks for. One that is not executable would be ignored without a word.
            try:
                file = File(_script_name(check), 0o755, (root / check.script).read_text())
            except UnicodeDecodeError:
                raise ConfigurationError(f"{key}: {check.script!r} is not text; wrap a program in a script that calls it") from None
            if not file.text.startswith("#!"):
                raise ConfigurationError(f"{key}: {check.script!r} does not begin with #!, so it cannot be run; add its interpreter")
            if files.setdefault(file.path, file) != file:
                raise ConfigurationError(f"{key}: another check has a different script of the name {file.path!r}; rename one")
    return [files[path] for path in sorted(files)]
