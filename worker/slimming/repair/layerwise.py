"""Re-fit layer by layer, so that each layer makes up for what the layers before it have lost.

`least_squares` fits every reading module to its own output in the dense model, as if nothing before it had changed.
Here, after that, one module at a time gets as input what the slim model really hands it, and as target

    t = y + a (x - x'),

y its output in the dense model, x and x' the residual streams of the dense and of the slim model that the output is
added to. So the stream is led back to the dense one, as far as the kept inputs can tell what is missing; with a = 0 it
would only be kept from straying further. Much of the stream's error is noise that no input foretells, so that neither
a = 1 nor a weak ridge does best: both were chosen on train rows that no calibration sees (benchmarks/RESULTS.md).

Where layers add to the stream what a module writes as it is, x - x' = s - s' - sum of (y - y') over this module and the
later ones of its layer, with s the stream behind them all. Elsewhere a = 0.

Shape suffixes: B rows of a batch, T positions, N tokens of a batch, D hidden size, R readers of a layer, C channels of
a module's input, K kept ones, O its outputs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.repair.layer_pass import Passage, Seen
from worker.slimming.repair.layer_runner import Entry, enter
from worker.slimming.repair.least_squares import Fit, fit_all, passes, refit, solve
from worker.slimming.repair.linear_readers import Reader, readers_of, weight_of, write, write_kept
from worker.slimming.scoring.second_moments import Moments, Rows
from worker.slimming.surgery import cut, twin
from worker.slimming.units import Site, layers_of

MADE_UP = 0.75  # of the stream's error, the a above
RIDGE = 0.1  # of the mean of the Gram matrix's diagonal, towards what the first fit has left
STREAM_BYTES = 4 * 2**30  # of hidden states that are held at once; of more rows a part has to do


def layerwise(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Callable[[int, int], None],
) -> None:
    """`least_squares`, and then every reader in turn fitted to the dense model's residual stream."""
    dense, first = twin(model), passes(model, architecture, kept) * len(rows.batches)
    total = first + _batches_to_pass(model, architecture, kept, rows)
    weights = fit_all(model, architecture, kept, rows, lambda done: on_progress(done, total))
    _fit_streams(model, dense, architecture, kept, rows, weights, lambda done: on_progress(first + done, total))


def layerwise_again(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    moments: Mapping[str, Moments],
    on_progress: Callable[[int, int], None],
) -> None:
    """`layerwise` where the moments are known."""
    dense, total = twin(model), _batches_to_pass(model, architecture, kept, rows)
    refit(model, architecture, kept, rows, moments, on_progress)
    weights = {path: known.weights_N for path, known in moments.items()}
    _fit_streams(model, dense, architecture, kept, rows, weights, lambda done: on_progress(done, total))


def _batches_to_pass(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], rows: Rows) -> int:
    num_layers = sum(len(layers_of(model, stack)) for stack in architecture.stacks)
    return num_layers * len(rows.batches[_part(model, architecture, kept, rows)])


def _part(model: nn.Module, architecture: Architecture, kept: Mapping[Site, Tensor], rows: Rows) -> slice:
    """As many of the batches as STREAM_BYTES has room for, evenly spaced: they may be sorted by length.

    Of every position there are held, of each model, the state before a layer, behind it and behind what its readers
    add, what each reader writes, and what one of them reads.
    """
    readers = readers_of(model, architecture, kept)
    sizes = [weight_of(model, reader).shape for reader in readers]
    most = max(Counter(reader.groups[0].site[:2] for reader in readers).values(), default=0)
    states = (6 + 2 * most) * max((outputs for outputs, _ in sizes), default=0) + max((c for _, c in sizes), default=0)
    positions = sum(max(mask_BT.numel() for mask_BT in batch.masks.values()) for batch in rows.batches)
    needed = positions * states * next(model.parameters()).element_size()
    return slice(None, None, max(1, -(-needed // STREAM_BYTES)))


def _fit_streams(
    model: nn.Module,
    dense: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    weights: Mapping[str, Sequence[Tensor]],
    on_batches: Callable[[int], None],
) -> None:
    """Fit every reader of `model`, which `least_squares` has repaired, to the streams of its `dense` twin.

    `weights` are those of each reader's tokens, batch by batch, of all rows, a part of which has to do where there are
    many. Every layer is passed once in the dense model, and once for each of its readers in a cut one; `on_batches`
    hears how many batches are through how many layers, summed. Held at once are the hidden states of the rows, in each
    model and of each reader of a layer, one reader's inputs, every reader's weight before and after, and one cut layer,
    or of an encoder-decoder all of them.
    """
    slim, readers, done = twin(model), readers_of(model, architecture, kept), 0
    part = _part(model, architecture, kept, rows)
    rows = Rows(rows.batches[part], rows.objective)
    weights = {path: weights_N[part] for path, weights_N in weights.items()}
    if len(architecture.stacks) > 1:  # what one stack hands to another depends on its widths
        cut(slim, architecture, kept, "per_layer")
    for stack in architecture.stacks:
        before, now = _entries(dense, slim, architecture, stack, kept, rows)
        slim_layers = _cut_layers(model, slim, architecture, stack, kept)
        for index, layer in enumerate(layers_of(dense, stack)):
            own = [reader for reader in readers if reader.groups[0].site[:2] == (stack.name, index)]
            whole = Passage(layer, index, stack, model.config, rows)
            truths = [seen._replace(input_NC=None) for seen in whole.through(before, own)]
            before = _behind(before, truths)
            if _stays(stack, index, kept):
                now = _fit_layer(model, replace(whole, layer=next(slim_layers)), own, now, truths, weights)
            done += len(rows.batches)
            on_batches(done)


def _fit_layer(
    model: nn.Module,
    narrow: Passage,
    readers: Sequence[Reader],
    now: list[Entry],
    truths: Sequence[Seen],
    weights: Mapping[str, Sequence[Tensor]],
) -> list[Entry]:
    """Fit the readers of a cut layer one after the other, there and in `model`; the batches behind the fitted layer."""
    seen: list[Seen] = []
    for number, reader in enumerate(readers):
        seen = list(narrow.through(now, readers[number:]))
        fit = _fit(narrow.module(reader), reader, seen, truths, weights[reader.path])
        write(narrow.module(reader), reader, *fit)
        write_kept(model, reader, *fit)
    if not readers or not narrow.adds_as_written:
        return _behind(now, narrow.through(now, []))
    return _behind(now, narrow.rewritten(readers[-1], seen))


def _entries(
    dense: nn.Module,
    slim: nn.Module,
    architecture: Architecture,
    stack: Stack,
    kept: Mapping[Site, Tensor],
    rows: Rows,
) -> tuple[list[Entry], list[Entry]]:
    """The batches at the entry of the stack, in each model. Before the only stack of a model nothing is cut, and how
    the layers that stay are called does not depend on weights."""
    before = enter(dense, stack, rows.batches)
    if len(architecture.stacks) > 1:
        return before, enter(slim, stack, rows.batches)
    stay = [index for index in range(len(layers_of(dense, stack))) if _stays(stack, index, kept)]
    return before, [entry._replace(calls=[entry.calls[index] for index in stay]) for entry in before]


def _cut_layers(
    model: nn.Module, slim: nn.Module, architecture: Architecture, stack: Stack, kept: Mapping[Site, Tensor]
) -> Iterator[nn.Module]:
    """The layers of `slim` that stay, cut. Those of the only stack are cut one at a time, and then give way to what
    has become of them in the whole `model`, so that no model is held in both sizes."""
    layers, wholes = layers_of(slim, stack), layers_of(model, stack)
    if len(architecture.stacks) > 1:
        yield from layers
        return
    for index, layer in enumerate(layers):
        if _stays(stack, index, kept):
            own = {site: kept_K for site, kept_K in kept.items() if site.layer == index}
            cut(slim, architecture, own, "per_layer")
            yield layer
            layers[index] = twin(wholes[index])


def _stays(stack: Stack, index: int, kept: Mapping[Site, Tensor]) -> bool:
    whole_layer = kept.get(Site(stack.name, index, "layers"))
    return whole_layer is None or whole_layer.numel() > 0


def _behind(entries: Sequence[Entry], seen: Iterable[Seen]) -> list[Entry]:
    """The batches at the entry of the next layer."""
    return [Entry(each.output_BTD, entry.calls[1:]) for entry, each in zip(entries, seen, strict=True)]


def _fit(module: Any, reader: Reader, seen: Sequence[Seen], truths: Sequence[Seen], weights: Sequence[Tensor]) -> Fit:
    """The module fitted to its targets: the first of the readers that `seen` holds, before those behind it."""
    prior_OK = (module.weight.T if reader.transposed else module.weight).double()
    sums = Sums.like(prior_OK, centred=module.bias is not None)
    for truth, now, weight_N in zip(truths, seen, weights, strict=True):
        target_NO = truth.outputs[reader.path] + MADE_UP * _error(truth, now)
        assert now.input_NC is not None
        sums.add(now.input_NC, target_NO, weight_N)
    return sums.fit(prior_OK)


def _error(truth: Seen, now: Seen) -> Tensor:
    """x - x' of the first reader that `now` has, zeros where the stream is seen nowhere (N, D)."""
    added_RND = torch.stack([truth.outputs[path].float() - output_ND for path, output_ND in now.outputs.items()])
    if truth.stream_ND is None or now.stream_ND is None:
        return torch.zeros_like(added_RND[0])
    return truth.stream_ND.float() - now.stream_ND - added_RND.sum(0)


@dataclass
class Sums:
    """Weighted sums over tokens of inputs h and targets t; float64 for vectors, float32 for matrices.

    Where a bias takes up the means, h and t are deviations from those of the first batch: the spread about the mean is
    then a difference of small numbers, which float32 holds, however far from zero the mean is.
    """

    centred: bool  # the module has a bias
    weight: float
    input_K: Tensor
    target_O: Tensor
    gram_KK: Tensor  # of h h^T
    cross_OK: Tensor  # of t h^T
    input_origin_K: Tensor  # what h and t are counted from: zero without a bias
    target_origin_O: Tensor

    @classmethod
    def like(cls, prior_OK: Tensor, *, centred: bool) -> Self:
        """Empty sums for a module with these columns."""
        (outputs, inputs), single, double = prior_OK.shape, torch.float32, torch.float64
        return cls(
            centred=centred,
            weight=0.0,
            input_K=prior_OK.new_zeros(inputs, dtype=double),
            target_O=prior_OK.new_zeros(outputs, dtype=double),
            gram_KK=prior_OK.new_zeros((inputs, inputs), dtype=single),
            cross_OK=prior_OK.new_zeros((outputs, inputs), dtype=single),
            input_origin_K=prior_OK.new_zeros(inputs, dtype=single),
            target_origin_O=prior_OK.new_zeros(outputs, dtype=single),
        )

    def add(self, input_NK: Tensor, target_NO: Tensor, weight_N: Tensor) -> None:
        """Add a batch's tokens."""
        input_NK, target_NO = input_NK.float(), target_NO.float()
        if self.centred and not self.weight:
            self.input_origin_K, self.target_origin_O = input_NK.mean(0), target_NO.mean(0)
        input_NK, target_NO = input_NK - self.input_origin_K, target_NO - self.target_origin_O
        weighted_NK = input_NK * weight_N.unsqueeze(1)
        self.weight += float(weight_N.sum())
        self.input_K += weighted_NK.sum(0, dtype=torch.float64)
        self.target_O += (target_NO * weight_N.unsqueeze(1)).sum(0, dtype=torch.float64)
        self.gram_KK.addmm_(weighted_NK.T, input_NK)
        self.cross_OK.addmm_(target_NO.T, weighted_NK)

    def fit(self, prior_OK: Tensor) -> Fit:
        """argmin over W, and over the bias where there is one, of E|t - W h - b|^2 + r |W - P|^2."""
        gram_KK, cross_OK = self.gram_KK.double() / self.weight, self.cross_OK.double() / self.weight
        if not self.centred:
            return Fit(solve(gram_KK, cross_OK, prior_OK, RIDGE), None)
        input_K, target_O = self.input_K / self.weight, self.target_O / self.weight
        gram_KK, cross_OK = gram_KK - input_K.outer(input_K), cross_OK - target_O.outer(input_K)
        fitted_OK = solve(gram_KK, cross_OK, prior_OK, RIDGE)
        bias_O = self.target_origin_O + target_O - fitted_OK @ (self.input_origin_K + input_K)
        return Fit(fitted_OK, bias_O)
