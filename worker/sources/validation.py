"""What a checkpoint's directory must be before anything of it is loaded."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from service.contract.errors import InvalidModel
from service.models.families.config_checks import check_settings
from service.models.families.config_values import check_generation_config
from service.models.families.family import ModelFamily
from service.models.families.named_head import check_head
from service.models.families.source_config import effective_config
from service.models.families.table import family_of, own_code, with_adapter_head
from service.sources.model_files import CONFIG, GENERATION_CONFIG, INDEX, PICKLED, SINGLE, TOKENIZER_CONFIG
from service.sources.quantised_weights import StoredWeights, stored_weights
from service.sources.safetensors_header import TensorShape
from service.sources.stored_experts import in_class
from worker.sources.per_layer_files import is_valid_per_layer


class Checked(NamedTuple):
    """What is known of a checkpoint whose files can be loaded safely."""

    family: ModelFamily  # with the head that the adapter brings
    weights: StoredWeights


def check_checkpoint(
    directory: Path, *, has_adapter: bool = False, replaced: Collection[str] = (), task_type: object = None
) -> Checked:
    """Check the files of a checkpoint. `replaced` and `task_type` are those of `with_adapter_head`.

    Raises InvalidModel or UnsupportedFamily where they cannot be loaded safely.
    """
    config = effective_config(read_json(directory / CONFIG))
    family = with_adapter_head(family_of(config, "the model"), replaced, task_type)
    check_head(config, family, has_adapter=has_adapter)
    check_settings(config, family)
    if (directory / GENERATION_CONFIG).exists():
        check_generation_config(read_json(directory / GENERATION_CONFIG))
    tokenizer = directory / TOKENIZER_CONFIG
    if ("auto_map" in config and not is_valid_per_layer(config, directory)) or (
        tokenizer.exists() and "auto_map" in read_json(tokenizer)
    ):
        raise own_code("the model")
    check_safetensors(paths := weight_files(directory))
    weights = stored_weights(stored_tensors(paths), config, family, "the model")
    in_class(weights.tensors, family, config)
    return Checked(family, weights)


def weight_files(directory: Path) -> list[Path]:
    """The files that hold the weights, as the stock loader would choose them."""
    if (directory / SINGLE).exists():
        return [directory / SINGLE]
    if (directory / INDEX).exists():
        weight_map = read_json(directory / INDEX).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if names and all(isinstance(name, str) and Path(name).name == name for name in names):
            return [directory / name for name in sorted(set(names))]
        raise InvalidModel(f"{INDEX} does not name files of its own directory", param="model.uri")
    if any(path.suffix in PICKLED for path in directory.iterdir()):
        raise InvalidModel(
            "the weights are pickled, and a pickle can run code: save them as safetensors", param="model.uri"
        )
    raise InvalidModel(f"there is no {SINGLE}", param="model.uri")


def tensor_names(directory: Path) -> set[str]:
    """The names of all tensors in a checkpoint."""
    names: set[str] = set()
    for path in weight_files(directory):
        with safe_open(path, framework="pt") as file:
            names |= set(file.keys())
    return names


def weight_file_bytes(directory: Path) -> int:
    """Size of the files that hold a checkpoint's weights."""
    return sum(path.stat().st_size for path in weight_files(directory))


def stored_tensors(paths: Sequence[Path]) -> dict[str, TensorShape]:
    """Name -> dtype and shape of every tensor in safetensors files."""
    found: dict[str, TensorShape] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            found |= {name: TensorShape(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    return found


def check_safetensors(paths: Sequence[Path]) -> None:
    """Opening a file checks its header against its size."""
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                file.keys()
        except FileNotFoundError as error:
            raise InvalidModel(f"{path.name} is missing", param="model.uri") from error
        except (SafetensorError, OSError) as error:
            raise InvalidModel(f"{path.name} is damaged: {error}", param="model.uri") from error


def read_json_value(path: Path) -> Any:
    """The value in a JSON file; None where there is none. Raises InvalidModel for a file that is not JSON."""
    try:
        return json.loads(path.read_bytes()) if path.is_file() else None
    except (ValueError, RecursionError, OSError) as error:
        raise InvalidModel(f"{path.name} cannot be read: {error}", param="model.uri") from error


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidModel(f"{path.name} is missing", param="model.uri") from error
    except (ValueError, RecursionError, OSError) as error:
        raise InvalidModel(f"{path.name} cannot be read: {error}", param="model.uri") from error
    if not isinstance(content, dict):
        raise InvalidModel(f"{path.name} is not a JSON object", param="model.uri")
    return content
