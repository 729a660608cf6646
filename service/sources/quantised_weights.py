"""The weights that a checkpoint has once it is dequantised: which tensors each is made of, and which shape it has."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.answers.report import Dequantised
from service.contract.errors import InvalidModel
from service.models.families.family import ModelFamily
from service.models.quantisation.methods import INSTEAD, PLAIN_FP8, quantisation_of, refused
from service.models.quantisation.scheme import Quantisation, Scheme
from service.models.tensors.table import MODEL_TENSORS
from service.sources.quantised_layouts import LAYOUTS, Layout, Shape
from service.sources.safetensors_header import DTYPES, FLOATS, Tensors, TensorShape, file_size

TORCH_NAMES = {name: torch_name for torch_name, name in DTYPES.items()}
# Tensors that no weight of an ordinary checkpoint has beside or in place of it.
BESIDE = re.compile(
    r".*\.(qweight|qzeros|scales|g_idx|SCB|absmax|weight_format|qscale_weight"
    r"|weight_(packed|scale|scale_inv|global_scale|zero_point|shape|g_idx)"
    r"|(input|output|activation|k|v|q)_(scale|zero_point|global_scale|scale_ub)"
    r"|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..*))"
)
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64")


@dataclass(frozen=True)
class QuantisedWeight:
    """A weight that is stored quantised."""

    parts: Mapping[str, str]  # name of the part in its layout -> name of the tensor
    scheme: Scheme
    dense: TensorShape  # dequantised, as the class of the model holds it
    is_transposed: bool  # whether that is (in, out), where (out, in) is stored

    @property
    def values(self) -> str:
        """The name of the tensor that holds its values."""
        return self.parts[LAYOUTS[self.scheme.layout].values]


@dataclass(frozen=True)
class StoredWeights:
    """The tensors of a checkpoint as an ordinary one has them, and how those that are quantised are stored."""

    tensors: Tensors
    quantised: Mapping[str, QuantisedWeight]
    dequantised: Dequantised | None  # None where no weight is quantised
    spare: Collection[str] = ()  # biases of quantised modules that have none, which must be zero

    def stored_name(self, name: str) -> str:
        """The tensor in the files that holds the values of a tensor."""
        return self.quantised[name].values if name in self.quantised else name


def stored_weights(stored: Tensors, config: Mapping[str, Any], family: ModelFamily, model: str) -> StoredWeights:
    """The tensors that a checkpoint has once it is dequantised, from the headers of its files.

    Raises InvalidModel for weights that cannot be dequantised, and for a tensor of a quantisation that no weight needs.
    """
    named = quantisation_of(config, model)
    quantisation = named or PLAIN_FP8
    quantised = _Reader(stored, config, family, model).quantised(quantisation)
    used = {name for weight in quantised.values() for name in weight.parts.values()}
    plain = {name: tensor for name, tensor in stored.items() if name not in used}
    plain = {name: tensor for name, tensor in plain.items() if not re.fullmatch(quantisation.while_running, name)}
    _check_plain(plain, named, model)
    if named and not quantised:
        message = f"config.json of {model} says that its weights are quantised ({named.name}), and none of them is"
        raise InvalidModel(f"{message}: remove its quantization_config", param="model.uri")
    if not quantised:
        _check_plain_dtype(config, model)
        return StoredWeights(plain, {}, None)
    spare = _spare_biases(quantised, plain, config, family)
    tensors = {name: tensor for name, tensor in plain.items() if name not in spare}
    tensors |= {name: weight.dense for name, weight in quantised.items()}
    dtype = TORCH_NAMES[dense_dtype(config)]
    found = Dequantised(format=quantisation.name, dtype=dtype, bytes=file_size(tensors))
    return StoredWeights(tensors, quantised, found, spare)


def dense_dtype(config: Mapping[str, Any]) -> str:
    """The dtype of dequantised weights: the one that config.json says, else bfloat16, which rounds far less than any
    quantisation."""
    named = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")))
    return named if named in FLOATS else "BF16"


def plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config.json with the dequantised weights' dtype, as torch names it, in place of the quantisation."""
    changed = {name: value for name, value in config.items() if name not in ("quantization_config", "torch_dtype")}
    text = config.get("text_config")
    part = {"text_config": plain_config(text, dtype)} if isinstance(text, dict) else {}
    return changed | part | {"dtype": dtype}


@dataclass(frozen=True)
class _Reader:
    """The headers and the config of a checkpoint, which messages call `model`."""

    stored: Tensors
    config: Mapping[str, Any]
    family: ModelFamily
    model: str

    def quantised(self, quantisation: Quantisation) -> dict[str, QuantisedWeight]:
        """Name -> weight, of every weight that is stored quantised."""
        suffixes = {f".{LAYOUTS[scheme.layout].values}" for scheme in quantisation.schemes}
        return {
            name: weight
            for suffix in sorted(suffixes)
            for stored in sorted(self.stored)
            if stored.endswith(suffix)
            for name, weight in self._weight(stored, stored.removesuffix(suffix), quantisation)
        }

    def _weight(self, values: str, module: str, quantisation: Quantisation) -> Iterator[tuple[str, QuantisedWeight]]:
        """(name, weight) of a module whose values may be the tensor `values`; nothing where they are not quantised."""
        scheme = quantisation.scheme_of(module)
        if scheme is None:
            return
        layout, name = LAYOUTS[scheme.layout], f"{module}.weight"
        if values != f"{module}.{layout.values}" or self.stored[values].dtype not in layout.dtypes:
            return
        parts = self._parts(module, layout)
        is_transposed = layout.as_linear and bool(re.fullmatch(self.family.names.transposed, name))
        try:
            shape = layout.shape({part: self.stored[stored] for part, stored in parts.items()}, scheme)
            if len(shape) == 1:
                shape = self._sides(name, shape[0], is_transposed)
            elif is_transposed:
                shape = shape[::-1]
        except ValueError as error:
            raise refused(self.model, f"the tensors of {module} do not fit each other ({error})") from error
        yield name, QuantisedWeight(parts, scheme, TensorShape(dense_dtype(self.config), shape), is_transposed)

    def _parts(self, module: str, layout: Layout) -> dict[str, str]:
        """Part of the layout -> name of the tensor, of one weight. Raises InvalidModel where a part is missing."""
        for group in layout.needed:
            found = [part for part in group if f"{module}.{part}" in self.stored]
            if len(found) != 1:
                values = f"{module}.{layout.values}"
                has = f"both {' and '.join(found)}" if found else f"no {module}.{' or '.join(group)}"
                raise refused(self.model, f"the tensor {values} ({self.stored[values].dtype}) has {has}")
        return {part: f"{module}.{part}" for part in sorted(layout.names) if f"{module}.{part}" in self.stored}

    def _sides(self, name: str, count: int, is_transposed: bool) -> Shape:
        """The shape of a weight with `count` values: one side is the hidden size. Raises ValueError."""
        hidden = self.config.get(self.family.names.hidden_size)
        if type(hidden) is not int or hidden <= 0 or count % hidden:
            raise ValueError(f"{count} values are no multiple of the hidden size {hidden}")
        rows = (
            row.dim
            for stack in self.family.names.stacks
            for row in stack.unit_tensors
            if re.fullmatch(rf"(.*\.)?{re.escape(stack.layers)}\.\d{{1,4}}\.{row.pattern}", name)
        )
        files = self.family.names.expert_files
        if files and re.fullmatch(rf".*\.experts\.\d{{1,4}}\.{files.down}\.weight", name):
            return hidden, count // hidden
        dim_of_units = next(rows, 1 if is_transposed else 0)
        return (hidden, count // hidden) if dim_of_units == 1 else (count // hidden, hidden)


def _spare_biases(
    quantised: Mapping[str, QuantisedWeight], plain: Tensors, config: Mapping[str, Any], family: ModelFamily
) -> set[str]:
    """The biases that GPTQ files have of modules without one: the first versions of AutoGPTQ wrote zeros for them."""
    found, row = set(), MODEL_TENSORS[family.model_type]
    for layers, modules in row.layers.items():
        own = {name for each in modules for name in each.tensors(config)}
        pattern = re.compile(rf"{re.escape(layers)}\.\d{{1,4}}\.(.+\.bias)")
        for name in plain:
            weight, match = quantised.get(f"{name.removesuffix('bias')}weight"), pattern.fullmatch(name)
            if weight and match and weight.scheme.layout == "gptq" and match[1] not in own:
                found.add(name)
    return found


def _check_plain_dtype(config: Mapping[str, Any], model: str) -> None:
    """Raise InvalidModel where config.json says a dtype of quantised weights, in which no class computes."""
    dtype = str(config.get("dtype") or config.get("torch_dtype"))
    if dtype.startswith("float8"):
        message = f"config.json of {model} has the dtype {dtype}, and none of its weights is quantised"
        raise InvalidModel(f"{message}: give that of the weights", param="model.uri")


def _check_plain(tensors: Tensors, named: Quantisation | None, model: str) -> None:
    """Raise InvalidModel for the first tensor that belongs to a quantisation, and to no quantised weight."""
    for name, tensor in sorted(tensors.items()):
        is_integer = name.endswith(".weight") and tensor.dtype in INTEGERS
        is_small_float = tensor.dtype.startswith(("F8", "F6", "F4")) and tensor.dtype not in FLOATS
        if BESIDE.fullmatch(name) or is_integer or is_small_float:
            found = f"the tensor {name} ({tensor.dtype})"
            if named is None:
                message = f"the weights of {model} are quantised ({found}), and config.json has no quantization_config"
                raise InvalidModel(f"{message} that says how: add it, or {INSTEAD}", param="model.uri")
            raise refused(model, f"{found} belongs to no weight of the format {named.name}")
