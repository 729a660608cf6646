"""The tensors of the models of every family, by `model_type`."""

from service.tensors.decoders import DECODERS
from service.tensors.encoder_decoders import ENCODER_DECODERS
from service.tensors.encoders import ENCODERS
from service.tensors.modules import ModelTensors

MODEL_TENSORS: dict[str, ModelTensors] = DECODERS | ENCODERS | ENCODER_DECODERS
