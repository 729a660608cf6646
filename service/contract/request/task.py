"""What a model is slimmed for: the model, its tasks and their rows."""

from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from service.contract.fields import (
    EXPERT,
    GENERAL,
    MAX_EVALUATIONS,
    MAX_ROWS,
    MAX_WRITTEN_ROWS,
    OWN_TASK,
    Name,
    Schema,
    SetName,
    Uri,
)
from service.contract.options import Draw, Supervision, TaskKind, TaskMetric
from service.contract.row_values import usable_values


class ModelSource(Schema):
    """The dense model."""

    uri: Uri = Field(description="hf://owner/name, a file://, s3://, gs:// or az:// directory, or job://<id>")
    revision: Name | None = Field(
        default=None, description="branch, tag or commit of an hf:// model", json_schema_extra=EXPERT
    )
    adapter_uri: Uri | None = Field(
        default=None, description="PEFT LoRA adapter that is merged before slimming", json_schema_extra=EXPERT
    )


class Synthesis(Schema):
    """Further calibration rows, and rationales, that a language model writes from the given calibration rows."""

    rows: int = Field(
        default=64,
        ge=0,
        le=MAX_WRITTEN_ROWS,
        description="rows to write; those that are dropped because the dense model gives another answer are not "
        "replaced",
    )
    rationales: bool = Field(
        default=False,
        description="also write a rationale of the right answer of each row, on which `recovery.stages` trains",
    )
    model: ModelSource | None = Field(
        default=None,
        description="the decoder that writes; default: the dense model, with its adapter",
        json_schema_extra=EXPERT,
    )
    examples: int = Field(
        default=4,
        ge=1,
        le=32,
        description="given rows that are shown to the model for each row that it writes; fewer where it does not take "
        "as many tokens",
        json_schema_extra=EXPERT,
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**32,
        description="seed of the choice of shown rows, and of the written texts",
        json_schema_extra=EXPERT,
    )

    @model_validator(mode="after")
    def _check_writes_something(self) -> Self:
        if self.rows == 0 and not self.rationales:
            raise ValueError("`synthesis` writes neither rows nor rationales: give `rows`, or leave it out")
        return self


class DataSource(Schema):
    """Rows: a JSON Lines, CSV or Parquet file, or inline. The service stores inline rows as a `dataset://` URI."""

    uri: Uri | None = Field(default=None, description="file://, s3://, gs:// or az:// file, or dataset://<id>")
    rows: list[dict[str, Any]] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_ROWS,
        description="the rows themselves, in place of `uri`; values are text, numbers, true or false, lists of texts "
        "as `target`, `label`, `tokens` and `tags`, and a list of messages in the column `task.messages`",
    )
    limit: int | None = Field(default=None, gt=0, description="use this many rows, drawn with `seed`")
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the draw", json_schema_extra=EXPERT)
    draw: Draw = Field(
        default=Draw.natural,
        description="`balanced`: the same number of rows for each label, up to one",
        json_schema_extra=EXPERT,
    )

    @field_validator("rows")
    @classmethod
    def _keep_usable_values(cls, rows: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        return None if rows is None else [usable_values(row) for row in rows]

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.uri is None) == (self.rows is None):
            raise ValueError("give exactly one of `uri` and `rows`")
        return self


class TaskWording(Schema):
    """How a row becomes a prompt and an answer. Fields given beside a preset override those of the preset."""

    preset: Name | None = Field(
        default=None, description="name of a built-in wording, one of the `presets` of `GET /capabilities`"
    )
    kind: TaskKind | None = Field(default=None, description="default: classification")
    template: str | None = Field(
        default=None, min_length=1, max_length=20_000, description="the prompt, with columns of the row as {column}"
    )
    messages: Name | None = Field(
        default=None,
        description="column with a conversation, in place of `template`: the chat template of the model writes the "
        "prompt, and the assistant's messages are the answers",
    )
    labels: dict[Name, Name] | None = Field(
        default=None,
        min_length=2,
        max_length=1000,
        description="label in the rows -> answer word; with a classification head: -> class name. Default for "
        "multi_label and token_classification: the classes of the head",
    )
    metric: TaskMetric | None = Field(
        default=None,
        description="figure that both models are judged by; default: accuracy, for multi_label micro_f1, for "
        "token_classification entity_f1, for regression pearson, for generation exact_match, for embedding "
        "cosine_similarity, for language_modelling token_probability",
        json_schema_extra=EXPERT,
    )
    name: Name | None = Field(
        default=None, description="title of the task in results; default: the preset", json_schema_extra=EXPERT
    )
    max_words: int | None = Field(
        default=None, gt=0, description="cut every column of a row to its first words", json_schema_extra=EXPERT
    )
    special_tokens: bool | None = Field(
        default=None,
        description="whether the tokenizer adds its special tokens to a prompt, such as a beginning-of-sequence token; "
        "default: true",
        json_schema_extra=EXPERT,
    )
    label_prefix: str | None = Field(
        default=None,
        max_length=16,
        description="text before each label word, such as a space; default: by the family",
        json_schema_extra=EXPERT,
    )

    @property
    def title(self) -> str:
        """The name of the task in results: its own, or that of its preset."""
        return self.name or self.preset or OWN_TASK


class GeneralRows(TaskWording, DataSource):
    """Rows of what the model can do besides its task: plain texts, or rows of other tasks with their wording."""

    evaluation: DataSource | None = Field(
        default=None, description="rows that both models are evaluated on; default: a fifth of the general rows"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_plain_texts(cls, given: Any) -> Any:
        """Rows without any wording are plain texts."""
        worded = ("kind", "preset", "labels", "messages")
        if isinstance(given, dict) and all(given.get(name) is None for name in worded):
            return given | {"kind": TaskKind.language_modelling}
        return given

    @property
    def title(self) -> str:
        """The name of the rows in results."""
        return self.name or self.preset or GENERAL

    @property
    def task(self) -> "Task":
        """The rows as a task: its calibration rows are these, but for those that are set aside for the evaluation."""
        wording = {name: getattr(self, name) for name in TaskWording.model_fields} | {"name": self.title}
        source = DataSource.model_construct(**{name: getattr(self, name) for name in DataSource.model_fields})
        return Task.model_construct(**wording, calibration=source, evaluation=self.evaluation)


class Task(TaskWording):
    """A task that the slim model must still be able to do."""

    calibration: DataSource = Field(description="rows that the scores are computed on")
    evaluation: DataSource | None = Field(
        default=None,
        description="rows that both models are evaluated on; default: a stratified fifth of the calibration rows",
    )
    evaluations: dict[SetName, DataSource] = Field(
        default={},
        max_length=MAX_EVALUATIONS,
        description="name -> further evaluation rows with the same labels, for example of another domain",
        json_schema_extra=EXPERT,
    )
    general: GeneralRows | None = Field(
        default=None,
        description="rows of what the model can do besides the task, measured before and after; plain texts in the "
        "column `text` unless they have a wording",
        json_schema_extra=EXPERT,
    )
    texts: DataSource | None = Field(
        default=None,
        description="further texts whose tokens stay, in the column `text`: with the unit `vocabulary`, which else "
        "keeps the tokens of the calibration rows",
        json_schema_extra=EXPERT,
    )
    synthesis: Synthesis | None = Field(
        default=None,
        description="further calibration rows that a language model writes from the given ones",
        json_schema_extra=EXPERT,
    )
    supervision: Supervision = Field(
        default=Supervision.labels,
        description="`none`: the dense model's own answers to the calibration rows are used as labels",
        json_schema_extra=EXPERT,
    )
    confidence: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="leave out own answers with a lower probability; only with `supervision: none`",
        json_schema_extra=EXPERT,
    )

    @model_validator(mode="after")
    def _check_supervision(self) -> Self:
        if self.confidence is not None and self.supervision is not Supervision.none:
            raise ValueError("`confidence` applies to the model's own answers only: it needs `supervision: none`")
        without_labels = (TaskKind.embedding, TaskKind.language_modelling)
        if self.supervision is Supervision.none and self.kind in without_labels:
            raise ValueError(f"the texts of a task of the kind {self.kind} have no labels: leave `supervision` out")
        if self.confidence is not None and self.kind is TaskKind.regression:
            raise ValueError("the numbers of a regression task have no probability: leave `confidence` out")
        if self.supervision is Supervision.none and self.calibration.draw is Draw.balanced:
            raise ValueError("with `supervision: none` the calibration rows have no labels: `draw` must be `natural`")
        return self

    @model_validator(mode="after")
    def _check_draw(self) -> Self:
        if self.texts is not None and self.texts.draw is Draw.balanced:
            raise ValueError("`texts` have no labels: their `draw` must be `natural`")
        draws = [source.draw for source in (self.calibration, self.evaluation, *self.evaluations.values()) if source]
        if self.kind not in (None, TaskKind.classification) and Draw.balanced in draws:
            raise ValueError(f"the rows of a {self.kind} task have no single label: `draw` must be `natural`")
        return self


class ObservedTask(TaskWording):
    """A task that both models are evaluated on although the model is not slimmed for it."""

    evaluation: DataSource = Field(description="rows that both models are evaluated on")
