"""What minidask-watch says of a message: see minidask/watching/words.py and definitions.py."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from minidask.watching.definitions import Definitions
from minidask.watching.words import fields_of, shown
from minidask.wire import messages as m

TEXT = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
OF_SLOTS = {"SlotReady", "Began"}  # between a slot and its worker alone


def test_fields_have_the_words_of_the_protocol() -> None:
    submit = m.Submit(1, "pow", 0, None, 0, None, [b"b" * 16], [], False, {}, [b"\x80\x05" * 10])
    assert fields_of(submit) == (
        "task=1 name='pow' priority=0 timeout=nil group=0 pin=nil blobs=[62626262…] parent=[] lease=false resources={}"
        " payload=[20 B: 80 05 80 05 80 05 80 05 …]"
    )


def test_what_is_long_is_cut_and_what_is_deep_is_not_followed() -> None:
    many = [[float(i)] * 100 for i in range(1000)]
    assert shown(many) == "[[0, 0, 0, … 100 in all], [1, 1, 1, … 100 in all], [2, 2, 2, … 100 in all], … 1000 in all]"
    assert shown([[[[[1]]]]]) == "[[[[…]]]]"
    assert shown({"key": b""}) == "{'key': 0 B}"
    assert len(fields_of(m.Goodbye("x" * 10_000))) < 100
    assert len(fields_of(m.Answer(1, {str(i): "x" * 10_000 for i in range(1000)}))) < 400


@pytest.mark.parametrize("text", ["\x1b[2J\x07", "\r\n12.0  forged line", "\u202egnp.exe", "\udcff"])
def test_no_text_of_others_controls_a_terminal(text: str) -> None:
    for message in (
        m.Goodbye(text),
        m.Answer(1, {text: [text]}),
        m.Workers([m.WorkerRow(text, text, 1, {text: text})]),
    ):
        assert fields_of(message).isprintable()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("it was unpickled",)


def test_a_pickle_is_shown_and_not_unpickled() -> None:
    assert "payload=[" in fields_of(m.TaskDone(1, 0.5, "node2", [pickle.dumps(Bomb())]))


# --- where the protocol's text defines it ---


@pytest.mark.parametrize(
    "kind", [kind for kind in m.CODES if kind.__name__ not in OF_SLOTS], ids=lambda kind: str(kind.__name__)
)
def test_each_message_is_found_in_the_protocols_text(kind: type) -> None:
    found = Definitions(TEXT).find(kind.__name__, "client", "scheduler")
    assert found is not None and found.meaning
    line = TEXT.splitlines()[found.line - 1]
    assert re.match(rf"\| {m.CODES.index(kind)} \| {kind.__name__}\b", line)


def test_of_several_rows_that_of_the_direction_counts() -> None:
    definitions = Definitions(TEXT)
    sent, passed_on = (definitions.find("PutBlob", *way) for way in (("client", "scheduler"), ("scheduler", "worker")))
    assert sent is not None and passed_on is not None
    assert (sent.heading, passed_on.heading) == ("Client to scheduler", "Scheduler to worker")
    assert definitions.find("Nonsense", "client", "scheduler") is None
