"""The figures of a run: see minidask/reporting/figures.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidask.client.events import ClusterEvent
from minidask.reporting.words import sentences

from .runs import M1, M2, call, event, run, snapshot


def test_the_workers_time_is_what_there_was_in_the_block() -> None:
    found = run(10.0, [snapshot(m1=2), call(0, 1.0, 4.0), call(1, 1.0, 8.0), call(0, 5.0, 2.0)])
    assert (found.capacity, found.work, found.workers, found.calls) == (20.0, 14.0, 2.0, 3)
    assert found.busy == 0.7
    assert found.ideal == 8.0, "no shorter than the longest call"
    assert [one.seconds for one in found.longest] == [8.0, 4.0, 2.0]


def test_lost_time_is_named_by_when_it_was_lost() -> None:
    calls = [call(0, 1.0, 2.0), call(1, 1.0, 1.0), call(2, 1.0, 2.0), call(3, 1.0, 2.0), call(0, 5.0, 3.0)]
    lost = run(10.0, [snapshot(m1=4), *calls]).lost
    assert lost.before == 4 * 1.0
    assert lost.between == 1 * 1.0, "three of four are busy"
    assert lost.none == 4 * 2.0
    assert lost.few == 3 * 3.0
    assert lost.after == 4 * 2.0


def test_what_runs_on_top_of_a_call_is_no_more_work() -> None:
    nested = [call(0, 2.0, 1.0, "leaf"), call(0, 1.0, 4.0, "outer")]
    assert run(5.0, [snapshot(m1=1), *nested]).work == 4.0


def test_a_machine_counts_while_it_is_there() -> None:
    found = run(10.0, [
        snapshot(m1=2), event("machine", 5.0, machine=M2, name="m2", size=4),
        event("machine-left", 8.0, machine=M2, name="m2", size=3, text="gone"),
    ])  # fmt: skip
    assert found.capacity == 2 * 10.0 + 4 * 3.0
    assert found.failed == {"machine lost": 1}
    assert [(machine.name, machine.workers) for machine in found.machines] == [("m1", 2), ("m2", 4)]


def test_calls_that_ran_while_few_had_work_are_compared_with_the_others() -> None:
    calls = [call(n % 4, n // 4, 1.0) for n in range(20)]
    few = run(9.0, [snapshot(m1=4), *calls, call(0, 5.0, 4.0)]).few
    assert (few.seconds, few.busy, few.size) == (4.0, 1.0, 4.0)
    assert (few.name, few.calls, few.of, few.ratio) == ("fit", 1, 21, 4.0)


def test_waits_are_told_apart() -> None:
    events = [
        event("submitted", 1.0, task=7, name="fit"),
        event("started", 3.0, task=7, name="fit", machine=M1),
        event("ended", 5.0, task=7, name="fit", machine=M1, how="done"),
        call(0, 3.5, 1.5, task=7, call=0),
        event("submitted", 1.0, task=8, name="fit", info={"group": 0, "parent": 7}),
        event("ended", 2.0, task=8, name="fit", how="cancelled"),
    ]
    found = run(6.0, [snapshot(m1=1), *events])
    assert (found.queued.tasks, found.queued.median, found.on_the_way.median) == (1, 2.0, 0.5)
    assert (found.nested, found.failed) == (1, {})


def test_first_calls_that_import_are_found() -> None:
    calls = [call(n, 0.0, 3.0) for n in range(2)] + [call(n % 2, 3.0 + n // 2, 1.0) for n in range(10)]
    found = run(8.0, [snapshot(m1=2), *calls])
    assert (found.first_calls, found.warming) == (2, 4.0)


def test_a_machine_that_is_slower_than_others_is_seen() -> None:
    calls = [call(0, n, 1.0) for n in range(10)]
    slow = [call(0, 2.0 * n, 2.0, machine=M2) for n in range(5)]
    first, second = run(10.0, [snapshot(m1=1, m2=1), *calls, *slow]).machines
    assert (first.pace, second.pace) == (1.0, 2.0)
    assert (first.busy, second.busy) == (1.0, 1.0)


def test_failures_have_their_error_and_are_counted_once() -> None:
    found = run(5.0, [
        snapshot(m1=1), call(0, 0.0, 1.0, how="raised", task=3, call=0),
        event("ended", 1.0, task=3, name="fit", machine=M1, how="raised", text="ValueError: mine"),
        call(0, 1.0, 1.0, how="raised"), event("again", 2.0, machine=M1, name="fit", how="died", text="SIGKILL"),
        event("again", 2.0, machine=M1, name="fit", how="gave_back"),
    ])  # fmt: skip
    assert found.failed == {"raised": 2, "died": 1}
    assert [failure.text for failure in found.failures] == ["ValueError: mine", "", "SIGKILL"]
    assert found.names[0].failed == 2


def test_what_a_machine_has_used_is_there() -> None:
    usage = [
        event("usage", at, machine=M1, info={"cpu": cpu, "memory": cpu * 100}) for at, cpu in ((1, 50.0), (2, 70.0))
    ]
    fetched = event("fetched", 3.0, machine=M1, size=4096, info={"blob": "ab", "source": M2})
    (machine,) = run(5.0, [snapshot(m1=1), *usage, fetched]).machines
    assert (machine.cpu, machine.memory, machine.fetched, machine.fetches) == (0.6, 7000, 4096, 1)


TIMES = st.floats(-5, 25, allow_nan=False)
EVENTS = st.one_of(
    st.builds(call, st.integers(-1, 5), TIMES, st.floats(0, 30), st.sampled_from(["a", "b", ""]),
              machine=st.sampled_from([M1, M2, "tcp://unknown:1"]), how=st.sampled_from(["done", "raised"]),
              cpu=st.floats(-1, 40), task=st.integers(0, 5), call=st.integers(0, 2)),
    st.builds(event, st.sampled_from(["submitted", "started", "ended", "again"]), TIMES, task=st.integers(0, 5),
              how=st.sampled_from(["done", "died", "raised", "lost", "cancelled", ""]), name=st.text(max_size=3)),
    st.builds(event, st.just("machine"), TIMES, machine=st.sampled_from([M1, M2]), size=st.integers(-1, 8)),
    st.builds(event, st.just("machine-left"), TIMES, machine=st.sampled_from([M1, M2]), size=st.integers(0, 3)),
    st.builds(event, st.just("missed"), TIMES, size=st.integers(0, 3)),
    st.builds(event, st.sampled_from(["usage", "fetched", "counts", "new kind"]), TIMES, machine=st.just(M1),
              info=st.dictionaries(st.sampled_from(["cpu", "memory"]), st.floats(0, 100))),
    st.builds(event, st.just("snapshot"), info=st.just({"machines": [{"address": M1}, 7, {"workers": "x"}]})),
)  # fmt: skip


@given(st.lists(EVENTS, max_size=40), st.floats(0, 20), st.integers(0, 4))
def test_whatever_is_told_no_time_is_lost_nor_made(events: list[ClusterEvent], seconds: float, size: int) -> None:
    found = run(seconds, [snapshot(m1=size), *events], program_cpu=seconds / 2)
    lost = found.lost
    total = found.work + lost.before + lost.none + lost.few + lost.between + lost.after
    assert total == pytest.approx(found.capacity, abs=1e-6)
    assert min(found.work, lost.before, lost.none, lost.few, lost.between, lost.after) >= -1e-9
    assert found.work <= found.capacity + 1e-6
    assert 0 <= found.ideal <= found.seconds + 1e-6
    assert all(0 <= machine.busy <= 1 for machine in found.machines)
    said = sentences(found)
    assert said and all(sentence.endswith(".") and "nan" not in sentence for sentence in said)
