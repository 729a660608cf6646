"""The models that split words into the pieces of a vocabulary, as `tokenizer.json` describes them under "model".

A row of PIECE_MODELS says of a kind of model which pieces have to stay so that any text can still be written, which
pieces others are made from, and what is left of the model when pieces are removed. It changes the pieces of no text
whose own pieces all stay, together with what these are made from:

- BPE joins the pair of pieces with the lowest rank, again and again. All joins that lead to a piece that stays are
  still there, and the removed ones were never the first in such a text.
- Unigram takes the segmentation with the highest sum of scores, which stays the best among fewer. The penalty of an
  unknown character depends on the lowest score of all pieces, so that the piece which has it stays.
- WordPiece takes the longest piece that fits, which stays the longest.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Model = Mapping[str, Any]  # the part "model" of tokenizer.json

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a piece that stands for one byte of a character without a piece of its own
SPACE = "▁"  # what sentencepiece writes for a space; a byte fallback would not give the space back


@dataclass(frozen=True)
class PieceModel:
    """What the removal of pieces has to know of a kind of model."""

    pieces: Callable[[Model], dict[str, int]]  # piece -> id
    spelling: Callable[[Model], set[str]]  # pieces that any text may need
    parts: Callable[[Model, Collection[str]], set[str]]  # the given pieces, and those that they are made from
    rarity: Callable[[Model], dict[str, float]]  # piece -> the higher, the rarer it was when the model was trained
    cut: Callable[[Model, Mapping[str, int]], dict[str, Any]]  # the model with some pieces and their new ids alone


class UnsupportedPieces(ValueError):
    """Raised for a model whose pieces cannot be removed."""


def piece_model(model: Model) -> PieceModel:
    """The row of a model. Raises UnsupportedPieces for a kind of model that has none."""
    kind = model.get("type")
    if kind not in PIECE_MODELS:
        raise UnsupportedPieces(f"its tokenizer is a {kind} model, and pieces of {', '.join(PIECE_MODELS)} are removed")
    if kind == "BPE" and (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")):
        raise UnsupportedPieces("its tokenizer marks the pieces within or at the end of a word, as the first BPE did")
    return PIECE_MODELS[kind]


# --- spelling ------------------------------------------------------------------------------------------------------


def _unspelled(pieces: Iterable[str], single: Collection[str]) -> set[str]:
    """The pieces with a character that has no piece of its own, so that only longer pieces can write it."""
    return {piece for piece in pieces if not all(character in single for character in piece)}


def _characters(pieces: Iterable[str], *, byte_fallback: bool) -> set[str]:
    """The pieces that write any character: those of single characters, or with a fallback those of bytes."""
    if byte_fallback:
        return {piece for piece in pieces if BYTE.fullmatch(piece) or piece == SPACE}
    single = {piece for piece in pieces if len(piece) == 1}
    return single | _unspelled(pieces, single)


def _falls_back(model: Model, pieces: Collection[str]) -> bool:
    """Whether a character without a piece is written as bytes: all 256 of them have to be there."""
    return bool(model.get("byte_fallback")) and sum(bool(BYTE.fullmatch(piece)) for piece in pieces) == 256


# --- BPE -----------------------------------------------------------------------------------------------------------


def _mapped_pieces(model: Model) -> dict[str, int]:
    return dict(model["vocab"])


def merges_of(model: Model) -> list[tuple[str, str]]:
    """The pairs of pieces that a BPE model joins, those of the lowest rank first."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(first, second) for first, second in pairs]


def _bpe_spelling(model: Model) -> set[str]:
    found = _characters(model["vocab"], byte_fallback=_falls_back(model, model["vocab"]))
    # A piece that no merge makes is either written as it is or never.
    return found | ({model["unk_token"]} if model.get("unk_token") else set())


def _bpe_parts(model: Model, pieces: Collection[str]) -> set[str]:
    ranks = {pair: rank for rank, pair in enumerate(merges_of(model))}
    found: set[str] = set()
    for piece in pieces:
        found |= {piece, *_joined(piece, ranks)} if not BYTE.fullmatch(piece) else {piece}
    return found & {*model["vocab"]}


def _joined(piece: str, ranks: Mapping[tuple[str, str], int]) -> set[str]:
    """All pieces that occur while BPE joins the characters of a piece."""
    symbols = list(piece)
    found = set(symbols)
    while len(symbols) > 1:
        rank, place = min(
            (ranks.get((symbols[place], symbols[place + 1]), len(ranks)), place) for place in range(len(symbols) - 1)
        )
        if rank == len(ranks):
            break
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        found.add(symbols[place])
    return found


def _bpe_rarity(model: Model) -> dict[str, float]:
    ranks: dict[str, float] = {}
    for rank, (first, second) in enumerate(merges_of(model)):
        ranks.setdefault(first + second, rank)
    return {piece: ranks.get(piece, -1.0) for piece in model["vocab"]}


def _bpe_cut(model: Model, ids: Mapping[str, int]) -> dict[str, Any]:
    merges = [
        [first, second]
        for first, second in merges_of(model)
        if first in ids and second in ids and first + second in ids
    ]
    return {**model, "vocab": dict(ids), "merges": merges}


# --- Unigram -------------------------------------------------------------------------------------------------------


def _listed_pieces(model: Model) -> dict[str, int]:
    return {piece: number for number, (piece, _) in enumerate(model["vocab"])}


def _unigram_spelling(model: Model) -> set[str]:
    scores = dict(model["vocab"])
    unknown = model.get("unk_id")
    return {
        *_characters(scores, byte_fallback=_falls_back(model, scores)),
        min(scores, key=lambda piece: scores[piece]),
        *([] if unknown is None else [model["vocab"][unknown][0]]),
    }


def _unigram_rarity(model: Model) -> dict[str, float]:
    return {piece: -score for piece, score in model["vocab"]}


def _unigram_cut(model: Model, ids: Mapping[str, int]) -> dict[str, Any]:
    scores = dict(model["vocab"])
    unknown = model.get("unk_id")
    return {
        **model,
        "vocab": [[piece, scores[piece]] for piece in sorted(ids, key=lambda piece: ids[piece])],
        "unk_id": None if unknown is None else ids[model["vocab"][unknown][0]],
    }


# --- WordPiece -----------------------------------------------------------------------------------------------------


def _wordpiece_spelling(model: Model) -> set[str]:
    prefix = model["continuing_subword_prefix"]
    pieces = model["vocab"].keys()
    within = {piece.removeprefix(prefix) for piece in pieces if piece.startswith(prefix)}
    single, single_within = ({piece for piece in part if len(piece) == 1} for part in (pieces, within))
    found = {piece for piece in pieces if len(piece) == 1} | {prefix + piece for piece in single_within}
    found |= {piece for piece in pieces - found if not _is_spelled(piece, prefix, single, single_within)}
    return found | {model["unk_token"]}


def _is_spelled(piece: str, prefix: str, single: Collection[str], within: Collection[str]) -> bool:
    """Whether single characters write the piece, which begins a word unless it has the prefix."""
    if piece.startswith(prefix):
        return all(character in within for character in piece.removeprefix(prefix))
    return piece[:1] in single and all(character in within for character in piece[1:])


def _wordpiece_rarity(model: Model) -> dict[str, float]:
    return {piece: float(number) for piece, number in model["vocab"].items()}  # the trainer adds frequent pieces first


def _own_pieces(model: Model, pieces: Collection[str]) -> set[str]:
    return set(pieces)


def _mapped_cut(model: Model, ids: Mapping[str, int]) -> dict[str, Any]:
    return {**model, "vocab": dict(ids)}


PIECE_MODELS: dict[str, PieceModel] = {
    "BPE": PieceModel(_mapped_pieces, _bpe_spelling, _bpe_parts, _bpe_rarity, _bpe_cut),
    "Unigram": PieceModel(_listed_pieces, _unigram_spelling, _own_pieces, _unigram_rarity, _unigram_cut),
    "WordPiece": PieceModel(_mapped_pieces, _wordpiece_spelling, _own_pieces, _wordpiece_rarity, _mapped_cut),
}
