"""What stands in deploy/ fits the gateway: names, ports, paths, probes, and the time that a drain takes."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from aigw_anyio.admin import AdminState, respond
from aigw_anyio.lifecycle import STOP_SLACK_SECS
from aigw_anyio.settings import Settings, load_settings
from aigw_anyio.sinks import StdoutSink
from tests.core.driver import make_gateway
from tests.sources import ROOT

DEPLOY: Final = ROOT / "deploy"
DOCKER, KUBERNETES, SYSTEMD = DEPLOY / "docker", DEPLOY / "kubernetes", DEPLOY / "systemd"
USER: Final = 65532
STATE: Final = "/var/lib/aigw"
Yaml = Any
"""YAML of many shapes."""


@dataclass
class Deployment:
    """One way to run the gateway, as far as its settings are concerned."""

    name: str
    config: str
    environ: dict[str, str]
    writable: list[str]
    """Directories that outlive the process."""
    ports: dict[str, int] = field(default_factory=dict)
    """``data`` and ``admin``, as the surroundings know them."""
    stop_secs: float | None = None
    """What the surroundings wait for after SIGTERM; None where they are told."""

    def state(self, folder: Path) -> Path:
        """What stands for STATE."""
        return folder / "state"

    def load(self, folder: Path) -> tuple[Settings, list[str]]:
        """With its key files and its state directory in place."""
        state = self.state(folder)
        state.mkdir()
        config = folder / "aigw.toml"
        config.write_text(self.config.replace(STATE, str(state)))
        environ = dict(self.environ)
        for variable in environ:
            if variable.endswith("_FILE"):
                environ[variable] = str(folder / "key")
                (folder / "key").write_text("a-pool-key\n")
        return load_settings(config=config, environ=environ)


def compose() -> Yaml:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def kubernetes() -> dict[str, Yaml]:
    """The objects of the manifest by their kind."""
    objects = list(yaml.safe_load_all((KUBERNETES / "aigw.yaml").read_text()))
    found = {each["kind"]: each for each in objects}
    assert len(found) == len(objects)
    return found


def pod() -> Yaml:
    return kubernetes()["StatefulSet"]["spec"]["template"]["spec"]


def unit() -> list[tuple[str, str]]:
    """Every assignment of the systemd unit."""
    lines = (SYSTEMD / "aigw.service").read_text().splitlines()
    return [
        (name, value) for name, equals, value in (line.partition("=") for line in lines) if equals and name[0] != "#"
    ]


def _secs(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None
    return float(found[1])


def _assignments(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def _docker() -> Deployment:
    service = compose()["services"]["gateway"]
    published = [int(port.rpartition(":")[2]) for port in service["ports"]]
    named = [volume.split(":")[1] for volume in service["volumes"] if not volume.endswith(":ro")]
    return Deployment(
        "docker",
        (DOCKER / "aigw.toml").read_text(),
        service["environment"],
        named,
        dict(zip(("data", "admin"), published, strict=True)),
        _secs(service["stop_grace_period"]),
    )


def _kubernetes() -> Deployment:
    (container,) = pod()["containers"]
    return Deployment(
        "kubernetes",
        kubernetes()["ConfigMap"]["data"]["aigw.toml"],
        {entry["name"]: entry["value"] for entry in container["env"]},
        [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")],
        {port["name"]: port["containerPort"] for port in container["ports"]},
        pod()["terminationGracePeriodSeconds"],
    )


def _systemd() -> Deployment:
    state = [f"/var/lib/{value}" for name, value in unit() if name == "StateDirectory"]
    environ = _assignments((SYSTEMD / "aigw.env").read_text())
    return Deployment("systemd", (SYSTEMD / "aigw.toml").read_text(), environ, state)


DEPLOYMENTS: Final = [_docker(), _kubernetes(), _systemd()]
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d.name)


# Settings


@each_deployment
def test_every_name_is_a_setting(deployment: Deployment, tmp_path: Path) -> None:
    """Unknown names would be refused in the file, and warned about in the environment."""
    _, warnings = deployment.load(tmp_path)
    assert warnings == ["signing_keys: is empty, so every virtual key is refused; BYO works"]


def test_a_name_that_is_no_setting_would_be_noticed(tmp_path: Path) -> None:
    deployment = Deployment("wrong", "", {"AI_POOL_KEY_OPENAY_FILE": "x", "AI_NATS_ULR": "x"}, [])
    assert len(deployment.load(tmp_path)[1]) == 2


@each_deployment
def test_ports_are_those_that_the_surroundings_know(deployment: Deployment, tmp_path: Path) -> None:
    settings, _ = deployment.load(tmp_path)
    if deployment.ports:
        assert deployment.ports == {"data": settings.listen_addr.port, "admin": settings.metrics_listen.port}


@each_deployment
def test_what_the_gateway_writes_outlives_it(deployment: Deployment, tmp_path: Path) -> None:
    settings, _ = deployment.load(tmp_path)
    written = [path for path in (settings.spool_dir, settings.snapshot_path) if path is not None]
    assert settings.spool_dir is not None
    for path in written:
        there = Path(path.replace(str(deployment.state(tmp_path)), STATE))
        assert any(there.is_relative_to(directory) for directory in deployment.writable), path


@each_deployment
def test_a_drain_is_waited_for(deployment: Deployment, tmp_path: Path) -> None:
    settings, _ = deployment.load(tmp_path)
    if deployment.stop_secs is not None:
        needed = settings.shutdown_delay_secs + settings.shutdown_grace_secs + STOP_SLACK_SECS
        assert needed <= deployment.stop_secs <= needed + 60


# systemd


def test_the_unit_speaks_with_the_gateway() -> None:
    service = dict(unit())
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert float(service["WatchdogSec"]) > 0
    # What has the command line refused, or the configuration, is refused again.
    assert service["RestartPreventExitStatus"] == "2"
    assert service["KillMode"] == "mixed"


def test_commands_and_files_of_the_unit() -> None:
    service = dict(unit())
    assert service["ExecStart"].split()[1:] == ["-m", "aigw_asyncio", "--config", "/etc/aigw/aigw.toml"]
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    text = (DEPLOY.parent / "docs" / "how-to" / "run-under-systemd.md").read_text()
    for path in SYSTEMD.iterdir():
        assert path.name in text, "the how-to says where it goes"
    assert service["EnvironmentFile"].removeprefix("-") in text
    assert f"u {service['User']} " in (SYSTEMD / "aigw.conf").read_text()


# Docker


def dockerfile() -> list[tuple[str, str]]:
    """Instruction and its argument, continuation lines joined."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def _of(instruction: str) -> list[str]:
    return [argument for word, argument in dockerfile() if word == instruction]


def test_the_image_runs_the_gateway_as_nobody_in_particular() -> None:
    assert _of("USER") == [f"{USER}:{USER}"]
    (entry,) = _of("ENTRYPOINT")
    assert yaml.safe_load(entry) == ["python", "-m", "aigw_asyncio"]
    (expose,) = _of("EXPOSE")
    defaults, _ = load_settings(config=None, environ={})
    assert [int(port) for port in expose.split()] == [defaults.listen_addr.port, defaults.metrics_listen.port]
    names = set(re.findall(r"\b(AI_\w+)=", " ".join(_of("ENV"))))
    assert names <= {f"AI_{name.upper()}" for name in Settings.model_fields}
    assert all(
        f"--owner={USER}" in line and "/var/lib/aigw" in line for line in _of("RUN") if line.startswith("install ")
    )


def test_the_image_runs_a_python_that_the_project_supports() -> None:
    (image,) = [argument.partition("=")[2] for argument in _of("ARG") if argument.startswith("PYTHON=")]
    version = re.match(r"python:(3\.\d+)-slim", image)
    assert version is not None
    assert f"Programming Language :: Python :: {version[1]}" in (ROOT / "pyproject.toml").read_text()


def allowed_into_the_build() -> Iterator[Path]:
    """What the ignore file lets through, relative to the source tree."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert rules[-1] == "**/__pycache__"
    for rule in rules[1:-1]:
        assert rule.startswith("!")
        assert (ROOT / rule[1:]).exists(), rule
        yield Path(rule[1:])


def test_the_build_sees_the_packages_and_nothing_more() -> None:
    assert [path.name for path in allowed_into_the_build()] == [
        "aigw_core",
        "aigw_anyio",
        "aigw_asyncio",
        "aigw_trio",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    ]


def test_compose_is_as_tight_as_the_image() -> None:
    service = compose()["services"]["gateway"]
    assert (ROOT / "deploy" / "docker" / service["build"]["context"]).resolve() == ROOT
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert service["user"] == f"{USER}:{USER}"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    mounted = {entry for entry in service["environment"].values() if entry.startswith("/run/secrets/")}
    assert mounted == {f"/run/secrets/{name}" for name in service["secrets"]}
    assert set(service["secrets"]) == set(compose()["secrets"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        assert (DOCKER / source).is_file() if source.startswith("./") else source in compose()["volumes"]
    assert all(str(port).startswith("127.0.0.1:") for port in service["ports"]), "nothing is published to the network"


def test_the_health_check_of_compose_is_a_program() -> None:
    _, interpreter, option, program = compose()["services"]["gateway"]["healthcheck"]["test"]
    assert (interpreter, option) == ("python", "-c")
    compile(program, "healthcheck", "exec")
    assert f":{_docker().ports['admin']}/readyz" in program


# Kubernetes


def test_the_manifest_fits_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    program = shutil.which("kubernetes-validate")
    if program is None:
        pytest.skip("kubernetes-validate is not installed: the manifest is read, and not held against the schemas")

    def problems(manifest: Path) -> str:
        done = subprocess.run([program, "--strict", manifest], capture_output=True, text=True, check=False, timeout=60)
        assert "statefulset/aigw" in done.stdout + done.stderr
        return "" if done.returncode == 0 else done.stdout + done.stderr

    assert problems(KUBERNETES / "aigw.yaml") == ""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text((KUBERNETES / "aigw.yaml").read_text().replace("readOnlyRootFilesystem", "readOnlyRootFileSystem"))
    assert "readOnlyRootFileSystem" in problems(wrong)


def test_objects_of_the_manifest() -> None:
    assert set(kubernetes()) == {"ConfigMap", "StatefulSet", "Service", "PodDisruptionBudget", "NetworkPolicy"}
    labels = {"app.kubernetes.io/name": "aigw"}
    objects = kubernetes()
    assert [each["metadata"]["labels"] for each in objects.values()] == [labels] * len(objects)
    stateful = objects["StatefulSet"]["spec"]
    assert stateful["selector"]["matchLabels"] == stateful["template"]["metadata"]["labels"] == labels
    assert objects["Service"]["spec"]["selector"] == labels
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        selector = objects[kind]["spec"].get("selector") or objects[kind]["spec"]["podSelector"]
        assert selector["matchLabels"] == labels
    assert stateful["serviceName"] == objects["Service"]["metadata"]["name"]


def test_ports_are_named_alike() -> None:
    objects, ports = kubernetes(), set(_kubernetes().ports)
    named = {port["targetPort"] for port in objects["Service"]["spec"]["ports"]}
    named |= {port["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    (container,) = pod()["containers"]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert named | {probe["port"] for probe in probes} == ports
    assert {probe["port"] for probe in probes} == {"admin"}


def test_probes_ask_what_is_there() -> None:
    state = AdminState(make_gateway(), StdoutSink(1), "test", now=lambda: 0.0, is_listening=True)
    (container,) = pod()["containers"]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    # Who cannot be ready, since NATS is away or it drains, must not be killed for it.
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    assert (respond("GET", paths["liveness"])[0], state.ready_at(100.0)[0]) == (200, 200)


def test_the_gateway_accepts_until_it_is_out_of_the_service() -> None:
    readiness = pod()["containers"][0]["readinessProbe"]
    noticed = (readiness["periodSeconds"] + readiness["timeoutSeconds"]) * readiness["failureThreshold"]
    found = re.search(r"^shutdown_delay_secs = (\d+)$", _kubernetes().config, re.MULTILINE)
    assert found is not None
    assert int(found[1]) >= noticed + 5, "and a while for the routing to follow"


def test_the_pod_is_as_tight_as_the_image() -> None:
    context, (container,) = pod()["securityContext"], pod()["containers"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["runAsGroup"]) == (True, USER, USER)
    assert context["fsGroup"] == USER, "the volume and the Secret can be read"
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    # The addresses of every Service would come as variables, those of one called ai under our own prefix.
    assert pod()["enableServiceLinks"] is False


def test_volumes_and_mounts_belong_together() -> None:
    (container,) = pod()["containers"]
    claims = [claim["metadata"]["name"] for claim in kubernetes()["StatefulSet"]["spec"]["volumeClaimTemplates"]]
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {*claims, *volumes}
    assert volumes["config"]["configMap"]["name"] == kubernetes()["ConfigMap"]["metadata"]["name"]
    assert container["args"] == ["--config", f"{mounts['config']}/aigw.toml"]
    for entry in container["env"]:
        assert Path(entry["value"]).parent == Path(mounts["pool-keys"])
    text = (KUBERNETES / "aigw.yaml").read_text()
    made = shlex.split(next(line for line in text.splitlines() if "create secret" in line).lstrip("# "))
    assert volumes["pool-keys"]["secret"]["secretName"] in made
    files = {Path(entry["value"]).name for entry in container["env"]}
    assert {word.removeprefix("--from-file=") for word in made if word.startswith("--from-file=")} == files


def test_the_image_has_the_version_of_the_project() -> None:
    (container,) = pod()["containers"]
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert container["image"] == f"aigw:{version[1]}"
