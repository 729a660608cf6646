"""Reads the tokenizer and the embedding table of a model: a directory of this machine, or a repository on a hub.

Only the file with the table is read, and of it only the table. The weights of the model are not needed otherwise, and
the model need not be the one that is slimmed.

Shape suffixes: V tokens of the embedding table, D dimensions.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.contract.errors import InvalidModel, NotFound
from service.contract.request.task import ModelSource
from service.models.families.source_config import effective_config, plain_name
from service.models.families.table import family_of
from service.privacy.token_space import TokenSpace
from service.sources.model_files import CONFIG, INDEX, SINGLE
from service.sources.readers import LOCAL, local_path, scheme_of
from service.sources.safetensors_header import DamagedHeader, Header, read_header

HUB = "hf"
TOKENIZER = "tokenizer.json"
REPLACEMENT = "\ufffd"  # stands for bytes that are no character
MIN_CANDIDATES = 2

FilePath = Callable[[str], Path]  # name of a file of the model -> its path on this machine. Raises NotFound.


@dataclass(frozen=True)
class ModelTokens:
    """The tokenizer of a model, its tokens as points, and the SHA-256 of the embedding table."""

    uri: str
    tokenizer: Tokenizer
    space: TokenSpace
    table_sha256: str

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a text, without those that a prompt would begin or end with."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=False))


def read_model_tokens(source: ModelSource) -> ModelTokens:
    """The tokens of the model at a file:// or hf:// URI.

    Raises InvalidModel where it lacks config.json, tokenizer.json or an embedding table in safetensors, and for files
    that cannot be read; UnsupportedFamily, StorageUnavailable.
    """
    path_of = _paths(source)
    config = effective_config(_json(path_of, CONFIG, source.uri))
    names = family_of(config, source.uri).names.of(config)
    tokenizer, unknown = _read_tokenizer(path_of, source.uri)
    tied = names.tied if names.is_tied(config) else ()
    embedding_VD, sha256 = _read_table(path_of, (names.embedding, *tied), source.uri)
    space = TokenSpace.of(embedding_VD, _usable(tokenizer, unknown, len(embedding_VD)))
    if len(space.candidate_K) < MIN_CANDIDATES:
        raise _wrong(f"{source.uri}: fewer than {MIN_CANDIDATES} tokens of {TOKENIZER} have an embedding")
    return ModelTokens(source.uri, tokenizer, space, sha256)


def _wrong(message: str) -> InvalidModel:
    return InvalidModel(message, param="model.uri")


def _paths(source: ModelSource) -> FilePath:
    if scheme_of(source.uri) == LOCAL:
        directory = local_path(source.uri)

        def local(name: str) -> Path:
            if not (directory / name).is_file():
                raise NotFound(f"{source.uri} has no {name}")
            return directory / name

        return local
    if scheme_of(source.uri) == HUB:
        from service.sources.hub import HubFiles  # not at the top: a directory needs no client of a hub

        return HubFiles.of(source).path
    raise _wrong(f"{source.uri} is no directory of this machine and no hf:// model: download it and give its directory")


def _json(path_of: FilePath, name: str, uri: str) -> dict[str, Any]:
    try:
        content = json.loads(path_of(name).read_bytes())
    except NotFound as error:
        raise _wrong(f"{uri} has no {name}: give the directory of a Hugging Face checkpoint") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(f"{name} of {uri} cannot be read as JSON") from error
    if not isinstance(content, dict):
        raise _wrong(f"{uri} has a {name} that is not a JSON object")
    return content


# --- the tokenizer -------------------------------------------------------------------------------------------------


def _read_tokenizer(path_of: FilePath, uri: str) -> tuple[Tokenizer, set[int]]:
    """(the tokenizer, its tokens for what it does not know)."""
    described = _json(path_of, TOKENIZER, uri)
    try:
        tokenizer = Tokenizer.from_file(str(path_of(TOKENIZER)))
    except Exception as error:  # the library raises no class of its own
        raise _wrong(f"{TOKENIZER} of {uri} is no tokenizer that the library `tokenizers` reads: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    model = described.get("model")
    named = model if isinstance(model, dict) else {}
    found = {named.get("unk_id"), tokenizer.token_to_id(str(named.get("unk_token")))}
    return tokenizer, {token for token in found if isinstance(token, int)}


def _usable(tokenizer: Tokenizer, unknown: set[int], count: int) -> NDArray[np.bool_]:
    """Which of the first `count` tokens are ordinary text: in the vocabulary, neither special nor added nor the token
    for the unknown, and more than white space or a part of a character (V)."""
    usable_V = np.zeros(count, dtype=np.bool_)
    reserved = {*tokenizer.get_added_tokens_decoder(), *unknown}
    ordinary = [token for token in set(tokenizer.get_vocab().values()) if token < count and token not in reserved]
    texts = tokenizer.decode_batch([[token] for token in ordinary], skip_special_tokens=False)
    for token, text in zip(ordinary, texts, strict=True):
        usable_V[token] = bool(text.strip()) and REPLACEMENT not in text
    return usable_V


# --- the embedding table -------------------------------------------------------------------------------------------


def _read_table(path_of: FilePath, names: Sequence[str], uri: str) -> tuple[NDArray[np.float32], str]:
    """(the table (V, D), its SHA-256 as it is stored); it is stored by the first of `names`, or by one tied to it."""
    for name in names:
        for file in _weight_files(path_of, name, uri):
            header = _header(path_of, file, uri)
            stored = next((stored for stored in header.tensors if plain_name(stored) in _spellings(name)), None)
            if stored is not None:
                return _values(path_of(file), header, stored, uri)
    raise _wrong(f"{uri} has no embedding table {names[0]} in safetensors")


def _spellings(name: str) -> set[str]:
    """The names of a tensor in the checkpoint of the whole model, and in that of the part without a head."""
    return {name, name.partition(".")[2]}


def _weight_files(path_of: FilePath, name: str, uri: str) -> list[str]:
    """The files that may hold the tensor. Raises InvalidModel where there are no safetensors files."""
    try:
        path_of(SINGLE)
    except NotFound:
        pass
    else:
        return [SINGLE]
    try:
        path_of(INDEX)
    except NotFound as error:
        message = f"{uri} has neither {SINGLE} nor {INDEX}, so that its embeddings cannot be read"
        raise _wrong(f"{message}: convert it to safetensors") from error
    weight_map = _json(path_of, INDEX, uri).get("weight_map")
    entries = weight_map.items() if isinstance(weight_map, dict) else ()
    files = sorted({str(file) for stored, file in entries if plain_name(str(stored)) in _spellings(name)})
    if any(PurePosixPath(file).name != file for file in files):
        raise _wrong(f"{INDEX} of {uri} names files of other directories")
    return files


def _header(path_of: FilePath, name: str, uri: str) -> Header:
    try:
        path = path_of(name)
        header = read_header(lambda start, end: _piece(path, start, end))
        if header.file_bytes != path.stat().st_size:
            raise DamagedHeader("its size is not that of its tensors")
    except NotFound as error:
        raise _wrong(f"{uri} lacks {name}, which {INDEX} names") from error
    except (DamagedHeader, OSError) as error:
        raise _wrong(f"{name} of {uri} is damaged: {error}") from error
    return header


def _piece(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _values(path: Path, header: Header, name: str, uri: str) -> tuple[NDArray[np.float32], str]:
    tensor, start = header.tensors[name], header.starts[name]
    if tensor.dtype not in NUMBERS or len(tensor.shape) != 2:
        raise _wrong(f"the embedding table {name} of {uri} is {tensor.dtype} of the shape {list(tensor.shape)}: give a "
                     f"table of {', '.join(NUMBERS)} with a row for each token")  # fmt: skip
    content = _piece(path, start, start + tensor.size)
    table_VD = NUMBERS[tensor.dtype](content).reshape(tensor.shape)
    if not np.isfinite(table_VD).all():
        raise _wrong(f"the embedding table {name} of {uri} has values that are not finite")
    return table_VD, hashlib.sha256(content).hexdigest()


def _of_bfloat16(content: bytes) -> NDArray[np.float32]:
    """The values of bfloat16, which numpy lacks: each is the upper half of a float32."""
    return (np.frombuffer(content, dtype="<u2").astype("<u4") << 16).view("<f4")


NUMBERS: Mapping[str, Callable[[bytes], NDArray[np.float32]]] = {  # as a header of safetensors names them
    "F32": lambda content: np.frombuffer(content, dtype="<f4"),
    "F16": lambda content: np.frombuffer(content, dtype="<f2").astype("<f4"),
    "BF16": _of_bfloat16,
}
