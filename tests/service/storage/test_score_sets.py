"""Stored scores: whole or not at all, one writer's or none's, and never of another tenant."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from redis import Redis
from ulid import ULID

from service.contract.errors import NotFound
from service.infrastructure.redis_keys import EXPIRIES
from service.storage.keys import score_key, score_prefix
from service.storage.object_store import Storage
from service.storage.score_sets import ScoreSets
from service.tenants.storage_quota import StoredBytes
from tests.support.score_sets import digest_of, measured, safetensors

DIGEST = digest_of("scores")
FILE = safetensors()
LATER = safetensors(note="of a second writer")


@pytest.fixture
def local(storage: Storage) -> Storage:
    return storage


@pytest.fixture
def remote(request: pytest.FixtureRequest) -> Storage:
    request.getfixturevalue("s3")
    return Storage(f"s3://bucket/{ULID()}")


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest) -> Storage:
    """A directory, and an S3 bucket."""
    found: Storage = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def scores(redis: Redis, store: Storage) -> ScoreSets:
    return ScoreSets(redis, store)


def test_what_was_stored_is_what_is_read(scores: ScoreSets, redis: Redis) -> None:
    assert scores.content("default", DIGEST) is None
    scores.add("default", measured(FILE), FILE, days=2)
    assert scores.content("default", DIGEST) == FILE
    assert scores.get("default", DIGEST).rows == 12
    left = scores.expires_at("default", DIGEST) - datetime.now(UTC)
    assert timedelta(days=1.9) < left < timedelta(days=2.1)
    assert StoredBytes(redis).used("default") == len(FILE)


def test_scores_belong_to_their_tenant(scores: ScoreSets) -> None:
    scores.add("search", measured(FILE), FILE, days=1)
    assert scores.content("ads", DIGEST) is None
    assert scores.page("ads") == ([], None)
    for refused in (scores.get, scores.delete, scores.expires_at):
        with pytest.raises(NotFound):
            refused("ads", DIGEST)
    assert scores.content("search", DIGEST) == FILE


DAMAGES = {
    "flipped bit": bytes([FILE[0] ^ 1]) + FILE[1:],
    "cut short": FILE[:-1],
    "another file": LATER,
    "emptied": b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_never_used_and_can_be_replaced(
    scores: ScoreSets, store: Storage, redis: Redis, damage: str
) -> None:
    scores.add("default", measured(FILE), FILE, days=1)
    store.put_bytes(DAMAGES[damage], score_key("default", DIGEST, measured(FILE).sha256))
    assert scores.content("default", DIGEST) is None
    assert not scores.exists("default", DIGEST)
    assert store.list("default/") == []
    assert StoredBytes(redis).used("default") == 0
    assert not redis.exists(EXPIRIES)
    scores.add("default", measured(FILE), FILE, days=1)
    assert scores.content("default", DIGEST) == FILE


def test_a_lost_file_is_measured_again(scores: ScoreSets, store: Storage) -> None:
    scores.add("default", measured(FILE), FILE, days=1)
    store.delete_prefix(score_prefix("default", DIGEST))
    assert scores.content("default", DIGEST) is None
    scores.add("default", measured(LATER), LATER, days=1)
    assert scores.content("default", DIGEST) == LATER


def test_the_first_of_two_writers_stays_and_the_second_leaves_nothing(scores: ScoreSets, store: Storage) -> None:
    scores.add("default", measured(FILE), FILE, days=1)
    scores.add("default", measured(LATER), LATER, days=1)
    assert scores.content("default", DIGEST) == FILE
    assert [key for key, _ in store.list("default/")] == [score_key("default", DIGEST, measured(FILE).sha256)]


def test_writers_and_readers_at_once_see_one_writer_s_file(scores: ScoreSets, store: Storage, redis: Redis) -> None:
    files = [safetensors(note=str(number)) for number in range(6)]
    seen: list[bytes | None] = []

    def write(content: bytes) -> None:
        scores.add("default", measured(content), content, days=1)
        seen.append(scores.content("default", DIGEST))

    threads = [threading.Thread(target=write, args=(content,)) for content in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(files)
    assert len(set(seen)) == 1
    assert seen[0] in files
    assert len(store.list("default/")) == 1
    assert StoredBytes(redis).used("default") == len(files[0])


def test_what_an_interrupted_writer_left_is_cleared_by_the_next(scores: ScoreSets, store: Storage) -> None:
    store.put_bytes(LATER, score_key("default", DIGEST, measured(LATER).sha256))
    scores.add("default", measured(FILE), FILE, days=1)
    assert len(store.list("default/")) == 1


def test_deleted_scores_are_gone_with_file_record_expiry_and_bytes(
    scores: ScoreSets, store: Storage, redis: Redis
) -> None:
    scores.add("default", measured(FILE), FILE, days=1)
    scores.delete("default", DIGEST)
    assert scores.content("default", DIGEST) is None
    assert scores.page("default") == ([], None)
    assert store.list("default/") == []
    assert StoredBytes(redis).used("default") == 0
    assert not redis.exists(EXPIRIES)


def test_scores_in_use_live_longer_and_never_shorter(scores: ScoreSets, redis: Redis) -> None:
    scores.add("default", measured(FILE), FILE, days=2)
    first = scores.expires_at("default", DIGEST)
    scores.keep("default", DIGEST, days=1)
    assert scores.expires_at("default", DIGEST) == first
    scores.keep("default", DIGEST, days=3)
    assert scores.expires_at("default", DIGEST) > first
    scores.delete("default", DIGEST)
    scores.keep("default", DIGEST, days=3)
    assert not redis.exists(EXPIRIES)


def test_pages_go_from_the_newest_to_the_oldest(scores: ScoreSets) -> None:
    now = datetime.now(UTC)
    names = [digest_of(str(number)) for number in range(5)]
    for age, name in enumerate(names):
        scores.add("default", measured(FILE, name, created_at=now - timedelta(microseconds=age)), FILE, days=1)
    found: list[str] = []
    cursor = None
    for _ in range(3):
        page, cursor = scores.page("default", cursor=cursor, limit=2)
        found += [entry.digest for entry in page]
    assert found == names
    assert cursor is None
