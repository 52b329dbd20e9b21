"""The files of every host of a stack, from its configuration file alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from components import keepalived
from components.configuration import Cluster, ConfigurationError, UsageError, check_keys
from components.keepalived import File
from components.stack_file import CLUSTER, StackFile
from node.openshift_lvs import description


def cluster(root: Path, stack: str) -> Cluster:
    """The cluster of Pulumi.STACK.yaml. Raises UsageError when there is none, and ConfigurationError when it cannot work."""
    return read(path(root, stack))


def path(root: Path, stack: str) -> Path:
    """The configuration file of a stack. Raises UsageError when there is none."""
    path = root / f"Pulumi.{stack}.yaml"
    known = sorted(p.name.removeprefix("Pulumi.").removesuffix(".yaml") for p in root.glob("Pulumi.*.yaml"))
    stacks = f"the stacks are {', '.join(known) or 'none (is this the project folder?)'}"
    if not re.fullmatch(r"[\w.-]+", stack, re.ASCII):
        raise UsageError(f"--stack: {stack!r} is not the name of a stack, which has letters, digits, -, _ and . only; {stacks}")
    if not path.is_file():
        raise UsageError(f"--stack: {stack!r} has no {path.name} here; {stacks}")
    return path


def read(path: Path) -> Cluster:
    """The cluster of a stack's configuration file. Raises ConfigurationError with file and line when it cannot work."""
    return parse(StackFile.read(path))


def parse(file: StackFile) -> Cluster:
    """The cluster that a stack's file describes. Raises ConfigurationError with file and line when it cannot work."""
    with file.lines():
        check_keys(map(str, file.config))
        if not isinstance(file.cluster, Mapping):
            raise ConfigurationError(f"{CLUSTER}: missing; describe the cluster under it (docs/reference/configuration.md has its keys)")
        return Cluster.parse(file.cluster)


def cloud(path: Path) -> str | None:
    """The entry of clouds.yaml that a stack's configuration file names, if it names one."""
    named = StackFile.read(path).config.get("openstack:cloud")
    return str(named) if named else None


def warnings(path: Path) -> list[str]:
    """What works, but probably not as meant, in a stack's configuration file: one message each, with file, line, key, value and remedy."""
    file = StackFile.read(path)
    return [file.located(warning) for warning in parse(file).warnings]


def files(root: Path, stack: str, host: str | None = None) -> dict[str, tuple[File, ...]]:
    """The files by host, of one host or of all."""
    file = StackFile.read(path(root, stack))
    whole = parse(file)
    names = [whole.node(host).name] if host else [node.name for node in whole.nodes()]
    with file.lines():
        return {name: keepalived.render(whole, name, root) for name in names}


def text(hosts: Mapping[str, tuple[File, ...]]) -> str:
    """All files as one text, each under a line that names host, path and rights."""
    return "".join(f"# ==> {host}:{_folder(named)}/{file.path} ({file.mode:04o})\n{file.text}\n" for host, named in hosts.items() for file in named)


def _folder(named: tuple[File, ...]) -> str:
    """Where a host has these files. Only a managed host has a description."""
    return keepalived.CURRENT if any(file.path == description.NAME for file in named) else keepalived.SERVER_FOLDER


def write(hosts: Mapping[str, tuple[File, ...]], folder: Path) -> None:
    """Each file as FOLDER/HOST/PATH."""
    for host, named in hosts.items():
        for file in named:
            path = folder / host / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(file.text)
            path.chmod(file.mode)
