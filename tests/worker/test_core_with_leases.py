"""Leases at the worker: asked back, their calls' blobs, and what their calls say; driven as `test_core.py` does it."""

from __future__ import annotations

from typing import Any

import pytest

from minidask.errors import ProtocolError
from minidask.wire import messages as m
from minidask.worker import events as e
from tests.rig import CLIENT, Rig, done, run

HERE, AWAY, OTHER = b"h" * 16, b"a" * 16, b"o" * 16
LARGE = {b"r" * 16: 1 << 20, b"q" * 16: 1 << 21}
ASKED = m.Yield(1, 1, 0.0)


def lease(task: int, blobs: tuple[bytes, ...] = (), client: int = CLIENT) -> m.Run:
    return run(task, blobs=blobs, client=client)._replace(lease=True)


def with_lease(slots: int = 1) -> Rig:
    """A worker of which the first slot has a lease, task 1."""
    rig = Rig(slots)
    assert rig.do(e.FromScheduler(lease(1))) == [e.ToSlot(0, lease(1))]
    return rig


# --- asked back ---


def test_a_lease_that_is_asked_for_while_it_waits_for_a_slot_hears_of_it_in_that_slot() -> None:
    rig = Rig()
    rig.run(1)
    rig.do(e.FromScheduler(lease(2)))
    assert rig.do(e.FromScheduler(m.Yield(2, 1, 0.02))) == []
    assert rig.do(e.FromSlot(0, done(1)))[1:] == [e.ToSlot(0, lease(2)), e.ToSlot(0, m.Yield(2, 1, 0.02))]


def test_a_lease_that_is_asked_for_while_it_is_held_for_its_data_hears_of_it_in_its_slot() -> None:
    rig = Rig()
    rig.do(e.FromScheduler(m.NeedBlob(AWAY, 1 << 20, "", [])))
    assert rig.do(e.FromScheduler(lease(1, (AWAY,)))) == []
    assert rig.do(e.FromScheduler(ASKED)) == []
    assert rig.do(e.BlobHere(AWAY))[-2:] == [e.ToSlot(0, lease(1, (AWAY,))), e.ToSlot(0, ASKED)]


@pytest.mark.parametrize("after", [0.0, 0.02])
def test_a_lease_that_is_asked_for_while_it_runs_hears_of_it(after: float) -> None:
    rig = with_lease(2)
    assert rig.do(e.FromScheduler(m.Yield(1, 1, after))) == [e.ToSlot(0, m.Yield(1, 1, after))]
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1))]


def test_a_lease_below_a_guest_hears_that_it_is_asked_for() -> None:
    rig = with_lease()
    rig.do(e.FromSlot(0, m.Waiting(1, 1)))
    rig.do(e.FromScheduler(run(2, host=1)))
    assert rig.do(e.FromScheduler(ASKED)) == [e.ToSlot(0, ASKED)]


def test_a_lease_that_is_over_is_asked_for_in_vain() -> None:
    rig = with_lease()
    assert rig.do(e.FromScheduler(m.Yield(1, 2, 0.0))) == [], "another attempt"
    rig.do(e.FromSlot(0, done(1)))
    assert rig.do(e.FromScheduler(ASKED)) == []
    rig.run(2)
    assert rig.do(e.FromScheduler(ASKED)) == []


def test_slots_that_are_to_end_have_their_leases_end() -> None:
    rig = with_lease(2)
    rig.run(2)
    assert rig.do(e.Resize(0)) == [e.ToSlot(0, ASKED)]
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.Retire(0)]


def test_slots_that_are_to_be_replaced_have_their_leases_end() -> None:
    rig = with_lease(1)
    assert rig.do(e.FromScheduler(m.Restart(9))) == [e.ToSlot(0, ASKED)]


# --- blobs ---


def test_a_call_gets_the_blobs_that_are_here() -> None:
    rig = with_lease()
    put = m.PutBlob(HERE, [b"data"])
    rig.do(e.FromScheduler(put))
    assert rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [HERE]))) == [e.ToSlot(0, put)]
    rig.do(e.FromSlot(0, done(1)))
    assert rig.run(2, blobs=(HERE,)) == [e.ToSlot(0, run(2, blobs=(HERE,)))], "the slot has it now"
    released = m.ReleaseBlobs([HERE])
    assert rig.do(e.FromScheduler(released)) == [e.ToSlot(0, released), e.Forget([HERE])]


def test_blobs_that_are_not_here_are_asked_for_and_come_to_all_that_wait() -> None:
    rig = with_lease(3)
    rig.do(e.FromScheduler(lease(2)))
    rig.do(e.FromScheduler(lease(3)))
    rig.do(e.FromScheduler(m.PutBlob(HERE, [b"data"])))
    wanted = rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [HERE, AWAY])))
    assert wanted == [e.ToSlot(0, m.PutBlob(HERE, [b"data"])), e.ToScheduler(m.WantBlobs(1, 1, [AWAY]))]
    assert rig.do(e.FromSlot(2, m.WantBlobs(3, 1, [AWAY]))) == [e.ToScheduler(m.WantBlobs(3, 1, [AWAY]))]
    put = m.PutBlob(AWAY, [b"data"])
    assert sorted(rig.do(e.FromScheduler(put))) == [e.ToSlot(0, put), e.ToSlot(2, put)]
    assert rig.do(e.FromScheduler(put)) == [], "nobody waits any more"


def test_large_blobs_come_to_calls_when_they_are_in_the_store() -> None:
    rig = with_lease()
    need = m.NeedBlob(AWAY, 1 << 20, "tcp://w:1", [])
    assert rig.do(e.FromScheduler(need)) == [e.Fetch(*need)]
    assert rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [AWAY]))) == [e.ToScheduler(m.WantBlobs(1, 1, [AWAY]))]
    here = [e.ToScheduler(m.HaveBlob(AWAY)), e.ToSlot(0, m.PutBlob(AWAY, []))]
    assert rig.do(e.BlobHere(AWAY)) == here


@pytest.mark.parametrize(
    "event", [e.FromScheduler(m.BlobLost(AWAY, "gone")), e.FromScheduler(m.BlobLost(AWAY, "")), e.NoRoom(AWAY, "gone")]
)
def test_calls_are_told_of_blobs_that_will_not_come(event: Any) -> None:
    rig = with_lease()
    rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [AWAY, OTHER])))
    text = event.text if isinstance(event, e.NoRoom) else event.message.text
    assert rig.do(event) == [e.ToSlot(0, m.BlobLost(AWAY, text))]
    assert rig.do(e.FromScheduler(m.PutBlob(AWAY, [b"data"]))) == [], "later it is another call's"
    assert rig.do(e.FromScheduler(m.PutBlob(OTHER, [b"data"]))) == [e.ToSlot(0, m.PutBlob(OTHER, [b"data"]))]


def test_a_blob_that_cannot_be_fetched_is_told_to_calls_and_to_those_that_have_not_begun() -> None:
    rig = with_lease(2)
    rig.do(e.FromScheduler(m.NeedBlob(AWAY, 1 << 20, "", [])))
    rig.run(2, blobs=(AWAY,))
    rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [AWAY])))
    assert rig.do(e.FromScheduler(m.BlobLost(AWAY, "gone"))) == [
        e.ToSlot(0, m.BlobLost(AWAY, "gone")),
        e.Forget([AWAY]),
        e.ToScheduler(m.Stopped(2, 1, "no-data", "gone")),
    ]


def test_a_slot_that_has_died_waits_for_no_blob() -> None:
    rig = with_lease()
    rig.do(e.FromSlot(0, m.WantBlobs(1, 1, [AWAY])))
    rig.do(e.Resize(0))
    rig.do(e.SlotExited(0, "SIGKILL", "?"))
    assert rig.do(e.FromScheduler(m.PutBlob(AWAY, [b"data"]))) == []


def test_blobs_for_what_is_over_are_not_asked_for() -> None:
    rig = with_lease()
    assert rig.do(e.FromSlot(0, m.WantBlobs(1, 2, [AWAY]))) == []
    assert rig.do(e.FromSlot(0, m.WantBlobs(2, 1, [AWAY]))) == []
    assert not rig.core.data.awaited


# --- outcomes of calls ---

OUTCOMES = [m.CallDone(1, 1, 77, 0.5, [b"r"]), m.CallFailed(1, 1, 77, 0.5, "traceback", [b"e"])]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcomes_of_calls_are_passed_on_and_the_slot_stays_busy(outcome: m.CallDone | m.CallFailed) -> None:
    rig = with_lease()
    assert rig.do(e.FromSlot(0, outcome)) == [e.ToScheduler(outcome)]
    assert rig.run(2) == []
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(done(1)), e.ToSlot(0, run(2))]


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_outcomes_of_calls_of_a_lease_that_is_over_are_dropped(outcome: m.CallDone | m.CallFailed) -> None:
    rig = with_lease()
    assert rig.do(e.FromSlot(0, outcome._replace(attempt=2))) == []
    rig.do(e.FromSlot(0, done(1)))
    assert rig.do(e.FromSlot(0, outcome)) == []


@pytest.mark.parametrize(
    "outcome", [m.CallDone(1, 1, 77, 0.5, [b"pickle", b"short"]), m.CallFailed(1, 1, 77, -1.0, "", [b"p", b"n" * 17])]
)
def test_an_outcome_that_is_none_ends_the_slot(outcome: m.CallDone | m.CallFailed) -> None:
    with pytest.raises(ProtocolError):
        with_lease().do(e.FromSlot(0, outcome))


def test_large_buffers_of_a_calls_result_wait_for_the_client() -> None:
    rig = with_lease()
    outcome = m.CallDone(1, 1, 77, 0.5, [b"r"])
    waits = [e.AwaitTaker(1, 1, [*LARGE]), e.ToScheduler(outcome)]
    assert rig.do(e.ResultLeft(0, outcome, LARGE)) == waits
    assert not rig.core.data.deliveries


def test_large_buffers_of_a_result_that_nobody_waits_for_are_dropped() -> None:
    rig = with_lease()
    removed = [e.RemoveResult(name) for name in LARGE]
    assert rig.do(e.ResultLeft(0, m.CallDone(1, 2, 77, 0.5, [b"r"]), LARGE)) == removed
    assert rig.do(e.ResultLeft(0, m.CallDone(2, 1, 77, 0.5, [b"r"]), LARGE)) == removed
    rig.do(e.FromSlot(0, done(1)))
    assert rig.do(e.ResultLeft(0, m.CallDone(1, 1, 77, 0.5, [b"r"]), LARGE)) == removed


def test_what_a_call_returns_while_its_lease_is_stopped_has_no_taker() -> None:
    """The scheduler knows that: `untaken.py` asks it, and removes the buffers."""
    rig = with_lease()
    assert rig.do(e.FromScheduler(m.Stop(1, 1))) == [e.Interrupt(0, 1, 1)]
    outcome = m.CallDone(1, 1, 77, 0.5, [b"r"])
    assert rig.do(e.ResultLeft(0, outcome, LARGE))[0] == e.AwaitTaker(1, 1, [*LARGE])
    assert rig.do(e.FromSlot(0, done(1))) == [e.ToScheduler(m.Stopped(1, 1, "cancelled", "it was cancelled"))]
