"""Makes batches for a model from the examples of a task: sorted by length and padded on the right.

A batch holds no more tokens than a budget allows. Shape suffixes are those of `worker.slimming.scoring.objectives`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel
from service.models.families.family import CLASSIFIERS, Kind
from service.models.families.table import FAMILIES
from worker.data.examples import Example
from worker.data.prompts import row_tokens
from worker.data.wordings import Tokens
from worker.slimming.scoring.objectives import Batch


@dataclass(frozen=True)
class Padding:
    """How the batches of a model are padded, and the special tokens that its inputs need besides the prompt."""

    kind: Kind
    pad: int
    decoder_opening: Tokens = ()  # tokens that the decoder reads before the first token of the answer
    separator: int | None = None  # tokens after the first separator belong to the second text (BERT)
    ends: Tokens = ()  # tokens that end a generated text
    unwritten: Tokens = ()  # tokens that a generated text never has
    pooling: str = ""  # of the embeddings of an encoder without a head


@dataclass
class _Scored:
    """The index tensors of a Batch as lists, while they are built."""

    example_B: list[int] = field(default_factory=list)
    row_P: list[int] = field(default_factory=list)
    position_P: list[int] = field(default_factory=list)
    place_M: list[int] = field(default_factory=list)
    token_M: list[int] = field(default_factory=list)
    question_M: list[int] = field(default_factory=list)
    label_M: list[int] = field(default_factory=list)
    right_Q: list[int] = field(default_factory=list)
    example_Q: list[int] = field(default_factory=list)


def padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, kind: Kind, more_ends: Tokens = ()) -> Padding:
    """The padding of a model's batches. Raises InvalidModel for an encoder-decoder without a token to start with.

    `more_ends` end a text besides the end tokens that tokenizer and generation config name. Padding is masked, so that
    any token serves where the config names none: it may be missing, or -1 for "no token".
    """
    config = model.config
    named = config.pad_token_id
    pad = named if named is not None and 0 <= named < config.vocab_size else 0
    if kind == "encoder_decoder":
        # The answers of BART begin with a token that its generation config forces.
        generation = model.generation_config
        start = getattr(config, "decoder_start_token_id", None)
        start = generation.decoder_start_token_id if start is None else start
        if start is None and FAMILIES[config.model_type].answers_after_bos:
            start = config.bos_token_id
        opening = (start, generation.forced_bos_token_id)
        if start is None:
            message = "config.json has no `decoder_start_token_id`, with which the decoder begins: add it"
            raise InvalidModel(message, param="model.uri")
        return Padding(
            kind,
            pad,
            decoder_opening=tuple(token for token in opening if token is not None),
            ends=_ends(model, tokenizer, more_ends),
            unwritten=(pad,) if FAMILIES[config.model_type].writes_no_padding else (),
        )
    if kind == "causal":
        return Padding(kind, pad, ends=_ends(model, tokenizer, more_ends))
    if kind == "encoder":  # sentence-transformers gives every token of a text the first type
        return Padding(kind, pad)
    pairs = getattr(config, "type_vocab_size", 0) > 1
    return Padding(kind, pad, separator=tokenizer.sep_token_id if pairs else None)


def _ends(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, more: Tokens) -> Tokens:
    """The end token of the tokenizer, those of the generation config, of which chat models have several, and `more`."""
    named = model.generation_config.eos_token_id
    ends = [*more, tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])]
    return tuple(sorted({int(end) for end in ends if end is not None}))


def batches(examples: Sequence[Example], padding: Padding, tokens_per_batch: int) -> list[Batch]:
    """Batches of all examples, the shortest first. Only a batch of one example exceeds `tokens_per_batch`."""
    order = sorted(range(len(examples)), key=lambda index: (_length(examples[index], padding), index))
    return [
        _collate([examples[index] for index in chunk], chunk, padding)
        for chunk in _chunks(order, examples, padding, tokens_per_batch)
    ]


def pad_right(rows: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    """(tokens, mask that is true where there is no padding), both (B, T); the padding is on the right."""
    lengths_B = torch.tensor([len(row) for row in rows])
    longest = int(lengths_B.max())
    tokens_BT = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    return tokens_BT, torch.arange(longest) < lengths_B.unsqueeze(1)


def pad_left(rows: Sequence[Tokens], pad: int) -> tuple[Tensor, Tensor]:
    """As `pad_right`, with the padding on the left."""
    reversed_BT, mask_BT = pad_right([row[::-1] for row in rows], pad)
    return reversed_BT.flip(1), mask_BT.flip(1)


def _length(example: Example, padding: Padding) -> int:
    """Tokens of one input row of the example in a batch of its own."""
    if padding.kind == "encoder":
        return max(len(example.prompt), len(example.second))
    answer = max(len(candidate) for candidate in example.candidates)
    decoder = len(padding.decoder_opening) + answer - 1 if padding.kind == "encoder_decoder" else 0
    return row_tokens(example, padding.kind) + decoder


def _num_rows(example: Example) -> int:
    if example.second:
        return 2
    return 1 if all(len(candidate) == 1 for candidate in example.candidates) else len(example.candidates)


def _chunks(
    order: Iterable[int], examples: Sequence[Example], padding: Padding, tokens_per_batch: int
) -> Iterator[list[int]]:
    chunk: list[int] = []
    rows = 0
    for index in order:  # lengths rise, so that the last example of a chunk is the longest
        more = _num_rows(examples[index])
        if chunk and (rows + more) * _length(examples[index], padding) > tokens_per_batch:
            yield chunk
            chunk, rows = [], 0
        chunk.append(index)
        rows += more
    if chunk:
        yield chunk


def _collate(examples: Sequence[Example], indices: Sequence[int], padding: Padding) -> Batch:
    if padding.kind == "encoder":
        return _embedded(examples, indices, padding)
    scored, inputs, masks = _Scored(), *INPUTS[padding.kind](examples, padding)
    for number, example in enumerate(examples):
        if example.words is not None:
            _score_words(scored, number, example)
        else:
            _score_positions(scored, number, example, padding)
    tensors: dict[str, Any] = {name: torch.tensor(values) for name, values in vars(scored).items()}
    if padding.kind == "causal":  # logits are computed at the scored positions only
        inputs["logits_to_keep"], tensors["position_P"] = torch.unique(tensors["position_P"], return_inverse=True)
    return Batch(
        inputs=inputs,
        masks=masks,
        index_E=torch.tensor(indices),
        num_labels=len(examples[0].candidates),
        target_EL=_targets_EL(examples),
        pooling=padding.pooling,
        is_tagged=examples[0].words is not None,
        **tensors,
    )


def _embedded(examples: Sequence[Example], indices: Sequence[int], padding: Padding) -> Batch:
    """A batch of texts; the two texts of an example are in rows one behind the other."""
    rows = [text for example in examples for text in (example.prompt, example.second) if text]
    number_B = torch.arange(len(examples)).repeat_interleave(len(rows) // len(examples))
    input_ids, mask_BT = pad_right(rows, padding.pad)
    nothing = torch.empty(0, dtype=torch.int64)
    return Batch(
        inputs={"input_ids": input_ids, "attention_mask": mask_BT.long()},
        masks={"encoder": mask_BT},
        example_B=number_B,
        row_P=nothing,
        position_P=nothing,
        place_M=nothing,
        token_M=nothing,
        question_M=nothing,
        label_M=nothing,
        right_Q=torch.zeros(len(examples), dtype=torch.int64),
        example_Q=torch.arange(len(examples)),
        index_E=torch.tensor(indices),
        num_labels=0,
        target_EL=_targets_EL(examples),
        pooling=padding.pooling,
    )


def _targets_EL(examples: Sequence[Example]) -> Tensor | None:
    """The right outputs of a head whose outputs are taken as they are; None for log-probabilities."""
    if not examples[0].target:
        return None
    return torch.tensor([example.target for example in examples], dtype=torch.float64)


def _score_positions(scored: _Scored, number: int, example: Example, padding: Padding) -> None:
    """Add the positions where the candidates are scored: in one row if each is one token, else in a row for each."""
    start = _first_position(example, padding)
    one_row, question = _num_rows(example) == 1, len(scored.right_Q)
    scored.right_Q.append(example.answer)
    scored.example_Q.append(number)
    for label, candidate in enumerate(example.candidates):
        if label == 0 or not one_row:
            row = len(scored.example_B)
            scored.example_B.append(number)
            scored.row_P += [row] * len(candidate)
            scored.position_P += range(start, start + len(candidate))
        scored.place_M += range(len(scored.row_P) - len(candidate), len(scored.row_P))
        scored.token_M += candidate
        scored.question_M += [question] * len(candidate)
        scored.label_M += [label] * len(candidate)


def _score_words(scored: _Scored, number: int, example: Example) -> None:
    """Add the positions of the words of a tagged text, where the candidates are the classes of the head."""
    row, classes = len(scored.example_B), [index for candidate in example.candidates for index in candidate]
    scored.example_B.append(number)
    for position, tag in zip(example.words or (), example.tags, strict=True):
        question, place = len(scored.right_Q), len(scored.row_P)
        scored.row_P.append(row)
        scored.position_P.append(position)
        scored.right_Q.append(tag)
        scored.example_Q.append(number)
        scored.place_M += [place] * len(classes)
        scored.token_M += classes
        scored.question_M += [question] * len(classes)
        scored.label_M += range(len(classes))


def _first_position(example: Example, padding: Padding) -> int:
    """The position whose logits predict the first token of an answer."""
    if padding.kind in CLASSIFIERS:
        return 0
    return (len(example.prompt) if padding.kind == "causal" else len(padding.decoder_opening)) - 1


def _answers_read(example: Example) -> list[Tokens]:
    """The tokens of the candidates that the model reads, for each row: all but the last one, which is only scored."""
    return [candidate[:-1] for candidate in example.candidates][: _num_rows(example)]


def _causal(examples: Sequence[Example], padding: Padding) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs without an attention mask: causal attention does not read padding on the right."""
    rows = [example.prompt + read for example in examples for read in _answers_read(example)]
    input_ids, mask_BT = pad_right(rows, padding.pad)
    return {"input_ids": input_ids}, {"decoder": mask_BT}


def _encoder_decoder(examples: Sequence[Example], padding: Padding) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    prompts = [example.prompt for example in examples for _ in _answers_read(example)]
    answers = [padding.decoder_opening + read for example in examples for read in _answers_read(example)]
    input_ids, encoder_BT = pad_right(prompts, padding.pad)
    decoder_input_ids, decoder_BT = pad_right(answers, padding.pad)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": encoder_BT.long(),
        "decoder_input_ids": decoder_input_ids,
    }
    return inputs, {"encoder": encoder_BT, "decoder": decoder_BT}


def _classifier(examples: Sequence[Example], padding: Padding) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    input_ids, mask_BT = pad_right([example.prompt for example in examples], padding.pad)
    inputs = {"input_ids": input_ids, "attention_mask": mask_BT.long()}
    if padding.separator is not None:
        ends_BT = (input_ids == padding.separator).long()
        inputs["token_type_ids"] = (ends_BT.cumsum(dim=1) - ends_BT).clamp(max=1) * mask_BT
    return inputs, {"encoder": mask_BT}


def _decoder_classifier(examples: Sequence[Example], padding: Padding) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs as the class documents them. It takes the logits of the last token that is not the padding token."""
    input_ids, mask_BT = pad_right([example.prompt for example in examples], padding.pad)
    return {"input_ids": input_ids, "attention_mask": mask_BT.long()}, {"decoder": mask_BT}


INPUTS = {
    "causal": _causal,
    "encoder_decoder": _encoder_decoder,
    "classifier": _classifier,
    "decoder_classifier": _decoder_classifier,
    "token_classifier": _classifier,
}
