"""The scores that a model gives to candidate answers: log P(candidate | prompt), or the outputs of its head.

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from worker.slimming.architectures import architecture_of
from worker.slimming.repair.layer_runner import layers_returning
from worker.slimming.scoring.objectives import Batch, candidate_scores, token_scores
from worker.slimming.units.layers import layers_of


@dataclass(frozen=True)
class AnswerScores:
    """log P(candidate | prompt) of the candidates of every example (E, L), and the index of the right one (E).

    Where the outputs of a head are taken as they are, the scores are these outputs, and `target_EL` has the right ones.
    Of tagged texts E counts the words, and `words_R` has the number of words of each row (R). The rows are in the order
    of the data set, the tensors in float64 and int64 on the CPU.
    """

    score_EL: Tensor
    answer_E: Tensor
    target_EL: Tensor | None = None
    words_R: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.answer_E if self.words_R is None else self.words_R)

    def of_rows(self, rows: list[int]) -> "AnswerScores":
        """The scores of some of the rows."""
        if self.words_R is not None:
            first_R = self.words_R.cumsum(dim=0) - self.words_R
            words = [torch.arange(int(self.words_R[row])) + first_R[row] for row in rows]
            word_E = torch.cat(words) if words else torch.empty(0, dtype=torch.long)
            return AnswerScores(self.score_EL[word_E], self.answer_E[word_E], words_R=self.words_R[rows])
        return AnswerScores(
            self.score_EL[rows], self.answer_E[rows], None if self.target_EL is None else self.target_EL[rows]
        )


def concatenated(parts: Sequence[AnswerScores]) -> AnswerScores:
    """The scores of the rows of all parts, in their order."""
    targets = [part.target_EL for part in parts if part.target_EL is not None]
    words = [part.words_R for part in parts if part.words_R is not None]
    return AnswerScores(
        torch.cat([part.score_EL for part in parts]),
        torch.cat([part.answer_E for part in parts]),
        torch.cat(targets) if targets else None,
        torch.cat(words) if words else None,
    )


def score(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    on_examples: Callable[[int], None],
    states: Sequence[Tensor] | None = None,
) -> AnswerScores:
    """The scores of every example's candidates. `on_examples` is called after each batch with the number done.

    `states` are the hidden states behind the last layer of a model with one stack (B, T, D), batch by batch, where they
    are known: then the layers are not computed. Raises InvalidModel where an output of the model is not finite.
    """
    done, parts = 0, []
    for number, batch in enumerate(batches):
        known = nullcontext() if states is None else _behind_layers(model, states[number])
        with torch.inference_mode(), known:
            score_M = token_scores(model, batch.to(model.device))
            score_EL = candidate_scores(score_M.double().cpu(), batch)
        words_R = torch.bincount(batch.example_Q, minlength=batch.num_examples) if batch.is_tagged else None
        parts.append(AnswerScores(score_EL, batch.right_Q, batch.target_EL, words_R))
        done += batch.num_examples
        on_examples(done)
    whole = concatenated(parts)
    if not whole.score_EL.isfinite().all():
        raise InvalidModel("the model's outputs are not finite numbers", param="model.uri")
    return whole.of_rows(torch.cat([batch.index_E for batch in batches]).argsort().tolist())


def _behind_layers(model: PreTrainedModel, states_BTD: Tensor) -> AbstractContextManager[None]:
    [stack] = architecture_of(model).stacks
    return layers_returning(layers_of(model, stack), states_BTD.to(model.device))
