"""The Kubernetes manifests: valid by the schemas of Kubernetes, and the same processes as those of the compose file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from service.jobs.rq_jobs import QUEUE
from service.settings import Settings
from tests.support.images import COMPOSE, ROOT, environment, instructions_of, variables

DIRECTORY = ROOT / "deploy" / "kubernetes"
VERSION = kubernetes_validate.latest_version()
OTHER_SCHEMAS = {"Kustomization", "ScaledJob"}
WORKLOADS = {"api": "api", "worker-cpu": "worker", "worker-gpu": "worker"}  # workload -> service of the compose file


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(DIRECTORY.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name} {document['kind']} {document.get('metadata', {}).get('name', '')}".strip(), document


def found(kind: str, name: str) -> dict[str, Any]:
    [document] = [each for _, each in documents() if each["kind"] == kind and each["metadata"]["name"] == name]
    return document


def pod(name: str) -> dict[str, Any]:
    """The pod template's spec of a workload."""
    kind = {"worker-gpu": "ScaledJob", "valkey": "StatefulSet"}.get(name, "Deployment")
    spec = found(kind, name)["spec"]
    template: dict[str, Any] = (spec["jobTargetRef"] if kind == "ScaledJob" else spec)["template"]
    return dict(template["spec"])


def container(name: str) -> dict[str, Any]:
    [only] = pod(name)["containers"]
    assert isinstance(only, dict)
    return only


def is_valid(document: dict[str, Any]) -> bool:
    """Whether the schemas of Kubernetes have every field of the document."""
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "document", [pytest.param(each, id=name) for name, each in documents() if each["kind"] not in OTHER_SCHEMAS]
)
def test_manifests_are_valid(document: dict[str, Any]) -> None:
    assert is_valid(document)
    assert not is_valid(document | {"replica": 1})


def test_the_job_of_the_gpu_workers_is_valid() -> None:
    spec = found("ScaledJob", "worker-gpu")["spec"]["jobTargetRef"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "worker-gpu"}, "spec": spec}
    assert is_valid(job)
    assert not is_valid(job | {"spec": spec | {"backofLimit": 0}})


def test_the_kustomization_names_every_manifest() -> None:
    kustomization = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())
    others = {path.name for path in DIRECTORY.glob("*.yaml")} - {"kustomization.yaml", "secrets.example.yaml"}
    assert set(kustomization["resources"]) == others
    images = {image["name"] for image in kustomization["images"]}
    assert images == {container(name)["image"] for name in WORKLOADS}


@pytest.mark.parametrize("name", WORKLOADS)
def test_processes_have_the_variables_of_the_compose_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, secret = found("ConfigMap", "taskslim")["data"], found("Secret", "taskslim")["stringData"]
    own = {entry["name"]: entry for entry in container(name)["env"]}
    assert container(name)["envFrom"] == [{"configMapRef": {"name": "taskslim"}}]
    assert {*shared, *own} == set(environment(WORKLOADS[name]))
    for variable, entry in own.items():
        if "value" not in entry:
            assert entry["valueFrom"]["secretKeyRef"] == {"name": "taskslim", "key": variable}
            assert variable in secret
    settings = shared | {variable: entry["value"] for variable, entry in own.items() if "value" in entry}
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    fields = {f"SLIM_{field.upper()}" for field in Settings.model_fields}
    assert {variable for variable in settings if variable.startswith("SLIM_")} <= fields
    Settings()


@pytest.mark.parametrize("name", [*WORKLOADS, "valkey"])
def test_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    assert pod(name)["securityContext"]["runAsNonRoot"]
    assert not pod(name)["automountServiceAccountToken"]
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", WORKLOADS)
def test_processes_can_write_where_their_images_do(name: str) -> None:
    mounts = {mount["mountPath"] for mount in container(name)["volumeMounts"]}
    image = "service" if name == "api" else "worker"
    assert mounts == {"/tmp", variables(image)["SLIM_STATE"]}


@pytest.mark.parametrize("name", ["worker-cpu", "worker-gpu"])
def test_stopped_workers_have_time_to_hand_their_job_back(name: str) -> None:
    assert pod(name)["terminationGracePeriodSeconds"] > Settings().cancel_grace_seconds
    assert f"{pod(name)['terminationGracePeriodSeconds']}s" == COMPOSE["worker"]["stop_grace_period"]


def test_workers_are_alive_by_the_health_check_of_their_image() -> None:
    [check] = [each.text for each in instructions_of("worker") if each.name == "HEALTHCHECK"]
    assert container("worker-cpu")["livenessProbe"]["exec"]["command"][-1] in check


def test_valkey_has_the_options_of_the_compose_file() -> None:
    assert container("valkey")["args"] == COMPOSE["valkey"]["command"]
    assert container("valkey")["image"] == COMPOSE["valkey"]["image"]


def test_gpu_workers_are_started_by_the_length_of_the_queue() -> None:
    [trigger] = found("ScaledJob", "worker-gpu")["spec"]["triggers"]
    address = found("ConfigMap", "taskslim")["data"]["SLIM_REDIS_URL"]
    assert trigger["metadata"]["listName"] == f"rq:queue:{QUEUE}"
    assert address == "redis://valkey:6379/0"
    assert trigger["metadata"]["address"].startswith("valkey.")
    assert trigger["metadata"]["databaseIndex"] == address.rpartition("/")[2]


def test_the_readme_names_every_manifest() -> None:
    text = (DIRECTORY / "README.md").read_text()
    hidden = {"kustomization.yaml", "namespace.yaml", "secrets.example.yaml"}
    assert all(f"`{path.name}`" in text for path in Path(DIRECTORY).glob("*.yaml") if path.name not in hidden)
