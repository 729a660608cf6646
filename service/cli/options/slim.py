"""The options of `taskslim slim`."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.short_request import DEFAULT_RATIO
from service.contract.fields import MAX_RATIO
from service.contract.options import Precision, TaskKind
from service.contract.request.presets import PRESETS
from service.contract.request.recovery import RecoveryMethod


def _presets(typed: str) -> list[str]:
    """The presets that complete what was typed in a shell."""
    return [name for name in PRESETS if name.startswith(typed)]


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A directory or GGUF file, or a URI such as hf://owner/name.")
]
RowsFile = Annotated[str, typer.Option(metavar="FILE", help="Rows with right answers: a file, or a URI.")]
TaskWords = Annotated[
    str | None,
    typer.Option(
        metavar="PRESET|TEMPLATE",
        autocompletion=_presets,
        help=f"A preset ({', '.join(PRESETS)}), or a template such as 'Review: {{text}}\\nSentiment:'.",
    ),
]
EvaluationFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Evaluation rows; default: a fifth of --rows, which is set aside for it."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Use N of --rows, drawn with a fixed seed; default: all.")
]
Labels = Annotated[
    str | None,
    typer.Option(metavar="LABEL=WORD,...", help="Answer word of each label in the rows; default: the preset's."),
]
TargetColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with the texts that the model writes, in place of labels."),
]
Kind = Annotated[
    TaskKind | None,
    typer.Option(help="What is answered; default: one of --labels, or the texts of --target."),
]
MessagesColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with conversations, in place of --task."),
]
RemovedShare = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help=f"Remove this share of the feed-forward parameters, at most {MAX_RATIO}; default: {DEFAULT_RATIO}.",
    ),
]
KeptShare = Annotated[
    float | None,
    typer.Option(metavar="SHARE", help="Find the smallest model that keeps this share of the metric."),
]
Recover = Annotated[
    RecoveryMethod | None,
    typer.Option(
        metavar="METHOD",
        help="Train the slim model for up to five minutes: lora, on the right answers; distillation, towards the dense "
        "model.",
    ),
]
GeneralFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Plain texts of what the model can do besides the task: both models are measured on them."
    ),
]
Quantise = Annotated[
    list[Precision] | None,
    typer.Option(
        metavar="PRECISION",
        help=f"Also store a quantised copy: {', '.join(Precision)}; may be given several times.",
    ),
]
Title = Annotated[
    str | None, typer.Option(metavar="TITLE", help="Name of the task in the result; default: the preset.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Wait until it ends; exit with 1 unless it succeeds.")]
Directory = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Wait as --watch does, then write the files of the job here.")
]
PrintRequest = Annotated[
    bool, typer.Option("--print-request", help="Upload and plan, then print the request and submit no job.")
]
