"""keepalived and LVS on the nodes, by remote command: install, deliver, activate, and proof that the addresses answer.

Per host (h) and address (v) this makes the commands

    install-h        packages, and the program beside the one in force; all hosts at once
    deliver-h        stages the rendered files in a folder named by their content; all hosts at once
    secret-h         adds the VRRP passwords to that folder, for instances that have one
    activate-h       swaps the link, reloads, waits for health, goes back if it does not come; one host of a pool after the other,
                     backups first and owners last, so that the first backup is the canary, and the rest are untouched when it fails
    return-v-from-h  a backup that holds the VIP hands it to its owner
    check-adverts-v-on-h
                     no director hears adverts of a former director, so a host that holds the VIP is not removed
    proof-v          every service answers through the address, asked from a host outside its pool where there is one

Nothing here replaces a resource: what changes is text in `create` or `stdin`, which a preview shows and an update runs.
"""

from __future__ import annotations

import hashlib
import hmac
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pulumi
from pulumi_command import remote

from components import keepalived
from components.bastion import BastionEndpoint
from components.configuration import Cluster, HttpCheck, Vip, VirtualService
from components.configuration.model import AnyAddress, endpoint
from components.servers import Endpoint

LIB = "/usr/local/lib/openshift-lvs"
"""Where a host has the programs, each in a folder named by its content."""
PROOF_REQUESTS = 20
"""Answers in a row that prove a service: with Maglev hashing over the port, enough to meet every server of a small pool."""

ALONE_S = 15
"""Seconds that former directors have to fall silent: a director forgets after 10 s what it heard."""

BOOTING_DIAL_ERRORS = 60
"""How often a server that was just made may give no answer, or a refusal: about ten minutes for one that never comes."""
RUNNING_DIAL_ERRORS = 10
"""The same for a host that is there already: an address that is wrong shall not hold a deployment up for minutes."""
DIAL_SECONDS = 10
"""A first attempt that meets a server without a network is given up early, since TCP asks ever more rarely."""


@dataclass(frozen=True)
class LoadBalancerArgs:
    """What the load balancer needs. `auth_pass` is the VRRP password by address, secret; `fingerprint_key` keys what a version says of it.

    `scripts` is the folder in which the scripts of health checks are. `bastion` is the one that the program creates, if it does.
    """

    cluster: Cluster
    hosts: Mapping[str, Endpoint]
    ssh_private_key: pulumi.Input[str]
    auth_pass: pulumi.Output[dict[str, str]]
    fingerprint_key: pulumi.Input[str]
    scripts: Path = keepalived.ROOT
    bastion: BastionEndpoint | None = None


class Staged(NamedTuple):
    """A host's files on it, not in force yet: the name of the version, and the commands that brought it."""

    version: pulumi.Input[str]
    commands: list[remote.Command]


class LoadBalancer(pulumi.ComponentResource):
    """keepalived and LVS on every host of the cluster. `proofs` says per address what was answered through it."""

    proofs: dict[str, pulumi.Output[str]]

    def __init__(self, name: str, args: LoadBalancerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("openshift-lvs:index:LoadBalancer", name, None, opts)
        self._args = args
        cluster = args.cluster
        installed = {host: self._install(host) for host in cluster.managed()}
        staged = {host: self._deliver(host, installed[host]) for host in cluster.managed()}
        active = {pool: self._activate(pool, staged) for pool in cluster.pools}
        self.proofs = {name: self._proof(name, vip, staged, active[vip.pool], installed) for name, vip in cluster.vips.items()}
        self.register_outputs({"proofs": self.proofs})

    def _install(self, host: str) -> remote.Command:
        undo = f"[ ! -e {_program()} ] || {_program()} remove" if self._args.cluster.node(host).pool.existing else None
        return self._command(f"install-{host}", host, _install(), [], stdin=keepalived.bundle(keepalived.program()), delete=undo)

    def _deliver(self, host: str, installed: remote.Command) -> Staged:
        cluster = self._args.cluster
        files = keepalived.render(cluster, host, self._args.scripts)
        has_secret = any(vip.authentication for vip in cluster.vips_of(cluster.node(host).pool_name).values())
        version: pulumi.Input[str] = keepalived.version(files)
        secrets: pulumi.Output[dict[str, str]] | None = None
        if has_secret:
            secrets = self._args.auth_pass.apply(lambda given: keepalived.authentication(cluster, host, given))
            plain = keepalived.version(files)
            version = pulumi.Output.unsecret(
                pulumi.Output.all(secrets, self._args.fingerprint_key).apply(lambda both: f"{plain}-{_fingerprint(both[0], both[1])}")
            )
        deliver = self._command(f"deliver-{host}", host, _verb("deliver", version), [installed], stdin=keepalived.bundle(files))
        if secrets is None:
            return Staged(version, [deliver])
        text = secrets.apply(lambda named: keepalived.bundle(tuple(keepalived.File(path, 0o600, text) for path, text in named.items())))
        return Staged(version, [deliver, self._command(f"secret-{host}", host, _verb("deliver-secret", version), [deliver], stdin=text)])

    def _activate(self, pool: str, staged: Mapping[str, Staged]) -> list[pulumi.Resource]:
        """One host after the other. Every host of the pool is staged before the first is touched: servers have the addresses before directors send."""
        cluster = self._args.cluster
        done: list[pulumi.Resource] = [command for host in cluster.managed(pool) for command in staged[host].commands]
        order = roll_out_order(cluster, pool)
        canary = next((host for host in order if host in cluster.directors(pool)), None)
        for host in order:
            verb = _verb("activate", staged[host].version, *(["canary"] if host == canary else []))
            done = [self._command(f"activate-{host}", host, verb, done, stdin=staged[host].commands[0].stdout)]
        return done

    def _proof(
        self,
        name: str,
        vip: Vip,
        staged: Mapping[str, Staged],
        active: list[pulumi.Resource],
        installed: Mapping[str, remote.Command],
    ) -> pulumi.Output[str]:
        cluster = self._args.cluster
        delivered = (command.stdout for host in cluster.managed(vip.pool) for command in staged[host].commands)
        everything = pulumi.Output.all(*delivered).apply(lambda said: _digest(said))
        # The digest at the end does nothing on the node: it makes the command run again when any host of the pool was given a version, be it one
        # that it had before.
        homes: list[pulumi.Resource] = [
            self._command(f"return-{name}-from-{host}", host, _verb("go-home", name, note=everything), active, was=f"home-{name}-{host}")
            for host in cluster.directors(vip.pool)
            if host != vip.owner
        ]
        # A director that is being removed and still holds the address would take it, and its connections, with it.
        listening = _verb("alone", str(ALONE_S), note=everything)
        alone = [
            self._command(f"check-adverts-{name}-on-{host}", host, listening, homes or active, was=f"alone-{name}-{host}")
            for host in cluster.directors(vip.pool)
        ]
        asked = [(address, service) for address in vip.addresses for service in vip.services if service.protocol == "TCP"]
        targets = [word for address, service in asked for word in _target(address, service)]
        if not vip.answers_within or not targets:
            return pulumi.Output.from_input("not asked")
        inside = cluster.managed(vip.pool)
        outside = [host for host in cluster.managed() if host not in inside]
        asker = (outside or [host for host in inside if host != vip.owner] or [vip.owner])[0]
        verb = _verb("answers", str(vip.answers_within), str(PROOF_REQUESTS), *targets, note=everything)
        return self._command(f"proof-{name}", asker, verb, [*alone, installed[asker]]).stdout

    def _command(
        self,
        name: str,
        host: str,
        script: pulumi.Input[str],
        after: Sequence[pulumi.Resource],
        stdin: pulumi.Input[str] | None = None,
        delete: str | None = None,
        was: str | None = None,
    ) -> remote.Command:
        """The command; `was` is its name in an earlier release, under which a stack may have it."""
        args, endpoint = self._args, self._args.hosts[host]
        installed = f" # installed {word}" if (word := args.cluster.node(host).host.installed) else ""
        made = [] if args.cluster.node(host).pool.existing else endpoint.resources
        return remote.Command(
            name,
            connection=self._connection(host),
            create=pulumi.Output.from_input(script).apply(lambda text: self._as_root(host, text + installed)),
            delete=self._as_root(host, delete) if delete else None,
            stdin=stdin,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                aliases=[pulumi.Alias(name=was)] if was else None,
                depends_on=[*endpoint.resources, *(args.bastion.resources if args.bastion else []), *after],
                # What ran on a server goes with the server: a dead one never holds up its removal.
                deleted_with=made[-1] if made else None,
                custom_timeouts=pulumi.CustomTimeouts(create="20m", update="20m"),
            ),
        )

    def _as_root(self, host: str, script: str) -> str:
        cluster = self._args.cluster
        return f"sh -c {shlex.quote(script)}" if cluster.ssh_user(cluster.node(host)) == "root" else f"sudo -n sh -c {shlex.quote(script)}"

    def _connection(self, host: str) -> remote.ConnectionArgs:
        ssh, endpoint = self._args.cluster.ssh, self._args.hosts[host]
        dial_errors = RUNNING_DIAL_ERRORS if self._args.cluster.node(host).pool.existing else BOOTING_DIAL_ERRORS
        return remote.ConnectionArgs(
            host=endpoint.address,
            port=ssh.port,
            user=self._args.cluster.ssh_user(self._args.cluster.node(host)),
            host_key=endpoint.host_key,
            private_key=self._args.ssh_private_key,
            dial_error_limit=dial_errors,
            per_dial_timeout=DIAL_SECONDS,
            proxy=self._proxy(dial_errors),
        )

    def _proxy(self, dial_errors: int) -> remote.ProxyConnectionArgs | None:
        """The bastion on the way to a host: the created one, which may be booting, or the one that is configured."""
        ssh, made = self._args.cluster.ssh, self._args.bastion
        if made:
            where: dict[str, Any] = {"host": made.host, "port": made.port, "user": made.user, "host_key": made.host_key}
        elif ssh.bastion:
            where = {"host": ssh.bastion.host, "port": ssh.bastion.port, "user": ssh.bastion_user, "host_key": ssh.bastion.host_key}
        else:
            return None
        return remote.ProxyConnectionArgs(
            **where,
            private_key=self._args.ssh_private_key,
            dial_error_limit=BOOTING_DIAL_ERRORS if made else dial_errors,
            per_dial_timeout=DIAL_SECONDS,
        )


def roll_out_order(cluster: Cluster, pool: str) -> list[str]:
    """The managed hosts of a pool in the order in which they change: servers only, then backups, then the owners of addresses."""
    directors = cluster.directors(pool)
    owners = [vip.owner for vip in cluster.vips_of(pool).values()]
    return sorted(cluster.managed(pool), key=lambda host: (host in directors, host in owners))


def _program() -> str:
    """The program on a host that this deployment brings: also the one that activates a version, whichever is in force before."""
    return f"{LIB}/{keepalived.program_digest()}/openshift-lvs"


def _verb(verb: str, *arguments: pulumi.Input[str], note: pulumi.Input[str] = "") -> pulumi.Output[str]:
    """A command line of the program on a host; `note` is a comment at its end."""
    return pulumi.Output.all(note, *arguments).apply(lambda parts: f"{_program()} {shlex.join([verb, *parts[1:]])}" + (f" # {parts[0]}" if parts[0] else ""))


def _target(address: AnyAddress, service: VirtualService) -> list[str]:
    """The words by which `answers` on a node asks for a service through an address of its VIP: what the health check accepts is accepted here too.

    An http check of the service's own port is asked as keepalived asks it (check_http.c): the first url's path, with the Host of the url, the check
    or the service, else the address and port it connects to. Of the answer only the status code counts. Every other check (another port, another
    address, TLS, SMTP, a script) tells nothing about what an HTTP request to the service's port gets, so a TCP connection is the proof.
    """
    target, check = endpoint(address, service.port), service.health_check
    if not isinstance(check, HttpCheck) or check.type != "http" or check.connect_ip or check.connect_port not in (None, service.port):
        return [target]
    url = check.urls[0]
    host = url.virtualhost or check.virtualhost or service.virtualhost or target
    words = [target, f"path={url.path}", f"host={host}", f"status={url.accepted.replace(' ', ',')}"]
    return [*words, f"protocol={check.http_protocol}"] if check.http_protocol else words


def _install() -> str:
    """The text of `install` for the program of this deployment: the host may have nothing to run it with but a shell."""
    return f"set -- {keepalived.program_digest()}\n{(keepalived.PROGRAM / 'install').read_text()}"


def _digest(said: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


def _fingerprint(secrets: Mapping[str, str], key: str) -> str:
    """A name for secret text. It changes with the text, and without the key it tells nothing about the text."""
    return hmac.new(key.encode(), repr(sorted(secrets.items())).encode(), hashlib.sha256).hexdigest()[:8]
