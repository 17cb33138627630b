"""A slot: one process, one loop. Read a call, run it in the main thread, reply.

It may be killed at any moment: it holds nothing that is not also held elsewhere. SIGINT asks the call
that the pipe for stops names to end, as Ctrl-C would; one that is over is left in peace. The same loop, in a thread
and without signals, serves `processes=False`.

A call that waits for calls of its own runs them, and theirs, in the same loop, one level deeper: `minidask.nesting`.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from types import FrameType, TracebackType
from typing import Any

from minidask import batch
from minidask.blobstore import BlobStore
from minidask.errors import SerializationError, TaskError, VersionMismatch
from minidask.nesting import Surroundings, belongs_to
from minidask.payload import BlobTable, dumps, handed_over, loads, use_blobs
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.messages import (
    Done,
    Failed,
    Message,
    PutBlob,
    ReleaseBlobs,
    Resumed,
    Run,
    SlotReady,
    Waiting,
)

from .missing import explained
from .modules import forget_changed

MAX_TRACEBACK = 64 * 1024
MAX_IOVEC = 512
STOP = struct.Struct("<QQ")
"""A task's number and attempt, in the pipe for stops."""


class Slot:
    """The loop of one slot.

    Args:
        sock: the connected socket to the worker daemon, blocking.
        around: what is around it.
        stops: the pipe that names calls to be stopped; None if the process is not the slot's own: then it does not
            set signals, paths and logging.
    """

    def __init__(self, sock: socket.socket, around: Surroundings, stops: int | None) -> None:
        self.scheduler = around.scheduler
        self.access_file = around.access_file
        self.store = BlobStore(around.store)
        self.client: Any = None
        self._sock = sock
        self._stops = stops
        self._alone = stops is not None
        self._decoder = FrameDecoder(AUTHENTICATED)
        self._blobs = BlobTable(self.store)
        self._session: bytes | None = None
        self._modules: dict[str, str] = {}
        self._in_call = False
        self._interrupted = False  # since the last call began
        self._calls: list[list[int]] = []  # those that run, outermost first, as number and attempt
        self._given: collections.deque[Run] = collections.deque()  # to be run next
        self._this_thread = threading.local()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._resumed = 0  # how often the daemon has still to take note that a call has gone on

    def serve(self) -> None:
        """Serve calls until the worker daemon closes the socket."""
        belongs_to(self, whole_process=self._alone)
        if self._alone:
            signal.signal(signal.SIGINT, self._interrupt)
        self._send(SlotReady(os.getpid()))
        with contextlib.suppress(ConnectionError):  # the daemon is gone, and with it all reason to be here
            while True:
                with self._receiving:
                    self._receive()
                while self._given:
                    self.run_call()

    def _handle(self, message: Message) -> None:
        match message:
            case Run():
                if not message.host or not self._resumed:
                    self._given.append(message)
            case PutBlob(blob, payload):
                self._blobs.put(blob, payload)
            case ReleaseBlobs(blobs):
                for blob in blobs:
                    self._blobs.forget(blob)
            case Resumed():
                self._resumed -= 1

    def _send(self, message: Message) -> None:
        pieces = [memoryview(piece) for piece in encode(message)]
        with self._sending:  # the outermost call may end while another thread of it runs one of its own
            while pieces:
                sent = self._sock.sendmsg(pieces[:MAX_IOVEC])
                while pieces and sent >= len(pieces[0]):
                    sent -= len(pieces.pop(0))
                if sent:
                    pieces[0] = pieces[0][sent:]

    # --- for a call that waits for calls of its own; see `minidask.nesting.TaskSlot` ---

    @property
    def call(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty between tasks."""
        own: list[int] | None = getattr(self._this_thread, "call", None)
        return own or (self._calls[0] if self._calls else [])

    def fileno(self) -> int:
        """What gets readable when there may be a call to run."""
        return self._sock.fileno()

    def begin_wait(self, call: list[int]) -> None:
        """The task, which `call` was, waits from now on."""
        self._send(Waiting(*call))

    def receive(self) -> None:
        """Read what has come, unless another thread does.

        Raises:
            ConnectionError: the daemon has gone.
        """
        if self._receiving.acquire(blocking=False):
            try:
                self._receive()
            finally:
                self._receiving.release()

    def _receive(self) -> None:
        count = self._sock.recv_into(self._decoder.get_buffer())
        if not count:
            raise ConnectionAbortedError("the worker daemon of this task is gone")
        for frame in self._decoder.received(count):
            self._handle(decode(frame))

    def has_call(self, call: list[int]) -> bool:
        """Whether there is a call to run, and the one that waits for it goes on at all."""
        return bool(self._given) and call in self._calls

    def run_call(self) -> None:
        """Run it, and reply."""
        outer = self._in_call
        try:
            outcome = self._run(self._given.popleft())
            if self._alone:
                _flush_output()
            self._send(outcome)
        finally:
            self._in_call = outer

    def end_wait(self, call: list[int]) -> None:
        """The task goes on. What was sent to be run meanwhile, and not begun, is void."""
        if call in self._calls:
            self._given.clear()
        self._resumed += 1
        self._send(Resumed(*call))

    # --- one call ---

    def _run(self, run: Run) -> Message:
        """Run a call, on top of those that wait for it, if there are any."""
        outer, call = getattr(self._this_thread, "call", None), [run.task, run.attempt]
        self._calls.append(call)
        self._this_thread.call = call
        try:
            return self._outcome(run)
        finally:
            self._calls.remove(call)
            self._this_thread.call = outer

    def _outcome(self, run: Run) -> Message:
        modules, self._interrupted = len(sys.modules), False
        began = time.perf_counter()
        use_blobs(self._blobs)
        try:
            self._apply_session(run)
            try:
                self._in_call = True
                function, args, kwargs = loads(run.payload, f"task {run.name!r}")
                result = batch.run_task(function, args, kwargs)
                payload = dumps(result, f"the result of task {run.name!r}, of type {type(result).__name__},")
            finally:
                self._in_call = False
            payload = handed_over(payload, self.store)
            return Done(run.task, run.attempt, time.perf_counter() - began, payload)
        except KeyboardInterrupt as error:
            self._in_call = False
            if self._interrupted and len(sys.modules) != modules:
                os._exit(0)  # an import may have been cut in two, and that cannot be mended here: start afresh
            return self._failed(run, error, began)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            self._in_call = False
            return self._failed(run, error, began)

    def _failed(self, run: Run, error: BaseException, began: float) -> Failed:
        duration = time.perf_counter() - began
        if run.blobs and run.blobs[0] == self._session:
            worker = f"{os.environ.get('MINIDASK_WORKER', 'local')!r} on {socket.gethostname()}"
            error = explained(error, run.name, worker, self._blobs.resolve(run.blobs[0]))
        lines = traceback.format_exception(type(error), error, _from_the_task_on(error.__traceback__))
        text = "".join(lines)[-MAX_TRACEBACK:]
        try:
            payload = dumps(_presentable(error, run.name), "the exception")
        except SerializationError:
            payload = []  # the text of the traceback tells it then
        return Failed(run.task, run.attempt, duration, text, payload)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._in_call and self._is_meant():
            self._interrupted = True
            raise KeyboardInterrupt

    def _is_meant(self) -> bool:
        """Whether a stop is for a call that still runs, or from somebody who names none."""
        named = []
        with contextlib.suppress(BlockingIOError):
            while self._stops is not None and (data := os.read(self._stops, STOP.size)):
                named.append(list(STOP.unpack(data)))
        return not named or any(call in self._calls for call in named)

    # --- the caller's session ---

    def _apply_session(self, run: Run) -> None:
        """Take over what importing and logging need of the calling process; a task's first blob describes it."""
        if not run.blobs or run.blobs[0] == self._session:
            return
        session = self._blobs.resolve(run.blobs[0])
        ours, theirs = list(sys.version_info[:2]), list(session["python"])
        if ours != theirs:
            raise VersionMismatch(
                f"the caller runs Python {theirs[0]}.{theirs[1]} and the worker on {socket.gethostname()} Python"
                f" {ours[0]}.{ours[1]}, which cannot run each other's functions: use one version on all machines"
            )
        if self._alone:
            sys.path += [path for path in session["path"] if path not in sys.path]
            self._modules = forget_changed(self._modules, session.get("modules", {}))
            if session["log_level"] < logging.WARNING:
                logging.basicConfig()
            logging.getLogger().setLevel(session["log_level"])
        self._session = run.blobs[0]


def _presentable(error: BaseException, name: str) -> BaseException:
    """An exception that may be raised in the caller without ending it."""
    if isinstance(error, Exception):
        return error
    did = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
    return TaskError(f"task {name!r} {did}, which ends the task and not the program that called it")


def _from_the_task_on(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames around the task's own: they tell the user nothing."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, batch.__file__):
        trace = trace.tb_next
    return trace


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed or replaced by the task: its business
            stream.flush()


def _die_with(parent: int) -> None:
    """Have the kernel end this process when the worker daemon is gone, whatever a task is doing (Linux)."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the worker daemon is gone")


def _yield_to_the_others() -> None:
    """Get the same share of the processor, but do not take it from whoever computes at each message (Linux).

    The daemon and the caller so deal with several messages at a time where there are more processes than cores.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # a sandbox may forbid it: it only saves time
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def main(arguments: list[str]) -> None:
    """The slot process.

    Args:
        arguments: the file descriptors of the socket and of the pipe for stops, the daemon's process id, and what is in
            `Surroundings`.
    """
    sock, stops = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    for descriptor in (sock.fileno(), stops):
        os.set_inheritable(descriptor, False)
    os.set_blocking(stops, False)
    _die_with(int(arguments[2]))
    _yield_to_the_others()
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    Slot(sock, Surroundings(*arguments[3:]), stops).serve()
