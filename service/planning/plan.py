"""The plan of a request: its outcome as far as config.json and the headers of the weights tell, without running it.

Scores decide which units are removed; how many follows from the request. In a global rank the figures are those of the
ratio, and a target that has to be measured leaves them open.
"""

from collections.abc import Sequence

from service.contract.answers.catalog import Plan, Projected, VocabularyRange
from service.contract.answers.report import Runtime
from service.contract.errors import NotPlannable
from service.contract.options import Layout, Unit
from service.contract.request.job_request import JobRequest
from service.exports.model import exported_model, with_biases
from service.exports.precisions import planned_precisions
from service.exports.runtimes import with_exports
from service.models.families.family import CLASSIFIERS
from service.models.families.runtimes.sizes import SlimSizes
from service.models.families.runtimes.table import runtimes_after, runtimes_of_unequal_widths
from service.models.tensors import gemma4
from service.planning.admission import check_request
from service.planning.feasibility import check_options, read_checked, with_tying
from service.planning.memory import memory_of
from service.planning.removal import count_parameters
from service.planning.targets import find_removal, needs_measuring
from service.planning.widths import Cut, described, is_set_by_ratio, kept
from service.settings import TOKENS_PER_BATCH
from service.sources.access import Access
from service.sources.checkpoint import Checkpoint
from service.sources.dimensions import (
    caching_layers,
    ffn_widths,
    head_counts,
    head_size,
    key_rows,
    num_layers,
    row_lengths,
    vocabulary_rows,
    vocabulary_tensors,
)
from service.sources.safetensors_header import BYTES


def plan(request: JobRequest, access: Access, tokens_per_batch: int = TOKENS_PER_BATCH) -> Plan:
    """The plan of a request, for workers with batches of so many tokens.

    Raises what `POST /jobs` raises for the same request, NotPlannable for GGUF, and StorageUnavailable where a hub does
    not answer.
    """
    model = check_request(request, access)
    if not model.is_on_hub and not model.can_be_planned:
        message = f"a plan needs config.json and safetensors files: {model.source.uri} is GGUF, which a worker converts"
        raise NotPlannable(message, param="model.uri")
    return plan_for(request, read_checked(request, model), tokens_per_batch)


def plan_for(request: JobRequest, checkpoint: Checkpoint, tokens_per_batch: int = TOKENS_PER_BATCH) -> Plan:
    """The plan of a request for a checkpoint that was read. Raises as `check_feasible`."""
    check_options(request, checkpoint)
    removal = find_removal(request, checkpoint)
    measured = needs_measuring(request.target)
    cuts = removal.cuts if removal and not measured else []
    slim = (removal.parameters, removal.bytes) if removal else (None, None)
    return Plan(
        family=checkpoint.family.model_type,
        exact=is_set_by_ratio(request) and not measured,
        widths=described(cuts, checkpoint),
        ratio=removal.ratio if removal else None,
        parameters=Projected(dense=count_parameters(checkpoint.tensors), slim=slim[0]),
        bytes=Projected(dense=checkpoint.stored_bytes, slim=slim[1]),
        dequantised=checkpoint.dequantised,
        vocabulary=_vocabulary_range(checkpoint) if Unit.vocabulary in request.method.units else None,
        cache_bytes_per_token=_cache_bytes(request, checkpoint, cuts),
        memory=memory_of(request, checkpoint, tokens_per_batch),
        runtimes=with_exports(
            _runtimes(request, checkpoint, cuts), exported_model(request, checkpoint.family, with_tying(checkpoint))
        ),
        precisions=planned_precisions(request, checkpoint.family, checkpoint.config, row_lengths(checkpoint)),
    )


def _vocabulary_range(checkpoint: Checkpoint) -> VocabularyRange:
    """What the removal of tokens can give, as far as the tokenizer tells."""
    rows, parameters = vocabulary_rows(checkpoint), count_parameters(vocabulary_tensors(checkpoint))
    return VocabularyRange(
        rows=rows,
        parameters_per_row=parameters // rows,
        least_rows=checkpoint.least_rows,
        most_parameters=(rows - (checkpoint.least_rows or 0)) * (parameters // rows),
    )


def _cache_bytes(request: JobRequest, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> Projected | None:
    """Bytes of a decoder's cache for each token: 2 (key and value) * layers * key-value heads * head size * bytes of a
    number. None for a classifier or an encoder, which keep no cache."""
    if checkpoint.family.kind in (*CLASSIFIERS, "encoder"):
        return None
    stack, number = checkpoint.last_stack, 2 * BYTES[checkpoint.dtype]
    if checkpoint.family.model_type == gemma4.MODEL_TYPE:  # heads of several sizes in layers that all stay
        kept_whole = number * key_rows(checkpoint)
        return Projected(dense=kept_whole, slim=kept_whole)
    _, heads = head_counts(checkpoint, stack)
    layers, size = caching_layers(checkpoint), head_size(checkpoint, stack)
    slim_heads = kept(cuts, Unit.heads, heads)
    slim_layers, slim_size = kept(cuts, Unit.layers, layers), kept(cuts, Unit.head_dims, size)
    is_known = bool(cuts) or set(request.method.units) <= {Unit.ffn, Unit.experts, Unit.vocabulary}
    slim = number * slim_layers * slim_heads * slim_size if is_known else None
    return Projected(dense=number * layers * heads * size, slim=slim)


def _runtimes(request: JobRequest, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> list[Runtime]:
    """The runtimes that load the slim checkpoint."""
    units = request.method.units
    # Where whole layers are removed and nothing else, the others keep their one width.
    if request.output.layout is Layout.per_layer and request.method.scored_units != [Unit.layers]:
        return runtimes_of_unequal_widths(checkpoint.family, units)
    stack = checkpoint.last_stack
    heads, groups = head_counts(checkpoint, stack)
    return runtimes_after(
        SlimSizes(
            checkpoint.family.model_type,
            units,
            widths=_ffn_widths(request, checkpoint, cuts),
            heads=kept(cuts, Unit.heads, groups) * heads // groups,
            head_size=kept(cuts, Unit.head_dims, head_size(checkpoint, stack)),
            layers=kept(cuts, Unit.layers, num_layers(checkpoint, stack)),
            hidden_size=checkpoint.number(checkpoint.names.hidden_size, stack),
            config=with_biases(request, checkpoint.family, checkpoint.config),
            heads_known=Unit.heads not in units or any(cut.unit is Unit.heads for cut in cuts),
            layers_known=Unit.layers not in units,
            kind=checkpoint.family.kind,
        )
    )


def _ffn_widths(request: JobRequest, checkpoint: Checkpoint, cuts: Sequence[Cut]) -> list[int]:
    """Feed-forward neurons that each stack has left; those that scores decide are taken to be `round_to`."""
    widths = [cut.slim for cut in cuts if cut.unit is Unit.ffn]
    if not widths and Unit.ffn in request.method.units:
        return [request.output.round_to]
    return widths or ffn_widths(checkpoint)
