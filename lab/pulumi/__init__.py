"""The Pulumi engine: the one on PATH where its plugins can be had, else one built from Go modules (see README.md)."""

from lab.pulumi.engine import environment

__all__ = ["environment"]
