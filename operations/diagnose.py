"""What a bug report about one host needs, in one file: what the node collects without secrets, and what is rendered for it here."""

from __future__ import annotations

import io
import json
import platform
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from components import keepalived
from components.configuration import Cluster, ConfigurationError
from node.openshift_lvs.facts import Facts
from node.openshift_lvs.journal import utc
from operations.nodes import Nodes, NodesError
from operations.verify import inside


class Collected(NamedTuple):
    """The file that was made, the number of files of the host in it, and what was left out."""

    host: str
    file: Path
    files: int
    left_out: list[str]

    def __str__(self) -> str:
        head = f"{self.file}: {self.files} files of {self.host}. Read it before you send it. Left out:"
        return "\n".join([head, *(f"- {each}" for each in self.left_out)])

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it: see docs/reference/operations.md."""
        return {"file": str(self.file), "files": self.files, "left_out": self.left_out}


def diagnose(nodes: Nodes, cluster: Cluster, host: str, root: Path, output: Path | None = None) -> Collected:
    """Make the file, for its owner only. Raises ConfigurationError when it cannot be made, NodesError when the host gives nothing."""
    target = output or Path(f"diagnose-{host}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz")
    if target.exists():
        raise ConfigurationError(f"--output: {target} is there already; name another file")
    if not target.parent.is_dir():
        raise ConfigurationError(f"--output: {target.parent} is no folder; make it, or name a file elsewhere")
    answer = nodes.ask([host], "diagnose")[host]
    if answer.fault is not None:
        raise NodesError(f"{host}: {answer.fault}")
    try:
        said = json.loads(answer.said)
        files = {str(path): str(text) for path, text in said["files"].items()}
        left_out = [str(each) for each in said["left_out"]]
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise NodesError(f"{host}: diagnose: not in this checkout's format ({fault}): pulumi up, or use the checkout that was deployed") from None
    files = {f"node/{path}": text for path, text in files.items() if _is_inside(path)}
    files |= {f"rendered/{file.path}": file.text for file in keepalived.render(cluster, host, root)}
    files["checkout"] = _checkout(cluster, host, root, files.get("node/status.json", ""))
    files["README"] = _readme(host, files, left_out)
    try:
        _pack(target, host, files)
    except OSError as error:
        raise ConfigurationError(f"--output: {target}: {error.strerror}; name a file that can be written") from None
    return Collected(host, target, len(files), left_out)


def _is_inside(path: str) -> bool:
    """Whether a path stays below the folder into which the file is unpacked: a node that was broken into may say otherwise."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts


def _checkout(cluster: Cluster, host: str, root: Path, status: str) -> str:
    """This checkout, and what `verify` says of the host's facts."""
    commit = subprocess.run(["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True)
    lines = [f"commit {commit.stdout.strip() or 'unknown'}", f"Python {platform.python_version()}"]
    try:
        lines += [str(finding) for finding in inside(cluster, host, Facts.from_json(status), root)]
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        lines.append(f"status.json of the node is not in this checkout's format: {fault}")
    return "\n".join(lines) + "\n"


def _readme(host: str, files: Mapping[str, str], left_out: list[str]) -> str:
    head = f"{host}, {utc(time.time())}, by `python -m operations diagnose`.\n\nLeft out:\n"
    return head + "".join(f"- {each}\n" for each in left_out) + "\nFiles:\n" + "".join(f"  {path}\n" for path in sorted(files))


def _pack(target: Path, host: str, files: Mapping[str, str]) -> None:
    target.touch(0o600, exist_ok=False)
    with tarfile.open(target, "w:gz") as archive:
        for path in sorted(files):
            data = files[path].encode()
            info = tarfile.TarInfo(f"{host}/{path}")
            info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
            archive.addfile(info, io.BytesIO(data))
