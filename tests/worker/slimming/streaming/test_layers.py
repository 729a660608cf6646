"""Streamed models against the same models in memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.architecture_rows import distinct, having
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, causal, tiny_family
from worker.evaluation.memory import LiveStorages
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import token_scores
from worker.slimming.streaming.layers import can_stream, is_streamed, stream
from worker.slimming.streaming.mapped import directory_of
from worker.slimming.surgery import copy_sharing_tensors, cut
from worker.slimming.units import Scores, locate

torch.set_num_threads(1)

STREAMED = [name for name in TINY if can_stream(ARCHITECTURES[tiny_family(name).model_type], TINY[name]().config)]


def scores_of(name: str, units: list[str], criterion: str, directory: Path | None) -> Scores:
    """The scores of a tiny model, with its weights in files of the directory where one is given."""
    model, architecture = TINY[name](), ARCHITECTURES[tiny_family(name).model_type]
    if directory is not None:
        stream(model, architecture, directory, torch.float32)
        assert is_streamed(model)
    rows = batches(name, examples(5), 2)
    return score(model, architecture, units, rows, criterion, Options(objective="margin")).scores


def units_of(name: str) -> list[str]:
    return [unit for unit in tiny_family(name).units if unit != "vocabulary"]


@pytest.mark.parametrize("name", STREAMED)
def test_streamed_scores_are_those_of_the_plain_pass(name: str, tmp_path: Path) -> None:
    for criterion in ("attribution", "surgeon"):
        units = [unit for unit in units_of(name) if unit not in CRITERIA[criterion].unserved]
        if not units:
            continue
        plain, streamed = scores_of(name, units, criterion, None), scores_of(name, units, criterion, tmp_path)
        assert plain.keys() == streamed.keys()
        for site, score_U in plain.items():
            torch.testing.assert_close(streamed[site], score_U, rtol=1e-5, atol=float(score_U.abs().max()) * 1e-6)
