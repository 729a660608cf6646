"""httpx for requests to servers of the tests: a loaded machine may take longer than httpx' five seconds to answer."""

from functools import partial

import httpx

TIMEOUT_SECONDS = 60

get = partial(httpx.get, timeout=TIMEOUT_SECONDS)
post = partial(httpx.post, timeout=TIMEOUT_SECONDS)
stream = partial(httpx.stream, timeout=TIMEOUT_SECONDS)
Client = partial(httpx.Client, timeout=TIMEOUT_SECONDS)
