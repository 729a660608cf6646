"""The runtimes that load a slim model only in a format of their own."""

from collections.abc import Sequence

from service.contract.options import Format
from service.contract.report import Runtime
from service.exports.formats import FORMATS
from service.exports.model import ExportedModel

# Runtime -> the format that is written for it.
FORMAT_OF = {"llama.cpp": Format.gguf, "mlx-lm": Format.mlx}


def with_exports(runtimes: Sequence[Runtime], model: ExportedModel) -> list[Runtime]:
    """The runtimes; those that do not load the checkpoint, with the format that they do load or the reason against
    it."""
    return [_with_export(runtime, model) for runtime in runtimes]


def _with_export(runtime: Runtime, model: ExportedModel) -> Runtime:
    format = FORMAT_OF.get(runtime.name)
    if runtime.loads or format is None:
        return runtime
    reason = FORMATS[format].against_model(model)
    if reason is None:
        written = f"the files that `output.formats: {format}` writes, in place of the checkpoint"
        return runtime.model_copy(update={"loads": True, "export": format, "reason": written})
    return runtime.model_copy(update={"reason": reason}) if model.own_widths else runtime
