"""Kubernetes' own programs and CNI's reference plugins, for the nodes of a cluster: built from Go modules, cached by content."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lab import cache, debian

HERE = Path(__file__).parent
VERSION = re.findall(r"k8s\.io/kubernetes (v\S+)", (HERE / "go.mod").read_text())[0]
PLUGINS = {"bridge", "host-local", "loopback", "portmap"}
"""The programs that cnitool runs; nodes have them in /opt/cni/bin."""


def programs() -> Path:
    """A folder with the programs that go.mod names as its tools: kube-apiserver, kube-proxy, kubectl, cnitool, and the plugins."""
    flags = ["-trimpath", "-buildvcs=false", "-ldflags", f"-s -w -X k8s.io/component-base/version.gitVersion={VERSION}"]

    def make(folder: Path) -> None:
        environment = {**os.environ, "CGO_ENABLED": "0"}
        debian.run_logged("building Kubernetes", ["go", "build", *flags, "-o", f"{folder}/", "tool"], folder / "build.log", cwd=HERE, env=environment)

    return cache.build("kube", cache.digest(HERE, *flags), make)
