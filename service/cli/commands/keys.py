"""The commands `taskslim keys`: create, list and revoke the API keys in the Redis of a deployment."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from redis import Redis, RedisError
from rich.console import Console
from rich.table import Table

from service.contract.ids import DEFAULT_TENANT
from service.infrastructure.embedded_redis import redis_url
from service.infrastructure.redis_client import connect
from service.settings import Settings
from service.tenants.api_keys import ApiKey, ApiKeys, KeyScope

State = Annotated[
    Path | None, typer.Option(help="The --state directory of `taskslim serve`; not used if SLIM_REDIS_URL is set.")
]

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")
out = Console()
err = Console(stderr=True)


@app.command()
def create(
    tenant: Annotated[str, typer.Option(help="The tenant; tenants never see each other's data.")] = DEFAULT_TENANT,
    scope: Annotated[list[KeyScope] | None, typer.Option(help="A permission, repeatable; default: admin.")] = None,
    name: Annotated[str, typer.Option(help="A name, which `list` shows.")] = "",
    env: Annotated[str, typer.Option(help="Part of the key, such as live or test.")] = "live",
    days: Annotated[float | None, typer.Option(min=0, help="Days until the key expires; default: never.")] = None,
    state: State = None,
) -> None:
    """Create a key and print it. Only its digest is stored. Once there is a key, every request needs one."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days is not None else None
    with _keys(state) as keys:
        key, text = keys.create(tenant, scope or [KeyScope.admin], name=name, env=env, expires_at=expires_at)
    err.print(f"created key {key.id} of tenant {key.tenant}; store it now, it cannot be shown again")
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
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The id of a key, which `list` shows.")],
    state: State = None,
) -> None:
    """Revoke a key: requests with it are refused."""
    with _keys(state) as keys:
        keys.revoke(key_id)
    out.print(f"key {key_id} is revoked", highlight=False)


@contextmanager
def _keys(state: Path | None) -> Iterator[ApiKeys]:
    """The keys of a deployment. Starts the Redis of the directory `state` where it is not running."""
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
