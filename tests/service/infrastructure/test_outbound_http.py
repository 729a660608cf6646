"""Requests to URLs of users: they reach only the public internet and allowed hosts."""

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.errors import UnsafeUrl
from service.infrastructure.outbound_http import Destination, is_public, parse_url, post, resolve, send_to
from tests.support.webhook_receiver import receiving

NOBODY: frozenset[str] = frozenset()
PRIVATE = (
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",  # carrier-grade NAT
    "100.100.100.200",  # metadata
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",  # metadata
    "169.254.169.254",  # metadata
    "172.16.0.1",
    "192.0.0.192",  # metadata
    "192.168.1.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
    "2001:db8::1",
    "2002:7f00:1::",  # 6to4
    "fc00::1",
    "fd00:ec2::254",  # metadata
    "fe80::1",
    "fec0::1",
    "ff02::1",
)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_not_called(address: str) -> None:
    assert not is_public(ip_address(address))
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(UnsafeUrl):
        asyncio.run(resolve(f"https://{host}/hook", NOBODY))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_address_is_called(address: str) -> None:
    assert is_public(ip_address(address))


@given(st.ip_addresses(v=4))
def test_ipv4_address_within_ipv6_is_checked(address: IPv4Address) -> None:
    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert is_public(IPv6Address(int(IPv6Address(prefix)) + int(address))) == is_public(address)


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "2130706433", "017700000001", "127.1"])
def test_other_spellings_of_loopback_are_not_called(host: str) -> None:
    with pytest.raises(UnsafeUrl):
        asyncio.run(resolve(f"https://{host}/hook", NOBODY))


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://example.com:6379/hook",
        "https://user:secret@example.com/hook",
        "https://example.com/hook#part",
        "https:///hook",
        "https://xn--/hook",
        "https://xn--a/hook",
        "https://xn--a.example/hook",
        "https://example.com:99999/hook",
        "https://[::1/hook",
        "https://169.254.169.254/latest/meta-data/",
        "https://[fd00:ec2::254]/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://example.com",
        "example.com/hook",
    ],
)
def test_forbidden_url_is_refused_without_resolving(url: str) -> None:
    with pytest.raises(UnsafeUrl):
        parse_url(url, NOBODY)


def test_allowed_host_may_be_private_and_without_tls() -> None:
    allowed = frozenset({"ci.internal", "127.0.0.1:9000"})
    parse_url("http://ci.internal:8080/hook", allowed)
    parse_url("http://127.0.0.1:9000/hook", allowed)
    with pytest.raises(UnsafeUrl):
        parse_url("http://127.0.0.1:9001/hook", allowed)


def test_host_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "169.254.169.254")]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with pytest.raises(UnsafeUrl):
        asyncio.run(resolve("https://rebinding.example/hook", NOBODY))


def test_host_is_resolved_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = socket.getaddrinfo, []

    def answer(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        asked.append(host)
        return real("127.0.0.1" if host == "hooks.example" else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with receiving() as receiver:
        url, host = f"http://hooks.example:{receiver.port}/hook", f"hooks.example:{receiver.port}"
        response = asyncio.run(post(url, b"x", {}, allowed_hosts=frozenset({host}), seconds=10))
    assert response.status == 200
    assert [name for name in asked if name != "127.0.0.1"] == ["hooks.example"]
    assert [(call.headers["host"], call.body) for call in receiver.calls] == [(host, b"x")]


def test_certificate_is_checked_against_the_host() -> None:
    request = httpx.Request("POST", "https://hooks.example/hook")
    send_to(request, Destination(request.url, ip_address("8.8.8.8")))
    assert request.url.host == "8.8.8.8"
    assert request.headers["host"] == "hooks.example"
    assert request.extensions["sni_hostname"] == "hooks.example"


def test_redirect_is_not_followed() -> None:
    with receiving() as elsewhere, receiving((302, {"location": elsewhere.url})) as receiver:
        response = asyncio.run(post(receiver.url, b"x", {}, allowed_hosts=receiver.allowed, seconds=10))
    assert response.status == 302
    assert len(receiver.calls) == 1
    assert not elsewhere.calls


def test_silent_receiver_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        allowed = frozenset({f"127.0.0.1:{port}"})
        with pytest.raises(TimeoutError):
            asyncio.run(post(f"http://127.0.0.1:{port}/", b"x", {}, allowed_hosts=allowed, seconds=0.2))
