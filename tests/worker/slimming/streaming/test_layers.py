"""Streamed models against the same models in memory."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY, causal, tiny_family
from worker.checkpoints.dtypes import round_weights
from worker.evaluation.memory import LiveStorages
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import token_scores
from worker.slimming.streaming.layers import can_stream, is_streamed, stream
from worker.slimming.streaming.mapped import directory_of
from worker.slimming.surgery.slicing import copy_sharing_tensors, cut
from worker.slimming.units.groups import Scores
from worker.slimming.units.locating import locate

torch.set_num_threads(1)

LLAMA = ARCHITECTURES["llama"]
QUICK = ("llama", "gpt2", "qwen3_moe", "bert")
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


NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STREAMED]


@pytest.mark.parametrize("name", NAMES)
def test_streamed_scores_are_those_of_the_plain_pass(name: str, tmp_path: Path) -> None:
    for criterion in ("attribution", "surgeon"):
        units = [unit for unit in units_of(name) if unit not in CRITERIA[criterion].unserved]
        if not units:
            continue
        plain, streamed = scores_of(name, units, criterion, None), scores_of(name, units, criterion, tmp_path)
        assert plain.keys() == streamed.keys()
        for site, score_U in plain.items():
            torch.testing.assert_close(streamed[site], score_U, rtol=1e-5, atol=float(score_U.abs().max()) * 1e-6)


def streamed_llama(directory: Path, **settings: int) -> PreTrainedModel:
    model = causal("llama", **settings)
    stream(model, LLAMA, directory, torch.float32)
    return model


@pytest.mark.parametrize("method", ["least_squares", "least_squares_layerwise"])
def test_repaired_and_cut_weights_stay_in_files_and_are_those_of_a_model_in_memory(method: str, tmp_path: Path) -> None:
    plain, streamed = causal("llama"), streamed_llama(tmp_path)
    kept = {group.site: torch.arange(group.count // 2) for group in locate(plain, LLAMA, ["ffn", "heads"])}
    rows = CalibrationBatches(batches("llama", examples(6), 2), "margin")
    for model in (plain, streamed):
        repair(RepairInput(model, LLAMA, kept, rows), method)
        cut(model, LLAMA, kept)
    assert {directory_of(parameter) for parameter in streamed.parameters()} == {tmp_path}
    for one, other in zip(plain.parameters(), streamed.parameters(), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)


def test_only_weights_that_are_not_exact_are_written_anew(tmp_path: Path) -> None:
    model = streamed_llama(tmp_path)
    first = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    first.data.copy_(first.data.bfloat16())
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    round_weights(model, torch.bfloat16)
    after = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    same = {name for name in before if before[name] == after[name]}
    assert "model.layers.0.mlp.up_proj.weight" in same
    assert "model.layers.1.mlp.up_proj.weight" not in same
    assert {directory_of(parameter) for parameter in model.parameters()} == {tmp_path}


def test_a_copy_computes_its_layers_again_too(tmp_path: Path) -> None:
    model, [rows] = streamed_llama(tmp_path), batches("llama", examples(3), 3)
    copy = copy_sharing_tensors(model)
    assert torch.equal(token_scores(copy, rows), token_scores(model, rows))
    assert type(copy.model.layers[0]) is type(model.model.layers[0])
    assert type(copy.model.layers[0]).__name__ == "LlamaDecoderLayer"


def peak_of_scoring(layers: int, directory: Path | None) -> int:
    """The most bytes that scoring allocates beside the weights."""
    model = causal("llama", num_hidden_layers=layers)
    if directory is not None:
        stream(model, LLAMA, directory, torch.float32)
    [rows] = batches("llama", examples(24), 24)
    with LiveStorages() as alive:
        score(model, LLAMA, ["ffn"], [rows], "attribution", Options(objective="margin"))
    return int(alive.peak)


def test_activations_of_one_layer_are_held(tmp_path: Path) -> None:
    plain, streamed = (peak_of_scoring(16, place) - peak_of_scoring(4, place) for place in (None, tmp_path))
    assert streamed < plain / 8
