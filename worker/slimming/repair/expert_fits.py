"""Least squares within experts: fits the kept columns of every expert to what the expert wrote in the dense model.

An expert e computes W_e h. With h the gated activations of its neurons (`experts.neurons`) its kept columns become

    argmin over W' of  E|W_e h - W' h_K|^2 + r |W' - W_eK|^2,

as `least_squares` does it for a linear module, with the mean over the tokens that are sent to the expert. The ridge r
rises as these become few, and an expert without any keeps its columns.

Shape suffixes: E experts of a layer, D hidden size, M tokens of one expert, I neurons of an expert, K those that stay.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worker.slimming.experts.neurons import RoutedTokens, is_transposed, watch_neurons
from worker.slimming.free_memory import budget
from worker.slimming.gram import add_gram
from worker.slimming.repair import ridge
from worker.slimming.repair.inputs import RepairInput
from worker.slimming.scoring.objectives import Batch, objective_values
from worker.slimming.scoring.second_moments import RIDGE, token_weights
from worker.slimming.surgery.slicing import groups_of, stays
from worker.slimming.units.groups import Group


@dataclass(frozen=True)
class ExpertMoments:
    """Weighted sums over the tokens of each expert."""

    gram_EII: Tensor  # of h h^T, float32
    weight_E: Tensor  # of the weights of the tokens
    tokens_E: Tensor  # of 1


def expert_groups(repair_input: RepairInput) -> list[Group]:
    """The groups in `kept` of neurons within experts."""
    groups = groups_of(repair_input.model, repair_input.architecture, repair_input.kept)
    return [group for group in groups if group.hook_point == "expert neurons"]


def portions(repair_input: RepairInput) -> list[list[Group]]:
    """The groups in portions, so that the matrices of each fit into the memory that is free on the device."""
    limit, used, parts = budget(next(repair_input.model.parameters()).device), 0, list[list[Group]]()
    for group in expert_groups(repair_input):
        size = 4 * group.count * (group.count // group.rows)
        if not parts or used + size > limit:
            parts.append([])
            used = 0
        parts[-1].append(group)
        used += size
    return parts


def fit_experts(
    repair_input: RepairInput, parts: Sequence[Sequence[Group]], on_batches: Callable[[int], None]
) -> dict[str, Tensor]:
    """Path of a module with experts -> their new `down_proj`. Each of the `parts` takes a pass over the rows.

    The model is left as it is, so that other repairs can measure the dense one; `replace_experts` writes the result.
    """
    batches, found = repair_input.calibration.batches, dict[str, Tensor]()
    for number, part in enumerate(parts):
        for group, of_group in _measured(repair_input, part, _offset(on_batches, number * len(batches))):
            found[group.module] = _fitted(repair_input, group, of_group)
    return found


def _offset(on_batches: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: on_batches(before + done)


def replace_experts(model: nn.Module, fitted: dict[str, Tensor]) -> None:
    """Replace the matrices that `fit_experts` has fitted. Copies of the model may share the old ones."""
    for path, down in fitted.items():
        module = model.get_submodule(path)
        requires_grad = module.get_parameter("down_proj").requires_grad
        setattr(module, "down_proj", nn.Parameter(down, requires_grad=requires_grad))  # noqa: B010 - as in surgery


def _measured(
    repair_input: RepairInput, groups: Sequence[Group], on_batches: Callable[[int], None]
) -> list[tuple[Group, ExpertMoments]]:
    """The moments of each group, from one forward and one backward pass of each batch."""
    model, calibration = repair_input.model, repair_input.calibration
    device = next(model.parameters()).device
    found = [(group, _empty(group, device)) for group in groups]
    for done, batch in enumerate(calibration.batches, 1):
        with ExitStack() as hooks, torch.enable_grad():
            for group, moments in found:
                hooks.enter_context(_weighing(model, group, batch, moments))
            torch.autograd.backward(objective_values(model, batch, calibration.objective).sum())
        on_batches(done)
    return found


def _empty(group: Group, device: torch.device) -> ExpertMoments:
    experts, width = group.rows, group.count // group.rows
    sums = (torch.zeros(experts, dtype=torch.float64, device=device) for _ in range(2))
    return ExpertMoments(torch.zeros(experts, width, width, device=device), *sums)


@contextmanager
def _weighing(model: nn.Module, group: Group, batch: Batch, moments: ExpertMoments) -> Iterator[None]:
    """Add the tokens of each expert, with the weights that follow from the gradients of the experts' output."""
    mask_BT = batch.masks[group.site.stack]

    def visit(output_ND: Tensor, sent: RoutedTokens) -> Tensor:
        followed_ND = output_ND if output_ND.requires_grad else output_ND.detach().requires_grad_()
        followed_ND.register_hook(lambda gradient_ND: weigh(sent, gradient_ND))
        return followed_ND

    def weigh(sent: RoutedTokens, gradient_ND: Tensor) -> None:
        weight_BT = batch.weight * token_weights(gradient_ND.reshape(*mask_BT.shape, -1), mask_BT)
        for tokens in sent.by_expert(mask_BT.flatten()):
            weight_M = weight_BT.flatten()[tokens.token_M]
            activation_MI = tokens.activation_MI
            add_gram(moments.gram_EII[tokens.expert], activation_MI, activation_MI * weight_M.unsqueeze(1))
            moments.weight_E[tokens.expert] += weight_M.sum()
            moments.tokens_E[tokens.expert] += len(tokens.token_M)

    with watch_neurons(model, group, visit):
        yield


def _fitted(repair_input: RepairInput, group: Group, moments: ExpertMoments) -> Tensor:
    """The matrices of all experts, their kept columns fitted where tokens reach the expert."""
    fitted = repair_input.model.get_submodule(group.module).get_parameter("down_proj").detach().clone()
    weight_EDI = fitted.mT if is_transposed(group) else fitted  # a view: what is written here is written there
    stays_EI = stays(group, repair_input.kept[group.site]).view(group.rows, -1).to(fitted.device)
    for expert in moments.tokens_E.nonzero().flatten().tolist():
        kept_K, weight_DI = stays_EI[expert].nonzero().flatten(), weight_EDI[expert].double()
        gram_II = moments.gram_EII[expert].double() / moments.weight_E[expert]
        strength = ridge.share(len(kept_K), int(moments.tokens_E[expert]), RIDGE)
        cross_DK = weight_DI @ gram_II[:, kept_K]
        fitted_DK = ridge.solve(gram_II[kept_K][:, kept_K], cross_DK, weight_DI[:, kept_K], strength)
        weight_EDI[expert][:, kept_K] = fitted_DK.to(fitted.dtype)
    return fitted
