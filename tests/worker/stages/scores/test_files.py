"""The files of unit scores and of answers."""

import json

import torch
from safetensors.torch import load

from tests.support.scoring_jobs import alike
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.units.groups import Site
from worker.stages.scores.files import pack_answers, pack_path, unpack_answers, unpack_path


def test_file_of_unit_scores_is_plain_safetensors() -> None:
    site = Site("decoder", 3, "ffn")
    later = torch.tensor([2.0, -torch.inf])
    content = pack_path(ScorePath((0.0, 0.2), ({site: torch.tensor([1.0, 0.5])}, {site: later})), {"task": {"a": "é"}})
    tensors = load(content)
    assert sorted(tensors) == ["0.decoder.3.ffn", "1.decoder.3.ffn"]
    assert torch.equal(tensors["1.decoder.3.ffn"], later)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == "taskslim-scores-1"
    assert json.loads(header["__metadata__"]["ratios"]) == [0.0, 0.2]
    assert json.loads(header["__metadata__"]["task"]) == {"a": "é"}
    assert alike(unpack_path(content), ScorePath((0.0, 0.2), ({site: torch.tensor([1.0, 0.5])}, {site: later})))


def test_packed_answers_are_unpacked_unchanged() -> None:
    scores = AnswerScores(torch.tensor([[0.1, -2.0]], dtype=torch.float64), torch.tensor([1]))
    back = unpack_answers(pack_answers(Answers(scores, texts=["naïve\n"]), {}))
    assert back.texts == ["naïve\n"]
    assert back.offset_L is None
    assert unpack_answers(pack_answers(Answers(scores), {})).texts is None
    assert torch.equal(back.scores.score_EL, scores.score_EL)
