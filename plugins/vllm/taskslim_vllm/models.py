"""The classes: each builds the layers of a stock class of vLLM with the widths of the layer.

The stock class reads its sizes from one config. While it makes a layer, that config has the sizes of this layer, which
`config.layer_widths` lists.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.models import gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3
from vllm.model_executor.models.utils import extract_layer_index

MakeLayer = Callable[..., Any]
STACK = "decoder"  # the one stack of these models in `layer_widths`


class PerLayer:
    """Comes before a stock class. `makes_layers` is the module of vLLM whose `make_layers` that class calls."""

    makes_layers: ModuleType = llama

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        with _own_widths(self.makes_layers, config, config.layer_widths[STACK]):
            super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]


@contextmanager
def _own_widths(module: ModuleType, config: Any, widths: list[Mapping[str, int]]) -> Iterator[None]:
    """Each layer that the module makes reads its own widths from the config."""
    stock = module.make_layers

    def make_layers(num_layers: int, make_layer: MakeLayer, prefix: str) -> Any:
        def make_own(prefix: str) -> Any:
            with _fields(config, widths[extract_layer_index(prefix)]):
                return make_layer(prefix=prefix)

        return stock(num_layers, make_own, prefix)

    module.make_layers = make_layers  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.make_layers = stock  # type: ignore[attr-defined]


@contextmanager
def _fields(config: Any, fields: Mapping[str, int]) -> Iterator[None]:
    """The config with other values of some fields, past the check for fields that differ between layers."""
    own = vars(config)
    before = {name: own[name] for name in fields}
    own.update(fields)
    try:
        yield
    finally:
        own.update(before)


class PerLayerLlamaForCausalLM(PerLayer, llama.LlamaForCausalLM):
    """A Llama."""


class PerLayerMistralForCausalLM(PerLayer, mistral.MistralForCausalLM):
    """A Mistral."""


class PerLayerPhi3ForCausalLM(PerLayer, phi3.Phi3ForCausalLM):
    """A Phi-3."""


class PerLayerQwen2ForCausalLM(PerLayer, llama.LlamaForCausalLM):
    """A Qwen 2. vLLM's own class takes the size of a head to be the hidden size divided by the heads."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        vllm_config.model_config.hf_config.qkv_bias = True
        super().__init__(vllm_config=vllm_config, prefix=prefix)


class PerLayerQwen3ForCausalLM(PerLayer, qwen3.Qwen3ForCausalLM):
    """A Qwen 3."""

    makes_layers = qwen2  # its layers are made by the class of Qwen 2


class PerLayerGemma2ForCausalLM(PerLayer, gemma2.Gemma2ForCausalLM):
    """A Gemma 2."""

    makes_layers = gemma2


class PerLayerGemma3ForCausalLM(PerLayer, gemma3.Gemma3ForCausalLM):
    """The text part of a Gemma 3."""

    makes_layers = gemma3
