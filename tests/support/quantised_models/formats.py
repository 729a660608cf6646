"""Every way to store a quantised model that tests write."""

from tests.support.quantised_models import awq, bits_and_bytes, compressed_tensors, fp8, gptq
from tests.support.quantised_models.stored import Format

FORMATS: dict[str, Format] = (
    fp8.FORMATS | compressed_tensors.FORMATS | bits_and_bytes.FORMATS | gptq.FORMATS | awq.FORMATS
)
