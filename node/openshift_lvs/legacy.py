"""Hosts of the release before this program, which had shell scripts instead of it: going over to the program, and back, without a failed request.

A version of that release has `node.conf` and `services` in place of `host.json`, and its keepalived.conf calls scripts in /usr/local/lib/openshift-lvs.
Delete this module when no such host is left.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address

from . import state
from .description import NAME, Description, RealServer, Service, Vip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .ipvs import Key, Lowered

_METHODS = {"gatewaying": "DR", "ipip": "TUN", "masquerading": "NAT"}
_LEFT = ("before", "unread", "lowered", "switched", "addresses")
"""What the scripts kept in /run/openshift-lvs about an activation."""


def adopt(folder: str, program: str) -> None:
    """Let this program work with a version of the scripts: describe it, and link it to the program. Does nothing for other versions."""
    if not os.path.exists(f"{folder}/node.conf") or os.path.exists(f"{folder}/{NAME}"):
        return
    description = _described(folder)
    state.link(f"{folder}/program", program)
    state.write(f"{folder}/release.batch", "".join(f"address flush dev {description.interface} to {vip.address}/32\n" for vip in description.vips))
    # Last: a version that has it counts as adopted.
    state.write(f"{folder}/{NAME}", description.to_json())


def _described(folder: str) -> Description:
    conf = {key: value.strip('"') for key, value in re.findall(r"^(\w+)=(.*)$", state.read(f"{folder}/node.conf"), re.MULTILINE)}
    words = {key: value.split() for key, value in conf.items()}
    directors = [ip_address(each) for each in words.get("DIRECTORS", [])]
    poor = int(conf.get("POOR_VIEW_WEIGHT", -100))
    owners = dict(each.split("=") for each in words.get("OWNERS", []))
    router_ids = dict(each.split("=") for each in words.get("ROUTER_IDS", []))
    alpha = {each.partition("=")[0]: each.partition("=")[2] != "0" for each in words.get("QUORUMS", [])}
    sections = _virtual_servers(state.read(f"{folder}/keepalived.conf"))
    lines = [line.split() for line in state.read(f"{folder}/services").splitlines() if not line.startswith("#")]
    vips = []
    for name, address in zip(words.get("INSTANCES", []) or words["ADDRESSES"], words["ADDRESSES"]):
        services = []
        for mark in dict.fromkeys(line[0] for line in lines if line[1].rpartition(":")[0] == address):
            mine = [line for line in lines if line[0] == mark]
            servers = [line for line in mine if len(line) > 4]
            quorum, hysteresis, service = sections.get(mark, (1, 0, f"{name}-{mine[0][1].rpartition(':')[2]}"))
            services.append(
                Service(
                    name=service,
                    protocol="UDP" if service.endswith("-udp") else "TCP",
                    port=int(mine[0][1].rpartition(":")[2]),
                    mark=int(mark),
                    forwarding_method=_METHODS[servers[0][4]],
                    quorum=quorum,
                    hysteresis=hysteresis,
                    expected_weight=sum(int(line[3]) for line in servers),
                    alpha=alpha.get(f"{name}/{service}", False),
                    sorry_server=next((ip_address(line[2]) for line in mine if len(line) == 4), None),
                    check_script=None,
                    check_user=None,
                    regexes=(),
                    real_servers=tuple(RealServer(line[2], ip_address(line[2]), int(line[3])) for line in servers),
                )
            )
        vips.append(Vip(name, ip_address(address), int(router_ids.get(name, 0)), ip_address(owners.get(name, address)), False, tuple(services)))
    return Description(
        host="",
        pool="",
        program="shell",
        interface=conf["INTERFACE"],
        address=directors[0] if directors else ip_address("0.0.0.0"),
        director=bool(directors),
        directors=tuple(directors[1:]),
        sync_id=int(conf["SYNC_ID"]) if conf.get("SYNC_ID", "None") != "None" else None,
        poor_view_weight=poor,
        step_back_weight=int(conf.get("STEP_BACK_WEIGHT", poor // 2)),
        witnesses=tuple(words.get("WITNESSES", [])),
        check_seconds=int(conf["CHECK_SECONDS"]),
        vips=tuple(vips),
    )


def _virtual_servers(configuration: str) -> dict[str, tuple[int, int, str]]:
    """Quorum, hysteresis and name of each virtual server of keepalived.conf, by mark."""
    found = {}
    for mark, body in re.findall(r"^virtual_server fwmark (\d+) \{\n(.*?)^\}", configuration, re.MULTILINE | re.DOTALL):
        quorum = re.search(r"^ +quorum (\d+)", body, re.MULTILINE)
        hysteresis = re.search(r"^ +hysteresis (\d+)", body, re.MULTILINE)
        name = re.search(r"^ +quorum_up \"\S+ \S+ (\S+) ", body, re.MULTILINE)
        found[mark] = (int(quorum[1]) if quorum else 1, int(hysteresis[1]) if hysteresis else 0, name[1] if name else mark)
    return found


def write_for_shell(folder: str, description: Description) -> None:
    """Write `node.conf` and `services` into a version, so that the scripts can replace it when a stack goes back to the release before."""
    methods = {ours: theirs for theirs, ours in _METHODS.items()}
    vips = description.vips
    values = {
        "INTERFACE": description.interface,
        "ADDRESSES": " ".join(description.vip_addresses),
        "DIRECTORS": " ".join(map(str, (description.address, *description.directors) if description.director else ())),
        "SYNC_ID": str(description.sync_id),
        "ROUTER_IDS": " ".join(f"{vip.name}={vip.virtual_router_id}" for vip in vips if description.director),
        "OWNERS": " ".join(f"{vip.name}={vip.owner}" for vip in vips if description.director),
        "INSTANCES": " ".join(description.instances),
        "QUORUMS": " ".join(
            f"{vip.name}/{service.name}={description.poor_view_weight if service.alpha else 0}"
            for vip in vips
            if description.director
            for service in vip.services
        ),
        "POOR_VIEW_WEIGHT": str(description.poor_view_weight),
        "STEP_BACK_WEIGHT": str(description.step_back_weight),
        "WITNESSES": " ".join(description.witnesses),
        "CHECK_SECONDS": str(description.check_seconds),
        "ANSWERED": " ".join(str(service.mark) for vip in vips if description.director and vip.answers_expected for service in vip.services),
    }
    # In double quotes, which their `strangers` looks for.
    state.write(f"{folder}/node.conf", "".join(f'{key}="{value}"\n' for key, value in values.items()))
    if not description.director:
        return
    lines = []
    for vip in vips:
        for service in vip.services:
            at = f"{service.mark} {vip.address}:{service.port}"
            lines += [f"{at} {server.address} {server.weight} {methods[service.forwarding_method]}" for server in service.real_servers]
            lines += [f"{at} {service.sorry_server} 0"] if service.sorry_server else []
    state.write(f"{folder}/services", "".join(f"{line}\n" for line in lines))


def interrupted() -> tuple[list[Key] | None, bool, list[Lowered]]:
    """What an interrupted activation of the scripts left, as activation.Progress has it."""
    lowered = []
    for line in state.read(f"{state.RUN}/lowered").splitlines():
        mark, address, method, weight = line.split()
        lowered.append((int(mark), address, _METHODS[method], int(weight)))
    before = None
    if os.path.exists(f"{state.RUN}/before"):
        before = [(int(mark), address) for mark, address, *_ in (line.split() for line in state.read(f"{state.RUN}/before").splitlines())]
    return before, os.path.exists(f"{state.RUN}/unread"), lowered


def forget_interrupted() -> None:
    """Remove what the scripts kept of an activation."""
    for name in _LEFT:
        if os.path.exists(f"{state.RUN}/{name}"):
            os.unlink(f"{state.RUN}/{name}")


def remove_scripts(versions: list[str]) -> None:
    """Remove the scripts once no version on this host calls them."""
    if any(f"{state.LIB}/quorum" in state.read(f"{folder}/keepalived.conf") for folder in versions):
        return
    for name in state.names(state.LIB):
        if os.path.isfile(f"{state.LIB}/{name}"):
            os.unlink(f"{state.LIB}/{name}")
