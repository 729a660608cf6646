"""Scores of every unit of every layer, accumulated over data: the slim model's expensive part.

Attribution of unit i is A_i = h_i * dJ/dh_i, with h the contract module's input and J the objective (Yang et al.,
arXiv 2205.04157). One forward and one backward pass of a batch serve all layers.
"""

from collections.abc import Callable, Iterable, Sequence

from torch import Tensor, nn

from worker.slimming.architectures import Architecture
from worker.slimming.criteria import Options
from worker.slimming.groups import Site
from worker.slimming.objectives import Batch


def score(
    model: nn.Module,
    architecture: Architecture,
    units: Sequence[str],
    batches: Iterable[Batch],
    criterion: str,
    options: Options,
    on_examples: Callable[[int], None] = lambda done: None,
) -> dict[Site, Tensor]:
    """Importance of each unit, float32 on the CPU (units), by the named criterion of CRITERIA.

    `on_examples` hears how many examples are done after each batch. The model is left as it was.
    """
    raise NotImplementedError
