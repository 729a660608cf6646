"""Score sets: list, look at, download, delete."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from service.api.dependencies import Downloader, Reader, ScoresDep, SettingsDep, StorageDep, Writer
from service.api.file_responses import WantedDep, file_responses, send
from service.api.links import JobLinks, LinksDep
from service.api.problems import problem_responses
from service.contract.resources import MeasuredScores, ScoreSet, ScoreSetPage, StoredFile
from service.storage.keys import score_key
from service.storage.score_sets import ScoreSets

NAME = "scores.safetensors"
Digest = Annotated[
    str, Path(pattern="^[0-9a-f]{64}$", description="the set's `digest`", examples=["0123456789abcdef" * 4])
]

router = APIRouter(tags=["scores"])


@router.get(
    "/scores", operation_id="listScores", summary="List score sets, newest first", responses=problem_responses()
)
def list_scores(
    caller: Reader,
    scores: ScoresDep,
    links: LinksDep,
    cursor: Annotated[
        str | None, Query(pattern="^[0-9]{1,16}$", description="`next_cursor` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="score sets on a page")] = 20,
) -> ScoreSetPage:
    """What the tenant's jobs have measured: scores of units, and the dense models' answers to evaluation rows.

    A job that depends on the same model, rows, wording and method takes them instead of measuring again.
    """
    sets, following = scores.page(caller.tenant, cursor=cursor, limit=limit)
    data = [_shown(measured, caller.tenant, scores, links) for measured in sets]
    return ScoreSetPage(data=data, next_cursor=following, has_more=following is not None)


@router.get(
    "/scores/{digest}", operation_id="getScores", summary="Look at a score set", responses=problem_responses(404)
)
def get_scores(digest: Digest, caller: Reader, scores: ScoresDep, links: LinksDep) -> ScoreSet:
    """What was scored, on what, and when it will be deleted. A job's result names the scores of its units."""
    return _shown(scores.get(caller.tenant, digest), caller.tenant, scores, links)


@router.get(
    "/scores/{digest}/safetensors",
    operation_id="downloadScores",
    summary="Download scores",
    response_class=Response,
    responses=file_responses(),
)
def download_scores(
    digest: Digest,
    caller: Downloader,
    scores: ScoresDep,
    storage: StorageDep,
    settings: SettingsDep,
    wanted: WantedDep,
) -> Response:
    """The scores as safetensors, or a redirect to a signed URL where the object store can sign one.

    Of units: a float32 tensor `{step}.{stack}.{layer}.{unit}` for each step and group. Of rows: `log_probability`
    (float64, rows x answers) and `answer` (int64, the right one). The header's metadata say the rest.
    """
    measured = scores.get(caller.tenant, digest)
    file = StoredFile(name=NAME, size=measured.size, sha256=measured.sha256)
    key = score_key(caller.tenant, digest, measured.sha256)
    return send(storage, key, file, wanted, redirect=settings.redirect_downloads)


@router.delete(
    "/scores/{digest}",
    operation_id="deleteScores",
    summary="Delete a score set",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="The scores are gone",
    responses=problem_responses(404),
)
def delete_scores(digest: Digest, caller: Writer, scores: ScoresDep) -> None:
    """Remove the scores. The next job that needs them measures them again; results that came of them stay."""
    scores.delete(caller.tenant, digest)


def _shown(measured: MeasuredScores, tenant: str, scores: ScoreSets, links: JobLinks) -> ScoreSet:
    expires_at = scores.expires_at(tenant, measured.digest)
    return ScoreSet(**vars(measured), expires_at=expires_at, url=links.scores(measured.digest))
