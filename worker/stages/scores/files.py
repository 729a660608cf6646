"""The safetensors files of unit scores and of a model's answers to evaluation rows.

Unit scores: one float32 tensor (U) for each step and group, `{step}.{stack}.{layer}.{unit}`; groups have the names of
kept.safetensors, and the units that earlier steps removed have -inf. Answers: `log_probability` (float64, E x L) and
`answer` (int64, E), the index of the right one; where the outputs of a head are taken as they are, `log_probability`
has these and `target` (float64, E x L) the right ones. Of tagged texts E counts the words, and `words` (int64, one for
each row) has their numbers. All other values are JSON in the header's metadata; those of
answers have the generated texts.
"""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from service.contract.answers.resources import ScoreKind
from service.sources.safetensors_header import read_header
from worker.evaluation.answer_scores import AnswerScores
from worker.evaluation.answers import Answers
from worker.slimming.scoring.iterative import ScorePath
from worker.slimming.units.groups import Site

FORMATS = {ScoreKind.units: "taskslim-scores-1", ScoreKind.rows: "taskslim-answers-2"}


def pack_path(path: ScorePath, about: Mapping[str, Any]) -> bytes:
    """The file of a path; `about` is metadata on what the scores were taken from."""
    tensors = {f"{step}.{site}": score_U for step, scores in enumerate(path.scores) for site, score_U in scores.items()}
    return _pack(ScoreKind.units, tensors, dict(about) | {"ratios": path.ratios})


def unpack_path(content: bytes) -> ScorePath:
    """The path in a file that `pack_path` made."""
    ratios = _metadata(content)["ratios"]
    scores: list[dict[Site, Tensor]] = [{} for _ in ratios]
    for name, score_U in load(content).items():
        step, _, site = name.partition(".")
        scores[int(step)][Site.parse(site)] = score_U
    return ScorePath(tuple(ratios), tuple(scores))


def pack_answers(answers: Answers, about: Mapping[str, Any]) -> bytes:
    """The file of a model's answers to rows; `about` is metadata on what they were taken from."""
    scores = answers.scores
    tensors = {"log_probability": scores.score_EL, "answer": scores.answer_E}
    more = {"target": scores.target_EL, "words": scores.words_R}
    tensors |= {name: tensor for name, tensor in more.items() if tensor is not None}
    return _pack(ScoreKind.rows, tensors, dict(about) | {"texts": answers.texts})


def unpack_answers(content: bytes) -> Answers:
    """The answers in a file that `pack_answers` made."""
    tensors = load(content)
    scores = AnswerScores(tensors["log_probability"], tensors["answer"], tensors.get("target"), tensors.get("words"))
    return Answers(scores, texts=_metadata(content)["texts"])


def _pack(kind: ScoreKind, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> bytes:
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in {**metadata, "kind": kind}.items()}
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, texts | {"format": FORMATS[kind]})


def _metadata(content: bytes) -> dict[str, Any]:
    texts = read_header(lambda start, end: content[start:end], max_bytes=len(content)).metadata
    return {name: json.loads(text) for name, text in texts.items() if name != "format"}
