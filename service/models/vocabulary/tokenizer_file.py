"""The contents of a tokenizer.json: which of its tokens have to stay, and what is left of it without the others."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from service.models.vocabulary.piece_models import PieceModel, UnsupportedPieces, piece_model


class DamagedTokenizer(ValueError):
    """Raised for a tokenizer.json that lacks fields, or has others in their place."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer.json. Its tokens are the pieces of its model and the added ones, such as special tokens."""

    content: Mapping[str, Any]

    def check(self) -> None:
        """Raise UnsupportedPieces for a model whose pieces cannot be removed, DamagedTokenizer for other contents."""
        try:
            are_numbers = all(type(number) is int for number in (*self.ids.values(), *self.always()))
        except UnsupportedPieces:
            raise
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DamagedTokenizer(f"{type(error).__name__}: {error}") from error
        if not are_numbers:
            raise DamagedTokenizer("ids of its tokens are no whole numbers")

    @cached_property
    def _model(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.content["model"]
        return found

    @cached_property
    def _rules(self) -> PieceModel:
        return piece_model(self._model)

    @cached_property
    def pieces(self) -> dict[str, int]:
        """Piece of the model -> id."""
        return self._rules.pieces(self._model)

    @cached_property
    def added(self) -> dict[str, int]:
        """Added token -> id; some are pieces of the model as well."""
        return {token["content"]: token["id"] for token in self.content.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token -> id."""
        return self.pieces | self.added

    def always(self) -> set[int]:
        """The ids of the tokens that stay whatever the text is: added ones, and what any text may be written with."""
        return {self.ids[token] for token in (*self.added, *self._rules.spelling(self._model))}

    def with_parts(self, ids: Iterable[int]) -> set[int]:
        """The ids, and those of the pieces that they are made from."""
        found = set(ids)
        names = {number: piece for piece, number in self.pieces.items()}
        parts = self._rules.parts(self._model, [names[number] for number in found if number in names])
        return found | {self.pieces[piece] for piece in parts}

    def rarest_first(self) -> list[int]:
        """The ids of all pieces, those first that the training of the tokenizer found rarest."""
        rarity = self._rules.rarity(self._model)
        return [self.pieces[piece] for piece in sorted(rarity, key=lambda piece: (-rarity[piece], -self.pieces[piece]))]

    def cut(self, kept: Collection[int], rows: int) -> "TokenizerFile":
        """The file with the tokens alone whose rows of an embedding of so many are kept, numbered as `new_ids` says."""
        ids = new_ids(kept, rows, max(self.ids.values()) + 1)
        pieces = {piece: ids[number] for piece, number in self.pieces.items() if number in ids}
        added = [token | {"id": ids[token["id"]]} for token in self.content.get("added_tokens") or ()]
        renumbered = {token: ids[number] for token, number in self.ids.items() if number in ids}
        content = dict(self.content) | {"model": self._rules.cut(self._model, pieces), "added_tokens": added}
        content["post_processor"] = _renumbered_processor(self.content.get("post_processor"), renumbered)
        if padding := self.content.get("padding"):
            content["padding"] = padding | {"pad_id": renumbered[padding["pad_token"]]}
        return TokenizerFile(content)


def new_ids(kept: Iterable[int], rows: int, num_ids: int) -> dict[int, int]:
    """Old id -> new id, of the kept rows of an embedding, in their order.

    Tokens behind the last of its `rows`, which the model does not know, stay behind it.
    """
    return {old: new for new, old in enumerate((*sorted(kept), *range(rows, num_ids)))}


def _renumbered_processor(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor with the new ids of the special tokens that it adds."""
    if not isinstance(processor, dict):
        return processor
    found = dict(processor)
    if "processors" in found:
        found["processors"] = [_renumbered_processor(each, ids) for each in found["processors"]]
    for name in ("sep", "cls"):
        if name in found:
            found[name] = [found[name][0], ids[found[name][0]]]
    if isinstance(found.get("special_tokens"), dict):
        found["special_tokens"] = {
            name: special | {"ids": [ids[token] for token in special["tokens"]]}
            for name, special in found["special_tokens"].items()
        }
    return found
