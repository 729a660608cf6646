"""What the `quantization_config` of compressed-tensors says (https://github.com/vllm-project/compressed-tensors)."""

from typing import Any

from service.models.quantisation.module_targets import check_target
from service.models.quantisation.scheme import CACHE_SCALES, NOTHING, Quantisation, Scheme
from service.models.quantisation.settings import NotDequantised, Settings, one_of, pair, without

# Format -> layout.
COMPRESSED = {
    "pack-quantized": "packed",
    "int-quantized": "scaled",
    "float-quantized": "scaled",
    "naive-quantized": "scaled",
}
PACKED_BITS = (2, 4, 8)  # older versions packed other numbers of bits in another way
REORDERED = ("group", "dynamic", True)  # `actorder` with columns in another order than that of the groups
STRATEGIES = {"packed": ("channel", "group"), "scaled": ("tensor", "channel", "group", "block")}


def compressed_tensors(settings: Settings) -> Quantisation:
    """The schemes of its groups. Raises NotDequantised."""
    sparsity = settings.get("sparsity_config")
    if sparsity and not (isinstance(sparsity, dict) and sparsity.get("format") == "dense"):
        raise NotDequantised(f"its sparsity_config {sparsity!r} is not dequantised")
    without(settings, "transform_config", "moe_sparsity_config")
    groups = settings.get("config_groups")
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        raise NotDequantised("its config_groups do not describe schemes")
    schemes, formats = [], []
    for group in groups.values():
        if group.get("weights") is not None:
            formats.append(one_of({"format": settings.get("format")} | _named(group), "format", tuple(COMPRESSED)))
            schemes.append(_scheme(group, COMPRESSED[formats[-1]]))
    for target in {target for scheme in schemes for target in scheme.targets} if len(schemes) > 1 else ():
        check_target(target)
    name = f"compressed-tensors {' and '.join(dict.fromkeys(formats))}"
    return Quantisation(name, tuple(schemes), _while_running(settings, list(groups.values())))


def _named(group: Settings) -> dict[str, Any]:
    """The format of a group, where it has its own."""
    return {"format": group["format"]} if group.get("format") else {}


def _scheme(group: Settings, layout: str) -> Scheme:
    """The scheme of a group, with the defaults of `compressed_tensors.quantization.QuantizationArgs`."""
    weights, targets = group["weights"], group.get("targets")
    if not isinstance(weights, dict) or not isinstance(targets, list):
        raise NotDequantised("its config_groups do not describe schemes")
    without(weights, "dynamic")
    if any(type(value) is type(weights.get("actorder")) and value == weights.get("actorder") for value in REORDERED):
        raise NotDequantised(f"its actorder {weights['actorder']!r} is not dequantised")
    kind = one_of(weights, "type", ("int",) if layout == "packed" else ("int", "float"), "int")
    size = weights.get("group_size")
    inferred = "tensor" if size is None else "channel" if size == -1 else "group"
    strategy = one_of(weights, "strategy", STRATEGIES[layout], inferred)
    if strategy == "group" and (type(size) is not int or size <= 0):
        raise NotDequantised(f"its group_size {size!r} is not dequantised")
    block = pair(weights.get("block_structure"), "block_structure") if strategy == "block" else None
    return Scheme(
        layout,
        bits=one_of(weights, "num_bits", PACKED_BITS if layout == "packed" or kind == "int" else (8,), 8),
        kind=kind,
        symmetric=one_of(weights, "symmetric", (True, False), True),
        strategy=strategy,
        group_size=size if strategy == "group" else None,
        block=block,
        targets=tuple(map(str, targets)),
    )


def _while_running(settings: Settings, groups: list[Settings]) -> str:
    """The tensors that scale activations before the model runs, and those that scale the cache."""
    found = [CACHE_SCALES] if settings.get("kv_cache_scheme") else []
    for name in ("input", "output"):
        schemes = [group.get(f"{name}_activations") for group in groups]
        if any(isinstance(scheme, dict) and not scheme.get("dynamic") for scheme in schemes):
            found.append(rf".*\.{name}_(scale|zero_point)")
    return "|".join(found) or NOTHING
