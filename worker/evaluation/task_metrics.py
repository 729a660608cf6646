"""The metrics of tasks, each as a function of how often each outcome of a row is there, so that resampled rows give it.

Most are functions of sums over rows: of statistics of the outcomes, and `link`: metric = link(sum of the statistics).
Label metrics count, for each label, its rows, its answers and those of its answers that are right; from these counts
they are what scikit-learn computes from the rows (a test compares them). The scores of texts are those of torchmetrics
(SQuAD, ROUGE) and sacreBLEU (chrF, which takes torchmetrics fifty times as long), averaged over the rows. Where a row
has several right texts, each of these libraries scores the text by the one that it comes nearest to.

Entities are those that seqeval reads from tags (a test compares its F1 score). The correlations of a regression are
those of scipy (a test compares them). Ranks are computed again in every resample.

Shape suffixes: E examples, C distinct outcomes, B resamples, L labels, K columns of an outcome, S statistics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from service.contract.options import TaskMetric
from worker.data.examples import Example
from worker.evaluation import similarities
from worker.evaluation.answers import Answers

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Figure = Callable[[Counts], Array]  # how often each outcome is there (B, C) -> the metric (B)

PRIOR_WEIGHT = 0.5  # of a row
ROUNDING = 1e-12  # relative to its terms, a difference of at most this is none


@dataclass(frozen=True)
class Formula:
    """How a metric follows from the answers of a model."""

    outcome_EK: Callable[[Answers, Sequence[Example]], Array]
    figure: Callable[[Array], Figure]  # of outcomes (C, K)
    # (outcomes of both models (C, 2 K), their weights (C)) that are added to the rows when these are resampled
    prior: Callable[[Array], tuple[Array, Array]]
    needs_texts: bool = False  # generated ones
    needs_all_rows: bool = False  # whether the figure of some of the rows does not estimate that of all


def _of_sums(statistics_CS: Callable[[Array], Any], link: Callable[[Array], Array]) -> Callable[[Array], Figure]:
    """The figure link(sum of the statistics), where `link` is (B, S) -> (B). Statistics may be a sparse array."""

    def figure(outcome_CK: Array) -> Figure:
        statistic_CS = statistics_CS(outcome_CK)
        return lambda count_BC: link(np.asarray(count_BC @ statistic_CS, dtype=float))

    return figure


# --- labels --------------------------------------------------------------------------------------------------------


def _label_outcomes_EK(answers: Answers, examples: Sequence[Example]) -> Array:
    """(the right label, the answer) as indices."""
    right_E, answer_E = (labels_E.numpy().astype(float) for labels_E in (answers.scores.answer_E, answers.label_E))
    return np.stack([right_E, answer_E], axis=1)


def _label_counts_CS(outcome_CK: Array) -> Any:
    """For each label whether it is (the answer and right, the answer, right), S = 3 L."""
    right_C, answer_C = outcome_CK.astype(int).T
    count, labels = len(outcome_CK), int(outcome_CK.max()) + 1
    is_hit_C = right_C == answer_C
    rows = np.concatenate([np.flatnonzero(is_hit_C), np.arange(count), np.arange(count)])
    columns = np.concatenate([right_C[is_hit_C], labels + answer_C, 2 * labels + right_C])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(count, 3 * labels))


def _ratio(numerator: Array, denominator: Array) -> Array:
    """The quotient; zero where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def accuracy(sum_BS: Array) -> Array:
    """The share of right answers."""
    hits_BL, _, right_BL = np.split(sum_BS, 3, axis=1)
    return _ratio(hits_BL.sum(axis=1), right_BL.sum(axis=1))


def balanced_accuracy(sum_BS: Array) -> Array:
    """The mean over the labels that occur of the share of their rows that are answered rightly."""
    hits_BL, _, right_BL = np.split(sum_BS, 3, axis=1)
    return _ratio(_ratio(hits_BL, right_BL).sum(axis=1), (right_BL > 0).sum(axis=1).astype(float))


def macro_f1(sum_BS: Array) -> Array:
    """The mean over the labels that occur, or are given, of 2 hits / (answers + rows)."""
    hits_BL, given_BL, right_BL = np.split(sum_BS, 3, axis=1)
    either_BL = given_BL + right_BL
    return _ratio(_ratio(2 * hits_BL, either_BL).sum(axis=1), (either_BL > 0).sum(axis=1).astype(float))


def matthews(sum_BS: Array) -> Array:
    """The correlation of answers and right labels (Gorodkin 2004 for several labels); zero where one is constant."""
    hits_BL, given_BL, right_BL = np.split(sum_BS, 3, axis=1)
    total_B = right_BL.sum(axis=1)
    covariance_B = hits_BL.sum(axis=1) * total_B - (given_BL * right_BL).sum(axis=1)
    spread_B = (total_B**2 - (given_BL**2).sum(axis=1)) * (total_B**2 - (right_BL**2).sum(axis=1))
    return _ratio(covariance_B, np.sqrt(np.maximum(spread_B, 0)))


def _label_prior(outcome_EK: Array) -> tuple[Array, Array]:
    """Half a row for each of the four cases that slim and dense model are right or wrong, its labels as frequent as
    those of the rows. A wrong answer is the most frequent other label."""
    labels, counts = np.unique(outcome_EK[:, 0], return_counts=True)
    absent = [label for label in (0.0, 1.0) if label not in labels]
    by_frequency = [*labels[np.argsort(-counts, kind="stable")], *absent]
    outcomes, weights = [], []
    for label, count in zip(labels, counts, strict=True):
        wrong = next(other for other in by_frequency if other != label)
        outcomes += [[label, slim, label, dense] for slim, dense in product((label, wrong), repeat=2)]
        weights += [PRIOR_WEIGHT * count / len(outcome_EK)] * 4
    return np.array(outcomes), np.array(weights)


def _of_labels(link: Callable[[Array], Array]) -> Formula:
    return Formula(_label_outcomes_EK, _of_sums(_label_counts_CS, link), _label_prior)


# --- several labels --------------------------------------------------------------------------------------------------


def _decision_outcomes_EK(answers: Answers, _: Sequence[Example]) -> Array:
    """For each label whether it is right, then for each whether it is given, K = 2 L."""
    target_EL = answers.scores.target_EL
    assert target_EL is not None
    return np.concatenate([target_EL.numpy(), answers.decision_EL.double().numpy()], axis=1)


def _decision_counts_CS(outcome_CK: Array) -> Any:
    """For each label whether it is (given and right, given, right), S = 3 L, as for a single label."""
    right_CL, given_CL = np.split(outcome_CK, 2, axis=1)
    return csr_array(np.concatenate([right_CL * given_CL, given_CL, right_CL], axis=1))


def micro_f1(sum_BS: Array) -> Array:
    """2 hits / (answers + rows), each summed over the labels."""
    hits_BL, given_BL, right_BL = np.split(sum_BS, 3, axis=1)
    return _ratio(2 * hits_BL.sum(axis=1), (given_BL + right_BL).sum(axis=1))


def _decision_prior(outcome_EK: Array) -> tuple[Array, Array]:
    """As `_label_prior`, with rows of one right label; a wrong answer is the most frequent other label."""
    right_EL, _ = np.split(outcome_EK, 2, axis=1)
    labels = right_EL.shape[1]
    if labels == 1 or not right_EL.any():
        return np.empty((0, 4 * labels)), np.empty(0)
    label_C = right_EL.nonzero()[1].astype(float)
    outcome_CK, weight_C = _label_prior(np.stack([label_C, label_C], axis=1))
    one_hot_LL = np.eye(labels)
    return np.concatenate([one_hot_LL[column_C] for column_C in outcome_CK.astype(int).T], axis=1), weight_C


def _of_decisions(link: Callable[[Array], Array]) -> Formula:
    return Formula(_decision_outcomes_EK, _of_sums(_decision_counts_CS, link), _decision_prior)


# --- tags ------------------------------------------------------------------------------------------------------------


def _entity_outcomes_EK(answers: Answers, examples: Sequence[Example]) -> Array:
    """The numbers of entities of each row that are (given and right, given, right)."""
    from seqeval.metrics.sequence_labeling import get_entities  # slow to import, and needed by few jobs

    def entities(tags: Sequence[int], names: Sequence[str]) -> set[tuple[str, int, int]]:
        return set(get_entities([names[tag] for tag in tags]))

    outcomes = []
    for example, given in zip(examples, _tags_by_row(answers), strict=True):
        right, found = (entities(tags, example.tag_names) for tags in (example.tags, given))
        outcomes.append([len(right & found), len(found), len(right)])
    return np.array(outcomes, dtype=float)


def _tags_by_row(answers: Answers) -> list[list[int]]:
    words_R = answers.scores.words_R
    assert words_R is not None
    return [tag_W.tolist() for tag_W in answers.label_E.split(words_R.tolist())]


def _tag_outcomes_EK(answers: Answers, examples: Sequence[Example]) -> Array:
    """(the words of each row that have the right tag, its words)."""
    pairs = zip(examples, _tags_by_row(answers), strict=True)
    hits = [sum(a == b for a, b in zip(example.tags, given, strict=True)) for example, given in pairs]
    return np.array([[hit, len(example.tags)] for hit, example in zip(hits, examples, strict=True)], dtype=float)


def _entity_prior(_: Array) -> tuple[Array, Array]:
    """Half a row with one entity for each of the four cases that slim and dense model find it or not."""
    return _four_cases((1.0, 1.0, 1.0), (0.0, 0.0, 1.0))


def _tag_prior(_: Array) -> tuple[Array, Array]:
    """Half a row with one word for each of the four cases that slim and dense model give its tag or another."""
    return _four_cases((1.0, 1.0), (0.0, 1.0))


def _four_cases(right: tuple[float, ...], wrong: tuple[float, ...]) -> tuple[Array, Array]:
    """Half a row for each of the cases that slim and dense model have the outcome `right` or `wrong`."""
    cases = [slim + dense for slim, dense in product((right, wrong), repeat=2)]
    return np.array(cases), np.full(len(cases), PRIOR_WEIGHT)


# --- numbers -------------------------------------------------------------------------------------------------------


def _number_outcomes_EK(answers: Answers, _: Sequence[Example]) -> Array:
    """(the right number, the output), each standardised over the rows, which changes no correlation."""
    scores = answers.scores
    assert scores.target_EL is not None
    return np.stack([_standardised(scores.target_EL[:, 0].numpy()), _standardised(scores.score_EL[:, 0].numpy())], 1)


def _standardised(value_E: Array) -> Array:
    """The values minus their mean, divided by their standard deviation; zeros where all are equal."""
    if np.ptp(value_E) == 0:
        return np.zeros_like(value_E)
    scaled_E = value_E / np.abs(value_E).max()  # so that no square overflows
    return np.asarray((scaled_E - scaled_E.mean()) / scaled_E.std())


def _products_CS(outcome_CK: Array) -> Array:
    """(1, x, y, x², y², x y)"""
    x_C, y_C = outcome_CK.T
    return np.stack([np.ones_like(x_C), x_C, y_C, x_C * x_C, y_C * y_C, x_C * y_C], axis=1)


def pearson(sum_BS: Array) -> Array:
    """Pearson's correlation coefficient; zero where one of the two is constant."""
    count_B, x_B, y_B, xx_B, yy_B, xy_B = sum_BS.T
    spreads = [
        _positive(count_B * square_B - sum_B**2, count_B * square_B) for sum_B, square_B in ((x_B, xx_B), (y_B, yy_B))
    ]
    return np.clip(_ratio(count_B * xy_B - x_B * y_B, np.sqrt(spreads[0] * spreads[1])), -1, 1)


def _positive(difference_B: Array, term_B: Array) -> Array:
    """A difference that cannot be negative; zero where it is a rounding error of its terms."""
    return np.where(difference_B > ROUNDING * term_B, difference_B, 0.0)


def spearman(outcome_CK: Array) -> Figure:
    """Spearman's rank correlation: Pearson's correlation of the ranks, of which equal values share the mean."""
    ranks = [_ranks(value_C) for value_C in outcome_CK.T]

    def figure(count_BC: Counts) -> Array:
        total_B1 = count_BC.sum(axis=1, keepdims=True)
        # The mean of all ranks is (n + 1) / 2, whatever the ties.
        x_BC, y_BC = (rank(count_BC) - (total_B1 + 1) / 2 for rank in ranks)
        covariance_B, *squares = (
            np.einsum("bc,bc,bc->b", count_BC, one_BC, other_BC)
            for one_BC, other_BC in ((x_BC, y_BC), (x_BC, x_BC), (y_BC, y_BC))
        )
        return np.clip(_ratio(covariance_B, np.sqrt(squares[0]) * np.sqrt(squares[1])), -1, 1)

    return figure


def _ranks(value_C: Array) -> Figure:
    """The rank of each outcome's value (B, C) as a function of how often each outcome is there."""
    distinct_G, group_C = np.unique(value_C, return_inverse=True)
    count = len(value_C)
    member_CG = csr_array((np.ones(count), (np.arange(count), group_C)), shape=(count, len(distinct_G)))

    def rank(count_BC: Counts) -> Array:
        total_BG = np.asarray(count_BC @ member_CG)
        return np.asarray((total_BG.cumsum(axis=1) - (total_BG - 1) / 2)[:, group_C])

    return rank


def _number_prior(_: Array) -> tuple[Array, Array]:
    """Half a row for each of the four cases that slim and dense model give the right number or the mean of their
    outputs; the right number is one standard deviation above or below its mean."""
    rows = [[right, slim, right, dense] for right in (-1.0, 1.0) for slim, dense in product((right, 0.0), repeat=2)]
    return np.array(rows), np.full(len(rows), PRIOR_WEIGHT / 2)


# --- texts ---------------------------------------------------------------------------------------------------------


def _mean(sum_BS: Array) -> Array:
    return sum_BS[:, 0] / sum_BS[:, 1]


def _with_ones_CS(outcome_CK: Array) -> Array:
    return np.concatenate([outcome_CK, np.ones_like(outcome_CK)], axis=1)


def _corners(_: Array) -> tuple[Array, Array]:
    """Half a row for each of the four cases that slim and dense model score 0 or 1."""
    return _four_cases((1.0,), (0.0,))


def _of_texts(score: Callable[[str, Sequence[str]], float]) -> Formula:
    """The mean of a score of (the generated text, the right texts) between 0 and 1."""
    remembered = lru_cache(maxsize=2**14)(score)  # a search scores the dense model's texts again and again

    def outcome_EK(answers: Answers, examples: Sequence[Example]) -> Array:
        pairs = zip(answers.texts or (), examples, strict=True)
        right = ((text, tuple(target.strip() for target in example.references)) for text, example in pairs)
        return np.array([[remembered(text.strip(), targets)] for text, targets in right])

    return Formula(outcome_EK, _of_sums(_with_ones_CS, _mean), _corners, needs_texts=True)


def exact_match(text: str, targets: Sequence[str]) -> float:
    """1 for a text that equals one of the targets."""
    return float(text in targets)


def token_f1(text: str, targets: Sequence[str]) -> float:
    """The F1 score of the words, without case, articles and punctuation (SQuAD)."""
    from torchmetrics.functional.text import squad  # slow to import, and needed by few jobs

    answer = {"prediction_text": text, "id": ""}
    found = squad(answer, {"answers": {"answer_start": [0] * len(targets), "text": list(targets)}, "id": ""})
    return found["f1"].item() / 100


def rouge_l(text: str, targets: Sequence[str]) -> float:
    """The F1 score of the longest common subsequence of words; a text without words scores 0."""
    from torchmetrics.functional.text import rouge_score

    found = rouge_score([text], [list(targets)], accumulate="best", rouge_keys="rougeL")
    return float(found["rougeL_fmeasure"])


def chrf(text: str, targets: Sequence[str]) -> float:
    """The F2 score of the character n-grams up to six characters."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(text, targets).score) / 100


def _likelihood_EK(answers: Answers, examples: Sequence[Example]) -> Array:
    """(the log-probability of the target's tokens, their number), the end token included."""
    tokens = [float(len(example.candidates[0])) for example in examples]
    return np.stack([answers.scores.score_EL[:, 0].numpy(), np.array(tokens)], axis=1)


def _geometric_mean(sum_BS: Array) -> Array:
    return np.exp(_mean(sum_BS))


def _nothing(outcome_EK: Array) -> tuple[Array, Array]:
    return np.empty((0, 2 * outcome_EK.shape[1])), np.empty(0)


FORMULAS: dict[TaskMetric, Formula] = {
    TaskMetric.accuracy: _of_labels(accuracy),
    TaskMetric.balanced_accuracy: _of_labels(balanced_accuracy),
    TaskMetric.macro_f1: _of_labels(macro_f1),
    TaskMetric.micro_f1: _of_decisions(micro_f1),
    TaskMetric.matthews: _of_labels(matthews),
    TaskMetric.entity_f1: Formula(_entity_outcomes_EK, _of_sums(lambda outcome: outcome, micro_f1), _entity_prior),
    TaskMetric.tag_accuracy: Formula(_tag_outcomes_EK, _of_sums(lambda outcome: outcome, _mean), _tag_prior),
    TaskMetric.pearson: Formula(_number_outcomes_EK, _of_sums(_products_CS, pearson), _number_prior),
    TaskMetric.spearman: Formula(_number_outcomes_EK, spearman, _number_prior),
    TaskMetric.exact_match: _of_texts(exact_match),
    TaskMetric.token_f1: _of_texts(token_f1),
    TaskMetric.rouge_l: _of_texts(rouge_l),
    TaskMetric.chrf: _of_texts(chrf),
    TaskMetric.token_probability: Formula(_likelihood_EK, _of_sums(lambda outcome: outcome, _geometric_mean), _nothing),
}
FORMULAS |= {
    TaskMetric.cosine_similarity: Formula(similarities.cosine_to_dense_EK, _of_sums(_with_ones_CS, _mean), _nothing),
    TaskMetric.recall_at_10: Formula(
        similarities.recalled_EK, _of_sums(_with_ones_CS, _mean), _corners, needs_all_rows=True
    ),
}
# Of these the formula differs where several labels may be right.
OF_SEVERAL_LABELS = {TaskMetric.macro_f1: _of_decisions(macro_f1)}


def formula_of(metric: TaskMetric, answers: Answers) -> Formula:
    """The formula of a metric for such answers."""
    is_several = answers.scores.target_EL is not None and metric in OF_SEVERAL_LABELS
    return OF_SEVERAL_LABELS[metric] if is_several else FORMULAS[metric]
