"""Private rows: what is written of each kind of task, what it costs, and that nothing passes in the clear."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import InvalidData, InvalidRequest
from service.contract.request.presets import resolve
from service.contract.request.task import ModelSource, TaskWording
from service.privacy.columns import PrivateColumns, columns_of
from service.privacy.exponential_mechanism import ExponentialMechanism
from service.privacy.mechanisms import MechanismName
from service.privacy.model_tokens import ModelTokens, read_model_tokens
from service.privacy.private_rows import Mechanism, PrivateRows, make_private, mechanism_of
from service.privacy.statement import statement
from service.privacy.uniform_numbers import from_seed, from_system
from service.rows.row import Row
from tests.support import checkpoints

TEXT = PrivateColumns(texts=("text",))


@cache
def model() -> ModelTokens:
    directory = Path(mkdtemp())
    checkpoints.write(directory)
    return read_model_tokens(ModelSource(uri=directory.as_uri()))


def rows_of(*values: dict[str, Any]) -> list[Row]:
    return [Row(value, line) for line, value in enumerate(values, 1)]


def private(
    rows: Sequence[Row], columns: PrivateColumns, epsilon: float = 2, label_epsilon: float | None = None, **options: Any
) -> PrivateRows:
    mechanism = ExponentialMechanism(model().space, epsilon)
    uniform, rare_rows = options.get("uniform", from_seed(0)), options.get("rare_rows", 2)
    return make_private(rows, columns, model(), mechanism, label_epsilon, uniform, rare_rows)


def columns(answered: bool = True, **fields: Any) -> PrivateColumns:
    wording = {"template": "{text}", "labels": {"n": "negative", "p": "positive"}} | fields
    return columns_of(resolve(TaskWording.model_validate(wording)), answered=answered)


@pytest.mark.parametrize("name", MechanismName)
@given(tokens=st.lists(st.integers(-5, 400), min_size=1, max_size=30), epsilon=st.sampled_from([0.5, 8, 1000]))
def test_a_token_that_is_no_candidate_is_never_written(name: MechanismName, tokens: list[int], epsilon: float) -> None:
    space = model().space
    replaced = mechanism_of(name, space, epsilon).replace(np.array(tokens), from_system)
    assert set(replaced.tolist()) <= set(space.candidate_K.tolist())


@given(text=st.text(max_size=20))
def test_special_tokens_in_a_text_are_replaced(text: str) -> None:
    [row] = private(rows_of({"text": f"<s>{text}<unk></s>"}), TEXT, epsilon=500, uniform=from_system).rows
    assert not any(token in str(row["text"]) for token in ("<s>", "</s>", "<unk>", "<pad>"))


def test_other_columns_are_not_written() -> None:
    rows = rows_of({"text": "good", "name": "Ann", "label": "p", "target": "bad"})
    assert private(rows, TEXT).rows[0].keys() == {"text"}


def test_a_row_costs_its_tokens_and_its_label() -> None:
    rows = rows_of({"text": "good", "label": "p"}, {"text": "good bad good", "label": "n"}, {"text": "", "label": "n"})
    made, mechanism = private(rows, columns(), 2, 0.5), ExponentialMechanism(model().space, 2)
    counts = [len(model().tokens_of(str(row.values["text"]))) for row in rows]
    assert made.tokens == counts
    assert counts[2] == 0
    assert made.rows[2]["text"] == ""
    found = statement(made, mechanism, model(), 0.5, seeded=False)
    assert found["rows"] == {
        "count": 3,
        "tokens": {"median": sorted(counts)[1], "max": counts[1]},
        "budget": {"median": 2 * sorted(counts)[1] + 0.5, "max": 2 * counts[1] + 0.5},
    }
    assert found["guarantee"]["holds"] is True
    assert found["guarantee"]["local_epsilon_per_token"] == 2


def test_a_seed_voids_the_guarantee_and_the_statement_says_so() -> None:
    made = private(rows_of({"text": "good"}), TEXT)
    found = statement(made, ExponentialMechanism(model().space, 2), model(), None, seeded=True)
    assert found["guarantee"]["holds"] is False
    assert "nothing is guaranteed" in found["guarantee"]["random_numbers"]


def test_the_adaptive_form_states_the_budget_of_the_two_most_distant_tokens() -> None:
    mechanism: Mechanism = mechanism_of(MechanismName.adaptive, model().space, 2)
    made = make_private(rows_of({"text": "good bad"}), TEXT, model(), mechanism, None, from_system, 2)
    found = statement(made, mechanism, model(), None, seeded=False)
    assert found["guarantee"]["local_epsilon_per_token"] > 4
    assert found["rows"]["budget"]["max"] == pytest.approx(made.tokens[0] * mechanism.local_epsilon)


def test_each_column_of_a_template_is_replaced_and_cut_to_the_words_that_are_read() -> None:
    rows = rows_of({"text": "good bad good bad", "title": "bad film"})
    made = private(rows, columns(answered=False, template="{title}: {text}", max_words=2))
    assert made.tokens == [sum(len(model().tokens_of(text)) for text in ("good bad", "bad film"))]
    assert made.rows[0].keys() == {"text", "title"}


def test_labels_are_answered_by_the_response_of_the_labels_of_the_task() -> None:
    many = rows_of(*[{"text": "good", "label": "p"}] * 400)
    labels = [row["label"] for row in private(many, columns(), 2, 1.0).rows]
    assert set(labels) == {"n", "p"}
    assert labels.count("p") / 400 == pytest.approx(np.e / (np.e + 1), abs=0.07)


def test_each_of_several_labels_is_a_decision_of_its_own() -> None:
    several = columns(kind="multi_label", labels={"a": "a", "b": "b", "c": "c"})
    many = rows_of(*[{"text": "good", "label": ["b"]}] * 400)
    made = private(many, several, 2, 2.0)
    kept = 1 / (1 + np.exp(-2))
    for label, share in (("a", 1 - kept), ("b", kept), ("c", 1 - kept)):
        assert sum(label in (row["label"] or ()) for row in made.rows) / 400 == pytest.approx(share, abs=0.07)  # type: ignore[operator]
    found = statement(made, ExponentialMechanism(model().space, 2), model(), 2.0, seeded=False)
    assert found["rows"]["budget"]["max"] == made.tokens[0] * 2 + 3 * 2


def test_targets_are_texts_and_several_stay_several() -> None:
    generation = columns(kind="generation", labels=None)
    made = private(
        rows_of({"text": "good", "target": ["bad film", "bad"]}, {"text": "bad", "target": "a film"}), generation
    )
    assert isinstance(made.rows[0]["target"], list)
    assert len(made.rows[0]["target"]) == 2
    assert isinstance(made.rows[1]["target"], str)
    assert all(str(text).strip() for text in (*made.rows[0]["target"], made.rows[1]["target"]))


def test_unchanged_and_rare_tokens_are_counted() -> None:
    rows = rows_of({"text": "good good film"}, {"text": "good bad"})
    large = private(rows, TEXT, epsilon=5000)
    good, film, bad = (model().tokens_of(text) for text in ("good", " film", " bad"))
    assert [row["text"] for row in large.rows] == ["good good film", "good bad"]
    assert large.unchanged.tokens == sum(large.tokens)
    in_first, in_second = model().tokens_of("good good film"), model().tokens_of("good bad")
    rare = [token for token in in_first if token not in in_second] + [
        token for token in in_second if token not in in_first
    ]
    assert large.unchanged.rare_tokens == large.unchanged.rare_unchanged == len(rare)
    assert {*film, *bad} <= set(rare)
    assert not {*good} & set(rare)
    assert private(rows, TEXT, epsilon=5000, rare_rows=1).unchanged.rare_tokens == 0
    small = private(rows * 50, TEXT, epsilon=0.01)
    assert small.unchanged.tokens < sum(small.tokens) / 5


def test_rows_are_drawn_anew_by_every_run() -> None:
    rows = rows_of(*[{"text": "good film good plot"}] * 20)
    assert private(rows, TEXT, uniform=from_system).rows != private(rows, TEXT, uniform=from_system).rows
    assert private(rows, TEXT).rows == private(rows, TEXT).rows


def test_a_row_without_the_column_is_refused() -> None:
    with pytest.raises(InvalidData, match="line 1 has no value in the column 'text'"):
        private(rows_of({"title": "good"}), TEXT)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"kind": "regression", "labels": None}, "task.kind"),
        ({"kind": "token_classification", "template": None}, "task.kind"),
        ({"kind": "multi_label", "labels": None}, "task.labels"),
    ],
)
def test_answers_that_cannot_be_private_are_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        columns(**fields)
    assert refused.value.param == param


def test_rows_without_labels_need_no_budget_for_them() -> None:
    made = private(rows_of({"text": "good", "label": None}), replace(columns(answered=False)))
    assert made.decisions == 0
    assert made.rows[0].keys() == {"text"}
