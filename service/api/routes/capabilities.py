"""The route that describes what the deployment supports."""

from fastapi import APIRouter

from service.api.dependencies import CallerDep, SettingsDep
from service.api.problems import problem_responses
from service.contract.answers.catalog import Capabilities, Limits
from service.contract.criteria import Criterion
from service.contract.fields import MAX_RATIO, MAX_ROWS
from service.contract.options import Repair, Unit
from service.contract.request.presets import PRESETS
from service.infrastructure.version import package_version
from service.models.families.table import FAMILIES

router = APIRouter(tags=["catalog"])


@router.get(
    "/capabilities",
    operation_id="getCapabilities",
    summary="List families, units, criteria, presets and limits",
    responses=problem_responses(),
)
def get_capabilities(caller: CallerDep, settings: SettingsDep) -> Capabilities:
    """The values that a request may use, and the limits of the deployment."""
    return Capabilities(
        version=package_version(),
        families=[family.described for family in FAMILIES.values()],
        units=list(Unit),
        criteria=list(Criterion),
        repairs=list(Repair),
        presets=list(PRESETS.values()),
        limits=Limits(max_body_bytes=settings.max_body_bytes, max_ratio=MAX_RATIO, max_rows=MAX_ROWS),
    )
