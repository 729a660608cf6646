"""The settings of a deployment. Each process reads them once from the environment and passes them on."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Most event streams and waits of all tenants in one API process. Each takes two file descriptors, for its client and
# for Redis, and by default a process has 1024.
STREAMS = 400
TOKENS_PER_BATCH = 4096


def default_state() -> Path:
    """The default directory for Redis' files, artifacts and caches."""
    return Path.home() / ".local" / "state" / "taskslim"


class Settings(BaseSettings):
    """Every field `name` is the variable `SLIM_NAME`; docs/operations.md has the table."""

    model_config = SettingsConfigDict(env_prefix="SLIM_", frozen=True, extra="ignore")

    redis_url: str = Field(default="", description="redis://, rediss:// or unix:// URL; empty: an embedded server")
    storage_url: str = Field(default="", description="file://, s3://, gs:// or az:// URL; empty: STATE/artifacts")
    state: Path = Field(
        default_factory=default_state, description="directory of the embedded Redis, artifacts and caches"
    )
    host: str = Field(default="127.0.0.1", description="address to listen on; without an API key loopback only")
    port: int = Field(default=8000, description="port to listen on")
    public_url: str = Field(default="", description="base URL of links in responses; empty: that of the request")

    api_key: SecretStr | None = Field(
        default=None,
        description="slim_<env>_<id>_<secret>: the first API key of a server, and the key of the client commands",
    )
    webhook_hosts: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(), description="comma-separated hosts or host:port that webhooks may reach at any address"
    )

    redirect_downloads: bool = Field(
        default=True,
        description="redirect downloads to a signed URL of the object store; false: the API streams them",
    )

    max_body_bytes: int = Field(default=16 * 2**20, gt=0, description="largest body of a request")
    max_dataset_bytes: int = Field(default=256 * 2**20, gt=0, description="largest uploaded data set")
    max_running_jobs: int = Field(
        default=8, gt=0, description="jobs of a tenant in the queue or running at the same time; the others wait"
    )
    max_streams: int = Field(
        default=100,
        gt=0,
        le=STREAMS,
        description="open event streams and waits of a tenant in one API process",
    )
    # The next four limits of a tenant hold for callers with an API key.
    max_queued_jobs: int = Field(default=1000, gt=0, description="queued jobs of a tenant")
    max_stored_bytes: int = Field(
        default=500 * 2**30,
        gt=0,
        description="artifacts, data sets, inline rows and score sets of a tenant; accepted jobs may exceed it",
    )
    max_requests: int = Field(default=600, gt=0, description="requests of a tenant in SLIM_WINDOW_SECONDS")
    window_seconds: int = Field(default=60, gt=0, description="window of the limit on requests")
    retention_days: float = Field(
        default=30, gt=0, description="days until finished jobs, data sets and score sets are deleted"
    )
    max_attempts: int = Field(
        default=3, gt=0, description="attempts that may be lost before the job fails with worker_lost"
    )
    lease_seconds: float = Field(default=20, gt=0, description="time without a heartbeat after which a job is requeued")
    heartbeat_seconds: float = Field(default=4, gt=0, description="time between the heartbeats of a running job")
    reconcile_seconds: float = Field(default=5, gt=0, description="time between two checks for jobs whose worker died")
    cancel_grace_seconds: float = Field(
        default=20,
        gt=0,
        description="time that an attempt has to end after a cancellation, SIGTERM or its deadline before it is killed",
    )

    device: str = Field(default="auto", description="auto, cpu or cuda; a worker uses one device")
    tokens_per_batch: int = Field(
        default=TOKENS_PER_BATCH,
        gt=0,
        description="padded tokens in one batch; also the most of one row, where that is 512 at least",
    )
    standby: bool = Field(
        default=True,
        description="a process of the worker waits for the next job with its imports done; false: it starts with a job",
    )
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="colon-separated directories that file:// may name; empty: all, and none with API keys"
    )
    allowed_uris: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="comma-separated prefixes, such as hf://owner/ or s3://models/, that callers with a key may name "
        "besides local directories; empty: all except the deployment's own storage",
    )

    output_uris: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="comma-separated prefixes, such as hf://owner/ or s3://slim/, that callers with a key may push "
        "models to; empty: none",
    )

    @field_validator("webhook_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return [host.strip().lower() for host in value.split(",") if host.strip()] if isinstance(value, str) else value

    @field_validator("allowed_uris", "output_uris", mode="before")
    @classmethod
    def _split_uris(cls, value: object) -> object:
        return [prefix.strip() for prefix in value.split(",") if prefix.strip()] if isinstance(value, str) else value

    @field_validator("local_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [root for root in value.split(":") if root] if isinstance(value, str) else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _empty_is_no_key(cls, value: object) -> object:
        return value or None

    @property
    def artifacts_url(self) -> str:
        """The URL of the object store: `storage_url`, or a directory in `state`."""
        return self.storage_url or (self.state / "artifacts").resolve().as_uri()
