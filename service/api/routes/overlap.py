"""The route that compares the units that two tasks keep."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import Reader, ScoresDep
from service.api.problems import problem_responses
from service.contract.answers.resources import Overlap
from service.contract.fields import MAX_RATIO
from service.storage import unit_overlap

TWO_DIGESTS = "^[0-9a-f]{64},[0-9a-f]{64}$"

router = APIRouter(tags=["scores"])


@router.get(
    "/overlap",
    operation_id="getOverlap",
    summary="Compare the units that two tasks keep",
    responses=problem_responses(404),
)
def get_overlap(
    caller: Reader,
    sets: ScoresDep,
    scores: Annotated[
        str, Query(pattern=TWO_DIGESTS, description="digests of two score sets", examples=["0" * 64 + "," + "1" * 64])
    ],
    ratio: Annotated[
        float, Query(gt=0, le=MAX_RATIO, description="share of each group of units that each task removes")
    ] = 0.5,
) -> Overlap:
    """How many units two tasks both keep: in the whole model, for each kind of unit and for each layer.

    `by_chance` is the value for two random choices. Both score sets must be of the same model and units.
    """
    return unit_overlap.overlap(sets, caller.tenant, scores.split(","), ratio)
