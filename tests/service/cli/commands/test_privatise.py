"""`taskslim privatise` with tiny models: files, statements, messages and exit codes. It needs no server."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.cli.__main__ import main
from service.contract.request.presets import resolve
from service.contract.request.task import Task
from service.rows.checks import check_rows
from service.storage.row_formats import read_file
from tests.support import checkpoints
from tests.support.command_line import Run

ROWS = "text,label,author\na good film,1,Ann\nbad plot,0,Bob\ngood,1,Cid\n"
LABELS = ("--task", r"Review: {text}\nTone:", "--labels", "0=bad,1=good", "--label-epsilon", "1")
Privatise = Callable[..., Run]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a model in `model`, and rows in `rows.csv`."""
    monkeypatch.chdir(tmp_path)
    checkpoints.write(tmp_path / "model")
    (tmp_path / "rows.csv").write_text(ROWS)
    return tmp_path


@pytest.fixture
def privatise(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Privatise:
    """Runs `taskslim privatise ROWS --model model ...`."""

    def run(*arguments: str, rows: str = "rows.csv", model: str = "model", epsilon: str = "4") -> Run:
        options = [rows, "--model", model, "--epsilon", epsilon, *arguments]
        monkeypatch.setattr(sys, "argv", ["taskslim", "privatise", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        assert isinstance(code, int)
        return Run(code, *capsys.readouterr())

    return run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_are_written_as_the_calibration_rows_of_the_task(privatise: Privatise, place: Path) -> None:
    run = privatise(*LABELS)
    assert (run.code, run.out) == (
        0,
        f"{place}/rows.private.jsonl\n" if run.out.startswith("/") else "rows.private.jsonl\n",
    )
    written = lines(place / "rows.private.jsonl")
    assert [row.keys() for row in written] == [{"text", "label"}] * 3
    assert {row["label"] for row in written} <= {"0", "1"}
    calibration = {"uri": (place / "rows.private.jsonl").as_uri()}
    task = Task.model_validate(
        {"template": "Review: {text}\nTone:", "labels": {"0": "bad", "1": "good"}, "calibration": calibration}
    )
    check_rows(read_file(place / "rows.private.jsonl"), resolve(task))


def test_the_statement_says_what_the_rows_cost(privatise: Privatise, place: Path) -> None:
    run = privatise(*LABELS)
    found = json.loads((place / "rows.private.jsonl.privacy.json").read_text())
    guarantee, rows = found["guarantee"], found["rows"]
    assert guarantee["holds"] is True
    assert (guarantee["mechanism"], guarantee["epsilon"], guarantee["label_epsilon"]) == ("exponential", 4, 1)
    assert guarantee["model"] == (place / "model").as_uri()
    assert rows["count"] == 3
    assert rows["budget"]["max"] == 4 * rows["tokens"]["max"] + 1
    assert f"a row costs epsilon {rows['budget']['median']:g} in the median" in run.err
    private = found["private"]
    assert (
        f"among them {private['rare_tokens_unchanged']} of {private['rare_tokens']} that fewer than 2 rows have"
        in run.err
    )


def test_two_runs_differ_and_a_seed_repeats_them(privatise: Privatise, place: Path) -> None:
    many = [{"text": "a good film with a bad plot"}] * 20
    (place / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    contents = []
    for number, options in enumerate([(), (), ("--seed", "7"), ("--seed", "7")]):
        run = privatise("--columns", "text", "--output", f"{number}.jsonl", *options, rows="many.jsonl")
        assert run.code == 0, run.err
        assert ("nothing is protected" in run.err) == bool(options)
        contents.append((place / f"{number}.jsonl").read_text())
    assert contents[0] != contents[1]
    assert contents[2] == contents[3]
    assert json.loads((place / "2.jsonl.privacy.json").read_text())["guarantee"]["holds"] is False


def test_a_preset_reads_its_own_labels_and_rows_without_labels_need_no_budget(
    privatise: Privatise, place: Path
) -> None:
    (place / "reviews.jsonl").write_text(
        '{"text": "good", "label": "positive"}\n{"text": "bad", "label": "negative"}\n'
    )
    assert privatise("--task", "sst2", "--label-epsilon", "1", rows="reviews.jsonl").code == 0
    assert {row["label"] for row in lines(place / "reviews.private.jsonl")} <= {"positive", "negative"}
    (place / "plain.jsonl").write_text('{"text": "good"}\n{"text": "bad"}\n')
    assert privatise("--task", "sst2", rows="plain.jsonl").code == 0
    assert [row.keys() for row in lines(place / "plain.private.jsonl")] == [{"text"}] * 2


def test_texts_that_a_model_writes_are_replaced_too(privatise: Privatise, place: Path) -> None:
    (place / "titles.jsonl").write_text('{"text": "good film", "title": "film"}\n')
    run = privatise("--task", "Title of {text}:", "--target", "title", rows="titles.jsonl")
    assert run.code == 0, run.err
    [row] = lines(place / "titles.private.jsonl")
    assert row.keys() == {"text", "target"}


def test_answers_that_the_rows_lack_are_not_written(privatise: Privatise, place: Path) -> None:
    assert privatise("--task", "Title of {text}:", "--kind", "generation").code == 0
    assert [row.keys() for row in lines(place / "rows.private.jsonl")] == [{"text"}] * 3


def test_embedded_texts_have_no_labels(privatise: Privatise, place: Path) -> None:
    run = privatise("--kind", "embedding")
    assert run.code == 0, run.err
    assert [row.keys() for row in lines(place / "rows.private.jsonl")] == [{"text"}] * 3


def test_several_labels_are_written_as_a_list(privatise: Privatise, place: Path) -> None:
    (place / "tags.jsonl").write_text('{"text": "good", "label": ["a", "b"]}\n{"text": "bad", "label": []}\n')
    run = privatise(
        "--task", "{text}", "--kind", "multi_label", "--labels", "a=a,b=b", "--label-epsilon", "2", rows="tags.jsonl"
    )
    assert run.code == 0, run.err
    assert all({*row["label"]} <= {"a", "b"} for row in lines(place / "tags.private.jsonl"))
    unnamed = privatise("--task", "{text}", "--kind", "multi_label", rows="tags.jsonl")
    assert (unnamed.code, "'--labels': name the labels" in unnamed.error) == (2, True)


def test_the_adaptive_form_states_a_larger_budget(privatise: Privatise, place: Path) -> None:
    assert privatise("--columns", "text", "--mechanism", "adaptive").code == 0
    guarantee = json.loads((place / "rows.private.jsonl.privacy.json").read_text())["guarantee"]
    assert guarantee["local_epsilon_per_token"] > 2 * guarantee["epsilon"]


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (LABELS, {"epsilon": "0"}, "'--epsilon': a budget is a number above 0, and 0 is none"),
        (LABELS, {"epsilon": "-1"}, "'--epsilon': a budget is a number above 0, and -1 is none"),
        (LABELS, {"epsilon": "nan"}, "'--epsilon': a budget is a number above 0, and nan is none"),
        (LABELS, {"epsilon": "inf"}, "'--epsilon': a budget is a number above 0, and inf is none"),
        (LABELS, {"epsilon": "90"}, "of the tokens stay as they are, so that nothing is private: give less"),
        ((*LABELS[:-1], "0"), {}, "'--label-epsilon': a budget is a number above 0"),
        ((*LABELS[:-1], "9"), {}, "of the labels stay as they are, so that nothing is private: give less"),
        (LABELS[:-2], {}, "'--label-epsilon': the rows have labels: say what each may cost"),
        (("--columns", "text", "--label-epsilon", "1"), {}, "'--label-epsilon': no labels are written: leave it out"),
        ((), {}, "'--task': give a preset, or a template"),
        (("--columns", ","), {}, "'--columns': it names no column"),
        (("--columns", "text", "--task", "sst2"), {}, "'--task': --columns names texts without answers"),
        (
            ("--task", "Of {text}:", "--kind", "regression"),
            {},
            "'--kind': rows of a regression task are not made private",
        ),
        (("--kind", "token_classification"), {}, "'--kind': rows of a token_classification task are not made private"),
        (LABELS, {"rows": "s3://bucket/rows.csv"}, "'ROWS': rows become private where they are"),
        (LABELS, {"rows": "none.csv"}, "'ROWS': none.csv does not exist"),
        (LABELS, {"model": "none"}, "'MODEL': there is no directory none"),
        ((*LABELS, "--output", "rows.csv"), {}, "'--output': rows.csv does not end in .jsonl"),
        ((*LABELS, "--output", "none/rows.jsonl"), {}, "'--output': there is no directory none"),
    ],
)
def test_wrong_options_end_with_2_and_write_nothing(
    privatise: Privatise, place: Path, arguments: tuple[str, ...], options: dict[str, str], says: str
) -> None:
    run = privatise(*arguments, **options)
    assert (run.code, says in run.error) == (2, True), run.err
    assert not list(place.glob("*.private*"))


def test_the_rows_are_not_overwritten(privatise: Privatise, place: Path) -> None:
    (place / "own.jsonl").write_text('{"text": "good"}\n')
    run = privatise("--columns", "text", "--output", "own.jsonl", rows="own.jsonl")
    assert (run.code, "this is the file of the rows" in run.error) == (2, True)


def test_rows_and_models_that_cannot_be_used_end_with_1(privatise: Privatise, place: Path) -> None:
    assert privatise("--columns", "title").error == "line 2 has no value in the column 'title'"
    labelled = privatise("--task", "{text}:", "--labels", "no=bad,yes=good", "--label-epsilon", "1")
    assert (labelled.code, labelled.error.startswith("line 2 has the label '1'")) == (1, True)
    (place / "model/tokenizer.json").unlink()
    run = privatise(*LABELS)
    assert (run.code, "has no tokenizer.json" in run.error) == (1, True)
    assert not list(place.glob("*.private*"))


def test_without_the_extra_the_command_names_it(privatise: Privatise, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("tokenizers", "service.privacy."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    run = privatise(*LABELS)
    assert run.code == 1
    assert run.error.startswith("taskslim privatise needs the extra `privacy`: pip install 'taskslim[privacy]'")
