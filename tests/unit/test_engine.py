"""Which engine is used, what the built one is made of, and a deployment with it where it has been built."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Coroutine, Iterator
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from lab import cache
from lab.phases import Phases
from lab.pulumi import engine
from lab.stack import Stack


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a `pulumi` with this body on PATH; what it was called with is in `calls`."""

    def put(body: str, folder: Path = tmp_path / "bin") -> Path:
        folder.mkdir(parents=True)
        program = folder / "pulumi"
        program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n{body}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return program

    return put


def test_a_pulumi_on_path_that_gets_its_plugins_is_used(on_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = on_path("exit 0")
    monkeypatch.setattr(engine, "build", lambda phases: pytest.fail("built an engine that nobody needs"))
    environment = engine.environment()
    assert shutil.which("pulumi", path=environment["PATH"]) == str(program)
    assert "PULUMI_HOME" not in environment or environment["PULUMI_HOME"] == os.environ["PULUMI_HOME"]
    assert (tmp_path / "calls").read_text().splitlines() == [f"plugin install resource {name} {pinned}" for name, pinned in engine.PLUGINS.items()]


@pytest.mark.parametrize("body", ["echo 'error: no route to the releases' >&2; exit 255", "exec tail -f /dev/null"])
def test_a_pulumi_that_cannot_get_its_plugins_is_passed_over(
    body: str, on_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = on_path(body)
    monkeypatch.setattr(engine, "PUBLISHED_PLUGINS_S", 0.5)
    assert engine.published(Phases()) is None
    assert re.search(rf"{program} cannot get its plugin openstack 5.5.3 \((error: no route to the releases|no answer in 0.5 s)\)", capsys.readouterr().err)


def test_an_engine_that_was_built_here_does_not_count_as_published(on_path: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    on_path("exit 0", tmp_path / "pulumi-engine-0" / "bin")
    assert engine.published(Phases()) is None


def test_programs_run_with_this_interpreter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engine, "published", lambda phases: None)
    monkeypatch.setattr(engine, "build", lambda phases: tmp_path)
    assert engine.environment()["PATH"].split(":")[:2] == [str(tmp_path / "bin"), sysconfig.get_path("scripts")]


def test_without_go_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LVS_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"install Go 1\.25"):
        engine.build(Phases())
    assert not list(tmp_path.glob("pulumi*"))


def test_the_plugins_are_those_that_the_installed_sdks_ask_for() -> None:
    assert {name: version(f"pulumi-{name}") for name in engine.PLUGINS} == engine.PLUGINS


def test_the_cli_is_the_pinned_one() -> None:
    assert f"github.com/pulumi/pulumi/pkg/v3 v{engine.CLI} " in (engine.HERE / "cli" / "go.mod").read_text()


def test_every_resource_and_data_source_of_the_sdk_is_served_under_its_token() -> None:
    served = json.loads((engine.HERE / "openstack" / "tokens.json").read_text())
    sdk = "\n".join(path.read_text() for path in Path(str(distribution("pulumi-openstack").locate_file("pulumi_openstack"))).rglob("*.py"))
    resources = set(re.findall(r"\.__init__\(\s*'(openstack:\w+/\w+:\w+)'", sdk))
    data_sources = set(re.findall(r"runtime\.invoke(?:_output)?\('(openstack:\w+/\w+:\w+)'", sdk))
    # Of what the SDK has twice, the name it had before its resources were sorted into modules is left out.
    assert {token for token in resources - set(served["resources"].values()) if ":index/" not in token} == set()
    assert {token for token in data_sources - set(served["dataSources"].values()) if ":index/" not in token} == set()


PROGRAM = """
from pathlib import Path
import pulumi
from pulumi_command import local, remote

connection = {connection!r}
delivered = remote.Command("deliver", connection=connection, stdin=Path("file").read_text(), create="cat > {folder}/there", delete="rm {folder}/there")
local.Command("count", create="wc -l < {folder}/there", update="exit 3", triggers=[], opts=pulumi.ResourceOptions(depends_on=[delivered]))
"""


Execute = Callable[["asyncssh.SSHServerProcess[str]"], Coroutine[Any, Any, None]]


@contextlib.contextmanager
def sshd(execute: Execute, server_factory: type[asyncssh.SSHServer] = asyncssh.SSHServer) -> Iterator[dict[str, Any]]:
    """The connection to an ssh server on this machine, while the context lasts. `execute` answers each command."""
    key, client = asyncssh.generate_private_key("ssh-ed25519"), asyncssh.generate_private_key("ssh-ed25519")
    loop = asyncio.new_event_loop()
    keys = asyncssh.import_authorized_keys(client.export_public_key().decode())
    listening = asyncssh.listen("127.0.0.1", 0, server_factory=server_factory, server_host_keys=[key], authorized_client_keys=keys, process_factory=execute)
    server = loop.run_until_complete(listening)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield {
        "host": "127.0.0.1",
        "port": server.get_port(),
        "private_key": client.export_private_key().decode(),
        "host_key": key.export_public_key().decode().strip(),
    }
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
    loop.run_until_complete(server.wait_closed())
    loop.close()


@pytest.fixture
def host() -> Any:
    """The connection of a host that runs commands as this user."""

    async def execute(process: asyncssh.SSHServerProcess[str]) -> None:
        running = await asyncio.create_subprocess_shell(process.command or "", stdin=asyncio.subprocess.PIPE)
        await running.communicate((await process.stdin.read()).encode())
        process.exit(running.returncode or 0)

    with sshd(execute) as connection:
        yield connection


class Bastion(asyncssh.SSHServer):
    """A bastion that is also every host behind it."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._conn = conn

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> Any:
        here, port = self._conn.get_extra_info("sockname")
        return self._conn.forward_connection(here, port)


@pytest.fixture
def bastion() -> Any:
    """The connection of a bastion. Each host behind it says `done` to every command, and does nothing."""

    async def execute(process: asyncssh.SSHServerProcess[str]) -> None:
        await process.stdin.read()
        process.stdout.write("done")
        process.exit(0)

    with sshd(execute, Bastion) as connection:
        yield connection


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips where building the engine first would take minutes."""
    go = engine._go

    def only_quick(module: str, *arguments: str, note: Phases | None = None) -> str:
        if arguments[0] == "build":
            pytest.skip("no engine has been built here: python -m lab.pulumi build")
        return go(module, *arguments, note=note)

    monkeypatch.setattr(engine, "_go", only_quick)


@pytest.fixture
def pulumi(built: None, tmp_path: Path) -> Any:
    """Runs the engine in a folder with a project."""
    environment = engine.environment() | {"PULUMI_BACKEND_URL": f"file://{tmp_path}", "PULUMI_CONFIG_PASSPHRASE": "test"}
    (tmp_path / "Pulumi.yaml").write_text("name: tiny\nruntime: python\n")

    def run(*arguments: str, fails: bool = False) -> str:
        command = ["pulumi", *arguments, "--non-interactive", "--color=never"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout

    run("stack", "init", "test")
    return run


def test_a_deployment_from_first_up_to_destroy(pulumi: Any, host: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(PROGRAM.format(connection=host, folder=tmp_path))
    (tmp_path / "file").write_text("".join(f"line {n}\n" for n in range(9)))

    assert "+ 3 created" in pulumi("up", "--yes", "--skip-preview")
    assert (tmp_path / "there").read_text() == (tmp_path / "file").read_text()
    assert "3 unchanged" in pulumi("up", "--yes", "--skip-preview", "--expect-no-changes", "--refresh")

    (tmp_path / "file").write_text((tmp_path / "file").read_text().replace("line 4", "line four"))
    shown = pulumi("preview", "--diff")
    assert re.search(r"line 3\n\s+- line 4\n\s+\+ line four\n\s+line 5\n", shown) and "PRIVATE KEY" not in shown

    (tmp_path / "__main__.py").write_text((tmp_path / "__main__.py").read_text().replace("wc -l <", "cat"))
    for updated in ("~ 1 updated", "2 unchanged"):  # What failed is tried again by the next up, and nothing else.
        failed = pulumi("up", "--yes", "--skip-preview", fails=True)
        assert updated in failed and 'error: exit status 3: running "exit 3":' in failed and "Traceback" not in failed

    pulumi("destroy", "--yes", "--skip-preview")
    assert not (tmp_path / "there").exists()


def test_an_engine_in_the_cache_is_ready_at_once(pulumi: Any) -> None:
    assert engine.build(Phases()).parent == cache.root()


def test_an_input_that_joins_those_that_count_only_at_creation_is_no_change(pulumi: Any, host: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "__main__.py").write_text(PROGRAM.format(connection=host, folder=tmp_path))
    (tmp_path / "file").write_text("line\n")
    assert "+ 3 created" in pulumi("up", "--yes", "--skip-preview")
    text = (tmp_path / "__main__.py").read_text()
    # `create` was given before, `environment` never.
    ignoring = text.replace("pulumi.ResourceOptions(", "pulumi.ResourceOptions(ignore_changes=['create', 'environment'], ")
    assert ignoring != text
    (tmp_path / "__main__.py").write_text(ignoring)
    assert "3 unchanged" in pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    (tmp_path / "__main__.py").write_text(ignoring.replace("wc -l <", "cat"))
    assert "3 unchanged" in pulumi("up", "--yes", "--skip-preview", "--expect-no-changes")
    pulumi("destroy", "--yes", "--skip-preview")


FORMER_NAMES = {"return-infra-from-infra1": "home-infra-infra1", **{f"check-adverts-infra-on-{host}": f"alone-infra-{host}" for host in ("infra0", "infra1")}}
"""The commands that were renamed since release 0.1.0, with their names in that release."""


def test_a_stack_of_the_former_release_keeps_the_commands_that_were_renamed(
    built: None, bastion: dict[str, Any], article: dict[str, Any], tmp_path: Path
) -> None:
    del article["pools"]["master"], article["vips"]["master"], article["network"]["external"]
    article["pools"]["infra"] = {
        "existing": True,
        "hosts": {name: {"address": address, "host_key": bastion["host_key"]} for name, address in article["pools"]["infra"]["hosts"].items()},
    }
    article["ssh"] = {"bastion": {key: bastion[key] for key in ("host", "port", "host_key")}}
    stack = Stack("test", tmp_path)
    stack.prepare(article, bastion["private_key"])
    stack.run("up", "--yes", "--skip-preview")
    state = stack.run("stack", "export")
    for name, former in FORMER_NAMES.items():
        assert f'::{name}"' in state
        state = state.replace(f'::{name}"', f'::{former}"')
    stack.run("stack", "import", stdin=state)

    assert json.loads(stack.run("preview", "--json"))["changeSummary"].keys() == {"same"}
    stack.run("up", "--yes", "--skip-preview", "--expect-no-changes")
    deployed = {resource["urn"].rpartition("::")[2] for resource in json.loads(stack.run("stack", "export"))["deployment"]["resources"]}
    assert FORMER_NAMES.keys() <= deployed and not deployed & set(FORMER_NAMES.values())
