"""What a change does to every stack: the files of each host and the resources in OpenStack, of base and head, each by its own code and templates."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from components.configuration import UsageError
from operations import report

RENDER_SECONDS = 120
RECORDER = Path(__file__).with_name("resources.py")
"""This release's: it asks the program of any release for its resources."""
WRITTEN = ("base", "head", "hosts.diff", "comment.md")
NODE_FILES = {"node": "node", "templates/usr": "usr", "templates/etc/systemd": "etc/systemd"}
"""What every host receives unchanged, and its folder below nodes/: the program, or the scripts and units of the releases before it."""


class BaseError(Exception):
    """The base of the comparison cannot be had. The text says what to fetch."""


def diff(root: Path, base: str, output: Path) -> bool:
    """Compare the project in `root`, as it lies there, with where it left `base`. True: head's configuration is accepted, and one deployment is enough.

    `output` (made anew) gets base/ and head/ with the rendered files and the recorded resources, hosts.diff with every difference of the files,
    and comment.md, which fits into a comment. Raises BaseError, and UsageError when `output` has anything else.
    """
    commit = _merge_base(root, base)
    if foreign := sorted(path.name for path in output.glob("*") if path.name not in WRITTEN):
        raise UsageError(f"--output: {output} has {foreign[0]!r}, which no comparison wrote; name another folder, because this one would be emptied")
    shutil.rmtree(output, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        _check_out(root, commit, Path(folder))
        _render(Path(folder), output / "base")
    _render(root, output / "head")
    (output / "base" / "commit").write_text(_name(root, commit))
    (output / "head" / "commit").write_text(_head(root, commit))
    (output / "hosts.diff").write_text(report.patch(output))
    (output / "comment.md").write_text(report.report(output, report.COMMENT_LIMIT))
    return not report.refused(output)


def _render(tree: Path, output: Path) -> None:
    """Render every stack of a tree to stacks/STACK, and list its resources in resources/STACK.json.

    What the model says when it refuses a stack is in refused/STACK; what the program says when it refuses to name the resources, in unlisted/STACK.
    """
    output.mkdir(parents=True)
    for part, name in NODE_FILES.items():
        if (tree / part).is_dir():
            shutil.copytree(tree / part, output / "nodes" / name, ignore=shutil.ignore_patterns("__pycache__"))
    # The code in the tree works, not the code that runs here.
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    recorder = environment | {"PYTHONPATH": str(tree.resolve()), "PYTHONWARNINGS": "ignore"}
    for path in sorted(tree.glob("Pulumi.*.yaml")):
        stack = path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        target = output.resolve() / "stacks" / stack
        if said := _fault(tree, environment, "-m", "operations", "render", "--stack", stack, "--output", str(target)):
            shutil.rmtree(target, ignore_errors=True)
            _write(output / "refused" / stack, said)
        elif said := _fault(tree, recorder, "-P", str(RECORDER), str(tree.resolve()), stack, str(output.resolve() / "resources" / f"{stack}.json")):
            _write(output / "unlisted" / stack, said)


def _fault(tree: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run Python in a tree. What it said if it failed, without the tree's place."""
    done = subprocess.run([sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=RENDER_SECONDS)
    return done.stderr.replace(f"{tree}/", "") or f"exit status {done.returncode}" if done.returncode else ""


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def _name(root: Path, commit: str) -> str:
    """A commit as reviewers see it: 12 digits and its subject."""
    return _git(root, "log", "-1", "--format=%h %s", "--abbrev=12", commit)


def _head(root: Path, base: str) -> str:
    """What is compared with base: a commit, the one that a merge into base brings, and whether files were changed since."""
    parents = _git(root, "log", "-1", "--format=%P", "HEAD").split()
    merged = len(parents) == 2 and parents[0] == base
    changed = " with changes that are not committed" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    return _name(root, parents[1] if merged else "HEAD") + changed


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def _merge_base(root: Path, base: str) -> str:
    if subprocess.run(["git", "-C", root, "rev-parse", "--git-dir"], capture_output=True).returncode:
        raise BaseError(f"--root: {root} is not in a git repository; name the project's folder in a clone of its repository")
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
