"""The tokens of a model that stay, under the ids that they have before and after the cut."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class SlimVocabulary:
    """The new ids of the tokens that stay, and the tokenizers before and after the cut."""

    ids: Mapping[int, int]  # id in the dense model -> id in the slim one
    dense: PreTrainedTokenizerBase
    slim: PreTrainedTokenizerBase

    def spelled(self, token: int) -> tuple[int, ...]:
        """The slim tokens that stand for a token of the dense model: itself, or the pieces that it falls into."""
        if token in self.ids:
            return (self.ids[token],)
        piece = self.dense.convert_ids_to_tokens(token)
        return tuple(part.id for part in self.slim.backend_tokenizer.model.tokenize(piece))

    def dense_ids(self, slim_ids: Tensor) -> Tensor:
        """The ids in the dense model of tokens of the slim one, of any shape."""
        old = {new: number for number, new in self.ids.items()}
        return torch.tensor([old[new] for new in range(len(old))])[slim_ids.cpu()]
