"""What is stored of the slim model, and where it is pushed: the output of a request."""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from service.contract.fields import EXPERT, Schema, Uri
from service.contract.options import Format, GgufType, Layout, Precision

NAMED = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# Where models are pushed: a prefix below a bucket, or a repository of a hub.
DESTINATION = re.compile(rf"(s3|gs|az)://{NAMED}(/{NAMED})+/?|hf://{NAMED}/{NAMED}")


class Output(Schema):
    """What is stored of the slim model."""

    round_to: int = Field(
        default=64, gt=0, le=4096, description="kept widths are multiples of this", json_schema_extra=EXPERT
    )
    layout: Layout = Field(
        default=Layout.uniform,
        description="`per_layer`: every layer keeps a width of its own; needs the scope `global`",
        json_schema_extra=EXPERT,
    )
    formats: list[Format] = Field(
        default=[Format.safetensors],
        min_length=1,
        max_length=len(Format),
        description="forms in which the model is stored; `indices` needs the repair `none`, `gguf`, `onnx` and "
        "`mlx` a family that the format has",
        json_schema_extra=EXPERT,
    )
    gguf_types: list[GgufType] = Field(
        default=[GgufType.q8_0],
        min_length=1,
        max_length=len(GgufType),
        description="with the format `gguf`: how its files store the weights, one file each",
        json_schema_extra=EXPERT,
    )
    quantise: list[Precision] = Field(
        default=[],
        max_length=len(Precision),
        description="quantised copies of the slim model that are stored beside it, each measured on the task next to "
        "the dense model in the same precision; with `target.keep_metric` and one precision the search judges the "
        "quantised models. `w8a8` and `w4a16` are for vLLM, `w4a16` needs widths that 32 divides",
        json_schema_extra=EXPERT,
    )
    uri: Uri | None = Field(
        default=None,
        description="an s3://, gs:// or az:// prefix, or hf://owner/name, that the model is pushed to once the job has "
        "its files",
        json_schema_extra=EXPERT,
    )

    @field_validator("uri")
    @classmethod
    def _check_destination(cls, uri: str | None) -> str | None:
        if uri is not None and not DESTINATION.fullmatch(uri):
            raise ValueError(
                "a model is pushed to a prefix of an object store, such as s3://bucket/models/reviews, or to "
                "hf://owner/name: give one of these, in letters, digits and `._-`"
            )
        return uri

    @model_validator(mode="after")
    def _check_model_to_push(self) -> Self:
        if self.uri is not None and self.formats == [Format.indices]:
            raise ValueError("`uri` needs a model to push, which `formats: [indices]` lacks: add `safetensors`")
        return self

    @model_validator(mode="after")
    def _check_formats_differ(self) -> Self:
        for field in ("formats", "gguf_types", "quantise"):
            listed = getattr(self, field)
            if len(set(listed)) != len(listed):
                raise ValueError(f"`{field}` has an entry twice: give each once")
        return self

    @model_validator(mode="after")
    def _check_types_are_used(self) -> Self:
        if self.gguf_types != [GgufType.q8_0] and Format.gguf not in self.formats:
            raise ValueError(
                "`gguf_types` has an effect only with `gguf` in `formats`: add it, or leave `gguf_types` out"
            )
        return self
