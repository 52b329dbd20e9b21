"""Serves the component to the engine."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from pathlib import Path
from typing import Any

import pulumi
from pulumi.errors import InputPropertiesError
from pulumi.provider import ConstructResult, main
from pulumi.provider.experimental.component import ComponentProvider
from pulumi.provider.experimental.util import camel_case
from pulumi.provider.server import ComponentInitError

from components.configuration import ConfigurationError
from plugin.arguments import DESCRIPTIONS, in_arguments
from plugin.cluster import Cluster

NAME = "openshift-lvs"


def serve(arguments: list[str]) -> None:
    """Serve the component until the engine ends this process. `arguments`: the engine's, its address first."""
    # The engine ends a plugin by SIGINT when its work is done. On Python's way out, grpc complains of its closed loop on the user's terminal.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    main(Provider(), arguments)


class Provider(ComponentProvider):
    """Pulumi's provider of components. A refusal of the model is reported with the argument and without a traceback."""

    def __init__(self) -> None:
        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
        # Versions of plugins are semantic versions: 0.2.0.dev0 is 0.2.0-dev0.
        super().__init__([Cluster], NAME, version=project["version"].replace(".dev", "-dev"))
        schema = json.loads(str(self.schema))
        places = {name: described["properties"] for name, described in schema["types"].items()}
        places |= {name: described["inputProperties"] for name, described in schema["resources"].items()}
        for (section, key), text in DESCRIPTIONS.items():
            places[f"{NAME}:index:{section}"][camel_case(key)]["description"] = in_arguments(text)
        self.schema = json.dumps(schema)

    def construct(self, name: str, resource_type: str, inputs: Any, options: pulumi.ResourceOptions | None = None) -> ConstructResult:
        try:
            return super().construct(name, resource_type, inputs, options)
        except ComponentInitError as error:
            if not isinstance(error.inner, ConfigurationError):
                raise
            # Without the path of a property: the engine would print its value, and so a secret.
            raise InputPropertiesError(in_arguments(str(error.inner)), []) from None
