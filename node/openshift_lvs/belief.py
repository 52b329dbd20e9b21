"""What keepalived believes of the real servers, and the IPVS table that follows from it.

keepalived writes a line into a pipe for every verdict of its health checks (`lvs_notify_fifo`); `watch` reads them and keeps the result in a file. The
kernel's table alone does not tell: other programs empty it, and a service that fails open has weights although no check passes.
"""

from __future__ import annotations

import json
import os
import stat

from . import ipvs, state
from .ipvs import Key, Table, VirtualServer
from .record import Record, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Set

    from .description import Description, Service

START = "START"
"""A line of `start`: keepalived begins anew, and what the one before believed does not count."""

_NO_VERDICTS: dict[Key, bool] = {}
_NO_QUORUMS: dict[int, bool] = {}
_NO_TIMES: dict[int, str] = {}


class Belief(Record):
    """The last verdict on each real server, and the state of each quorum. Where keepalived has said nothing, `alpha` tells how it begins."""

    servers: dict[Key, bool] = _NO_VERDICTS
    """Whether the health check of a real server passes."""
    quorums: dict[int, bool] = _NO_QUORUMS
    """Whether a service has its quorum, by mark."""
    open_since: dict[int, str] = _NO_TIMES
    """When each service began to fail open, by mark."""

    def passes(self, service: Service, address: str) -> bool:
        """Whether the health check of this server passes."""
        return self.servers.get((service.mark, address), not service.alpha)

    def has_quorum(self, service: Service) -> bool:
        """Whether keepalived counts the quorum of this service as reached."""
        return self.quorums.get(service.mark, not service.alpha)

    def heard(self, lines: Iterable[str]) -> Belief:
        """The belief after these lines: `RS [ADDRESS]:PROTOCOL:PORT FWM MARK UP`, `VS FWM MARK DOWN`, or START. Others are left out."""
        servers, quorums, open_since = dict(self.servers), dict(self.quorums), self.open_since
        for line in lines:
            words = line.split()
            if words == [START]:
                servers, quorums, open_since = {}, {}, {}
            elif len(words) == 5 and words[0] == "RS" and words[2] == "FWM" and words[3].isdigit():
                servers[int(words[3]), words[1][1:].partition("]")[0]] = words[4] == "UP"
            elif len(words) == 4 and words[:2] == ["VS", "FWM"] and words[2].isdigit():
                quorums[int(words[2])] = words[3] == "UP"
        return Belief(servers, quorums, open_since)

    def to_json(self) -> str:
        """One line of text."""
        servers = [[mark, address, passes] for (mark, address), passes in sorted(self.servers.items())]
        return json.dumps({"servers": servers, "quorums": sorted(self.quorums.items()), "open_since": sorted(self.open_since.items())}) + "\n"


def read() -> Belief | None:
    """What `watch` recorded last; None when nothing is recorded."""
    text = state.read(state.BELIEF)
    if not text:
        return None
    data = json.loads(text)
    servers = {(mark, address): passes for mark, address, passes in data["servers"]}
    return Belief(servers, dict(data["quorums"]), dict(data["open_since"]))


def from_table(description: Description, kernel: Table, drained: Set[str]) -> Belief:
    """What the kernel's table tells of the verdicts, for the first look at a keepalived that has run before: it reports only changes."""
    verdicts, quorums = {}, {}
    for service in description.services:
        virtual = kernel.get(service.mark)
        if virtual and service.sorry_server and str(service.sorry_server) in virtual.servers:
            quorums[service.mark] = False
        for server in service.real_servers if virtual else ():
            there = virtual.servers.get(str(server.address)) if virtual else None
            if server.weight and str(server.address) not in drained:
                verdicts[service.mark, str(server.address)] = bool(there and (there.weight or service.dynamic_weights))
    return Belief(verdicts, quorums)


def prepare() -> None:
    """Make the pipe: keepalived removes one that it made itself whenever it reads its configuration."""
    try:
        if not stat.S_ISFIFO(os.stat(state.VERDICTS).st_mode):
            os.unlink(state.VERDICTS)
            os.mkfifo(state.VERDICTS, 0o600)
    except FileNotFoundError:
        os.mkfifo(state.VERDICTS, 0o600)


def open_pipe() -> int:
    """The pipe, for reading and writing: it then never ends, and never blocks."""
    prepare()
    return os.open(state.VERDICTS, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def begin() -> None:
    """Before keepalived starts: forget what the one before believed."""
    forget()
    pipe = open_pipe()
    try:
        os.write(pipe, f"{START}\n".encode())
    except BlockingIOError:
        # Full: no process reads it. The next reader begins without a recorded belief.
        pass
    finally:
        os.close(pipe)


def forget() -> None:
    """Remove the recorded belief."""
    if os.path.exists(state.BELIEF):
        os.unlink(state.BELIEF)


# The table that follows


def fails_open(service: Service, belief: Belief, out: Set[Key]) -> bool:
    """Whether a service gives connections to servers whose check fails: no server that may get one passes it. `out` may get none."""
    able = _able(service, out)
    return service.fail_open and bool(able) and not any(belief.passes(service, address) for address in able)


def _able(service: Service, out: Set[Key]) -> list[str]:
    return [str(server.address) for server in service.real_servers if server.weight and (service.mark, str(server.address)) not in out]


def out_of_rotation(description: Description, drained: Set[str]) -> set[Key]:
    """The real servers that an operator drained, as keys."""
    return {(service.mark, str(server.address)) for service in description.services for server in service.real_servers if str(server.address) in drained}


def wanted(description: Description, belief: Belief, out: Set[Key]) -> Table:
    """The IPVS table of a version while keepalived believes this and these servers are out of rotation. Connections are 0."""
    return {service.mark: _wanted(service, belief, out) for service in description.services}


def _wanted(service: Service, belief: Belief, out: Set[Key]) -> VirtualServer:
    opens = fails_open(service, belief, out)
    # With a sorry server, keepalived takes every real server out while the quorum is lost.
    sorry = service.sorry_server is not None and not belief.has_quorum(service)
    servers = {}
    for server in service.real_servers:
        address = str(server.address)
        given = server.weight and (service.mark, address) not in out
        gets = not sorry and (belief.passes(service, address) or opens)
        if gets or service.inhibit_on_failure:
            servers[address] = ipvs.RealServer(service.forwarding_method, server.weight if given and gets else 0, 0)
    if sorry:
        servers[str(service.sorry_server)] = ipvs.RealServer(service.forwarding_method, 1, 0)
    flags = (*service.scheduler_flags, *(("ops",) if service.ops else ()))
    return VirtualServer(service.scheduler, tuple(sorted(flags)), service.persistence_timeout, servers)


def difference(service: Service, wants: VirtualServer, there: VirtualServer | None) -> list[str]:
    """What `ipvsadm --restore` must read to bring a virtual server to what is wanted; nothing when it is so.

    Compares what /proc/net/ip_vs shows: neither the scheduler's flags nor thresholds. A weight that a script sets is not compared.
    """
    at = f"--fwmark-service {service.mark}{' --ipv6' if service.version == 6 else ''}"
    lines = []
    if there is None or (there.scheduler, there.persistence is None) != (wants.scheduler, wants.persistence is None) or ("ops" in there.flags) != service.ops:
        lines.append(f"{'--add-service' if there is None else '--edit-service'} {at}{_virtual_server_options(service)}")
    shown = there.servers if there else {}
    # In the order of the configuration: the hash table is filled in that order.
    for address, server in wants.servers.items():
        limits = f" --u-threshold {service.uthreshold} --l-threshold {service.lthreshold}" if service.uthreshold or service.lthreshold else ""
        to = f"{at} --real-server {_bracketed(address)}:0 {ipvs.OPTIONS[server.method]}{limits}"
        if address not in shown:
            # The kernel hashes by the last weight that was not 0: one that is added with 0 has no place in the hash table.
            place = next((each.weight for each in service.real_servers if str(each.address) == address), 0) or server.weight
            lines.append(f"--add-server {to} --weight {place}")
            lines += [f"--edit-server {to} --weight {server.weight}"] if server.weight != place else []
        elif shown[address].method != server.method or not _same_weight(service, server.weight, shown[address].weight):
            lines.append(f"--edit-server {to} --weight {server.weight}")
    lines += [f"--delete-server {at} --real-server {_bracketed(address)}:0" for address in shown if address not in wants.servers]
    return lines


def _same_weight(service: Service, wants: int, has: int) -> bool:
    return wants == has or (service.dynamic_weights and wants > 0)


def _virtual_server_options(service: Service) -> str:
    said = f" --scheduler {service.scheduler}"
    if service.scheduler_flags:
        said += f" --sched-flags {','.join(service.scheduler_flags)}"
    if service.persistence_timeout:
        said += f" --persistent {service.persistence_timeout}"
    if service.persistence_granularity:
        said += f" --netmask {service.persistence_granularity}"
    return said + (" --ops" if service.ops else "")


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


# The kernel's table with keepalived's verdicts


def judged(kernel: Table, belief: Belief | None) -> Table:
    """The kernel's table, in which each real server has keepalived's verdict, and each service the time since when it fails open."""
    if belief is None:
        return kernel
    table = {}
    for mark, virtual in kernel.items():
        servers = {address: replace(server, healthy=belief.servers.get((mark, address), True)) for address, server in virtual.servers.items()}
        table[mark] = replace(virtual, servers=servers, open_since=belief.open_since.get(mark, ""))
    return table


def table() -> Table:
    """The kernel's table now, with keepalived's verdicts."""
    return judged(ipvs.table(), read())
