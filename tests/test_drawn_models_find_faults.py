"""The property of test_drawn_models.py fails without the code that holds it: each case takes one part away.

Every part stands for a way in which a wrong model once left, or a wrong figure was reported, without a word. Files that
the draws do not have are tested elsewhere: GGUF (tests/worker/sources/test_gguf.py), weights that overflow
(tests/worker/slimming/scoring/test_finite.py) and runtimes (tests/test_other_software.py).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from random import Random
from typing import Any, NamedTuple

import pytest
import torch
from transformers import PreTrainedModel

from service.planning import feasibility
from tests import test_drawn_models
from tests.support.tiny_models import TINY, tiny_family
from tests.test_drawn_models import check, drawn_job, timed_twice
from worker.checkpoints import loading, older_readers, weights
from worker.checkpoints.adapters import merging as adapters
from worker.data import batching, wordings
from worker.evaluation import generation
from worker.reporting import artifacts

pytestmark = pytest.mark.slow
__all__ = ["timed_twice"]  # a fixture of this module too

Undo = Callable[[pytest.MonkeyPatch], None]
DRAWS = 150  # at most, until one fails


def nothing(*_: Any, **__: Any) -> None:
    """In place of a check."""


def tie_as_the_config_says(model: PreTrainedModel) -> None:
    if model.config.tie_word_embeddings and (head := model.get_output_embeddings()) is not None:
        head.weight = model.get_input_embeddings().weight


def no_opening(tokenizer: Any) -> tuple[wordings.Tokens, wordings.Tokens]:
    return (), ()


def undo_tying(patch: pytest.MonkeyPatch) -> None:
    """A head of its own is overwritten by the embedding where config.json says that they are tied."""
    patch.setattr(loading, "settle_tying", tie_as_the_config_says)


def undo_untying(patch: pytest.MonkeyPatch) -> None:
    """An adapter of one of two tied weights is merged into both."""
    patch.setattr(adapters, "untie", nothing)
    patch.setattr(adapters, "_compare", nothing)


def undo_tensor_checks(patch: pytest.MonkeyPatch) -> None:
    """Tensors that the model does not use are left out."""
    for module, name in ((weights, "_check_all_used"), (weights, "_check_complete"), (adapters, "_check_all_used")):
        patch.setattr(module, name, nothing)
    patch.setattr(feasibility, "check_tensors", nothing)


def undo_greedy(patch: pytest.MonkeyPatch) -> None:
    """Texts are generated as generation_config.json says."""
    patch.setattr(generation, "_without_generation_config", lambda model: nullcontext())


def undo_older_rope(patch: pytest.MonkeyPatch) -> None:
    """config.json has the rope fields of transformers 5 alone."""
    patch.setattr(older_readers, "old_rope_fields", lambda config: {})


def undo_special_tokens(patch: pytest.MonkeyPatch) -> None:
    """Prompts go without the beginning-of-sequence token that the tokenizer adds."""
    patch.setattr(wordings, "special_frame", no_opening)


def undo_padding(patch: pytest.MonkeyPatch) -> None:
    """The padding token is the one of config.json, whatever it is."""

    def unchecked(model: PreTrainedModel, tokenizer: Any, kind: Any) -> batching.Padding:
        return batching.Padding(kind, model.config.pad_token_id, **frame(model, tokenizer, kind))

    def frame(model: PreTrainedModel, tokenizer: Any, kind: Any) -> dict[str, Any]:
        found = vars(original(model, tokenizer, kind))
        return {name: value for name, value in found.items() if name not in ("kind", "pad")}

    original = batching.padding
    patch.setattr(batching, "padding", unchecked)


def undo_head_bias(patch: pytest.MonkeyPatch) -> None:
    """The label offsets of a classification head do not reach its bias."""
    patch.setattr(artifacts, "add_to_bias", lambda model, offset_V, dtype: torch.zeros_like(offset_V))


class Case(NamedTuple):
    """A part to take away, and the families that it concerns."""

    undo: Undo
    names: tuple[str, ...] = tuple(TINY)


CASES = (
    Case(undo_tying),
    Case(undo_untying),
    Case(undo_tensor_checks),
    Case(undo_greedy),
    Case(undo_older_rope),
    Case(undo_special_tokens),
    Case(undo_padding),
    Case(undo_head_bias, names=tuple(name for name in TINY if tiny_family(name).kind == "classifier")),
)


def first_failure(names: Sequence[str]) -> int | None:
    """The seed of the first drawn job that fails; None if all draws agree."""
    for seed in range(DRAWS):
        try:
            check(drawn_job(Random(seed), names))
        except Exception:  # whatever a missing part leads to: the test then runs the draw with the part in place
            return seed
    return None


@pytest.mark.parametrize("case", CASES, ids=[case.undo.__name__ for case in CASES])
def test_property_fails_without(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_drawn_models, "note", nothing)  # of Hypothesis, which does not draw here
    with pytest.MonkeyPatch.context() as patch:
        case.undo(patch)
        seed = first_failure(case.names)
    assert seed is not None
    check(drawn_job(Random(seed), case.names))
