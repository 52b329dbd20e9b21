"""SSH host keys that are known before the host exists: ed25519, derived from one secret of the stack and the host's name.

The same seed and name give the same bytes on every run, so that a server's first boot data never differs without a reason.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from components.configuration import ConfigurationError

SEED_MIN = 16
"""Characters. `openssl rand -hex 32` gives 64."""


class HostKey(NamedTuple):
    """`private` as in /etc/ssh/ssh_host_ed25519_key, `public` as in known_hosts: `ssh-ed25519 AAAA...`."""

    private: str
    public: str


def check_seed(seed: str) -> None:
    """Raise ConfigurationError when the seed is too short to keep a secret; never quotes it."""
    if len(seed) < SEED_MIN:
        raise ConfigurationError(
            f"openshift-lvs:host_key_seed: has {len(seed)} characters and needs at least {SEED_MIN}; "
            'pulumi config set --secret openshift-lvs:host_key_seed "$(openssl rand -hex 32)"'
        )


def derive(seed: str, host: str) -> HostKey:
    """The key of `host`. Raises ConfigurationError for a seed that `check_seed` refuses."""
    check_seed(seed)
    secret = HKDF(SHA256(), length=32, salt=None, info=b"ssh host key of " + host.encode()).derive(seed.encode())
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    blob = _string(b"ssh-ed25519") + _string(public)
    return HostKey(_openssh(secret, public, blob), f"ssh-ed25519 {base64.b64encode(blob).decode()}")


def _openssh(secret: bytes, public: bytes, blob: bytes) -> str:
    """The private key file (OpenSSH, PROTOCOL.key). The usual serializers put random check numbers in it; here they follow from the key."""
    check = hashlib.sha256(b"check number of " + secret).digest()[:4]
    section = check + check + blob + _string(secret + public) + _string(b"")
    section += bytes(range(1, 1 + -len(section) % 8))
    text = b"openssh-key-v1\0" + _string(b"none") + _string(b"none") + _string(b"") + (1).to_bytes(4, "big") + _string(blob) + _string(section)
    lines = textwrap.wrap(base64.b64encode(text).decode(), 70)
    return "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END OPENSSH PRIVATE KEY-----", ""])


def _string(data: bytes) -> bytes:
    """A string as SSH writes it (RFC 4251, 5): its length in four bytes, and itself."""
    return len(data).to_bytes(4, "big") + data
