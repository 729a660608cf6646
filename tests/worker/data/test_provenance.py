from pathlib import Path

from service.rows.row import Row
from worker.data.provenance import digest_directory, digest_rows


def test_the_digest_of_rows_follows_their_values_and_order_alone() -> None:
    one, other = Row({"text": "a", "label": 1}, line=1), Row({"label": 2, "text": "b"}, line=2)
    moved = Row({"label": 1, "text": "a"}, line=9)
    assert digest_rows([one, other]) == digest_rows([moved, other])
    assert len({digest_rows(rows) for rows in ([one], [other], [one, other], [other, one])}) == 4


def test_the_digest_of_a_model_follows_names_and_contents(tmp_path: Path) -> None:
    digests = []
    for number, (name, content) in enumerate([("a.json", "x"), ("a.json", "x"), ("b.json", "x"), ("a.json", "y")]):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / name).write_text(content)
        (directory / "NOTES").write_text(f"copy {number}")
        digests.append(digest_directory(directory))
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
