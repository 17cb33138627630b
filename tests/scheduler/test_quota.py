"""What the scheduler keeps for its clients: never more than the limit, and a newcomer always finds something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.errors import ProtocolError
from minidask.scheduler import events as e
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.invariants import check
from minidask.scheduler.quota import ALL, RECORD_BYTES, TASKS, Quota
from minidask.wire import messages as m
from minidask.wire.large import blob_id

LIMIT = 100_000


def submit(task: int, size: int) -> m.Submit:
    return m.Submit(task, "f", 0, None, 0, None, [], [], False, {}, [bytes(size)])


def put(number: int, size: int) -> m.PutBlob:
    payload = [bytes(size) + number.to_bytes(4, "little")]
    return m.PutBlob(blob_id(payload), payload)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40_000), st.sampled_from((TASKS, ALL)), st.booleans())))
def test_all_together_never_have_more_than_the_limit_and_what_is_dropped_is_free(
    wishes: list[tuple[int, int, int, bool]],
) -> None:
    quota, kept = Quota(LIMIT), list[tuple[int, int]]()
    for client, size, share, drops in wishes:
        if not quota.why_not(client, size, share):
            kept.append((client, quota.keep(client, size)))
        assert sum(size for _, size in kept) == quota.total <= LIMIT
        assert not quota.why_not(99, (LIMIT - quota.total) // 2, TASKS), "a newcomer may have half of what is left"
        if drops and kept:
            quota.drop(*kept.pop())
    for each in kept:
        quota.drop(*each)
    assert not quota.total and not quota.kept


def test_a_task_too_many_is_lost_with_what_to_do_and_later_ones_are_taken_in() -> None:
    core = SchedulerCore(memory_limit=LIMIT)
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    lost = [m_ for i in range(1, 100) for _, m_ in core.handle(e.Received(1, submit(i, 5000)), 0.0)]
    assert {type(each) for each in lost} == {m.TaskLost} and {each.reason for each in lost} == {m.Reason.FULL}
    assert "--memory-limit" in lost[0].text
    assert 0.7 * LIMIT < core.quota.total <= 0.75 * LIMIT, "one client alone gets 3 quarters"
    core.handle(e.Joined(2, "client", "b", {}), 0.0)
    assert not core.handle(e.Received(2, submit(1, 5000)), 0.0), "another one finds room"
    check(core)
    core.handle(e.Received(1, m.Cancel([1, 2], False)), 0.0)
    assert not core.handle(e.Received(1, submit(200, 5000)), 0.0)
    core.handle(e.Left(1, "gone"), 0.0)
    core.handle(e.Left(2, "gone"), 0.0)
    check(core)
    assert not core.quota.total


def test_a_blob_is_charged_until_nobody_needs_it_whoever_releases_it() -> None:
    core = SchedulerCore(memory_limit=LIMIT)
    core.handle(e.Joined(1, "client", "a", {}), 0.0)
    blob = put(0, 9000)
    core.handle(e.Received(1, m.OfferBlob(blob.blob, 9004, "here")), 0.0)
    for _ in range(50):
        core.handle(e.Received(1, blob), 0.0)
    assert core.quota.total == RECORD_BYTES + 9004, "what comes again is kept once"
    core.handle(e.Received(1, submit(1, 1)._replace(blobs=[blob.blob])), 0.0)
    core.handle(e.Received(1, m.ReleaseBlobs([blob.blob])), 0.0)
    check(core)
    assert core.quota.total > 9000, "a task needs it"
    core.handle(e.Received(1, m.Cancel([1], False)), 0.0)
    check(core)
    assert not core.quota.total
    puts = (put(number, 5000) for number in range(100))
    with pytest.raises(ProtocolError, match="--memory-limit"):
        [core.handle(e.Received(1, each), 0.0) for each in puts]
    check(core)
    assert core.quota.total <= LIMIT
