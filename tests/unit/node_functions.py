"""The node's program as plain functions: its files in a temporary folder, its clock stopped, and no other program started.

`System` stands for the node: it answers what the program asks `ipvsadm`, `ip`, `nft` and `systemctl`, and keeps what it was told.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.openshift_lvs import clock, ipvs, journal, lock, programs, state, versions
from node.openshift_lvs.description import NAME, Description, RealServer, Service, Vip
from node.openshift_lvs.record import replace

ADDRESSES = ("192.168.0.2", "192.168.0.3", "192.168.0.4")
MARK = 51 << 20 | 8443
HERE = ADDRESSES[0]
_METHODS = {"DR": "Route", "TUN": "Tunnel", "NAT": "Masq"}
_STATE = (
    "LIB",
    "EXECUTABLE",
    "BASE",
    "VERSIONS",
    "CURRENT",
    "CUT_OFF",
    "PROVEN",
    "DRAINED",
    "OWNERSHIP",
    "UNITS",
    "RUN",
    "LOCK",
    "QUORUM",
    "ACTIVATION",
    "UNITS_TOLD",
    "OWN_CALLS",
    "OWN_CALLS_LOCK",
    "VERDICTS",
    "BELIEF",
    "REPAIRS",
    "FIREWALL",
    "HEARING",
    "TEST_PACKETS_LOCK",
    "ROLL_OUT_DIRECTORS",
)


def service(name: str = "master-8443", mark: int = MARK, weights: dict[str, int] | None = None, quorum: int = 2, **given: object) -> Service:
    """A service of three real servers, unless told otherwise."""
    servers = tuple(RealServer(f"host-{address}", ip_address(address), weight) for address, weight in (weights or dict.fromkeys(ADDRESSES, 1)).items())
    usual: dict[str, object] = {
        "protocol": "TCP",
        "port": mark & 0xFFFF,
        "forwarding_method": "DR",
        "hysteresis": 0,
        "expected_weight": sum(server.weight for server in servers),
        "alpha": False,
        "sorry_server": None,
        "check_script": None,
        "check_user": None,
        "regexes": (),
        "check_port": mark & 0xFFFF,
    }
    return Service(name=name, mark=mark, quorum=quorum, real_servers=servers, **{**usual, **given})  # type: ignore[arg-type]


def vip(name: str = "master", address: str = "192.168.0.250", router: int = 51, owner: str = HERE, services: tuple[Service, ...] = (service(),)) -> Vip:
    """A VIP that this host owns, with one service."""
    return Vip(name, ip_address(address), router, ip_address(owner), False, services)


def description(*vips: Vip, address: str = HERE, directors: tuple[str, ...] = ADDRESSES[1:], director: bool = True) -> Description:
    """What a version says of the first of three directors."""
    return Description(
        host="master0",
        pool="master",
        program="0123456789ab",
        interface="eth0",
        address=ip_address(address),
        director=director,
        directors=tuple(map(ip_address, directors)),
        sync_id=51,
        poor_view_weight=-100,
        step_back_weight=-50,
        witnesses=(),
        check_seconds=2,
        vips=vips or (vip(),),
    )


SERVER = replace(description(), director=False, directors=(), checks_only=True)
"""What a version says of a server that is no director."""


@dataclass
class System:
    """The node around the program."""

    asked: list[str] = field(default_factory=list)
    """What it was told, questions left out."""
    notes: list[str] = field(default_factory=list)
    """The journal."""
    answers: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """What a command answers, by how it begins; nothing and success when it is not here."""
    table: dict[int, dict[str, tuple[str, int, int]]] = field(default_factory=dict)
    """The kernel's virtual servers: mark, address, method, weight and connections."""
    held: dict[str, str] = field(default_factory=dict)
    """The VIPs on the interface by the name of their instance. They leave when the instance is drained."""
    leave: bool = True
    left: list[str] = field(default_factory=list)
    """The VIPs that left, in their order."""
    running: bool = True
    starting: bool = False
    """With `running` False: the commands after the start of keepalived's unit have not ended."""
    now: float = 1000.0
    restored: list[str] = field(default_factory=list)
    """What `ipvsadm --restore` was given."""
    after_restore: Callable[[], object] = lambda: None
    while_waiting: Callable[[], object] = lambda: None

    def attempt(self, *command: str, stdin: str = "") -> tuple[int, str, str]:
        """Stands for programs.attempt."""
        line = " ".join(command)
        for begin, answer in self.answers.items():
            if line.startswith(begin):
                if not _is_question(line):
                    self.asked.append(line)
                return answer
        if line == "ipvsadm --list --numeric --exact":
            return 0, self.shown(), ""
        if line in ("ip -oneline address show dev eth0", "ip -oneline address show"):
            self._drained_leave()
            return 0, "".join(f"2: eth0 inet {address}/32 scope global eth0\n" for address in self.held.values()), ""
        if line == "systemctl -q is-active firewalld.service":
            return 3, "", ""
        if line == "systemctl is-active keepalived.service":
            return (0, "active\n", "") if self.running else (3, "activating\n" if self.starting else "inactive\n", "")
        if line == "systemctl -q is-active keepalived.service":
            return 0 if self.running else 3, "", ""
        self.asked.append(line)
        if command[0] == "systemd-run":
            self._hear(Description.read(versions.folder(command[-1])))
        if command[:2] == ("ipvsadm", "--edit-server"):
            return self._edit(int(command[3]), command[5], int(command[-1]))
        if command[:2] == ("ipvsadm", "--delete-server"):
            del self.table[int(command[3])][command[5]]
        if command == ("ipvsadm", "--restore"):
            self.restored += stdin.splitlines()
            for line in stdin.splitlines():
                self._restore(line.split())
            self.after_restore()
        if command[:2] == ("systemctl", "stop") and "keepalived.service" in command:
            self.running = False
        if command[:2] == ("systemctl", "start") and "keepalived.service" in command:
            self.running = True
        return 0, "", ""

    def shown(self) -> str:
        """The table as ipvsadm shows it."""
        lines = [
            "IP Virtual Server version 1.2.1 (size=4096)",
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn",
        ]
        for mark, servers in self.table.items():
            lines.append(f"FWM  {mark} mh (mh-fallback,mh-port)")
            lines += [f"  -> {address}:0    {_METHODS[method]}   {weight}  {connections}  0" for address, (method, weight, connections) in servers.items()]
        return "\n".join(lines) + "\n"

    def fill(self, said: Description, weight: int = 1) -> None:
        """Fill the table as keepalived does while every check passes."""
        for each in said.services:
            self.table[each.mark] = {str(server.address): (each.forwarding_method, server.weight and weight, 0) for server in each.real_servers}

    def fails(self, *addresses: str) -> None:
        """Give these servers weight 0, as keepalived does when their checks fail."""
        for servers in self.table.values():
            for address in set(addresses) & set(servers):
                servers[address] = (servers[address][0], 0, servers[address][2])

    def weights(self, mark: int = MARK) -> dict[str, int]:
        """Weight by real server of a service."""
        return {address: weight for address, (_, weight, _) in self.table[mark].items()}

    def pause(self) -> None:
        """Stands for clock.pause."""
        self.now += 1
        self.while_waiting()

    def _restore(self, words: list[str]) -> None:
        """One line of `ipvsadm --restore`."""
        given = dict(zip(words, [*words[1:], ""], strict=True))
        mark, address = int(given["--fwmark-service"]), given.get("--real-server", ":").rpartition(":")[0]
        method = next((each for each, option in ipvs.OPTIONS.items() if option in words), "")
        if words[0] == "--add-service":
            self.table[mark] = {}
        elif words[0] == "--delete-server":
            del self.table[mark][address]
        elif words[0] in ("--add-server", "--edit-server"):
            assert (address in self.table[mark]) == (words[0] == "--edit-server"), words
            self.table[mark][address] = (method, int(given["--weight"]), self.table[mark].get(address, ("", 0, 0))[2])

    @property
    def proc(self) -> str:
        """The table as /proc/net/ip_vs shows it."""
        lines = ["IP Virtual Server version 1.2.1 (size=4096)", "Prot LocalAddress:Port Scheduler Flags"]
        lines.append("  -> RemoteAddress:Port Forward Weight ActiveConn InActConn")
        for mark, servers in self.table.items():
            lines.append(f"FWM  {mark:08X} mh ")
            for address, (method, weight, connections) in servers.items():
                lines.append(f"  -> {int(ip_address(address)):08X}:0000      {_METHODS[method]:<7} {weight:<6} {connections:<10} 0         ")
        return "\n".join(lines) + "\n"

    def _edit(self, mark: int, address: str, weight: int) -> tuple[int, str, str]:
        servers = self.table.get(mark, {})
        if address not in servers:
            return 2, "", "No such destination"
        servers[address] = (servers[address][0], weight, servers[address][2])
        return 0, "", ""

    def _hear(self, said: Description) -> None:
        directors = [str(each) for each in (said.address, *said.directors)]
        known = {each: {by: [other for other in directors if other != each] for by in ("17", "112")} for each in directors}
        Path(state.HEARING).write_text(json.dumps(known))

    def _drained_leave(self) -> None:
        for name in [name for name in self.held if self.leave and state.read(state.drain_file(name)) == "-254"]:
            self.left.append(self.held.pop(name))


def _is_question(line: str) -> bool:
    return line.startswith(("ipvsadm --list", "systemctl -q is-", "systemctl is-", "nft list", "nft --handle list", "ip -oneline"))


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> System:
    """A node with the program's folders and nothing delivered."""
    made = System()
    for name in _STATE:
        monkeypatch.setattr(state, name, f"{tmp_path}{getattr(state, name)}")
    monkeypatch.setattr(versions, "_VALIDATED", f"{state.BASE}/validate.")
    monkeypatch.setattr(lock, "LEGACY_LOCK", f"{tmp_path}{lock.LEGACY_LOCK}")
    for folder in (state.VERSIONS, state.LIB, state.DRAINED, state.QUORUM, state.UNITS, str(Path(state.EXECUTABLE).parent)):
        Path(folder).mkdir(parents=True)
    Path(state.RUN).chmod(0o700)
    monkeypatch.setattr(programs, "attempt", made.attempt)
    monkeypatch.setattr(programs, "Process", lambda *command: SimpleNamespace(end=lambda stdin: programs.attempt(*command, stdin=stdin)))
    monkeypatch.setattr(journal, "note", made.notes.append)
    monkeypatch.setattr(clock, "now", lambda: made.now)
    monkeypatch.setattr(clock, "pause", made.pause)
    return made


def deliver(version: str, said: Description, configuration: str = "", program: str = "") -> Path:
    """Put a version on the node as `deliver` leaves it; its folder."""
    folder = Path(versions.folder(version))
    folder.mkdir()
    (folder / NAME).write_text(said.to_json())
    if said.runs_keepalived:
        (folder / "keepalived.conf").write_text(configuration or "global_defs {\n}\n")
    (folder / versions.PROGRAM).symlink_to(program or versions.program_of_this_process())
    return folder


def in_force(version: str, said: Description, configuration: str = "") -> None:
    """Put a version on the node as a healthy activation leaves it."""
    deliver(version, said, configuration)
    state.link(state.CURRENT, f"versions/{version}")
    state.link(state.PROVEN, f"versions/{version}")


def drain(address: str) -> None:
    """Take a real server out of rotation, as an operator does."""
    Path(state.DRAINED, address).touch()
