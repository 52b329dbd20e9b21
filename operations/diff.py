"""What a change does to the files of every host of every stack: base and head, each rendered by its own code and templates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from components.configuration import ConfigurationError
from operations import report

RENDER_SECONDS = 120
WRITTEN = ("base", "head", "hosts.diff", "comment.md")
NODE_FILES = {"node": "node", "templates/usr": "usr", "templates/etc/systemd": "etc/systemd"}
"""What every host receives unchanged, and its folder below nodes/: the program, or the scripts and units of the releases before it."""


class BaseError(Exception):
    """The base of the comparison cannot be had. The text says what to fetch."""


def diff(root: Path, base: str, output: Path) -> bool:
    """Compare the project in `root`, as it lies there, with where it left `base`. True: head's configuration is accepted.

    `output` (made anew) gets base/ and head/ with the rendered files, hosts.diff with every difference, and comment.md,
    which fits into a comment. Raises BaseError, and ConfigurationError when `output` has anything else.
    """
    commit = _merge_base(root, base)
    if foreign := sorted(path.name for path in output.glob("*") if path.name not in WRITTEN):
        raise ConfigurationError(f"--output: {output} has {foreign[0]!r}, which no comparison wrote, and would be made anew; name another folder")
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        _check_out(root, commit, Path(folder))
        _render(Path(folder), output / "base")
    accepted = _render(root, output / "head")
    (output / "hosts.diff").write_text(report.patch(output))
    (output / "comment.md").write_text(report.report(output, report.COMMENT_LIMIT))
    return accepted


def _render(tree: Path, output: Path) -> bool:
    """Render every stack of a tree. False when one is refused; what it said is then in refused/STACK."""
    output.mkdir(parents=True)
    for part, name in NODE_FILES.items():
        if (tree / part).is_dir():
            shutil.copytree(tree / part, output / "nodes" / name, ignore=shutil.ignore_patterns("__pycache__"))
    accepted = True
    for path in sorted(tree.glob("Pulumi.*.yaml")):
        stack = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        target = output.resolve() / "stacks" / stack
        command = [sys.executable, "-m", "operations", "render", "--stack", stack, "--output", str(target)]
        # The code in the tree renders it, not the code that runs here.
        environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=RENDER_SECONDS)
        if done.returncode:
            shutil.rmtree(target, ignore_errors=True)
            (output / "refused").mkdir(exist_ok=True)
            (output / "refused" / stack).write_text(done.stderr.replace(f"{tree}/", ""))
            accepted = False
    return accepted


def _merge_base(root: Path, base: str) -> str:
    for arguments in (["rev-parse", "--verify", "--quiet", f"{base}^{{commit}}"], ["merge-base", base, "HEAD"]):
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
        if done.returncode:
            raise BaseError(
                f"--base: {base!r} {'is not a commit here' if arguments[0] == 'rev-parse' else 'has no common commit with HEAD here'}"
                f"{': ' + done.stderr.strip() if done.stderr else ''}; fetch it first: git fetch origin BRANCH (a shallow clone: git fetch --unshallow)"
            )
    return done.stdout.strip()


def _check_out(root: Path, commit: str, folder: Path) -> None:
    """The commit's files in `folder`; unlike a worktree it leaves no trace in the repository when it is interrupted."""
    archive = folder / ".archive.tar"
    subprocess.run(["git", "-C", root, "archive", "--format=tar", f"--output={archive}", commit], check=True)
    subprocess.run(["tar", "-x", "-f", archive, "-C", folder], check=True)
    archive.unlink()
