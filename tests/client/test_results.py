"""Large results of other machines: what the client asks for, keeps and lets go."""

from __future__ import annotations

import pytest

from minidask.client.results import Results
from minidask.data.downloads import WINDOW_BYTES
from minidask.errors import SerializationError
from minidask.wire import messages as m

MIB = 1 << 20


def test_results_are_asked_for_worker_by_worker_and_a_lost_worker_holds_nothing_up() -> None:
    sent: list[m.Message] = []
    tasks = {1, 2, 3}
    results = Results(sent.extend, tasks.__contains__)
    size = 6 * MIB
    for task, peer in ((1, 7), (2, 7), (3, 8)):
        results.offered(m.ResultOffered(task, bytes([task]) * 16, size, peer))
    asked = [wanted for wanted in sent if isinstance(wanted, m.FetchChunk)]
    assert sum(wanted.size for wanted in asked if wanted.peer == 7) == WINDOW_BYTES
    assert sum(wanted.size for wanted in asked if wanted.peer == 8) == size
    results.offered(m.ResultOffered(1, b"again" + bytes(11), size, 9))  # worker 7 was lost, and 1 tried again
    results.offered(m.ResultOffered(2, b"later" + bytes(11), size, 9))
    sent.clear()
    for task in (1, 2):
        name = (b"again" if task == 1 else b"later") + bytes(11)
        for offset in range(0, size, MIB):
            results.received(m.Chunk(name, offset, 9, [bytes([task]) * MIB]))
        assert m.ResultTaken(name, 9) in sent
        assert results.take(name) == bytes([task]) * size
    with pytest.raises(SerializationError):
        results.take(bytes([1]) * 16)
    tasks.discard(3)
    results.forget_others()
    results.received(m.Chunk(bytes([3]) * 16, 0, 8, [bytes(MIB)]))
    with pytest.raises(SerializationError):
        results.take(bytes([3]) * 16)


@pytest.mark.parametrize("size", [0, -1, 1 << 62, 1 << 63])
def test_a_result_for_which_there_is_no_memory_is_let_go(size: int) -> None:
    sent: list[m.Message] = []
    results = Results(sent.extend, lambda task: True)
    results.offered(m.ResultOffered(1, b"x" * 16, size, 7))
    assert sent == [m.ResultTaken(b"x" * 16, 7)]
