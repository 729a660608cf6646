"""Every Lua script of the service is one that Redis compiles."""

from pathlib import Path

import pytest
from redis import Redis

import service
from service.infrastructure.redis_scripts import load_script

ROOT = Path(service.__path__[0])
SCRIPTS = sorted(path for path in ROOT.glob("*/scripts/*.lua") if path.name != "preamble.lua")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_every_lua_file_is_a_script_that_redis_compiles(redis: Redis, path: Path) -> None:
    assert redis.script_load(load_script(redis, f"service.{path.parts[-3]}", path.stem).script)
