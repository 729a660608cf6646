"""What a runtime is asked about the files of a model: the logits of some rows, and the tokens of some texts.

Shape suffixes: T positions, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from worker.checkpoints.verification import Probe
from worker.exports.checkpoint_logits import checkpoint_logits
from worker.exports.source import ExportSource

MOST_TOKENS = 64  # of a row; the logits of a decoder do not depend on later tokens
# Texts that tokenizers split in different ways.
TEXTS = (
    "A plain sentence, with a comma.",
    "It's what they'll do; we've seen I'd DON'T",
    "1 12 123 1234 12345.678",
    "  two  spaces   and 3  digits",
    "a line\nand another\n\n  indented\r\n\ttab",
    "naïve café, Ångström, straße",
    "привет мир, 你好世界 こんにちは",
    "x+=y**2; // [i] {j} <k> #l @m $n %o &p",
    "emoji 🙂👍🏽 and ½ ²",
)


@dataclass(frozen=True)
class Questions:
    """Rows of tokens (T), the logits of the slim model for each (T, V), texts, and their tokens by the checkpoint."""

    tokens: list[Tensor]
    logits: list[Tensor]
    texts: list[str]
    text_tokens: list[list[int]]
    framed_tokens: list[list[int]]  # with the special tokens that the tokenizer adds

    @property
    def greatest(self) -> float:
        """The greatest absolute logit."""
        return max(logits.abs().max().item() for logits in self.logits)

    def difference(self, found: Sequence[Tensor]) -> float:
        """The largest difference between two logits."""
        return max(
            (mine.float() - theirs.float()).abs().max().item() for mine, theirs in zip(self.logits, found, strict=True)
        )


def questions_of(source: ExportSource) -> Questions:
    """The rows that the checkpoint was verified with, and texts: those rows', and some that are hard to split."""
    rows = list(Probe.read(source.probe).inputs["input_ids"])
    tokenizer, tokens = source.tokenizer, [row[:MOST_TOKENS].contiguous() for row in rows]
    texts = [*(_text(tokenizer, row) for row in rows), *TEXTS]
    texts = [text for text in texts if text and _text(tokenizer, tokenizer(text).input_ids) == text]
    return Questions(
        tokens,
        checkpoint_logits(source.checkpoint, tokens, source.scratch, source.while_waiting),
        texts,
        [tokenizer(text, add_special_tokens=False).input_ids for text in texts],
        [tokenizer(text).input_ids for text in texts],
    )


def _text(tokenizer: PreTrainedTokenizerBase, tokens: Tensor | list[int]) -> str:
    """The text of tokens, without special ones."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
