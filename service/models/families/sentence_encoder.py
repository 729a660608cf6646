"""How the hidden states of an encoder become the embedding of a text, as the files of sentence-transformers say.

These stand beside config.json: modules.json names the steps, in the order in which they are done. The worker and the
plan read them by `read_sentence_encoder` alone. A checkpoint without modules.json is read as sentence-transformers
reads one: the embedding is the mean over the tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.contract.errors import InvalidModel

Pooling = Literal["mean", "cls", "last"]

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# Directories of modules with a config of their own, as patterns.
NESTED = ("[0-9]_Pooling/config.json", "[0-9]_Normalize/config.json")
# Fields of a pooling config before there was one with the name of the pooling.
OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLINGS: Mapping[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
STEPS = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceEncoder:
    """What is done with a text before, and with its hidden states behind the encoder."""

    pooling: Pooling = "mean"  # over the tokens, special ones included; or the first token; or the last one
    is_normalised: bool = False  # whether embeddings have the length 1
    lower_case: bool = False  # whether texts are embedded in lower case, whatever the tokenizer does
    max_tokens: int | None = None  # of a text, which is cut behind them; None: as many as the model takes
    has_files: bool = False  # whether the checkpoint has the files of sentence-transformers


# The content of a JSON file by its name, None where there is none.
Read = Callable[[str], Any]


def read_sentence_encoder(read: Read) -> SentenceEncoder:
    """What the files of sentence-transformers say; the mean without normalisation where there are none.

    Raises InvalidModel for files that say something else than can be slimmed for.
    """
    modules = read(MODULES)
    if modules is None:
        return SentenceEncoder()
    steps = _steps(modules)
    _check_prompts(read(PROMPTS))
    settings: Any = next((found for name in SETTINGS if (found := read(name)) is not None), {})
    if not isinstance(settings, dict):
        raise _refused("its settings of sentence-transformers are not a JSON object")
    _check_task(settings)
    length = settings.get("max_seq_length")
    if length is not None and (type(length) is not int or length <= 0):
        raise _refused(f"its settings of sentence-transformers have the max_seq_length {length!r}, which is no number")
    return SentenceEncoder(
        pooling=_pooling(read, steps["Pooling"]),
        is_normalised="Normalize" in steps,
        lower_case=bool(settings.get("do_lower_case")),
        max_tokens=length,
        has_files=True,
    )


def _steps(modules: Any) -> dict[str, str]:
    """Class -> directory of each module."""
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise _refused(f"{MODULES} is not a list of modules")
    steps = {str(module.get("type")).rpartition(".")[2]: str(module.get("path") or "") for module in modules}
    for name, directory in steps.items():
        if name not in STEPS:
            where = f" in {directory}" if directory else ""
            raise _refused(
                f"{MODULES} has the module {name}{where}: encoders with {', '.join(STEPS)} alone can be slimmed, "
                "so give one without it"
            )
    if tuple(steps) not in (STEPS, STEPS[:2]) or len(steps) < len(modules):
        raise _refused(
            f"{MODULES} has the modules {', '.join(steps)}: give one with {', '.join(STEPS)} in this "
            "order, the last where embeddings are normalised"
        )
    if steps["Transformer"]:
        message = f"{MODULES} has its model in the directory {steps['Transformer']}: save it again with a current"
        raise _refused(f"{message} version of sentence-transformers, which puts it beside {MODULES}")
    return steps


def _pooling(read: Read, directory: str) -> Pooling:
    name = f"{directory}/config.json"
    config = read(name)
    if not isinstance(config, dict):
        raise _refused(f"{MODULES} names the directory {directory}, which has no config.json with a JSON object")
    old = [mode for field, mode in OLD_MODES.items() if config.get(field)] or ["mean"]
    found = config.get("pooling_mode", old)
    modes = found if isinstance(found, list) else [found]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        message = f"{name} pools by {', '.join(map(str, modes))}: give an encoder that pools by one of"
        raise _refused(f"{message} {', '.join(POOLINGS)}")
    return POOLINGS[modes[0]]


def _check_prompts(config: Any) -> None:
    """Refuse a text that sentence-transformers would write before each text: a template says what is embedded."""
    if not isinstance(config, dict):
        return
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    prompt = prompts.get(name) if isinstance(prompts, dict) and name is not None else None
    if prompt:
        raise _refused(
            f"{PROMPTS} has the default_prompt_name {name!r}, whose prompt {prompt!r} would be written before every "
            "text: set it to null, and write the prompt in `task.template`"
        )


def _check_task(settings: Mapping[str, Any]) -> None:
    """Refuse other outputs of the encoder than its hidden states."""
    task, modality = settings.get("transformer_task"), settings.get("modality_config")
    text = modality.get("text") if isinstance(modality, dict) else None
    output = text.get("method_output_name") if isinstance(text, dict) else None
    if task not in (None, "feature-extraction") or output not in (None, "last_hidden_state"):
        what = f"the transformer_task {task!r}" if output in (None, "last_hidden_state") else f"the output {output!r}"
        raise _refused(f"its settings of sentence-transformers have {what}: give an encoder of hidden states")


def _refused(message: str) -> InvalidModel:
    return InvalidModel(message, param="model.uri")
