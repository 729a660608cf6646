"""What the names of a LoRA adapter's tensors say, as PEFT writes them."""

import re
from collections.abc import Iterable, Mapping

PREFIX = "base_model.model."  # before the name of a module of the model
# Parts of a module's adapter; a tensor without one replaces the tensor of the model.
PARTS = re.compile(r"(.+?)\.((?:lora_|token_adapter|base_layer).*)")
HEADS = ("classifier.out_proj.weight", "classifier.weight", "score.weight")  # last matrices of classification heads
# Family -> a tensor as its class names it, and as the files of a checkpoint do.
IN_FILES = {"gpt_neox": ("lm_head.weight", "embed_out.weight")}


def name_in_files(family: str, tensor: str) -> str:
    """The name that a tensor of the model's class has in files; "" where the class has none of the given name."""
    of_class, in_files = IN_FILES.get(family, ("", ""))
    if tensor == of_class:
        return in_files
    return "" if tensor == in_files else tensor


def module_and_part(name: str) -> tuple[str, str]:
    """(module, part of its adapter) that a tensor belongs to; (tensor, "") for one that replaces the model's own."""
    plain = name.removeprefix(PREFIX)
    match = PARTS.fullmatch(plain)
    return (match[1], match[2]) if match else (plain, "")


def replaced(names: Iterable[str]) -> set[str]:
    """The tensors of the model that an adapter with tensors of these names replaces."""
    found = (module_and_part(name) for name in names if name.startswith(PREFIX))
    return {module for module, part in found if not part}


def num_labels(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """The classes of the classification head in an adapter: the rows of its last matrix. None if it holds no head."""
    found = {module_and_part(name)[0]: shape for name, shape in shapes.items() if len(shape) > 1}
    return next((found[name][0] for name in HEADS if name in found), None)
