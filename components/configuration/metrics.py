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
    ]
    """Folder of node_exporter's textfile collector on the hosts (`--collector.textfile.directory`), such as `/var/lib/node_exporter/textfile_collector`;
    Debian's package has `/var/lib/prometheus/node-exporter`. It is made where it is missing. Every host writes `openshift_lvs.prom` there every 15 seconds
    ([metrics and alerts](metrics.md#metrics)).
    """
