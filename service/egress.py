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
from urllib.parse import SplitResult, urlsplit

import httpx

from service.errors import UnsafeUrl

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
    """A vetted place to connect to: `url` as the user gave it, and the address that its host stands for."""

    url: str
    host: str
    port: int
    address: Address


@dataclass(frozen=True)
class Response:
    status: int
    retry_after: str | None


def parse_url(url: str, allowed_hosts: frozenset[str]) -> SplitResult:
    """The parts of a URL that may be called; `UnsafeUrl` otherwise. Resolves nothing.

    An allowed host (`name` or `name:port`) may be called in plain text, on any port and at any address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UnsafeUrl("the URL cannot be parsed", param="webhook.url") from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise UnsafeUrl("a webhook URL begins with https:// and a host", param="webhook.url")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise UnsafeUrl("a webhook URL has no user name, password or fragment", param="webhook.url")
    if is_allowed(parts, allowed_hosts):
        return parts
    if parts.scheme != "https" or port not in (None, PORTS["https"]):
        raise UnsafeUrl(
            "a webhook URL uses https and port 443; the deployment can allow more (SLIM_WEBHOOK_HOSTS)",
            param="webhook.url",
        )
    return parts


def is_allowed(parts: SplitResult, allowed_hosts: frozenset[str]) -> bool:
    host = parts.hostname or ""
    return bool({host, f"{host}:{parts.port or PORTS[parts.scheme]}"} & allowed_hosts)


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
    """Resolve the URL's host, once. `UnsafeUrl` where one of its addresses may not be called or it has none."""
    parts = parse_url(url, allowed_hosts)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnsafeUrl(f"the host {host!r} has no address", param="webhook.url") from error
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not is_allowed(parts, allowed_hosts) and not all(map(is_public, addresses)):
        raise UnsafeUrl(f"the host {host!r} has an address outside the public internet", param="webhook.url")
    return Destination(url, host, port, addresses[0])


async def post(
    url: str, body: bytes, headers: dict[str, str], *, allowed_hosts: frozenset[str], seconds: float
) -> Response:
    """POST to a URL that a user named, in at most `seconds` altogether. Nothing of the answer's body is read.

    Raises UnsafeUrl before anything is sent, TimeoutError, and httpx.HTTPError when the call does not come through.
    """
    async with asyncio.timeout(seconds):
        to = await resolve(url, allowed_hosts)
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(), trust_env=False, follow_redirects=False, timeout=seconds
        ) as client:
            request = client.build_request("POST", url, content=body, headers=headers)
            send_to(request, to)
            response = await client.send(request, stream=True)
            await response.aclose()
    return Response(response.status_code, response.headers.get("retry-after"))


def send_to(request: httpx.Request, to: Destination) -> None:
    """Let the request connect to the vetted address; its Host header and the certificate's name stay the host's."""
    request.url = request.url.copy_with(host=str(to.address))
    request.extensions["sni_hostname"] = to.host
