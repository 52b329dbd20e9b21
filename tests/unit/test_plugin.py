"""The component plugin: its arguments are the model's keys, it makes what the program makes, and a program in YAML uses it with the real engine."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.errors import InputPropertiesError
from pulumi.provider import ConstructResult
from pulumi.provider.experimental.util import camel_case
from pulumi.provider.server import ComponentInitError

from components.configuration import Cluster, Network
from components.configuration.errors import keys_of, sections_of
from lab.nodes.stack import describe
from lab.phases import Phases
from lab.pulumi import engine
from lab.stack import PROJECT
from plugin import arguments
from plugin.cluster import Endpoint, Node
from plugin.provider import Provider
from tests.unit.conftest import GOLDEN, with_password
from tests.unit.recording import Deploy, Deployment
from tests.unit.test_program import PASSWORD, PRIVATE_KEY, PUBLIC_KEY, SEED, existing
from tests.unit.test_program import run as run_program

WITHOUT_ARGUMENT: dict[str, str] = {}
"""Keys of the model that are no argument (`SECTION.KEY`), and why."""

PLUGIN = PROJECT / "plugin"
PROVIDER = Provider()
SCHEMA: dict[str, Any] = json.loads(str(PROVIDER.schema))
TYPES: dict[str, dict[str, Any]] = SCHEMA["types"]
ARGUMENTS = {name: described["properties"] for name, described in TYPES.items()} | {
    name: described["inputProperties"] for name, described in SCHEMA["resources"].items()
}
"""The arguments by type; those of the component itself are the sections of the cluster."""


KEYS = sorted({(section.__name__, key) for section in sections_of(Cluster) for key in keys_of(section)})


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_of_the_model_is_an_argument(section: str, key: str) -> None:
    name = "Check" if section.endswith("Check") else section
    described = camel_case(key) in ARGUMENTS[f"openshift-lvs:index:{name}"]
    assert described != (f"{section}.{key}" in WITHOUT_ARGUMENT), (
        f"{section}.{key}: is no argument; teach plugin/arguments.py its type, or give the reason here"
    )


def test_what_the_model_says_of_a_key_is_in_the_schema() -> None:
    assert ARGUMENTS["openshift-lvs:index:Cluster"]["protect"]["description"] == Cluster.model_fields["protect"].description
    assert ARGUMENTS["openshift-lvs:index:Network"]["existing"]["description"] == Network.model_fields["existing"].description


def in_schema(data: Any, free: bool = False) -> Any:
    """A stack's configuration as a program gives it to the component, and the engine to the plugin: camelCase, every number a float."""
    if isinstance(data, Mapping):
        return {key if free else camel_case(key): in_schema(value, free or key == "cloud_config") for key, value in data.items()}
    if isinstance(data, list):
        return [in_schema(value, free) for value in data]
    return float(data) if type(data) is int else data


def given(data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The arguments of the component for that cluster: a host is a mapping, and text is text."""
    for pool in data["pools"].values():
        pool["hosts"] = {name: {"address": host} if isinstance(host, str) else host for name, host in pool["hosts"].items()}
    return {**in_schema(data), "sshPrivateKey": pulumi.Output.secret(PRIVATE_KEY), **more}


def construct(inputs: dict[str, Any]) -> ConstructResult:
    """The component, made as the engine asks for it."""
    return PROVIDER.construct("cluster", "openshift-lvs:index:Cluster", inputs)


def make(deploy: Deploy, inputs: dict[str, Any], into: Deployment | None = None) -> Deployment:
    """The component on a cloud and nodes that only record; `returned` holds its outputs."""
    return deploy(lambda: construct(inputs).state, into=into)


@pytest.mark.parametrize("stack", sorted(GOLDEN.glob("Pulumi.*.yaml")), ids=lambda path: path.name)
def test_the_arguments_carry_every_configuration_to_the_model(stack: Path) -> None:
    data = yaml.safe_load(stack.read_text())["config"]["openshift-lvs:cluster"]
    mapped = PROVIDER.map_inputs(given(json.loads(json.dumps(data))), PROVIDER._component_defs["Cluster"])
    assert Cluster.parse(arguments.to_model(mapped)) == Cluster.parse(data)


def test_the_example_is_the_cluster_of_the_labs_nodes() -> None:
    properties = yaml.safe_load((PLUGIN / "example" / "Pulumi.yaml").read_text())["resources"]["cluster"]["properties"]
    del properties["ssh"]
    for pool in properties["pools"].values():
        for host in pool["hosts"].values():
            host["hostKey"] = PUBLIC_KEY
    mapped = PROVIDER.map_inputs(properties, PROVIDER._component_defs["Cluster"])
    assert arguments.to_model(mapped) == {key: value for key, value in describe(22, lambda name: PUBLIC_KEY).items() if key != "ssh"}


def test_the_component_makes_what_the_program_makes(deploy: Deploy, article: dict[str, Any]) -> None:
    secrets = {"ssh_private_key": PRIVATE_KEY, "host_key_seed": SEED, "auth_pass": json.dumps({"master": PASSWORD})}
    by_program = run_program(deploy, with_password(article), secrets)
    by_plugin = make(deploy, given(article, hostKeySeed=SEED, authPass={"master": pulumi.Output.secret(PASSWORD)}))

    def what(done: Deployment) -> dict[tuple[str, str], Any]:
        return {(each.type, each.name): (each.inputs, each.secrets, done.before(each)) for each in done.resources}

    ours = what(by_plugin)
    assert ours.pop(("openshift-lvs:index:Cluster", "cluster"))
    assert ours == what(by_program)
    assert sorted(by_plugin.looked_up, key=str) == sorted(by_program.looked_up, key=str)
    for output in ("endpoints", "hosts"):
        assert by_plugin.returned[output] == {
            name: {camel_case(key): value for key, value in each.items() if value is not None} for name, each in by_program.returned[output].items()
        }


def test_the_order_in_which_the_engine_hands_a_mapping_over_changes_nothing(deploy: Deploy, article: dict[str, Any]) -> None:
    inputs = given(existing(article))

    def turned(value: Any) -> Any:
        return {key: turned(each) for key, each in reversed(value.items())} if isinstance(value, dict) else value

    first, second = ([each.inputs for each in sorted(make(deploy, given).resources, key=lambda each: each.urn)] for given in (inputs, turned(inputs)))
    assert first == second


def test_everything_is_below_the_component(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, given(article, hostKeySeed=SEED))
    urns = {resource.urn for resource in done.resources}
    assert [resource.name for resource in done.resources if resource.parent not in urns] == ["cluster"]


def test_the_schema_names_every_output(deploy: Deploy, article: dict[str, Any]) -> None:
    article["vips"]["master"]["additional_addresses"] = ["192.168.0.252"]
    outputs = run_program(deploy, article).returned
    for kind, each in ((Endpoint, outputs["endpoints"]["master"]), (Node, outputs["hosts"]["master0"])):
        assert kind.__annotations__.keys() == each.keys()


def test_a_secret_that_the_program_did_not_mark_is_one(deploy: Deploy, article: dict[str, Any]) -> None:
    done = make(deploy, given(with_password(article), hostKeySeed=SEED, sshPrivateKey=PRIVATE_KEY, authPass={"master": PASSWORD}))
    for resource in done.resources:
        for key, value in resource.inputs.items():
            if key not in resource.secrets:
                assert not [secret for secret in (PRIVATE_KEY.splitlines()[2], PASSWORD, SEED) if secret in json.dumps(value)], f"{resource.name}: {key}"


def misc(data: dict[str, Any]) -> dict[str, Any]:
    data["vips"]["master"]["services"][0]["health_check"] = {"type": "misc", "script": "checks/backlog"}
    return existing(data)


def test_the_text_of_a_check_script_is_delivered(deploy: Deploy, article: dict[str, Any]) -> None:
    text = "#!/bin/sh\nexit 0\n"
    done = make(deploy, given(misc(article), checkScripts={"checks/backlog": text}))
    assert "==> checks/backlog 0755\n  #!/bin/sh\n  exit 0\n" in done.of("Command")["deliver-master0"].inputs["stdin"]


def put(data: dict[str, Any]) -> dict[str, Any]:
    data["vips"]["master"]["virtual_router_id"] = 300
    return existing(data)


SET = "give it as the secret argument"


@pytest.mark.parametrize(
    ("change", "more", "says"),
    [
        (put, {}, "vips.master.virtualRouterId: 300: must be a whole number from 1 to 255"),
        (lambda data: data, {}, f"hostKeySeed: missing; the seed of the ssh host keys: {SET} hostKeySeed"),
        (lambda data: data, {"hostKeySeed": "fifteen-letters"}, f"hostKeySeed: has 15 characters and needs at least 16; {SET} hostKeySeed"),
        (
            existing,
            {"sshPrivateKey": "none"},
            "sshPrivateKey: not an OpenSSH private key without a passphrase (Not OpenSSH private key format); ssh-keygen -t ed25519 makes one",
        ),
        (
            existing,
            {"authPass": {"infra": PASSWORD}},
            "authPass.infra: no VIP of that name has `authentication`; remove it or set vips.infra.authentication: PASS",
        ),
        (
            lambda data: existing(with_password(data)),
            {"hostKeySeed": SEED},
            f"authPass.master: missing, and vips.master.authentication is PASS; {SET} authPass.master",
        ),
        (misc, {}, "vips.master.services.0.healthCheck.script: 'checks/backlog' has no text; give it as checkScripts.checks/backlog"),
        (
            existing,
            {"checkScripts": {"etcd": "#!/bin/sh"}},
            "checkScripts.etcd: no health check runs it; remove it, or name it in a health check of type misc",
        ),
        (
            existing,
            {"vips": pulumi.Output.from_input({})},
            "vips: is a secret or an output of a resource; give a value that the program knows before it makes anything",
        ),
    ],
)
def test_a_refusal_names_the_argument_and_comes_before_anything_is_made(
    deploy: Deploy, article: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]], more: dict[str, Any], says: str
) -> None:
    done = Deployment()
    with pytest.raises(InputPropertiesError) as refused:
        make(deploy, given(change(article), **more), done)
    # With the path of a property the engine would print its value.
    assert (refused.value.message, refused.value.errors) == (says, [])
    assert not done.resources and not done.looked_up


def test_a_fault_of_the_plugin_itself_keeps_its_traceback(deploy: Deploy, article: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = given(existing(article))

    def broken(data: object) -> Cluster:
        raise KeyError("none")

    monkeypatch.setattr(Cluster, "parse", broken)
    with pytest.raises(ComponentInitError, match="none"):
        make(deploy, inputs)


def test_the_plugin_ends_without_a_word_when_the_engine_ends_it() -> None:
    with subprocess.Popen([PLUGIN / "pulumi-resource-openshift-lvs", "127.0.0.1:1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as plugin:
        assert plugin.stdout and int(plugin.stdout.readline())
        plugin.send_signal(signal.SIGINT)
        assert plugin.communicate(timeout=60) == ("", "") and plugin.returncode == 0


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the real engine in a copy of the example. Skips where building the engine first would take minutes; the rest takes one."""
    go = engine._go

    def no_engine(module: str, *words: str, note: Phases | None = None) -> str:
        if words[0] == "build" and module != "yaml":
            pytest.skip("no engine has been built here: python -m lab.pulumi build")
        return go(module, *words, note=note)

    monkeypatch.setattr(engine, "_go", no_engine)
    environment = engine.environment(yaml=True) | {"PULUMI_BACKEND_URL": f"file://{tmp_path}", "PULUMI_CONFIG_PASSPHRASE": "test"}
    project = tmp_path / "example"
    shutil.copytree(PLUGIN / "example", project)
    program = project / "Pulumi.yaml"
    program.write_text(program.read_text().replace("openshift-lvs: ../", f"openshift-lvs: {PLUGIN}"))

    def run(*words: str, fails: bool = False, stdin: str = "") -> str:
        command = ["pulumi", *words, "--non-interactive", "--color=never"]
        done = subprocess.run(command, cwd=project, env=environment, input=stdin, text=True, capture_output=True, timeout=240)
        assert (done.returncode != 0) is fails, done.stdout + done.stderr
        return done.stdout + (done.stderr if fails else "")

    run("stack", "init", "test")
    run("config", "set", "--secret", "sshPrivateKey", stdin=PRIVATE_KEY)
    for host in ("master0", "master1", "master2", "infra0", "infra1"):
        run("config", "set", "--path", f"hostKeys.{host}", PUBLIC_KEY)
    run.program = program  # type: ignore[attr-defined]
    return run


def test_the_engine_gets_the_schema_from_the_plugin(example: Any) -> None:
    schema = json.loads(example("package", "get-schema", str(PLUGIN / "pulumi-resource-openshift-lvs")))
    component = schema["resources"]["openshift-lvs:index:Cluster"]
    assert component["isComponent"] and component["requiredInputs"] == ["network", "pools", "sshPrivateKey", "vips"]
    assert {name: kind["properties"].keys() for name, kind in schema["types"].items()} == {name: kind["properties"].keys() for name, kind in TYPES.items()}


def test_a_program_in_yaml_makes_the_example_cluster(example: Any, deploy: Deploy, article: dict[str, Any]) -> None:
    shown = example("preview", "--diff")
    for host in ("master0", "master1", "master2", "infra0", "infra1"):
        assert f"LoadBalancer$command:remote:Command::activate-{host}]" in shown
    assert 'api      : "https://192.168.0.250:8443"' in shown and "takeoverSeconds: 1.036" in shown
    assert PRIVATE_KEY.splitlines()[2] not in shown
    planned = json.loads(example("preview", "--json"))
    delivered = {step["newState"]["urn"].rpartition("::")[2]: step["newState"].get("inputs", {}) for step in planned["steps"]}
    by_program = run_program(deploy, existing(article), {"ssh_private_key": PRIVATE_KEY}).of("Command")
    for host in ("master0", "infra1"):
        assert delivered[f"deliver-{host}"]["stdin"] == by_program[f"deliver-{host}"].inputs["stdin"]


def test_the_engine_shows_a_refusal_without_a_secret_and_without_a_traceback(example: Any) -> None:
    text = example.program.read_text().replace("virtualRouterId: 51", "virtualRouterId: 300")
    example.program.write_text(text)
    shown = example("preview", fails=True)
    assert "has a problem: vips.master.virtualRouterId: 300: must be a whole number from 1 to 255\n" in shown and "Traceback" not in shown
    text = text.replace("virtualRouterId: 300", "virtualRouterId: 51")
    example.program.write_text(text.replace("sshPrivateKey: ${sshPrivateKey}", f"sshPrivateKey: ${{sshPrivateKey}}\n      authPass: {{master: {PASSWORD}}}"))
    shown = example("preview", fails=True)
    assert "has a problem: authPass.master: no VIP of that name has `authentication`" in shown
    assert PASSWORD not in shown and ".py" not in shown
