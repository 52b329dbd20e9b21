"""Finds or builds the engine. Everything built is cached by content, each program by itself: a change to one builds that one anew."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from lab import cache
from lab.phases import Phases

CLI = "3.259.0"
"""The newest CLI whose module the module proxies serve."""
YAML = "1.38.0"
"""The newest language host of YAML whose module the module proxies serve."""
PLUGINS = {"openstack": "5.5.3", "command": "1.2.1"}
"""The plugins that the SDKs in requirements.txt ask for."""
PUBLISHED_PLUGINS_S = 120
"""How long the pulumi on PATH may take to fetch one of its plugins before it counts as unable to."""

HERE = Path(__file__).parent
PLUGIN_PROGRAM = "#!/usr/bin/env python3\nfrom command_plugin.server import main\n\nmain()\n"
RUN_PROGRAM = """import runpy
import sys
from pathlib import Path

try:
    runpy.run_path(str(Path(__file__).with_name("run-program")), run_name="__main__")
except KeyboardInterrupt:
    sys.exit(130)
"""
"""Runs the language host's own script. The engine interrupts a program when a resource fails; a traceback of that tells nobody anything."""


def environment(phases: Phases | None = None, yaml: bool = False) -> dict[str, str]:
    """The environment in which `pulumi` is an engine that has its plugins, and `python3` is this interpreter's.

    `yaml`: programs in YAML run as well. A published pulumi has what they need; beside one that is built here it is built when it is first asked for.
    """
    phases = phases or Phases()
    path = [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    env = dict(os.environ) | {"PULUMI_SKIP_UPDATE_CHECK": "true"}
    if not published(phases):
        built = build(phases)
        path.insert(0, str(built / "bin"))
        if yaml:
            path.insert(1, str(_yaml(phases).parent))
        # The engine would otherwise ask the releases for what it lacks, and hang on it where there are none to be had.
        env |= {"PULUMI_HOME": str(built / "home"), "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true"}
    return env | {"PATH": os.pathsep.join(path)}


def published(phases: Phases) -> str | None:
    """The pulumi on PATH, when it has its plugins or can fetch them; one that was built here does not count."""
    found = shutil.which("pulumi")
    if found is None or cache.root().resolve() in Path(found).resolve().parents:
        return None
    with phases(f"plugins for {found}"):
        for name, version in PLUGINS.items():
            command = [found, "plugin", "install", "resource", name, version]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PUBLISHED_PLUGINS_S)
            except subprocess.TimeoutExpired:
                reason = f"no answer in {PUBLISHED_PLUGINS_S} s"
            except subprocess.CalledProcessError as error:
                reason = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[-1]
            else:
                continue
            print(f"{found} cannot get its plugin {name} {version} ({reason}): building an engine instead", file=sys.stderr)
            return None
    return found


def build(phases: Phases) -> Path:
    """The engine's folder: bin/ for PATH, home/ for PULUMI_HOME. Built where it is not yet in the cache."""
    cli = _program(phases, "cli", "pulumi", "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi", f"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={CLI}")
    language = _program(
        phases, "language", "pulumi-language-python", "github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python", f"main.version={CLI}"
    )
    openstack = _program(phases, "openstack", "pulumi-resource-openstack", ".", f"main.version={PLUGINS['openstack']}")
    command = HERE / "command_plugin"

    def assemble(folder: Path) -> None:
        for program in (cli, language):
            _link(program, folder / "bin" / program.name)
        script = folder / "bin" / "pulumi-language-python-exec"
        shutil.copyfile(_module("language", "github.com/pulumi/pulumi/sdk/v3") / "python/cmd" / script.name, script.with_name("run-program"))
        script.write_text(RUN_PROGRAM)
        script.chmod(0o755)
        plugins = {name: folder / "home" / "plugins" / f"resource-{name}-v{version}" for name, version in PLUGINS.items()}
        _link(openstack, plugins["openstack"] / openstack.name)
        shutil.copytree(command, plugins["command"] / command.name, ignore=shutil.ignore_patterns("__pycache__"))
        program = plugins["command"] / "pulumi-resource-command"
        program.write_text(PLUGIN_PROGRAM)
        program.chmod(0o755)

    key = cache.digest(Path(__file__), command, *(program.parent.name for program in (cli, language, openstack)))
    return cache.build("pulumi-engine", key, assemble)


def _yaml(phases: Phases) -> Path:
    """The language host of YAML."""
    module = "github.com/pulumi/pulumi-yaml"
    return _program(phases, "yaml", "pulumi-language-yaml", f"{module}/cmd/pulumi-language-yaml", f"{module}/pkg/version.Version={YAML}")


def _program(phases: Phases, module: str, name: str, package: str, variable: str) -> Path:
    """The program that Go makes of `package` in the module beside this file, with one variable set by its linker."""
    flags = ["-buildvcs=false", "-ldflags", f"-s -w -X {variable}"]

    def make(folder: Path) -> None:
        with phases(f"{name} from Go modules"):
            _go(module, "build", *flags, "-o", str(folder / name), package, note=phases)

    return cache.build(name, cache.digest(HERE / module, package, *flags), make) / name


def _module(module: str, path: str) -> Path:
    """Where Go keeps the sources of the module `path` that `module` requires."""
    return Path(json.loads(_go(module, "mod", "download", "-json", path))["Dir"])


def _go(module: str, *arguments: str, note: Phases | None = None) -> str:
    """What `go` printed; its last words are in the error when it failed."""
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("go is not on PATH: install Go 1.25.11 or newer, or a published pulumi that can fetch its plugins")
    said = []
    with subprocess.Popen([go, *arguments], cwd=HERE / module, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if note:
                note.note(line.strip())
        printed = running.stdout.read()
    if running.returncode:
        raise RuntimeError(f"go {' '.join(arguments)} in {HERE / module}: exit status {running.returncode}:\n{''.join(said[-20:])}")
    return printed


def _link(program: Path, place: Path) -> None:
    # A hard link, since the CLI looks for its language hosts beside itself, wherever symbolic links lead.
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(program, place)
