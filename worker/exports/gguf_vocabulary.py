"""The tokenizer of a GGUF file, made of the checkpoint's tokenizer.json."""

from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from service.exports.gguf_tokenizer import tokenizer_kind
from worker.exports.source import ExportSource


def add_tokenizer(writer: GGUFWriter, source: ExportSource) -> None:
    """Add the vocabulary, the merges, the special tokens and the chat template."""
    content, size = source.tokenizer_json, source.config.vocab_size
    kind = tokenizer_kind(content)
    assert kind is not None, "the tokenizer was checked before the job began"
    tokens, types = vocabulary(content, size)
    writer.add_tokenizer_model(kind.model)
    writer.add_tokenizer_pre(kind.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = content["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    _add_special_tokens(writer, source)
    if isinstance(source.tokenizer.chat_template, str):
        writer.add_chat_template(source.tokenizer.chat_template)


def vocabulary(content: Mapping[str, Any], size: int) -> tuple[list[str], list[TokenType]]:
    """The tokens of all rows of the embedding, and what each is for. Rows without a token get an unused one."""
    by_number = {number: token for token, number in content["model"]["vocab"].items()}
    types = dict.fromkeys(by_number, TokenType.NORMAL)
    for added in content.get("added_tokens") or ():
        by_number[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(size)]
    return tokens, [types.get(number, TokenType.UNUSED) for number in range(size)]


def _add_special_tokens(writer: GGUFWriter, source: ExportSource) -> None:
    """Add the numbers of the special tokens, and whether texts begin and end with one."""
    tokenizer, size = source.tokenizer, source.config.vocab_size
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, add in adders.items():
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < size:
            add(number)
    bare, framed = (tokenizer("a", add_special_tokens=frame).input_ids for frame in (False, True))
    writer.add_add_bos_token(framed[: -len(bare)] == [tokenizer.bos_token_id] and framed[-len(bare) :] == bare)
    writer.add_add_eos_token(False)
