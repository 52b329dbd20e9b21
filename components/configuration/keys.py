"""The keys of a stack's configuration beside the cluster: `openshift-lvs:KEY`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from components.configuration.errors import ConfigurationError

NAMESPACE = "openshift-lvs"


class Secret(NamedTuple):
    """A key whose value is a secret."""

    meaning: str
    by_vip: bool = False
    """Whether there is one for each VIP: a mapping."""


SECRETS = {
    "ssh_private_key": Secret(
        "Required: the key that logs in to the nodes (and the bastion); an OpenSSH key without a passphrase. "
        "The program puts its public half on created servers."
    ),
    "host_key_seed": Secret(
        "16 characters or more; never change it. The ssh host key of each created server is derived from it and the host's name, so the key is known "
        "before the server exists. Required if the program creates servers, and with `authentication`."
    ),
    "auth_pass": Secret("The VRRP password of each VIP with `authentication`, by the name of the VIP; 8 characters at most.", by_vip=True),
}

KEYS = ("cluster", *SECRETS)


def check_keys(given: Iterable[str]) -> None:
    """Refuse a key of the namespace that the program does not read. Keys of other namespaces belong to providers. No message quotes a value."""
    for key in given:
        namespace, _, name = key.partition(":")
        if namespace != NAMESPACE or name in KEYS:
            continue
        if name.startswith("auth_pass."):
            raise ConfigurationError(
                f"{key}: unknown key; set it with --path, which puts it under {NAMESPACE}:auth_pass: pulumi config set --secret --path {key}"
            )
        near = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.6)
        if near:
            raise ConfigurationError(f"{key}: unknown key; did you mean {NAMESPACE}:{near[0]}? To remove it: pulumi config rm {key}")
        raise ConfigurationError(f"{key}: unknown key; the keys are {', '.join(f'{NAMESPACE}:{known}' for known in KEYS)}")
