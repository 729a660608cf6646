"""Signed links: each is valid for one path of one tenant until it expires."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.contract.errors import Forbidden
from service.tenants.signed_links import SignedLink, SignedLinks

PATH = "/jobs/1/artifacts/model/config.json"


def test_signed_link_is_valid_in_every_process(redis: Redis) -> None:
    link = SignedLinks(redis).issue("search", PATH)
    SignedLinks(redis).check(link, PATH)


def test_signed_link_is_invalid_for_another_path(redis: Redis) -> None:
    signed_links = SignedLinks(redis)
    good = signed_links.issue("search", PATH)
    for bad, path in (
        (good, f"{PATH}x"),
        (SignedLink("other", good.expires, good.signature), PATH),
        (SignedLink("search", good.expires + 1, good.signature), PATH),
        (SignedLink("search", good.expires, good.signature[:-1] + "é"), PATH),
        (SignedLink("search", good.expires, ""), PATH),
        (SignedLink(f"search{len(PATH)}:", good.expires, good.signature), PATH[1:]),
    ):
        with pytest.raises(Forbidden, match="signature"):
            signed_links.check(bad, path)


def test_expired_link_is_refused(redis: Redis) -> None:
    signed_links = SignedLinks(redis)
    link = signed_links.issue("search", PATH, seconds=-1)
    assert link.expires < time.time()
    with pytest.raises(Forbidden, match="expired"):
        signed_links.check(link, PATH)


def test_link_of_another_deployment_is_refused(redis: Redis) -> None:
    link = SignedLinks(redis).issue("search", PATH)
    redis.flushall()
    with pytest.raises(Forbidden):
        SignedLinks(redis).check(link, PATH)


@given(tenant=st.text(), path=st.text(), expires=st.integers(), signature=st.text())
def test_made_up_links_are_refused(redis_server: str, tenant: str, path: str, expires: int, signature: str) -> None:
    with Redis.from_url(redis_server, decode_responses=True) as redis, pytest.raises(Forbidden):
        SignedLinks(redis).check(SignedLink(tenant, expires, signature), path)
