"""Slots as the worker's shell drives them: each is a process, or a thread with `processes=False`. Nothing is decided.

    shell ── send, interrupt, kill, retire ──► ProcessSlot ── socket, stop pipe, signals ──► the slot's process
          ◄─ PoolEvents: message, output, exited ──┘       ◄─ socket, stdout, stderr, SIGCHLD ──┘

What a process sends comes over four ways, and the kernel keeps no order among them. The shell must see the output of a
call before its result, and the end of a slot after its last message. So before messages of the socket are passed on,
the pipes are read; and the end is reported only when the process has ended and the socket is closed too.

A process may leave children, which hold its socket and pipes open. When a slot has ended, its process group is asked to
end, gets a second for it, and is killed. The process is waited for once its last message was read. Until then no other
process can get its number, which the slot's files in the store carry.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import psutil

from minidask.errors import MinidaskError
from minidask.host.usage import used_by
from minidask.net.transport import MessageLink
from minidask.task.context import SlotConfig
from minidask.wire.messages import Message

from .children import watch
from .launch import Launched, launch
from .slot.loop import Slot
from .slot.recorder import Recorder
from .slot.stops import STOP

EXIT_SECONDS = 1.0
READ_BYTES = 64 * 1024


LookAtGroups: TypeAlias = Callable[[], Mapping[int, Sequence[int]]]


class PoolEvents(NamedTuple):
    """Callbacks for what happens to slots. The first argument of each is the slot's number.

    Attributes:
        message: called with a message that the slot has sent.
        output: called with the name of a stream, "stdout" or "stderr", and bytes that the slot has printed.
        exited: called once, with a text that names the end of the slot, and one that guesses its cause.
    """

    message: Callable[[int, Message], None]
    output: Callable[[int, str, bytes], None]
    exited: Callable[[int, str, str], None]


class SlotHandle(abc.ABC):
    """One live slot, as its worker's shell drives it. The methods here fit a slot without a process of its own.

    Args:
        number: names the slot within its worker.
        events: the callbacks for what happens to the slot.
        recorder: has what runs in the slot.
    """

    def __init__(self, number: int, events: PoolEvents, recorder: Recorder) -> None:
        self.recorder = recorder
        self._number = number
        self._events = events
        self._link = MessageLink(None, lambda link: None, self._received, self._closed)

    def _adopt(self, sock: socket.socket) -> None:
        """Let the link use this socket. It is connected in the next turn of the event loop."""
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_unix_connection(lambda: self._link, sock=sock))

    @abc.abstractmethod
    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        """Pass on messages that the slot has sent."""

    @abc.abstractmethod
    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        """Note that the link has ended, by `error`, or because the slot has closed it: then `error` is None."""

    @abc.abstractmethod
    def kill(self) -> None:
        """Kill the slot's process. A slot that is a thread ends only after its running call."""

    def send(self, message: Message) -> None:
        """Queue a message for the slot; `flush` writes it."""
        self._link.send(message)

    def flush(self) -> None:
        """Write all messages that are queued for the slot."""
        self._link.flush()

    def read(self, *, on: bool) -> None:
        """Go on reading what the slot says, or read no more for now: the slot then waits when it says something."""
        self._link.read(on=on)

    def retire(self) -> None:
        """Close the link to the slot. The slot ends once it is idle."""
        self._link.close()

    def interrupt(self, task: int, attempt: int) -> None:  # noqa: B027 - a default
        """Interrupt one call. A call in a thread goes on to its end, and its outcome is dropped."""

    def memory(self, groups: LookAtGroups, most: int | None, of_all: Callable[[], int]) -> int | None:
        """How many bytes of memory only this slot and what it has started use; None if unknown, as for a thread.

        Args:
            groups: called for the processes of each process group.
            most: what it may use; the figure is rough below that.
            of_all: called for the bytes of shared memory that belong to all slots.
        """
        return None

    def lingers(self) -> bool:
        """Whether a process that the slot has started still runs; False for a slot that is a thread."""
        return False

    def sweep(self) -> None:  # noqa: B027 - a default
        """Kill all processes that the slot has started and left running. Does nothing for a thread."""


class SlotFactory(Protocol):
    """A callable that makes a slot: the class `ProcessSlot`, the class `ThreadSlot`, or a function."""

    def __call__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> SlotHandle: ...


class ProcessSlot(SlotHandle):
    """A slot in a process of its own.

    Args:
        number: names the slot within its worker.
        events: the callbacks for what happens to the slot.
        environment: variables of the process, beside the inherited ones.
        slot_config: what the slot has to know.
        launched: a process that was started already; None to start one.

    Raises:
        OSError: the system has no process or descriptor to spare.
    """

    def __init__(
        self,
        number: int,
        events: PoolEvents,
        environment: Mapping[str, str],
        slot_config: SlotConfig,
        launched: Launched | None = None,
    ) -> None:
        self._process, sock, self._pipes, self._stops, self._reads, recorder = launched or launch(
            environment, slot_config
        )
        super().__init__(number, events, recorder)
        self._loop = asyncio.get_running_loop()
        self.pid = self._process.pid
        self._printed = select.poll()
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._printed.register(pipe, select.POLLIN)
            self._loop.add_reader(pipe, self._read_pipe, stream)
        self._adopt(sock)
        self._link_open, self._alive = True, True
        watch(self._process, self._process_ended)

    # --- commands ---

    def interrupt(self, task: int, attempt: int) -> None:
        """Interrupt one call, even if another one runs when the signal arrives; `slot/stops.py` explains how."""
        with contextlib.suppress(ProcessLookupError, OSError):
            os.write(self._stops, STOP.pack(task, attempt))
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def memory(self, groups: LookAtGroups, most: int | None, of_all: Callable[[], int]) -> int | None:
        used = used_by(groups().get(self.pid, [self.pid]), most, of_all)
        if used is not None:
            return used
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or there is no /proc or no descriptor
            memory = psutil.Process(self.pid).memory_info()
            return int(memory.rss - getattr(memory, "shared", 0))
        return None

    def lingers(self) -> bool:
        """Whether a process of the slot's process group still exists."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def sweep(self) -> None:
        """Kill all processes of the slot's process group."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    # --- what happens to the slot ---

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        if self._printed.poll(0):
            for stream in list(self._pipes):
                self._read_pipe(stream)  # output of a call goes before its result
        for message in messages:
            self._events.message(self._number, message)

    def _read_pipe(self, stream: str) -> None:
        pipe = self._pipes.get(stream)
        while pipe is not None:
            self._reads.count()  # first, so that the slot cannot miss it
            try:
                data = os.read(pipe, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._close_pipe(stream)
                return
            self._events.output(self._number, stream, data)
            if len(data) < READ_BYTES:
                return

    def _close_pipe(self, stream: str) -> None:
        pipe = self._pipes.pop(stream, None)
        if pipe is not None:
            self._loop.remove_reader(pipe)
            self._printed.unregister(pipe)
            os.close(pipe)

    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        self._link_open = False
        if error is not None and self._alive:
            self.kill()  # the bytes were no message: code in the slot has written to the socket
        self._maybe_exited()

    def read(self, *, on: bool) -> None:
        super().read(on=on or not self._alive)  # of one that has ended the rest is read, up to its end

    def _process_ended(self) -> None:
        self._alive = False
        self.read(on=True)
        # Its children are asked to end, and get some time. A resource tracker ignores the signal, and cleans up once
        # the last of the processes that it serves has ended.
        self._signal_group(signal.SIGTERM)
        self._loop.call_later(EXIT_SECONDS, self._end_of_grace)
        self._maybe_exited()

    def _end_of_grace(self) -> None:
        self.sweep()
        self._link.abort()  # a child may have held the socket open

    def _maybe_exited(self) -> None:
        """Report the end of the slot, once its process has ended and its last message was read.

        Until then the process is not waited for. So its number, and with it its files in the store, stay its own.
        """
        if self._link_open or self._alive:
            return
        self._process.wait()
        for stream in list(self._pipes):
            self._read_pipe(stream)
            self._close_pipe(stream)
        os.close(self._stops)
        self._stops = -1
        self._reads.close()
        self.recorder.close()
        self._events.exited(self._number, *explain_exit(self._process.returncode))


def explain_exit(returncode: int) -> tuple[str, str]:
    """Describe the end of a process by its return code: a text that names it, and a guess at its cause."""
    if returncode >= 0:
        return f"exit code {returncode}", "the task, or a library it uses, called os._exit"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    guesses = {
        "SIGKILL": "the kernel's out-of-memory killer, or somebody's kill -9",
        "SIGSEGV": "a crash in compiled code",
        "SIGBUS": "a crash in compiled code, or a memory-mapped file that shrank or had no room",
        "SIGABRT": "compiled code gave up: see what it printed",
        "SIGFPE": "an arithmetic error in compiled code",
        "SIGILL": "compiled code for another kind of processor",
        "SIGTERM": "somebody ended it",
    }
    return name, guesses.get(name, "the cause is unknown")


class ThreadSlot(SlotHandle):
    """A slot in a thread of this process. It starts at once, but its running call cannot be stopped.

    Args:
        number: names the slot within its worker.
        events: the callbacks for what happens to the slot.
        environment: ignored, as a thread shares the variables of its process.
        slot_config: what the slot has to know.
    """

    def __init__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> None:
        super().__init__(number, events, Recorder())
        self._slot_config = slot_config
        ours, self._theirs = socket.socketpair()
        self._adopt(ours)
        threading.Thread(target=self._serve, name=f"minidask-slot-{number}", daemon=True).start()

    def kill(self) -> None:
        """Close the link. The thread ends after the call that it runs; the outcome of that call is dropped."""
        self._link.abort()

    def _serve(self) -> None:
        with self._theirs, contextlib.suppress(ConnectionError):
            Slot(self._theirs, self._slot_config, None, recorder=self.recorder).serve()

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            self._events.message(self._number, message)

    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        self._events.exited(self._number, "the end of its thread", "it was told to end")
