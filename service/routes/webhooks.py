"""Webhooks: what was sent for a job, and the secret that signs it."""

from fastapi import APIRouter

from service.routes.dependencies import Administrator, FoundRecord, Reader, SecretsDep, WebhooksDep
from service.routes.problems import problem_responses
from service.schemas import DeliveryPage, WebhookSecret

router = APIRouter(tags=["webhooks"])


@router.get(
    "/jobs/{job_id}/deliveries",
    operation_id="listDeliveries",
    summary="See what was sent to a job's webhook",
    responses=problem_responses(404),
)
def list_deliveries(record: FoundRecord, caller: Reader, webhooks: WebhooksDep) -> DeliveryPage:
    """Every attempt to deliver news of the job, oldest first, with the receiver's answer and the time of the next."""
    return DeliveryPage(data=webhooks.deliveries(record.tenant, record.id))


@router.get(
    "/webhooks/secret",
    operation_id="getWebhookSecret",
    summary="Read the signing secret",
    responses=problem_responses(),
)
def get_secret(caller: Administrator, secrets: SecretsDep) -> WebhookSecret:
    """The secret that signs the tenant's webhooks, for a Standard Webhooks library at the receiver."""
    return WebhookSecret(secret=secrets.current(caller.tenant))


@router.post(
    "/webhooks/secret/rotate",
    operation_id="rotateWebhookSecret",
    summary="Make a new signing secret",
    responses=problem_responses(),
)
def rotate_secret(caller: Administrator, secrets: SecretsDep) -> WebhookSecret:
    """A new secret. For a day the old one signs beside it, so that receivers can change over."""
    return WebhookSecret(secret=secrets.rotate(caller.tenant))
