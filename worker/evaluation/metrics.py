"""The scores that a model gives to candidate answers, and the texts that it generates.

Shape suffixes as in `worker.slimming.scoring.objectives`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from service.contract.errors import InvalidModel
from worker.data.batching import Padding, pad_left, pad_right
from worker.data.prompts import Example, Wording
from worker.slimming.scoring.objectives import Batch, answer_log_probabilities, token_log_probabilities


@dataclass(frozen=True)
class AnswerScores:
    """log P(candidate | prompt) of the candidates of every example (E, L), and the index of the right one (E).

    The examples are in the order of the data set, the tensors in float64 and int64 on the CPU.
    """

    log_probability_EL: Tensor
    answer_E: Tensor


def score(model: PreTrainedModel, batches: Sequence[Batch], on_examples: Callable[[int], None]) -> AnswerScores:
    """The scores of every example's candidates. `on_examples` is called after each batch with the number done.

    Raises InvalidModel where an output of the model is not finite.
    """
    done, parts = 0, []
    for batch in batches:
        with torch.inference_mode():
            log_probability_M = token_log_probabilities(model, batch.to(model.device))
            parts.append(answer_log_probabilities(log_probability_M.double().cpu(), batch))
        done += batch.num_examples
        on_examples(done)
    score_EL = torch.cat(parts)
    if not score_EL.isfinite().all():
        raise InvalidModel("the model's outputs are not finite numbers", param="model.uri")
    order_E = torch.cat([batch.index_E for batch in batches]).argsort()
    answer_E = torch.cat([batch.answer_E for batch in batches])[order_E]
    return AnswerScores(score_EL[order_E], answer_E)


def generate(
    model: PreTrainedModel,
    examples: Sequence[Example],
    wording: Wording,
    padding: Padding,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> list[str]:
    """The greedy continuation of every prompt, at most as long as its target, without special tokens."""
    generated = generate_tokens(model, examples, wording, padding, tokens_per_batch, on_examples)
    return wording.tokenizer.batch_decode(generated, skip_special_tokens=True)


def generate_tokens(
    model: PreTrainedModel,
    examples: Sequence[Example],
    wording: Wording,
    padding: Padding,
    tokens_per_batch: int,
    on_examples: Callable[[int], None],
) -> list[list[int]]:
    """The tokens of `generate`, including the end token where the model generated it."""
    end: int | None = wording.tokenizer.eos_token_id
    order = sorted(range(len(examples)), key=lambda index: len(examples[index].prompt))
    written: dict[int, list[int]] = {}
    for chunk in _even_chunks(order, examples, tokens_per_batch):
        answers = _continue(model, [examples[index] for index in chunk], padding, end)
        written |= {index: _up_to(answer, end) for index, answer in zip(chunk, answers, strict=True)}
        on_examples(len(written))
    return [written[index] for index in range(len(examples))]


def _up_to(tokens: list[int], end: int | None) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def _even_chunks(order: Sequence[int], examples: Sequence[Example], tokens_per_batch: int) -> list[list[int]]:
    """Chunks of consecutive examples of `order`, each with at most `tokens_per_batch` tokens, padding included."""
    chunks: list[list[int]] = []
    for index in order:
        chunk = [*chunks[-1], index] if chunks else [index]
        longest = max(len(examples[i].prompt) + len(examples[i].candidates[0]) for i in chunk)
        if chunks and len(chunk) * longest <= tokens_per_batch:
            chunks[-1] = chunk
        else:
            chunks.append([index])
    return chunks


def _continue(
    model: PreTrainedModel, examples: Sequence[Example], padding: Padding, end: int | None
) -> list[list[int]]:
    """The generated tokens of a chunk. A decoder-only model has its prompts padded on the left."""
    pad = pad_left if padding.kind == "causal" else pad_right
    input_ids, mask_BT = pad([example.prompt for example in examples], padding.pad)
    longest = max(len(example.candidates[0]) for example in examples)
    config = GenerationConfig(do_sample=False, max_new_tokens=longest, pad_token_id=padding.pad, eos_token_id=end)
    inputs = {"input_ids": input_ids, "attention_mask": mask_BT.long()}
    if padding.kind == "encoder_decoder":
        inputs["decoder_input_ids"] = torch.tensor([padding.decoder_opening] * len(examples))
    with torch.inference_mode():
        output_BT = model.generate(  # type: ignore[operator]
            **{name: value.to(model.device) for name, value in inputs.items()}, generation_config=config
        )
    start = input_ids.shape[1] if padding.kind == "causal" else len(padding.decoder_opening)
    return [row[start:] for row in output_BT.tolist()]
