"""The safetensors files of the sums that a shard has measured.

Sums: a float64 tensor for each group, `sums.{stack}.{layer}.{unit}`, and a float32 one for each weight whose gradient
the criterion needs, `gradients.{name}`. Moments of the input of one module: `origin`, `sum`, `gram`, `effect` and
`weights`, the last row by row (`partial_sums.by_rows`). The counts are JSON in the header's metadata.
"""

import json
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from service.sources.safetensors_header import read_header
from worker.slimming.scoring.partial_sums import PartialSums
from worker.slimming.scoring.second_moments import Moments
from worker.slimming.units.groups import Site

COUNTS = "counts"  # key of the metadata


def pack_sums(sums: PartialSums) -> bytes:
    """The file of the sums of one part."""
    tensors = {f"sums.{site}": total for site, total in sums.sums.items()}
    tensors |= {f"gradients.{name}": total for name, total in sums.weight_gradients.items()}
    return _pack(tensors, {"num_examples": sums.num_examples, "num_tokens": sums.num_tokens})


def unpack_sums(content: bytes) -> PartialSums:
    """The sums in a file that `pack_sums` made."""
    sums: dict[Site, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for name, total in load(content).items():
        kind, _, rest = name.partition(".")
        if kind == "sums":
            sums[Site.parse(rest)] = total
        else:
            gradients[rest] = total
    counts = _counts(content)
    return PartialSums(sums, gradients, counts["num_examples"], counts["num_tokens"])


def pack_moments(moments: Moments) -> bytes:
    """The file of the moments of one module's input, whose weights are one tensor, row by row."""
    matrices = {"gram": moments.gram_CC, "effect": moments.effect_OO}
    tensors = {"origin": moments.origin_C, "sum": moments.sum_C, "weights": torch.cat(moments.weights_N)}
    tensors |= {name: matrix for name, matrix in matrices.items() if matrix is not None}
    return _pack(tensors, {"centred": moments.centred, "num_tokens": moments.num_tokens, "weight": moments.weight})


def unpack_moments(content: bytes) -> Moments:
    """The moments in a file that `pack_moments` made."""
    tensors, counts = load(content), _counts(content)
    return Moments(
        centred=counts["centred"],
        num_tokens=counts["num_tokens"],
        weight=counts["weight"],
        origin_C=tensors["origin"],
        sum_C=tensors["sum"],
        gram_CC=tensors.get("gram"),
        effect_OO=tensors.get("effect"),
        weights_N=[tensors["weights"]],
    )


def _pack(tensors: dict[str, Tensor], counts: dict[str, Any]) -> bytes:
    return save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, {COUNTS: json.dumps(counts)})


def _counts(content: bytes) -> dict[str, Any]:
    metadata = read_header(lambda start, end: content[start:end], max_bytes=len(content)).metadata
    found: dict[str, Any] = json.loads(metadata[COUNTS])
    return found
