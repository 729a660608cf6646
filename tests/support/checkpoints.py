"""Writes tiny models, with a tokenizer that knows a few whole words, to directories that a request can name."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.support.tiny_models import TINY, VOCABULARY, family_of_model
from worker.checkpoints.dtypes import cast_weights

SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# The most frequent words become one token each: " positive", " negative", " good", " bad".
CORPUS = ["the quick brown fox jumps over a lazy dog : ( ) ? ! . , Review Answer [ ] \n"] + [
    "a positive film\n a negative plot\n good bad positive negative good bad"
] * 50
FRAMES = {  # the special tokens that the tokenizer adds on demand
    "causal": "<s> $A",
    "bare": "$A",
    "encoder_decoder": "$A </s>",
    "classifier": "<s> $A </s>",
    "decoder_classifier": "<s> $A",
    "encoder": "<s> $A </s>",
    "token_classifier": "<s> $A </s>",
}
LORA = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)


def tokenizer(kind: str = "causal") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most VOCABULARY tokens."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), show_progress=False)
    inner.train_from_iterator(CORPUS, trainer)
    ends = [(token, inner.token_to_id(token)) for token in ("<s>", "</s>")]
    inner.post_processor = TemplateProcessing(single=FRAMES[kind], special_tokens=ends)
    with_separator = ("classifier", "token_classifier", "encoder")
    extra = {"sep_token": "</s>", "cls_token": "<s>"} if kind in with_separator else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **SPECIAL, **extra)


def write(directory: Path, name: str = "llama", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Save a model of TINY and its tokenizer; the model as it was saved."""
    model = TINY[name]()
    cast_weights(model, dtype)
    save(directory, model)
    return model


def save(directory: Path, model: PreTrainedModel) -> None:
    """Save a model and a tokenizer for it."""
    model.save_pretrained(directory)
    tokenizer(family_of_model(model).kind).save_pretrained(directory)


def write_adapter(directory: Path) -> dict[str, Tensor]:
    """Save a random LoRA adapter of the tiny Llama; its tensors."""
    torch.manual_seed(0)
    get_peft_model(TINY["llama"](), LORA).save_pretrained(str(directory))
    return load_file(directory / "adapter_model.safetensors")


def change_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_config(directory: Path, **fields: Any) -> None:
    """Set fields of a checkpoint's config.json."""
    change_json(directory / "config.json", **fields)


def write_wrong_offsets(directory: Path) -> None:
    """Change the header of model.safetensors so that a tensor ends behind the end of the file."""
    path = directory / "model.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    name = next(key for key in header if key != "__metadata__")
    header[name]["data_offsets"][1] += 2**40
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + content[8 + size :])
