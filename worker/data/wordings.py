"""The wording of a task for a loaded model: how its rows become prompts and answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from service.contract.presets import template_fields
from service.contract.task import TaskWording
from service.families.head_classes import head_classes, with_labels
from service.families.head_kind import check_kind
from service.families.positions import max_tokens
from service.families.table import CLASSIFIERS, FAMILIES, Kind

Tokens = tuple[int, ...]

# What is written before an answer.
LABEL_PREFIXES: dict[Kind, str] = {"causal": " ", "encoder_decoder": "", "classifier": "", "decoder_classifier": ""}
MIN_ROW_TOKENS = 512  # a smaller budget for a batch does not cut rows


@dataclass(frozen=True)
class Wording:
    """How the prompts and answers of a task are written for a model."""

    kind: Kind
    task: TaskWording  # resolved
    tokenizer: PreTrainedTokenizerBase
    max_tokens: int | None  # of prompt and answer; None: any number
    special_tokens: bool  # whether the tokenizer adds its special tokens to the prompt
    label_prefix: str
    vocabulary: int  # number of tokens that the model has embeddings for
    opening: Tokens = ()  # special tokens before the prompt
    closing: Tokens = ()  # special tokens after the prompt; a decoder-only model continues it, and has none
    classes: Mapping[str, int] = field(default_factory=dict)  # class name -> index, of a classification head

    @property
    def words(self) -> Mapping[str, str]:
        """Label in the rows -> answer word; empty without labels."""
        return self.task.labels or {}


def wording(
    kind: Kind,
    task: TaskWording,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    tokens_per_batch: int | None = None,
) -> Wording:
    """The wording of a resolved task for a loaded model, whose rows fit a batch of `tokens_per_batch` tokens.

    Raises InvalidRequest for a kind of task that the model does not do, InvalidModel for a head that does none of them,
    and InvalidLabels for a class that the head lacks.
    """
    check_kind(task, kind, config.problem_type, len(config.id2label or ()))
    classes = head_classes(task, config.id2label or {}) if kind in CLASSIFIERS else {}
    task = with_labels(task, classes)
    special = True if task.special_tokens is None else task.special_tokens
    opening, closing = special_frame(tokenizer) if special else ((), ())
    return Wording(
        kind=kind,
        task=task,
        tokenizer=tokenizer,
        max_tokens=_max_tokens(tokenizer, config, tokens_per_batch),
        special_tokens=special,
        label_prefix=LABEL_PREFIXES[kind] if task.label_prefix is None else task.label_prefix,
        vocabulary=config.vocab_size,
        opening=opening,
        closing=() if kind == "causal" else closing,
        classes=classes,
    )


def as_run(wording: Wording) -> TaskWording:
    """The task with the defaults of the model's family in the fields that the request left open."""
    return wording.task.model_copy(
        update={"special_tokens": wording.special_tokens, "label_prefix": wording.label_prefix}
    )


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokens, Tokens]:
    """The tokens that the tokenizer puts before and after a text, such as a beginning-of-sequence token."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    start = next((start for start in range(len(whole)) if whole[start : start + len(bare)] == bare), 0)
    return tuple(whole[:start]), tuple(whole[start + len(bare) :])


def written_in_template(wording: Wording) -> list[str]:
    """The special tokens at the ends of a prompt that the template itself has, so that they are not added again."""
    columns = dict.fromkeys(template_fields(wording.task.template or ""), "a")
    text = (wording.task.template or "").format_map(columns)
    ids = tuple(wording.tokenizer(text, add_special_tokens=False)["input_ids"])
    found = (*(wording.opening if begins_with(ids, wording.opening) else ()),)
    found += wording.closing if ends_with(ids, wording.closing) else ()
    return [str(token) for token in wording.tokenizer.convert_ids_to_tokens(list(found))]


def adds_special_tokens(wording: Wording) -> bool:
    """Whether the tokenizer makes the prompt of the job when it adds its special tokens; else the template has them."""
    num_special = len(wording.opening) + len(wording.closing)
    return wording.special_tokens and (num_special == 0 or len(written_in_template(wording)) < num_special)


def begins_with(ids: Tokens, opening: Tokens) -> bool:
    """Whether the tokens begin with `opening`."""
    return ids[: len(opening)] == opening


def ends_with(ids: Tokens, closing: Tokens) -> bool:
    """Whether the tokens end with `closing`."""
    return ids[max(0, len(ids) - len(closing)) :] == closing


def _max_tokens(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, tokens_per_batch: int | None
) -> int | None:
    """The smallest limit of tokenizer, position embeddings and batches. Relative positions have no limit."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = max_tokens(FAMILIES[config.model_type], config.to_dict())
    batches = None if tokens_per_batch is None else max(tokens_per_batch, MIN_ROW_TOKENS)
    return min([*limits, *(limit for limit in (positions, batches) if limit is not None)], default=None)
