"""How a quantised model is loaded in Python, and served."""

from service.contract.options import Precision
from service.exports.precisions import FOR_VLLM
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.model_classes.per_layer import has_per_layer_class
from worker.quantisation.precisions import PRECISIONS

LOAD = """\
# In a shell: pip install {package}
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained("{directory}", dtype="auto"{remote_code})
tokenizer = AutoTokenizer.from_pretrained("{directory}")
"""


def loading(directory: str, precision: Precision, loaded: LoadedModel) -> str:
    """The Python code that loads the model."""
    return LOAD.format(
        package=PRECISIONS[precision].storage.library.replace("_", "-"),
        auto_class=loaded.family.auto_class,
        directory=directory,
        remote_code=", trust_remote_code=True" if has_per_layer_class(loaded.model) else "",
    )


def serving(directory: str, precision: Precision, loaded: LoadedModel) -> str | None:
    """The shell command that serves the model with vLLM; None for a precision that is not for vLLM."""
    if precision not in FOR_VLLM:
        return None
    return f"vllm serve {directory}" + (" --trust-remote-code" if has_per_layer_class(loaded.model) else "")
