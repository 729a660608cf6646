"""Random examples and their batches for the tiny models, in the form that the objectives expect."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from service.models.families.family import CLASSIFIERS
from tests.support.tiny_models import VOCABULARY, tiny_family
from worker.slimming.scoring.objectives import Batch

FIRST_WORD = 3  # smaller ids are special tokens


@dataclass(frozen=True)
class Example:
    prompt: list[int]
    candidates: list[list[int]]
    answer: int


def examples(count: int, *, longest_candidate: int = 1, num_labels: int = 3, seed: int = 0) -> list[Example]:
    """Prompts of 2 to 9 tokens; every example has the same candidates."""
    draw = Random(seed)
    words = range(FIRST_WORD, VOCABULARY)
    candidates = [draw.sample(words, 1 + label % longest_candidate) for label in range(num_labels)]
    return [
        Example(draw.choices(words, k=draw.randint(2, 9)), candidates, draw.randrange(num_labels)) for _ in range(count)
    ]


def batches(family: str, items: Sequence[Example], size: int, *, extra_padding: int = 0) -> list[Batch]:
    """Batches of `size` examples, in the given order."""
    return [_batch(family, items[i : i + size], i, extra_padding) for i in range(0, len(items), size)]


def _batch(family: str, items: Sequence[Example], first: int, extra_padding: int) -> Batch:
    rows: list[tuple[list[int], list[int]]] = []  # (prompt, tokens of the candidate that are inputs)
    scored: list[tuple[int, int, int, int, int]] = []  # row, position, token, example, label
    example_B: list[int] = []
    single = tiny_family(family).kind in CLASSIFIERS or all(len(c) == 1 for item in items for c in item.candidates)
    for index, item in enumerate(items):
        for label, candidate in enumerate(item.candidates):
            if label == 0 or not single:
                rows.append((item.prompt, [] if single else candidate[:-1]))
                example_B.append(index)
            tokens = [label] if tiny_family(family).kind in CLASSIFIERS else candidate
            start = len(item.prompt) - 1 if tiny_family(family).kind == "causal" else 0
            scored += [(len(rows) - 1, start + i, token, index, label) for i, token in enumerate(tokens)]
    places = {place: i for i, place in enumerate(dict.fromkeys(entry[:2] for entry in scored))}
    inputs, masks = _inputs(family, rows, extra_padding)
    return Batch(
        inputs=inputs,
        masks=masks,
        example_B=torch.tensor(example_B),
        row_P=torch.tensor([row for row, _ in places]),
        position_P=torch.tensor([position for _, position in places]),
        place_M=torch.tensor([places[entry[:2]] for entry in scored]),
        token_M=torch.tensor([entry[2] for entry in scored]),
        question_M=torch.tensor([entry[3] for entry in scored]),
        label_M=torch.tensor([entry[4] for entry in scored]),
        right_Q=torch.tensor([item.answer for item in items]),
        example_Q=torch.arange(len(items)),
        index_E=torch.arange(first, first + len(items)),
        num_labels=len(items[0].candidates),
    )


def _inputs(
    family: str, rows: Sequence[tuple[list[int], list[int]]], extra_padding: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    if tiny_family(family).kind != "encoder_decoder":
        ids, mask = _padded([prompt + answer for prompt, answer in rows], extra_padding)
        return {"input_ids": ids, "attention_mask": mask.long()}, {
            "encoder" if tiny_family(family).kind == "classifier" else "decoder": mask
        }
    ids, mask = _padded([prompt for prompt, _ in rows], extra_padding)
    decoder_ids, decoder_mask = _padded([[0, *answer] for _, answer in rows], extra_padding)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": decoder_ids}
    return inputs | {"decoder_attention_mask": decoder_mask.long()}, {"encoder": mask, "decoder": decoder_mask}


def _padded(rows: Sequence[list[int]], extra: int) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows)) + extra
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in rows])
    return ids, mask
