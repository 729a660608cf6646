"""What a stock model answers, computed row by row with transformers alone, and with units silenced by hooks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from service.models.families.family import CLASSIFIERS, Kind

# Family -> the list of its layers, by stack.
LAYERS = {
    "gpt2": {"decoder": "transformer.h"},
    "opt": {"decoder": "model.decoder.layers"},
    "gpt_neox": {"decoder": "gpt_neox.layers"},
    "t5": {"encoder": "encoder.block", "decoder": "decoder.block"},
    "mt5": {"encoder": "encoder.block", "decoder": "decoder.block"},
    "umt5": {"encoder": "encoder.block", "decoder": "decoder.block"},
    "bart": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    "bert": {"encoder": "bert.encoder.layer"},
    "roberta": {"encoder": "roberta.encoder.layer"},
    "distilbert": {"encoder": "distilbert.transformer.layer"},
    "xlm-roberta": {"encoder": "roberta.encoder.layer"},
    "electra": {"encoder": "electra.encoder.layer"},
    "modernbert": {"encoder": "model.layers"},
    "deberta-v2": {"encoder": "deberta.encoder.layer"},
    "mbart": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    "pegasus": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    "m2m_100": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    "marian": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
    "t5gemma": {"encoder": "model.encoder.layers", "decoder": "model.decoder.layers"},
}
LLAMA_LAYERS = {"decoder": "model.layers"}
# Family -> the module of a layer whose input channels are the units of a kind.
READERS = {
    "starcoder2": {"ffn": "mlp.c_proj", "heads": "self_attn.o_proj"},
    "gpt2": {"ffn": "mlp.c_proj"},
    "opt": {"ffn": "fc2"},
    "gpt_neox": {"ffn": "mlp.dense_4h_to_h"},
    "bart": {"ffn": "fc2"},
    "bert": {"ffn": "output.dense"},
    "roberta": {"ffn": "output.dense"},
    "distilbert": {"ffn": "ffn.lin2"},
    "xlm-roberta": {"ffn": "output.dense"},
    "electra": {"ffn": "output.dense"},
    "modernbert": {"ffn": "mlp.Wo"},
    "deberta-v2": {"ffn": "output.dense"},
    "mbart": {"ffn": "fc2"},
    "pegasus": {"ffn": "fc2"},
    "m2m_100": {"ffn": "fc2"},
    "marian": {"ffn": "fc2"},
}
LLAMA_READERS = {"ffn": "mlp.down_proj", "heads": "self_attn.o_proj", "cross_heads": "cross_attn.o_proj"}
T5_READERS = {
    "encoder": {"ffn": "layer.1.DenseReluDense.wo", "heads": "layer.0.SelfAttention.o"},
    "decoder": {
        "ffn": "layer.2.DenseReluDense.wo",
        "heads": "layer.0.SelfAttention.o",
        "cross_heads": "layer.1.EncDecAttention.o",
    },
}


ROUTERS = {"gpt_oss": "mlp.router"}


def _layer(model: PreTrainedModel, stack: str, layer: str) -> nn.Module:
    return model.get_submodule(f"{LAYERS.get(model.config.model_type, LLAMA_LAYERS)[stack]}.{layer}")


def _reader(model: PreTrainedModel, stack: str, layer: str, unit: str) -> nn.Module:
    family = model.config.model_type
    readers = T5_READERS[stack] if family in ("t5", "mt5", "umt5") else READERS.get(family, LLAMA_READERS)
    return _layer(model, stack, layer).get_submodule(readers[unit])


@contextmanager
def silenced(model: PreTrainedModel, kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Within the context the units that a file kept.safetensors does not name give zeros, layers pass over, and
    routers choose among the experts that it names."""
    handles = []
    for site, kept_K in kept.items():
        stack, layer, unit = site.split(".")
        if unit == "layers":
            if not kept_K.numel():
                handles.append(_layer(model, stack, layer).register_forward_hook(_pass_over, with_kwargs=True))
        elif unit == "experts":
            router = _layer(model, stack, layer).get_submodule(ROUTERS.get(model.config.model_type, "mlp.gate"))
            handles.append(router.register_forward_hook(_choose_among(kept_K.long())))
        else:
            hook = _silence(kept_K.long(), _size(model, stack, unit))
            handles.append(_reader(model, stack, layer, unit).register_forward_pre_hook(hook))
    yield
    for handle in handles:
        handle.remove()


def _size(model: PreTrainedModel, stack: str, unit: str) -> int:
    """Input channels of the reader that belong to one unit: query heads that share a key-value head go together."""
    if unit == "ffn":
        return 1
    config = getattr(model.config, stack) if model.config.model_type == "t5gemma" else model.config
    if config.model_type in ("t5", "mt5", "umt5"):
        return int(config.d_kv)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(size * config.num_attention_heads // config.num_key_value_heads)


def _silence(kept_K: Tensor, size: int) -> Callable[..., Any]:
    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mask = torch.zeros(args[0].shape[-1] // size).index_fill_(0, kept_K, 1.0).repeat_interleave(size)
        return (args[0] * mask.to(args[0]), *args[1:])

    return hook


def _choose_among(kept_K: Tensor) -> Callable[..., Any]:
    """A hook for a router, which returns (logits, gates, experts): the best of the experts that are kept."""

    def hook(router: Any, _: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        among = output[0][:, kept_K].float().softmax(dim=1).topk(min(router.top_k, len(kept_K)), dim=1)
        gates, experts = among.values, kept_K[among.indices]
        if getattr(router, "norm_topk_prob", True):
            gates = gates / gates.sum(dim=1, keepdim=True)
        return output[0], gates.to(output[1].dtype), experts

    return hook


def _pass_over(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    entering = args[0] if args else kwargs["hidden_states"]
    return (entering, *output[1:]) if isinstance(output, tuple) else entering


def log_probability(
    model: Any, tokenizer: PreTrainedTokenizerBase, kind: Kind, prompt: str, answers: Sequence[str]
) -> Tensor:
    """log P(answer | prompt) of every answer, in float32; the prompt as the tokenizer makes it by default.

    The answers to a classification head are its classes, in their order.
    """
    prompt_ids = list(tokenizer(prompt)["input_ids"])
    with torch.inference_mode():
        if kind in CLASSIFIERS:
            found: Tensor = model(input_ids=torch.tensor([prompt_ids])).logits[0].float().log_softmax(dim=0)
            return found
        return torch.stack([_of_tokens(model, kind, prompt_ids, _tokens(tokenizer, kind, text)) for text in answers])


def _tokens(tokenizer: PreTrainedTokenizerBase, kind: Kind, text: str) -> list[int]:
    return list(tokenizer((" " if kind == "causal" else "") + text, add_special_tokens=False)["input_ids"])


def _of_tokens(model: Any, kind: Kind, prompt_ids: list[int], answer: list[int]) -> Tensor:
    if kind == "causal":
        logits = model(input_ids=torch.tensor([prompt_ids + answer])).logits[0, len(prompt_ids) - 1 : -1]
    else:
        read = torch.tensor([[model.config.decoder_start_token_id, *answer[:-1]]])
        logits = model(input_ids=torch.tensor([prompt_ids]), decoder_input_ids=read).logits[0]
    found: Tensor = logits.float().log_softmax(dim=-1).gather(1, torch.tensor(answer).unsqueeze(1)).sum()
    return found


def greedy(model: Any, tokenizer: PreTrainedTokenizerBase, kind: Kind, prompt: str, count: int) -> str:
    """The text of at most `count` tokens, each the most likely one, up to the end token."""
    read: list[int] = list(tokenizer(prompt)["input_ids"])
    written: list[int] = []
    for _ in range(count):
        with torch.inference_mode():
            if kind == "causal":
                logits = model(input_ids=torch.tensor([read + written])).logits
            else:
                opening = torch.tensor([[model.config.decoder_start_token_id, *written]])
                logits = model(input_ids=torch.tensor([read]), decoder_input_ids=opening).logits
        last = logits[0, -1].clone()
        if model.config.model_type == "marian":  # its generation config forbids the padding token
            last[model.config.pad_token_id] = -torch.inf
        written.append(int(last.argmax()))
        if written[-1] == tokenizer.eos_token_id:
            break
    return str(tokenizer.decode(written, skip_special_tokens=True))
