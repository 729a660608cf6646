"""The runtimes that load a slim model only in a format of their own."""

from collections.abc import Sequence

from service.contract.answers.report import Runtime
from service.contract.options import Format
from service.exports.formats import FORMATS
from service.exports.model import ExportedModel

# Runtime -> the format that is written for it.
FORMAT_OF = {"llama.cpp": Format.gguf, "mlx-lm": Format.mlx, "onnxruntime": Format.onnx}


def with_exports(runtimes: Sequence[Runtime], model: ExportedModel) -> list[Runtime]:
    """The runtimes; those that do not load the checkpoint, with the format that they do load or the reason against
    it. Those that load no checkpoint at all come last."""
    listed = {runtime.name for runtime in runtimes}
    others = [Runtime(name=name, loads=False) for name in FORMAT_OF if name not in listed]
    return [_with_export(runtime, model) for runtime in (*runtimes, *others)]


def _with_export(runtime: Runtime, model: ExportedModel) -> Runtime:
    format = FORMAT_OF.get(runtime.name)
    if runtime.loads or format is None:
        return runtime
    reason = FORMATS[format].against_model(model)
    if reason is None:
        written = f"the files that `output.formats: {format}` writes, in place of the checkpoint"
        return runtime.model_copy(update={"loads": True, "export": format, "reason": written})
    is_better = model.own_widths or runtime.reason is None
    return runtime.model_copy(update={"reason": reason}) if is_better else runtime
