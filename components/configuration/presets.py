"""The presets of a service: what clusters of a kind serve on a port, and the health check that their documentation names for it.

Sources: OpenShift 4, "Services for a user-managed load balancer" (health check URLs `HTTPS:6443/readyz`, `HTTPS:22623/healthz` and
`HTTP:1936/healthz/ready`; port 22623 is for the cluster's nodes only). OpenShift 3.11, "Day Two Operations Guide" (`/healthz` of the API on port 8443, and of
the routers on port 1936).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

_API_3 = {"type": "ssl", "path": "/healthz"}
_ROUTER_3 = {"type": "http", "path": "/healthz", "connect_port": 1936}
_API_4 = {"type": "ssl", "path": "/readyz"}
_MACHINE_CONFIG_4 = {"type": "ssl", "path": "/healthz"}
_ROUTER_4 = {"type": "http", "path": "/healthz/ready", "connect_port": 1936}

PRESETS: dict[str, dict[int, dict[str, Any]]] = {
    "openshift3": {8443: {"health_check": _API_3}, 80: {"health_check": _ROUTER_3}, 443: {"health_check": _ROUTER_3}},
    "openshift4": {
        6443: {"health_check": _API_4},
        # It hands out the machines' configuration, with secrets, to everyone who asks.
        22623: {"health_check": _MACHINE_CONFIG_4, "client_cidrs": []},
        80: {"health_check": _ROUTER_4},
        443: {"health_check": _ROUTER_4},
    },
}
"""For each preset and port, the keys of the service."""

Preset = Literal["openshift3", "openshift4"]

_ONE_URL = ("path", "status_code", "digest")


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a service with those of its preset added. A given key replaces the preset's; in the health check, key by key.

    A health check of another `type` replaces the preset's as a whole. Raises ValueError for a port that the preset does not have.
    """
    ports = PRESETS[given["preset"]]
    port = given.get("port")
    if isinstance(port, str) and port.isdecimal():
        port = int(port)
    if not isinstance(port, int):
        return dict(given)
    if port not in ports:
        raise ValueError(f"port: {port!r} is not in the preset {given['preset']}, which has {', '.join(map(str, ports))}; leave `preset` out for this port")
    keys: dict[str, Any] = ports[port]
    check, own = keys["health_check"], given.get("health_check", {})
    if isinstance(own, Mapping):
        same = own.get("type", check["type"]) == check["type"]
        kept = {key: value for key, value in check.items() if not ("urls" in own and key in _ONE_URL)} if same else {}
        own = {**kept, **own}
    return {**keys, **given, "health_check": own}
