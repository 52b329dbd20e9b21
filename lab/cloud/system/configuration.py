"""Every configuration file of the control plane, written anew at each start. Loopback addresses are the cloud's own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

STATE = Path("/srv")
VENV = Path("/opt/openstack")
OVN_NB = "unix:/run/ovn/nb.sock"
OVN_SB = "unix:/run/ovn/sb.sock"
DATABASE_SOCKET = "/run/mysqld/mysqld.sock"
AUTH_URL = "http://127.0.0.1:5000/v3"
REGION = "RegionOne"
ENDPOINTS = {
    "placement": ("placement", "http://127.0.0.1:8778"),
    "glance": ("image", "http://127.0.0.1:9292"),
    "nova": ("compute", "http://127.0.0.1:8774/v2.1"),
    "neutron": ("network", "http://127.0.0.1:9696"),
}
SCHEDULER = "/etc/nova/scheduler.conf"
RABBIT = "rabbit://guest:guest@127.0.0.1:5672/"

ROOM = {"node1": 4}
"""How many servers a hypervisor takes; one, if it is not named here.

Nova weighs requests that follow each other closely alike and sends them to one host, whatever a soft anti-affinity group says; but a host
without room is no candidate for the next request, if that is not weighed at the same time.
"""

Options = Mapping[str, object]


def password(who: str) -> str:
    """The password of `admin`, `demo` or `service`; made once per cloud."""
    file = STATE / "passwords.json"
    if not file.exists():
        file.touch(0o600)
        file.write_text(json.dumps({name: secrets.token_urlsafe(18) for name in ("admin", "demo", "service")}))
    made: dict[str, str] = json.loads(file.read_text())
    return made[who]


def database(name: str) -> str:
    """The URL of a database; reached by socket, inside the cloud only."""
    return f"mysql+pymysql://root@localhost/{name}?unix_socket={DATABASE_SOCKET}"


def write(path: str, sections: Mapping[str, Options]) -> None:
    """An INI file, readable by root only because it holds passwords."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(0o600)
    file.write_text("\n".join(f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items()) for name, options in sections.items()))


def account(user: str) -> Options:
    """How a service shows who it is to another."""
    return {
        "auth_type": "password", "auth_url": AUTH_URL, "username": user, "password": password("service"), "project_name": "service",
        "project_domain_name": "Default", "user_domain_name": "Default", "region_name": REGION,
    }  # fmt: skip


def tokens(user: str) -> Options:
    """How a service checks the tokens it is shown."""
    return {**account(user), "www_authenticate_uri": AUTH_URL, "service_token_roles_required": True}


def pool(name: str) -> Options:
    return {"connection": database(name), "max_pool_size": 5, "max_overflow": 20}


def write_control_plane() -> None:
    """The files of Keystone, Placement, Glance, Nova and Neutron; and the folders they name."""
    for folder in ("glance/images", "glance/staging", "glance/tasks", "nova", "neutron", "keystone", "log"):
        (STATE / folder).mkdir(parents=True, exist_ok=True)
    write("/etc/keystone/keystone.conf", {
        "database": pool("keystone"),
        "token": {"provider": "fernet", "expiration": 86400},
        "fernet_tokens": {"key_repository": STATE / "keystone/fernet"},
        "fernet_receipts": {"key_repository": STATE / "keystone/fernet"},
        "credential": {"key_repository": STATE / "keystone/credential"},
        "identity": {"password_hash_rounds": 4},
    })  # fmt: skip
    write("/etc/placement/placement.conf", {
        "api": {"auth_strategy": "keystone"},
        "placement_database": pool("placement"),
        "keystone_authtoken": tokens("placement"),
    })  # fmt: skip
    write("/etc/glance/glance-api.conf", {
        "DEFAULT": {"enabled_backends": "fs:file"},
        "database": pool("glance"),
        "glance_store": {"default_backend": "fs"},
        "fs": {"filesystem_store_datadir": STATE / "glance/images"},
        "os_glance_staging_store": {"filesystem_store_datadir": STATE / "glance/staging"},
        "os_glance_tasks_store": {"filesystem_store_datadir": STATE / "glance/tasks"},
        "paste_deploy": {"flavor": "keystone", "config_file": "/etc/glance/glance-api-paste.ini"},
        "keystone_authtoken": tokens("glance"),
    })  # fmt: skip
    write("/etc/nova/nova.conf", {
        "DEFAULT": {
            "transport_url": RABBIT, "my_ip": "127.0.0.1", "state_path": STATE / "nova", "osapi_compute_workers": 1,
            "ram_allocation_ratio": 10, "disk_allocation_ratio": 10,
            # servers that ran before the machine went down run again after it
            "resume_guests_state_on_host_boot": True,
            "vif_plugging_is_fatal": True, "vif_plugging_timeout": 300,
            # the image is QCOW2 and stays so: five hypervisors converting it at once cost more than reading it
            "force_raw_images": False,
        },
        "api": {"auth_strategy": "keystone"},
        "api_database": pool("nova_api"),
        "database": pool("nova"),
        "conductor": {"workers": 1},
        # servers of one strict anti-affinity group that are created at once race in Nova: it tries the next host, if it may
        "scheduler": {"workers": 1, "max_attempts": 12},
        "filter_scheduler": {
            "enabled_filters": "ComputeFilter,ComputeCapabilitiesFilter,ImagePropertiesFilter,ServerGroupAntiAffinityFilter,ServerGroupAffinityFilter",
            # those with little room first: see ROOM
            "cpu_weight_multiplier": -10,
        },
        "oslo_concurrency": {"lock_path": STATE / "nova/lock"},
        "vnc": {"enabled": False},
        "glance": {"api_servers": "http://127.0.0.1:9292"},
        "neutron": {**account("neutron"), "service_metadata_proxy": False},
        "placement": account("placement"),
        "service_user": {**account("nova"), "send_service_user_token": True},
        "keystone_authtoken": tokens("nova"),
        # throw-away servers: no fsync; QEMU's translation cache is 1 GiB each unless it is told otherwise
        "libvirt": {"cpu_mode": "none", "disk_cachemodes": "file=unsafe", "tb_cache_size": 128, "mem_stats_period_seconds": 0},
    })  # fmt: skip
    # one request after the other: see ROOM
    write(SCHEDULER, {"DEFAULT": {"executor_thread_pool_size": 1}})
    write("/etc/neutron/neutron.conf", {
        "DEFAULT": {
            "core_plugin": "ml2", "service_plugins": "ovn-router", "transport_url": RABBIT, "state_path": STATE / "neutron",
            "api_paste_config": "/etc/neutron/api-paste.ini", "api_workers": 1, "rpc_workers": 0, "rpc_state_report_workers": 0,
            "dhcp_agent_notification": False, "notify_nova_on_port_status_changes": True, "notify_nova_on_port_data_changes": True,
            "max_allowed_address_pair": 64,
        },
        "database": pool("neutron"),
        "oslo_concurrency": {"lock_path": STATE / "neutron/lock"},
        "nova": account("nova"),
        "placement": account("placement"),
        "keystone_authtoken": tokens("neutron"),
    })  # fmt: skip
    write("/etc/neutron/ml2_conf.ini", {
        "ml2": {
            "mechanism_drivers": "ovn", "type_drivers": "flat,geneve", "tenant_network_types": "geneve", "extension_drivers": "port_security",
            "overlay_ip_version": 4,
        },
        "ml2_type_geneve": {"vni_ranges": "1:65536", "max_header_size": 38},
        "ml2_type_flat": {"flat_networks": "public"},
        "securitygroup": {"enable_security_group": True},
        "ovn": {"ovn_nb_connection": OVN_NB, "ovn_sb_connection": OVN_SB, "ovn_metadata_enabled": False, "ovsdb_connection_timeout": 60},
    })  # fmt: skip
    for source, target in (("glance/glance-api-paste.ini", "glance"), ("nova/api-paste.ini", "nova"), ("neutron/api-paste.ini", "neutron")):
        shutil.copy(VENV / "etc" / source, Path("/etc") / target)


def write_compute(node: str, virt_type: str) -> str:
    """What differs between the hypervisors; returns the file's path. Each has a state of its own: Nova keeps the node's identity there."""
    path, state = f"/etc/nova/{node}.conf", STATE / "nova" / node
    (state / "instances").mkdir(parents=True, exist_ok=True)
    # in servers of one virtual CPU; the half keeps what is rounded on the way above the whole number
    ratio = (ROOM.get(node, 1) + 0.5) / (os.cpu_count() or 1)
    helper = f"{VENV}/bin/privsep-helper --config-file /etc/nova/nova.conf --config-file {path}"
    write(path, {
        "DEFAULT": {
            "host": node, "state_path": state, "instances_path": state / "instances", "compute_driver": "libvirt.LibvirtDriver",
            "cpu_allocation_ratio": round(ratio, 4),
        },
        "libvirt": {"virt_type": virt_type, "connection_uri": f"qemu+unix:///system?socket=/run/libvirt-{node}/libvirt-sock"},
        "os_vif_ovs": {"ovsdb_connection": f"unix:/run/ovs/{node}/db.sock"},
        # os-vif makes the tap itself: its privileged half has to run in the hypervisor's network namespace
        "vif_plug_ovs_privileged": {"helper_command": f"ip netns exec {node} {helper}"},
        "nova_sys_admin": {"helper_command": helper},
    })  # fmt: skip
    return path


def make_keys() -> None:
    """The operator's key and the bastion's host key, made once per cloud."""
    folder = STATE / "keys"
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("operator", "bastion"):
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)


def write_clouds() -> None:
    """clouds.yaml: the tenant's for the host (`local`), and inside the operator's too (`admin`). YAML takes JSON."""

    def entry(user: str) -> dict[str, object]:
        auth = {
            "auth_url": AUTH_URL, "username": user, "password": password(user), "project_name": user,
            "user_domain_name": "Default", "project_domain_name": "Default",
        }  # fmt: skip
        return {"region_name": REGION, "auth": auth}

    tenant = {"local": entry("demo")}
    for path, clouds in ((STATE / "clouds.yaml", tenant), (Path("/etc/openstack/clouds.yaml"), {**tenant, "admin": entry("admin")})):
        path.parent.mkdir(exist_ok=True)
        path.touch(0o600)
        path.write_text(json.dumps({"clouds": clouds}, indent=2) + "\n")
