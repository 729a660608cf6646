"""The checks of a tokenizer by its files. A tokenizer on a hub is left to the worker, which reads it anyway."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from service.contract.errors import InvalidModel
from service.contract.options import Unit
from service.contract.request.job_request import JobRequest
from service.contract.request.presets import resolve
from service.exports.formats import check_format_tokenizers
from service.models.vocabulary.checks import check_pieces
from service.models.vocabulary.tokenizer_file import TokenizerFile
from service.sources.access import blaming
from service.sources.directories import StoredDirectory, read_json
from service.sources.model_directory import ModelDirectory
from service.sources.model_files import TOKENIZER_CONFIG

TOKENIZER = "tokenizer.json"
CHAT_TEMPLATE = "chat_template.jinja"
VOCABULARIES = frozenset(
    {TOKENIZER, "tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"}
)
MAX_BYTES = 16 * 2**20  # a client waits; a larger tokenizer.json is left to the worker


def check_tokenizer(request: JobRequest, model: ModelDirectory) -> TokenizerFile | None:
    """Check the files of the tokenizer, and return its tokenizer.json.

    None where the worker alone reads it: one that is large, on a hub or without a tokenizer.json. Raises
    InvalidModel for a tokenizer that needs code, is missing, makes tokens that the model does not know, or has no
    chat template although the rows are conversations; UnsupportedFormat where a format cannot hold it; and what
    `check_pieces` raises where its tokens are to be removed.
    """
    model.check_tokenizer()
    if not isinstance(model.files, StoredDirectory):
        return None
    if not VOCABULARIES & model.names:
        message = f"{model.source.uri} has no tokenizer: add {TOKENIZER}, with which the model was trained"
        raise InvalidModel(message, param="model.uri")
    chat_template = _chat_template(model, model.files) if _has_conversations(request) else ""
    if model.files.sizes.get(TOKENIZER, MAX_BYTES + 1) > MAX_BYTES:
        return None
    tokenizer = _read(model, model.files)
    found = TokenizerFile(tokenizer)
    if Unit.vocabulary in request.method.units:
        check_pieces(found, model.family.model_type)
    _check_tokens(request, tokenizer, model, chat_template)
    check_format_tokenizers(request, tokenizer)
    return found


def _has_conversations(request: JobRequest) -> bool:
    return any(task.messages is not None for task in request.placed_wordings.values())


def _chat_template(model: ModelDirectory, files: StoredDirectory) -> str:
    """The chat template, from the places where transformers looks for it. It is read and not run.

    Raises InvalidModel where there is none.
    """
    if CHAT_TEMPLATE in files.sizes:
        with blaming("model.uri", InvalidModel):
            found: Any = files.content(CHAT_TEMPLATE).decode(errors="replace")
    elif TOKENIZER_CONFIG in files.sizes:
        found = read_json(files, TOKENIZER_CONFIG, model.source.uri, "model.uri").get("chat_template")
    else:
        found = None
    if isinstance(found, list):  # several with names
        named = [each for each in found if isinstance(each, dict)]
        found = next((each.get("template") for each in named if each.get("name") == "default"), None)
    if not found or not isinstance(found, str):
        message = f"`task.messages` needs the chat template of the model, and {model.source.uri} has none: add"
        raise InvalidModel(f"{message} {CHAT_TEMPLATE}, or give `task.template`", param="model.uri")
    return found


def _read(model: ModelDirectory, files: StoredDirectory) -> Mapping[str, Any]:
    with blaming("model.uri", InvalidModel):
        content = files.content(TOKENIZER)
    try:
        tokenizer = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{model.source.uri} has a {TOKENIZER} that is not JSON", param="model.uri") from error
    if not isinstance(tokenizer, dict):
        raise InvalidModel(f"{model.source.uri} has a {TOKENIZER} that is not a JSON object", param="model.uri")
    if not isinstance(tokenizer.get("model"), dict):
        message = f"{model.source.uri} has a {TOKENIZER} without the `model` of a tokenizer: save it with `tokenizers`"
        raise InvalidModel(message, param="model.uri")
    return tokenizer


def _check_tokens(request: JobRequest, tokenizer: Mapping[str, Any], model: ModelDirectory, chat_template: str) -> None:
    """Refuse ids beyond the embedding: ordinary tokens always, added ones where a template or an answer has them.

    Some checkpoints have added tokens that their embedding lacks and that no text contains.
    """
    known = model.config.get("vocab_size")
    if type(known) is not int:
        return
    unknown = [(number, text) for number, text in _ordinary(tokenizer) if number >= known]
    written = "\n".join((*_written(request), chat_template))
    unknown += [(number, text) for number, text in _added(tokenizer) if number >= known and text in written]
    if unknown:
        number, text = max(unknown)
        message = (
            f"the tokenizer makes the token {number} ({text!r}), and the model has embeddings of {known} tokens: give "
            "the tokenizer that belongs to the model"
        )
        raise InvalidModel(message, param="model.uri")


def _ordinary(tokenizer: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(id, token) of the vocabulary: a mapping, or of a unigram model a list in the order of the ids."""
    inner = tokenizer.get("model")
    vocabulary = inner.get("vocab") if isinstance(inner, dict) else None
    if isinstance(vocabulary, dict):
        yield from ((number, text) for text, number in vocabulary.items() if type(number) is int)
    elif isinstance(vocabulary, list):
        entries = ((number, entry) for number, entry in enumerate(vocabulary) if isinstance(entry, list) and entry)
        yield from ((number, str(entry[0])) for number, entry in entries)


def _added(tokenizer: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    tokens = tokenizer.get("added_tokens")
    for token in tokens if isinstance(tokens, list) else ():
        if isinstance(token, dict) and type(token.get("id")) is int and isinstance(token.get("content"), str):
            yield token["id"], token["content"]


def _written(request: JobRequest) -> Iterator[str]:
    """The templates and the answers of all tasks."""
    for resolved in map(resolve, request.placed_wordings.values()):
        yield resolved.template or ""
        yield from (resolved.labels or {}).values()
