"""Messages that a worker or a client must not send, or that change nothing."""

from __future__ import annotations

from minidask.wire import messages as m
from minidask.wire.observing import ReadLog

NAME, HUGE = b"r" * 16, (1 << 63) - 1


def bad_words_of_a_worker(task: int, attempt: int) -> list[m.Message]:
    """What a worker must not say, or what is of no consequence."""
    return [
        m.Stopped(task, attempt, "bored", ""),
        m.Done(task, attempt, 0.1, []),
        m.Done(task, attempt, 0.1, [b"pickle", b"short"]),
        m.Done(task, attempt, float("nan"), [b"pickle", NAME + b"r"]),
        m.Failed(task, attempt, -1.0, "traceback", [b"pickle", NAME + b"w"]),
        m.OfferResult(task, attempt, NAME, 0),
        m.OfferResult(task, attempt, NAME, HUGE),
        m.OfferResult(task, attempt, b"short", 9),
        m.Died(task, attempt + 1, "stale", ""),
        m.GaveBack(task, -attempt),
        m.Waiting(-task, attempt),
        m.Resumed(task, HUGE),
        m.Resized(-1),
        m.Resized(HUGE),
        m.HaveBlob(b"unheard of"),
        m.FetchFailed(b"unheard of", "nowhere", ""),
        m.FetchChunk(b"unheard of", -1, HUGE, -1),
        m.Chunk(NAME, -1, HUGE, []),
        m.Chunk(NAME, 0, 1, [b"x"]),
        m.NoBlob(b"", -1, ""),
        m.Output(-1, -1, "nowhere", "text"),
        m.Heartbeat(-1),
        m.TaskMessage(-task, attempt, "channel", [b"x"]),
        m.TaskMessage(task, attempt + 1, "", []),
        m.Restarted(HUGE),
        m.Restarted(-1),
        m.Ask(1),
        m.Restart(1),
        m.Answer(HUGE, {"lines": [1]}),
        m.Answer(-1, {}),
        ReadLog(1, "", 1),
        m.Goodbye("a word of the scheduler's"),
    ]


def bad_words_of_a_client(task: int) -> list[m.Message]:
    """The same for a client, with one of its tasks."""
    return [
        m.PutBlob(b"short", [b"data"]),
        m.PutBlob(NAME, []),
        m.OfferBlob(NAME, -1, ""),
        m.OfferBlob(NAME, HUGE, ""),
        m.OfferBlob(b"", 1, ""),
        m.ReleaseBlobs([b"unheard of"]),
        m.OpenGroup(0, 1, []),
        m.OpenGroup(99, -1, []),
        m.OpenGroup(99, 1, [1]),
        m.CloseGroup(-1),
        m.Submit(task, "again", 0, None, 0, None, [], [], False, {}, [b"call"]),
        m.Submit(-1, "no payload", 0, None, 0, None, [], [], False, {}, []),
        m.Submit(-1, "no group", 0, None, HUGE, None, [], [], False, {}, [b"call"]),
        m.Submit(-1, "no blob", 0, None, 0, None, [b"unheard of"], [], False, {}, [b"call"]),
        m.Submit(-1, "no time", 0, float("nan"), 0, None, [], [], False, {}, [b"call"]),
        m.Submit(-1, "no parent", 0, None, 0, None, [], [1, 2, 3], False, {}, [b"call"]),
        m.Submit(-1, "n" * (1 << 21), 0, None, 0, None, [], [], False, {}, [b"call"]),
        m.Cancel([-1, HUGE], True),
        m.RanInline([], -1, 0),
        m.RanInline([], 1, 2),
        m.RanInline([], HUGE, HUGE),
        m.FetchChunk(NAME, -1, HUGE, -1),
        m.ResultTaken(b"", HUGE),
        m.Chunk(NAME, 0, HUGE, []),
        m.NoBlob(NAME, -1, ""),
        ReadLog(1, "no such machine", HUGE),
        ReadLog(-1, "", -1),
        m.Answer(1, {}),
        m.Done(1, 1, 0.1, [b"a word of a worker's"]),
        m.Restarted(1),
    ]
