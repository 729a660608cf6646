"""Forward hooks at the activation of a group: the input or output of a module, or what a layer adds to its input."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from worker.slimming.units.groups import Group

# (activation, input of the layer if the hook point is "residual") -> a replacement of the activation, or None
Visitor = Callable[[Tensor, Tensor | None], Tensor | None]


@contextmanager
def watch(model: nn.Module, group: Group, visit: Visitor) -> Iterator[None]:
    """Within the context, call `visit` with the activation of the group in each forward pass; it may replace it."""
    module = model.get_submodule(group.module)
    if group.hook_point == "input":
        handle = module.register_forward_pre_hook(_at_input(visit))
    elif group.hook_point == "output":
        handle = module.register_forward_hook(lambda module, args, output: visit(output, None))
    else:
        handle = module.register_forward_hook(_around_layer(visit), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _at_input(visit: Visitor) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replacement = visit(args[0], None)
        return None if replacement is None else (replacement, *args[1:])

    return hook


def _around_layer(visit: Visitor) -> Callable[[nn.Module, Any, Any, Any], Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = args[0] if args else kwargs["hidden_states"]
        # Some layers return the hidden states, others a tuple that begins with them.
        after = output[0] if isinstance(output, tuple) else output
        replacement = visit(after, before)
        if replacement is None:
            return None
        return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

    return hook
