"""Label offsets in the bias of a classification head, so that every runtime answers with them.

Shape suffix: V classes of the head.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def head_of(model: PreTrainedModel) -> nn.Linear | None:
    """The linear module that gives the classes of a classification head; None where it has no bias.

    It is the last one outside the model without its head, which a class may define before the encoder or after it.
    """
    inside = f"{model.base_model_prefix}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(inside)
    ]
    head = found[-1] if found and found[-1].out_features == model.config.num_labels else None
    return head if head is not None and head.bias is not None else None


def add_to_bias(model: PreTrainedModel, offset_V: Tensor, dtype: torch.dtype) -> Tensor:
    """Add a number for each class to the bias of the head, rounded to the checkpoint's dtype; what was added (V).

    The parameter is replaced, because other models may share it.
    """
    head = head_of(model)
    assert head is not None, "the head has a bias"
    before_V = head.bias.detach()
    after_V = (before_V.double() + offset_V.to(before_V.device)).to(dtype).to(before_V.dtype)
    head.bias = nn.Parameter(after_V, requires_grad=False)
    return (after_V.double() - before_V.double()).cpu()
