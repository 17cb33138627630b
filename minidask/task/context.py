"""Which task a thread works for, and the slot that this task's own code finds.

    slot: binds itself, and what runs ──► current_slot() ◄── client, joblib backend: submit and wait through it

Code inside a task may call `get_client()` or `Parallel`. What it submits is a child of *its* task, and while it waits,
its slot is lent to that task's descendants. So the client must know, in any thread, which task the thread works for:

- The thread that runs a task's call knows it from `RunningCalls.work_for`.
- A thread that a task has started works for the same task. Python does not tell who started a thread. Context
  variables would, but threads do not inherit them before Python 3.14. So `Thread.start` is replaced, once, from when
  there is a slot in this process. The replacement wraps `run` of the one thread object:

      task's thread                      new thread
      ─────────────                      ──────────
      Thread.start(t)
        slot, attempt = current …
        t.run = _run_for(slot, attempt, …, t.run)
        plain start(t) ────────────────► _run_for: slot and attempt are this thread's from now on
                                           t.run as it was

  Without it, a thread pool in a task that runs in a lent slot would take itself for a part of the outermost task. With
  `processes=False` it would belong to no task, and what it waits for would never run.
- Threads of the client itself serve all tasks of a slot. They say so by an attribute, `serves_all_tasks`.
- Threads started in another way, by compiled code, find `_this_process` in a slot process, and so its outermost task.
  In a process with slots as threads they belong to no task.
- A done-callback works for the task that has submitted, not for the thread that reads the outcome: `working_for`.

A forked child belongs to no slot (`minidask/host/forks.py`).
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from minidask.host.forks import Layer, on_fork
from minidask.pickling.byvalue import what_it_has

if TYPE_CHECKING:
    from minidask.data.store import BlobStore
    from minidask.wire.messages import Payload


class SlotConfig(NamedTuple):
    """What a slot has to know of its cluster.

    Attributes:
        store: folder of the machine's blob store.
        scheduler: the address of the scheduler, for tasks that submit tasks.
        access_file: the file with the cluster's secret; empty for the usual places.
        tls: how TCP connections are encrypted, as `minidask/net/tls_options.py` writes it; empty: as the file says.
        uid: known to the slots of one worker and to the scheduler alone.
        preload: names of modules that it imports before its first call, with spaces between.
    """

    store: str
    scheduler: str
    access_file: str
    tls: str = ""
    uid: str = ""
    preload: str = ""


class SlotOfTask(Protocol):
    """A slot, as seen from the code of its task.

    Attributes:
        scheduler: the address of its scheduler.
        access_file: the file with the cluster's secret; empty for the usual places.
        tls: how TCP connections are encrypted, as in `SlotConfig`.
        uid: proves to the scheduler that what this slot submits comes from a task of its worker.
        store: the machine's large data.
        client: the shell of the client of its tasks, once one of them has needed it; else None.
        described: gives the blobs that describe the caller of the task that runs; None where that is this process.
    """

    scheduler: str
    access_file: str
    tls: str
    uid: str
    store: BlobStore
    client: Any
    described: Callable[[], Mapping[bytes, Payload]] | None

    @property
    def call(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty between tasks."""

    def work_for(self, call: list[int]) -> list[int]:
        """Have this thread work for an attempt from now on. Returns the attempt before; empty if there was none."""

    def tell_caller(self, channel: str, payload: Payload) -> bool:
        """Send a payload to the process that this thread's task comes from. Returns False between tasks."""

    def fileno(self) -> int:
        """The descriptor that gets readable when there may be a descendant to run."""

    def begin_wait(self, call: list[int]) -> None:
        """Note that a thread of this attempt waits for tasks of its own: the slot may be lent."""

    def receive(self) -> None:
        """Read and handle messages, blocking until some come; return at once if another thread reads already.

        Raises:
            ConnectionError: the worker daemon has gone, and nothing will come any more.
        """

    def has_call(self) -> bool:
        """Whether a guest is there to be run, on top of a call that waits."""

    def run_call(self) -> None:
        """Run the next guest, and reply; return at once if there is none."""

    def end_wait(self, call: list[int]) -> None:
        """Note that a thread of this attempt resumes."""

    def cut_off(self, call: Sequence[int]) -> None:
        """Note that an attempt has lost its tasks with their scheduler: it is tried again, whatever it ends with."""


_this_thread = threading.local()
_this_process: SlotOfTask | None = None


def bind_slot(slot: SlotOfTask, *, to_process: bool) -> None:
    """Have this thread work for a slot from now on, and with `to_process` every thread of the process."""
    global _this_process
    _this_thread.slot = slot
    if to_process:
        _this_process = slot
    _have_threads_inherit()


@functools.cache
def _have_threads_inherit() -> None:
    """Replace `Thread.start`, once: other libraries may put their own on top of it."""
    plain_start = threading.Thread.start

    @functools.wraps(plain_start)
    def start(thread: threading.Thread) -> None:
        slot = current_slot()
        if slot is not None and not getattr(thread, "serves_all_tasks", False):
            thread.run = functools.partial(_run_for, slot, slot.call, what_it_has(), thread.run)  # type: ignore[method-assign]
        plain_start(thread)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]


def _run_for(slot: SlotOfTask, call: list[int], share: Callable[[], None], run: Callable[[], None]) -> None:
    threading.current_thread().__dict__.pop("run", None)  # the thread object is not to refer to itself
    share()
    with working_for(slot, call):
        run()


@contextlib.contextmanager
def working_for(slot: SlotOfTask, call: list[int]) -> Iterator[None]:
    """Have this thread work for an attempt in the block."""
    own = getattr(_this_thread, "slot", None)
    _this_thread.slot = slot
    before = slot.work_for(call)
    try:
        yield
    finally:
        slot.work_for(before)
        if own is None:
            del _this_thread.slot
        else:
            _this_thread.slot = own


@contextlib.contextmanager
def waiting(slot: SlotOfTask | None, call: list[int]) -> Iterator[None]:
    """Lend the slot in the block, where this thread waits for tasks of an attempt. Without a slot, do nothing."""
    if slot is None:
        yield
        return
    slot.begin_wait(call)
    try:
        yield
    finally:
        slot.end_wait(call)


def current_slot() -> SlotOfTask | None:
    """The slot whose task this thread works for; None outside of tasks."""
    slot: SlotOfTask | None = getattr(_this_thread, "slot", _this_process)
    return slot if slot is not None and slot.call else None


def is_slot_process() -> bool:
    """Whether this process is a slot, and nothing else."""
    return _this_process is not None


def _after_fork_in_child() -> None:
    global _this_process
    _this_process = None
    _this_thread.__dict__.clear()


on_fork(Layer.TASK, _after_fork_in_child)
