"""HTTP requests to URLs that users name: only to the public internet and to hosts that the deployment allows.

A host is resolved once. Each of its addresses must be allowed, and the connection goes to one of these addresses, so a
second response of the name server cannot lead elsewhere. TLS checks the certificate against the host's name. Redirects
are not followed and proxies of the environment are not used, because they would resolve the host again.
"""

import asyncio
import socket
import ssl
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

from service.contract.errors import UnsafeUrl

Address = IPv4Address | IPv6Address

PORTS = {"http": 80, "https": 443}
# IPv6 prefixes before an IPv4 address, to which a translator in the network may connect.
TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# Addresses that `is_global` takes for public, although a server of the deployment or its cloud may be there: protocol
# assignments, 6to4 relays, Azure's metadata address, local-use translation, site-local addresses.
NEVER = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "64:ff9b:1::/48", "fec0::/10", "2001::/23"))
)


@dataclass(frozen=True)
class Destination:
    """A URL whose host was resolved and allowed, and the address to connect to."""

    url: httpx.URL
    address: Address


@dataclass(frozen=True)
class Response:
    """The status of a response, and its `Retry-After` header."""

    status: int
    retry_after: str | None


def parse_url(url: str, allowed_hosts: frozenset[str]) -> httpx.URL:
    """Parse a URL and check all but the addresses of its host. Raises UnsafeUrl.

    An allowed host (`name` or `name:port`) may be called without TLS, on any port and at any address.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # decodes the name, which fails for a wrong "xn--" name
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UnsafeUrl("the URL cannot be parsed", param="webhook.url") from error
    if parsed.scheme not in PORTS or not host:
        raise UnsafeUrl("a webhook URL must begin with https:// and a host", param="webhook.url")
    if parsed.userinfo or parsed.fragment:
        raise UnsafeUrl("a webhook URL must have no user name, password or fragment", param="webhook.url")
    if not is_allowed(parsed, allowed_hosts) and (parsed.scheme != "https" or port_of(parsed) != PORTS["https"]):
        raise UnsafeUrl(
            "a webhook URL must use https and port 443, unless SLIM_WEBHOOK_HOSTS of the deployment names its host",
            param="webhook.url",
        )
    if not is_allowed(parsed, allowed_hosts) and (address := literal(host)) and not is_public(address):
        raise UnsafeUrl(f"{host} is not a public address; send the URL of a public host", param="webhook.url")
    return parsed


def literal(host: str) -> Address | None:
    """The address of a URL that names an address in place of a host."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def port_of(url: httpx.URL) -> int:
    """The port of a URL, by default that of its scheme."""
    return url.port or PORTS[url.scheme]


def is_allowed(url: httpx.URL, allowed_hosts: frozenset[str]) -> bool:
    """Whether the deployment allows the host of the URL."""
    return not allowed_hosts.isdisjoint({url.host, f"{url.host}:{port_of(url)}"})


def is_public(address: Address) -> bool:
    """Whether the address, and an IPv4 address within it, belongs to the public internet."""
    inner = unwrapped(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in NEVER):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def unwrapped(address: Address) -> IPv4Address | None:
    """The IPv4 address within an IPv6 address: mapped, translated, 6to4 or Teredo."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def resolve(url: str, allowed_hosts: frozenset[str]) -> Destination:
    """Resolve the URL's host. Raises UnsafeUrl where one of its addresses is not allowed, OSError where it has none."""
    parsed = parse_url(url, allowed_hosts)
    host = parsed.raw_host.decode("ascii")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port_of(parsed), type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise UnsafeUrl(f"{host!r} is not a valid host name", param="webhook.url") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not is_allowed(parsed, allowed_hosts) and not all(map(is_public, addresses)):
        raise UnsafeUrl(f"the host {host!r} has an address outside the public internet", param="webhook.url")
    return Destination(parsed, addresses[0])


async def post(
    url: str, body: bytes, headers: dict[str, str], *, allowed_hosts: frozenset[str], seconds: float
) -> Response:
    """POST to a URL that a user named, in at most `seconds`. The response's body is not read.

    Raises UnsafeUrl before anything is sent, OSError (with TimeoutError) or httpx.HTTPError where the request fails.
    """
    async with asyncio.timeout(seconds):
        to = await resolve(url, allowed_hosts)
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(), trust_env=False, follow_redirects=False, timeout=seconds
        ) as client:
            request = client.build_request("POST", to.url, content=body, headers=headers)
            send_to(request, to)
            response = await client.send(request, stream=True)
            await response.aclose()
    return Response(response.status_code, response.headers.get("retry-after"))


def send_to(request: httpx.Request, to: Destination) -> None:
    """Make the request connect to the resolved address; its Host header and the certificate keep the host's name."""
    request.url = to.url.copy_with(host=str(to.address))
    request.extensions["sni_hostname"] = to.url.raw_host.decode("ascii")
