"""The contents of `task.json` in a checkpoint: its tasks as they were judged, label offsets included."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from service.contract.answers.task_file import ShippedEmbedding, ShippedTask, TaskFile
from service.contract.options import TaskKind
from service.models.families.family import CLASSIFIERS
from worker.checkpoints.head_bias import head_of
from worker.data.batching import Padding
from worker.data.prompts import sample_prompt
from worker.data.tokenising import TOKENISE
from worker.data.wordings import Wording, adds_special_tokens
from worker.stages.task_model import TaskModel

MAX_NEW_TOKENS = 256  # of a generated text
DECODING: dict[
    TaskKind,
    Literal["most_likely_label", "likely_labels", "most_likely_tags", "output", "greedy", "embedding", "likelihood"],
] = {
    TaskKind.classification: "most_likely_label",
    TaskKind.multi_label: "likely_labels",
    TaskKind.token_classification: "most_likely_tags",
    TaskKind.regression: "output",
    TaskKind.generation: "greedy",
    TaskKind.embedding: "embedding",
    TaskKind.language_modelling: "likelihood",
}


def build(tasks: Sequence[TaskModel], *, is_folded: bool) -> TaskFile:
    """The tasks of a model. With `is_folded` the bias of its head contains the label offsets."""
    offsets = [None if is_folded else task.offset_L for task in tasks]
    return TaskFile(
        tasks=[shipped_task(task.wording, task.padding, each) for task, each in zip(tasks, offsets, strict=True)]
    )


def shipped_task(wording: Wording, padding: Padding, offset_L: Tensor | None) -> ShippedTask:
    """A task with its label offsets."""
    task, labels = wording.task, list(wording.words)
    kind = task.kind or TaskKind.classification
    generates = kind is TaskKind.generation
    offsets = [0.0] * len(labels) if offset_L is None else offset_L.tolist()
    assert task.metric is not None, "the task is resolved"
    return ShippedTask(
        name=task.title,
        kind=kind,
        template=task.template,
        messages=task.messages,
        max_words=task.max_words,
        max_tokens=wording.max_tokens,
        special_tokens=adds_special_tokens(wording),
        decoder_tokens=list(padding.decoder_opening),
        label_prefix=wording.prompt_suffix + wording.label_prefix,
        labels=dict(wording.words),
        answer_tokens=answer_tokens(wording) if labels else None,
        label_offsets=dict(zip(labels, offsets, strict=True)),
        embedding=shipped_embedding(wording),
        decoding=DECODING[kind],
        max_new_tokens=min(MAX_NEW_TOKENS, wording.max_tokens or MAX_NEW_TOKENS) if generates else None,
        metric=task.metric,
    )


def shipped_embedding(wording: Wording) -> ShippedEmbedding | None:
    """How an encoder without a head embeds texts; None for other models."""
    encoder = wording.sentence_encoder
    if encoder is None:
        return None
    return ShippedEmbedding(
        pooling=encoder.pooling,
        normalised=encoder.is_normalised,
        lower_case=encoder.lower_case,
        has_files=encoder.has_files,
    )


def answer_tokens(wording: Wording) -> dict[str, list[int]] | None:
    """Label -> tokens of its answer, empty without labels; None where the prompt has other tokens when an answer
    follows."""
    prompt = sample_prompt(wording)
    tokens, candidates = TOKENISE[wording.kind](prompt, list(wording.words.values()), wording)
    read = prompt + wording.prompt_suffix
    plain = wording.tokenizer(read, add_special_tokens=adds_special_tokens(wording))["input_ids"]
    if list(tokens) != list(plain):
        return None
    return {label: list(candidate) for label, candidate in zip(wording.words, candidates, strict=True)}


def class_offsets(tasks: Sequence[TaskModel], *, has_others: bool) -> Tensor | None:
    """The label offsets by the class of the head, where its bias can contain them: the model has one task alone.

    None where it has several tasks, observed ones and general rows included, no offsets, or no head with a bias.
    """
    [task, *others] = tasks
    if others or has_others or task.offset_L is None or task.wording.kind not in CLASSIFIERS:
        return None
    head = head_of(task.loaded.model)
    if head is None:
        return None
    offset_V = torch.zeros(head.out_features, dtype=torch.float64)
    classes = [task.wording.classes[word] for word in task.wording.words.values()]
    offset_V[classes] = task.offset_L
    return offset_V
