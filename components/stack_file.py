"""A stack's file, `Pulumi.STACK.yaml`: what it says, and the line of each key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from components.configuration import Cluster, ConfigurationError, UsageError
from components.configuration.keys import NAMESPACE

CLUSTER = f"{NAMESPACE}:cluster"


class StackFile(NamedTuple):
    """The content of a file, and its YAML nodes, which know their lines."""

    name: str
    config: Mapping[str, Any]
    nodes: yaml.Node | None

    @classmethod
    def read(cls, path: Path) -> StackFile:
        """Read a file. Raises ConfigurationError with file and line if it is no YAML, and UsageError if it cannot be read."""
        try:
            given = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; name a stack's configuration file") from None
        content, nodes = _yaml(path.name, given)
        config = content.get("config") if isinstance(content, Mapping) else None
        return cls(path.name, config if isinstance(config, Mapping) else {}, nodes)

    @property
    def cluster(self) -> Any:
        """What the file says of the cluster."""
        return self.config.get(CLUSTER)

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Put file and line in front of each fault that is found in this context. A fault begins with its key."""
        try:
            yield
        except ConfigurationError as error:
            raise ConfigurationError(self.located(str(error))) from None

    def located(self, faults: str) -> str:
        """The faults, one in each line, with file and line in front. A line that does not begin with a key belongs to the fault above it."""
        lines = [(fault, self._line(fault)) for fault in faults.splitlines()]
        return "\n".join(f"{self.name}:{line}: {fault}" if line else fault for fault, line in lines)

    def describes(self, cluster: Any) -> bool:
        """Whether the file has the keys of this cluster. Otherwise another file was configured, and the lines of this one mean nothing."""
        return isinstance(cluster, Mapping) and _same_keys(self.cluster, cluster)

    def _line(self, fault: str) -> int | None:
        """The line of the key that a fault begins with, or of the section around it if the key is missing. Counts from 1. None: no key."""
        key = fault.partition(": ")[0]
        beside = key.startswith(f"{NAMESPACE}:")
        found = _keys(self.nodes, ["config", *([] if beside else [CLUSTER]), *key.split(".")])
        if not beside and len(found) < 3 and key.partition(".")[0] not in Cluster.model_fields:
            return None
        return found[-1].start_mark.line + 1 if found else 1


def _keys(node: yaml.Node | None, path: Sequence[str]) -> list[yaml.Node]:
    """The keys of a path, as far as they are there. A name in the file may have dots: it is as many steps of the path as fit."""
    if isinstance(node, yaml.SequenceNode) and path and path[0].isdecimal() and int(path[0]) < len(node.value):
        entry = node.value[int(path[0])]
        return [entry, *_keys(entry, path[1:])]
    for count in range(len(path) if isinstance(node, yaml.MappingNode) else 0, 0, -1):
        for key, value in node.value if node else ():
            if key.value == ".".join(path[:count]):
                return [key, *_keys(value, path[count:])]
    return []


def _same_keys(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        mine, others = ({str(key): value for key, value in each.items()} for each in (one, other))
        return mine.keys() == others.keys() and all(_same_keys(mine[key], others[key]) for key in mine)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same_keys, one, other))
    return not isinstance(one, (Mapping, list)) and not isinstance(other, (Mapping, list))


class _Loader(yaml.SafeLoader):
    """Names the line of a value that has the form of a date or a number and is none."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ConfigurationError(
                f"{self.name}:{node.start_mark.line + 1}: a date or number that does not exist ({error}); correct it, or put it in quotes"
            ) from None


def _yaml(name: str, given: bytes) -> tuple[Any, yaml.Node | None]:
    """The content of a YAML file and its nodes. Raises ConfigurationError with file and line."""
    try:
        text = given.decode("utf-8")
    except UnicodeDecodeError as error:
        line = given.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{name}:{line}: not UTF-8; save the file as UTF-8, or write this character anew") from None
    try:
        loader = _Loader(text)
        loader.name = name
        nodes = loader.get_single_node()
        for mapping in _mappings(nodes, set()):
            _no_key_twice(name, mapping)
        return (loader.construct_document(nodes) if nodes else None), nodes
    except (yaml.YAMLError, RecursionError) as error:
        # The parser's own text has several lines, and names the file in another way.
        mark = getattr(error, "problem_mark", None)
        problem = (
            getattr(error, "problem", None) or getattr(error, "reason", None) or ("nested too deeply" if isinstance(error, RecursionError) else "not readable")
        )
        raise ConfigurationError(f"{name}:{mark.line + 1 if mark else 1}: not YAML: {problem}; correct this line or the one above it") from None


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
