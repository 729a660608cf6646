"""`taskslim keys`: make, list and revoke the API keys of a deployment, straight in its Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from redis import Redis, RedisError
from rich.console import Console
from rich.table import Table

from service.infrastructure.embedded_redis import redis_url
from service.infrastructure.redis_client import connect
from service.settings import Settings
from service.tenants.api_keys import DEFAULT_TENANT, ApiKey, ApiKeys, KeyScope

State = Annotated[
    Path | None, typer.Option(help="The directory of `taskslim serve`, where there is no SLIM_REDIS_URL.")
]

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
out = Console()
err = Console(stderr=True)


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="Who uses it; tenants never see each other's things.")] = DEFAULT_TENANT,
    scope: Annotated[list[KeyScope] | None, typer.Option(help="What it may do; repeat it. Without one: admin.")] = None,
    name: Annotated[str, typer.Option(help="What it is for, for `list`.")] = "",
    env: Annotated[str, typer.Option(help="Part of the key's text, such as live or test.")] = "live",
    days: Annotated[float | None, typer.Option(min=0, help="Until it expires; without it: never.")] = None,
    state: State = None,
) -> None:
    """Make a key and print it, this once; only its digest is stored. From now on every request needs a key."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    with _keys(state) as keys:
        key, text = keys.create(tenant, scope or [KeyScope.admin], name=name, env=env, expires_at=expires_at)
    err.print(f"key {key.id} of tenant {key.tenant}; it is shown only now")
    out.print(text, highlight=False, soft_wrap=True)


@app.command("list")
def list_keys(state: State = None) -> None:
    """List all keys, without their secrets."""
    table = Table("id", "tenant", "name", "scopes", "status", "created", "last used", box=None)
    with _keys(state) as keys:
        for key in keys.list():
            times = (_moment(key.created_at), _moment(key.last_used_at))
            table.add_row(key.id, key.tenant, key.name, " ".join(key.scopes), _status(key), *times)
    out.print(table)


@app.command()
def revoke(key_id: str, state: State = None) -> None:
    """Refuse a key from now on."""
    with _keys(state) as keys:
        keys.revoke(key_id)
    out.print(f"key {key_id} is revoked", highlight=False)


@contextmanager
def _keys(state: Path | None) -> Iterator[ApiKeys]:
    """The keys of the deployment; of the one in `state` also while nobody serves it."""
    settings = Settings(state=state.resolve()) if state else Settings()
    running = f"unix://{settings.state / 'redis' / 'redis.sock'}"
    if not settings.redis_url and _answers(running):
        settings = settings.model_copy(update={"redis_url": running})
    with redis_url(settings) as url, connect(url) as redis:
        yield ApiKeys(redis)


def _answers(url: str) -> bool:
    try:
        with Redis.from_url(url) as redis:
            return bool(redis.ping())
    except RedisError:
        return False


def _status(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "valid" if key.is_valid(datetime.now(UTC)) else "expired"


def _moment(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%MZ}" if moment else "never"
