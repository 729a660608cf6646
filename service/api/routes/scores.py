"""Routes that list, read, download and delete score sets."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, status

from service.api.dependencies import Downloader, Reader, ScoresDep, SettingsDep, StorageDep, Writer
from service.api.file_responses import DownloadHeadersDep, file_responses, send
from service.api.links import JobLinks, LinksDep
from service.api.problems import problem_responses
from service.contract.answers.resources import MeasuredScores, ScoreSet, ScoreSetPage, StoredFile
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
        str | None, Query(pattern="^[0-9]{1,16}$", description="`next_cursor` of the previous page")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="number of score sets on a page")] = 20,
) -> ScoreSetPage:
    """A page of the tenant's score sets: scores of units, and the dense models' answers to evaluation rows.

    A job with the same model, rows, task and method uses them instead of computing them again.
    """
    sets, following = scores.page(caller.tenant, cursor=cursor, limit=limit)
    data = [_shown(measured, caller.tenant, scores, links) for measured in sets]
    return ScoreSetPage(data=data, next_cursor=following, has_more=following is not None)


@router.get("/scores/{digest}", operation_id="getScores", summary="Read a score set", responses=problem_responses(404))
def get_scores(digest: Digest, caller: Reader, scores: ScoresDep, links: LinksDep) -> ScoreSet:
    """The inputs of a score set and the time of its deletion. The result of a job has the digest of its unit scores."""
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
    wanted: DownloadHeadersDep,
) -> Response:
    """The scores as a safetensors file, or a redirect to a signed URL where the object store supports them.

    The kind `units` has a float32 tensor `{step}.{stack}.{layer}.{unit}` for each step and group of units. The kind
    `rows` has `log_probability` (float64, rows x answers) and `answer` (int64, the index of the right answer). The
    metadata in the header describe the set.
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
    response_description="The scores are deleted",
    responses=problem_responses(404),
)
def delete_scores(digest: Digest, caller: Writer, scores: ScoresDep) -> None:
    """Delete the scores. The next job that needs them computes them again; results of earlier jobs stay."""
    scores.delete(caller.tenant, digest)


def _shown(measured: MeasuredScores, tenant: str, scores: ScoreSets, links: JobLinks) -> ScoreSet:
    expires_at = scores.expires_at(tenant, measured.digest)
    return ScoreSet(**vars(measured), expires_at=expires_at, url=links.scores(measured.digest))
