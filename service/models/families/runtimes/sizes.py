"""The sizes of a slim model, by which a runtime loads it or does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.options import Unit
from service.models.families.family import Kind
from service.models.families.runtimes.layer_patterns import follows_pattern


@dataclass(frozen=True)
class SlimSizes:
    """The sizes of a slim model with one width for all layers of a stack; heads and layers are those of the decoder."""

    family: str
    units: Sequence[Unit]  # that were removed
    widths: Sequence[int]  # feed-forward neurons of each stack
    heads: int
    head_size: int
    layers: int
    hidden_size: int
    config: Mapping[str, Any]  # of the slim model, or of the dense one before there is a slim one
    heads_known: bool = True  # whether it is known how many heads stay; if not, `heads` are those of the dense model
    layers_known: bool = True  # whether it is known which layers stay
    kind: Kind | None = None  # of the model's head, where that is not the family's own

    @property
    def heads_fill_hidden_size(self) -> bool:
        """Whether the size of a head is the hidden size divided by the heads."""
        return self.heads_known and self.heads * self.head_size == self.hidden_size

    @property
    def keeps_pattern(self) -> bool:
        """Whether each layer has the type that its number gives it in the family."""
        return self.layers_known and follows_pattern(self.family, self.config)
