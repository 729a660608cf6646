"""The names of the files of a model and of an adapter, and which files of a directory make up a model."""

from fnmatch import fnmatch

from service.models.families.per_layer import MODELLING_FILE
from service.models.families.sentence_encoder import NESTED

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
GGUF = ".gguf"
PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"  # is downloaded for the licence that it names, and is no part of the model

PATTERNS = [
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "tokenizer.model",
    "spiece.model",
    "spm.model",
    "source.spm",
    "target.spm",
    "sentencepiece.bpe.model",
    MODELLING_FILE,  # of the layout `per_layer`; it is compared, never run
]


def is_wanted(name: str) -> bool:
    """Whether a file is in the directory itself and holds weights (safetensors, GGUF), settings or a vocabulary, or is
    the config of a module of sentence-transformers."""
    if "/" in name:
        return any(fnmatch(name, pattern) for pattern in NESTED)
    return any(fnmatch(name, pattern) for pattern in (*PATTERNS, f"*{GGUF}"))
