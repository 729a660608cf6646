"""Makes a slim model of a loaded one: cut to the units that stay, in a class that can load it."""

from dataclasses import replace

from service.contract.options import Layout
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.model_classes.llama_as_mistral import to_stock_class
from worker.checkpoints.model_classes.per_layer import to_loadable_class
from worker.checkpoints.vocabularies import cut_vocabulary
from worker.slimming.architectures import architecture_of
from worker.slimming.surgery.slicing import cut
from worker.slimming.surgery.vocabulary import without_vocabulary
from worker.slimming.units.groups import VOCABULARY, Kept


def make_slim(loaded: LoadedModel, kept: Kept, layout: Layout) -> LoadedModel:
    """Cut the model in place and convert it to a class that can load it. No weight that stays changes.

    Raises UnsupportedUnit for tokens of a tokenizer whose pieces cannot be removed.
    """
    if VOCABULARY in kept:
        loaded = cut_vocabulary(loaded, kept[VOCABULARY])
    model, architecture = loaded.model, architecture_of(loaded.model)
    cut(model, architecture, without_vocabulary(kept), layout)
    slim = to_stock_class(model) if layout is Layout.uniform else to_loadable_class(model, architecture)
    return replace(loaded, model=slim)
