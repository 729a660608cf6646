"""Which units two tasks share, against sets counted one by one."""

import random

import pytest
from fastapi.testclient import TestClient
from redis import Redis

from service.contract.answers.resources import Overlap
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.storage.unit_overlap import best, step_for
from tests.support.score_sets import digest_of, measured, safetensors

A, B = digest_of("a"), digest_of("b")
WIDTHS = {"0.decoder.0.ffn": 40, "0.decoder.1.ffn": 24, "0.decoder.0.layers": 1, "0.decoder.1.layers": 1}


def drawn(seed: int) -> dict[str, list[float]]:
    """Scores by lot, all different."""
    lot = random.Random(seed)
    return {name: [float(value) for value in lot.sample(range(1000), width)] for name, width in WIDTHS.items()}


def highest(values: list[float], number: int) -> set[int]:
    """Indices of the highest values, which are all different."""
    return {index for index, value in enumerate(values) if sum(other > value for other in values) < number}


@pytest.fixture
def scores(redis: Redis, storage: Storage) -> ScoreSets:
    return ScoreSets(redis, storage)


def add(scores: ScoreSets, digest: str, tensors: dict[str, list[float]], **fields: object) -> None:
    content = safetensors(tensors)
    scores.add("default", measured(content, digest, **fields), content, days=1)


def ask(client: TestClient, ratio: float = 0.5) -> Overlap:
    answer = client.get("/overlap", params={"scores": f"{A},{B}", "ratio": ratio})
    assert answer.status_code == 200, answer.text
    return Overlap.model_validate(answer.json())


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_the_overlap_is_that_of_the_sets_of_kept_units(client: TestClient, scores: ScoreSets, ratio: float) -> None:
    mine, theirs = drawn(1), drawn(2)
    add(scores, A, mine)
    add(scores, B, theirs)
    found = ask(client, ratio)
    union = both = 0
    for layer, width in enumerate((40, 24)):
        kept = [highest(of[f"0.decoder.{layer}.ffn"], round((1 - ratio) * width)) for of in (mine, theirs)]
        assert found.layers[layer].kept == len(kept[0])
        assert found.layers[layer].shared == len(kept[0] & kept[1])
        union, both = union + len(kept[0] | kept[1]), both + len(kept[0] & kept[1])
    ffn, layers = found.parts
    assert ffn.jaccard == pytest.approx(both / union)
    assert (layers.part, layers.kept, layers.layer) == ("layers", max(1, round((1 - ratio) * 2)), None)
    assert 0 < found.by_chance < 1


def test_a_task_shares_everything_with_itself(client: TestClient, scores: ScoreSets) -> None:
    add(scores, A, drawn(1))
    add(scores, B, drawn(1))
    assert ask(client).jaccard == 1.0


def test_unrelated_scores_share_what_chance_gives(client: TestClient, scores: ScoreSets) -> None:
    lots = [random.Random(seed) for seed in (1, 2)]
    for digest, lot in zip((A, B), lots, strict=True):
        add(scores, digest, {"0.decoder.0.ffn": [lot.random() for _ in range(4000)]})
    found = ask(client, 0.5)
    assert found.by_chance == pytest.approx(1 / 3)
    assert found.jaccard == pytest.approx(1 / 3, abs=0.04)


def test_scores_of_the_last_step_on_the_way_decide(client: TestClient, scores: ScoreSets) -> None:
    assert [step_for([0.0, 0.2, 0.4], ratio) for ratio in (0.1, 0.2, 0.3, 0.9)] == [0, 0, 1, 2]
    early, late = {"0.decoder.0.ffn": [3.0, 2.0, 1.0, 0.0]}, {"1.decoder.0.ffn": [0.0, 1.0, 2.0, 3.0]}
    add(scores, A, early | late, ratios=[0.0, 0.25])
    add(scores, B, early | {"1.decoder.0.ffn": early["0.decoder.0.ffn"]}, ratios=[0.0, 0.25])
    assert ask(client, 0.25).jaccard == 1.0
    assert ask(client, 0.5).shared == 0


def test_of_equal_scores_the_first_units_stay() -> None:
    assert best([1.0, 2.0, 1.0, 1.0], 2) == {1, 0}


@pytest.mark.parametrize(
    ("fields", "tensors"),
    [
        ({"digests": {"model": digest_of("another")}}, drawn(2)),
        ({"digests": {"model": digest_of("model"), "adapter": digest_of("lora")}}, drawn(2)),
        ({"method": {"units": ["heads"]}}, drawn(2)),
        ({"kind": "rows", "method": None}, drawn(2)),
        ({}, {"0.decoder.0.ffn": [1.0]}),
    ],
    ids=["model", "adapter", "units", "rows", "widths"],
)
def test_scores_that_do_not_belong_together_are_refused(
    client: TestClient, scores: ScoreSets, fields: dict[str, object], tensors: dict[str, list[float]]
) -> None:
    add(scores, A, drawn(1))
    add(scores, B, tensors, **fields)
    answer = client.get("/overlap", params={"scores": f"{A},{B}"})
    assert (answer.status_code, answer.json()["code"]) == (422, "not_comparable")
    assert answer.json()["errors"][0]["param"] == "scores"


def test_scores_that_are_not_there_are_not_found(client: TestClient, scores: ScoreSets) -> None:
    add(scores, A, drawn(1))
    assert client.get("/overlap", params={"scores": f"{A},{B}"}).status_code == 404
    assert client.get("/overlap", params={"scores": A}).status_code == 422
