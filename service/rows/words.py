"""The words of a text: what `task.max_words` counts."""

import re
from itertools import islice

WORD = re.compile(r"\S+")


def first_words(text: str, limit: int | None) -> str:
    """The first `limit` words of a text with the white space between them; the whole text if `limit` is None."""
    ends = [word.end() for word in islice(WORD.finditer(text), limit)]
    if limit is None or len(ends) < limit:
        return text
    return text[: ends[-1]] if ends else ""
