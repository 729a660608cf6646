"""Texts that were written, each with the reason for which it is not used, where there is one."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.contract.answers.report import Written
from service.contract.options import DropReason
from service.contract.row_values import RowValues
from service.rows.row import Row


@dataclass(frozen=True)
class Draft:
    """A written text. `values` are the columns of the row that it makes, or the rationale of `row`."""

    text: str
    row: Row | None = None  # that was written, or whose rationale the text is
    dropped: DropReason | None = None

    def values(self, name: str) -> RowValues:
        """What a file of drafts says of it: the columns of its row, and the text itself as the column `name`."""
        columns = {} if self.row is None else self.row.values
        return {**columns, name: self.text, "dropped": self.dropped and self.dropped.value}


def counted(drafts: Sequence[Draft]) -> Written:
    """How many there are, and how many were dropped for each reason."""
    reasons = Counter(draft.dropped for draft in drafts if draft.dropped is not None)
    return Written(
        written=len(drafts),
        kept=len(drafts) - reasons.total(),
        dropped={reason: reasons[reason] for reason in DropReason if reasons[reason]},
    )


def kept(drafts: Sequence[Draft]) -> list[Draft]:
    """Those that were not dropped."""
    return [draft for draft in drafts if draft.dropped is None]


def judged(drafts: Sequence[Draft], are_good: Sequence[bool], reason: DropReason) -> list[Draft]:
    """The drafts, where those of the kept ones that are not good are dropped; one judgement for each kept draft."""
    judgements: Iterator[bool] = iter(are_good)
    return [
        Draft(draft.text, draft.row, reason) if draft.dropped is None and not next(judgements) else draft
        for draft in drafts
    ]
