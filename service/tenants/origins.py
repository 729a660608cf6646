"""Which hosts and origins a request may come from."""

import re
from functools import lru_cache
from ipaddress import ip_address

from service.tenants.api_keys import ApiKeys


@lru_cache(maxsize=16)
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@lru_cache(maxsize=256)
def is_rebindable(host_header: str) -> bool:
    """Whether a stranger could own the name in a Host header and let it lead here (DNS rebinding): not an address and
    not a name without a dot. Without a key that is all that tells a web page elsewhere from the user's own client."""
    host = host_header.rpartition(":")[0] if re.search(r":\d*$", host_header) else host_header
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return "." in host.rstrip(".") and not host.endswith(".localhost")
    return False


def is_cross_site(origin: str | None, host_header: str) -> bool:
    """Whether a browser says that a page of another origin sends the request."""
    return origin is not None and origin.partition("://")[2] != host_header


def bound_host(host: str, keys: ApiKeys) -> str:
    """The address to listen on: `host`, or loopback as long as no key guards the door."""
    return host if is_loopback(host) or keys.exist() else "127.0.0.1"
