"""The experts of a layer in a forward pass: what the router sends to each, what each adds, and routing without some.

Stock modules hold the experts of a layer in tensors of all experts, so that no expert has a module whose output a hook
could read. A token's output is the sum over its K experts of gate times expert output. Each term is computed by the
stock forward pass with one expert for each token, so that no family needs code of its own here.

Shape suffixes: N tokens (rows times positions), K experts of a token, E experts of the layer, D hidden size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worker.slimming.units.groups import Group
from worker.slimming.units.slices import tensor_of


@dataclass(frozen=True)
class Routed:
    """What the experts of a layer did with the tokens of a batch."""

    expert_NK: Tensor  # the numbers of the experts that each token is sent to
    gate_NK: Tensor  # float32
    output_KND: Tensor  # of each of these experts, before it is multiplied with its gate
    # 1 - cos of the residual stream before and behind the block, where it was asked for.
    change_N: Tensor | None = None

    @property
    def norm_NK(self) -> Tensor:
        """The norm of each expert's output, float32."""
        norm_KN: Tensor = torch.linalg.vector_norm(self.output_KND.float(), dim=2)
        return norm_KN.T

    def effect_NK(self, gradient_ND: Tensor) -> Tensor:
        """The product of what each expert adds to the output with the gradient of the output, float32."""
        return self.gate_NK * torch.einsum("knd,nd->nk", self.output_KND.float(), gradient_ND.float())


# (output of the experts (N, D), what made it) -> a replacement of the output, or None
ExpertVisitor = Callable[[Tensor, Routed], Tensor | None]


@contextmanager
def watch_experts(model: nn.Module, group: Group, visit: ExpertVisitor) -> Iterator[None]:
    """Within the context, call `visit` with what the experts of the group do in each forward pass."""

    def hook(module: nn.Module, args: tuple[Any, ...], output_ND: Tensor) -> Tensor | None:
        return visit(output_ND, _routed(module, *args))

    handle = model.get_submodule(group.module).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watch_experts_and_stream(model: nn.Module, group: Group, visit: Callable[[Routed], None]) -> Iterator[None]:
    """Within the context, call `visit` with what the experts do to the residual stream in each forward pass."""
    before: list[Tensor] = []
    routed: list[Routed] = []
    norm, layer = (model.get_submodule(path) for path in group.stream)

    def behind(_: nn.Module, __: Any, output: Any) -> None:
        after_ND = (output[0] if isinstance(output, tuple) else output).reshape(-1, group.size)
        cosine_N = nn.functional.cosine_similarity(before.pop().reshape(-1, group.size).float(), after_ND.float())
        visit(replace(routed.pop(), change_N=(1 - cosine_N).clamp_min(0)))

    handles = (
        norm.register_forward_pre_hook(lambda _, args: before.append(args[0])),
        layer.register_forward_hook(behind),
    )
    with watch_experts(model, group, lambda _, found: routed.append(found)):
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def _routed(module: nn.Module, hidden_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor) -> Routed:
    hidden_ND = hidden_ND.detach()
    ones_N1 = torch.ones_like(gate_NK[:, :1])
    # `forward`, and not a call of the module, which would run this hook again
    outputs = [module.forward(hidden_ND, expert_N1, ones_N1) for expert_N1 in expert_NK.split(1, dim=1)]
    return Routed(expert_NK, gate_NK.detach().float(), torch.stack(outputs))


@contextmanager
def without_experts(model: nn.Module, group: Group, gone_E: Tensor) -> Iterator[None]:
    """Within the context the router sends no token to the experts that are `gone_E`.

    Their logits, and what a router adds to its scores for the choice of the best, are -inf, so that the gates of the
    others are those of a router without these rows. Where a token is sent to more experts than there are left, the
    further ones have the gate zero.
    """
    router: Any = model.get_submodule(group.router)
    stock = router.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with _MaskedLogits(gone_E), _masked_buffers(model, group, gone_E):
            return stock(*args, **kwargs)

    router.forward = forward
    try:
        yield
    finally:
        del router.forward


@contextmanager
def _masked_buffers(model: nn.Module, group: Group, gone_E: Tensor) -> Iterator[None]:
    """Within the context, the buffers of the group are -inf for the experts that are gone."""
    whole = {part.parameter: tensor_of(model, part.parameter) for part in group.buffers}
    for name, tensor_E in whole.items():
        _set_buffer(model, name, tensor_E.masked_fill(gone_E.to(tensor_E.device), -torch.inf))
    try:
        yield
    finally:
        for name, tensor_E in whole.items():
            _set_buffer(model, name, tensor_E)


def _set_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, value)


class _MaskedLogits(TorchFunctionMode):
    """Masks what a router computes by its one linear function: the logits of the experts."""

    def __init__(self, gone_E: Tensor) -> None:
        super().__init__()
        self._gone_E = gone_E

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is not nn.functional.linear:
            return output
        return output.masked_fill(self._gone_E.to(output.device), -torch.inf)
