"""The files of every host of a stack, from its configuration file alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from components import keepalived
from components.configuration import Cluster, ConfigurationError
from components.keepalived import File


def cluster(root: Path, stack: str) -> Cluster:
    """The cluster of Pulumi.STACK.yaml. Raises ConfigurationError when there is none, or when it cannot work."""
    path = root / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.split(".")[1] for p in root.glob("Pulumi.*.yaml"))
        raise ConfigurationError(f"--stack: {stack!r} has no {path.name} here; the stacks are {', '.join(known) or 'none (is this the project folder?)'}")
    return read(path)


def read(path: Path) -> Cluster:
    """The cluster of a stack's configuration file. Raises ConfigurationError when it cannot work."""
    try:
        stack = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a stack's configuration file") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path.name}: not YAML: {error}") from None
    config = stack.get("config") if isinstance(stack, Mapping) else None
    cluster = config.get("openshift-lvs:cluster") if isinstance(config, Mapping) else None
    if not isinstance(cluster, Mapping):
        raise ConfigurationError(f"{path.name}: config: openshift-lvs:cluster is missing; docs/configuration.md has its keys")
    return Cluster.parse(cluster)


def files(root: Path, stack: str, host: str | None = None) -> dict[str, tuple[File, ...]]:
    """The files by host, of one host or of all."""
    whole = cluster(root, stack)
    names = [host] if host else [node.name for node in whole.nodes()]
    return {name: keepalived.render(whole, name, root) for name in names}


def text(hosts: Mapping[str, tuple[File, ...]]) -> str:
    """All files as one text, each under a line that names host, path and rights."""
    return "".join(f"# ==> {host}:{keepalived.CURRENT}/{file.path} ({file.mode:04o})\n{file.text}\n" for host, named in hosts.items() for file in named)


def write(hosts: Mapping[str, tuple[File, ...]], folder: Path) -> None:
    """Each file as FOLDER/HOST/PATH."""
    for host, named in hosts.items():
        for file in named:
            path = folder / host / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
