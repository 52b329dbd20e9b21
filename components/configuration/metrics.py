"""The `metrics` section: facts of each host as a textfile for node_exporter."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from components.configuration.model import Form, Model


class Metrics(Model):
    """Metrics of every host. Without this section none are written."""

    heading: ClassVar[str] = "metrics"

    directory: Annotated[
        str,
        Field(pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$", max_length=200),
        Form("the absolute path of a folder without blanks and .., such as /var/lib/node_exporter/textfile_collector"),
    ] = Field(description="the folder of node_exporter's textfile collector (--collector.textfile.directory) on the hosts; made where it is missing")
