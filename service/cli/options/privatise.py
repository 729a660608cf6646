"""The options of `taskslim privatise`."""

from pathlib import Path
from typing import Annotated

import typer

from service.privacy.mechanisms import MechanismName

RowsFile = Annotated[str, typer.Argument(metavar="ROWS", help="A file of rows on this machine.")]
TokenModel = Annotated[
    str,
    typer.Option(
        "--model", metavar="MODEL", help="Model whose tokens are used: a directory, or a URI such as hf://owner/name."
    ),
]
Epsilon = Annotated[float, typer.Option("--epsilon", metavar="NUMBER", help="Privacy budget of each token.")]
LabelEpsilon = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="Privacy budget of each label; needed where the rows have labels."),
]
TextColumns = Annotated[
    str | None,
    typer.Option(metavar="COLUMN,...", help="Columns with texts, in place of --task."),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File to write; default: the name of ROWS with the ending .private.jsonl."),
]
Mechanism = Annotated[MechanismName, typer.Option(help="How tokens are replaced.")]
RareRows = Annotated[
    int, typer.Option(min=1, metavar="K", help="Count the tokens that fewer than K rows have and that stayed.")
]
Seed = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Repeatable random numbers, for tests: they protect nothing.")
]
