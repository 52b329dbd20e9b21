"""Serves the plugin to the engine that started it."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc.aio  # type: ignore[import-untyped]
from google.protobuf.empty_pb2 import Empty  # type: ignore[import-untyped]
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from google.protobuf.struct_pb2 import Struct  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc

from . import resources
from .execution import CommandError, Interruptible, Log, run
from .properties import UNKNOWN, Properties, plain
from .ssh import DialError

VERSION = "1.2.1"
ANY_SIZE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
"""A command's input and output may be larger than gRPC's 4 MiB."""
ORPHAN_POLL_S = 1.0


class Interruptions:
    """What is under way and may be cut off, until the deployment is cancelled; then nothing new begins."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None
        if self._over:
            raise asyncio.CancelledError
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def cancel(self) -> None:
        self._over = True
        for task in self._tasks:
            task.cancel()


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """The published plugin's answers; what it does not offer stays unimplemented."""

    def __init__(self, engine: engine_pb2_grpc.EngineStub) -> None:
        self._engine = engine
        self._interruptions = Interruptions()

    async def GetPluginInfo(self, request: Empty, context: grpc.aio.ServicerContext) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=VERSION)

    async def GetSchema(self, request: provider_pb2.GetSchemaRequest, context: grpc.aio.ServicerContext) -> provider_pb2.GetSchemaResponse:
        return provider_pb2.GetSchemaResponse(schema=f'{{"name": "command", "version": "{VERSION}"}}')

    async def CheckConfig(self, request: provider_pb2.CheckRequest, context: grpc.aio.ServicerContext) -> provider_pb2.CheckResponse:
        return provider_pb2.CheckResponse(inputs=request.news)

    async def DiffConfig(self, request: provider_pb2.DiffRequest, context: grpc.aio.ServicerContext) -> provider_pb2.DiffResponse:
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    async def Configure(self, request: provider_pb2.ConfigureRequest, context: grpc.aio.ServicerContext) -> provider_pb2.ConfigureResponse:
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    async def Check(self, request: provider_pb2.CheckRequest, context: grpc.aio.ServicerContext) -> provider_pb2.CheckResponse:
        inputs, failures = resources.check(_kind(request.urn), MessageToDict(request.news))
        return provider_pb2.CheckResponse(
            inputs=_struct(inputs), failures=[provider_pb2.CheckFailure(property=name, reason=f"{name} {reason}") for name, reason in failures]
        )

    async def Diff(self, request: provider_pb2.DiffRequest, context: grpc.aio.ServicerContext) -> provider_pb2.DiffResponse:
        changes = resources.diff(MessageToDict(request.old_inputs), MessageToDict(request.news))
        return provider_pb2.DiffResponse(
            changes=provider_pb2.DiffResponse.DIFF_SOME if changes else provider_pb2.DiffResponse.DIFF_NONE,
            diffs=list(changes),
            replaces=[name for name, kind in changes.items() if kind.endswith("_REPLACE")],
            detailedDiff={name: provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.Kind.Value(kind), inputDiff=True) for name, kind in changes.items()},
            hasDetailedDiff=True,
        )

    async def Create(self, request: provider_pb2.CreateRequest, context: grpc.aio.ServicerContext) -> provider_pb2.CreateResponse:
        inputs = MessageToDict(request.properties)
        outputs = dict.fromkeys(resources.OUTPUTS, UNKNOWN if request.preview else "")
        if not request.preview and "create" in inputs:
            outputs = await self._run(request.urn, inputs, "create", {}, context)
        return provider_pb2.CreateResponse(id=_name(request.urn) + secrets.token_hex(4), properties=_struct(inputs | outputs))

    async def Update(self, request: provider_pb2.UpdateRequest, context: grpc.aio.ServicerContext) -> provider_pb2.UpdateResponse:
        inputs, previous = MessageToDict(request.news), _outputs(request.olds)
        outputs = dict.fromkeys(resources.OUTPUTS, UNKNOWN) if request.preview else previous
        command = "update" if "update" in inputs else "create"
        if not request.preview and command in inputs:
            outputs = await self._run(request.urn, inputs, command, previous, context)
        return provider_pb2.UpdateResponse(properties=_struct(inputs | outputs))

    async def Delete(self, request: provider_pb2.DeleteRequest, context: grpc.aio.ServicerContext) -> Empty:
        state = MessageToDict(request.properties)
        if "delete" in state:
            await self._run(request.urn, state, "delete", _outputs(request.properties), context)
        return Empty()

    async def Read(self, request: provider_pb2.ReadRequest, context: grpc.aio.ServicerContext) -> provider_pb2.ReadResponse:
        return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    async def Cancel(self, request: Empty, context: grpc.aio.ServicerContext) -> Empty:
        self._interruptions.cancel()
        return Empty()

    async def _run(self, urn: str, inputs: Properties, which: str, previous: Properties, context: grpc.aio.ServicerContext) -> Properties:
        """The outputs of the command; the call ends as failed when the command does, so that the engine keeps the state as it was."""
        values = plain(inputs)
        interruptible: Interruptible = self._interruptions
        try:
            async with self._log(urn) as log:
                return await run(values, values[which], previous, log, interruptible)
        except (CommandError, DialError) as error:
            await context.abort(grpc.StatusCode.UNKNOWN, str(error))
        except asyncio.CancelledError:
            await context.abort(grpc.StatusCode.CANCELLED, f"{which}: cancelled before it was done")
        raise AssertionError("abort returned")

    @asynccontextmanager
    async def _log(self, urn: str) -> AsyncIterator[Log]:
        """Sends lines to the engine's display, in order and without holding up the command that prints them."""
        lines: asyncio.Queue[str | None] = asyncio.Queue()

        async def send() -> None:
            while (line := await lines.get()) is not None:
                await self._engine.Log(engine_pb2.LogRequest(severity=engine_pb2.INFO, message=line, urn=urn, ephemeral=True))

        sender = asyncio.create_task(send())
        try:
            yield lines.put_nowait
        finally:
            lines.put_nowait(None)
            await sender


def _kind(urn: str) -> str:
    """The resource's own type; its parents' types stand before it."""
    return urn.split("::")[2].rsplit("$", 1)[-1]


def _name(urn: str) -> str:
    return urn.split("::", 3)[3]


def _outputs(state: Struct) -> Properties:
    values = plain(MessageToDict(state))
    return {name: values.get(name, "") for name in resources.OUTPUTS}


def _struct(values: Properties) -> Struct:
    message = Struct()
    message.update(values)
    return message


async def serve(engine_address: str) -> None:
    """Serve until the engine is gone, however it went."""
    parent = os.getppid()
    async with grpc.aio.insecure_channel(engine_address, options=ANY_SIZE) as channel:
        server = grpc.aio.server(options=ANY_SIZE)
        provider_pb2_grpc.add_ResourceProviderServicer_to_server(Plugin(engine_pb2_grpc.EngineStub(channel)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        print(port, flush=True)
        while os.getppid() == parent:
            await server.wait_for_termination(timeout=ORPHAN_POLL_S)
        await server.stop(grace=None)


def main() -> None:
    # The engine puts flags about its own logging first.
    asyncio.run(serve(sys.argv[-1]))
