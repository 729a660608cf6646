"""Slim checkpoints as the formats of other runtimes are made of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from service.contract.options import Format, Layout
from service.contract.request.output import Output
from tests.support import checkpoints
from tests.support.foreign_packages import installed
from tests.support.tiny_models import inputs_of
from worker.checkpoints.cutting import make_slim
from worker.checkpoints.loading import load_model
from worker.checkpoints.saving import save_model
from worker.checkpoints.verification import take_probe
from worker.exports.source import ExportSource
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.selection import select
from worker.slimming.units.groups import Kept
from worker.slimming.units.locating import locate

CYLLAMA = ("cyllama==0.2.18",)
MLX = ("mlx-cpu==0.32.4", "mlx==0.32.4", "mlx-lm==0.32.2")


def with_packages(monkeypatch: pytest.MonkeyPatch, *groups: Sequence[str]) -> None:
    """Make groups of packages known to this process and to those that it starts.

    Skips where they cannot be installed.
    """
    directories = [str(installed(*requirements)) for requirements in groups]
    monkeypatch.setattr(sys, "path", [*sys.path, *directories])
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parents[2]), *directories]))


def slim_source(
    directory: Path,
    model: PreTrainedModel,
    units: Sequence[str],
    layout: Layout = Layout.uniform,
    *,
    gone: Sequence[int] = (),
    **output: Any,
) -> ExportSource:
    """Slim a model to about half of these units. `gone` are the layers that are removed, if any."""
    checkpoints.save(directory / "dense", model)
    loaded = load_model(directory / "dense", device=torch.device("cpu"))
    kept = _kept(loaded.model, units, layout, gone)
    probe = take_probe(loaded, kept, inputs_of(loaded.model))
    save_model(make_slim(loaded, kept, layout), directory / "slim")
    probe.write(directory / "probe.safetensors")
    (directory / "scratch").mkdir()
    asked = Output.model_validate({"formats": list(Format)[:1], "layout": layout} | output)
    return ExportSource(directory / "slim", directory / "probe.safetensors", asked, directory / "scratch", lambda: None)


def _kept(model: PreTrainedModel, units: Sequence[str], layout: Layout, gone: Sequence[int]) -> Kept:
    """Random units; with widths of their own, the layers keep between a third and all of them."""
    architecture, draw = ARCHITECTURES[model.config.model_type], torch.Generator().manual_seed(0)
    groups = locate(model, architecture, list(units))
    kept = dict(select({group.site: torch.rand(group.count, generator=draw) for group in groups}, groups, 0.4, 8))
    for group in groups if layout is Layout.per_layer else ():
        count = max(1, group.count * (3 - group.site.layer % 3) // 3)
        kept[group.site] = torch.randperm(group.count, generator=draw)[:count].sort().values
    for group in locate(model, architecture, ["layers"] if gone else []):
        kept[group.site] = torch.arange(0 if group.site.layer in gone else 1)
    return kept
