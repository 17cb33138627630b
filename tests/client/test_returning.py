"""When a client tries again to connect."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minidask.client.returning import FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS, Retry


@given(st.floats(0.0, 300.0), st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50))
def test_pauses_grow_to_a_second_and_end_in_time(seconds: float, tries: list[float]) -> None:
    retry, now, before = Retry(seconds, 1000.0), 1000.0, 0.0
    for took in tries:
        now += took
        pause = retry.pause(now)
        if pause is None:
            assert now + min(max(2 * before, FIRST_PAUSE_SECONDS), LAST_PAUSE_SECONDS) >= 1000.0 + seconds
            return
        assert before <= pause <= LAST_PAUSE_SECONDS
        before, now = pause, now + pause
        assert now < 1000.0 + seconds
