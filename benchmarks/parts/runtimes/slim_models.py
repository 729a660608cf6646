"""Small random models of the families that runtimes serve, slimmed in each layout, with the logits to expect.

The expected logits are those of the dense model with its removed units masked, so that no runtime is compared with the
checkpoint that it has read. Heads have 32 dimensions, the fewest that the attention of vLLM takes on a CPU.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from service.contract.options import Layout, Unit
from service.models.families.runtimes.sizes import SlimSizes
from service.models.families.table import FAMILIES
from tests.support import checkpoints
from tests.support.tiny_models import changed, family_of_model, inputs_of
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import take_probe
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import best
from worker.slimming.units.groups import Kept
from worker.slimming.units.locating import locate

STEP = 32  # feed-forward widths are multiples of it
WITHOUT_HEAD_DIM: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
}
DECODER = WITHOUT_HEAD_DIM | {"head_dim": 32}
SCALE: dict[str, Any] = {"query_pre_attn_scalar": 32}
WINDOWS: dict[str, Any] = SCALE | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
ENCODER: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128}
# Family -> the settings of its model, in place of those of tests/support/tiny_models.py.
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3", "olmo2", "ministral3", "gemma", "glm4"), DECODER),
    **dict.fromkeys(("nemotron", "seed_oss", "hunyuan_v1_dense", "ernie4_5"), DECODER),
    **dict.fromkeys(("smollm3", "granite", "starcoder2", "exaone4"), WITHOUT_HEAD_DIM),
    "gemma2": DECODER | SCALE,  # mlx-lm computes it without its windows, of which texts are usually shorter
    "gemma3_text": DECODER | WINDOWS,
    **dict.fromkeys(("bert", "roberta"), ENCODER),
}
SHARES = {Layout.uniform: (0.5, 0.5), Layout.per_layer: (0.5, 0.75)}  # of its units that each of the two layers keeps


@dataclass(frozen=True)
class Case:
    """A family, the layout in which its model is slimmed, and the units that are removed."""

    family: str
    layout: Layout
    units: tuple[Unit, ...]

    @property
    def name(self) -> str:
        """What its rows and its directory are called."""
        return f"{self.family}-{self.layout.value}-{'+'.join(unit.value for unit in self.units)}"


def write_case(case: Case, root: Path) -> Path:
    """Write the dense and the slim model, each with inputs and the logits to expect; the directory of both."""
    torch.set_num_threads(1)
    directory = root / case.name
    model = changed(case.family, **SETTINGS[case.family])
    model.save_pretrained(directory / "dense")
    checkpoints.tokenizer(family_of_model(model).kind).save_pretrained(directory / "dense")
    loaded = load_model(directory / "dense", device=torch.device("cpu"))
    kept = kept_units(loaded.model, case.units, SHARES[case.layout])
    expected = {"dense": take_probe(loaded, {}, inputs_of(loaded.model))}
    expected["slim"] = take_probe(loaded, kept, inputs_of(loaded.model))
    save_model(make_slim(loaded, kept, case.layout), directory / "slim")
    for name, probe in expected.items():
        probe.write(directory / f"{name}.probe")
        save_file(dict(probe.inputs), directory / f"{name}.inputs")
        save_file({"logits": probe.logits}, directory / f"{name}.expected")
    return directory


def kept_units(model: PreTrainedModel, units: Sequence[Unit], shares: Sequence[float]) -> Kept:
    """For each layer its share of the units, those with the highest of drawn scores."""
    draw, kept = torch.Generator().manual_seed(1), {}
    for group in locate(model, ARCHITECTURES[model.config.model_type], [unit.value for unit in units]):
        step = STEP if group.count % STEP == 0 else 1
        count = step * round(group.count * shares[group.site.layer] / step)
        kept[group.site] = best(torch.rand(group.count, generator=draw), count, group.rows)
    return kept


def is_decoder(family: str) -> bool:
    """Whether the models of a family continue a text."""
    return FAMILIES[family].kind == "causal"


def sizes_of(case: Case, checkpoint: Path) -> SlimSizes:
    """The sizes of a slim model with one width for all layers."""
    config = json.loads((checkpoint / "config.json").read_bytes())
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return SlimSizes(
        case.family,
        case.units,
        widths=[config["intermediate_size"]],
        heads=heads,
        head_size=config.get("head_dim") or hidden // heads,
        layers=config["num_hidden_layers"],
        hidden_size=hidden,
        config=config,
        kind=FAMILIES[case.family].kind,
    )
