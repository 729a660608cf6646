"""What files for other runtimes are made of: the verified checkpoint on the disk, read one tensor at a time."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from service.contract.request.output import Output
from worker.checkpoints.weights import FROM_DISK_ALONE
from worker.sources.validation import weight_files

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class LayerSizes:
    """The numbers of units in a decoder layer."""

    heads: int
    key_value_heads: int
    width: int  # feed-forward neurons


@dataclass(frozen=True)
class ExportSource:
    """A verified checkpoint of a decoder, and the probe that it was verified with."""

    checkpoint: Path
    probe: Path
    output: Output
    scratch: Path  # for files that are not stored
    while_waiting: Callable[[], None]  # called now and then; raises to end the job

    @cached_property
    def config(self) -> Any:
        """Its config, with the defaults of its class."""
        return AutoConfig.from_pretrained(self.checkpoint, **FROM_DISK_ALONE)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        found = AutoTokenizer.from_pretrained(self.checkpoint, **FROM_DISK_ALONE)
        assert isinstance(found, PreTrainedTokenizerBase)
        return found

    @cached_property
    def tokenizer_json(self) -> Mapping[str, Any]:
        """The content of its tokenizer.json."""
        content: dict[str, Any] = json.loads((self.checkpoint / TOKENIZER).read_bytes())
        return content

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """Tensor -> the file that holds it."""
        found: dict[str, Path] = {}
        for path in weight_files(self.checkpoint):
            with safe_open(path, framework="pt") as file:
                found |= dict.fromkeys(file.keys(), path)
        return found

    @property
    def head_size(self) -> int:
        """Dimensions of an attention head."""
        size = getattr(self.config, "head_dim", None)
        return int(size or self.config.hidden_size // self.config.num_attention_heads)

    @cached_property
    def layers(self) -> list[LayerSizes]:
        """The sizes of each layer, by the shapes of its weights."""
        return [self._layer(f"model.layers.{index}.") for index in range(self.config.num_hidden_layers)]

    def _layer(self, prefix: str) -> LayerSizes:
        queries, keys = (self.shape(f"{prefix}self_attn.{name}_proj.weight")[0] for name in ("q", "k"))
        width = self.shape(f"{prefix}mlp.gate_proj.weight")[0]
        return LayerSizes(queries // self.head_size, keys // self.head_size, width)

    @property
    def own_widths(self) -> bool:
        """Whether layers have sizes of their own, so that the class in the checkpoint loads it."""
        return hasattr(self.config, "layer_widths")

    def tensor(self, name: str) -> Tensor:
        """A tensor in float32."""
        with safe_open(self.files[name], framework="pt") as file:
            found: Tensor = file.get_tensor(name)
        return found.float()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        with safe_open(self.files[name], framework="pt") as file:
            return tuple(file.get_slice(name).get_shape())
