"""The stand-in for pulumi-command's plugin: its rules, and real commands over real SSH on this machine's loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import asyncssh
import grpc.aio  # type: ignore[import-untyped]
import pytest
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from lab.pulumi.command_plugin import ssh
from lab.pulumi.command_plugin.execution import CommandError, run
from lab.pulumi.command_plugin.properties import UNKNOWN, Properties, is_secret, plain, secret
from lab.pulumi.command_plugin.resources import LOCAL, REMOTE, check, diff
from lab.pulumi.command_plugin.server import Interruptions, Plugin

ENDPOINT = {"user": "root", "port": 22.0, "dialErrorLimit": 10.0, "perDialTimeout": 15.0}
CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
URN = "urn:pulumi:local::openshift-lvs::lvs:LoadBalancer$command:remote:Command::deliver"


# The rules


def test_check_fills_in_what_the_published_plugin_fills_in_for_the_host_and_its_proxy() -> None:
    inputs, failures = check(REMOTE, {"create": "true", "connection": {"host": "h", "proxy": {"host": "p", "port": 2222.0}}})
    assert failures == []
    assert plain(inputs) == {
        "create": "true",
        "addPreviousOutputInEnv": True,
        "connection": {"host": "h", **ENDPOINT, "proxy": {"host": "p", **ENDPOINT, "port": 2222.0}},
    }


def test_check_keeps_what_is_given() -> None:
    given = {"host": "h", "user": "debian", "port": 2.0, "dialErrorLimit": -1.0, "perDialTimeout": 0.0}
    inputs, _ = check(REMOTE, {"addPreviousOutputInEnv": False, "connection": given})
    assert plain(inputs) == {"addPreviousOutputInEnv": False, "connection": given}


def test_check_makes_the_connection_a_secret_and_leaves_everything_else_as_it_came() -> None:
    inputs, _ = check(REMOTE, {"create": "true", "stdin": secret("pw"), "connection": {"host": "h"}})
    assert is_secret(inputs["connection"]) and is_secret(inputs["stdin"]) and inputs["create"] == "true"


def test_check_accepts_what_is_not_known_before_the_update() -> None:
    whole, failures = check(REMOTE, {"create": UNKNOWN, "connection": UNKNOWN})
    assert failures == [] and plain(whole["connection"]) == UNKNOWN
    parts, failures = check(REMOTE, {"connection": secret({"host": UNKNOWN, "proxy": UNKNOWN})})
    assert failures == [] and plain(parts["connection"]) == {"host": UNKNOWN, **ENDPOINT, "proxy": UNKNOWN}


@pytest.mark.parametrize(
    ("kind", "inputs", "name", "reason"),
    [
        (REMOTE, {"create": "true"}, "connection", "required"),
        (REMOTE, {"connection": {"user": "root"}}, "connection.host", "required"),
        (REMOTE, {"connection": {"host": "h", "proxy": {}}}, "connection.proxy.host", "required"),
        (REMOTE, {"connection": {"host": "h", "hostkey": "k"}}, "connection.hostkey", "hostKey"),
        (REMOTE, {"connection": {"host": "h", "port": "22"}}, "connection.port", "str, not a float"),
        (REMOTE, {"connection": {"host": "h"}, "create": 1.0}, "create", "float, not a str"),
        (LOCAL, {"logging": "all"}, "logging", "stdoutAndStderr"),
        (LOCAL, {"assetPaths": ["*"]}, "assetPaths", "not served"),
        ("command:remote:CopyToRemote", {}, "", "published plugin"),
    ],
)
def test_check_names_what_is_wrong(kind: str, inputs: Properties, name: str, reason: str) -> None:
    _, failures = check(kind, inputs)
    assert [(property_name, reason in text) for property_name, text in failures] == [(name, True)]


def test_a_change_of_any_input_is_an_update_in_place() -> None:
    old = {"create": "a", "delete": "d", "stdin": "s", "connection": secret({"host": "h"})}
    new = {"create": "b", "update": "u", "stdin": "s", "connection": secret({"host": "i"})}
    assert diff(old, new) == {"connection": "UPDATE", "create": "UPDATE", "delete": "DELETE", "update": "ADD"}


def test_only_triggers_replace() -> None:
    assert diff({"create": "a", "triggers": [1.0]}, {"create": "a", "triggers": [2.0]}) == {"triggers": "UPDATE_REPLACE"}
    assert diff({}, {"triggers": ["x"]}) == {"triggers": "ADD_REPLACE"}


def test_becoming_a_secret_is_no_change() -> None:
    assert diff({"stdin": "pw"}, {"stdin": secret("pw")}) == {}


def test_what_is_not_known_yet_counts_as_changed() -> None:
    assert diff({"stdin": "a"}, {"stdin": UNKNOWN}) == {"stdin": "UPDATE"}


# A host that runs what it is told, and the commands on it


class Host:
    """An SSH server on a port of the loopback; `connections` counts who came."""

    def __init__(self, key: asyncssh.SSHKey) -> None:
        self.key, self.port, self.connections, self.admits, self.passes_environment = key, 0, 0, True, True

    @property
    def endpoint(self) -> Properties:
        return ENDPOINT | {
            "host": "127.0.0.1",
            "port": float(self.port),
            "privateKey": CLIENT_KEY.export_private_key().decode(),
            "hostKey": self.key.export_public_key().decode(),
        }

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Host]:
        host = self

        class Server(asyncssh.SSHServer):
            def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
                host.connections += 1

            def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
                return host.admits and key == CLIENT_KEY.convert_to_public()

            def public_key_auth_supported(self) -> bool:
                return True

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                return True

        async def copy(reader: Any, writer: Any) -> None:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()

        async def feed(reader: Any, writer: Any) -> None:
            await copy(reader, writer)
            writer.close()

        async def execute(process: asyncssh.SSHServerProcess[bytes]) -> None:
            if process.command == "vanish":
                process.stdout.write(b"half a ")
                process.channel.get_connection().abort()
                return
            if process.command == "be killed":
                process.exit_with_signal("TERM")
                return
            pipe = asyncio.subprocess.PIPE
            environment = dict(process.env) if self.passes_environment else {}
            running = await asyncio.create_subprocess_shell(process.command or "", stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
            feeding = asyncio.create_task(feed(process.stdin, running.stdin))
            await asyncio.gather(copy(running.stdout, process.stdout), copy(running.stderr, process.stderr))
            feeding.cancel()
            process.exit(await running.wait())

        server = await asyncssh.create_server(Server, "127.0.0.1", self.port, server_host_keys=[self.key], process_factory=execute, encoding=None)
        self.port = server.get_port()
        try:
            yield self
        finally:
            server.close()


@contextmanager
def anything() -> Iterator[None]:
    yield


async def execute(connection: Properties, command: str, log: list[str] | None = None, previous: Properties | None = None, **inputs: Any) -> Properties:
    say: Callable[[str], None] = (log if log is not None else []).append
    return await run({"connection": connection, **inputs}, command, previous or {}, say, anything)


def on_a_host(test: Callable[[Host], Awaitable[None]], key_type: str = "ssh-ed25519") -> None:
    async def body() -> None:
        async with Host(asyncssh.generate_private_key(key_type)).listening() as host:
            await asyncio.wait_for(test(host), 120)

    asyncio.run(body())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh, "FIRST_DELAY_S", 0.01)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def test_a_command_gets_its_stdin_and_its_streams_come_back_apart_and_reach_the_log() -> None:
    async def body(host: Host) -> None:
        log: list[str] = []
        outputs = await execute(host.endpoint, "cat; echo problem >&2", log, stdin="one\ntwo\n\n")
        assert outputs == {"stdout": "one\ntwo\n", "stderr": "problem"}
        assert sorted(log) == ["", "one", "problem", "two"]

    on_a_host(body)


@pytest.mark.parametrize(("logging", "logged"), [("stdout", ["out"]), ("stderr", ["err"]), ("stdoutAndStderr", ["err", "out"]), ("none", [])])
def test_only_the_streams_that_logging_names_are_logged(logging: str, logged: list[str]) -> None:
    async def body(host: Host) -> None:
        log: list[str] = []
        assert await execute(host.endpoint, "echo out; printf err >&2", log, logging=logging) == {"stdout": "out", "stderr": "err"}
        assert sorted(log) == logged

    on_a_host(body)


def test_a_large_stdin_and_a_line_longer_than_any_buffer_pass() -> None:
    async def body(host: Host) -> None:
        log: list[str] = []
        text = "x" * 3_000_000
        outputs = await execute(host.endpoint, "cat", log, stdin=text)
        assert outputs["stdout"] == text and "".join(log) == text

    on_a_host(body)


def test_a_command_that_does_not_read_its_stdin_is_no_failure() -> None:
    async def body(host: Host) -> None:
        assert (await execute(host.endpoint, "echo done", stdin="x" * 3_000_000))["stdout"] == "done"

    on_a_host(body)


def test_a_failure_says_how_it_ended_what_ran_and_all_it_printed() -> None:
    async def body(host: Host) -> None:
        with pytest.raises(CommandError) as failure:
            await execute(host.endpoint, 'echo "so far"; echo bad >&2; exit 3')
        how, *printed = str(failure.value).splitlines()
        assert how == r'Process exited with status 3: running "echo \"so far\"; echo bad >&2; exit 3":'
        assert sorted(printed) == ["bad", "so far"]

    on_a_host(body)


def test_a_killed_command_and_a_host_that_vanishes_are_failures() -> None:
    async def body(host: Host) -> None:
        with pytest.raises(CommandError, match="Process exited with status 143 from signal TERM: running"):
            await execute(host.endpoint, "be killed")
        with pytest.raises(CommandError, match="without exit status"):
            await execute(host.endpoint, "vanish")

    on_a_host(body)


@pytest.mark.parametrize("other_type", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_a_wrong_host_key_ends_it_at_once(other_type: str) -> None:
    async def body(host: Host) -> None:
        other = asyncssh.generate_private_key(other_type).export_public_key().decode()
        with pytest.raises(ssh.DialError, match=rf"^127.0.0.1:{host.port} does not have the host key given as hostKey"):
            await execute(host.endpoint | {"hostKey": other}, "true")
        assert host.connections == 1

    on_a_host(body)


def test_without_a_host_key_any_host_will_do() -> None:
    async def body(host: Host) -> None:
        endpoint = {key: value for key, value in host.endpoint.items() if key != "hostKey"}
        assert (await execute(endpoint, "echo yes"))["stdout"] == "yes"

    on_a_host(body)


@pytest.mark.parametrize("key", ["privateKey", "hostKey"])
def test_a_key_that_cannot_be_read_is_an_error_before_anything_is_dialled(key: str) -> None:
    async def body(host: Host) -> None:
        with pytest.raises(ssh.DialError, match="cannot be read"):
            await execute(host.endpoint | {key: "not a key"}, "true")
        assert host.connections == 0

    on_a_host(body)


def test_dialling_ends_after_as_many_errors_as_the_connection_allows() -> None:
    async def body(host: Host) -> None:
        host.admits = False
        log: list[str] = []
        with pytest.raises(ssh.DialError, match=rf"^after 2 failed attempts: 127.0.0.1:{host.port}: Permission denied"):
            await execute(host.endpoint | {"dialErrorLimit": 2.0}, "true", log)
        assert host.connections == 3
        assert [line.split(" failed")[0] for line in log] == ["Dial 1/2", "Dial 2/2"]

    on_a_host(body)


def test_dialling_goes_on_until_the_host_is_there() -> None:
    async def body(host: Host) -> None:
        late = Host(host.key)
        async with late.listening():
            endpoint = late.endpoint
        async with AsyncExitStack() as stack:

            async def boot() -> None:
                await asyncio.wait_for(refused.wait(), 10)
                await stack.enter_async_context(late.listening())

            refused = asyncio.Event()
            booting = asyncio.create_task(boot())
            inputs = {"connection": endpoint | {"dialErrorLimit": -1.0}}
            outputs = await run(inputs, "echo up", {}, lambda line: refused.set(), anything)
            await booting
            assert outputs["stdout"] == "up"

    on_a_host(body)


def test_a_dial_that_gets_no_answer_is_given_up_in_time() -> None:
    async def body() -> None:
        dialler = ssh._Dialler(None, 0.05)
        dialler._open = lambda *_: asyncio.sleep(60)
        with pytest.raises(TimeoutError, match="perDialTimeout"):
            await dialler.create_connection(None, "h", 22)

    asyncio.run(body())


def test_twenty_commands_at_once_run_through_one_proxy() -> None:
    async def body(host: Host) -> None:
        async with Host(asyncssh.generate_private_key("ssh-ed25519")).listening() as proxy:
            through = host.endpoint | {"proxy": proxy.endpoint}
            outputs = await asyncio.gather(*(execute(through, f"cat; echo {n}", stdin="x" * 100_000) for n in range(20)))
            assert [output["stdout"].lstrip("x") for output in outputs] == [str(n) for n in range(20)]
            assert (proxy.connections, host.connections) == (20, 20)

    on_a_host(body)


def test_the_keys_of_proxy_and_host_are_both_verified() -> None:
    async def body(host: Host) -> None:
        wrong = {"hostKey": CLIENT_KEY.export_public_key().decode()}
        async with Host(asyncssh.generate_private_key("ssh-ed25519")).listening() as proxy:
            with pytest.raises(ssh.DialError, match=rf"^proxy: 127.0.0.1:{proxy.port} does not have the host key"):
                await execute(host.endpoint | {"proxy": proxy.endpoint | wrong}, "true")
            assert (proxy.connections, host.connections) == (1, 0)
            with pytest.raises(ssh.DialError, match=rf"^proxy: 127.0.0.1:{host.port} does not have the host key"):
                await execute(host.endpoint | wrong | {"proxy": proxy.endpoint}, "true")

    on_a_host(body)


def test_a_host_that_the_proxy_does_not_reach_is_named() -> None:
    async def body(proxy: Host) -> None:
        gone = Host(proxy.key)
        async with gone.listening():
            endpoint = gone.endpoint
        with pytest.raises(ssh.DialError, match=rf"^proxy: after 1 failed attempts: 127.0.0.1:{gone.port}: "):
            await execute(endpoint | {"proxy": proxy.endpoint, "dialErrorLimit": 1.0}, "true")
        assert proxy.connections == 1

    on_a_host(body)


def test_what_it_printed_before_is_in_the_environment_unless_that_is_switched_off() -> None:
    async def body(host: Host) -> None:
        previous = {"stdout": "earlier", "stderr": ""}
        command = 'echo "${PULUMI_COMMAND_STDOUT-none} ${PULUMI_COMMAND_STDERR-none}"'
        assert (await execute(host.endpoint, command, previous=previous))["stdout"] == "earlier none"
        assert (await execute(host.endpoint, command, previous=previous, addPreviousOutputInEnv=False))["stdout"] == "none none"

    on_a_host(body)


def test_environment_that_the_server_drops_is_an_error_before_the_command_runs() -> None:
    async def body(host: Host) -> None:
        assert (await execute(host.endpoint, "echo $COLOUR", environment={"COLOUR": "red"}))["stdout"] == "red"
        host.passes_environment = False
        with pytest.raises(CommandError, match=r'"COLOUR".*AcceptEnv'):
            await execute(host.endpoint, "exit 1", environment={"COLOUR": "red"})

    on_a_host(body)


def test_a_local_command_runs_where_and_with_what_it_is_told(tmp_path: Any) -> None:
    inputs = {"dir": str(tmp_path), "environment": {"A": "b"}, "stdin": "in", "interpreter": ["/bin/sh", "-ec"]}
    outputs = asyncio.run(run(inputs, "pwd; echo $A; cat", {}, lambda line: None, anything))
    assert outputs == {"stdout": f"{tmp_path}\nb\nin", "stderr": ""}
    with pytest.raises(CommandError, match=r'^exit status 7: running "echo why; exit 7":\nwhy\n$'):
        asyncio.run(run({}, "echo why; exit 7", {}, lambda line: None, anything))


# What the engine sees


class Engine:
    """The engine's side: hears the log, and calls the plugin over gRPC."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str, bool]] = []

    async def Log(self, request: Any) -> None:
        self.log.append((request.urn, request.message, request.ephemeral))


def with_plugin(test: Callable[[Any, Engine], Awaitable[None]]) -> None:
    async def body() -> None:
        engine, server = Engine(), grpc.aio.server()
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(Plugin(engine), server)  # type: ignore[arg-type]
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(test(provider_pb2_grpc.ResourceProviderStub(channel), engine), 120)
        await server.stop(None)

    asyncio.run(body())


def struct(values: Properties) -> Struct:
    message = Struct()
    message.update(values)
    return message


def test_a_preview_runs_nothing_and_leaves_the_outputs_open(tmp_path: Any) -> None:
    async def body(plugin: Any, engine: Engine) -> None:
        inputs = {"create": f"touch {tmp_path}/ran", "connection": UNKNOWN}
        created = await plugin.Create(provider_pb2.CreateRequest(urn=URN, properties=struct(inputs), preview=True))
        assert MessageToDict(created.properties) == inputs | {"stdout": UNKNOWN, "stderr": UNKNOWN}
        await plugin.Update(provider_pb2.UpdateRequest(urn=URN, olds=struct(inputs), news=struct(inputs), preview=True))
        assert not list(tmp_path.iterdir())

    with_plugin(body)


def test_the_life_of_a_command() -> None:
    async def body(plugin: Any, engine: Engine) -> None:
        inputs = {"create": "cat; echo made", "stdin": secret("pw "), "logging": "none"}
        made = await plugin.Create(provider_pb2.CreateRequest(urn=URN, properties=struct(inputs)))
        assert made.id.startswith("deliver") and len(made.id) == len("deliver") + 8
        assert MessageToDict(made.properties) == inputs | {"stdout": "pw made", "stderr": ""}
        news = struct({"create": "echo again after $PULUMI_COMMAND_STDOUT"})
        updated = await plugin.Update(provider_pb2.UpdateRequest(urn=URN, olds=made.properties, news=news))
        assert MessageToDict(updated.properties)["stdout"] == "again after pw made"
        news = struct({"create": "exit 1", "update": "echo updated", "delete": "echo bye after $PULUMI_COMMAND_STDOUT"})
        updated = await plugin.Update(provider_pb2.UpdateRequest(urn=URN, olds=updated.properties, news=news))
        assert MessageToDict(updated.properties)["stdout"] == "updated"
        read = await plugin.Read(provider_pb2.ReadRequest(urn=URN, id=made.id, properties=updated.properties, inputs=news))
        assert (read.id, read.properties, read.inputs) == (made.id, updated.properties, news)
        await plugin.Delete(provider_pb2.DeleteRequest(urn=URN, properties=updated.properties))
        assert engine.log == [(URN, line, True) for line in ("again after pw made", "updated", "bye after updated")]

    with_plugin(body)


def test_a_failed_command_fails_the_call_with_its_text_alone() -> None:
    async def body(plugin: Any, engine: Engine) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await plugin.Create(provider_pb2.CreateRequest(urn=URN, properties=struct({"create": "echo why; false"})))
        assert failure.value.details() == 'exit status 1: running "echo why; false":\nwhy\n'

    with_plugin(body)


def test_check_and_diff_answer_the_engine_in_its_own_terms() -> None:
    async def body(plugin: Any, engine: Engine) -> None:
        checked = await plugin.Check(provider_pb2.CheckRequest(urn=URN, news=struct({"create": "true"})))
        assert [(failure.property, failure.reason) for failure in checked.failures] == [("connection", "connection is required")]
        old, new = struct({"create": "a", "triggers": [1]}), struct({"create": "b", "triggers": [2]})
        answer = await plugin.Diff(provider_pb2.DiffRequest(urn=URN, olds=struct({"stdout": "x"}), old_inputs=old, news=new))
        assert list(answer.replaces) == ["triggers"] and sorted(answer.diffs) == ["create", "triggers"]
        assert answer.changes == provider_pb2.DiffResponse.DIFF_SOME and not answer.deleteBeforeReplace
        same = await plugin.Diff(provider_pb2.DiffRequest(urn=URN, olds=struct({"stdout": "x"}), old_inputs=old, news=old))
        assert same.changes == provider_pb2.DiffResponse.DIFF_NONE

    with_plugin(body)


def test_a_cancelled_deployment_stops_a_local_command_and_starts_no_other() -> None:
    async def body(plugin: Any, engine: Engine) -> None:
        running = plugin.Create(provider_pb2.CreateRequest(urn=URN, properties=struct({"create": "echo on; exec tail -f /dev/null"})))
        task = asyncio.ensure_future(running)
        while not engine.log:
            await asyncio.sleep(0.01)
        await plugin.Cancel(Empty())
        for call in (task, plugin.Create(provider_pb2.CreateRequest(urn=URN, properties=struct({"create": "true"})))):
            with pytest.raises(grpc.aio.AioRpcError, match="create: cancelled before it was done"):
                await call

    with_plugin(body)


def test_a_cancelled_deployment_gives_up_dialling_but_sees_a_remote_command_through() -> None:
    async def body(host: Host) -> None:
        interruptions = Interruptions()
        inputs = {"connection": host.endpoint | {"dialErrorLimit": -1.0}}
        outputs = await run(inputs, "echo first; read line; echo last", {}, lambda line: interruptions.cancel(), interruptions)
        assert outputs["stdout"] == "first\nlast"
        interruptions, host.admits = Interruptions(), False
        with pytest.raises(asyncio.CancelledError):
            await asyncio.ensure_future(run(inputs, "true", {}, lambda line: interruptions.cancel(), interruptions))

    on_a_host(body)
