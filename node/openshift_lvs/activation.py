"""Bringing a delivered version into force, and going back to the one that was healthy last when the new one is not.

An activation may be killed at any moment and asked for again. What the next one must know is in activation.json.
"""

from __future__ import annotations

import contextlib
import json
import os

from . import belief, clock, firewall, hearing, host, ipvs, journal, legacy, metrics, own_calls, programs, servers, state, versions, vrrp
from .description import Description, current, endpoint
from .errors import Refused, TimedOut
from .ipvs import Key, Lowered

HEALTHY_S, OF_SERVICE_S = 30, 1
"""Seconds for keepalived to be healthy after a reload, and for each service more: it makes one virtual server after the other."""
TAKEN_S = 15
TOLD_S = 4
"""After so many seconds a director was told of connections that began since it started: the kernel sends within 2 s."""
TOLD_ANEW_S = 65
"""After so many seconds a director that started with an empty table was told of every connection that carries something: sync_refresh_period, 60 s,
and the kernel's 2 s."""


class Progress:
    """What an interrupted activation leaves for the next one."""

    def __init__(self, answered_before: list[Key] | None = None, unread: bool = False, lowered: list[Lowered] | None = None) -> None:
        self.answered_before = answered_before
        """The real servers that got connections before it began; None while no activation has begun."""
        self.unread = unread
        """From the switch of the link to the end of the reload: keepalived may run another version than the link says."""
        self.lowered = lowered or []
        """The real servers that got weight 0 because the new version does not name them."""

    @classmethod
    def read(cls) -> Progress:
        """What the last activation left."""
        text = state.read(state.ACTIVATION)
        if not text:
            return cls()
        data = json.loads(text)
        before = data["answered_before"]
        return cls(None if before is None else [(mark, address) for mark, address in before], data["unread"], [tuple(each) for each in data["lowered"]])

    def write(self) -> None:
        """Keep it for the next activation."""
        state.prepare_run()
        state.write(state.ACTIVATION, json.dumps(vars(self)))


def activate(version: str, canary: bool) -> str:
    """Bring a delivered version into force. Does nothing where it is in force and healthy. Returns what to report.

    The canary, the first director of a pool to change, holds no VIP meanwhile where another director can. Raises Refused when the version is not
    healthy; the version before is then in force again, and the text says so.
    """
    folder = versions.folder(version)
    if not os.path.isdir(folder):
        raise Refused(f"version {version} is not on this node; if it was installed anew, set another `installed` of this host and pulumi up")
    versions.validate(folder)
    versions.adopt_all()
    return _Activation(version, state.target(state.PROVEN)).run(canary)


class _Activation:
    """One activation. `old` is the version that was healthy last: it differs from `current` after an activation that was interrupted."""

    def __init__(self, version: str, old: str) -> None:
        self.version, self.old = version, old
        self.new = Description.read(versions.folder(version))
        self.current = current()
        self.progress = Progress.read()
        self.told_anew_s = 0.0
        self.reloaded_at = clock.now()

    def run(self, canary: bool) -> str:
        host.require_interface(self.new)
        self._take_up_what_was_interrupted()
        changes = self.old != self.version or not self._in_force(self.version) or not running()
        if self.old == self.version and self._in_force(self.version) and not self._unhealthy(self.new, self.progress.answered_before):
            apply(self.new)
            self._settle()
            return f"{self.version} in force, nothing to do"
        hearing.require(self.version, self.new, self.current)
        journal.note(f"activation of {self.version} begins; in force: {state.target(state.CURRENT) or 'nothing'} since {journal.since(state.CURRENT)}")
        self._give_vips_away(canary)
        self._lower_removed()
        try:
            self._switch_to(self.version, self.new)
            self._stays_healthy(changes)
        except (Refused, OSError) as fault:
            raise Refused(self._roll_back(str(fault))) from fault
        state.link(state.PROVEN, f"versions/{self.version}")
        programs.sync(state.BASE)
        self.progress.lowered = []
        self._remember()
        # Until the roll-out ends, it takes VIPs after the directors that have not changed.
        if self.old != self.version:
            vrrp.step_back(self.new, self._left_to_others())
        self._settle()
        versions.tidy({self.version, self.old})
        journal.note(f"{self.version} in force and healthy; before: {self.old or 'nothing'}")
        return f"{self.version} in force"

    def _take_up_what_was_interrupted(self) -> None:
        before, unread, lowered = legacy.interrupted()
        if before is not None:
            self.progress.answered_before = before
        self.progress.unread |= unread
        self.progress.lowered += [each for each in lowered if each not in self.progress.lowered]
        if before is not None:
            self.progress.write()
        legacy.forget_interrupted()
        self._raise_lowered()
        if self.current:
            vrrp.stand_by(self.current.instances)
        kept = self.progress.answered_before
        if kept is None or (self._in_force(self.old) and (running() or ipvs.answering(belief.table()))):
            self._remember()

    def _in_force(self, version: str) -> bool:
        return state.target(state.CURRENT) == version and not self.progress.unread

    def _remember(self) -> None:
        """Record which servers pass their checks and get connections, also of a version whose activation is interrupted and empties the table."""
        self.progress.answered_before = sorted(ipvs.answering(belief.table()))
        self.progress.write()

    def _raise_lowered(self) -> None:
        if self.progress.lowered:
            servers.raise_lowered(self.progress.lowered)
            self.progress.lowered = []
            self.progress.write()

    def _begins_anew(self, new: Description) -> bool:
        """Whether a real server in the kernel's table has another forwarding method in the new version.

        A connection keeps the method that it began with, and the kernel has one route to a server for the connections of both.
        """
        kernel = ipvs.table()
        for service in new.services:
            for server in service.real_servers:
                there = kernel[service.mark].servers.get(str(server.address)) if service.mark in kernel else None
                if there and there.method != service.forwarding_method:
                    return True
        return False

    def _give_vips_away(self, canary: bool) -> None:
        """Hand VIPs to a director that has not changed, where this one must not hold them during the change.

        - A VIP whose owner will be another director: the other directors' tables know the connections as they are. It stays where that one joins only
          now: it has no table, and those that have changed already have another one.
        - Whatever the canary holds: no request shall meet a wrong version.
        - Everything, when the forwarding method changes, or when health checks change while a server fails: keepalived gives a failed server new
          connections until its changed check has run.
        - Everything, when VIPs begin or cease to move together: keepalived gives up what it holds as it reads the new group, and its silence tells the
          others (decision 0021).
        """
        if not self.current or not self.current.instances:
            return
        anew = self._begins_anew(self.new)
        if vrrp.others_able(self.current, self.new):
            leave = self._left_to_others()
            if canary:
                leave = list(self.current.instances)
            elif anew:
                # Only the holder of a VIP waits for the connections of removed servers.
                self._lower_removed()
                leave = list(self.current.instances)
            elif self._groups_change() or (servers.failing(self.current, belief.table()) and self._only_checks_change()):
                leave = list(self.current.instances)
            if leave:
                try:
                    vrrp.hand_over(self.current, leave)
                except TimedOut as late:
                    journal.note(f"going on with the VIPs: {late}")
        if anew and self.current.directors and self.progress.answered_before:
            self._refuse_unless_taken()

    def _left_to_others(self) -> list[str]:
        """The instances that other directors own, but not what this one holds for a director that the version in force does not know."""
        owners = self.new.owned_by_others
        known = (*self.current.directors, *self.current.directors_v6) if self.current else ()
        joining = [name for name, owner in owners.items() if self.current and owner not in known]
        stay = [name for name in joining if vrrp.held(self.new, [name])]
        return [name for name in owners if name not in stay]

    def _groups_change(self) -> bool:
        """Whether a VIP that stays begins or ceases to move with another one."""
        assert self.current
        before = {vip.name: vip.together for vip in self.current.vips}
        return any(before.get(vip.name, vip.together) != vip.together for vip in self.new.vips)

    def _only_checks_change(self) -> bool:
        """Whether the servers stay the same and keepalived.conf has other virtual servers, so other checks."""
        assert self.current
        new, current = versions.folder(self.version), state.CURRENT
        return _real_servers(self.new) == _real_servers(self.current) and _virtual_servers(new) != _virtual_servers(current)

    def _refuse_unless_taken(self) -> None:
        assert self.current
        others = " ".join(map(str, self.current.directors))
        refusal = (
            f"forwarding_method: with another one a director begins anew, and of {others} none took its VIPs; undrain one, and remove directors in a "
            "deployment of its own"
        )
        current = self.current
        try:
            if vrrp.held(current, current.instances):
                raise Refused(refusal)
            clock.wait_for(TAKEN_S, "another director's adverts", lambda: vrrp.taken(current))
        except Refused:
            self._raise_lowered()
            raise Refused(refusal) from None

    def _lower_removed(self) -> None:
        """Give servers that the new version does not name no new connection, and the connections that pass through this director time to end."""
        if not self.current or not self.current.director or not self.new.director:
            return
        kernel = ipvs.table()
        gone = servers.removed_by(self.new, self.current, kernel)
        if not gone:
            return
        self.progress.lowered = [(mark, address, kernel[mark].servers[address].method, kernel[mark].servers[address].weight) for mark, address in gone]
        self.progress.write()
        servers.lower(gone, kernel)
        # A director without a VIP forwards nothing: it counts the connections that it was told of.
        if vrrp.held(self.current, self.current.instances):
            servers.wait_for_removed(gone)

    def _switch_to(self, version: str, description: Description) -> None:
        """Bring what the link points to, what the kernel has and what keepalived runs to a version. Raises Refused when that fails."""
        folder = versions.folder(version)
        before = Description.read(versions.folder(self.old)) if self.old else current()
        # What runs may be any of these, after an activation that was interrupted. A reload would have to begin or end keepalived's VRRP process.
        role_changes = any(each.director != description.director for each in (before, self.current, self.new) if each)
        if running() and (not description.runs_keepalived or role_changes or self._begins_anew(description)):
            programs.run("systemctl", "stop", "keepalived.service")
        if not running():
            if state.target(state.CURRENT) != version:
                try:
                    ipvs.forget([each for each in (before, self.new) if each])
                except TimedOut as late:
                    journal.note(str(late))
            if description.director and self.progress.answered_before and not ipvs.table():
                self.told_anew_s = TOLD_ANEW_S
        self.progress.unread = True
        self.progress.write()
        state.link(state.CURRENT, f"versions/{version}")
        program = f"{folder}/{versions.PROGRAM}"
        state.link(state.EXECUTABLE, f"{state.CURRENT}/{versions.PROGRAM}/openshift-lvs")
        host.install_units(program)
        metrics.schedule(description, [each for each in (before, self.new) if each])
        apply(description)
        if not host.watched(program):
            # keepalived of the release before tells nothing.
            belief.forget()
        try:
            ipvs.keep_sync(description)
        except (Refused, OSError) as fault:
            if version == self.version:
                raise
            # The version before must come back all the same.
            journal.note(f"connection sync did not start: {fault}")
        if description.runs_keepalived:
            if running():
                programs.run("systemctl", "reload", "keepalived.service")
            else:
                programs.run("systemctl", "start", "openshift-lvs.service", "keepalived.service")
        # What runs is what the link says.
        self.progress.unread = False
        self.progress.write()
        self.reloaded_at = clock.now()

    def _stays_healthy(self, changes: bool) -> None:
        """Raise TimedOut unless keepalived is healthy, and still is when every health check has run."""
        before = self.progress.answered_before or []
        clock.wait_for(_healthy_s(self.new), "a healthy keepalived", lambda: self._unhealthy(self.new, before))
        if before and changes and self.new.runs_keepalived:
            self._wait_until_checked(self.new, self.told_anew_s)
            clock.wait_for(5, "a healthy keepalived", lambda: self._unhealthy(self.new, before) or self._unanswered())
        if not self.old and self.new.director:
            self._wait_until_told()

    def _wait_until_told(self) -> None:
        """A director that joins others may be the owner: it gets the VIP only when it was told of the connections through it."""
        self._wait_since_reload(TOLD_S)
        there = any(server.connections for virtual in ipvs.table().values() for server in virtual.servers.values())
        if there and not vrrp.held(self.new, self.new.instances):
            self._wait_since_reload(TOLD_ANEW_S)

    def _wait_until_checked(self, description: Description, least_s: float) -> None:
        """Wait until every health check has run since the reload and, had it failed, was acted upon; `least_s` seconds at least."""
        # keepalived reads the signal to reload a moment later.
        self._wait_since_reload(max(description.check_seconds, least_s) + 1)

    def _wait_since_reload(self, seconds: float) -> None:
        """Wait until so many seconds have passed: for health checks, or for what other directors tell of connections."""
        clock.wait_for(
            seconds + 5,
            f"{seconds:g} s to have passed since the reload",
            lambda: f"{since:.0f} s" if (since := clock.now() - self.reloaded_at) <= seconds else "",
        )

    def _unhealthy(self, description: Description, before: list[Key] | None) -> str:
        """Empty when keepalived runs, the kernel has every service, and no server that answered before is lost; else what is wrong."""
        if not description.runs_keepalived:
            return ""
        if not running():
            return f"keepalived.service is {programs.attempt('systemctl', 'is-active', 'keepalived.service')[1].strip()}"
        kernel = belief.table()
        lacking = sorted(str(service.mark) for service in description.services if service.mark not in kernel)
        if lacking:
            return f"the kernel's table lacks the virtual servers {' '.join(lacking)}"
        # By mark and address: another forwarding method is no loss.
        lost = sorted(servers.failing(description, kernel) & set(before or ()))
        if lost:
            return f"servers that answered before fail their checks now: {' '.join(f'{mark} {address}' for mark, address in lost)}"
        return ""

    def _unanswered(self) -> str:
        """Empty when every new service that must answer has a live server; else its VIP and port."""
        known = {service.mark for service in Description.read(versions.folder(self.old)).services} if self.old else set()
        live = {mark for mark, _ in ipvs.answering(belief.table())}
        for vip in self.new.vips:
            for service in vip.services if vip.answers_expected else ():
                if service.mark not in known | live:
                    return f"no server passes its check of the new service {endpoint(vip.address, service.port)}"
        return ""

    def _settle(self) -> None:
        if self.new.director:
            vrrp.recount(self.new)
        own_calls.redirect(self.new)
        firewall.settle(self.new)
        vrrp.tidy(self.new)

    def _roll_back(self, fault: str) -> str:
        """Go back to the version that was healthy last; what to report."""
        words = programs.attempt("journalctl", "--no-pager", "--quiet", "--unit", "keepalived.service", "--lines", "15", "--output", "cat")[1].strip()
        if self.old == self.version:
            outcome = f"{self.version} stays in force: no other version was healthy before"
        elif not self.old:
            programs.attempt("systemctl", "stop", "keepalived.service")
            if os.path.lexists(state.CURRENT):
                os.unlink(state.CURRENT)
            outcome = "keepalived is stopped: there is no version before to go back to"
        else:
            before = Description.read(versions.folder(self.old))
            try:
                self._switch_to(self.old, before)
                clock.wait_for(_healthy_s(before), "a healthy keepalived under the version before", lambda: self._unhealthy(before, None))
                outcome = f"rolled back to {self.old}"
            except (Refused, OSError) as again:
                fault = f"{fault}\n{again}"
                outcome = f"the version before, {self.old}, is in force again and not healthy either"
            else:
                self._raise_lowered()
                # The report is worth more than the view, which keepalived corrects at the next change.
                with contextlib.suppress(Refused):
                    self._wait_until_checked(before, 0)
                    vrrp.recount(before)
        self._raise_lowered()
        journal.note(f"version {self.version} is not healthy ({fault}); {outcome}")
        return "\n".join([fault, f"version {self.version} is not healthy; keepalived's last words:", words, outcome])


def _healthy_s(description: Description) -> int:
    return HEALTHY_S + OF_SERVICE_S * len(description.services)


def running() -> bool:
    """Whether keepalived runs."""
    return programs.succeeds("systemctl", "-q", "is-active", "keepalived.service")


def apply(description: Description) -> None:
    """Bring the kernel to what the version in force says, and take away what other versions put there."""
    folder = state.CURRENT
    host.prepare(folder, description)
    host.load_rules(folder)
    if description.runs_keepalived:
        vrrp.start(description, missing_only=True)
        servers.write_drained_files(os.path.realpath(folder), description)
    others = {address for name in versions.delivered() for address in Description.read(versions.folder(name)).vip_addresses}
    host.remove_vips(others.difference(description.vip_addresses))


def _real_servers(description: Description) -> list[object]:
    return [
        (service.mark, service.forwarding_method, service.sorry_server, [(server.address, server.weight) for server in service.real_servers])
        for service in description.services
    ]


def _virtual_servers(folder: str) -> str:
    """The last part of keepalived.conf: virtual servers with their health checks."""
    text = state.read(f"{folder}/keepalived.conf")
    return text[text.find("\nvirtual_server ") :]
