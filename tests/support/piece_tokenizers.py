"""Small tokenizers of every kind of model whose pieces can be removed, trained in milliseconds."""

import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog and the lazy dog sleeps",
    "a positive review: the film was good, the acting was better, the plotting was the best",
    "a negative review: the film was bad, the acting was worse, the plotting was the worst",
    "reading, writing, painting; reader, writer, painter; unreadable, unwritten, unpainted",
    "déjà vu, naïve café, größe, straße, смотреть, фильм, 日本語",
] * 4
BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPACE = "▁"
SPACES = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])


@cache
def byte_level_bpe(size: int = 420) -> Tokenizer:
    """A BPE of bytes, as GPT-2 has it."""
    found = Tokenizer(BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=sorted(alphabet), show_progress=False
    )
    found.train_from_iterator(CORPUS, trainer)
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, found.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return found


@cache
def bpe_with_bytes() -> Tokenizer:
    """A BPE of characters with bytes for those that it does not know, as Llama 2 has it."""
    found = Tokenizer(BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    found.normalizer = normalizers.Replace(" ", SPACE)
    found.decoder = SPACES
    trainer = BpeTrainer(vocab_size=480, special_tokens=[*SPECIAL, *BYTES], show_progress=False)
    found.train_from_iterator(CORPUS, trainer)
    return _without_added(found, BYTES)


@cache
def unigram() -> Tokenizer:
    """A Unigram model of characters that the corpus has, as T5 has it."""
    found = Tokenizer(Unigram())
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, max_piece_length=8
    )
    found.train_from_iterator(CORPUS, trainer)
    return found


@cache
def wordpiece() -> Tokenizer:
    """A WordPiece model, as BERT has it."""
    found = Tokenizer(WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.decoder = decoders.WordPiece()
    found.train_from_iterator(
        CORPUS, WordPieceTrainer(vocab_size=260, special_tokens=BERT_SPECIAL, show_progress=False)
    )
    start, end = ((token, found.token_to_id(token) or 0) for token in ("[CLS]", "[SEP]"))
    found.post_processor = processors.BertProcessing(end, start)
    return found


def _without_added(tokenizer: Tokenizer, tokens: list[str]) -> Tokenizer:
    """The tokenizer with pieces of its model that are no added tokens any more."""
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [each for each in content["added_tokens"] if each["content"] not in tokens]
    return Tokenizer.from_str(json.dumps(content))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte-level BPE": byte_level_bpe,
    "BPE with bytes": bpe_with_bytes,
    "Unigram": unigram,
    "WordPiece": wordpiece,
}

NAMES: dict[str, Any] = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
BERT_NAMES: dict[str, Any] = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
# The same as tokenizers of transformers, in the classes that have them.
LOADED: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "byte-level BPE": lambda: PreTrainedTokenizerFast(tokenizer_object=byte_level_bpe(), **NAMES),
    "BPE with bytes": lambda: PreTrainedTokenizerFast(tokenizer_object=bpe_with_bytes(), **NAMES),
    "Unigram": lambda: PreTrainedTokenizerFast(tokenizer_object=unigram(), **NAMES),
    "WordPiece": lambda: PreTrainedTokenizerFast(tokenizer_object=wordpiece(), **BERT_NAMES),
}
