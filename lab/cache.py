"""Built things by the content they were built from, outside the checkout, so that a second clone starts warm."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def root() -> Path:
    """The cache folder: $LVS_CACHE, else $XDG_CACHE_HOME/openshift-lvs, else ~/.cache/openshift-lvs."""
    if given := os.environ.get("LVS_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openshift-lvs"


def digest(*parts: str | bytes | Path) -> str:
    """16 hexadecimal digits that change with any of the parts; a path counts by the content and names of its files."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(p for p in part.rglob("*") if p.is_file() and "__pycache__" not in p.parts) if part.is_dir() else [part]
            data = b"".join(str(f.relative_to(part)).encode() + b"\0" + hashlib.sha256(f.read_bytes()).digest() for f in files)
        else:
            data = part.encode() if isinstance(part, str) else part
        total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:16]


def build(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder `name-key` in the cache; `make(folder)` fills it when it is not there yet.

    Nothing half-built is ever seen: `make` works in a folder beside it that is renamed when it returns,
    and removed when it raises. Two processes that want the same entry build it once.
    """
    entry = root() / f"{name}-{key}"
    if entry.is_dir():
        return entry
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if entry.is_dir():
            return entry
        for stale in root().glob(f".{name}-*.part"):
            shutil.rmtree(stale)
        part = Path(tempfile.mkdtemp(dir=root(), prefix=f".{name}-", suffix=".part"))
        part.chmod(0o755)
        try:
            make(part)
            part.rename(entry)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return entry
