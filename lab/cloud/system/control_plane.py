"""The control plane in the order of its start; each step can be run again and then changes nothing."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from lab import cache
from lab.cloud.system import configuration
from lab.cloud.system.configuration import DATABASE_SOCKET, STATE, VENV, database
from lab.cloud.system.init import start, status
from lab.phases import wait_for

DATABASES = ["keystone", "placement", "glance", "neutron", "nova_api", "nova", "nova_cell0"]
APIS = {
    "keystone": (5000, "keystone.wsgi.api:application", {"OS_KEYSTONE_CONFIG_FILES": "/etc/keystone/keystone.conf", "OS_KEYSTONE_CONFIG_DIR": "/etc/keystone"}),
    "placement": (8778, "placement.wsgi.api:application", {"OS_PLACEMENT_CONFIG_DIR": "/etc/placement"}),
    "glance": (9292, "glance.wsgi.api:application", {"OS_GLANCE_CONFIG_DIR": "/etc/glance"}),
    "neutron": (9696, "neutron.wsgi.api:application", {"OS_NEUTRON_CONFIG_DIR": "/etc/neutron", "OS_NEUTRON_CONFIG_FILES": "neutron.conf;ml2_conf.ini"}),
    "nova": (8774, "nova.wsgi.osapi_compute:application", {"OS_NOVA_CONFIG_DIR": "/etc/nova"}),
}
GIVE_UP_AFTER = 4
"""A service that ended this many times in a row is not waited for any longer."""


def say(text: str) -> None:
    """What the step is at; the host side shows the last of it when a phase takes long."""
    print(text, flush=True)


def end_of(log: Path) -> str:
    return f"{log} ends:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:])


def wait_for_service(name: str, seen: Callable[[], tuple[bool, str]], deadline_s: float = 180) -> None:
    """Wait until a service does what it is for; not for one that cannot stay alive."""

    def seen_alive() -> tuple[bool, str]:
        if (restarts := status()[name]["restarts"]) > GIVE_UP_AFTER:
            raise RuntimeError(f"{name} ended {restarts} times in a row; {end_of(STATE / 'log' / f'{name}.log')}")
        return seen()

    wait_for(name, seen_alive, deadline_s, note=lambda last: say(f"{name}: {last}"))


def run(*command: str | Path, log: str, **env: str) -> None:
    """Run a command with its output in a log; the error names the log and its end."""
    file = STATE / "log" / f"{log}.log"
    with file.open("a") as out:
        done = subprocess.run([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env})
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed with status {done.returncode}; {end_of(file)}")


def sql(statement: str, *arguments: str) -> str:
    return subprocess.run(
        ["mariadb", "--no-defaults", "--batch", "-S", DATABASE_SOCKET, "-e", statement, *arguments], capture_output=True, text=True, check=True
    ).stdout


def infrastructure() -> None:
    """MariaDB, RabbitMQ and OVN's databases with northd."""
    configuration.write_control_plane()
    configuration.write_clouds()
    configuration.make_keys()
    start_mariadb()
    start_rabbitmq()
    start_ovn()
    wait_for_service("mariadb", lambda: attempt("select 1"))
    wait_for_service("rabbitmq", lambda: listening(5672))


def start_mariadb() -> None:
    data = STATE / "mysql"
    if not (data / "mysql").is_dir():
        run(
            "mariadb-install-db",
            "--no-defaults",
            "--user=mysql",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            log="mariadb-install",
        )
    Path(DATABASE_SOCKET).parent.mkdir(exist_ok=True)
    subprocess.run(["chown", "mysql", Path(DATABASE_SOCKET).parent], check=True)
    # reached by its socket only, inside the cloud
    start(
        "mariadb", "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={DATABASE_SOCKET}", "--skip-networking", "--skip-grant-tables",
        "--skip-log-bin", "--performance-schema=OFF", "--max-connections=400", "--innodb-buffer-pool-size=128M", "--innodb-flush-log-at-trx-commit=2",
        "--character-set-server=utf8mb3", "--collation-server=utf8mb3_general_ci",
    )  # fmt: skip


def start_rabbitmq() -> None:
    # queues need not outlive the cloud: its services declare them again
    home = Path("/run/rabbitmq")
    home.mkdir(exist_ok=True)
    (home / "rabbitmq.conf").write_text("listeners.tcp.1 = 127.0.0.1:5672\nloopback_users.guest = true\nvm_memory_high_watermark.absolute = 512MB\n")
    (home / "advanced.config").write_text("[{kernel,[{inet_dist_use_interface,{127,0,0,1}}]}].\n")
    (home / "enabled_plugins").write_text("[].\n")
    env = {
        "HOME": str(home), "RABBITMQ_NODENAME": "rabbit@localhost", "RABBITMQ_MNESIA_BASE": f"{home}/mnesia", "RABBITMQ_LOG_BASE": str(STATE / "log"),
        "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq", "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config", "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins", "RABBITMQ_SCHEMA_DIR": f"{home}/schema", "RABBITMQ_GENERATED_CONFIG_DIR": f"{home}/config",
        "RABBITMQ_FEATURE_FLAGS_FILE": f"{home}/feature_flags", "RABBITMQ_PID_FILE": f"{home}/pid", "ERL_EPMD_ADDRESS": "127.0.0.1",
        # idle schedulers that spin would take the cores from the servers
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
    }  # fmt: skip
    start("epmd", "epmd", "-address", "127.0.0.1")
    start("rabbitmq", "/usr/lib/rabbitmq/bin/rabbitmq-server", **env)


def start_ovn() -> None:
    for folder in (STATE / "ovn", Path("/run/ovn"), Path("/run/ovs")):
        folder.mkdir(exist_ok=True)
    for name, schema in (("nb", "ovn-nb"), ("sb", "ovn-sb")):
        data = STATE / "ovn" / f"{name}.db"
        if not data.exists():
            run("ovsdb-tool", "create", data, f"/opt/ovn/root/usr/share/ovn/{schema}.ovsschema", log="ovn-create")
        start(f"ovn-{name}", "ovsdb-server", data, f"--remote=punix:/run/ovn/{name}.sock", f"--unixctl=/run/ovn/{name}.ctl", "-vconsole:warn")
    for name in ("nb", "sb"):
        wait_for_service(f"ovn-{name}", functools.partial(socket_made, Path(f"/run/ovn/{name}.sock")))
    start(
        "ovn-northd",
        "ovn-northd",
        f"--ovnnb-db={configuration.OVN_NB}",
        f"--ovnsb-db={configuration.OVN_SB}",
        "--unixctl=/run/ovn/northd.ctl",
        "-vconsole:warn",
    )
    run("ovn-nbctl", f"--db={configuration.OVN_NB}", "init", log="ovn-init")
    run("ovn-sbctl", f"--db={configuration.OVN_SB}", "init", log="ovn-init")


def socket_made(path: Path) -> tuple[bool, str]:
    return path.is_socket(), f"no socket {path}"


def attempt(statement: str) -> tuple[bool, str]:
    try:
        return True, sql(statement)
    except subprocess.CalledProcessError as error:
        return False, error.stderr.strip()


def listening(port: int) -> tuple[bool, str]:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True, "open"
    except OSError as error:
        return False, str(error)


def answering(name: str) -> tuple[bool, str]:
    """Whether an API answers, be it by refusing."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{APIS[name][0]}/", timeout=10) as response:
            return True, str(response.status)
    except urllib.error.HTTPError as error:
        return error.code < 500, str(error)
    except OSError as error:
        return False, str(error)


def schemas() -> None:
    """The tables of every service; made by its own migrations once, from then on from the dump kept beside the state."""
    wanted = cache.digest(STATE / "code/lab/cloud/requirements.txt")
    marker, dump = STATE / "mysql-schema", Path("/opt/schema") / f"{wanted}.sql"
    if marker.exists() and marker.read_text() == wanted:
        return
    for name in DATABASES:
        sql(f"CREATE DATABASE IF NOT EXISTS {name}")
    if not marker.exists() and dump.exists():
        with dump.open() as source:
            subprocess.run(["mariadb", "--no-defaults", "-S", DATABASE_SOCKET], stdin=source, check=True)
    else:
        migrate()
        if not marker.exists():
            with dump.with_suffix(".part").open("w") as target:
                subprocess.run(["mariadb-dump", "--no-defaults", "-S", DATABASE_SOCKET, "--databases", *DATABASES], stdout=target, check=True)
            dump.with_suffix(".part").rename(dump)
    marker.write_text(wanted)


def migrate() -> None:
    def nova() -> None:
        run("nova-manage", "api_db", "sync", log="schema-nova")
        run("nova-manage", "cell_v2", "map_cell0", "--database_connection", database("nova_cell0"), log="schema-nova")
        run("nova-manage", "db", "sync", log="schema-nova")
        if "cell1" not in sql("select name from nova_api.cell_mappings"):
            run(
                "nova-manage",
                "cell_v2",
                "create_cell",
                "--name",
                "cell1",
                "--transport-url",
                configuration.RABBIT,
                "--database_connection",
                database("nova"),
                log="schema-nova",
            )

    jobs = [
        lambda: run("keystone-manage", "db_sync", log="schema-keystone"),
        lambda: run("placement-manage", "db", "sync", log="schema-placement"),
        lambda: run("glance-manage", "db_sync", log="schema-glance"),
        lambda: run("neutron-db-manage", *NEUTRON_FILES, "upgrade", "heads", log="schema-neutron"),
        nova,
    ]
    with concurrent.futures.ThreadPoolExecutor() as together:
        for job in [together.submit(job) for job in jobs]:
            job.result()


NEUTRON_FILES = ["--config-file", "/etc/neutron/neutron.conf", "--config-file", "/etc/neutron/ml2_conf.ini"]


def services() -> None:
    """The APIs and Nova's and Neutron's other processes; the catalogue and the accounts in Keystone."""
    for what in ("fernet_setup", "credential_setup"):
        run("keystone-manage", what, "--keystone-user", "root", "--keystone-group", "root", log="keystone-setup")
    endpoints = [option for kind in ("admin", "internal", "public") for option in (f"--bootstrap-{kind}-url", configuration.AUTH_URL)]
    run(
        "keystone-manage",
        "bootstrap",
        *endpoints,
        "--bootstrap-region-id",
        configuration.REGION,
        log="keystone-setup",
        OS_BOOTSTRAP_PASSWORD=configuration.password("admin"),
    )
    for name, (port, module, env) in APIS.items():
        options = {
            "http-socket": f"127.0.0.1:{port}", "module": module, "master": "true", "processes": 1, "threads": 4, "enable-threads": "true",
            "lazy-apps": "true", "die-on-term": "true", "need-app": "true", "buffer-size": 65535, "add-header": "Connection: close",
            "http-chunked-input": "true", "wsgi-manage-chunked-input": "true", "disable-logging": "true",
            # not uWSGI's but Neutron's, which tells its workers' generations apart by it
            "start-time": "%t",
        }  # fmt: skip
        configuration.write(f"/etc/uwsgi/{name}.ini", {"uwsgi": options})
        # the environment: uWSGI builds os.environ before it reads the file
        start(f"{name}-api", "uwsgi", "--ini", f"/etc/uwsgi/{name}.ini", **env)
    start("neutron-maintenance", "neutron-ovn-maintenance-worker", *NEUTRON_FILES)
    wait_for_service("keystone-api", functools.partial(answering, "keystone"))
    run(VENV / "bin/python", "-m", "lab.cloud.system.accounts", log="accounts")
    # these two end when they cannot log in
    start("nova-conductor", "nova-conductor")
    start("nova-scheduler", "nova-scheduler", "--config-file", "/etc/nova/nova.conf", "--config-file", configuration.SCHEDULER)
    for name in APIS:
        wait_for_service(f"{name}-api", functools.partial(answering, name))
