"""Where a group's units show: the input or output of a module, or what a layer adds to its input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from worker.slimming.units import Group

# (activation, what it was before the layer if the port is residual) -> what takes the activation's place, if anything
Visitor = Callable[[Tensor, Tensor | None], Tensor | None]


@contextmanager
def watch(model: nn.Module, group: Group, visit: Visitor) -> Iterator[None]:
    """Within the context `visit` sees, and may replace, the activation at the group's port in each forward pass."""
    module = model.get_submodule(group.watched)
    if group.port == "input":
        handle = module.register_forward_pre_hook(_at_input(visit))
    elif group.port == "output":
        handle = module.register_forward_hook(lambda _, args, output: visit(output, None))
    else:
        handle = module.register_forward_hook(_around_layer(visit), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _at_input(visit: Visitor) -> Callable[[nn.Module, Any], Any]:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replacement = visit(args[0], None)
        return None if replacement is None else (replacement, *args[1:])

    return hook


def _around_layer(visit: Visitor) -> Callable[[nn.Module, Any, Any, Any], Any]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        # Some layers return the hidden states alone, some with what later layers need beside them.
        after = output[0] if isinstance(output, tuple) else output
        replacement = visit(after, before)
        if replacement is None:
            return None
        return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

    return hook
