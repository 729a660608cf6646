"""Criteria of experts against a loop over tokens and experts, written without the code of transformers.

Shape suffixes: N tokens, E experts, D hidden size, I neurons of an expert, K experts of a token.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from service.contract.options import Unit
from tests.support.architecture_rows import having
from tests.support.batches import batches, examples
from tests.support.tiny_models import TINY
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.experts.routing import Routed, watch_experts
from worker.slimming.masking import masked
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import Options
from worker.slimming.scoring.objectives import Batch, margin, token_scores
from worker.slimming.units.groups import Group, Site
from worker.slimming.units.locating import locate

families = pytest.mark.parametrize("family", having(Unit.experts))
SITE = Site("decoder", 1, "experts")


def group_of(model: PreTrainedModel) -> Group:
    """The experts of the second layer."""
    groups = locate(model, ARCHITECTURES[model.config.model_type], ["experts"])
    return next(group for group in groups if group.site == SITE)


@dataclass
class Seen:
    """What the experts of the second layer were called with and gave, at the tokens that count."""

    hidden_ND: Tensor
    expert_NK: Tensor
    gate_NK: Tensor
    output_ND: Tensor
    gradient_ND: Tensor
    before_ND: Tensor  # the residual stream before the experts
    after_ND: Tensor  # and behind the layer

    def terms(self, module: nn.Module) -> Iterator[tuple[int, int, float, Tensor]]:
        """(token, expert, gate, output of the expert) of every choice of the router."""
        for token, (experts, gates) in enumerate(zip(self.expert_NK.tolist(), self.gate_NK.tolist(), strict=True)):
            for expert, gate in zip(experts, gates, strict=True):
                yield token, expert, gate, output_of(module, expert, self.hidden_ND[token])


def output_of(module: nn.Module, expert: int, hidden_D: Tensor) -> Tensor:
    """W_down (silu(W_gate x) * W_up x) of one expert; that of GPT-OSS has biases, clamps, and interleaved matrices."""
    if hasattr(module, "gate_up_proj_bias"):
        return output_of_gpt_oss(module, expert, hidden_D)
    gate_up_ID, down_DI = module.get_parameter("gate_up_proj")[expert], module.get_parameter("down_proj")[expert]
    width = len(gate_up_ID) // 2
    gate_I, up_I = gate_up_ID[:width] @ hidden_D, gate_up_ID[width:] @ hidden_D
    found: Tensor = down_DI @ (nn.functional.silu(gate_I) * up_I)
    return found


def output_of_gpt_oss(module: nn.Module, expert: int, hidden_D: Tensor) -> Tensor:
    up_DI, up_bias_I, down_ID, down_bias_D = (
        module.get_parameter(name)[expert]
        for name in ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
    )
    both_I = hidden_D @ up_DI + up_bias_I
    gate_I, up_I = both_I[::2].clamp(max=7.0), both_I[1::2].clamp(-7.0, 7.0)
    found: Tensor = ((up_I + 1) * gate_I * torch.sigmoid(1.702 * gate_I)) @ down_ID + down_bias_D
    return found


def seen(model: PreTrainedModel, batch: Batch) -> Seen:
    """What happens in a pass of the batch, and the gradient of the sum of margins."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, Tensor, Tensor], output_ND: Tensor) -> Tensor:
        followed_ND = output_ND.detach().requires_grad_()
        found.extend((*args, followed_ND))
        return followed_ND

    stream: list[Tensor] = []
    layer = model.get_submodule("model.layers.1")
    norm = layer.get_submodule("post_attention_layernorm")
    handles = (
        model.get_submodule(group_of(model).module).register_forward_hook(hook),
        norm.register_forward_pre_hook(lambda _, args: stream.append(args[0])),
        layer.register_forward_hook(lambda _, __, output: stream.append(output)),
    )
    margin(token_scores(model, batch), batch).sum().backward()
    for handle in handles:
        handle.remove()
    gradient_ND = found[-1].grad
    assert gradient_ND is not None
    counts_N, size = batch.masks["decoder"].flatten(), gradient_ND.shape[1]
    tensors = (*found, gradient_ND, *(each.reshape(-1, size) for each in stream))
    return Seen(*(tensor.detach()[counts_N] for tensor in tensors))


def sums(model: PreTrainedModel, batch: Batch) -> tuple[dict[str, Tensor], int]:
    """Sums over tokens, for each expert, and the number of tokens."""
    passed, module = seen(model, batch), model.get_submodule(group_of(model).module)
    found = {name: torch.zeros(group_of(model).count) for name in ("sent", "gate", "norm", "square", "change")}
    for token, expert, gate, output_D in passed.terms(module):
        found["sent"][expert] += 1
        found["gate"][expert] += gate
        before_D, after_D = passed.before_ND[token], passed.after_ND[token]
        cosine = float(before_D @ after_D / before_D.norm() / after_D.norm())
        found["change"][expert] += gate * float(output_D.norm()) * max(1 - cosine, 0)
        found["norm"][expert] += gate * float(output_D.norm())
        found["square"][expert] += float(gate * output_D @ passed.gradient_ND[token]) ** 2
    return found, len(passed.hidden_ND)


@families
@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_scores_equal_those_of_a_loop_over_tokens_and_experts(family: str, implementation: str) -> None:
    model, (batch,) = TINY[family](), batches(family, examples(6), 6)
    model.set_experts_implementation(implementation)
    found, tokens = sums(model.requires_grad_(False), batch)
    expected = {
        "frequency": found["sent"] / tokens,
        "router_weight": found["gate"],
        "reap": found["norm"] / found["sent"].clamp_min(1),
        "second_moment": found["square"],
        "easy_ep": found["change"],
    }
    for criterion, expected_E in expected.items():
        data, architecture = batches(family, examples(6), 2), ARCHITECTURES[model.config.model_type]
        score_E = score(model, architecture, ["experts"], data, criterion, Options()).scores[SITE]
        torch.testing.assert_close(score_E, expected_E, rtol=1e-4, atol=1e-8)


@families
@torch.no_grad()
def test_what_experts_add_is_the_output_of_their_block(family: str) -> None:
    model, (batch,) = TINY[family](), batches(family, examples(3), 3)
    group, checked = group_of(model), list[bool]()

    def visit(output_ND: Tensor, routed: Routed) -> None:
        added_ND = torch.einsum("nk,knd->nd", routed.gate_NK, routed.output_KND)
        torch.testing.assert_close(added_ND, output_ND)
        checked.append(True)

    with watch_experts(model, group, visit):
        model(**batch.inputs)
    assert checked


@families
def test_a_token_is_never_sent_to_an_expert_that_is_masked(family: str) -> None:
    model, data = TINY[family](), batches(family, examples(6), 6)
    architecture = ARCHITECTURES[model.config.model_type]
    kept = {SITE: torch.tensor([1, 2, 4, 6])}  # two of each group of a router with two groups
    with masked(model, architecture, kept):
        share_E = score(model, architecture, ["experts"], data, "frequency", Options()).scores[SITE]
    chosen = set(share_E.nonzero().flatten().tolist())
    assert len(chosen) > 1
    assert chosen <= {1, 2, 4, 6}
    assert float(share_E.sum()) == pytest.approx(2)


def test_an_expert_that_no_token_reaches_has_no_importance() -> None:
    model, data = TINY["mixtral"](), batches("mixtral", examples(6), 6)
    kept = {SITE: torch.arange(7)}
    for criterion in ("frequency", "router_weight", "reap", "attribution"):
        with masked(model, ARCHITECTURES["mixtral"], kept):
            scores = score(model, ARCHITECTURES["mixtral"], ["experts"], data, criterion, Options()).scores
        assert scores[SITE][7] == 0
        assert scores[SITE][:7].abs().sum() > 0
