"""Verifies that a written checkpoint computes what the dense model computes without the removed units.

The logits to expect are those of the model as it was loaded, with hooks that mask the removed units. They are taken
before the model is cut, converted to another class or saved, so that no step is compared with itself. Where a repair
has changed the weights that stay, the masked model has the repaired ones.

`python -m worker.checkpoints.verification PARENT`, a fresh process, is given DIRECTORY and PROBE. It loads the
directory with the stock Auto class of its family, or with the per-layer class where layers have different widths, and
with no other code. It prints one line of JSON: the class that loaded it, and the greatest difference between its logits
and those of the probe.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from service.contract.answers.result import Verified
from service.contract.errors import VerificationFailed
from service.infrastructure.child_process import die_with_parent, name_process
from service.models.families.table import family_of
from service.sources.model_files import CONFIG
from worker.checkpoints.encoders import is_encoder, outputs_of, pooler_argument, sentence_encoder_of
from worker.checkpoints.float32_pass import float32_pass
from worker.checkpoints.fresh_process import FreshProcess, read_arguments
from worker.checkpoints.loading import LoadedModel
from worker.checkpoints.model_classes.per_layer import loader_class
from worker.checkpoints.weights import AUTO_CLASSES, FROM_DISK_ALONE
from worker.data.wordings import Tokens
from worker.slimming.architectures import Architecture, architecture_of
from worker.slimming.free_memory import budget
from worker.slimming.masking import masked
from worker.slimming.streaming.mapped import return_freed_memory
from worker.slimming.surgery.vocabulary import num_rows
from worker.slimming.units.groups import Kept
from worker.sources.validation import tensor_names, weight_file_bytes

# The greatest difference of a logit that counts as rounding, relative to the greatest logit. Both models compute in
# float32. A sum over fewer terms, without the zeros of masked units, may be added in another order.
TOLERANCE = 1e-4
LOGITS = "logits"
TOKEN_INPUTS = ("input_ids", "decoder_input_ids")
PROBE_TEXTS = 256
MODULE = "worker.checkpoints.verification"
COMPARES = "taskslim-verify"  # what `ps` and `top` call the process, once it has done its imports


@dataclass(frozen=True)
class Probe:
    """Inputs, and the logits that a written checkpoint has to give for them. The tensors are on the CPU."""

    inputs: dict[str, Tensor]
    logits: Tensor
    device: str  # on which the logits were computed
    dtype: str  # of the weights in the checkpoint
    texts: Mapping[str, Tokens] = field(default_factory=dict)  # that the tokenizer has to read as these tokens

    def write(self, path: Path) -> None:
        """Write the probe for the process that compares."""
        tensors = {name: value.contiguous() for name, value in {**self.inputs, LOGITS: self.logits}.items()}
        save_file(tensors, path, {"device": self.device, "dtype": self.dtype, "texts": json.dumps(self.texts)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The probe that was written to a file."""
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        texts = {text: tuple(tokens) for text, tokens in json.loads(metadata.pop("texts")).items()}
        return cls(logits=tensors.pop(LOGITS), inputs=tensors, texts=texts, **metadata)


def take_probe(loaded: LoadedModel, kept: Kept, inputs: Mapping[str, Tensor]) -> Probe:
    """The logits of the loaded model where only the `kept` units contribute."""
    with masked(loaded.model, architecture_of(loaded.model), kept):
        return probe_of(loaded, inputs)


def take_mapped_probe(dense: LoadedModel, kept: Kept, inputs: Mapping[str, Tensor], slim: LoadedModel) -> Probe:
    """As `take_probe`, for a slim model that has fewer tokens: `inputs` are tokens of the slim model.

    The dense model reads the same tokens under its own ids, and of its logits over the vocabulary those of the tokens
    that stay are taken.
    """
    assert slim.vocabulary is not None, "the slim model has fewer tokens"
    own_inputs = {
        name: slim.vocabulary.dense_ids(value) if name in TOKEN_INPUTS else value for name, value in inputs.items()
    }
    probe = take_probe(dense, kept, own_inputs)
    logits = probe.logits
    if dense.model.get_output_embeddings() is not None:
        logits = logits[..., slim.vocabulary.dense_ids(torch.arange(num_rows(slim.model)))]
    return replace(probe, inputs={name: value.cpu() for name, value in inputs.items()}, logits=logits)


def with_texts(probe: Probe, texts: Mapping[str, Tokens], slim: LoadedModel) -> Probe:
    """The probe with texts that the slim tokenizer has to read as the dense one has, whose tokens `texts` has.

    The longest ones are taken.
    """
    assert slim.vocabulary is not None, "the slim model has fewer tokens"
    longest = sorted(texts, key=lambda text: (-len(texts[text]), text))[:PROBE_TEXTS]
    ids = slim.vocabulary.ids
    return replace(probe, texts={text: tuple(ids[token] for token in texts[text]) for text in longest})


def probe_of(loaded: LoadedModel, inputs: Mapping[str, Tensor]) -> Probe:
    """The logits of a model as it is, computed in float32."""
    model, dtype = loaded.model, str(loaded.dtype).removeprefix("torch.")
    logits = float32_logits(model, architecture_of(model), inputs, loaded.directory)
    return Probe({name: value.cpu() for name, value in inputs.items()}, logits, str(model.device), dtype)


def start() -> FreshProcess:
    """A process that does its imports and waits for a checkpoint to compare."""
    return FreshProcess(MODULE)


def verify(
    directory: Path,
    probe: Path,
    *,
    while_waiting: Callable[[], None] = lambda: None,
    started: FreshProcess | None = None,
) -> Verified:
    """Load the checkpoint in a fresh process and compare its logits. Raises VerificationFailed unless they match.

    `while_waiting` is called about twice a second, and may raise to end the process. `started` is a process of `start`
    that has compared nothing; without it, or where it has died, one is started now.
    """
    verified = compare_in_fresh_process(directory, probe, while_waiting, started)
    if not verified.max_abs_logit_difference <= verified.tolerance:
        raise VerificationFailed(
            f"the logits of the reloaded checkpoint differ by {verified.max_abs_logit_difference:.3g}, "
            f"more than the tolerance of {verified.tolerance:.3g}"
        )
    return verified


def compare_in_fresh_process(
    directory: Path, probe: Path, while_waiting: Callable[[], None], started: FreshProcess | None
) -> Verified:
    """What `compare` returns in a process of its own. Raises VerificationFailed where it raises."""
    failure = "the checkpoint does not load in a fresh process"
    with started if started and started.is_alive else start() as process:
        return Verified.model_validate_json(process.last_line([str(directory), str(probe)], while_waiting, failure))


def compare(directory: Path, probe: Probe) -> Verified:
    """Load the checkpoint in this process and compare its logits with those of the probe.

    Raises ValueError where weights are missing or unexpected, or the logits are not finite.
    """
    _check_texts(directory, probe)
    model = load_written(directory, getattr(torch, probe.dtype), probe.device)
    logits = float32_logits(model, architecture_of(model), probe.inputs, directory)
    difference = (logits - probe.logits).abs().max().item()
    if not math.isfinite(difference):
        raise ValueError("the logits of the reloaded checkpoint are not finite")
    return Verified(
        loader=type(model).__name__,
        max_abs_logit_difference=difference,
        tolerance=TOLERANCE * probe.logits.abs().max().item(),
        dtype=probe.dtype,
    )


def _check_texts(directory: Path, probe: Probe) -> None:
    """Raise ValueError unless the tokenizer of the checkpoint reads the texts of the probe as their tokens."""
    if not probe.texts:
        return
    tokenizer = AutoTokenizer.from_pretrained(directory, **FROM_DISK_ALONE)
    for text, tokens in probe.texts.items():
        if tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) != tokens:
            raise ValueError(f"the tokenizer of the checkpoint reads other tokens in the text {text[:200]!r}")


def float32_logits(
    model: PreTrainedModel, architecture: Architecture, inputs: Mapping[str, Tensor], directory: Path
) -> Tensor:
    """The logits, computed in float32 on the model's device; they are on the CPU.

    Of an encoder without a head its outputs, and the embeddings by the files in the directory that it was loaded from.
    """
    encoder = sentence_encoder_of(directory) if is_encoder(model) else None
    with torch.no_grad(), float32_pass(model, architecture):
        logits = outputs_of(model, {name: value.to(model.device) for name, value in inputs.items()}, encoder)
    return logits.float().cpu()


def load_written(directory: Path, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Load the checkpoint. Raises ValueError where its weights are not exactly those that its class needs."""
    config = json.loads((directory / CONFIG).read_bytes())
    config.pop("quantization_config", None)  # transformers loads what it says, also where it cannot be dequantised
    loader = loader_class(config, AUTO_CLASSES[family_of(config, "the checkpoint").kind])
    model, info = loader.from_pretrained(
        directory,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        **pooler_argument(config, tensor_names(directory)),
        **FROM_DISK_ALONE,
    )
    wrong = {what: sorted(info[what]) for what in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[what]}
    if wrong:
        raise ValueError(f"the checkpoint does not hold exactly what its class needs: {wrong}")
    assert isinstance(model, PreTrainedModel)
    nn.Module.to(model, device)
    model.eval()
    return model


def main() -> None:
    """Compare the checkpoint and the probe that the process is given; print a `Verified` as JSON."""
    [parent] = sys.argv[1:]
    die_with_parent(int(parent))
    name_process(COMPARES)
    directory, probe = read_arguments()
    if weight_file_bytes(Path(directory)) > budget(torch.device("cpu")):
        return_freed_memory()  # of the layers that are widened to float32 one after the other
    sys.stdout.write(compare(Path(directory), Probe.read(Path(probe))).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
