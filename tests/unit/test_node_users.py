"""What an unprivileged user of a node, such as the user of a check script, cannot do: write our files, hold our locks, send connection sync."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest

from components import keepalived
from components.configuration import Cluster
from components.keepalived import File
from tests.unit.node_root import PASSWORD, Node, recording
from tests.unit.test_node_scripts import STACK, activated

NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups"
OURS = "/etc/keepalived /run/openshift-lvs /usr/local/lib/openshift-lvs /usr/local/sbin/openshift-lvs /etc/systemd/system"
HOLD = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)"
SEND = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes([0, 51, 0, 8, 0, 1, 0, 0]), ('224.0.0.81', 8848))"
COUNT = "nft --json list chain ip counted output"


@pytest.fixture(scope="module")
def serving() -> Iterator[Node]:
    """A director with a version in force, a password, and every file that commands leave."""
    with activated("master0") as made:
        data = copy.deepcopy(STACK)
        data["keepalived"] = {"vrrp_version": 2}
        data["vips"]["master"].update(authentication="PASS", advert_interval=1)
        cluster = Cluster.parse(data)
        files = keepalived.render(cluster, "master0")
        version = made.deliver(files)
        secrets = keepalived.authentication(cluster, "master0", {"master": PASSWORD})
        made.succeeds("deliver-secret", version, stdin=keepalived.bundle(tuple(File(path, 0o600, text) for path, text in secrets.items())))
        made.succeeds("activate", version)
        made.succeeds("rotation", "out", "192.168.0.3")
        made.sh(recording("master", "master-8443", 0))
        yield made


def test_no_file_of_ours_can_be_written_by_another_user(serving: Node) -> None:
    assert serving.sh(f"{NOBODY} find {OURS} ! -type l -writable 2>/dev/null || true") == ""
    others = serving.sh(f"find {OURS} ! -user root").split()
    assert others == [], "root's alone"
    # /run is root's too, except in this namespace.
    parents = "/etc/keepalived /usr/local/lib /usr/local/sbin /etc/systemd/system"
    assert serving.sh(f"{NOBODY} find {parents} -maxdepth 0 -writable") == "", "nor put in their place"


def test_no_file_at_run_time_and_no_password_can_be_read(serving: Node) -> None:
    files = [name for name in serving.sh("find /run/openshift-lvs /etc/keepalived/versions -name 'auth-*' -o -path '/run/openshift-lvs/*'").split() if name]
    assert any(name.endswith("/lock") for name in files) and any("auth-master.conf" in name for name in files)
    for name in files:
        assert "ermission denied" in serving.run("sh", "-c", f"{NOBODY} cat {name}").stderr, name


def test_no_lock_can_be_held_by_another_user(serving: Node) -> None:
    locks = serving.sh("find /run/openshift-lvs -name '*lock'").split()
    assert len(locks) >= 2
    for lock in locks:
        assert "PermissionError" in serving.run("sh", "-c", f"{NOBODY} python3 -c '{HOLD}' {lock}").stderr, lock


def test_locks_and_folder_of_the_shell_scripts_are_closed_by_the_first_command(serving: Node) -> None:
    serving.write("/usr/local/lib/openshift-lvs/lock", "#!/bin/sh\n", 0o755)
    serving.sh("chmod 755 /run/openshift-lvs; touch /run/openshift-lvs.lock; chmod 644 /run/openshift-lvs.lock /run/openshift-lvs/lock")
    paths = ("/run/openshift-lvs.lock", "/run/openshift-lvs/lock")
    for path in paths:
        serving.sh(f"{NOBODY} python3 -c '{HOLD}' {path}")
    serving.succeeds("validate", str(serving.in_force))
    for path in paths:
        assert "PermissionError" in serving.run("sh", "-c", f"{NOBODY} python3 -c '{HOLD}' {path}").stderr, path


def test_what_is_installed_under_another_umask_is_not_writable_for_others(serving: Node) -> None:
    install = f"umask 000\nset -- {keepalived.program_digest()}\n" + (keepalived.PROGRAM / "install").read_text()
    serving.sh(f"mv /usr/local/lib/openshift-lvs/{keepalived.program_digest()} /stub/before")
    try:
        done = serving.run("sh", "-c", install, stdin=keepalived.bundle(keepalived.program()))
        assert done.returncode == 0, done.stderr
        assert serving.sh("find /usr/local/lib/openshift-lvs -perm /022 ! -type l") == ""
    finally:
        path = f"/usr/local/lib/openshift-lvs/{keepalived.program_digest()}"
        serving.sh(f"rm -rf {path}; mv /stub/before {path}")


def test_only_root_and_the_kernel_may_send_connection_sync(serving: Node) -> None:
    serving.sh(
        "nft 'table ip counted { chain output { type filter hook output priority 100; ip daddr 224.0.0.81 counter; }; }'; ip route add 224.0.0.0/4 dev eth0"
    )

    def sent() -> int:
        rules = json.loads(serving.sh(COUNT))["nftables"]
        return next(int(part["counter"]["packets"]) for each in rules if "rule" in each for part in each["rule"]["expr"] if "counter" in part)

    done = serving.run("sh", "-c", f'{NOBODY} python3 -c "{SEND}"')
    assert "PermissionError" in done.stderr and sent() == 0
    serving.sh(f'python3 -c "{SEND}"')
    assert sent() == 1
