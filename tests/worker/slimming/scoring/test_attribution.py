import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

from tests.support.architecture_rows import distinct
from tests.support.batches import batches, examples
from tests.support.criteria import served
from tests.support.tiny_models import TINY, tiny_family
from worker.slimming.architectures import ARCHITECTURES, Architecture, FeedForward, Stack
from worker.slimming.scoring.attribution import score
from worker.slimming.scoring.criteria import CRITERIA, EXAMPLE_REDUCTIONS, TOKEN_REDUCTIONS, Options
from worker.slimming.scoring.objectives import OBJECTIVES, Batch, token_scores
from worker.slimming.units.groups import Scores, Site

torch.set_num_threads(1)

SIGNED_SUM = Options(objective="log_probability", token_reduction="sum", example_reduction="sum")
REDUCTIONS = [
    Options(token_reduction=token, sign=sign, example_reduction=example)
    for token in TOKEN_REDUCTIONS
    for sign in ("signed", "absolute")
    for example in EXAMPLE_REDUCTIONS
]


def assert_equal(left: Scores, right: Scores) -> None:
    assert left.keys() == right.keys()
    for site, expected in right.items():
        torch.testing.assert_close(left[site], expected, rtol=2e-4, atol=float(expected.abs().max()) * 2e-5)


def test_attribution_equals_captums_gradient_times_activation() -> None:
    model = TINY["llama"]()
    (batch,) = batches("llama", examples(6), 6)

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        log_probability_PV = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)[
            batch.row_P, batch.position_P
        ]
        right_M = batch.label_M == batch.right_Q[batch.question_M]
        right: Tensor = log_probability_PV[batch.place_M, batch.token_M][right_M]
        return right

    for layer in (0, 1):
        oracle = LayerGradientXActivation(forward, model.get_submodule(f"model.layers.{layer}.mlp.down_proj"))
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        product_BTN = oracle.attribute(ids, additional_forward_args=(mask,), attribute_to_layer_input=True)
        product_BTN = product_BTN[0] if isinstance(product_BTN, tuple) else product_BTN
        expected = (product_BTN * batch.masks["decoder"].unsqueeze(-1)).sum((0, 1)).detach()
        ours = score(model, ARCHITECTURES["llama"], ["ffn"], [batch], "attribution", SIGNED_SUM).scores
        torch.testing.assert_close(ours[Site("decoder", layer, "ffn")], expected, rtol=1e-4, atol=1e-6)


class LinearNetwork(nn.Module):
    """A network with logits = W2 (W1 x) at every position, so that the attribution of a neuron has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.layers = nn.ModuleList([nn.ModuleDict({"up": nn.Linear(5, 7, bias=False), "down": nn.Linear(7, 4)})])
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw)
        self.config = None

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, x: Tensor) -> "LinearNetwork":
        block = self.layers[0]
        self.logits = block["down"](block["up"](x)).sum(1)  # type: ignore[index]
        return self


LINEAR = Architecture((Stack("encoder", "layers", "num_layers", FeedForward(("up",), "down", "width")),))


def linear_batch() -> Batch:
    return Batch(
        inputs={"x": torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(4))},
        masks={"encoder": torch.ones(3, 2, dtype=torch.bool)},
        example_B=torch.arange(3),
        row_P=torch.arange(3),
        position_P=torch.zeros(3, dtype=torch.long),
        place_M=torch.arange(3).repeat_interleave(4),
        token_M=torch.arange(4).repeat(3),
        question_M=torch.arange(3).repeat_interleave(4),
        label_M=torch.arange(4).repeat(3),
        right_Q=torch.tensor([0, 3, 1]),
        example_Q=torch.arange(3),
        index_E=torch.arange(3),
        num_labels=4,
    )


def test_attribution_of_a_linear_network_equals_its_closed_form() -> None:
    model, batch = LinearNetwork(), linear_batch()
    up_NH, down_VN = (parameter.detach() for parameter in list(model.parameters())[:2])
    hidden_EN = (batch.inputs["x"] @ up_NH.T).sum(1)
    log_probability_EV = model(**batch.inputs).logits.detach().log_softmax(-1)
    wrong_EV = log_probability_EV.scatter(1, batch.right_Q[:, None], -torch.inf)
    # d margin / d h_n = W2[right, n] - W2[best wrong, n]
    gradient_EN = down_VN[batch.right_Q] - down_VN[wrong_EV.argmax(1)]
    expected_N = (hidden_EN * gradient_EN).square().mean(0)
    ours = score(model, LINEAR, ["ffn"], [batch], "attribution", Options()).scores
    torch.testing.assert_close(ours[Site("encoder", 0, "ffn")], expected_N)


@pytest.mark.parametrize("options", REDUCTIONS, ids=str)
def test_every_reduction_equals_a_slow_loop(options: Options) -> None:
    model = TINY["llama"]()
    data = batches("llama", examples(4, longest_candidate=2), 1)
    ours = score(model, ARCHITECTURES["llama"], ["ffn"], data, "attribution", options).scores[Site("decoder", 0, "ffn")]
    expected = torch.zeros(48, dtype=torch.float64)
    for batch in data:
        captured: list[Tensor] = []
        contract = model.get_submodule("model.layers.0.mlp.down_proj")
        hook = contract.register_forward_pre_hook(lambda _, args, captured=captured: captured.append(args[0]))
        objective = OBJECTIVES[options.objective](token_scores(model, batch), batch).sum()
        hook.remove()
        (gradient,) = torch.autograd.grad(objective, captured)
        product_TN = (
            torch.stack(
                [
                    (captured[0][:, t] * gradient[:, t] * batch.masks["decoder"][:, t, None]).sum(0)
                    for t in range(gradient.shape[1])
                ]
            )
            .double()
            .detach()
        )
        product_TN = product_TN.abs() if options.sign == "absolute" else product_TN
        reduced_N = {
            "sum": product_TN.sum(0),
            "mean": product_TN.mean(0),
            "max": product_TN.amax(0),
            "square": product_TN.square().sum(0),
        }[options.token_reduction]
        expected += reduced_N if options.example_reduction == "sum" else reduced_N.square() / len(data)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=float(expected.abs().max()) * 1e-5)


@pytest.mark.parametrize("family", distinct())
def test_scores_do_not_depend_on_batches_order_or_padding(family: str) -> None:
    model, items = TINY[family](), examples(7, longest_candidate=2)
    architecture = ARCHITECTURES[model.config.model_type]
    unit = "ffn" if "ffn" in tiny_family(family).units else "experts"
    expected = score(model, architecture, [unit], batches(family, items, 1), "attribution", Options()).scores
    shuffled = batches(family, items[::-1], 3, extra_padding=4)
    assert_equal(score(model, architecture, [unit], shuffled, "attribution", Options()).scores, expected)
    assert all(scores.abs().sum() > 0 for scores in expected.values())


UNITS_OF = {
    "llama": ["ffn", "heads"],
    "t5": ["ffn", "heads"],
    "opt": ["ffn"],
    "mixtral": ["experts"],
    "qwen2_moe": ["ffn"],
}
SERVED = [
    (family, criterion)
    for family, units in UNITS_OF.items()
    for criterion, formula in CRITERIA.items()
    if not {*served(criterion, units)} & {*formula.unserved}
]


@pytest.mark.parametrize(("family", "criterion"), SERVED)
def test_scores_of_every_criterion_do_not_depend_on_batches_order_or_padding(family: str, criterion: str) -> None:
    model, items = TINY[family](), examples(7, longest_candidate=2)
    units, general = served(criterion, UNITS_OF[family]), batches(family, examples(4, seed=7), 2)
    one_by_one = batches(family, items, 1)
    expected = score(model, ARCHITECTURES[family], units, one_by_one, criterion, Options(), general=general).scores
    shuffled = batches(family, [items[place] for place in (4, 0, 6, 2, 5, 1, 3)], 3, extra_padding=4)
    found = score(model, ARCHITECTURES[family], units, shuffled, criterion, Options(), general=general[::-1]).scores
    assert_equal(found, expected)


@pytest.mark.parametrize("options", REDUCTIONS, ids=str)
def test_reductions_ignore_padding(options: Options) -> None:
    model, items = TINY["t5"](), examples(4, longest_candidate=2)
    plain, padded = (batches("t5", items, 4, extra_padding=extra) for extra in (0, 5))
    expected = score(model, ARCHITECTURES["t5"], ["ffn"], plain, "attribution", options).scores
    assert_equal(score(model, ARCHITECTURES["t5"], ["ffn"], padded, "attribution", options).scores, expected)


@pytest.mark.parametrize(("family", "criterion"), SERVED)
def test_same_seed_gives_identical_scores(family: str, criterion: str) -> None:
    model, architecture, units = TINY[family](), ARCHITECTURES[family], served(criterion, UNITS_OF[family])
    data, options = batches(family, examples(5), 2), Options(seed=4)
    first, second = (
        score(model, architecture, units, data, criterion, options, general=data[:1]).scores for _ in range(2)
    )
    assert all(torch.equal(first[site], second[site]) for site in first)


def test_random_scores_differ_by_seed_and_by_layer() -> None:
    model = TINY["llama"]()
    drawn = [score(model, ARCHITECTURES["llama"], ["ffn"], [], "random", Options(seed=seed)).scores for seed in (0, 1)]
    rows = [scores for draw in drawn for scores in draw.values()]
    assert len({tuple(row.tolist()) for row in rows}) == len(rows)


def test_neuron_without_effect_has_score_zero() -> None:
    model = TINY["llama"]()
    model.get_parameter("model.layers.1.mlp.down_proj.weight").data[:, 5] = 0
    data = batches("llama", examples(3), 3)
    scores = score(model, ARCHITECTURES["llama"], ["ffn"], data, "attribution", Options()).scores
    assert (scores[Site("decoder", 1, "ffn")] == 0).nonzero().flatten().tolist() == [5]


def test_scoring_leaves_the_model_unchanged() -> None:
    model = TINY["llama"]().train()
    frozen = model.get_submodule("model.layers.0")
    frozen.requires_grad_(False).eval()
    required = [parameter.requires_grad for parameter in model.parameters()]
    score(model, ARCHITECTURES["llama"], ["ffn"], batches("llama", examples(3), 3), "attribution", Options())
    assert required == [parameter.requires_grad for parameter in model.parameters()]
    assert model.training
    assert not frozen.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_progress_counts_examples() -> None:
    reported: list[int] = []
    model = TINY["llama"]()
    data = batches("llama", examples(5, longest_candidate=2), 2)
    score(model, ARCHITECTURES["llama"], ["ffn"], data, "attribution", Options(), reported.append)
    assert reported == [2, 4, 5]


def test_progress_includes_the_work_after_the_last_example_and_can_end_it() -> None:
    reported: list[int] = []

    def hear(done: int) -> None:
        reported.append(done)
        if done == 9:
            raise InterruptedError

    model, data = TINY["llama"](), batches("llama", examples(12), 4)
    arguments = (model, ARCHITECTURES["llama"], ["ffn"], data, "surgeon", Options())
    score(*arguments, reported.append)
    assert reported == [2, 4, 6, 9, 12]  # three batches, then two layers
    with pytest.raises(InterruptedError):
        score(*arguments, hear)
    assert reported[5:] == [2, 4, 6, 9]
