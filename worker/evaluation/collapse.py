"""Whether a cut model has collapsed: its answers no longer depend on the rows.

A metric may hide that: where two thirds of the rows have one label, a model that gives it always keeps two thirds. A
cut model has collapsed where, beside the dense model on the same rows,

- it gives one label to at least 95 % of the rows, and at least 15 points more often than the dense model does,
- or at least half of its texts are empty, or repeat themselves, and at least 25 points more than of the dense model's.
"""

from collections.abc import Callable, Sequence

from service.contract.options import Collapse
from worker.evaluation.answers import Answers
from worker.evaluation.judging import repeats_itself

ONE_LABEL, MORE_OFTEN = 0.95, 0.15
HALF_OF_TEXTS, MORE_TEXTS = 0.5, 0.25


def collapse_of(slim: Answers, dense: Answers) -> Collapse | None:
    """How the cut model has collapsed, from the answers of both models to the same rows; None where it has not."""
    if slim.texts is not None and dense.texts is not None:
        return _of_texts(slim.texts, dense.texts)
    has_one_label_a_row = slim.scores.target_EL is None and slim.scores.words_R is None
    if slim.texts is None and has_one_label_a_row and slim.scores.score_EL.shape[1] > 1:
        return _of_labels(slim, dense)
    return None


def _of_labels(slim: Answers, dense: Answers) -> Collapse | None:
    label = int(slim.label_E.mode().values)
    now, before = (float((answers.label_E == label).double().mean()) for answers in (slim, dense))
    return Collapse.one_label if now >= ONE_LABEL and now - before >= MORE_OFTEN else None


def _of_texts(slim: Sequence[str], dense: Sequence[str]) -> Collapse | None:
    signs: dict[Collapse, Callable[[str], bool]] = {
        Collapse.empty: lambda text: not text.strip(),
        Collapse.repetition: repeats_itself,
    }
    for kind, shows in signs.items():
        now, before = (sum(map(shows, texts)) / len(texts) for texts in (slim, dense))
        if now >= HALF_OF_TEXTS and now - before >= MORE_TEXTS:
            return kind
    return None
