"""A bounded number of requests to ADDRESS:PORT, and who answered them, as JSON. Run in the namespace of the bastion or of the external client."""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import time

REQUEST = b"GET / HTTP/1.0\r\n\r\n"


async def ask(address: str, port: int, timeout_s: float) -> tuple[str, bool]:
    """(the server's name or the error, whether it is an error)."""
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port)
            writer.write(REQUEST)
            answer = await reader.read()
    except TimeoutError:
        return "no answer in time", True
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}", True
    finally:
        if writer:
            writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b"\r\n")[0].decode(errors="replace")
    if " 200 " not in f"{status} ":
        return f"answered {status!r}", True
    return body.decode(errors="replace").strip(), False


async def send(address: str, port: int, count: int, concurrency: int, timeout_s: float) -> dict[str, object]:
    answers: collections.Counter[str] = collections.Counter()
    errors: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    room = asyncio.Semaphore(concurrency)

    async def one() -> None:
        nonlocal slowest
        async with room:
            began = time.monotonic()
            said, failed = await ask(address, port, timeout_s)
            (errors if failed else answers)[said] += 1
            slowest = max(slowest, time.monotonic() - began)

    await asyncio.gather(*(one() for _ in range(count)))
    return {"sent": count, "failed": errors.total(), "answers": dict(answers), "errors": dict(errors), "slowest_s": round(slowest, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for one request")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(send(given.address, given.port, given.count, given.concurrency, given.timeout))))


if __name__ == "__main__":
    main()
