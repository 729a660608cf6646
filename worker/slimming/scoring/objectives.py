"""Objectives: the scalar of an example whose gradient is taken, and the scores of its candidate answers.

Shape suffixes: B rows of a batch, T positions, V vocabulary entries or classes, E examples, L labels,
Q questions (an example, or each word of a tagged one), P scored positions (where a distribution is needed),
M scored tokens (one per token of every candidate).
A row belongs to one example. An example has one row if each of its candidates is one token long, since one distribution
scores them all, and one row per candidate otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from worker.slimming.scoring import embeddings


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right to one length, and the positions at which their candidate answers are scored.

    `inputs` are the keyword arguments of the model. `masks` has, for each stack, a mask of the tokens that are not
    padding: bool (B, T).
    """

    inputs: dict[str, Tensor]
    masks: dict[str, Tensor]
    example_B: Tensor  # the example of each row
    row_P: Tensor  # the row of each scored position
    position_P: Tensor  # its index along the logits' position axis
    place_M: Tensor  # the scored position, an index into P, of each scored token
    token_M: Tensor  # the vocabulary entry or class that is scored there
    question_M: Tensor
    label_M: Tensor
    right_Q: Tensor  # index of the right label
    example_Q: Tensor  # the example of each question
    index_E: Tensor  # index of the example in the data set; batches are sorted by length
    num_labels: int
    target_EL: Tensor | None = None  # right outputs of a head whose outputs are taken as they are, float64 (E, L)
    pooling: str = ""  # of texts that are embedded: each row is a text, and the tensors on scored positions are empty
    is_tagged: bool = False  # whether the questions are the words of tagged texts
    objective: str = ""  # in place of the one that is asked for, where the rows are of another kind of task
    weight: float = 1.0  # of each token, relative to the tokens of other batches
    gradient_scale: float = 1.0  # what the objective is multiplied with

    @property
    def num_examples(self) -> int:
        return self.index_E.numel()

    def to(self, device: torch.device) -> "Batch":
        """The batch with every tensor on `device`."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device)
            elif isinstance(value, dict):
                moved[field.name] = {name: tensor.to(device) for name, tensor in value.items()}
        return replace(self, **moved)


def token_scores(model: nn.Module, batch: Batch) -> Tensor:
    """log P(token | the tokens before it) of every scored token, float32 (M); the outputs of a head for its candidates
    where the batch has targets for them; or the numbers of all embeddings, row by row."""
    if batch.pooling:
        return embeddings.embed(model, batch.inputs, batch.masks["encoder"], batch.pooling).flatten()
    logits_PV = scored_logits(model, batch).float()
    score_PV = logits_PV.log_softmax(dim=-1) if batch.target_EL is None else logits_PV
    return score_PV[batch.place_M, batch.token_M]


def scored_logits(model: Any, batch: Batch) -> Tensor:
    """The logits at the scored positions (P, V). No others are computed.

    The logits of a vocabulary at every position would take a third of the time of a small model's forward pass, and
    most of its memory.
    """
    vocabulary_head = model.get_output_embeddings()
    if vocabulary_head is None:  # a classification head: one distribution per row, or one per position
        class_logits: Tensor = model(**batch.inputs).logits
        return class_logits[batch.row_P] if class_logits.dim() == 2 else class_logits[batch.row_P, batch.position_P]
    handle = vocabulary_head.register_forward_pre_hook(lambda module, args: args[0][batch.row_P, batch.position_P])
    try:
        logits: Tensor = model(**batch.inputs).logits
    finally:
        handle.remove()
    return logits


def candidate_scores(score_M: Tensor, batch: Batch) -> Tensor:
    """log P(candidate | prompt), the sum over the candidate's tokens; or the output for each candidate (Q, L).

    Of embedded texts the embeddings of each example, one behind the other (E, L).
    """
    if batch.pooling:
        return score_M.reshape(batch.num_examples, -1)
    flat_M, questions = batch.question_M * batch.num_labels + batch.label_M, batch.right_Q.numel()
    total = score_M.new_zeros(questions * batch.num_labels)
    return total.index_add(0, flat_M, score_M).reshape(questions, batch.num_labels)


def _of_right_answer(value_M: Tensor, batch: Batch) -> Tensor:
    """Sum of `value_M` over the tokens of each example's right answers (E)."""
    right_M = batch.label_M == batch.right_Q[batch.question_M]
    return _by_example(value_M[right_M], batch.question_M[right_M], batch)


def _by_example(value_N: Tensor, question_N: Tensor, batch: Batch) -> Tensor:
    return value_N.new_zeros(batch.num_examples).index_add(0, batch.example_Q[question_N], value_N)


def _log_odds_M(output_M: Tensor, batch: Batch) -> Tensor:
    """log(P(right decision) / P(wrong decision)) of each label, where several may be right: its output or the negative
    of it (M)."""
    assert batch.target_EL is not None
    return (2 * batch.target_EL[batch.question_M, batch.label_M].to(output_M.dtype) - 1) * output_M


def probability(score_M: Tensor, batch: Batch) -> Tensor:
    """Sum over the answer's tokens of P(token), as in the paper, as far as it says (arXiv 2205.04157) (E).

    Where several labels may be right, the decisions on all labels take the place of the tokens; of a tagged text, the
    tags of its words do. So it is below.
    """
    if batch.target_EL is not None:
        return _by_example(_log_odds_M(score_M, batch).sigmoid(), batch.question_M, batch)
    return _of_right_answer(score_M.exp(), batch)


def log_probability(score_M: Tensor, batch: Batch) -> Tensor:
    """log P(answer) = sum over its tokens of log P(token) (E)."""
    if batch.target_EL is not None:
        return _by_example(nn.functional.logsigmoid(_log_odds_M(score_M, batch)), batch.question_M, batch)
    return _of_right_answer(score_M, batch)


def sequence_probability(score_M: Tensor, batch: Batch) -> Tensor:
    """P(answer), the product over its tokens of P(token) (E)."""
    return log_probability(score_M, batch).exp()


def margin(score_M: Tensor, batch: Batch) -> Tensor:
    """log P(right label) - max over wrong labels of log P(label) (E); needs two labels or more.

    The logarithm of the sum over the vocabulary cancels, so that the gradient depends on the choice between the labels
    and not on how likely the answer format is. Where several labels may be right, it is the sum over the labels of the
    log-odds of the right decision: like the margin it does not fade where the model is sure. Of a tagged text it is the
    sum over its words.
    """
    if batch.target_EL is not None:
        return _by_example(_log_odds_M(score_M, batch), batch.question_M, batch)
    score_QL = candidate_scores(score_M, batch)
    right_QL = torch.nn.functional.one_hot(batch.right_Q, batch.num_labels).bool()
    best_wrong_Q = score_QL.masked_fill(right_QL, -torch.inf).amax(dim=1)
    margin_Q = score_QL.gather(1, batch.right_Q.unsqueeze(1)).squeeze(1) - best_wrong_Q
    return _by_example(margin_Q, torch.arange(margin_Q.numel(), device=margin_Q.device), batch)


def output(output_M: Tensor, batch: Batch) -> Tensor:
    """The one output of a regression head (E).

    The mean of its squared gradients is the Fisher information of a number with normal errors. The squared error itself
    would count rows by their residuals, and rows that the model predicts well not at all.
    """
    return _of_right_answer(output_M, batch)


def projection(embedding_M: Tensor, batch: Batch) -> Tensor:
    """The normalised embedding of each text along a random direction, summed over the texts of an example (E)."""
    return embeddings.projection(embedding_M.view(len(batch.example_B), -1), batch.index_E)


def entropy(score_M: Tensor, batch: Batch) -> Tensor:
    """-sum over labels of P(label) log P(label), with P over the candidates alone (E); needs no right answer.

    After HFPrune (2026), which takes the entropy of the model's own distribution in place of a loss on labels. Where
    several labels may be right it is the sum over the labels of the entropy of the decision, of a tagged text the sum
    over its words.
    """
    if batch.target_EL is not None:
        decision_M = -(score_M.sigmoid() * nn.functional.logsigmoid(score_M))
        decision_M = decision_M - (-score_M).sigmoid() * nn.functional.logsigmoid(-score_M)
        return _by_example(decision_M, batch.question_M, batch)
    log_P_QL = candidate_scores(score_M, batch).log_softmax(dim=1)
    entropy_Q = -(log_P_QL.exp() * log_P_QL).sum(dim=1)
    return _by_example(entropy_Q, torch.arange(entropy_Q.numel(), device=entropy_Q.device), batch)


def entropy_of_tokens(log_P_PV: Tensor, batch: Batch) -> Tensor:
    """Sum over the tokens of a text of the entropy of the distribution that the model gives in its place (E)."""
    entropy_P = -(log_P_PV.exp() * log_P_PV).sum(dim=1)
    return _by_example(entropy_P[batch.place_M], batch.question_M, batch)


OBJECTIVES: dict[str, Callable[[Tensor, Batch], Tensor]] = {
    "probability": probability,
    "sequence_probability": sequence_probability,
    "log_probability": log_probability,
    "margin": margin,
    "output": output,
    "projection": projection,
    "entropy": entropy,
}


def objective_values(model: nn.Module, batch: Batch, objective: str) -> Tensor:
    """The named objective of every example of a batch, or the batch's own, times its scale, from a forward pass (E).

    A text has one candidate, so that its entropy is that of the whole vocabulary.
    """
    name = batch.objective or objective
    if name == "entropy" and batch.num_labels == 1 and batch.target_EL is None:
        value_E = entropy_of_tokens(scored_logits(model, batch).float().log_softmax(dim=-1), batch)
    else:
        value_E = OBJECTIVES[name](token_scores(model, batch), batch)
    return batch.gradient_scale * value_E
