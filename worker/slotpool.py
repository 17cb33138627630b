"""The slots as processes or threads: start, talk to, interrupt, kill, and notice the end of each.

The pool decides nothing. It tells its owner, through `PoolEvents`, what slots say, print and how they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

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
    """What the owner of a pool is told; every callback's first argument is the slot's number."""

    message: Callable[[int, Message], None]
    output: Callable[[int, str, bytes], None]
    exited: Callable[[int, str, str], None]


class SlotHandle(Protocol):
    """One live slot, however it is made."""

    pid: int

    def send(self, message: Message) -> None: ...
    def flush(self) -> None: ...
    def interrupt(self, task: int, attempt: int) -> None: ...
    def kill(self) -> None: ...
    def retire(self) -> None: ...
    def lingers(self) -> bool: ...
    def sweep(self) -> None: ...


class SlotFactory(Protocol):
    """Makes slots; `ProcessSlot` and `ThreadSlot` do."""

    def __call__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> SlotHandle: ...


class ProcessSlot:
    """A slot in a process of its own: one that was `launched` before, or a new one."""

    def __init__(
        self,
        number: int,
        events: PoolEvents,
        environment: Mapping[str, str],
        slot_config: SlotConfig,
        launched: Launched | None = None,
    ) -> None:
        self._number = number
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._process, sock, self._pipes, self._stops = launched or launch(environment, slot_config)
        self.pid = self._process.pid
        self._printed = select.poll()
        for stream, pipe in self._pipes.items():
            os.set_blocking(pipe, False)
            self._printed.register(pipe, select.POLLIN)
            self._loop.add_reader(pipe, self._read_pipe, stream)
        self._link = MessageLink(None, lambda link: None, self._received, self._closed)
        self._connecting = self._loop.create_task(_adopt(self._link, sock))
        self._link_open, self._alive = True, True
        watch(self._process, self._process_ended)

    # --- commands ---

    def send(self, message: Message) -> None:
        self._link.send(message)

    def flush(self) -> None:
        self._link.flush()

    def interrupt(self, task: int, attempt: int) -> None:
        """Interrupt this call, and no other that may run there by the time that the signal comes."""
        with contextlib.suppress(ProcessLookupError, OSError):
            os.write(self._stops, STOP.pack(task, attempt))
            os.kill(self.pid, signal.SIGINT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def lingers(self) -> bool:
        """Whether something that the slot has started still runs; its process group is named after it."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def sweep(self) -> None:
        """Kill what the slot has started and left running."""
        self._signal_group(signal.SIGKILL)

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def retire(self) -> None:
        self._link.close()

    # --- what happens to it ---

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
            self.kill()  # what it has sent is no message: something in it writes where it must not
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


async def _adopt(link: MessageLink, sock: socket.socket) -> None:
    await asyncio.get_running_loop().create_unix_connection(lambda: link, sock=sock)


def explain_exit(returncode: int) -> tuple[str, str]:
    """What a process's end looked like, and a guess at its cause."""
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


class ThreadSlot:
    """A slot in a thread of this process: nothing is copied to start it, and nothing can stop its running call."""

    def __init__(
        self, number: int, events: PoolEvents, environment: Mapping[str, str], slot_config: SlotConfig
    ) -> None:
        self._number = number
        self._events = events
        self._slot_config = slot_config
        self.pid = os.getpid()
        ours, self._theirs = socket.socketpair()
        self._link = MessageLink(None, lambda link: None, self._received, self._closed)
        self._connecting = asyncio.get_running_loop().create_task(_adopt(self._link, ours))
        threading.Thread(target=self._serve, name=f"minidask-slot-{number}", daemon=True).start()

    def send(self, message: Message) -> None:
        self._link.send(message)

    def flush(self) -> None:
        self._link.flush()

    def interrupt(self, task: int, attempt: int) -> None:
        """A thread cannot be interrupted; its call goes on, and its outcome is dropped."""

    def kill(self) -> None:
        """Leave the thread to itself: it ends after the call that it runs."""
        self._link.abort()

    def retire(self) -> None:
        self._link.close()

    def lingers(self) -> bool:
        """There is nothing that a thread leaves behind."""
        return False

    def sweep(self) -> None:
        """As above."""

    def _serve(self) -> None:
        with self._theirs, contextlib.suppress(ConnectionError):
            Slot(self._theirs, self._slot_config, None).serve()

    def _received(self, link: MessageLink, messages: list[Message]) -> None:
        for message in messages:
            self._events.message(self._number, message)

    def _closed(self, link: MessageLink, error: MinidaskError | OSError | None) -> None:
        self._events.exited(self._number, "the end of its thread", "it was told to end")
