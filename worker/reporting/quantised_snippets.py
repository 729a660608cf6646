"""How a quantised model is used in Python, and served."""

from service.contract.options import Precision
from service.exports.precisions import FOR_VLLM
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.model_classes.per_layer import has_per_layer_class
from worker.data.batching import Padding
from worker.data.wordings import Wording
from worker.quantisation.precisions import PRECISIONS
from worker.reporting.snippets import usage


def using(directory: str, precision: Precision, loaded: LoadedModel, wording: Wording, padding: Padding) -> str:
    """The Python code that loads the model and runs its task, or the first task of a union, on one row."""
    package = PRECISIONS[precision].storage.library.replace("_", "-")
    own_widths = has_per_layer_class(loaded.model)
    code = usage(directory, loaded.family.auto_class, wording, padding, own_widths=own_widths)
    return f"# In a shell: pip install {package}\n{code}"


def serving(directory: str, precision: Precision, loaded: LoadedModel) -> str | None:
    """The shell command that serves the model with vLLM; None for a precision that is not for vLLM."""
    if precision not in FOR_VLLM:
        return None
    return f"vllm serve {directory}" + (" --trust-remote-code" if has_per_layer_class(loaded.model) else "")
