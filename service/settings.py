"""What a deployment sets, read from the environment once by each process and passed down."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

# Event streams and waits of all tenants in one API process. Each takes two file descriptors, its client's and Redis',
# and a process has 1024 where nobody gave it more.
STREAMS = 400


def default_state() -> Path:
    """Where `taskslim serve` keeps Redis' files, artifacts and caches when nobody says otherwise."""
    return Path.home() / ".local" / "state" / "taskslim"


class Settings(BaseSettings):
    """Every field `name` is the variable `SLIM_NAME`; docs/operations.md has the table."""

    model_config = SettingsConfigDict(env_prefix="SLIM_", frozen=True, extra="ignore")

    redis_url: str = Field(default="", description="redis:// or unix:// URL; empty starts an embedded server")
    storage_url: str = Field(default="", description="file://, s3://, gs:// or az://; empty is STATE/artifacts")
    state: Path = Field(default_factory=default_state, description="embedded server, artifacts and caches lie here")
    host: str = "127.0.0.1"
    port: int = 8000
    public_url: str = Field(default="", description="base of the links that the API gives; empty takes the request's")

    api_key: SecretStr | None = Field(
        default=None, description="slim_<env>_<id>_<secret>: the first key of a server, the key of the client commands"
    )
    webhook_hosts: Annotated[frozenset[str], NoDecode] = Field(
        default=frozenset(), description="comma-separated hosts, or host:port, that webhooks may reach at any address"
    )

    redirect_downloads: bool = Field(
        default=True,
        description="send downloads to a signed URL of the object store; false where clients cannot reach it",
    )

    max_body_bytes: int = Field(default=16 * 2**20, gt=0)
    max_dataset_bytes: int = Field(default=256 * 2**20, gt=0, description="of an uploaded data set")
    max_running_jobs: int = Field(
        default=8, gt=0, description="of one tenant, handed to workers at the same time; the rest waits"
    )
    max_streams: int = Field(
        default=100,
        gt=0,
        le=STREAMS,
        description="of one tenant, event streams and waits that are open at the same time in one API process",
    )
    # The next four are limits of one tenant; they hold for callers with a key.
    max_queued_jobs: int = Field(default=1000, gt=0)
    max_stored_bytes: int = Field(
        default=500 * 2**30,
        gt=0,
        description="artifacts, data sets, inline rows, score sets; a job that was let in may pass it by its artifacts",
    )
    max_requests: int = Field(default=600, gt=0, description="in a window of SLIM_WINDOW_SECONDS")
    window_seconds: int = Field(default=60, gt=0)
    retention_days: float = Field(
        default=30, gt=0, description="until finished jobs, data sets and score sets are deleted"
    )
    max_attempts: int = Field(default=3, gt=0, description="attempts of a job before it fails with worker_lost")
    lease_seconds: float = Field(default=20, gt=0, description="after this silence of its worker a job is queued again")
    heartbeat_seconds: float = Field(default=4, gt=0)
    reconcile_seconds: float = Field(default=5, gt=0)
    cancel_grace_seconds: float = Field(default=20, gt=0, description="until a cancelled job's process is killed")

    device: str = Field(default="auto", description="auto, cpu or cuda; a worker uses one device")
    tokens_per_batch: int = Field(default=4096, gt=0, description="padded tokens in one batch of a model pass")
    local_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="colon-separated directories that file:// may name; empty: all, with keys none"
    )
    allowed_uris: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="comma-separated prefixes, such as hf://owner/ or s3://models/, that callers with a key may name "
        "beside local directories; empty: all but the deployment's own storage",
    )

    @field_validator("webhook_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return [part.strip().lower() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowed_uris", mode="before")
    @classmethod
    def _split_uris(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("local_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return [part for part in value.split(":") if part] if isinstance(value, str) else value

    @field_validator("api_key", mode="before")
    @classmethod
    def _empty_is_no_key(cls, value: object) -> object:
        return value or None

    @property
    def artifacts_url(self) -> str:
        """The storage prefix in force."""
        return self.storage_url or (self.state / "artifacts").resolve().as_uri()
