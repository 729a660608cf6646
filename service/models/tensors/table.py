"""The tensors of the models of every family, by `model_type`."""

from service.models.tensors.decoders import DECODERS
from service.models.tensors.encoder_decoders import ENCODER_DECODERS
from service.models.tensors.encoders import ENCODERS
from service.models.tensors.modules import ModelTensors

MODEL_TENSORS: dict[str, ModelTensors] = DECODERS | ENCODERS | ENCODER_DECODERS
