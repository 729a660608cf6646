"""Webhooks: what was sent for a job, and the secret that signs it."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, status

from service.api.dependencies import Administrator, FoundRecord, SecretsDep, WebhooksDep, Writer
from service.api.middleware import StrictRoute
from service.api.openapi.examples import RECEIVERS
from service.api.problems import problem_responses
from service.contract.request import WebhookEvent
from service.contract.resources import DeliveryPage, WebhookMessage, WebhookSecret, WebhookUrl

router = APIRouter(tags=["webhooks"], route_class=StrictRoute)
# What the service sends, for the document alone: nobody calls these here.
sent = APIRouter(tags=["webhooks"])
MEANINGS = {
    WebhookEvent.job_running: "A worker has started the job",
    WebhookEvent.job_succeeded: "The job has succeeded",
    WebhookEvent.job_failed: "The job has failed",
    WebhookEvent.job_cancelled: "The job was cancelled",
}


def receive_news(
    message: WebhookMessage,
    webhook_id: Annotated[str, Header(description="the same on every attempt; tells repeats")],
    webhook_timestamp: Annotated[int, Header(description="of the attempt, Unix seconds; refuse old ones")],
    webhook_signature: Annotated[str, Header(description="`v1,<base64>`, one for each secret in force")],
) -> None:
    """Answer 2xx within 15 seconds. Anything else is tried again for three days.

    410 ends it for this URL, for a week or until `POST /webhooks/enable`.
    """


for event, meaning in MEANINGS.items():
    sent.add_api_route(
        event.value,
        receive_news,
        methods=["POST"],
        name=event.value,
        operation_id="receive" + "".join(part.capitalize() for part in event.value.split(".")),
        summary=meaning,
        status_code=status.HTTP_204_NO_CONTENT,
        response_description="Taken",
    )


@router.get(
    "/jobs/{job_id}/deliveries",
    operation_id="listDeliveries",
    summary="See what was sent to a job's webhook",
    responses=problem_responses(404, 409),
)
def list_deliveries(record: FoundRecord, webhooks: WebhooksDep) -> DeliveryPage:
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


@router.post(
    "/webhooks/enable",
    operation_id="enableWebhook",
    summary="Call a receiver again that was gone",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="News that comes from now on is sent",
    responses=problem_responses(413),
)
def enable_webhook(
    receiver: Annotated[WebhookUrl, Body(openapi_examples=RECEIVERS)], caller: Writer, webhooks: WebhooksDep
) -> None:
    """A URL that answered 410 Gone is left alone for a week; this ends it. For any other URL it does nothing."""
    webhooks.enable(caller.tenant, receiver.url)
