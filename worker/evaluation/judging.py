"""The metrics of a model on a task, as the result of a job has them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp

import torch
from scipy.stats import binomtest

from service.contract.answers.result import Estimate, Metrics
from service.contract.options import METRICS, Supervision, TaskKind, TaskMetric
from worker.data.examples import Example
from worker.evaluation import similarities
from worker.evaluation.answers import Answers
from worker.evaluation.bootstrap import CONFIDENCE, estimate, metric_of

SHARES = (
    TaskMetric.accuracy,
    TaskMetric.exact_match,
    TaskMetric.recall_at_10,
)  # shares of rows, whose interval has a closed form
MIN_WORDS = 8
NGRAM = 3


def judge(metric: TaskMetric, answers: Answers, examples: Sequence[Example], judged_by: Supervision) -> Metrics:
    """The metrics of a model from its answers to the rows."""
    found = Metrics(
        examples=len(examples), judged_by=judged_by, metric=metric, value=_estimate(metric, answers, examples)
    )
    return found.model_copy(update=_more(metric, answers)(metric, answers, examples))


def _more(
    metric: TaskMetric, answers: Answers
) -> Callable[[TaskMetric, Answers, Sequence[Example]], dict[str, object]]:
    """The function that computes the other figures of such answers."""
    if metric in similarities.OF_EMBEDDINGS:
        return similarities.other_figures
    if metric in METRICS[TaskKind.generation]:
        return _of_texts
    if answers.scores.target_EL is None:
        return _of_labels
    return _of_numbers if metric in METRICS[TaskKind.regression] else _of_decisions


def _estimate(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> Estimate:
    """The metric with its interval: that of Wilson for a share of rows, else by bootstrap."""
    if metric not in SHARES:
        return estimate(metric, answers, examples)
    return wilson(round(metric_of(metric, answers, examples) * len(examples)), len(examples))


def wilson(count: int, total: int) -> Estimate:
    """`count` of `total` as a share with its 95 % Wilson interval."""
    interval = binomtest(count, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=count / total, low=interval.low, high=interval.high)


def _of_labels(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> dict[str, object]:
    score_EL, answer_E = answers.scores.score_EL, answers.scores.answer_E
    [(most_frequent, count)] = Counter(answer_E.tolist()).most_common(1)
    preference_L = torch.nn.functional.one_hot(torch.tensor(most_frequent), score_EL.shape[1]).double()
    constant = replace(answers, scores=replace(answers.scores, score_EL=preference_L.expand_as(score_EL)))
    return {
        "raw": _estimate(metric, answers.raw, examples),
        "constant": metric_of(metric, constant.raw, examples),
        "majority": count / len(answer_E),
        "log_likelihood": score_EL.gather(1, answer_E.unsqueeze(1)).mean().item(),
    }


def _of_decisions(metric: TaskMetric, answers: Answers, examples: Sequence[Example]) -> dict[str, object]:
    scores, target_EL = answers.scores, answers.scores.target_EL
    assert target_EL is not None
    most_frequent = int(target_EL.sum(dim=0).argmax())
    alone_L = 2 * torch.nn.functional.one_hot(torch.tensor(most_frequent), target_EL.shape[1]).double() - 1
    constant = Answers(replace(scores, score_EL=alone_L.expand_as(scores.score_EL)))
    log_odds_EL = (2 * target_EL - 1) * scores.score_EL
    return {
        "raw": _estimate(metric, answers.raw, examples),
        "constant": metric_of(metric, constant, examples),
        "majority": target_EL[:, most_frequent].mean().item(),
        "log_likelihood": torch.nn.functional.logsigmoid(log_odds_EL).sum(dim=1).mean().item(),
    }


def _of_numbers(_: TaskMetric, answers: Answers, examples: Sequence[Example]) -> dict[str, object]:
    """The mean squared error, and the correlation of a model that always gives the same number, which is taken as 0.

    The similarity of two texts is on another scale than the numbers of the rows, and has no error.
    """
    scores = answers.scores
    assert scores.target_EL is not None
    if examples[0].second:
        return {"constant": 0.0}
    return {"mean_squared_error": (scores.score_EL - scores.target_EL).square().mean().item(), "constant": 0.0}


def _of_texts(_: TaskMetric, answers: Answers, examples: Sequence[Example]) -> dict[str, object]:
    """The mean log P of the target's tokens, the end included, and how often generated texts are empty and repeat
    themselves. The tokens of a plain text are its target, and none is generated for it."""
    tokens = sum(len(example.candidates[0]) for example in examples)
    likelihood = answers.scores.score_EL.sum().item() / tokens
    found: dict[str, object] = {"token_log_likelihood": likelihood, "perplexity": exp(-likelihood)}
    if answers.texts is None:
        return found
    return found | {
        "empty": sum(not text.strip() for text in answers.texts) / len(answers.texts),
        "repetition": sum(map(repeats_itself, answers.texts)) / len(answers.texts),
    }


def repeats_itself(text: str) -> bool:
    """Whether more than half of a text's word trigrams occur earlier in it (rep-3 of Welleck et al., arXiv 1908.04319).

    False for texts of fewer than eight words.
    """
    words = text.split()
    grams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    return len(words) >= MIN_WORDS and len(set(grams)) < len(grams) / 2
