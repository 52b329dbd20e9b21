"""The keys of a stack's configuration beside the cluster: `openshift-lvs:KEY`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from components.configuration.errors import ConfigurationError

NAMESPACE = "openshift-lvs"

KEYS = ("cluster", "ssh_private_key", "host_key_seed", "auth_pass")


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
