"""What a report says: see minidask/reporting/words.py."""

from __future__ import annotations

import pytest

from minidask.client.events import ClusterEvent
from minidask.reporting.words import number, seconds, sentences, share

from .runs import M1, M2, call, event, run, snapshot


def said(length: float, *events: ClusterEvent, **more: float) -> list[str]:
    return sentences(run(length, events, **more))


def full(workers: int, rounds: int, each: float = 1.0, **fields: object) -> list[ClusterEvent]:
    """Calls that keep all workers busy."""
    return [call(n, r * each, each, **fields) for r in range(rounds) for n in range(workers)]  # type: ignore[arg-type]


def test_stragglers_are_named_with_how_much_longer_they_took() -> None:
    calls = [*full(16, 11), *(call(n, 11.0, 4.0) for n in range(3))]
    assert said(15.0, snapshot(m1=16), *calls) == [
        "27 % of the time only 3 of 16 workers had work: the 3 calls of fit that ran then took 4.0 × the median of the"
        " others."
    ]


def test_too_few_calls_are_no_stragglers() -> None:
    (sentence,) = said(5.0, snapshot(m1=16), *(call(n, 0.0, 5.0) for n in range(3)))
    assert sentence == "100 % of the time only 3 of 16 workers had work: there were only 3 calls of fit."


def test_a_last_round_with_few_calls_is_told() -> None:
    (sentence,) = said(4.0, snapshot(m1=8), *full(8, 3), call(0, 3.0, 1.0), call(1, 3.0, 1.0))
    assert "2 of 8 workers" in sentence and "the 2 of 26 calls of fit" in sentence


def test_calls_that_may_not_run_at_once_are_told() -> None:
    (sentence,) = said(40.0, snapshot(m1=8), *full(2, 40))
    assert sentence.startswith("100 % of the time only 2 of 8 workers had work, mostly with calls of fit")
    assert "n_jobs" in sentence


def test_busy_workers_are_praised_and_more_of_them_asked_for() -> None:
    (sentence,) = said(10.0, snapshot(m1=4), *full(4, 10))
    assert (
        sentence
        == "The workers had work 100 % of the time: more workers, or faster calls, are what would make it shorter."
    )


@pytest.mark.parametrize(
    ("events", "length", "words"),
    [
        ([call(n, 3.0, 7.0) for n in range(2)], 10.0, ["The first call began after 3.00 s, 30 % of the time"]),
        ([*full(2, 6)], 10.0, ["After the last call your program went on for 4.00 s by itself, 40 % of the time"]),
        ([*full(2, 3), *(call(n, 7.0, 3.0) for n in range(2))], 10.0, ["40 % of the time no call ran at all"]),
    ],
)
def test_time_without_calls_is_told_by_when_it_was(events: list[ClusterEvent], length: float, words: list[str]) -> None:
    found = said(length, snapshot(m1=2), *events)
    assert all(any(sentence.startswith(word) for sentence in found) for word in words)


def test_short_calls_are_told_as_such_wherever_the_time_was_lost() -> None:
    calls = [call(n % 4, n * 0.01, 0.001) for n in range(100)]
    (sentence,) = said(1.0, snapshot(m1=4), *calls)
    assert "between calls, which are short, 1 ms: more work in each would help" in sentence


def test_gaps_between_calls_have_the_cause_that_is_known() -> None:
    calls = [call(n, r * 2.0 + n * 0.5, 1.5) for r in range(5) for n in range(4)]
    assert "had no processor to spare" in said(10.0, snapshot(m1=4), *calls, program_cpu=9.9)[0]
    assert "they waited for the next one" in said(10.0, snapshot(m1=4), *calls, program_cpu=1.0)[0]


def test_imports_are_told_first() -> None:
    found = said(8.0, snapshot(m1=2), *(call(n, 0.0, 3.0) for n in range(2)),
                 *(call(n % 2, 3.0 + n // 2, 1.0) for n in range(10)))  # fmt: skip
    assert found[0].startswith(
        "The first calls in 2 workers took 2.00 s longer than later ones, on average: they import"
    )


def test_a_slow_machine_is_named() -> None:
    slow = [call(0, 2.0 * n, 2.0, machine=M2) for n in range(5)]
    found = said(10.0, snapshot(m1=1, m2=1), *full(1, 10), *slow)
    assert "m2 took 2.0 × as long as all machines for the same calls." in found


def test_calls_that_wait_are_told() -> None:
    found = said(10.0, snapshot(m1=4), *full(4, 10, cpu=0.2))
    assert found[1].startswith("Calls had a processor for 20 % of their time")
    assert "none to spare" not in found[1]
    full_machine = event("usage", 1.0, machine=M1, info={"cpu": 100.0})
    assert "none to spare" in said(10.0, snapshot(m1=4), *full(4, 10, cpu=0.2), full_machine)[1]
    assert len(said(10.0, snapshot(m1=4), *full(4, 10, cpu=0.9))) == 1


def test_failures_and_what_was_missed_are_told() -> None:
    found = said(10.0, snapshot(m1=4), *full(4, 10), call(0, 0.5, 0.1, how="raised"),
                 event("again", 1.0, name="fit", how="died"), event("again", 2.0, name="fit", how="died"),
                 event("machine-left", 9.9, machine=M1, size=4), event("missed", 5.0, size=12))  # fmt: skip
    assert found[1:] == [
        "2 times a call lost the process that ran it.",
        "1 call raised an error, or was stopped.",
        "1 machine was lost with what it ran.",
        "12 events or calls were left out, as there were too many: figures are too low.",
    ]


def test_a_machine_that_has_not_told_all_is_told_of() -> None:
    found = run(10.0, [snapshot(m1=4), *full(4, 10)])
    found.whole = False
    assert sentences(found)[-1] == "Not all machines have told what they did until the end: figures are too low."


def test_a_block_in_which_nothing_ran_says_so() -> None:
    assert said(1.0, snapshot(m1=4)) == ["No call ran on the cluster meanwhile."]


def test_numbers_are_for_people() -> None:
    assert [seconds(n) for n in (0, 3.2e-5, 0.00012, 0.25, 1.5, 12.34, 99.96, 185, 7260)] == [
        "0 s", "32 µs", "0.12 ms", "250 ms", "1.50 s", "12.3 s", "1 min 39 s", "3 min 5 s", "2 h 1 min",
    ]  # fmt: skip
    assert [number(n) for n in (3.0, 2.96, 2.4, 15.7)] == ["3", "3", "2.4", "16"]
    assert [share(1, 3), share(0, 3), share(1, 1000), share(1, 0)] == ["33 %", "0 %", "less than 1 %", "0 %"]
