"""One layer on its own: the batches that go through it, and what its readers are given and write.

Shape suffixes: B rows of a batch, T positions, N tokens of a batch, D hidden size, C channels of a reader's input, K
kept ones, O its outputs.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from worker.slimming.architectures import Stack
from worker.slimming.repair.layer_runner import Entry, run
from worker.slimming.repair.linear_readers import Reader
from worker.slimming.scoring.second_moments import Rows


class Seen(NamedTuple):
    """One batch that went through one layer: tokens alone, but for the layer's output."""

    output_BTD: Tensor
    stream_ND: Tensor | None  # behind all that the layer's readers add
    input_NC: Tensor | None  # of the first of the readers that are looked at; in a cut layer (N, K)
    outputs: dict[str, Tensor]  # path of a reader in the whole model -> (N, O)


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

    @property
    def adds_as_written(self) -> bool:
        """Whether the layer's output is a sum with what its readers write as a term."""
        return self.stack.stream_behind(self.config) == ""

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
            first = next(iter(noted.values()), {}).get("input")
            yield Seen(
                output_BTD,
                None if stream_BTD is None else _tokens(stream_BTD, mask_BT),
                None if first is None else _tokens(first, mask_BT),
                {path: _tokens(each["output"], mask_BT) for path, each in noted.items()},
            )

    def rewritten(self, reader: Reader, passed: Iterable[Seen]) -> Iterator[Seen]:
        """The batches once the reader, the last that the layer calls, writes anew what it has read."""
        for seen, batch in zip(passed, self.rows.batches, strict=True):
            assert seen.input_NC is not None
            change_NO = self.module(reader)(seen.input_NC) - seen.outputs[reader.path]
            mask_BT = batch.masks[self.stack.name]
            seen.output_BTD[mask_BT] += change_NO
            yield seen


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
