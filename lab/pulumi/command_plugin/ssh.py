"""Dials a host, directly or through a proxy, as often as the connection allows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar, cast

import asyncssh

from .properties import Properties

FIRST_DELAY_S, DELAY_GROWTH, LONGEST_DELAY_S = 0.1, 1.5, 5.0
"""Between two attempts, as the published plugin waits: ten of them take 11 s."""
HANDSHAKE_S = 120.0
"""sshd's own LoginGraceTime; `perDialTimeout` bounds the dialling alone, since a busy machine's handshake takes longer."""
KEEPALIVE_S, KEEPALIVES = 15.0, 8
"""A host that answers none of these is gone, and a command on it has failed."""

T = TypeVar("T")
Say = Callable[[str], None]


class DialError(Exception):
    """There is no connection, and why."""


@asynccontextmanager
async def connection(to: Properties, say: Say) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """A connection to the host `to` names, through its proxy if it has one; `say` hears of every failed attempt."""
    async with AsyncExitStack() as stack:
        target = await _credentials(to, stack)
        via = to.get("proxy")
        if via is None:
            yield await _retry("Dial", to, lambda: _dial(to, target, stack), say)
            return
        try:
            credentials = await _credentials(via, stack)

            async def dial_proxy() -> asyncssh.SSHClientConnection:
                return await _retry("Dial proxy", via, lambda: _dial(via, credentials, stack), say)

            proxy = await dial_proxy()

            async def dial_from_proxy() -> asyncssh.SSHClientConnection:
                nonlocal proxy
                if proxy.is_closed():
                    proxy = await dial_proxy()
                return await _dial(to, target, stack, proxy)

            reached = await _retry("Dial from proxy", to, dial_from_proxy, say)
        except DialError as error:
            raise DialError(f"proxy: {error}") from error
        yield reached


async def _retry(what: str, to: Properties, attempt: Callable[[], Awaitable[T]], say: Say) -> T:
    """The result of the first attempt that succeeds. A wrong host key ends it at once: no further attempt could be right."""
    limit, failed, delay = int(to["dialErrorLimit"]), 0, FIRST_DELAY_S
    address = f"{to['host']}:{int(to['port'])}"
    while True:
        try:
            return await attempt()
        except (OSError, asyncssh.Error, TimeoutError) as error:
            if to.get("hostKey") and _is_wrong_host_key(error):
                raise DialError(
                    f"{address} does not have the host key given as hostKey ({error}): either another machine answers there, "
                    "or its key was changed; connect only if you know which, with the right hostKey"
                ) from error
            if 0 <= limit <= failed:
                raise DialError(f"after {failed} failed attempts: {address}: {error or type(error).__name__}") from error
            failed += 1
            say(f"{what} {failed}/{limit if limit >= 0 else 'inf'} failed: retrying ({address}: {error or type(error).__name__})")
        await asyncio.sleep(delay)
        delay = min(delay * DELAY_GROWTH, LONGEST_DELAY_S)


def _is_wrong_host_key(error: Exception) -> bool:
    # A key of another type fails earlier, when the two sides look for an algorithm that both have.
    return isinstance(error, asyncssh.HostKeyNotVerifiable) or (isinstance(error, asyncssh.KeyExchangeFailed) and "host key" in str(error))


async def _dial(
    to: Properties, credentials: dict[str, Any], stack: AsyncExitStack, proxy: asyncssh.SSHClientConnection | None = None
) -> asyncssh.SSHClientConnection:
    dialled = await asyncssh.connect(to["host"], int(to["port"]), tunnel=cast(Any, _Dialler(proxy, to["perDialTimeout"] or None)), config=None, **credentials)
    stack.callback(dialled.close)
    return dialled


class _Dialler:
    """Opens the stream that a connection runs over, within a time of its own."""

    def __init__(self, proxy: asyncssh.SSHClientConnection | None, timeout_s: float | None) -> None:
        self._open: Callable[..., Awaitable[Any]] = proxy.create_connection if proxy else asyncio.get_running_loop().create_connection
        self._timeout_s = timeout_s

    async def create_connection(self, session_factory: Any, host: str, port: int) -> Any:
        try:
            return await asyncio.wait_for(self._open(session_factory, host, port), self._timeout_s)
        except TimeoutError:
            raise TimeoutError(f"no answer in {self._timeout_s:.0f} s (perDialTimeout)") from None


async def _credentials(to: Properties, stack: AsyncExitStack) -> dict[str, Any]:
    """Who we are to the host, and who it must be. A key that cannot be read is an error before anything is dialled."""
    keys: list[Any] = []
    try:
        if private := to.get("privateKey"):
            keys.append(asyncssh.import_private_key(private, to.get("privateKeyPassword")))
        expected = [asyncssh.import_public_key(to["hostKey"])] if to.get("hostKey") else None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise DialError(f"a key given for the connection to {to['host']} cannot be read: {error}") from error
    if agent_path := to.get("agentSocketPath") or os.environ.get("SSH_AUTH_SOCK"):
        try:
            agent = await asyncssh.connect_agent(agent_path)
            stack.callback(agent.close)
            keys += await agent.get_keys()
        except (OSError, ValueError) as error:
            raise DialError(f"the SSH agent at {agent_path} does not answer: {error}") from error
    return {
        "username": to["user"],
        "password": to.get("password"),
        "client_keys": keys or None,
        "agent_path": None,
        "known_hosts": (expected, [], []) if expected else None,
        "connect_timeout": HANDSHAKE_S + to["perDialTimeout"] if to["perDialTimeout"] else None,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": KEEPALIVES,
    }
