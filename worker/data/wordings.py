"""The wording of a task for a loaded model: how its rows become prompts and answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from service.contract.errors import InvalidModel
from service.contract.options import TaskKind
from service.contract.request.presets import template_fields
from service.contract.request.task import TaskWording
from service.models.families.family import CLASSIFIERS, Kind
from service.models.families.head_classes import check_entity_tags, head_classes, with_labels
from service.models.families.head_kind import check_kind
from service.models.families.positions import max_tokens
from service.models.families.sentence_encoder import SentenceEncoder
from service.models.families.table import FAMILIES
from worker.data.chat_templates import PROBE, ChatFrame, chat_frame, prompt

Tokens = tuple[int, ...]

# What is written before an answer.
LABEL_PREFIXES: dict[Kind, str] = {
    "causal": " ",
    "encoder_decoder": "",
    "classifier": "",
    "decoder_classifier": "",
    "encoder": "",
    "token_classifier": "",
}
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
    answer_vocabulary: int  # the same of the decoder, whose vocabulary may be another one
    own_target_tokens: bool = False  # whether the tokenizer reads answers in another way than prompts
    opening: Tokens = ()  # special tokens before the prompt
    closing: Tokens = ()  # special tokens after the prompt; a decoder-only model continues it, and has none
    classes: Mapping[str, int] = field(default_factory=dict)  # class name -> index, of a classification head
    chat: ChatFrame | None = None  # of a task whose rows are conversations
    prompt_suffix: str = ""  # what the model reads after the prompt of a conversation, whatever the label
    sentence_encoder: SentenceEncoder | None = None  # how texts are embedded, of an encoder without a head

    @property
    def words(self) -> Mapping[str, str]:
        """Label in the rows -> answer word; empty without labels."""
        return self.task.labels or {}

    @property
    def ends(self) -> Tokens:
        """Tokens that end a generated text besides those of the model: the one that ends a turn."""
        return () if self.chat is None or self.chat.end is None else (self.chat.end,)


def wording(
    kind: Kind,
    task: TaskWording,
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    tokens_per_batch: int | None = None,
    sentence_encoder: SentenceEncoder | None = None,
) -> Wording:
    """The wording of a resolved task for a loaded model, whose rows fit a batch of `tokens_per_batch` tokens.

    Raises InvalidRequest for a kind of task that the model does not do and a metric that its classes do not have,
    InvalidModel for a head that does none of them and where the rows are conversations and the model has no chat
    template for them, InvalidLabels for a class that the head lacks.
    """
    check_kind(task, kind, config.problem_type, len(config.id2label or ()))
    classes = head_classes(task, config.id2label or {}) if kind in CLASSIFIERS else {}
    task = with_labels(task, classes)
    check_entity_tags(task)
    chat = None if task.messages is None else _chat(task, tokenizer)
    special = chat is None and task.special_tokens is not False
    suffix, prefix = _between(kind, task, tokenizer, chat)
    opening, closing = special_frame(tokenizer) if special else ((), ())
    return Wording(
        kind=kind,
        task=task,
        tokenizer=tokenizer,
        max_tokens=_max_tokens(tokenizer, config, tokens_per_batch, sentence_encoder),
        special_tokens=special,
        label_prefix=prefix,
        vocabulary=config.vocab_size,
        answer_vocabulary=answer_vocabulary(config),
        own_target_tokens=FAMILIES[config.model_type].own_target_tokens,
        opening=opening,
        closing=() if kind == "causal" else closing,
        classes=classes,
        chat=chat,
        prompt_suffix=suffix,
        sentence_encoder=sentence_encoder,
    )


def _chat(task: TaskWording, tokenizer: PreTrainedTokenizerBase) -> ChatFrame:
    chat = chat_frame(tokenizer)
    if task.kind is TaskKind.generation and chat.end is None:
        message = (
            "the chat template of the model writes no special token after an answer, so that a generated text would "
            "have no end: give `task.template`"
        )
        raise InvalidModel(message, param="model.uri")
    return chat


def _between(
    kind: Kind, task: TaskWording, tokenizer: PreTrainedTokenizerBase, chat: ChatFrame | None
) -> tuple[str, str]:
    """(what belongs to the prompt, what to the answer) of the text between the prompt and a label's word.

    The lead of a chat template belongs to the prompt where its tokens do not depend on the word: a word of one token
    then stays one.
    """
    if chat is None:
        return "", LABEL_PREFIXES[kind] if task.label_prefix is None else task.label_prefix
    if task.labels is None or kind in CLASSIFIERS:
        return "", ""
    before = prompt(tokenizer, PROBE) + chat.lead
    texts = [before, *(before + word for word in task.labels.values())]
    ids, *whole = (tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    is_apart = kind == "causal" and all(begins_with(each, ids) for each in whole)
    return (chat.lead, "") if is_apart else ("", chat.lead)


def answer_vocabulary(config: PreTrainedConfig) -> int:
    """The number of tokens that the model has outputs for; the decoder of a Marian may have a vocabulary of its own."""
    shared = getattr(config, "share_encoder_decoder_embeddings", True)
    return int(config.vocab_size if shared else config.decoder_vocab_size)


def as_run(wording: Wording) -> TaskWording:
    """The task with the defaults of the model's family in the fields that the request left open."""
    if wording.chat is not None:
        return wording.task
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
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    tokens_per_batch: int | None,
    sentence_encoder: SentenceEncoder | None,
) -> int | None:
    """The smallest limit of tokenizer, position embeddings, batches and sentence-transformers. Relative positions have
    no limit."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 10**9 else []
    positions = max_tokens(FAMILIES[config.model_type], config.to_dict())
    batches = None if tokens_per_batch is None else max(tokens_per_batch, MIN_ROW_TOKENS)
    sentence = None if sentence_encoder is None else sentence_encoder.max_tokens
    return min([*limits, *(limit for limit in (positions, batches, sentence) if limit is not None)], default=None)
