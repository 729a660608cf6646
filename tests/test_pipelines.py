"""docs/pipelines.md: its script runs with a worker, and other systems accept what it shows for them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from service.cli.demo.server import running_server
from tests.support.documents import ROOT, blocks, read
from tests.support.foreign_packages import environment_with
from tests.support.walkthrough import tiny_llama

PAGE = read("docs/pipelines.md")
SCRIPT, DAG = (block.content for block in blocks(PAGE, "python"))
GITHUB, ARGO = (block.content for block in blocks(PAGE, "yaml"))
CLIENT = str(ROOT / "clients/python")
AIRFLOW = ("apache-airflow-core==3.3.2", "apache-airflow-task-sdk==1.3.2")
RUN_DAG = """
import json, sys
import slim_reviews
run = slim_reviews.slim_reviews().test(run_conf=json.loads(sys.argv[1]))
print("state:", run.state, "order:", [task.task_id for task in slim_reviews.slim_reviews().topological_sort()])
"""
VALIDATE_ARGO = """
import json, sys
from hera.workflows.models import Workflow
given = json.load(sys.stdin)
kept = json.loads(Workflow.model_validate(given).model_dump_json(exclude_none=True, by_alias=True))
assert kept == given, (kept, given)
"""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The variables of a pipeline: a server with a worker, a small model and rows."""
    directory = tmp_path_factory.mktemp("pipelines")
    model = tiny_llama(directory / "model")
    rows = shutil.copy(ROOT / "service/cli/demo/sentiment-calibration.jsonl", directory)
    with running_server(directory / "state") as url:
        variables = {"SLIM_URL": url, "MODEL": model.as_uri(), "ROWS": str(rows), "PYTHONPATH": CLIENT}
        yield os.environ | variables | {"OMP_NUM_THREADS": "1"}


def run_script(directory: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    (directory / "slim.py").write_text(SCRIPT)
    command = [sys.executable, "slim.py"]
    return subprocess.run(command, cwd=directory, env=variables, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_script_downloads_a_model_that_keeps_enough(deployment: Mapping[str, str], tmp_path: Path) -> None:
    """A model with random weights keeps about all of the little that it knows."""
    run = run_script(tmp_path, {**deployment, "FLOOR": "0"})
    assert run.returncode == 0, run.stderr
    assert "51,360 -> 39,072 parameters" in run.stdout
    assert "100% succeeded" in run.stderr
    assert json.loads((tmp_path / "slim/model/config.json").read_text())["intermediate_size"] == 128
    assert not [path for path in (tmp_path / "slim").iterdir() if path.name != "model"]


@pytest.mark.slow
def test_script_stops_the_pipeline(deployment: Mapping[str, str], tmp_path: Path) -> None:
    refused = run_script(tmp_path, {**deployment, "MODEL": "file:///nowhere"})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Refused: " in refused.stderr
    assert "(invalid_model)" in refused.stderr
    away = run_script(tmp_path, {**deployment, "SLIM_URL": "http://127.0.0.1:9", "ROWS": "s3://b/rows.jsonl"})
    assert "NoAnswer: no answer from http://127.0.0.1:9" in away.stderr


def test_workflows_run_the_script_of_the_page() -> None:
    """With the variables that it reads."""
    job = yaml.safe_load(GITHUB)["jobs"]["slim"]
    template = yaml.safe_load(ARGO)["spec"]["templates"][0]
    read_by_script = {"MODEL", "ROWS", "SLIM_URL", "SLIM_API_KEY"}
    assert job["env"].keys() == read_by_script == {each["name"] for each in template["container"]["env"]}
    assert [step["run"] for step in job["steps"] if "run" in step][-1] == "python slim.py"
    assert template["container"]["args"][0].endswith("python /script/slim.py")


@pytest.mark.slow
def test_github_accepts_the_workflow(tmp_path: Path) -> None:
    python = environment_with("check-jsonschema==0.39.0")
    for text, is_valid in ((GITHUB, True), (GITHUB.replace("runs-on", "run-on"), False)):
        (tmp_path / "slim.yml").write_text(text)
        command = [str(python), "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
        run = subprocess.run([*command, str(tmp_path / "slim.yml")], capture_output=True, text=True, check=False)
        assert (run.returncode == 0) is is_valid, run.stdout + run.stderr


@pytest.mark.slow
def test_argo_knows_every_field_of_the_workflow() -> None:
    python = environment_with("hera==7.1.0")
    for text, is_valid in ((ARGO, True), (ARGO.replace("mountPath", "mountpath"), False)):
        document = json.dumps(yaml.safe_load(text))
        run = subprocess.run([python, "-c", VALIDATE_ARGO], input=document, capture_output=True, text=True, check=False)
        assert (run.returncode == 0) is is_valid, run.stderr


@pytest.mark.slow
def test_airflow_runs_the_dag(deployment: Mapping[str, str], tmp_path: Path) -> None:
    python = environment_with(*AIRFLOW, "httpx")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/slim_reviews.py").write_text(DAG.replace("poke_interval=30", "poke_interval=2"))
    own = {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    own |= {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"), "PYTHONPATH": f"{CLIENT}:{tmp_path / 'dags'}"}
    variables = {**deployment, **own}
    subprocess.run([python, "-m", "airflow", "db", "migrate"], env=variables, check=True, capture_output=True)
    rows = Path(deployment["ROWS"]).as_uri()
    asked = json.dumps({"model": deployment["MODEL"], "rows": rows, "floor": 0.0})
    run = subprocess.run([python, "-c", RUN_DAG, asked], env=variables, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "state: success order: ['submit', 'ended', 'check']" in run.stdout


@pytest.mark.slow
def test_package_installs_without_taskslim_and_torch(tmp_path: Path) -> None:
    sources = shutil.copytree(CLIENT, tmp_path / "client")  # a build leaves files beside the sources
    python = tmp_path / "env/bin/python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", sources], check=True)
    check = "import taskslim_client, sys; assert not {'torch', 'service', 'pydantic'} & sys.modules.keys()"
    subprocess.run([python, "-c", check], check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]})
    assert list((tmp_path / "env/lib").rglob("taskslim_client/py.typed"))
