"""The rules for the secret `openshift-lvs:auth_pass`: the VRRP password of each VIP with `authentication`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from components.configuration.cluster import Cluster
from components.configuration.errors import ConfigurationError

AUTH_PASS_MAX = 8
"""Maximum characters of a VRRP password. keepalived cuts a longer one without a message (keepalived.conf(5))."""


def check_auth_pass(cluster: Cluster, given: Mapping[str, str]) -> None:
    """Refuse a password that is missing, unused, too long, or not a word of keepalived.conf. No message quotes a password."""
    for name, vip in cluster.vips.items():
        key = f"openshift-lvs:auth_pass.{name}"
        if vip.authentication and name not in given:
            raise ConfigurationError(f"{key}: missing, and vips.{name}.authentication is {vip.authentication}; pulumi config set --secret --path {key}")
        if vip.authentication and len(given[name]) > AUTH_PASS_MAX:
            raise ConfigurationError(f"{key}: has {len(given[name])} characters; give at most {AUTH_PASS_MAX}, because keepalived drops the rest")
        if vip.authentication and not re.fullmatch(r"[^\s\"'{}#!]+", given[name]):
            raise ConfigurationError(f"{key}: has a blank, quote, brace, # or !, which keepalived.conf cannot carry; choose another password")
    for name in given:
        if name not in cluster.vips or not cluster.vips[name].authentication:
            raise ConfigurationError(
                f"openshift-lvs:auth_pass.{name}: no VIP of that name has `authentication`; remove it or set vips.{name}.authentication: PASS"
            )
