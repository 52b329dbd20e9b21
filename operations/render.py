"""The files of every host of a stack, from its configuration file alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from components import keepalived
from components.configuration import Cluster, ConfigurationError, check_keys
from components.keepalived import File


def cluster(root: Path, stack: str) -> Cluster:
    """The cluster of Pulumi.STACK.yaml. Raises ConfigurationError when there is none, or when it cannot work."""
    path = root / f"Pulumi.{stack}.yaml"
    known = sorted(p.name.removeprefix("Pulumi.").removesuffix(".yaml") for p in root.glob("Pulumi.*.yaml"))
    stacks = f"the stacks are {', '.join(known) or 'none (is this the project folder?)'}"
    if not re.fullmatch(r"[\w.-]+", stack, re.ASCII):
        raise ConfigurationError(f"--stack: {stack!r} is not the name of a stack, which has letters, digits, -, _ and . only; {stacks}")
    if not path.is_file():
        raise ConfigurationError(f"--stack: {stack!r} has no {path.name} here; {stacks}")
    return read(path)


def read(path: Path) -> Cluster:
    """The cluster of a stack's configuration file. Raises ConfigurationError when it cannot work."""
    try:
        given = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; name a stack's configuration file") from None
    stack = _yaml(path.name, given)
    config = stack.get("config") if isinstance(stack, Mapping) else None
    check_keys(map(str, config) if isinstance(config, Mapping) else ())
    cluster = config.get("openshift-lvs:cluster") if isinstance(config, Mapping) else None
    if not isinstance(cluster, Mapping):
        raise ConfigurationError(f"{path.name}: config: openshift-lvs:cluster is missing; docs/configuration.md has its keys")
    return Cluster.parse(cluster)


def cloud(path: Path) -> str | None:
    """The entry of clouds.yaml that a stack's configuration file names, if it names one."""
    config = (_yaml(path.name, path.read_bytes()) or {}).get("config") or {}
    named = config.get("openstack:cloud")
    return str(named) if named else None


def _yaml(name: str, given: bytes) -> Any:
    """The content of a YAML file. Raises ConfigurationError with file and line."""
    try:
        text = given.decode("utf-8")
    except UnicodeDecodeError as error:
        line = given.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}:{line}: not UTF-8; save the file as UTF-8, or write this character anew") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        for mapping in _mappings(node, set()):
            _no_key_twice(name, mapping)
        return loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: not YAML: {error}") from None
    except ValueError as error:
        # A date such as 2026-13-01: the constructor of dates raises what datetime raises.
        raise ConfigurationError(f"{name}: a date or number that does not exist ({error}); correct it, or put it in quotes") from None


def _mappings(node: yaml.Node | None, seen: set[int]) -> Iterator[yaml.MappingNode]:
    """Every mapping within a node, once."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        yield node
        for key, value in node.value:
            yield from _mappings(key, seen)
            yield from _mappings(value, seen)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _mappings(entry, seen)


def _no_key_twice(name: str, mapping: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if earlier := first.get((key.tag, key.value)):
            raise ConfigurationError(f"{name}:{line}: the key {key.value!r} is here twice, first in line {earlier}; keep one, or give each its own name")
        first[key.tag, key.value] = line


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
