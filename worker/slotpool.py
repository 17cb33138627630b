"""The slots as processes or threads: start, talk to, interrupt, kill, and notice the end of each.

The pool decides nothing. It tells its owner, through `PoolEvents`, what slots say, print and how they end.
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
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import psutil

from minidask.errors import MinidaskError
from minidask.net.transport import MessageLink
from minidask.task.context import SlotConfig
from minidask.wire.messages import Message

from .children import watch
from .launch import Launched, launch
from .slot.loop import Slot
from .slot.stops import STOP

EXIT_SECONDS = 1.0
READ_BYTES = 64 * 1024


class PoolEvents(NamedTuple):
    """Callbacks for what happens to slots; the first argument of each is the slot's number."""

    message: Callable[[int, Message], None]
    output: Callable[[int, str, bytes], None]
    exited: Callable[[int, str, str], None]


class SlotHandle(abc.ABC):
    """One live slot, as its worker's shell drives it. The defaults are those of a slot without a process of its own."""

    def __init__(self, number: int, events: PoolEvents) -> None:
        self._number = number
        self._events = events
        self._link = MessageLink(None, lambda link: None, self._received, self._closed)

    def _adopt(self, sock: socket.socket) -> None:
        """Let the link talk over this socket, from the event loop's next turn on."""
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_unix_connection(lambda: self._link, sock=sock))

    @abc.abstractmethod
    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        """Take messages of the slot."""

    @abc.abstractmethod
    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        """Note that the link has ended; `error` is what ended it, None if the slot closed it."""

    @abc.abstractmethod
    def kill(self) -> None:
        """End the slot at once, as far as that is possible."""

    def send(self, message: Message) -> None:
        """Queue a message for the slot."""
        self._link.send(message)

    def flush(self) -> None:
        """Write all queued messages."""
        self._link.flush()

    def retire(self) -> None:
        """Close the link: the slot ends once it is idle."""
        self._link.close()

    def interrupt(self, task: int, attempt: int) -> None:  # noqa: B027 - a default
        """Interrupt one call. In a thread that is impossible: the call goes on, and its outcome is dropped."""

    def memory(self) -> int | None:
        """Bytes that only this slot uses; None if that is unknown."""
        return None

    def lingers(self) -> bool:
        """Whether a process that the slot has started still runs."""
        return False

    def sweep(self) -> None:  # noqa: B027 - a default
        """Kill all processes that the slot has started and left running."""


class SlotFactory(Protocol):
    """Makes slots; `ProcessSlot` and `ThreadSlot` do."""

    def __call__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> SlotHandle: ...


class ProcessSlot(SlotHandle):
    """A slot in a process of its own: the `launched` one, or else a new one.

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
        super().__init__(number, events)
        self._loop = asyncio.get_running_loop()
        self._process, sock, self._pipes, self._stops = launched or launch(environment, slot_config)
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
        """Interrupt one call, and no other that may run there when the signal arrives; see `slot/stops.py`."""
        with contextlib.suppress(ProcessLookupError, OSError):
            os.write(self._stops, STOP.pack(task, attempt))
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def memory(self) -> int | None:
        """Resident bytes of the process without shared ones, as the store belongs to all; None if it has ended."""
        with contextlib.suppress(psutil.Error, OSError):  # also where there is no /proc, or no descriptor to spare
            memory = psutil.Process(self.pid).memory_info()
            return int(memory.rss - getattr(memory, "shared", 0))
        return None

    def lingers(self) -> bool:
        """Whether a process of the slot's process group still runs."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def sweep(self) -> None:
        """Kill all processes that the slot has started and left running."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    # --- what happens to the slot ---

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        if self._printed.poll(0):
            for stream in list(self._pipes):
                self._read_pipe(stream)  # what a call printed comes before its result
        for message in messages:
            self._events.message(self._number, message)

    def _read_pipe(self, stream: str) -> None:
        pipe = self._pipes.get(stream)
        while pipe is not None:
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
            self.kill()  # the bytes are no message: code in the slot writes to its socket
        self._maybe_exited()

    def _process_ended(self) -> None:
        self._alive = False
        # What it started is asked to end, and gets the time for it: a resource tracker, which ignores the signal,
        # cleans up once the last of the processes that it serves is gone.
        self._signal_group(signal.SIGTERM)
        self._loop.call_later(EXIT_SECONDS, self._end_of_grace)
        self._maybe_exited()

    def _end_of_grace(self) -> None:
        self.sweep()
        self._link.abort()  # something it forked may have held its socket open

    def _maybe_exited(self) -> None:
        """Report the end once the process is gone and its last message has been read.

        Only then is the process waited for: until then its number, and so what it has left in the store, is its own.
        """
        if self._link_open or self._alive:
            return
        self._process.wait()
        for stream in list(self._pipes):
            self._read_pipe(stream)
            self._close_pipe(stream)
        os.close(self._stops)
        self._stops = -1
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
    """A slot in a thread of this process: nothing is copied to start it, and nothing can stop its running call."""

    def __init__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> None:
        super().__init__(number, events)
        self._slot_config = slot_config
        ours, self._theirs = socket.socketpair()
        self._adopt(ours)
        threading.Thread(target=self._serve, name=f"minidask-slot-{number}", daemon=True).start()

    def kill(self) -> None:
        """Leave the thread to itself: it ends after the call that it runs."""
        self._link.abort()

    def _serve(self) -> None:
        with self._theirs, contextlib.suppress(ConnectionError):
            Slot(self._theirs, self._slot_config, None).serve()

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            self._events.message(self._number, message)

    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        self._events.exited(self._number, "the end of its thread", "it was told to end")
