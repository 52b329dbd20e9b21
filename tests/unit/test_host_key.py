"""Host keys derived from a seed."""

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key

from components.configuration import ConfigurationError
from components.host_key import derive

SEED = "not a secret, only a test"


def test_the_same_seed_and_host_give_the_same_bytes() -> None:
    assert derive(SEED, "master0") == derive(SEED, "master0")


def test_the_key_of_a_host_never_changes_between_versions_of_this_program() -> None:
    # A different text here means: every server of every stack is a stranger to its operator after an upgrade.
    assert derive(SEED, "master0").public == "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMKuwEFnVsChqgxktzBdY1FJYMDX9niqZSa7uLW8MfB4"


def test_another_host_or_another_seed_has_another_key() -> None:
    keys = {derive(seed, host) for seed in (SEED, f"{SEED}.") for host in ("master0", "master1")}
    assert len({key.public for key in keys}) == len({key.private for key in keys}) == 4


@pytest.mark.parametrize("host", ["a", "master0", "a-host-with-a-name-of-some-length-that-moves-the-padding"])
def test_openssh_reads_the_private_key_and_finds_the_public_one_in_it(host: str, tmp_path: Path) -> None:
    key = derive(SEED, host)
    file = tmp_path / "ssh_host_ed25519_key"
    file.touch(mode=0o600)
    file.write_text(key.private)
    read = subprocess.run(["ssh-keygen", "-y", "-f", file], capture_output=True, text=True, check=True)
    assert read.stdout.strip() == key.public


def test_another_reader_of_the_format_agrees() -> None:
    key = derive(SEED, "master0")
    public = load_ssh_private_key(key.private.encode(), password=None).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    assert public.decode() == key.public


def test_a_short_seed_is_refused_by_its_key_without_being_told() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        derive("fifteen-letters", "master0")
    assert "openshift-lvs:host_key_seed: has 15 characters and needs at least 16; pulumi config set --secret" in str(refusal.value)
    assert "fifteen-letters" not in str(refusal.value)
