"""Sweeps: their curve and their checkpoints."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from service.contract.answers.job import Stage
from tests.support.pipeline_jobs import Recorder
from tests.support.searches import run_job


@pytest.mark.parametrize("repair", ["least_squares", "least_squares_layerwise"])
def test_sweep_stores_the_curve_and_the_requested_checkpoints(tmp_path: Path, repair: str) -> None:
    target = {"sweep": [0.5, 0.2, 0.35], "artifacts": [0.2, 0.35]}
    progress = Recorder()
    result, directory = run_job(tmp_path, progress, target=target, method={"repair": repair})
    counted = [(done, total, unit) for stage, done, total, unit in progress.advances if stage is Stage.search]
    assert {unit for _, _, unit in counted} == {"models"}
    assert (counted[0], counted[-1]) == ((0, 3, "models"), (3, 3, "models"))
    assert [point.artifact for point in result.curve] == ["model-0.2", "model", None]
    assert [point.examples for point in result.curve] == [80] * 3
    assert result.ratio == result.curve[1].ratio
    metric = result.curve[1].metric
    assert metric is not None
    assert metric.value == pytest.approx(result.metrics.slim.value.value)
    for point in result.curve[:2]:
        model = AutoModelForCausalLM.from_pretrained(directory / str(point.artifact))
        assert model.num_parameters() == point.parameters
        assert (directory / f"{point.artifact}/model.safetensors").stat().st_size == point.bytes
        assert (directory / f"{str(point.artifact).replace('model', 'kept')}.safetensors").exists()
        assert f'from_pretrained("{point.artifact}")' in (directory / f"{point.artifact}/README.md").read_text()


def test_ratios_that_round_to_one_width_are_all_on_the_curve(tmp_path: Path) -> None:
    target = {"sweep": [0.30, 0.31, 0.5], "artifacts": [0.30, 0.31]}
    result, directory = run_job(tmp_path, target=target, output={"round_to": 8})
    assert [point.artifact for point in result.curve] == ["model-0.3", "model", None]
    first, second, _ = result.curve
    assert first.model_copy(update={"artifact": None}) == second.model_copy(update={"artifact": None})
    assert (directory / "model-0.3/model.safetensors").stat().st_size == first.bytes
