"""The scores that a model gives to candidate answers: log P(candidate | prompt).

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from worker.slimming.scoring.objectives import Batch, answer_log_probabilities, token_log_probabilities


@dataclass(frozen=True)
class AnswerScores:
    """log P(candidate | prompt) of the candidates of every example (E, L), and the index of the right one (E).

    The examples are in the order of the data set, the tensors in float64 and int64 on the CPU.
    """

    log_probability_EL: Tensor
    answer_E: Tensor


def score(model: PreTrainedModel, batches: Sequence[Batch], on_examples: Callable[[int], None]) -> AnswerScores:
    """The scores of every example's candidates. `on_examples` is called after each batch with the number done.

    Raises InvalidModel where an output of the model is not finite.
    """
    done, parts = 0, []
    for batch in batches:
        with torch.inference_mode():
            log_probability_M = token_log_probabilities(model, batch.to(model.device))
            parts.append(answer_log_probabilities(log_probability_M.double().cpu(), batch))
        done += batch.num_examples
        on_examples(done)
    score_EL = torch.cat(parts)
    if not score_EL.isfinite().all():
        raise InvalidModel("the model's outputs are not finite numbers", param="model.uri")
    order_E = torch.cat([batch.index_E for batch in batches]).argsort()
    answer_E = torch.cat([batch.answer_E for batch in batches])[order_E]
    return AnswerScores(score_EL[order_E], answer_E)
