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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from worker.slimming.architectures import Architecture, Stack
from worker.slimming.blocks import Entry, enter, run
from worker.slimming.groups import Site, layers_of
from worker.slimming.least_squares import Fit, fit_all, passes, refit, solve
from worker.slimming.moments import Moments, Rows
from worker.slimming.readers import Reader, readers_of, write, write_kept
from worker.slimming.surgery import cut, twin

MADE_UP = 0.75  # of the stream's error, the a above
RIDGE = 0.1  # of the mean of the Gram matrix's diagonal, towards what the first fit has left


def layerwise(
    model: nn.Module,
    architecture: Architecture,
    kept: Mapping[Site, Tensor],
    rows: Rows,
    on_progress: Callable[[int, int], None],
) -> None:
    """`least_squares`, and then every reader in turn fitted to the dense model's residual stream."""
    dense, first = twin(model), passes(model, architecture, kept) * len(rows.batches)
    total = first + _batches_to_pass(architecture, model, rows)
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
    dense, total = twin(model), _batches_to_pass(architecture, model, rows)
    refit(model, architecture, kept, rows, moments, on_progress)
    weights = {path: known.weights_N for path, known in moments.items()}
    _fit_streams(model, dense, architecture, kept, rows, weights, lambda done: on_progress(done, total))


def _batches_to_pass(architecture: Architecture, model: nn.Module, rows: Rows) -> int:
    return len(rows.batches) * sum(len(layers_of(model, stack)) for stack in architecture.stacks)


class Seen(NamedTuple):
    """One batch that went through one layer. Tokens alone, but for the layer's output."""

    output_BTD: Tensor
    stream_ND: Tensor | None  # behind all that the layer's readers add
    inputs: dict[str, Tensor]  # path of a reader in the whole model -> (N, C), of a cut one (N, K)
    outputs: dict[str, Tensor]  # the same -> (N, O)


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

    `weights` are those of each reader's tokens, batch by batch. Every layer is passed once in the dense model, and once
    more than it has readers in a cut one; `on_batches` hears how many batches are through how many layers, summed.
    Held at once are the hidden states of all rows, in each model and of each reader of a layer.
    """
    slim, readers, done = twin(model), readers_of(model, architecture, kept), 0
    cut(slim, architecture, kept, "per-layer")
    for stack in architecture.stacks:
        before, now = _entries(dense, slim, architecture, stack, rows)
        slim_layers = iter(layers_of(slim, stack))
        for index, layer in enumerate(layers_of(dense, stack)):
            own = [reader for reader in readers if reader.groups[0].site[:2] == (stack.name, index)]
            whole = Passage(layer, index, stack, model.config, rows)
            truths = [seen._replace(inputs={}) for seen in whole.through(before, own)]
            before = _behind(before, truths)
            if _stays(stack, index, kept):
                narrow = replace(whole, layer=next(slim_layers))
                for number, reader in enumerate(own):
                    fit = _fit(narrow, now, own[number:], truths, weights[reader.path])
                    write(narrow.module(reader), reader, *fit)
                    write_kept(model, reader, *fit)
                now = _behind(now, narrow.through(now, []))
            done += len(rows.batches)
            on_batches(done)


def _entries(
    dense: nn.Module, slim: nn.Module, architecture: Architecture, stack: Stack, rows: Rows
) -> tuple[list[Entry], list[Entry]]:
    """The batches at the entry of the stack, in each model. Before the only stack of a model nothing is cut, and how
    its layers are called does not depend on weights."""
    now = enter(slim, stack, rows.batches)
    as_many = len(layers_of(dense, stack)) == len(layers_of(slim, stack))
    alike = as_many and len(architecture.stacks) == 1
    return (now if alike else enter(dense, stack, rows.batches)), now


def _stays(stack: Stack, index: int, kept: Mapping[Site, Tensor]) -> bool:
    whole_layer = kept.get(Site(stack.name, index, "layers"))
    return whole_layer is None or whole_layer.numel() > 0


def _behind(entries: Sequence[Entry], seen: Iterable[Seen]) -> list[Entry]:
    """The batches at the entry of the next layer."""
    return [Entry(each.output_BTD, entry.calls[1:]) for entry, each in zip(entries, seen, strict=True)]


@dataclass(frozen=True)
class Passage:
    """A layer of a dense or of a cut model, which has been the layer `index` of a stack."""

    layer: nn.Module
    index: int
    stack: Stack
    config: object
    rows: Rows

    def module(self, reader: Reader) -> Any:
        """The reader in this layer."""
        return self.layer.get_submodule(reader.path.removeprefix(f"{self.stack.layers}.{self.index}."))

    def through(self, entries: Sequence[Entry], readers: Sequence[Reader]) -> Iterator[Seen]:
        """Each batch through the layer."""
        place = self.stack.stream_behind(self.config)
        for entry, batch in zip(entries, self.rows.batches, strict=True):
            mask_BT = batch.masks[self.stack.name]
            with ExitStack() as hooks:
                noted = {reader.path: hooks.enter_context(_noting(self.module(reader))) for reader in readers}
                norm = hooks.enter_context(_noting(self.layer.get_submodule(place))) if place else {}
                output_BTD = run(self.layer, entry.hidden_BTD, entry.calls[0])
            stream_BTD = output_BTD if place == "" else norm.get("input")
            yield Seen(
                output_BTD,
                None if stream_BTD is None else _tokens(stream_BTD, mask_BT),
                {path: _tokens(each["input"], mask_BT) for path, each in noted.items()},
                {path: _tokens(each["output"], mask_BT) for path, each in noted.items()},
            )


@contextmanager
def _noting(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    noted: dict[str, Tensor] = {}
    handle = module.register_forward_hook(lambda _, args, output: noted.update(input=args[0], output=output))
    try:
        yield noted
    finally:
        handle.remove()


def _tokens(states: Tensor, mask_BT: Tensor) -> Tensor:
    """What stands at tokens (N, D); some modules are given all positions in one row."""
    return states.reshape(*mask_BT.shape, -1)[mask_BT]


def _fit(
    narrow: Passage,
    now: Sequence[Entry],
    readers: Sequence[Reader],
    truths: Sequence[Seen],
    weights: Sequence[Tensor],
) -> Fit:
    """The first of the `readers` fitted to its targets; the others are those behind it in its layer."""
    reader, *_ = readers
    module = narrow.module(reader)
    prior_OK = (module.weight.T if reader.transposed else module.weight).double()
    sums = Sums.like(prior_OK)
    for truth, seen, weight_N in zip(truths, narrow.through(now, readers), weights, strict=True):
        target_NO = truth.outputs[reader.path] + MADE_UP * _error(truth, seen)
        sums.add(seen.inputs[reader.path], target_NO, weight_N)
    return sums.fit(prior_OK, centred=module.bias is not None)


def _error(truth: Seen, now: Seen) -> Tensor:
    """x - x' of the first reader that `now` has, zeros where the stream is seen nowhere (N, D)."""
    added_RND = torch.stack([truth.outputs[path] - output_ND for path, output_ND in now.outputs.items()])
    if truth.stream_ND is None or now.stream_ND is None:
        return torch.zeros_like(added_RND[0])
    return truth.stream_ND - now.stream_ND - added_RND.sum(0)


@dataclass
class Sums:
    """Weighted sums over tokens of inputs h and targets t; float64 for vectors, float32 for matrices."""

    weight: float
    input_K: Tensor
    target_O: Tensor
    gram_KK: Tensor  # of h h^T
    cross_OK: Tensor  # of t h^T

    @classmethod
    def like(cls, prior_OK: Tensor) -> Self:
        """Empty sums for a module with these columns."""
        (outputs, inputs), single, double = prior_OK.shape, torch.float32, torch.float64
        return cls(
            weight=0.0,
            input_K=prior_OK.new_zeros(inputs, dtype=double),
            target_O=prior_OK.new_zeros(outputs, dtype=double),
            gram_KK=prior_OK.new_zeros((inputs, inputs), dtype=single),
            cross_OK=prior_OK.new_zeros((outputs, inputs), dtype=single),
        )

    def add(self, input_NK: Tensor, target_NO: Tensor, weight_N: Tensor) -> None:
        """Add a batch's tokens."""
        input_NK, target_NO = input_NK.float(), target_NO.float()
        weighted_NK = input_NK * weight_N.unsqueeze(1)
        self.weight += float(weight_N.sum())
        self.input_K += weighted_NK.sum(0, dtype=torch.float64)
        self.target_O += (target_NO * weight_N.unsqueeze(1)).sum(0, dtype=torch.float64)
        self.gram_KK.addmm_(weighted_NK.T, input_NK)
        self.cross_OK.addmm_(target_NO.T, weighted_NK)

    def fit(self, prior_OK: Tensor, *, centred: bool) -> Fit:
        """argmin over W of E|t - W h|^2 + r |W - P|^2; `centred` with a bias, which takes up the means."""
        gram_KK, cross_OK = self.gram_KK.double() / self.weight, self.cross_OK.double() / self.weight
        if not centred:
            return Fit(solve(gram_KK, cross_OK, prior_OK, RIDGE), None)
        input_K, target_O = self.input_K / self.weight, self.target_O / self.weight
        gram_KK, cross_OK = gram_KK - input_K.outer(input_K), cross_OK - target_O.outer(input_K)
        fitted_OK = solve(gram_KK, cross_OK, prior_OK, RIDGE)
        return Fit(fitted_OK, target_O - fitted_OK @ input_K)
