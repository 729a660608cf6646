"""The neurons within the experts of a layer: what they do in a forward pass, and a pass without some of them.

An expert e computes W_e h_e(x), and the block adds up g_e W_e h_e(x) over the experts of a token x, with their gates g.
The block is thus linear in the gated activations g_e h_e(x), which are zero at the tokens that are not sent to e, and
the gradient of an objective by them is W_e^T times its gradient by the output of the block.

Shape suffixes: N tokens (rows times positions), K experts of a token, E experts of the layer, M tokens of one expert, I
neurons of an expert, D hidden size, U units of a group (U = E * I).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from worker.slimming.units.groups import Group


@dataclass(frozen=True)
class ExpertTokens:
    """The tokens that are sent to one expert."""

    expert: int
    token_M: Tensor  # their numbers
    activation_MI: Tensor  # gated, float32
    weight_DI: Tensor  # of the expert, by which the activations are multiplied

    def gradient_MI(self, gradient_ND: Tensor) -> Tensor:
        """The gradient of an objective by the gated activations, from that by the output of the block; float32."""
        return (gradient_ND[self.token_M] @ self.weight_DI.to(gradient_ND.dtype)).float()


@dataclass(frozen=True)
class RoutedTokens:
    """The tokens of a batch, and the experts that the router sends them to."""

    module: Any
    transposed: bool  # whether the matrices are stored as (in, out)
    hidden_ND: Tensor
    expert_NK: Tensor
    gate_NK: Tensor

    @torch.no_grad()
    def by_expert(self, counts_N: Tensor) -> Iterator[ExpertTokens]:
        """The tokens of each expert that has some, of those that count (bool)."""
        for expert in self.expert_NK[counts_N].unique().tolist():
            token_M, choice_M = (self.expert_NK.eq(expert) & counts_N.unsqueeze(1)).nonzero(as_tuple=True)
            down = self.module.down_proj[expert]
            yield ExpertTokens(
                expert,
                token_M,
                self._neurons(expert, self.hidden_ND[token_M]).float() * self.gate_NK[token_M, choice_M, None].float(),
                down.T if self.transposed else down,
            )

    def _neurons(self, expert: int, hidden_MD: Tensor) -> Tensor:
        """What the neurons of an expert compute, by the activation function of the stock module (M, I)."""
        matrix, bias = self.module.gate_up_proj[expert], getattr(self.module, "gate_up_proj_bias", None)
        both = linear(hidden_MD, matrix.T if self.transposed else matrix, None if bias is None else bias[expert])
        found: Tensor = self.module._apply_gate(both)
        return found


# (output of the experts (N, D), what is sent to them) -> a replacement of the output, or None
NeuronVisitor = Callable[[Tensor, RoutedTokens], Tensor | None]


@contextmanager
def watch_neurons(model: nn.Module, group: Group, visit: NeuronVisitor) -> Iterator[None]:
    """Within the context, call `visit` with what is sent to the experts of the group in each forward pass."""

    def hook(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], output_ND: Tensor) -> Tensor | None:
        hidden_ND, expert_NK, gate_NK = args
        sent = RoutedTokens(module, is_transposed(group), hidden_ND.detach(), expert_NK, gate_NK.detach())
        return visit(output_ND, sent)

    handle = model.get_submodule(group.module).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def is_transposed(group: Group) -> bool:
    """Whether the experts of the group store their matrices as (in, out)."""
    return group.slices[0].dim == 1


@contextmanager
def without_neurons(model: nn.Module, group: Group, gone_U: Tensor) -> Iterator[None]:
    """Within the context the neurons that are `gone_U` add nothing.

    The columns of their weights are zero while the experts are called, so that a copy of the weights of one layer is
    held at a time.
    """
    module: Any = model.get_submodule(group.module)
    stock = module.forward
    gone_EI = gone_U.view(group.rows, -1)
    gone = gone_EI.unsqueeze(2 if is_transposed(group) else 1)

    def forward(*args: Any, **kwargs: Any) -> Any:
        whole = module.down_proj
        module._parameters["down_proj"] = whole.masked_fill(gone.to(whole.device), 0)
        try:
            return stock(*args, **kwargs)
        finally:
            module._parameters["down_proj"] = whole

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
