"""The tensors of experts in files and in the class, compared with what transformers writes and loads."""

from pathlib import Path

import pytest

from service.contract.errors import InvalidModel
from service.contract.options import Unit
from service.sources.safetensors_header import TensorShape
from service.sources.stored_experts import in_class, in_files
from tests.support import checkpoints
from tests.support.architecture_rows import having
from tests.support.tiny_models import tiny_family
from worker.sources.validation import stored_tensors

families = pytest.mark.parametrize("name", having(Unit.experts))


@families
def test_joined_tensors_are_those_of_the_class_and_written_ones_those_of_transformers(
    name: str, tmp_path: Path
) -> None:
    model, family = checkpoints.write(tmp_path, name), tiny_family(name)
    stored = stored_tensors([tmp_path / "model.safetensors"])
    joined = in_class(stored, family, model.config.to_dict())
    assert joined == {name: TensorShape("F32", tuple(value.shape)) for name, value in model.state_dict().items()}
    assert in_files(joined, family.names.expert_files) == stored
    assert in_class(joined, family, model.config.to_dict()) == joined


def test_experts_of_unequal_shapes_are_refused(tmp_path: Path) -> None:
    model, family = checkpoints.write(tmp_path, "mixtral"), tiny_family("mixtral")
    stored = stored_tensors([tmp_path / "model.safetensors"])
    stored["model.layers.1.block_sparse_moe.experts.2.w2.weight"] = TensorShape("F32", (32, 47))
    with pytest.raises(InvalidModel, match=r"the experts of model.layers.1 have matrices w2 of several shapes"):
        in_class(stored, family, model.config.to_dict())
