"""Requests through every address, counted by the server that answered, from inside the network and from outside it: there through floating IP or router."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

from components.configuration.model import endpoint
from lab import cloud
from operations.status import table

REQUESTS = 60


class Answers(NamedTuple):
    """What came back from one address and port."""

    source: str
    target: str
    sent: int
    failed: int
    by_server: dict[str, int]
    errors: dict[str, int]


def ask(outputs: dict[str, Any], note: Callable[[str], None]) -> Iterator[Answers]:
    """REQUESTS requests to every service of every endpoint: from the tenant's network, and at once from the external one by floating IP or IPv6."""
    with ThreadPoolExecutor() as both:
        for vip in outputs["endpoints"].values():
            for service in vip["services"]:
                port = int(_port(service).split("/")[0])
                # IPv6 is routed as it is.
                outside = vip["address"] if ":" in vip["address"] else vip["floating_ip"]
                note(f"{endpoint(vip['address'], port)} is asked")
                asked = [both.submit(_asked, "bastion", vip["address"], port), *([both.submit(_asked, "external", outside, port)] if outside else [])]
                yield from (each.result() for each in asked)


def _asked(source: Literal["bastion", "external"], address: str, port: int) -> Answers:
    answer = cloud.client(source, address, port, REQUESTS, timeout_s=2)
    return Answers(source, endpoint(address, port), answer["sent"], answer["failed"], answer["answers"], answer["errors"])


def _port(service: str) -> str:
    """PORT/PROTOCOL of ADDRESS:PORT/PROTOCOL."""
    return service.rpartition(":")[2]


def report(outputs: dict[str, Any], answers: list[Answers]) -> str:
    """Endpoints, hosts and answers, for a person."""
    endpoints = [["ENDPOINT", "ADDRESS", "FLOATING IP", "SERVICES", "OWNER", "TAKEOVER", "EVICTION", "RECOVERY"]]
    for name, e in outputs["endpoints"].items():
        services = " ".join(map(_port, e["services"]))
        seconds = [f"{e[key]} s" for key in ("takeover_seconds", "eviction_seconds", "recovery_seconds")]
        endpoints.append([name, e["address"], e["floating_ip"] or "-", services, e["owner"], *seconds])
    hosts = [["HOST", "ADDRESS", "POOL", "ROLES", "OWNER OF"]]
    hosts += [[name, h["address"], h["pool"], ", ".join(h["roles"]), ", ".join(h["owner_of"]) or "-"] for name, h in outputs["hosts"].items()]
    proof = [["FROM", "THROUGH", "SENT", "FAILED", "ANSWERED BY"]]
    for a in answers:
        counts = ", ".join(f"{server} {count}" for server, count in sorted((a.by_server | a.errors).items()))
        proof.append([a.source, a.target, str(a.sent), str(a.failed), counts])
    return "\n\n".join(table(rows) for rows in (endpoints, hosts, proof))
