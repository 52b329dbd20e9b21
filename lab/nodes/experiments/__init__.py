"""What happens to the nodes, step by step, and what must hold while it does.

A way back is a step of its own with a bound of its own. The owner of an experiment is the node that holds the address when it
begins: with nopreempt that need not be the preferred one, and an experiment leaves the address where it ends up.
"""

from __future__ import annotations

from lab.nodes.experiments.alerts import ALERTS
from lab.nodes.experiments.calls import CALLS
from lab.nodes.experiments.changes import CHANGES
from lab.nodes.experiments.cluster import CLUSTER
from lab.nodes.experiments.crashes import CRASHES, PARTITIONS
from lab.nodes.experiments.dual import DUAL
from lab.nodes.experiments.examples import EXAMPLES
from lab.nodes.experiments.neighbours import NEIGHBOURS
from lab.nodes.experiments.planned import PLANNED
from lab.nodes.experiments.releases import RELEASES
from lab.nodes.experiments.repairs import REPAIRS
from lab.nodes.experiments.reuse import REUSE
from lab.nodes.experiments.servers import SERVERS
from lab.nodes.experiments.steady import CHOICES, STEADY
from lab.nodes.experiments.updates import STRANGERS, UPDATES

EXPERIMENTS = [
    *STEADY, *PLANNED, *CRASHES, *PARTITIONS, *SERVERS, *REPAIRS, *CALLS, *CHANGES, *UPDATES, *STRANGERS, *NEIGHBOURS, *RELEASES, *REUSE, *ALERTS, *CHOICES,
    *EXAMPLES, *DUAL, *CLUSTER,
]  # fmt: skip
