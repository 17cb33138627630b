"""Where the microseconds of one task go: `python -m bench.hops`.

The first table has the processor time and the context switches of each process, per task, in a running cluster. The
second one has each step of a task's way alone: in a loop, with warm caches. What the steps do not explain is the kernel
and cold caches.
"""

from __future__ import annotations

import argparse
import atexit
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import psutil
from joblib import Parallel, delayed

import minidask
from bench.life import processor_seconds
from minidask.backend.batchfuture import BatchFuture
from minidask.client.core import ClientCore
from minidask.client.future import Future
from minidask.client.outcomes import Returned
from minidask.data.callqueue import CallQueue, QueueEnd, ResultPipe
from minidask.pickling.payload import loads
from minidask.pickling.sharing import Interner, dumps, dumps_naming
from minidask.scheduler.core import SchedulerCore
from minidask.scheduler.events import Joined, Received
from minidask.task.batch import run_batch
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, Buffer, FrameDecoder
from minidask.wire.messages import Done, Message, Run, SlotReady, Submit, TaskDone
from minidask.wire.tickets import LINES, QueuedCall
from minidask.worker.core import WorkerCore
from minidask.worker.events import FromScheduler, FromSlot, Resize

CALL = (run_batch, ([(neg, (1,), {})], 0, None), {})


def processes(tasks: int) -> dict[str, tuple[float, float]]:
    """Return microseconds of processor time and context switches per task, by process; the wall time as "all"."""
    with minidask.Client(n_workers=2) as client, joblib.parallel_config("minidask", scheduler=client):
        node = psutil.Process(client.scheduler_info()["pid"])
        slots = {f"worker {number}": slot for number, slot in enumerate(node.children())}
        watched = {"client": psutil.Process(), "node": node, **slots}
        Parallel(batch_size=1)(delayed(neg)(i) for i in range(100))
        before = {name: _spent(process) for name, process in watched.items()}
        began = time.perf_counter()
        Parallel(batch_size=1)(delayed(neg)(i) for i in range(tasks))
        wall = time.perf_counter() - began
        costs = {"all": (wall / tasks * 1e6, 0.0)}
        for name, process in watched.items():
            seconds, switches = _spent(process)
            costs[name] = ((seconds - before[name][0]) / tasks * 1e6, (switches - before[name][1]) / tasks)
    return costs


def _spent(process: psutil.Process) -> tuple[float, int]:
    return processor_seconds(process.pid), sum(process.num_ctx_switches())


def steps(repeats: int) -> dict[str, float]:
    """Return the microseconds that each step takes in a warm loop."""
    interner = Interner()
    payload, _ = dumps_naming(CALL, "task", interner)
    result = dumps([-1], "result")
    blobs = [b"x" * 16]
    submit = Submit(1, "neg", 0, None, 1, None, blobs, [], False, {}, payload)
    messages = [submit, Run(1, 1, 1, "neg", None, blobs, 0, False, payload), Done(1, 1, 1e-6, result)]
    messages.append(TaskDone(1, 1e-6, "local", result))

    def settle(future: Future | BatchFuture) -> None:
        future.settle(Returned(result, 1e-6, "local"))
        future.result()

    table: dict[str, Callable[[], object]] = {
        "client   pickle the call": lambda: dumps_naming(CALL, "task", interner),
        "client   a batch's future: made, settled, asked": lambda: settle(BatchFuture(1, None, lambda future: None)),
        "client   a task's future: made, settled, asked": lambda: settle(Future(1, "neg")),
        **_queue(QueuedCall(1, "neg", blobs, payload), result[0]),
    }
    for message in messages:
        name = type(message).__name__
        table[f"wire     encode {name}"] = lambda message=message: encode(message)
        table[f"wire     decode {name}"] = _decoding(message)
    table["node     scheduler's core: submit, place, done"] = _scheduling(payload, result)
    table["node     worker's core: run, done"] = _working(payload, result)
    table["worker   unpickle the call"] = lambda: loads(payload, "task")
    table["worker   run the batch, in joblib's nested backend"] = lambda: run_batch(*CALL[1])
    table["worker   pickle the result"] = lambda: dumps([-1], "result")
    table["floor    pickle the call with plain pickle"] = lambda: pickle.dumps(CALL, 5)
    return {name: _microseconds(step, repeats) for name, step in table.items()}


def _queue(call: QueuedCall, pickled: Buffer) -> dict[str, Callable[[], object]]:
    """The steps of a call's way through a call queue, with both ends in this process."""
    folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    results = ResultPipe(Path(folder.name), 0)
    queue = CallQueue(Path(folder.name), str(results.path), 1)
    end = QueueEnd(queue.files.pack(0))
    ticket = LINES
    core: ClientCore[int] = ClientCore("here")
    group, _ = core.open_group(0, [])
    core.queues.add(group, 0, queue.files)
    submit = Submit(0, call.name, 0, None, group, None, [], [], False, {}, call.payload)

    def decide() -> None:
        number = core.next_task()
        core.submit(submit._replace(task=number), call.blobs, 1)
        core.call_returned(number, core.queues.ticket(group, number), Returned([pickled], 1e-6, "local"))

    def there() -> None:
        queue.put(ticket, call)
        end.take()

    def back() -> None:
        end.give(1, 1e-6, pickled)
        results.read()

    def close() -> None:
        for opened in (end, queue, results):
            opened.close()
        folder.cleanup()

    atexit.register(close)
    return {
        "client   the core: a line for the call, and its outcome": decide,
        "queue    write a call and its ticket, read both, claim": there,
        "queue    write a result, read it": back,
    }


def _microseconds(step: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - began) / repeats * 1e6


def _decoding(message: Message) -> Callable[[], object]:
    decoder, frame = FrameDecoder(AUTHENTICATED), b"".join(bytes(piece) for piece in encode(message))

    def step() -> None:
        decoder.get_buffer()[: len(frame)] = frame
        for received in decoder.received(len(frame)):
            decode(received)

    return step


def _scheduling(payload: Any, result: Any) -> Callable[[], object]:
    core = SchedulerCore()
    core.handle(Joined(1, "client", "c", {}), 0.0)
    core.handle(Joined(2, "worker", "w", {"slots": 2}), 0.0)
    number = 0

    def step() -> None:
        nonlocal number
        number += 1
        core.handle(Received(1, Submit(number, "neg", 0, None, 0, None, [], [], False, {}, payload)), 0.0)
        core.assign(0.0)
        core.handle(Received(2, Done(number, 1, 1e-6, result)), 0.0)
        core.assign(0.0)

    return step


def _working(payload: Any, result: Any) -> Callable[[], object]:
    core = WorkerCore()
    core.handle(Resize(1), 0.0)
    core.handle(FromSlot(0, SlotReady()), 0.0)

    def step() -> None:
        core.handle(FromScheduler(Run(1, 1, 1, "neg", None, [], 0, False, payload)), 0.0)
        core.handle(FromSlot(0, Done(1, 1, 1e-6, result)), 0.0)

    return step


def main(arguments: list[str] | None = None) -> None:
    """Print both tables: what each process spends on a task, and what each step takes alone."""
    parser = argparse.ArgumentParser(
        "python -m bench.hops", description="Measure where the microseconds of one task go, by process and by step."
    )
    parser.add_argument("tasks", nargs="?", type=int, default=20_000, help="how many to run (default: %(default)s)")
    tasks = parser.parse_args(arguments).tasks
    print("a no-op at batch_size=1, 2 workers             us/task   context switches/task")
    for name, (microseconds, switches) in processes(tasks).items():
        what = "wall time" if name == "all" else f"{name}: processor time"
        print(f"  {what:42} {microseconds:8.1f}" + (f"   {switches:8.2f}" if name != "all" else ""))
    print("\none step, alone and warm                            us")
    for name, microseconds in steps(tasks).items():
        print(f"  {name:46} {microseconds:6.2f}")


if __name__ == "__main__":
    main()
