"""Which tokens a text needs, and the scores that follow from it.

Shape suffixes: V rows of the embedding.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from service.models.vocabulary.tokenizer_file import TokenizerFile
from worker.slimming.surgery.vocabulary import USED

UNUSED = 1e-6  # above the scores of all other rows, which tell the order in which they go


class ReadTexts:
    """A tokenizer that remembers the texts that it has read without special tokens, and the tokens of each."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.tokens: dict[str, tuple[int, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options: Any) -> Any:
        """What the tokenizer returns for the text."""
        encoded = self._tokenizer(text, **options)
        self.tokens[text] = tuple(encoded["input_ids"])
        return encoded


def use_scores(
    tokenizer: TokenizerFile, rows: int, used: Iterable[int], named: Collection[int], *, first: int = 0
) -> Tensor:
    """The score of every row of an embedding (V): how often its token is used, at least USED if it has to stay.

    Those stay that are used or named, with the pieces that they are made from, those that any text may be written with,
    and the `first` rows. The others have scores below UNUSED. Of them those go first that are the row of no token, then
    those that the training of the tokenizer found rarest.
    """
    counts = Counter(used)
    stay = tokenizer.with_parts({*counts, *named}) | tokenizer.always() | {*range(first)}
    tokens = {number for number in tokenizer.ids.values() if number < rows}
    order = [*(row for row in range(rows) if row not in tokens), *tokenizer.rarest_first()]
    score_V = torch.zeros(rows, dtype=torch.float64)
    for place, row in enumerate(order):
        if row < rows:
            score_V[row] = UNUSED * (place + 1) / (len(order) + 1)
    for row in stay:
        if row < rows:
            score_V[row] = max(USED, counts[row])
    return score_V
