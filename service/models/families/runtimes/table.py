"""Which runtimes load a slim checkpoint, and which quantisations its widths allow there.

With equal widths a checkpoint needs a stock architecture alone, so that a runtime loads it if it loads the dense model
and reads the sizes that were changed. Each job verifies this for transformers; for the other runtimes it follows from
their lists of architectures and from `limits`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from service.contract.answers.report import Runtime
from service.contract.options import Unit
from service.models.families.family import ModelFamily
from service.models.families.runtimes.limits import caveat_of, limit_of, untested_head
from service.models.families.runtimes.per_layer_limits import IN_PLUGIN, one_width, per_layer_limit
from service.models.families.runtimes.sizes import SlimSizes
from service.models.families.table import FAMILIES

DEVICES = (1, 2, 4, 8)

# GGUF's K-quants need rows in blocks of 256, its older types in blocks of 32; other rows stay in F16.
GGUF_BLOCKS = ((256, ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0")), (32, ("Q8_0", "Q4_0")))
# 4-bit kernels share a scale among 128 weights of a row; FP8 kernels work in tiles of 16.
GPU_BLOCKS = ((128, ("AWQ", "GPTQ", "FP8")), (16, ("FP8",)))
MLX_BLOCKS = ((64, ("4-bit", "8-bit")),)  # a scale for each 64 weights of a row
ANY_WIDTH = ((1, ("bitsandbytes",)),)

Blocks = Sequence[tuple[int, tuple[str, ...]]]


@dataclass(frozen=True)
class RuntimeTraits:
    """The lengths of weight rows that the quantisations of a runtime take, and whether it splits a model."""

    blocks: Blocks
    splits: bool = False  # whether it can split a model over several devices, by heads and neurons


RUNTIMES: dict[str, RuntimeTraits] = {
    "transformers": RuntimeTraits(ANY_WIDTH),
    "vllm": RuntimeTraits(GPU_BLOCKS, splits=True),
    "sglang": RuntimeTraits(GPU_BLOCKS, splits=True),
    "llama.cpp": RuntimeTraits(GGUF_BLOCKS),
    "mlx-lm": RuntimeTraits(MLX_BLOCKS),
}


def runtimes_after(sizes: SlimSizes) -> list[Runtime]:
    """For every runtime: whether it loads a checkpoint of these sizes, with which quantisations, and over how many
    devices."""
    return [_runtime(name, traits, sizes) for name, traits in RUNTIMES.items()]


def runtimes_of_unequal_widths(family: ModelFamily, units: Sequence[Unit]) -> list[Runtime]:
    """The answer for layers with different widths: for every runtime whether it loads such a checkpoint, and how.

    `units` are those that were removed.
    """
    return [_of_unequal_widths(name, family, units) for name in RUNTIMES]


def _of_unequal_widths(name: str, family: ModelFamily, units: Sequence[Unit]) -> Runtime:
    if name == "transformers":
        return Runtime(name=name, loads=True, reason="with trust_remote_code=True, for the class in the checkpoint")
    if name != "vllm":
        return Runtime(name=name, loads=False, reason=one_width(name, family))
    if limit := per_layer_limit(family, units):
        return Runtime(name=name, loads=False, reason=limit)
    reason = "with `--trust-remote-code`, for the class in the checkpoint"
    if family.model_type in IN_PLUGIN:
        reason += ", or with the plugin taskslim-vllm and no code of the checkpoint"
    return Runtime(name=name, loads=True, reason=reason, tensor_parallel=[1])


def _runtime(name: str, traits: RuntimeTraits, sizes: SlimSizes) -> Runtime:
    if name not in ("transformers", *FAMILIES[sizes.family].runtimes):
        return Runtime(name=name, loads=False, reason=f"it has no architecture for {sizes.family}")
    if name != "transformers" and (untested := untested_head(sizes.kind)):
        return Runtime(name=name, loads=False, reason=untested)
    if limit := limit_of(name, sizes):
        return Runtime(name=name, loads=False, reason=limit)
    rows = _changed_rows(sizes)
    allowed = next((kinds for block, kinds in traits.blocks if not any(row % block for row in rows)), ())
    best, kinds = traits.blocks[0]
    missing = [kind for kind in kinds if kind not in allowed]
    excluded = f"{', '.join(missing)} would need widths that are multiples of {best}" if missing else None
    reason = "; ".join(filter(None, (caveat_of(name, sizes), excluded))) or None
    divided = [*sizes.widths, sizes.heads]
    split = [devices for devices in DEVICES if traits.splits and not any(count % devices for count in divided)]
    return Runtime(name=name, loads=True, reason=reason, quantisations=list(allowed), tensor_parallel=split)


def _changed_rows(sizes: SlimSizes) -> list[int]:
    """The lengths of the weight rows that the cut has changed."""
    rows = list(sizes.widths) if Unit.ffn in sizes.units else []
    if {Unit.heads, Unit.head_dims} & set(sizes.units):
        rows.append(sizes.heads * sizes.head_size)
    return rows
