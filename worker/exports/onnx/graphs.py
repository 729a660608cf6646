"""The graphs of ONNX files: what a slim model computes, with inputs and outputs that have names.

A decoder has the inputs and outputs of onnxruntime-genai: the keys and values of the tokens before go in and come out
with those of the new tokens. Each layer may have its own number of key-value heads.

Shape suffixes: B rows, T new tokens, P tokens in the cache, S = P + T, N key-value heads of a layer, H dimensions.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from service.models.families.sentence_encoder import SentenceEncoder
from worker.checkpoints.encoders import is_encoder
from worker.slimming.scoring.embeddings import pooled

FILE = "model.onnx"
ENCODER_FILE, DECODER_FILE = "encoder_model.onnx", "decoder_model.onnx"
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Lengths of the example inputs. No two are equal, so that no two dimensions are taken for the same one.
ROWS, NEW, PAST = 2, 5, 3
SLIDING = "sliding_attention"
LARGE = 1_500_000_000  # one file of ONNX holds at most 2 GB


@dataclass(frozen=True)
class Graph:
    """A module whose `forward` takes the named inputs in their order, and an example of each."""

    file: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    dynamic: Mapping[str, Sequence[int]]  # input -> its dimensions that may have any length
    outputs: Sequence[str]

    def write(self, directory: Path) -> None:
        """Write the file; weights of more than LARGE bytes go into a second one beside it."""
        size = sum(parameter.nbytes for parameter in self.module.parameters())
        shapes = tuple(dict.fromkeys(self.dynamic[name], Dim.AUTO) for name in self.inputs)
        torch.onnx.export(
            self.module,
            tuple(self.inputs.values()),
            directory / self.file,
            input_names=list(self.inputs),
            output_names=list(self.outputs),
            dynamic_shapes=(shapes,),
            dynamo=True,
            external_data=size > LARGE,
            verbose=False,
        )


class Encoder(nn.Module):
    """An encoder. Without a head its outputs are the parts of `worker.checkpoints.encoders.outputs_of`, in order."""

    def __init__(self, model: PreTrainedModel, names: Sequence[str], sentence_encoder: SentenceEncoder | None) -> None:
        super().__init__()
        self.model, self.names, self.sentence_encoder = model, names, sentence_encoder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.names, tensors, strict=True))
        found = self.model(**inputs)
        if "last_hidden_state" not in found:
            return (found.logits,)
        outputs = [found.last_hidden_state]
        if found.get("pooler_output") is not None:
            outputs.append(found.pooler_output)
        if self.sentence_encoder is not None:
            mask_BT = inputs["attention_mask"].bool()
            outputs.append(pooled(found.last_hidden_state, mask_BT, self.sentence_encoder.pooling))
        return tuple(outputs)


class TextEncoder(nn.Module):
    """The encoder of an encoder-decoder: (tokens, mask) -> hidden states."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        tokens_BT, mask_BT = tensors
        return (self.encoder(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state,)


class AnswerDecoder(nn.Module):
    """The decoder of an encoder-decoder: (tokens of the answer, hidden states and mask of the text) -> logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        tokens_BT, states_BSD, mask_BS = tensors
        encoded = BaseModelOutput(last_hidden_state=states_BSD)
        found = self.model(
            encoder_outputs=encoded, attention_mask=mask_BS, decoder_input_ids=tokens_BT, use_cache=False
        )
        return (found.logits,)


class Decoder(nn.Module):
    """A decoder with a cache: (tokens, mask, key and value of each layer) -> (logits, key and value of each layer)."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        tokens_BT, mask_BS, *past = tensors
        cache: Any = DynamicCache()
        for layer, (key_BNPH, value_BNPH) in enumerate(zip(past[::2], past[1::2], strict=True)):
            cache.update(key_BNPH, value_BNPH, layer)
        positions_BS = (mask_BS.cumsum(-1) - 1).clamp(min=0)
        found = self.model(
            input_ids=tokens_BT,
            attention_mask=self._masks(mask_BS, tokens_BT.shape[1]),
            position_ids=positions_BS[:, -tokens_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
        present = (tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
        return (found.logits, *present)

    def _masks(self, mask_BS: Tensor, num_new: int) -> Any:
        """What is added to the products of queries and keys: by type of layer where the config has types."""
        config = self.model.config
        window = getattr(config, "sliding_window", None)
        types = getattr(config, "layer_types", None)
        if types is None:
            return _added(mask_BS, num_new, window)
        return {kind: _added(mask_BS, num_new, window if kind == SLIDING else None) for kind in set(types)}


def _added(mask_BS: Tensor, num_new: int, window: int | None) -> Tensor:
    """0 where a new token sees another one, else the least number (B, 1, T, S)."""
    key_S = torch.arange(mask_BS.shape[1], device=mask_BS.device)
    query_T1 = key_S[-num_new:].unsqueeze(1)
    sees_TS = key_S <= query_T1
    if window is not None:
        sees_TS = sees_TS & (key_S > query_T1 - window)
    sees_B1TS = sees_TS & mask_BS.bool()[:, None, None, :]
    least = torch.finfo(torch.float32).min
    return torch.where(sees_B1TS, 0.0, least)


def encoder_graph(model: PreTrainedModel, sentence_encoder: SentenceEncoder | None) -> Graph:
    """The graph of an encoder. It takes token types where the model does."""
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    names = TEXT_INPUTS if takes_types and vars(model.config).get("type_vocab_size") else TEXT_INPUTS[:2]
    examples = _text(model.config.vocab_size) | {"token_type_ids": torch.zeros(ROWS, NEW, dtype=torch.int64)}
    inputs = {name: examples[name] for name in names}
    outputs = ["logits"]
    if is_encoder(model):
        with torch.no_grad():
            has_pooler = model(**inputs).get("pooler_output") is not None
        outputs = [
            "last_hidden_state",
            *["pooler_output"] * has_pooler,
            *["sentence_embedding"] * bool(sentence_encoder),
        ]
    module = Encoder(model, names, sentence_encoder)
    return Graph(FILE, module, inputs, dict.fromkeys(names, (0, 1)), outputs)


def encoder_decoder_graphs(model: PreTrainedModel) -> list[Graph]:
    """The graphs of an encoder-decoder: one for the encoder, one for the decoder, which has no cache.

    Attention with a position bias is written as the class computes it without fused kernels.
    """
    model.set_attn_implementation("eager")
    text = _text(model.config.vocab_size)
    dynamic = dict.fromkeys(text, (0, 1))
    encoder = TextEncoder(model)
    with torch.no_grad():
        [states_BTD] = encoder(*text.values())
    answer = {
        "input_ids": torch.ones(ROWS, PAST, dtype=torch.int64),
        "encoder_hidden_states": states_BTD,
        "encoder_attention_mask": text["attention_mask"],
    }
    return [
        Graph(ENCODER_FILE, encoder, text, dynamic, ["last_hidden_state"]),
        Graph(DECODER_FILE, AnswerDecoder(model), answer, dict.fromkeys(answer, (0, 1)), ["logits"]),
    ]


def key_value_heads(config: Any) -> list[int]:
    """The number of key-value heads of each layer of a decoder."""
    widths = getattr(config, "layer_widths", None)
    own = widths["decoder"] if widths else [{}] * config.num_hidden_layers
    whole = vars(config)["num_key_value_heads"]  # past the check for fields that differ between layers
    return [fields.get("num_key_value_heads", whole) for fields in own]


def head_size(config: Any) -> int:
    """Dimensions of an attention head of a decoder."""
    own = vars(config)
    return int(own.get("head_dim") or own["hidden_size"] // own["num_attention_heads"])


def decoder_graph(model: PreTrainedModel) -> Graph:
    """The graph of a decoder, with the keys and values of each layer."""
    inputs = _text(model.config.vocab_size)
    inputs["attention_mask"] = torch.ones(ROWS, PAST + NEW, dtype=torch.int64)
    caches = {
        f"past_key_values.{layer}.{name}": torch.zeros(ROWS, count, PAST, head_size(model.config))
        for layer, count in enumerate(key_value_heads(model.config))
        for name in ("key", "value")
    }
    dynamic = dict.fromkeys(inputs, (0, 1)) | dict.fromkeys(caches, (0, 2))
    outputs = ["logits", *(name.replace("past_key_values", "present") for name in caches)]
    return Graph(FILE, Decoder(model), inputs | caches, dynamic, outputs)


def _text(vocabulary: int) -> dict[str, Tensor]:
    """Example tokens, none of them padding."""
    tokens = torch.arange(ROWS * NEW).view(ROWS, NEW) % (vocabulary - 1) + 1
    return {"input_ids": tokens, "attention_mask": torch.ones(ROWS, NEW, dtype=torch.int64)}
