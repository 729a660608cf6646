"""Checks of hosts and origins: which requests may come from a web page of another site."""

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
    """Whether the name in a Host header could belong to a stranger who lets it resolve to this server (DNS rebinding).

    True for every name with a dot that is not an address. On a server without keys, this alone tells a web page of
    another site from the user's own client.
    """
    host = host_header.rpartition(":")[0] if re.search(r":\d*$", host_header) else host_header
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return "." in host.rstrip(".") and not host.endswith(".localhost")
    return False


def is_cross_site(origin: str | None, host_header: str) -> bool:
    """Whether the Origin header says that a page of another site sends the request."""
    return origin is not None and origin.partition("://")[2] != host_header


def bound_host(host: str, keys: ApiKeys) -> str:
    """The address to listen on: `host`, or loopback as long as there is no API key."""
    return host if is_loopback(host) or keys.exist() else "127.0.0.1"
