"""What the embeddings of texts are judged by: cosine similarities, and the nearest second texts.

Shape suffixes: E examples, L numbers of an example: its embedding, or that of its first text and then of its second;
D size of an embedding, N different second texts.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from service.contract.options import TaskMetric
from service.rows.second_texts import NEAREST, OF_NUMBERS
from worker.data.examples import Example
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers

OF_EMBEDDINGS = (TaskMetric.cosine_similarity, TaskMetric.recall_at_10)  # metrics of embeddings alone
CHUNK = 2**24  # similarities that are in memory at once


def as_answers(embeddings: AnswerScores, metric: TaskMetric) -> AnswerScores:
    """What a model answers: where a number is right for two texts, their cosine similarity, else the embeddings."""
    if metric not in OF_NUMBERS:
        return embeddings
    first_ED, second_ED = embeddings.score_EL.chunk(2, dim=1)
    return replace(embeddings, score_EL=cosine_E(first_ED, second_ED).unsqueeze(1))


def cosine_E(first_ED: Tensor, second_ED: Tensor) -> Tensor:
    """The cosine similarity of each two embeddings."""
    return (normalize(first_ED, dim=1) * normalize(second_ED, dim=1)).sum(1).clamp(-1, 1)


def cosine_to_dense_EK(answers: Answers, examples: Sequence[Example]) -> NDArray[np.float64]:
    """The cosine similarity of each row's embedding and that of the dense model; their mean where there are two."""
    target_EL = answers.scores.target_EL
    assert target_EL is not None
    texts = 2 if examples[0].second else 1
    pairs = zip(answers.scores.score_EL.chunk(texts, dim=1), target_EL.chunk(texts, dim=1), strict=True)
    cosines = torch.stack([cosine_E(own_ED, dense_ED) for own_ED, dense_ED in pairs])
    return np.asarray(cosines.mean(dim=0).unsqueeze(1).numpy())


def recalled_EK(answers: Answers, examples: Sequence[Example]) -> NDArray[np.float64]:
    """1 for each row whose second text is among the NEAREST of all rows by the cosine to its first text, else 0.

    A second text that several rows have counts once.
    """
    first_ED, second_ED = (normalize(half_ED, dim=1) for half_ED in answers.scores.score_EL.chunk(2, dim=1))
    place_of: dict[tuple[int, ...], int] = {}
    own_E = torch.tensor([place_of.setdefault(example.second, len(place_of)) for example in examples])
    representative_N = torch.full((len(place_of),), len(examples)).scatter_reduce(
        0, own_E, torch.arange(len(examples)), "amin"
    )
    candidate_ND = second_ED[representative_N]
    rows = max(1, CHUNK // len(place_of))
    found = []
    for part_ED, own_P in zip(first_ED.split(rows), own_E.split(rows), strict=True):
        similarity_PN = part_ED @ candidate_ND.T
        nearer_P = (similarity_PN > similarity_PN.gather(1, own_P.unsqueeze(1))).sum(1)
        found.append(nearer_P < NEAREST)
    return np.asarray(torch.cat(found).double().unsqueeze(1).numpy())


def other_figures(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> dict[str, object]:
    """The metric of a model that embeds all texts alike.

    Its embedding is the one that is nearest to those of the dense model. Of N second texts that are all as near, ten
    are found by chance.
    """
    if metric is TaskMetric.recall_at_10:
        return {"constant": min(1.0, NEAREST / len({example.second for example in examples}))}
    target_EL = answers.scores.target_EL
    assert target_EL is not None
    target_ND = torch.cat(target_EL.chunk(2 if examples[0].second else 1, dim=1))
    return {"constant": normalize(target_ND, dim=1).mean(dim=0).norm().item()}
