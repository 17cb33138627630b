"""Where a task's own code finds the slot that it runs in: what it submits is that task's, and while it waits it helps.

    slot: sets itself, and the call that runs ──► here() ◄── client, joblib backend: submit and wait through it

A thread belongs to the task that has started it: `Thread.start` sees to that, from when there is a slot in this
process. Of those that were started in another way, all of a process slot's belong to its outermost task, others to
none.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from minidask.pickling.byvalue import what_it_has

if TYPE_CHECKING:
    from minidask.data.store import BlobStore
    from minidask.wire.messages import Payload


class SlotConfig(NamedTuple):
    """What a slot has to know of what is around it.

    Attributes:
        store: folder of the machine's blob store.
        scheduler: its address, for what tasks submit themselves.
        access_file: with the secret for that; empty for the usual places.
    """

    store: str
    scheduler: str
    access_file: str


class SlotOfTask(Protocol):
    """A slot, as seen from the code of its task.

    Attributes:
        scheduler: the address of its scheduler.
        access_file: with the secret for that; empty for the usual places.
        store: the machine's large data.
        client: the shell of the client of its tasks, once one of them has needed it; else None.
        described: gives the blobs that describe the caller of the task that runs; None where that is this process.
    """

    scheduler: str
    access_file: str
    store: BlobStore
    client: Any
    described: Callable[[], Mapping[bytes, Payload]] | None

    @property
    def call(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty between tasks."""

    def work_for(self, call: list[int]) -> list[int]:
        """From now on this thread works for a call; returns the one before."""

    def tell_caller(self, channel: str, payload: Payload) -> bool:
        """Send something to the process that this thread's task is from, while that runs; False between tasks."""

    def fileno(self) -> int:
        """What gets readable when there may be a descendant to run."""

    def begin_wait(self, call: list[int]) -> None:
        """A thread of the task, which `call` was, waits from now on."""

    def receive(self) -> None:
        """Read what has come, unless another thread does.

        Raises:
            ConnectionError: the worker daemon has gone, and nothing will come any more.
        """

    def has_call(self) -> bool:
        """Whether something is there to be run, on top of one that waits."""

    def run_call(self) -> None:
        """Run that."""

    def end_wait(self, call: list[int]) -> None:
        """The thread goes on."""


_this_thread = threading.local()
_this_process: SlotOfTask | None = None


def bind_slot(slot: SlotOfTask, *, to_process: bool) -> None:
    """From now on this thread, or all of this process, works for a slot."""
    global _this_process
    _this_thread.slot = slot
    if to_process:
        _this_process = slot
    _have_threads_inherit()


@functools.cache
def _have_threads_inherit() -> None:
    """Put ours in the place of `Thread.start`, once: others may put theirs on top of it."""
    plain_start = threading.Thread.start

    @functools.wraps(plain_start)
    def start(thread: threading.Thread) -> None:
        slot = current_slot()
        if slot is not None and not getattr(thread, "serves_all_tasks", False):
            thread.run = functools.partial(_run_for, slot, slot.call, what_it_has(), thread.run)  # type: ignore[method-assign]
        plain_start(thread)

    threading.Thread.start = start  # type: ignore[method-assign, assignment]


def _run_for(slot: SlotOfTask, call: list[int], share: Callable[[], None], run: Callable[[], None]) -> None:
    threading.current_thread().__dict__.pop("run", None)  # no cycle
    share()
    with working_for(slot, call):
        run()


@contextlib.contextmanager
def working_for(slot: SlotOfTask, call: list[int]) -> Iterator[None]:
    """What this thread does in the block is for a call."""
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
    """In the block, this thread waits for what a call has submitted: its slot may run that."""
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


os.register_at_fork(after_in_child=_after_fork_in_child)
