"""The pairs of a slim model and a way to run it that Taskslim promises, as its plans do."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.parts.runtimes.slim_models import Case, is_decoder, sizes_of
from service.contract.options import Format, Layout, Unit
from service.exports.formats import FORMATS
from service.exports.model import ExportedModel
from service.models.families.runtimes.per_layer_limits import IN_BACK_END, IN_PLUGIN
from service.models.families.runtimes.table import runtimes_after, runtimes_of_unequal_widths
from service.models.families.table import FAMILIES

MAIN = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
PLUGIN = "taskslim-vllm"
Promised = Callable[[Case, Path], bool]


@dataclass(frozen=True)
class Way:
    """A way to run a checkpoint: a script of `runners/` in the environment of a runtime."""

    environment: str
    runner: str
    promised: Promised  # of a case, whose slim checkpoint is in a directory
    options: Mapping[str, Any] = field(default_factory=dict)  # of the script
    plugin: bool = False  # whether plugins/vllm is on the path
    stock: Mapping[str, Any] = field(default_factory=dict)  # options for the dense model, which needs no code of ours
    format: Format | None = None  # in which the model is written first, in place of the checkpoint


@dataclass(frozen=True)
class Pair:
    """A slim model and a way to run it."""

    case: Case
    way: str


def _loads(runtime: str) -> Promised:
    """Whether the runtime loads the checkpoint with equal widths."""

    def promised(case: Case, checkpoint: Path) -> bool:
        return case.layout is Layout.uniform and _found(case, checkpoint, runtime).loads

    return promised


def _found(case: Case, checkpoint: Path, runtime: str) -> Any:
    if case.layout is Layout.per_layer:
        runtimes = runtimes_of_unequal_widths(FAMILIES[case.family], case.units)
    else:
        runtimes = runtimes_after(sizes_of(case, checkpoint))
    return next(each for each in runtimes if each.name == runtime)


def _in_back_end(case: Case, checkpoint: Path) -> bool:
    """Layers of different widths, and what the plan says needs this back end."""
    found = _found(case, checkpoint, "vllm")
    return bool(found.loads if case.layout is Layout.per_layer else "--model-impl transformers" in (found.reason or ""))


def _in_plugin(case: Case, checkpoint: Path) -> bool:
    return case.layout is Layout.per_layer and case.family in IN_PLUGIN


def _holds(format: Format) -> Promised:
    """Whether the format holds the model."""

    def promised(case: Case, checkpoint: Path) -> bool:
        config = json.loads((checkpoint / "config.json").read_bytes())
        own_widths = case.layout is Layout.per_layer
        model = ExportedModel(FAMILIES[case.family], config, case.units, own_widths)
        return FORMATS[format].against_model(model) is None

    return promised


BACK_END = {"model_impl": "transformers", "trust_remote_code": True}
WAYS: dict[str, Way] = {
    "vllm": Way("vllm", "in_vllm", _loads("vllm")),
    "vllm, transformers back end": Way("vllm", "in_vllm", _in_back_end, BACK_END),
    f"vllm, {PLUGIN}": Way("vllm", "in_vllm", _in_plugin, plugin=True),
    "mlx-lm": Way("mlx-lm", "in_mlx", _loads("mlx-lm")),
    **{
        name: Way(name, "in_onnx", _holds(Format.onnx), {"runtime": name}, stock={"runtime": name}, format=Format.onnx)
        for name in ("onnxruntime", "openvino")
    },
}
# A graph of ONNX takes a minute to write: these families stand for the others where time is short.
QUICK_ONNX = ("llama", "gemma3_text", "bert")


def cases(*, quick: bool) -> list[Case]:
    """The models to run: `quick` leaves out the families that only the transformers back end of vLLM takes."""
    families = (*MAIN, "bert") if quick else (*IN_BACK_END, "bert")
    found = [Case(family, layout, _units(family)) for layout in Layout for family in families]
    return [*found, Case("qwen2", Layout.uniform, (Unit.ffn,))]


def _units(family: str) -> tuple[Unit, ...]:
    return tuple(unit for unit in (Unit.ffn, Unit.heads) if unit in FAMILIES[family].units and is_decoder(family)) or (
        Unit.ffn,
    )


def promised_pairs(written: Mapping[Case, Path], *, quick: bool) -> Iterator[Pair]:
    """What is promised of the cases, each with the directory that it was written to; one way after the other."""
    for name, way in WAYS.items():
        for case, directory in written.items():
            is_left_out = quick and way.format is Format.onnx and case.family not in QUICK_ONNX
            if not is_left_out and way.promised(case, directory / "slim"):
                yield Pair(case, name)
