"""A GPU gives the results of the CPU: scores, repaired models and whole jobs."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from tests.support.batches import batches, examples
from tests.support.pipeline_jobs import Deployment
from tests.support.tiny_models import TINY, logits
from worker.slimming.architectures import architecture_of
from worker.slimming.free_memory import free_bytes
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import FITTED, repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.selection import select
from worker.slimming.surgery.slicing import cut
from worker.slimming.units.groups import Scores
from worker.slimming.units.locating import locate

GPU = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
UNITS = {"llama": ["ffn", "heads"], "t5": ["ffn", "heads"], "bert": ["ffn"]}


def model_on(device: torch.device, family: str) -> PreTrainedModel:
    model = TINY[family]()
    nn.Module.to(model, device)
    return model


def scores_on(device: torch.device, family: str, criterion: str) -> Scores:
    model = model_on(device, family)
    rows = [batch.to(device) for batch in batches(family, examples(24), 8)]
    found = score(model, architecture_of(model), UNITS[family], rows, criterion, Options()).scores
    return {site: score_U.cpu() for site, score_U in found.items()}


@pytest.mark.parametrize("family", UNITS)
@pytest.mark.parametrize("criterion", ["surgeon", "attribution", "wanda", "activation", "flap", "gisp"])
def test_scores_equal_those_of_the_cpu(family: str, criterion: str) -> None:
    assert criterion in CRITERIA
    here, there = (scores_on(device, family, criterion) for device in (torch.device("cpu"), GPU))
    for site, expected_U in here.items():
        torch.testing.assert_close(there[site], expected_U, rtol=1e-2, atol=1e-3 * expected_U.abs().max().item())


@pytest.mark.parametrize("family", UNITS)
@pytest.mark.parametrize("how", sorted(FITTED))
def test_a_repaired_model_answers_as_on_the_cpu(family: str, how: str) -> None:
    answers = []
    for device in (torch.device("cpu"), GPU):
        model = model_on(device, family)
        architecture, groups = architecture_of(model), locate(model, architecture_of(model), UNITS[family])
        kept = select(scores_on(torch.device("cpu"), family, "magnitude"), groups, 0.3, round_to=4)
        rows = [batch.to(device) for batch in batches(family, examples(64), 16)]
        calibration = CalibrationBatches(rows, Options().objective)
        repair(RepairInput(model, architecture, kept, calibration, None), how)
        cut(model, architecture, kept)
        nn.Module.to(model, torch.device("cpu"))
        answers.append(logits(model))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-3, atol=1e-3)


def test_a_job_on_the_gpu_keeps_the_units_that_it_keeps_on_the_cpu(tmp_path: Path) -> None:
    kept = []
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        deployment = Deployment(tmp_path / device, device=device)
        result = deployment.run(deployment.request(method={"units": UNITS["llama"]}))
        assert result.verified.max_abs_logit_difference <= result.verified.tolerance
        deployment.download(tmp_path / device / "files")
        kept.append(load_file(tmp_path / device / "files" / "kept.safetensors"))
    assert kept[0].keys() == kept[1].keys()
    for name, kept_K in kept[0].items():
        assert torch.equal(kept[1][name], kept_K)


def test_the_memory_of_the_device_is_the_budget() -> None:
    free, total = torch.cuda.mem_get_info(GPU)
    assert 0 < free_bytes(GPU) <= total
    assert free_bytes(GPU) >= free // 2
