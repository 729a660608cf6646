"""The methods that are compared: scores of FFN neurons by a peer's own pass, or a peer that cuts by itself.

Shape suffixes: B rows of a batch, T positions, U units of a group, V vocabulary entries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch_pruning
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from service.contract.options import Scope
from worker.slimming import selection
from worker.slimming.architectures import architecture_of
from worker.slimming.repair.inputs import CalibrationBatches, RepairInput
from worker.slimming.repair.repairs import repair
from worker.slimming.scoring import attribution
from worker.slimming.scoring.criteria import CRITERIA, Options
from worker.slimming.scoring.objectives import Batch, objective_values
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.selection import Rules
from worker.slimming.surgery import slicing
from worker.slimming.surgery.slicing import copy_sharing_tensors
from worker.slimming.units.groups import Scores, Site
from worker.slimming.units.locating import locate

UNITS = ["ffn"]
FLOOR = Rules().floor
DEFAULT_REPAIR = "least_squares_layerwise"
LAYOUTS = {Scope.layer: "uniform", Scope.all: "per_layer"}


@dataclass
class Measured:
    """What the pass over the calibration rows left behind, for every ratio."""

    scores: Scores | None = None
    moments: Mapping[str, Moments] | None = None
    gradients: Mapping[str, Tensor] | None = None  # of the loss, by name of the parameter


@dataclass(frozen=True)
class Peer:
    """`measure` passes over the calibration rows; `slim` returns a smaller model for one ratio."""

    measure: Callable[[nn.Module, Sequence[Batch]], Measured]
    slim: Callable[[nn.Module, Sequence[Batch], Measured, float, Scope], nn.Module]


# --- ours ------------------------------------------------------------------------------------------------------------


def by_criterion(name: str) -> Callable[[nn.Module, Sequence[Batch]], Measured]:
    """The pass of a criterion of the product, with the moments that it measures besides."""

    def measure(model: nn.Module, batches: Sequence[Batch]) -> Measured:
        found = attribution.score(model, architecture_of(model), UNITS, batches, name, Options())
        return Measured(found.scores, found.moments)

    return measure


def cut_by_scores(how: str, normalisation: str) -> Callable[..., nn.Module]:
    """Select by the scores, repair as `how` says, and cut."""

    def slim(model: nn.Module, batches: Sequence[Batch], measured: Measured, ratio: float, scope: Scope) -> nn.Module:
        assert measured.scores is not None
        slim, architecture = copy_sharing_tensors(model), architecture_of(model)
        rules = Rules(scope, LAYOUTS[scope], normalisation)
        kept = selection.select(measured.scores, locate(slim, architecture, UNITS), ratio, 1, rules)
        if how != "none":
            calibration = CalibrationBatches(batches, Options().objective)
            slim = repair(RepairInput(slim, architecture, kept, calibration, measured.moments), how)
        slicing.cut(slim, architecture, kept, LAYOUTS[scope])
        return slim

    return slim


# --- captum, layer by layer ------------------------------------------------------------------------------------------


def captum_layer_by_layer(model: nn.Module, batches: Sequence[Batch]) -> Measured:
    """captum's gradient times activation of each layer in turn: |sum over the tokens of a row|, summed over rows.

    Each layer takes a forward and a backward pass of its own, because a captum attribution has one layer.
    """
    scores: dict[Site, Tensor] = {}
    for group in locate(model, architecture_of(model), UNITS):
        layer, total_U = model.get_submodule(group.module), torch.zeros(group.count)
        for batch in batches:
            ids_BT, others = batch.inputs["input_ids"], {k: v for k, v in batch.inputs.items() if k != "input_ids"}

            def objective(ids_BT: Tensor, batch: Batch = batch, others: Mapping[str, Tensor] = others) -> Tensor:
                rows = replace(batch, inputs={"input_ids": ids_BT, **others})
                return objective_values(model, rows, Options().objective)

            product_BTU = LayerGradientXActivation(objective, layer).attribute(ids_BT, attribute_to_layer_input=True)
            mask_BT1 = batch.masks[group.site.stack].unsqueeze(-1)
            total_U += (product_BTU.detach() * mask_BT1).sum(1).abs().sum(0)
        scores[group.site] = total_U
    return Measured(scores)


# --- Torch-Pruning ---------------------------------------------------------------------------------------------------


def without_rows(model: nn.Module, batches: Sequence[Batch]) -> Measured:
    """A magnitude needs no rows."""
    return Measured()


def weight_gradients(model: nn.Module, batches: Sequence[Batch]) -> Measured:
    """Gradients of all weights: the sum over the rows of the negative log-probability of the answer, as in training."""
    model.requires_grad_(True)
    model.zero_grad()
    for batch in batches:
        (-objective_values(model, batch, "log_probability").sum()).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    model.requires_grad_(False)
    return Measured(gradients=gradients)


def by_torch_pruning(importance: Callable[[], torch_pruning.importance.Importance]) -> Callable[..., nn.Module]:
    """Torch-Pruning's own pruner over the FFN neurons of all layers, in one step."""

    def slim(model: nn.Module, batches: Sequence[Batch], measured: Measured, ratio: float, scope: Scope) -> nn.Module:
        slim = copy_sharing_tensors(model)
        for name, weight in slim.named_parameters():
            weight.requires_grad_(True)  # else its graph has no nodes
            weight.grad = None if measured.gradients is None else measured.gradients[name].clone()
        linear = [module for module in slim.modules() if isinstance(module, nn.Linear)]
        roots = _inputs_of_ffn(slim)
        pruner = torch_pruning.pruner.BasePruner(
            slim,
            {"input_ids": batches[0].inputs["input_ids"][:1], "use_cache": False},
            importance(),
            global_pruning=scope is Scope.all,
            pruning_ratio=ratio,
            max_pruning_ratio=1 - FLOOR,
            ignored_layers=[module for module in linear if module not in roots],
            root_module_types=[nn.Linear],
            output_transform=lambda output: output.logits,
        )
        pruner.step()
        slim.zero_grad()
        return slim.requires_grad_(False)

    return slim


def _inputs_of_ffn(model: nn.Module) -> set[nn.Module]:
    """The linear modules whose outputs are the neurons of the FFN blocks."""
    groups = locate(model, architecture_of(model), UNITS)
    last = {model.get_submodule(group.module) for group in groups}
    blocks = [model.get_submodule(group.module.rpartition(".")[0]) for group in groups]
    return {each for block in blocks for each in block.modules() if isinstance(each, nn.Linear) and each not in last}


PEERS: dict[str, Peer] = {
    "surgeon, layerwise repair (the default)": Peer(
        by_criterion("surgeon"), cut_by_scores(DEFAULT_REPAIR, CRITERIA["surgeon"].normalisation)
    ),
    "attribution, no repair": Peer(
        by_criterion("attribution"), cut_by_scores("none", CRITERIA["attribution"].normalisation)
    ),
    "captum, layer by layer": Peer(captum_layer_by_layer, cut_by_scores("none", CRITERIA["attribution"].normalisation)),
    "Torch-Pruning, Taylor": Peer(weight_gradients, by_torch_pruning(torch_pruning.importance.GroupTaylorImportance)),
    "Torch-Pruning, magnitude": Peer(without_rows, by_torch_pruning(torch_pruning.importance.GroupMagnitudeImportance)),
    "weight times its gradient": Peer(by_criterion("gisp"), cut_by_scores("none", CRITERIA["gisp"].normalisation)),
}
