"""Which modules the targets of a quantisation name: names, and regular expressions for them (`re:`).

The expressions come with a model, so that one could keep the API busy for hours. Those that are read here take time
that is linear in the length of a name: `.*` stands between pieces in which nothing but digits is repeated.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from service.models.quantisation.settings import NotDequantised

EXPRESSION = "re:"
ATOM = r"\w|-|/|\.|\\[._/-]|\\d\+?|\[[\w.-]+\]|\^|\$"
PIECE = re.compile(rf"(?:{ATOM}|\((?:\?:)?(?:{ATOM}|\|)*\))*")  # with alternatives in parentheses alone
MAX_LENGTH = 256


def check_target(target: str) -> None:
    """Raise NotDequantised for an expression that is not read."""
    if target.startswith(EXPRESSION):
        _pieces(target)


def names(target: str, module: str) -> bool:
    """Whether a target names the module, as `compressed_tensors.utils.match.match_name` says."""
    if not target.startswith(EXPRESSION):
        return target == module
    if len(module) > MAX_LENGTH:
        return False
    first, *others = _pieces(target)
    found = first.match(module)
    for piece in others:
        found = piece.search(module, found.end()) if found else None
    return found is not None


def most_specific(targets: Iterable[str], module: str) -> str:
    """The target that decides on a module: its name, else the first expression for it, else the name of its class."""
    named = (target for target in sorted(targets, key=lambda each: (EXPRESSION in each, each)) if names(target, module))
    return next(named, "Embedding" if re.search("embed|wte", module) else "Linear")


@lru_cache
def _pieces(target: str) -> list[re.Pattern[str]]:
    """The parts of an expression between `.*`."""
    pieces = target.removeprefix(EXPRESSION).split(".*")
    try:
        if len(target) <= MAX_LENGTH and all(PIECE.fullmatch(piece) for piece in pieces):
            return [re.compile(piece.replace(r"\d+", r"\d++")) for piece in pieces]
    except re.error:
        pass
    raise NotDequantised(f"its target {target!r} is not read")
