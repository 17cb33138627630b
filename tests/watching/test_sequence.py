"""The diagram of one call: see minidask/watching/sequence.py."""

from __future__ import annotations

import re
from typing import Any, cast
from xml.etree import ElementTree

from minidask.net.transport import MessageLink
from minidask.watching.relay import Passage, Sighting
from minidask.watching.sequence import CallSequence
from minidask.wire import messages as m

NO_LINK = cast("MessageLink", None)
KEY = 7
SHARED, OWN = b"s" * 16, b"o" * 16


def passage(name: str, **info: Any) -> Passage:
    return Passage(name, info, NO_LINK, NO_LINK)


CLIENT, OTHER, WORKER = passage("client 1", keys=[KEY]), passage("client 2", keys=[8]), passage("worker 1")


def submit(task: int, name: str, *blobs: bytes, lease: bool = False) -> m.Submit:
    return m.Submit(task, name, 0, None, 0, None, list(blobs), [], lease, {}, [name.encode(errors="backslashreplace")])


def run(task: int, name: str, *blobs: bytes) -> m.Run:
    return m.Run(task, 1, 1, name, None, list(blobs), 0, False, [name.encode(errors="backslashreplace")])


def drawn(sequence: CallSequence, *seen: tuple[Passage, bool, m.Message]) -> list[str]:
    """The messages of the diagram, from top to bottom."""
    for at, (where, from_program, message) in enumerate(seen):
        sequence.add(Sighting(at / 1000, where, from_program, message, 10), "protocol.md:1")
    root = ElementTree.fromstring(sequence.svg())
    groups = [group for group in root.findall(".//{*}g") if group.get("class") == "message"]
    lines = [line for group in groups for line in group.findall("{*}line")]
    heights = [float(line.get("y1", "")) for line in lines]
    assert heights == sorted(heights) and len(set(heights)) == len(groups)
    return [re.sub(r" 10 B.*", "", "".join(group.findall("{*}text")[1].itertext())) for group in groups]


def test_a_call_has_its_messages_in_their_order_and_no_others() -> None:
    number = KEY << 40 | 2
    assert drawn(
        CallSequence(2),
        (CLIENT, False, m.Workers([])),
        (CLIENT, True, m.PutBlob(SHARED, [])),
        (CLIENT, True, submit(1, "first", SHARED)),
        (WORKER, False, m.PutBlob(SHARED, [])),
        (WORKER, False, run(KEY << 40 | 1, "first", SHARED)),
        (CLIENT, True, submit(9, "lease", lease=True)),
        (CLIENT, True, m.PutBlob(OWN, [])),
        (CLIENT, True, submit(2, "second", SHARED, OWN)),
        (OTHER, True, submit(2, "another", SHARED)),
        (WORKER, False, m.PutBlob(OWN, [])),
        (WORKER, False, run(number, "second", SHARED, OWN)),
        (WORKER, True, m.Done(KEY << 40 | 1, 1, 0.1, [b"x"])),
        (CLIENT, False, m.TaskDone(1, 0.1, "w", [b"x"])),
        (WORKER, True, m.OfferResult(number, 1, b"r" * 16, 1 << 20)),
        (CLIENT, False, m.ResultOffered(2, b"r" * 16, 1 << 20, 1)),
        (CLIENT, True, m.ResultTaken(b"r" * 16, 1)),
        (OTHER, True, m.FetchChunk(b"t" * 16, 0, 1, 0)),
        (WORKER, True, m.Done(number, 1, 0.1, [b"x"])),
        (CLIENT, False, m.TaskDone(2, 0.1, "w", [b"x"])),
        (CLIENT, True, submit(2, "the number again")),
        (CLIENT, False, m.TaskDone(2, 0.1, "w", [b"x"])),
    ) == [
        "PutBlob", "PutBlob", "Submit", "PutBlob", "Run", "OfferResult", "ResultOffered", "ResultTaken", "Done",
        "TaskDone",
    ]  # fmt: skip


def test_of_a_client_without_keys_the_run_is_known_by_its_payload() -> None:
    minimal = passage("client 1", host="node")
    assert drawn(
        CallSequence(),
        (minimal, True, submit(1, "pow")),
        (minimal, True, submit(2, "abs")),
        (WORKER, False, run(5, "abs")),
        (WORKER, False, run(4, "pow")),
        (WORKER, True, m.Died(5, 1, "signal 9", "")),
        (WORKER, True, m.Failed(4, 1, 0.1, "", [b"x"])),
        (minimal, False, m.TaskRaised(1, 0.1, "w", "", [b"x"])),
    ) == ["Submit", "Run", "Failed", "TaskRaised"]


def test_text_of_others_is_text_in_the_diagram() -> None:
    sequence = CallSequence()
    assert drawn(sequence, (CLIENT, True, submit(1, "</text><script>\x1b\x00\udcff]]>&lt;"))) == ["Submit"]
    assert "<script" not in sequence.svg() and "\x1b" not in sequence.svg()


def test_without_the_call_there_is_no_arrow() -> None:
    assert drawn(CallSequence(2), (CLIENT, True, submit(1, "first"))) == []
