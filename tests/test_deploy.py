"""Files for Docker, Prometheus and Kubernetes: what they name exists, and their commands are taken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hermes3.server.app import create_app
from hermes3.server.limits import Limits
from hermes3.server.settings import PREFIX, Settings
from tests.cli.program import inside
from tests.llm.fakes import fake_llm

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
KUBERNETES = {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
POD = KUBERNETES["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]
PORT = Settings.model_fields["port"].default


@pytest.fixture(scope="module")
def paths() -> set[str]:
    llm, _ = fake_llm()
    with llm:
        return {getattr(route, "path", "") for route in create_app(llm).routes}


@pytest.mark.parametrize("words", [COMPOSE["services"]["hermes3"]["command"], CONTAINER["args"], ["serve"]])
def test_commands_are_taken(words: list[str]) -> None:
    done = inside(*words, "--print-config")
    assert done.returncode == 0, done.stderr


def test_probes_ask_for_routes_that_exist(paths: set[str]) -> None:
    probes = {name: CONTAINER[name]["httpGet"] for name in CONTAINER if name.endswith("Probe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/health", "readinessProbe": "/ready", "livenessProbe": "/health",
    }  # fmt: skip
    assert {"/health", "/ready", "/metrics"} <= paths
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {ports[probe["port"]] for probe in probes.values()} == {PORT}
    assert KUBERNETES["Service"]["spec"]["ports"][0]["port"] == PORT


def test_answers_have_time_to_end() -> None:
    grace = POD["spec"]["terminationGracePeriodSeconds"]
    assert grace > Limits().drain_s
    assert int(COMPOSE["services"]["hermes3"]["stop_grace_period"].removesuffix("s")) > Limits().drain_s


def test_labels_volumes_and_secrets_meet() -> None:
    assert POD["metadata"]["labels"].items() >= KUBERNETES["Service"]["spec"]["selector"].items()
    volumes = {volume["name"] for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    claims = [each["persistentVolumeClaim"] for each in POD["spec"]["volumes"] if "secret" not in each]
    assert claims == [{"claimName": KUBERNETES["PersistentVolumeClaim"]["metadata"]["name"]}]
    for service in COMPOSE["services"].values():
        assert set(service["secrets"]) <= set(COMPOSE["secrets"])


def test_prometheus_asks_the_server_under_a_name_that_it_answers_to(paths: set[str]) -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"]
    host, _, port = job["static_configs"][0]["targets"][0].partition(":")
    words: list[Any] = COMPOSE["services"]["hermes3"]["command"]
    assert host in COMPOSE["services"]
    assert words[words.index("--allowed-host") + 1] == host
    assert (int(port), job["metrics_path"] in paths) == (PORT, True)


def test_the_image_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    known = {"FROM", "RUN", "WORKDIR", "COPY", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL"}
    assert {line.split()[0] for line in lines} <= known | {"ENTRYPOINT", "CMD"}
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    sources = [name for names in copies for name in names]
    assert sources
    assert all((ROOT / name).exists() for name in sources)
    names = re.findall(rf"{PREFIX}(\w+)=", text)
    assert names == ["HOME", "HOST"]
    assert f"EXPOSE {PORT}" in lines
