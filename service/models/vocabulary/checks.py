"""The check of a tokenizer whose tokens are to be removed."""

from service.contract.errors import InvalidModel, UnsupportedUnit
from service.models.vocabulary.piece_models import UnsupportedPieces
from service.models.vocabulary.tokenizer_file import DamagedTokenizer, TokenizerFile


def check_pieces(file: TokenizerFile, family: str) -> None:
    """Raise UnsupportedUnit for a kind of tokenizer whose pieces cannot be removed, InvalidModel for a damaged one."""
    try:
        file.check()
    except UnsupportedPieces as error:
        raise UnsupportedUnit(in_words(family, str(error)), param="method.units") from error
    except DamagedTokenizer as error:
        raise InvalidModel(f"the tokenizer.json of the model is damaged: {error}", param="model.uri") from error


def in_words(family: str, reason: str) -> str:
    """The message of a tokenizer whose pieces cannot be removed."""
    return f"{family}: {reason}: leave `vocabulary` out of the units"
