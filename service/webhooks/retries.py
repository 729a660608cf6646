"""The schedule of retries of a failed delivery."""

import re
from datetime import timedelta

# Pauses after each failed attempt: ten attempts in a little more than three days.
PAUSES = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 300, 1800, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600)
)
JITTER = 0.2  # share of a pause
SECONDS = re.compile(r"[0-9]{1,8}")
MAX_RETRY_AFTER = timedelta(days=1)


def pause_after(attempt: int, retry_after: str | None, jitter: float) -> timedelta | None:
    """The pause after failed attempt number `attempt` (from 1); None after the last one.

    `retry_after` is the receiver's header, `jitter` a random number in [-1, 1].
    """
    if attempt > len(PAUSES):
        return None
    pause = PAUSES[attempt - 1] * (1 + JITTER * jitter)
    if retry_after is None or not SECONDS.fullmatch(retry_after):
        return pause
    return max(pause, min(timedelta(seconds=int(retry_after)), MAX_RETRY_AFTER))
