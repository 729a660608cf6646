"""Loads the Lua scripts that run inside Redis, each as one step: no other command comes in between.

The script `NAME` of a package is its file `scripts/NAME.lua`. The functions that scripts share, such as Redis' clock,
are in `service/infrastructure/scripts/preamble.lua`, which is put before each script.
"""

from functools import cache
from importlib.resources import files

from redis import Redis
from redis.commands.core import Script

from service.infrastructure.counters import COUNTERS, SECONDS

CONSTANTS = f"local COUNTERS, BOUNDS = '{COUNTERS}', {{{', '.join(map(str, SECONDS))}}}\n"


def load_script(redis: Redis, package: str, name: str) -> Script:
    """The script as a function of `keys` and `args`. It is sent to Redis once; later calls send its digest."""
    return redis.register_script(script_source(package, name))


@cache
def script_source(package: str, name: str) -> str:
    """The text of a script with everything that it needs. Raises FileNotFoundError where there is none."""
    preamble = files("service.infrastructure").joinpath("scripts/preamble.lua").read_text()
    return CONSTANTS + preamble + files(package).joinpath(f"scripts/{name}.lua").read_text()
