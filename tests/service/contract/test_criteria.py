"""The rows of the criteria, and the texts that are made from them."""

import re
from pathlib import Path

import pytest

from service.contract.criteria import CRITERIA, Criterion, criteria_in_words, default_criterion, normalisations_in_words
from service.contract.options import FITTED, Normalisation, Repair

REQUEST_PAGE = Path(__file__).parents[3] / "docs/request.md"


def test_every_criterion_has_a_row() -> None:
    assert set(CRITERIA) == set(Criterion)


@pytest.mark.parametrize("repair", Repair)
def test_every_repair_has_one_default_criterion(repair: Repair) -> None:
    assert sum(repair in row.default_for for row in CRITERIA.values()) == 1
    assert default_criterion(repair) is (Criterion.surgeon if repair in FITTED else Criterion.attribution)


def test_texts_name_every_criterion_and_every_normalisation() -> None:
    assert all(f"`{name.value}`: {row.summary}." in criteria_in_words() for name, row in CRITERIA.items())
    assert all(f"`{name.value}`" in normalisations_in_words() for name in (*Criterion, *Normalisation))


def test_request_page_has_the_sentence_of_every_criterion() -> None:
    items = re.findall(
        r"^- \*\*`(\w+)`\*\*: (.*?)\.(?=\n- |\n\n)", REQUEST_PAGE.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    listed = {name: " ".join(sentence.split()) for name, sentence in items}
    assert {name: listed.get(name) for name in CRITERIA} == {name: row.summary for name, row in CRITERIA.items()}
