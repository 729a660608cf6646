"""Signed links: good for one path of one tenant until they expire, and for nothing else."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from service.contract.errors import Forbidden
from service.tenants.signed_links import Ticket, Tickets

PATH = "/jobs/1/artifacts/model/config.json"


def test_a_ticket_opens_its_path_in_every_process(redis: Redis) -> None:
    ticket = Tickets(redis).issue("search", PATH)
    Tickets(redis).check(ticket, PATH)


def test_a_ticket_opens_nothing_else(redis: Redis) -> None:
    tickets = Tickets(redis)
    good = tickets.issue("search", PATH)
    for bad, path in (
        (good, f"{PATH}x"),
        (Ticket("other", good.expires, good.signature), PATH),
        (Ticket("search", good.expires + 1, good.signature), PATH),
        (Ticket("search", good.expires, good.signature[:-1] + "é"), PATH),
        (Ticket("search", good.expires, ""), PATH),
        (Ticket(f"search{len(PATH)}:", good.expires, good.signature), PATH[1:]),
    ):
        with pytest.raises(Forbidden, match="signature"):
            tickets.check(bad, path)


def test_an_expired_ticket_is_refused(redis: Redis) -> None:
    tickets = Tickets(redis)
    ticket = tickets.issue("search", PATH, seconds=-1)
    assert ticket.expires < time.time()
    with pytest.raises(Forbidden, match="expired"):
        tickets.check(ticket, PATH)


def test_another_deployment_signs_otherwise(redis: Redis) -> None:
    ticket = Tickets(redis).issue("search", PATH)
    redis.flushall()
    with pytest.raises(Forbidden):
        Tickets(redis).check(ticket, PATH)


@given(tenant=st.text(), path=st.text(), expires=st.integers(), signature=st.text())
def test_no_query_that_a_stranger_makes_up_is_accepted_or_breaks_anything(
    redis_server: str, tenant: str, path: str, expires: int, signature: str
) -> None:
    with Redis.from_url(redis_server, decode_responses=True) as redis, pytest.raises(Forbidden):
        Tickets(redis).check(Ticket(tenant, expires, signature), path)
