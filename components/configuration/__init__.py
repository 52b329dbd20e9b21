"""The configuration model: the keys of a stack, their defaults, and the rules that they must obey. Pure data: no Pulumi, no files, no network.

Key names are those of keepalived 2, Neutron and the RFCs. A configuration that cannot work is refused with key, value and remedy.

Each section of `openshift-lvs:cluster` has a module with its keys, their bounds and defaults, and the rules within the section:

    network, ssh, keepalived, metrics, pools, vips    the sections themselves
    allow                                             network.allow and pools.NAME.allow
    services                                          vips.NAME.services
    presets                                           vips.NAME.services.N.preset
    health_checks                                     vips.NAME.services.N.health_check

The rest concerns several sections:

    cluster      all sections together, and the facts derived from them: directors, priorities, witnesses, takeover time
    rules        the rules between sections
    keys         the keys beside the cluster
    auth_pass    the rules for the secret `openshift-lvs:auth_pass`
    errors       how a fault becomes a message
    words        words of keepalived.conf that are no keys
    model        the base class, and field types that several sections use
"""

from components.configuration.allow import Allow
from components.configuration.auth_pass import check_auth_pass
from components.configuration.cluster import Cluster
from components.configuration.errors import ConfigurationError, UsageError
from components.configuration.health_checks import HttpCheck, MiscCheck
from components.configuration.keys import check_keys
from components.configuration.network import Network
from components.configuration.pools import Node, RootVolume
from components.configuration.services import VirtualService
from components.configuration.vips import POOR_VIEW_WEIGHT, Vip

__all__ = [
    "POOR_VIEW_WEIGHT",
    "Allow",
    "Cluster",
    "ConfigurationError",
    "HttpCheck",
    "MiscCheck",
    "Network",
    "Node",
    "RootVolume",
    "UsageError",
    "Vip",
    "VirtualService",
    "check_auth_pass",
    "check_keys",
]
