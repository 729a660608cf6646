import pytest

from service.rows.words import first_words


@pytest.mark.parametrize(
    ("limit", "cut"), [(None, " a  b\tc "), (5, " a  b\tc "), (3, " a  b\tc"), (2, " a  b"), (1, " a"), (0, "")]
)
def test_a_text_is_cut_to_its_first_words_with_its_white_space(limit: int | None, cut: str) -> None:
    assert first_words(" a  b\tc ", limit) == cut
