"""Calls to addresses that a user names: only to the public internet, unless the deployment allows a host.

A name is resolved once. Every address that it has must be allowed, and the connection goes to one of those very
addresses, so a second answer of the name server cannot lead elsewhere. TLS still checks the certificate against the
name. Redirects are not followed, and proxies from the environment are not used, because they would resolve again.
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
# IPv6 prefixes whose last four bytes are an IPv4 address that a translator on the way may connect to.
TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("::/96"))
# What `is_global` lets through although a server of the deployment or of its cloud may answer there: protocol
# assignments, 6to4 relays, Azure's metadata address, local-use translation, site-local addresses.
NEVER = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "64:ff9b:1::/48", "fec0::/10", "2001::/23"))
)


@dataclass(frozen=True)
class Destination:
    """A vetted place to connect to: the URL that the user named, and the address that its host stands for."""

    url: httpx.URL
    address: Address


@dataclass(frozen=True)
class Response:
    status: int
    retry_after: str | None


def parse_url(url: str, allowed_hosts: frozenset[str]) -> httpx.URL:
    """A URL that may be called as far as it can be told without resolving its host; `UnsafeUrl` otherwise.

    An allowed host (`name` or `name:port`) may be called in plain text, on any port and at any address.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host  # decoded only now, which a name that merely looks encoded ("xn--") does not survive
    except (httpx.InvalidURL, UnicodeError) as error:
        raise UnsafeUrl("the URL cannot be parsed", param="webhook.url") from error
    if parsed.scheme not in PORTS or not host:
        raise UnsafeUrl("a webhook URL begins with https:// and a host", param="webhook.url")
    if parsed.userinfo or parsed.fragment:
        raise UnsafeUrl("a webhook URL has no user name, password or fragment", param="webhook.url")
    if not is_allowed(parsed, allowed_hosts) and (parsed.scheme != "https" or port_of(parsed) != PORTS["https"]):
        raise UnsafeUrl(
            "a webhook URL uses https and port 443; the deployment can allow more (SLIM_WEBHOOK_HOSTS)",
            param="webhook.url",
        )
    if not is_allowed(parsed, allowed_hosts) and (address := literal(host)) and not is_public(address):
        raise UnsafeUrl(f"{host} is outside the public internet", param="webhook.url")
    return parsed


def literal(host: str) -> Address | None:
    """The address that a URL names in place of a host."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def port_of(url: httpx.URL) -> int:
    return url.port or PORTS[url.scheme]


def is_allowed(url: httpx.URL, allowed_hosts: frozenset[str]) -> bool:
    return not allowed_hosts.isdisjoint({url.host, f"{url.host}:{port_of(url)}"})


def is_public(address: Address) -> bool:
    """Whether the address, and any IPv4 address that is wrapped in it, belongs to the public internet."""
    inner = unwrapped(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in NEVER):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def unwrapped(address: Address) -> IPv4Address | None:
    """The IPv4 address inside an IPv6 one: mapped, translated, 6to4 or Teredo."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


async def resolve(url: str, allowed_hosts: frozenset[str]) -> Destination:
    """Resolve the URL's host, once. `UnsafeUrl` where one of its addresses may not be called, OSError without any."""
    parsed = parse_url(url, allowed_hosts)
    host = parsed.raw_host.decode("ascii")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port_of(parsed), type=socket.SOCK_STREAM)
    except UnicodeError as error:
        raise UnsafeUrl(f"{host!r} is no host's name", param="webhook.url") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not is_allowed(parsed, allowed_hosts) and not all(map(is_public, addresses)):
        raise UnsafeUrl(f"the host {host!r} has an address outside the public internet", param="webhook.url")
    return Destination(parsed, addresses[0])


async def post(
    url: str, body: bytes, headers: dict[str, str], *, allowed_hosts: frozenset[str], seconds: float
) -> Response:
    """POST to a URL that a user named, in at most `seconds` altogether. Nothing of the answer's body is read.

    Raises UnsafeUrl before anything is sent; OSError (TimeoutError too) or httpx.HTTPError when the call fails.
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
    """Let the request connect to the vetted address; its Host header and the certificate's name stay the host's."""
    request.url = to.url.copy_with(host=str(to.address))
    request.extensions["sni_hostname"] = to.url.raw_host.decode("ascii")
