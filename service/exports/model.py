"""What decides which formats of other runtimes can hold the slim model of a request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.contract.options import Layout, Repair, Unit
from service.contract.request.job_request import JobRequest
from service.models.families.family import ModelFamily

# The class computes with these where config.json names none.
ACTIVATIONS = {"gemma2": "gelu_pytorch_tanh", "gemma3_text": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class ExportedModel:
    """The slim model of a request, as far as its request and the config of the dense model tell.

    `config` has the biases that the repair `bias` adds.
    """

    family: ModelFamily
    config: Mapping[str, Any]
    units: Sequence[Unit]
    own_widths: bool  # whether its layers may have different widths

    @property
    def model_type(self) -> str:
        """The family's name."""
        return self.family.model_type

    @property
    def activation(self) -> str:
        """The activation function of the feed-forward modules."""
        named = self.config.get("hidden_activation") or self.config.get("hidden_act")
        return str(named or ACTIVATIONS.get(self.model_type, "silu"))

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.family.names.of(self.config).is_tied(self.config)

    @property
    def rope(self) -> Mapping[str, Any]:
        """The parameters of rotary positions, of a Gemma 3 those of the layers that see the whole text."""
        found = self.config.get("rope_parameters") or self.config.get("rope_scaling") or {}
        inner = found.get("full_attention", found) if isinstance(found, Mapping) else {}
        return inner if isinstance(inner, Mapping) else {}

    @property
    def rope_type(self) -> str:
        """The scaling of rotary positions."""
        return str(self.rope.get("rope_type") or self.rope.get("type") or "default")


def exported_model(request: JobRequest, family: ModelFamily, config: Mapping[str, Any]) -> ExportedModel:
    """The slim model that a request makes of a dense one."""
    units = request.method.units
    # Where whole layers are removed and nothing else, the others keep their one width.
    cut = request.output.layout is Layout.per_layer and list(units) != [Unit.layers]
    return ExportedModel(family, with_biases(request, family, config), units, cut or "layer_widths" in config)


def with_biases(request: JobRequest, family: ModelFamily, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of the dense model, with the fields that the repair `bias` sets."""
    biases = {stack.bias: True for stack in family.names.of(config).stacks if stack.bias}
    return {**config, **biases} if request.method.repair is Repair.bias else config
