"""A loaded model cut to the units that stay, as the class that can hold it."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from service.contract.options import Layout
from worker.checkpoints.llama_as_mistral import stock_form
from worker.checkpoints.loading import LoadedModel, settle
from worker.checkpoints.per_layer import holding_form
from worker.slimming import surgery
from worker.slimming.architectures import ARCHITECTURES
from worker.slimming.units import Site


def cut(loaded: LoadedModel, kept: Mapping[Site, Tensor], layout: Layout) -> LoadedModel:
    """The model cut in place, as a stock class, or ours where its layers have widths of their own.

    Its weights, repaired ones among them, are those that the checkpoint's dtype can hold.
    """
    model, architecture = loaded.model, ARCHITECTURES[loaded.family.model_type]
    surgery.cut(model, architecture, kept, layout)
    slim = stock_form(model) if layout is Layout.uniform else holding_form(model, architecture)
    settled = replace(loaded, model=slim)
    settle(settled)
    return settled
