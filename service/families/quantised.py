"""How to recognise weights that are quantised, which are refused."""

import re
from collections.abc import Mapping

from service.contract.errors import InvalidModel

# Tensors that GPTQ, AWQ, bitsandbytes, compressed-tensors and FP8 checkpoints hold beside or in place of the weights.
NAMES = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|weight_(packed|scale|scale_inv|zero_point|shape)|input_scale|SCB|absmax"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))"
)
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


def check_not_quantised(dtypes: Mapping[str, str], model: str) -> None:
    """Raise InvalidModel for the first tensor of a model that is quantised; `dtypes`: name -> dtype of each."""
    for name, dtype in sorted(dtypes.items()):
        is_integer = name.endswith(".weight") and dtype in INTEGERS
        if NAMES.fullmatch(name) or is_integer or dtype.startswith(("F8", "F6", "F4")):
            message = (
                f"the weights of {model} are quantised (the tensor {name} is {dtype}): give the unquantised checkpoint"
            )
            raise InvalidModel(message, param="model.uri")
