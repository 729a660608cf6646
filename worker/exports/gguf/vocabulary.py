"""The tokenizer of a GGUF file, made of the checkpoint's tokenizer.json."""

import re
from collections.abc import Mapping
from typing import Any

from gguf import GGUFWriter, TokenType

from service.exports.gguf_tokenizer import tokenizer_kind
from worker.exports.source import ExportSource

SPECIAL = ("bos", "eos", "unk", "pad")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SENTENCEPIECE = "llama"


def add_tokenizer(writer: GGUFWriter, source: ExportSource) -> None:
    """Add the vocabulary, what decides which tokens are joined, the special tokens and the chat template."""
    content, size = source.tokenizer_json, source.config.vocab_size
    kind = tokenizer_kind(content)
    assert kind is not None, "the tokenizer was checked before the job began"
    tokens, types = vocabulary(content, size)
    writer.add_tokenizer_model(kind.model)
    writer.add_tokenizer_pre(kind.pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if kind.model == SENTENCEPIECE:
        writer.add_token_scores(scores(content, tokens))
        writer.add_add_space_prefix(kind.adds_space)
    else:
        writer.add_token_merges([" ".join(pair) for pair in _merges(content)])
    _add_special_tokens(writer, source)
    if isinstance(source.tokenizer.chat_template, str):
        writer.add_chat_template(source.tokenizer.chat_template)


def vocabulary(content: Mapping[str, Any], size: int) -> tuple[list[str], list[TokenType]]:
    """The tokens of all rows of the embedding, and what each is for. Rows without a token get an unused one."""
    model = content["model"]
    by_number = {number: token for token, number in model["vocab"].items()}
    types = dict.fromkeys(by_number, TokenType.NORMAL)
    if model.get("byte_fallback"):
        types |= {number: TokenType.BYTE for number, token in by_number.items() if BYTE.fullmatch(token)}
    for added in content.get("added_tokens") or ():
        by_number[added["id"]] = added["content"]
        types[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    if model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = TokenType.UNKNOWN
    tokens = [by_number.get(number, f"[PAD{number}]") for number in range(size)]
    return tokens, [types.get(number, TokenType.UNUSED) for number in range(size)]


def scores(content: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """The score of each token, by which SentencePiece joins: the earlier a merge makes a token, the higher."""
    merges = _merges(content)
    made = {"".join(pair): rank for rank, pair in reversed(list(enumerate(merges)))}
    return [-float(made.get(token, len(merges))) for token in tokens]


def _merges(content: Mapping[str, Any]) -> list[list[str]]:
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in content["model"]["merges"]]


def _add_special_tokens(writer: GGUFWriter, source: ExportSource) -> None:
    """Add the numbers of the special tokens, and whether texts begin and end with one."""
    tokenizer, size = source.tokenizer, source.config.vocab_size
    for name in SPECIAL:
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < size:
            getattr(writer, f"add_{name}_token_id")(number)
    bare, framed = (tokenizer("a", add_special_tokens=frame).input_ids for frame in (False, True))
    writer.add_add_bos_token(framed[: len(framed) - len(bare)] == [tokenizer.bos_token_id])
    writer.add_add_eos_token(framed == [*bare, tokenizer.eos_token_id])
