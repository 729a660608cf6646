"""Batches against examples that are scored one by one."""

from random import Random

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from service.contract.errors import InvalidModel
from service.models.families.family import CLASSIFIERS, Kind
from tests.support import checkpoints
from tests.support.tiny_models import TINY, VOCABULARY, family_of_model
from worker.data.batching import Padding, batches, pad_left, padding
from worker.data.examples import Example
from worker.slimming.scoring.objectives import Batch, candidate_scores, margin, token_scores

FIRST_WORD = 4


def kind_of(model: PreTrainedModel) -> Kind:
    return family_of_model(model).kind


def padding_of(model: PreTrainedModel) -> Padding:
    kind = kind_of(model)
    return padding(model, checkpoints.tokenizer(kind), kind)


def random_examples(kind: Kind, count: int, *, tokens: int, labels: int = 3) -> list[Example]:
    """Prompts of 3 to 20 tokens; candidates of up to `tokens` tokens, or the classes of a head."""
    random = Random(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(random.randrange(FIRST_WORD, VOCABULARY) for _ in range(length))

    classes = tuple((label,) for label in range(labels))
    return [
        Example(
            draw(random.randint(3, 20)),
            classes if kind in CLASSIFIERS else tuple(draw(random.randint(1, tokens)) for _ in range(labels)),
            random.randrange(labels),
            "",
        )
        for _ in range(count)
    ]


def scores(model: PreTrainedModel, all_batches: list[Batch]) -> Tensor:
    """log P of every candidate in the order of the examples (E, L)."""
    with torch.inference_mode():
        parts = [candidate_scores(token_scores(model, batch), batch) for batch in all_batches]
    return torch.cat(parts)[torch.cat([batch.index_E for batch in all_batches]).argsort()]


def score_alone(model: PreTrainedModel, example: Example, padding: Padding) -> Tensor:
    """The same for one example, each candidate in a pass of its own without any padding (L)."""
    values = []
    for candidate in example.candidates:
        prompt, answer = torch.tensor([example.prompt]), torch.tensor([[*padding.decoder_opening, *candidate[:-1]]])
        if padding.kind in CLASSIFIERS:
            values.append(model(input_ids=prompt).logits.log_softmax(-1)[0, candidate[0]])
            continue
        if padding.kind == "causal":
            inputs = {"input_ids": torch.cat([prompt, answer.long()], dim=1)}
        else:
            inputs = {"input_ids": prompt, "decoder_input_ids": answer}
        log_probability_TV = model(**inputs).logits[0].log_softmax(-1)[-len(candidate) :]
        values.append(log_probability_TV.gather(1, torch.tensor(candidate).unsqueeze(1)).sum())
    return torch.stack(values)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("tokens", [1, 3])
def test_batched_scores_equal_the_scores_of_single_examples(name: str, tokens: int) -> None:
    torch.set_num_threads(1)
    model = TINY[name]()
    examples = random_examples(kind_of(model), 7, tokens=tokens)
    found = scores(model, batches(examples, padding_of(model), tokens_per_batch=200))
    with torch.inference_mode():
        alone = torch.stack([score_alone(model, example, padding_of(model)) for example in examples])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pad", [-1, None])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "t5", "bart", "bert", "distilbert"])
def test_a_model_without_a_padding_token_scores_as_one_with_it(name: str, pad: int | None) -> None:
    torch.set_num_threads(1)
    model = TINY[name]()
    examples, usual = random_examples(kind_of(model), 5, tokens=2), padding_of(model)
    expected = scores(model, batches(examples, usual, tokens_per_batch=1000))
    model.config.pad_token_id = pad
    found = scores(model, batches(examples, padding_of(model), tokens_per_batch=1000))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_an_encoder_decoder_without_a_token_to_start_with_is_refused() -> None:
    model = TINY["t5"]()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    with pytest.raises(InvalidModel, match="no `decoder_start_token_id`"):
        padding_of(model)


def test_examples_whose_labels_are_one_token_take_one_row() -> None:
    model = TINY["llama"]()
    [short] = batches(random_examples("causal", 5, tokens=1), padding_of(model), 10_000)
    [long] = batches(random_examples("causal", 5, tokens=4), padding_of(model), 10_000)
    assert short.example_B.tolist() == [0, 1, 2, 3, 4]
    assert long.example_B.tolist() == sorted(list(range(5)) * 3)


@pytest.mark.parametrize("budget", [1, 30, 64, 1000])
def test_batches_hold_every_example_once_in_rising_length_under_the_budget(budget: int) -> None:
    model = TINY["llama"]()
    examples = random_examples("causal", 40, tokens=2)
    made = batches(examples, padding_of(model), budget)
    lengths = [batch.inputs["input_ids"].shape[1] for batch in made]
    assert sorted(torch.cat([batch.index_E for batch in made]).tolist()) == list(range(40))
    assert lengths == sorted(lengths)
    for batch in made:
        assert batch.num_examples == 1 or batch.inputs["input_ids"].numel() <= budget


def test_masks_tell_tokens_from_padding() -> None:
    model = TINY["t5"]()
    examples = random_examples("encoder_decoder", 4, tokens=3)
    [batch] = batches(examples, padding_of(model), 10_000)
    in_order = [examples[index] for index in batch.index_E.tolist()]
    rows = [(example, candidate) for example in in_order for candidate in example.candidates]
    assert batch.masks["encoder"].sum(dim=1).tolist() == [len(example.prompt) for example, _ in rows]
    assert batch.masks["decoder"].sum(dim=1).tolist() == [len(candidate) for _, candidate in rows]


def test_a_decoder_computes_logits_only_where_they_are_scored() -> None:
    model = TINY["llama"]()
    [batch] = batches(random_examples("causal", 6, tokens=1), padding_of(model), 10_000)
    ends = batch.masks["decoder"].sum(dim=1) - 1
    assert batch.inputs["logits_to_keep"].tolist() == sorted(set(ends.tolist()))
    assert torch.equal(batch.inputs["logits_to_keep"][batch.position_P], ends)


def test_the_decoder_of_a_t5gemma_begins_with_the_bos_token_where_no_other_is_named() -> None:
    model = TINY["t5gemma"]()
    model.config.decoder_start_token_id = 7
    assert padding_of(model).decoder_opening == (7,)
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    assert padding_of(model).decoder_opening == (1,)


def test_the_forced_first_token_of_bart_is_read_before_the_answer() -> None:
    model = TINY["bart"]()
    assert padding_of(model).decoder_opening == (2,)
    model.generation_config.forced_bos_token_id = 1
    assert padding_of(model).decoder_opening == (2, 1)


def test_the_second_text_of_a_pair_has_bert_s_second_token_type() -> None:
    tokenizer = checkpoints.tokenizer("classifier")
    prompt = tuple(tokenizer("good</s>bad film")["input_ids"])
    end = tokenizer.sep_token_id
    pair, single = Example(prompt, ((0,), (1,)), 0, ""), Example(prompt[: prompt.index(end) + 1], ((0,), (1,)), 0, "")
    [batch] = batches([single, pair], padding_of(TINY["bert"]()), 10_000)
    first = prompt.index(end) + 1
    assert batch.inputs["token_type_ids"].tolist() == [[0] * len(prompt), [0] * first + [1] * (len(prompt) - first)]
    [batch] = batches([pair], padding_of(TINY["distilbert"]()), 10_000)
    assert "token_type_ids" not in batch.inputs


def test_padding_on_the_left_mirrors_padding_on_the_right() -> None:
    tokens_BT, mask_BT = pad_left([(5, 6, 7), (8,)], 0)
    assert tokens_BT.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask_BT.tolist() == [[True] * 3, [False, False, True]]


def test_words_of_a_tagged_text_are_questions_in_one_row() -> None:
    classes = ((0,), (1,), (2,))
    tagged = [
        Example((1, 5, 6, 7, 2), classes, 0, "", words=(1, 3), tags=(2, 0)),
        Example((1, 4, 2), classes, 0, "", words=(), tags=()),
        Example((1, 8, 2), classes, 0, "", words=(1,), tags=(1,)),
    ]
    [batch] = batches(tagged, Padding("token_classifier", pad=0), 100)
    assert batch.index_E.tolist() == [1, 2, 0]
    assert batch.example_B.tolist() == [0, 1, 2]
    assert (batch.right_Q.tolist(), batch.example_Q.tolist()) == ([1, 2, 0], [1, 2, 2])
    assert (batch.row_P.tolist(), batch.position_P.tolist()) == ([1, 2, 2], [1, 1, 3])
    score_M = torch.tensor([0.0, 5.0, 1.0, 2.0, 3.0, 8.0, 4.0, 6.0, 7.0])
    assert candidate_scores(score_M, batch).tolist() == [[0, 5, 1], [2, 3, 8], [4, 6, 7]]
    assert margin(score_M, batch).tolist() == [0, 4, 5 - 3]
