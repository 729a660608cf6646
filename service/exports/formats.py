"""The formats of other runtimes: which models and tokenizers each of them takes.

The plan and the worker ask the same functions. Each gives the reason against a format, with what works instead, or
None. `worker.exports.formats` has the functions that write and verify the files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.contract.errors import UnsupportedFormat
from service.contract.options import Format
from service.contract.request.job_request import JobRequest
from service.exports import gguf, gguf_tokenizer, mlx, onnx
from service.exports.model import ExportedModel, exported_model
from service.models.families.family import ModelFamily


def any_tokenizer(tokenizer: Mapping[str, Any]) -> str | None:
    """Of a format that holds tokenizer.json as it is."""
    return None


@dataclass(frozen=True)
class FormatRules:
    """What speaks against a format: of a model, and of the content of its tokenizer.json."""

    against_model: Callable[[ExportedModel], str | None]
    against_tokenizer: Callable[[Mapping[str, Any]], str | None] = any_tokenizer


FORMATS: dict[Format, FormatRules] = {
    Format.gguf: FormatRules(gguf.against_model, gguf_tokenizer.against_tokenizer),
    Format.onnx: FormatRules(onnx.against_model),
    Format.mlx: FormatRules(mlx.against_model),
}


def check_formats(request: JobRequest, family: ModelFamily, config: Mapping[str, Any]) -> None:
    """Raise UnsupportedFormat for a format that cannot hold the slim model of this dense one."""
    for name, rules in asked(request):
        _refuse(name, rules.against_model(exported_model(request, family, config)))


def check_format_tokenizers(request: JobRequest, tokenizer: Mapping[str, Any]) -> None:
    """Raise UnsupportedFormat for a format that cannot hold this tokenizer.json."""
    for name, rules in asked(request):
        _refuse(name, rules.against_tokenizer(tokenizer))


def asked(request: JobRequest) -> Iterator[tuple[Format, FormatRules]]:
    """The formats of other runtimes that a request asks for."""
    return ((name, rules) for name, rules in FORMATS.items() if name in request.output.formats)


def _refuse(name: Format, reason: str | None) -> None:
    if reason is not None:
        raise UnsupportedFormat(f"`{name}`: {reason}", param="output.formats")
