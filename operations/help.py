"""What `--help` says of each command beside its options, and of the exit status."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from textwrap import dedent, indent

COMMAND = "openshift-lvs-operations"
"""The installed command. The program on a node is `openshift-lvs`: another name, so that no one calls the one for the other."""

EXIT_STATUS = """\
exit status:
  0    done, and no fault found
  1    a fault was found or the configuration is refused: the text names it and the remedy
  2    usage error: an option is wrong
  3    could not ask: a node, the cloud, the backend or git gave no answer
  130  interrupted (Ctrl-C)
"""

EXAMPLES = {
    "render": (
        """
        Print the files that every host of a stack gets: keepalived.conf, nftables rules, sysctls and host.json. Needs no engine, no cloud and no network.
        A wrong configuration is refused with file, line, key, value and remedy.
        """,
        """
        {command} render --stack dev
        {command} render --stack dev --host master0
        {command} render --stack dev --output build/dev
        """,
    ),
    "machine-config": (
        """
        Print a MachineConfig for the nodes of an OpenShift cluster that the program does not manage (`managed: false`): nftables rules, a script and a unit.
        Needs no engine, no cloud and no network.
        """,
        """
        {command} machine-config ingress --stack dev
        {command} machine-config api --stack dev --role master > 99-master-openshift-lvs-api.yaml
        {command} machine-config api --stack dev --into bootstrap.ign > bootstrap-lvs.ign
        """,
    ),
    "diff": (
        """
        Print what the project, as it lies in the current folder, changes on each host of every stack since a commit. Each side is rendered by its own code.
        """,
        """
        {command} diff --base origin/main
        {command} diff --base HEAD^ --output build/hosts
        """,
    ),
    "check-preview": (
        """
        Refuse a preview that deletes or replaces a server, port, floating IP or network that the change does not remove from the configuration, or that
        takes an allowed address pair away.
        """,
        """
        pulumi preview --json --stack dev > preview.json
        {command} check-preview preview.json --stack dev --base origin/main
        {command} check-preview preview.json --stack dev --base origin/main --allow 'Port master0'
        """,
    ),
    "preflight": (
        """
        Ask the cloud whether it has what a stack needs, before the first `pulumi up`: images, flavors, networks, quotas, extensions. Creates nothing.
        """,
        """
        {command} preflight --stack dev
        {command} preflight --stack dev --cloud staging
        """,
    ),
    "import": (
        """
        Print the configuration of a stack for what a keepalived.conf does, and list on stderr what could not be carried over. Changes nothing.
        """,
        """
        {command} import /etc/keepalived/keepalived.conf > Pulumi.dev.yaml
        {command} import root@192.0.2.7
        """,
    ),
    "diagnose": (
        """
        Collect what a bug report about a host needs into one file, without secrets.
        """,
        """
        {command} diagnose infra1 --stack dev
        """,
    ),
    "status": (
        """
        Print each host, each VIP on its directors, and the real servers.
        """,
        """
        {command} status --stack dev
        {command} status --stack dev --watch
        {command} status --stack dev --identity ~/.ssh/id_ed25519
        """,
    ),
    "verify": (
        """
        Check that the cluster is what the configuration says, on every host and by requests through the VIPs. Changes nothing. Each fault has a remedy.
        """,
        """
        {command} verify --stack dev
        """,
    ),
    "drain": (
        """
        Take a host out of service without a lost request: it hands its VIPs over, gets no new connection, and the command waits until its connections end.
        It is safe to run this again.
        """,
        """
        {command} drain master1 --stack dev
        {command} drain master1 --stack dev --deadline 600
        """,
    ),
    "undrain": (
        """
        Put a drained host back into service. It gets the VIPs that it owns. It is safe to run this again.
        """,
        """
        {command} undrain master1 --stack dev
        """,
    ),
}
"""By verb: the description, and the examples."""


def program() -> str:
    """The command as it was called."""
    return COMMAND if Path(sys.argv[0]).name == COMMAND else "python -m operations"


def explain(parser: argparse.ArgumentParser, verbs: dict[str, argparse.ArgumentParser]) -> None:
    """Give a parser and those of its verbs their descriptions, their examples and the exit status."""
    parser.epilog = EXIT_STATUS
    for name, verb in verbs.items():
        description, examples = EXAMPLES.get(name, ("", ""))
        verb.description = dedent(description).strip() or None
        verb.epilog = f"examples:\n{indent(dedent(examples).strip().format(command=program()), '  ')}\n\n{EXIT_STATUS}" if examples else EXIT_STATUS
    for each in (parser, *verbs.values()):
        each.formatter_class = argparse.RawDescriptionHelpFormatter
