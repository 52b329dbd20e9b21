"""Words of keepalived.conf, of articles and of older files that are no keys here, and what a message says of each."""

from __future__ import annotations

from components.configuration.health_checks import Check, MiscCheck
from components.configuration.model import Model
from components.configuration.network import Network
from components.configuration.vips import Vip

RENAMED = {
    "lb_algo": "scheduler",
    "lvs_sched": "scheduler",
    "lb_kind": "forwarding_method",
    "lvs_method": "forwarding_method",
    "advert_int": "advert_interval",
    "nb_get_retry": "retry",
    "auth_pass": "the secret openshift-lvs:auth_pass (pulumi config set --secret --path openshift-lvs:auth_pass.VIP)",
    "virtual_ipaddress": "address",
    "virtual_ipaddress_excluded": "additional_addresses",
    "virtual_server": "services",
    "misc_path": "script",
    "auth_type": "authentication",
    "priority": "owner, or priorities by host",
    "unicast_peer": "unicast: true in vips.NAME; the peers are the other directors of the pool",
    "vrrp_script": "witnesses",
    "global_defs": "keepalived",
    "vrrp_instance": "vips.NAME",
}
"""Words that have another name here. A name that is no key of the model is a sentence for the message."""

NEEDLESS = {
    "nat_mask": "keepalived 2 does not know it",
    "state": "every instance starts as BACKUP, and `owner` names the preferred director of the VIP",
    "nopreempt": "every instance has it, and a roll-out returns each VIP to its owner",
    "preempt": "every instance has `nopreempt`, and a roll-out returns each VIP to its owner",
    "preempt_delay": "every instance has `nopreempt`, and a roll-out returns each VIP to its owner",
    "track_script": "the program tracks the health checks of the services, and the `witnesses` of the pool",
    "track_file": "the program tracks the health checks of the services, and drains",
    "track_interface": "keepalived tracks the `interface` of the pool",
    "real_server": "every host of the pool is a real server (pools.NAME.hosts)",
    "target_port": "direct routing changes no port: the servers listen on the port of the service (decision 0002)",
    "real_port": "direct routing changes no port: the servers listen on the port of the service (decision 0002)",
    "notify": "the program runs no script when a VIP moves; `smtp_alert` sends mail",
    "notify_master": "the program runs no script when a VIP moves; `smtp_alert` sends mail",
    "notify_backup": "the program runs no script when a VIP moves; `smtp_alert` sends mail",
    "notify_fault": "the program runs no script when a VIP moves; `smtp_alert` sends mail",
    "notify_up": "the program reads every verdict from keepalived; `smtp_alert` sends mail when a server is evicted or returns",
    "notify_down": "the program reads every verdict from keepalived; `smtp_alert` sends mail when a server is evicted or returns",
    "quorum_up": "the program reads every quorum from keepalived, and a director that lost one lowers its VRRP priority",
    "quorum_down": "the program reads every quorum from keepalived, and a director that lost one lowers its VRRP priority",
    "lvs_sync_daemon": "every director runs connection sync (decision 0012)",
    "lvs_sync_daemon_interface": "every director runs connection sync on the `interface` of the pool (decision 0012)",
    "use_vmac": "a VIP moves by gratuitous ARP, which `garp_master_refresh` repeats",
    "unicast_src_ip": "it is the director's own address (unicast: true in vips.NAME)",
    "mcast_src_ip": "it is the director's own address",
    "vrrp_sync_group": "each VIP may have another holder: every host of the pool answers for every VIP (decision 0002)",
    "script_user": "the program sets it; a `misc` check has `user`",
    "enable_script_security": "the program sets it",
    "vrrp_priority": "the program sets it, so that a busy host sends its adverts in time",
    "checker_priority": "the program sets it, so that a busy host checks servers in time",
}
"""Words that have no use here, and why."""

PLACED: list[tuple[type[Model], str, str]] = [
    (Check, "interval", "; here it is delay_loop"),
    (MiscCheck, "timeout", "; here it is misc_timeout"),
    (MiscCheck, "connect_timeout", "; here it is misc_timeout"),
    (Check, "timeout", "; here it is connect_timeout"),
    (Check, "port", "; here it is connect_port"),
    (Vip, "interval", "; here it is advert_interval"),
    (Network, "name", "; leave it out: the program names the network it creates; `existing` takes an existing one by name"),
]
"""Words that mean something at one place only: the section, the word, the end of the message. The first that fits is used."""
