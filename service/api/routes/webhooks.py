"""Routes for the deliveries of webhook messages and the secret that signs them."""

from typing import Annotated

from fastapi import APIRouter, Body, Header, status

from service.api.dependencies import Administrator, ReadableRecord, SecretsDep, WebhooksDep, Writer
from service.api.middleware import StrictRoute
from service.api.openapi.examples import RECEIVERS
from service.api.problems import problem_responses
from service.contract.answers.resources import DeliveryPage, WebhookMessage, WebhookSecret, WebhookUrl
from service.contract.request.job_request import WebhookEvent

router = APIRouter(tags=["webhooks"], route_class=StrictRoute)
# The messages that the service sends, for the OpenAPI document only: the app does not serve these routes.
sent = APIRouter(tags=["webhooks"])
MEANINGS = {
    WebhookEvent.job_running: "A worker has started the job",
    WebhookEvent.job_succeeded: "The job has succeeded",
    WebhookEvent.job_failed: "The job has failed",
    WebhookEvent.job_cancelled: "The job was cancelled",
}


def receive_message(
    message: WebhookMessage,
    webhook_id: Annotated[str, Header(description="the same for every attempt, so that repeats can be ignored")],
    webhook_timestamp: Annotated[int, Header(description="Unix time of the attempt in seconds; refuse old ones")],
    webhook_signature: Annotated[str, Header(description="`v1,<base64>`, one for each valid secret")],
) -> None:
    """Respond with 2xx within 15 seconds; after any other response the message is sent again, for up to three days.

    After 410 nothing is sent to this URL for a week, or until `POST /webhooks/enable`.
    """


for event, meaning in MEANINGS.items():
    sent.add_api_route(
        event.value,
        receive_message,
        methods=["POST"],
        name=event.value,
        operation_id="receive" + "".join(part.capitalize() for part in event.value.split(".")),
        summary=meaning,
        status_code=status.HTTP_204_NO_CONTENT,
        response_description="The message is accepted",
    )


@router.get(
    "/jobs/{job_id}/deliveries",
    operation_id="listDeliveries",
    summary="List the deliveries of a job's webhook messages",
    responses=problem_responses(404, 409),
)
def list_deliveries(record: ReadableRecord, webhooks: WebhooksDep) -> DeliveryPage:
    """All attempts to deliver messages about the job, oldest first, each with the receiver's response."""
    return DeliveryPage(data=webhooks.deliveries(record.tenant, record.id))


@router.get(
    "/webhooks/secret",
    operation_id="getWebhookSecret",
    summary="Read the signing secret",
    responses=problem_responses(),
)
def get_secret(caller: Administrator, secrets: SecretsDep) -> WebhookSecret:
    """The secret that signs the tenant's webhook messages, in the form of Standard Webhooks libraries."""
    return WebhookSecret(secret=secrets.current(caller.tenant))


@router.post(
    "/webhooks/secret/rotate",
    operation_id="rotateWebhookSecret",
    summary="Replace the signing secret",
    responses=problem_responses(),
)
def rotate_secret(caller: Administrator, secrets: SecretsDep) -> WebhookSecret:
    """Make a new secret. For a day messages are signed with the old one too, so that receivers can change over."""
    return WebhookSecret(secret=secrets.rotate(caller.tenant))


@router.post(
    "/webhooks/enable",
    operation_id="enableWebhook",
    summary="Enable a disabled receiver",
    status_code=status.HTTP_204_NO_CONTENT,
    response_description="Messages are sent to the URL again",
    responses=problem_responses(413),
)
def enable_webhook(
    receiver: Annotated[WebhookUrl, Body(openapi_examples=RECEIVERS)], caller: Writer, webhooks: WebhooksDep
) -> None:
    """Send messages again to a URL that responded with 410 Gone. For any other URL this does nothing."""
    webhooks.enable(caller.tenant, receiver.url)
