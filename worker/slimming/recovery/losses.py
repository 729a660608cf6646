"""The losses of a recovery: how far a model's outputs are from the right answers, and from those of a teacher.

The teacher is the dense model. Its distribution p and that of the model q are compared by the divergence
KL(p | q) = sum p (log p - log q) (Hinton, Vinyals and Dean 2015, arXiv 1503.02531, without a temperature). Of labels, p
and q are distributions over the candidate answers, by which a model is judged; of generated texts, over the vocabulary
at every token of the answer.

Shape suffixes are those of `worker.slimming.scoring.objectives`, and: N terms of a loss (a question, a token of a text
or an embedded text), D numbers of an embedding.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worker.slimming.scoring import embeddings
from worker.slimming.scoring.objectives import Batch, candidate_scores, scored_logits, token_scores


class TaskLoss(NamedTuple):
    """The outputs of a model that a kind of task is trained by, and their two losses (N)."""

    outputs: Callable[[nn.Module, Batch], Tensor]
    from_answers: Callable[[Tensor, Batch], Tensor] | None  # of the outputs and the right answers
    from_teacher: Callable[[Tensor, Tensor], Tensor]  # of the outputs and the teacher's


def mixed(loss: TaskLoss, model: nn.Module, batch: Batch, teacher: Tensor | None, label_weight: float) -> Tensor:
    """label_weight * loss of the answers + (1 - label_weight) * loss of the teacher's outputs (N).

    A part with the weight zero is not computed. Raises ValueError where a part lacks what it needs.
    """
    outputs, parts = loss.outputs(model, batch), []
    if label_weight > 0:
        if loss.from_answers is None:
            raise ValueError("these rows have no right answers")
        parts.append(label_weight * loss.from_answers(outputs, batch))
    if label_weight < 1:
        if teacher is None:
            raise ValueError("the outputs of the teacher are missing")
        parts.append((1 - label_weight) * loss.from_teacher(outputs, teacher.to(outputs)))
    return torch.stack(parts).sum(dim=0)


def candidates(model: nn.Module, batch: Batch) -> Tensor:
    """log P(candidate | prompt) of every candidate, or the output of the head for it (Q, L)."""
    return candidate_scores(token_scores(model, batch), batch)


def vocabulary(model: nn.Module, batch: Batch) -> Tensor:
    """log P(token) over the vocabulary at every token of the answers (M, V). Each row has one answer."""
    return scored_logits(model, batch).float().log_softmax(dim=-1)[batch.place_M]


def embedded(model: nn.Module, batch: Batch) -> Tensor:
    """The embedding of every text (B, D)."""
    return embeddings.embed(model, batch.inputs, batch.masks["encoder"], batch.pooling)


def _label_entropy(score_QL: Tensor, batch: Batch) -> Tensor:
    """-log P(right label among the labels) (Q)."""
    return F.cross_entropy(score_QL, batch.right_Q, reduction="none")


def _label_divergence(score_QL: Tensor, teacher_QL: Tensor) -> Tensor:
    """KL of the distributions over the labels (Q)."""
    logs = score_QL.log_softmax(dim=-1), teacher_QL.log_softmax(dim=-1)
    return F.kl_div(*logs, reduction="none", log_target=True).sum(dim=-1)


def _decision_entropy(output_EL: Tensor, batch: Batch) -> Tensor:
    """-sum over the labels of log P(right decision) (E)."""
    assert batch.target_EL is not None
    targets_EL = batch.target_EL.to(output_EL)
    return F.binary_cross_entropy_with_logits(output_EL, targets_EL, reduction="none").sum(dim=-1)


def _decision_divergence(output_EL: Tensor, teacher_EL: Tensor) -> Tensor:
    """Sum over the labels of the KL of the two decisions on it (E)."""
    p_EL = teacher_EL.sigmoid()
    entropies = (F.binary_cross_entropy_with_logits(each, p_EL, reduction="none") for each in (output_EL, teacher_EL))
    cross_EL, own_EL = entropies
    return (cross_EL - own_EL).sum(dim=-1)


def _squared_error(output_EL: Tensor, batch: Batch) -> Tensor:
    """(output - right number)² (E)."""
    assert batch.target_EL is not None
    return _squared_distance(output_EL, batch.target_EL.to(output_EL))


def _squared_distance(output_EL: Tensor, other_EL: Tensor) -> Tensor:
    return (output_EL - other_EL).square().sum(dim=-1)


def _token_entropy(log_MV: Tensor, batch: Batch) -> Tensor:
    """-log P(token) of every token of the answers (M)."""
    return -log_MV.gather(1, batch.token_M.unsqueeze(1)).squeeze(1)


def _cosine_distance(embedding_BD: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of each text's two embeddings (B)."""
    return 1 - F.cosine_similarity(embedding_BD, teacher.reshape(embedding_BD.shape), dim=1)


_LABELS = TaskLoss(candidates, _label_entropy, _label_divergence)
_TEXTS = TaskLoss(vocabulary, _token_entropy, _label_divergence)

# Kind of task -> its losses.
LOSSES: dict[str, TaskLoss] = {
    "classification": _LABELS,
    "token_classification": _LABELS,
    "multi_label": TaskLoss(candidates, _decision_entropy, _decision_divergence),
    "regression": TaskLoss(candidates, _squared_error, _squared_distance),
    "generation": _TEXTS,
    "language_modelling": _TEXTS,
    "embedding": TaskLoss(embedded, None, _cosine_distance),
}
