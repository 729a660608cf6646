"""Which checkpoints with layers of different widths vLLM loads.

Its transformers back end builds the class in the checkpoint, and takes the number of query and key-value heads of each
layer from `per_layer_config`. tests/test_runtimes.py compares the logits of each family that is promised here.
"""

from collections.abc import Mapping, Sequence

from service.contract.options import Unit
from service.models.families.family import ModelFamily
from service.models.families.runtimes.limits import untested_head

UNIFORM = 'ask for `output.layout: "uniform"`'
# The families of which plugins/vllm has a class on the classes of vLLM.
IN_PLUGIN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
# The families that its transformers back end was compared for.
IN_BACK_END = (
    *IN_PLUGIN,
    "olmo2",
    "smollm3",
    "ministral3",
    "gemma",
    "glm4",
    "starcoder2",
    "nemotron",
    "exaone4",
    "seed_oss",
    "hunyuan_v1_dense",
    "ernie4_5",
)
# Family -> why vLLM does not load its per-layer checkpoints.
REFUSED: Mapping[str, str] = {"granite": "its transformers back end does not divide the logits by `logits_scaling`"}


def per_layer_limit(family: ModelFamily, units: Sequence[Unit]) -> str | None:
    """Why vLLM does not load a per-layer checkpoint of the family; None if it does. `units` are those removed."""
    if untested := untested_head(family.kind):
        return untested
    if family.kind != "causal" or Unit.experts in units:
        return one_width("vllm", family)
    if family.model_type in REFUSED:
        return f"{REFUSED[family.model_type]}: {UNIFORM}"
    if family.model_type not in IN_BACK_END:
        return f"whether its transformers back end computes {family.model_type} as transformers does was not tested"
    return None


def one_width(runtime: str, family: ModelFamily) -> str:
    """Why a runtime does not load layers of different widths, with the way out where it has one."""
    if untested := untested_head(family.kind):
        return untested
    if runtime not in family.runtimes:
        return f"it has no architecture for {family.model_type}"
    return f"its architectures have one width for all layers: {UNIFORM}"
