"""Which files of a directory make up a model."""

from fnmatch import fnmatch

from service.contract.per_layer import MODELLING_FILE

CARD = "README.md"  # comes along for what it says of the licence; no part of the model

PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    MODELLING_FILE,  # of our own layout; compared, never run
]


def is_wanted(name: str) -> bool:
    """Whether a file of the directory itself holds weights in safetensors or GGUF, settings or a vocabulary."""
    return "/" not in name and any(fnmatch(name, pattern) for pattern in (*PATTERNS, "*.gguf"))
