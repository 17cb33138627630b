"""A slot: one process, one loop. Read a call, run it in the main thread, reply.

It may be killed at any moment: it holds nothing that is not also held elsewhere. SIGINT asks the call
that the pipe for stops names to end, as Ctrl-C would; one that is over is left in peace (`calls.py`). The same loop, in
a thread and without signals, serves `processes=False`.

A call that waits for calls of its own runs them, and theirs, one level deeper: see `minidask.task.context`.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, NoReturn

from minidask.data.store import DISK, BlobStore
from minidask.errors import SerializationError, TaskError, VersionMismatch
from minidask.pickling import tracebacks
from minidask.pickling.payload import SlotBlobs, dumps, handed_over, loads
from minidask.task import batch
from minidask.task.context import SlotConfig, bind_slot
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.messages import (
    Done,
    Failed,
    Message,
    Payload,
    PutBlob,
    ReleaseBlobs,
    Resumed,
    Run,
    SlotReady,
    TaskMessage,
    Waiting,
)

from .caller import Caller
from .logs import Logs
from .missing import explained
from .stops import RunningCall, RunningCalls

MAX_IOVEC = 512


class Slot:
    """The loop of one slot.

    Args:
        sock: the connected socket to the worker daemon, blocking.
        slot_config: what is around it.
        stops: the pipe that names calls to be stopped; None if the process is not the slot's own: then it does not
            set signals, paths and logging.
    """

    def __init__(self, sock: socket.socket, slot_config: SlotConfig, stops: int | None) -> None:
        self.scheduler = slot_config.scheduler
        self.access_file = slot_config.access_file
        self.store = BlobStore(slot_config.store)
        self.client: Any = None
        self._sock = sock
        self._alone = stops is not None
        self._pid = os.getpid()
        self._decoder = FrameDecoder(AUTHENTICATED)
        self._blobs = SlotBlobs(self.store, to_process=self._alone)
        self._session: bytes | None = None
        self._describing = 1  # so many of a task's blobs tell of its caller
        self._caller: Caller | None = None
        self.described: Callable[[], Mapping[bytes, Payload]] | None = None
        if self._alone:
            self._caller = Caller(self._blobs, (self.store.folder / DISK).resolve() / "code")
            self.described = self._caller.describe
            self._logs = Logs(self.tell_caller)
        self._calls = RunningCalls(stops)
        self._given: collections.deque[Run] = collections.deque()  # to be run next
        self._waiting: dict[tuple[int, ...], int] = {}  # by call: how many threads wait for what it has submitted
        self._resumed: list[int] = []  # tasks of which the daemon has still to take note that they go on
        self._sending = threading.RLock()  # held while that, or which calls run, changes with what is said of it
        self._receiving = threading.Lock()
        self._outgoing: collections.deque[list[memoryview]] = collections.deque()
        self._writing = False

    def serve(self) -> None:
        """Serve calls until the worker daemon closes the socket."""
        bind_slot(self, to_process=self._alone)
        self._heed_stops()
        self._send(SlotReady())
        with contextlib.suppress(ConnectionError):  # the daemon is gone, and with it all reason to be here
            while True:
                with self._receiving:
                    self._receive()
                while self._given:
                    self._run(self._given.popleft())
        if self.client is not None:
            self.client.close()

    def _handle(self, message: Message) -> None:
        match message:
            case Run():
                if message.host not in self._resumed:
                    self._given.append(message)
            case PutBlob(blob, payload):
                self._blobs.put(blob, payload)
            case ReleaseBlobs(blobs):
                for blob in blobs:
                    self._blobs.forget(blob)
            case Resumed(task):
                self._resumed.remove(task)

    def _send(self, message: Message) -> None:
        call = self._calls.put_off_stops()  # a frame must not be torn by one
        try:
            self._outgoing.append([memoryview(piece) for piece in encode(message)])
            with self._sending:
                if not self._writing:  # else garbage collection has led here from a write, which goes on with this
                    self._writing = True
                    try:
                        self._write()
                    finally:
                        self._writing = False
        finally:
            if call is not None:
                self._calls.heed_stops(call)

    def _write(self) -> None:
        while self._outgoing:
            pieces = self._outgoing.popleft()
            while pieces:
                sent = self._sock.sendmsg(pieces[:MAX_IOVEC])
                while pieces and sent >= len(pieces[0]):
                    sent -= len(pieces.pop(0))
                if sent:
                    pieces[0] = pieces[0][sent:]

    # --- for a call that waits for calls of its own; see `minidask.task.context.SlotOfTask` ---

    @property
    def call(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty between tasks."""
        return self._calls.own

    def work_for(self, call: list[int]) -> list[int]:
        """From now on this thread works for a call; returns the one before."""
        return self._calls.work_for(call)

    def tell_caller(self, channel: str, payload: Payload) -> bool:
        """Send something to the process that this thread's task is from; False between tasks."""
        call = self.call
        if call:
            self._send(TaskMessage(call[0], call[1], channel, payload))
        return bool(call)

    def fileno(self) -> int:
        """What gets readable when there may be a call to run."""
        return self._sock.fileno()

    def begin_wait(self, call: list[int]) -> None:
        """A thread of the task, which `call` was, waits from now on."""
        with self._sending:
            if self._calls.runs(call):
                threads = self._waiting[tuple(call)] = self._waiting.get(tuple(call), 0) + 1
                if threads == 1:
                    self._send(Waiting(*call))

    def end_wait(self, call: list[int]) -> None:
        """It goes on. If it was the last one, what was sent to be run meanwhile, and not begun, is void."""
        with self._sending:
            threads = self._waiting.get(tuple(call), 0)
            if threads > 1:
                self._waiting[tuple(call)] = threads - 1
            elif threads:
                del self._waiting[tuple(call)]
                self._given = collections.deque(run for run in self._given if run.host != call[0])
                self._resumed.append(call[0])
                self._send(Resumed(*call))

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

    def has_call(self) -> bool:
        """Whether there is a call to be run: on top of one that waits, in whichever thread looks first."""
        return bool(self._given)

    def run_call(self) -> None:
        """Run it, and reply; the one below it waits for as long."""
        with self._sending:
            if not self._given:
                return
            run = self._given.popleft()
            host = next((list(call) for call in self._waiting if call[0] == run.host), [])
            if host:
                self.begin_wait(host)
        try:
            self._run(run)
        finally:
            if host:
                self.end_wait(host)

    # --- one call ---

    def _run(self, run: Run) -> None:
        """Run a call, on top of those that wait for it, if there are any, and reply."""
        call = self._calls.begin(run.task, run.attempt)
        try:
            outcome = self._outcome(run, call)
        except BaseException:
            self._calls.end(call)
            raise
        if self._alone:
            _flush_output()
        if not call.before:  # nothing below it has a handler to lose
            self._heed_stops()
        with self._sending:
            self._waiting.pop(tuple(call.name), None)  # a thread that it has left behind may still do
            self._send(outcome)
            self._calls.end(call)  # last: now a stop for the one below may interrupt

    def _heed_stops(self) -> None:
        """Have stops come to us, also after a task or what it has imported has taken SIGINT for itself."""
        ours = self._alone and threading.get_ident() == threading.main_thread().ident
        if ours and signal.getsignal(signal.SIGINT) != self._calls.interrupt:
            signal.signal(signal.SIGINT, self._calls.interrupt)

    def _outcome(self, run: Run, call: RunningCall) -> Message:
        began = time.perf_counter()
        try:
            if not call.before:  # what it is on top of has the same caller, and its own working directory
                self._apply_session(run)
        except BaseException as error:  # noqa: BLE001 - it concerns this task alone
            return self._failed(run, error, began)
        blobs = self._blobs.begin(run.blobs[self._describing :], run.payload)
        try:
            return self._called(run, call, began)
        finally:
            blobs.end()

    def _called(self, run: Run, call: RunningCall, began: float) -> Message:
        try:
            try:
                call.interruptible = True
                function, args, kwargs = loads(run.payload, f"task {run.name!r}")
                result = batch.run_task(function, args, kwargs)
                if os.getpid() != self._pid:
                    _end_fork(None)
                payload = dumps(result, f"the result of task {run.name!r}, of type {type(result).__name__},")
            finally:
                call.interruptible = False
            payload = handed_over(payload, self.store)
            return Done(run.task, run.attempt, time.perf_counter() - began, payload)
        except KeyboardInterrupt as error:
            call.interruptible = False
            if call.cut_import:
                os._exit(0)  # what was cut in two cannot be mended here: start afresh
            return self._failed(run, error, began)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            call.interruptible = False
            return self._failed(run, error, began)

    def _failed(self, run: Run, error: BaseException, began: float) -> Failed:
        """The message that says so: the traceback's text, and the pickled pair of exception and notes."""
        if os.getpid() != self._pid:
            _end_fork(error)
        duration = time.perf_counter() - began
        if self._caller is not None:
            self._caller.explain(error)
        worker = os.environ.get("MINIDASK_WORKER", "local")
        call = _call_that_raised(error)
        if run.blobs and run.blobs[0] == self._session:
            where = f"{worker!r} on {socket.gethostname()}"
            error = explained(error, run.name, where, self._blobs.resolve(run.blobs[0]))
        text = tracebacks.remote_text(error, _is_around_the_task)
        notes = [*getattr(error, "__notes__", ()), tracebacks.note(run.name, call, worker)]
        try:
            payload = dumps((_presentable(error, run.name), notes), "the exception")
        except SerializationError:
            payload = dumps((None, notes), "the notes")  # the text of the traceback tells the rest
        return Failed(run.task, run.attempt, duration, text, payload)

    # --- the caller's session ---

    def _apply_session(self, run: Run) -> None:
        """Take over what the task needs of the calling process; its first blob describes that."""
        if run.blobs and run.blobs[0] != self._session:
            self._begin_session(run)
        if self._caller is not None:
            self._caller.go_home()

    def _begin_session(self, run: Run) -> None:
        self._session = None  # if the new one cannot be taken over, the old one is not in force either
        session = self._blobs.resolve(run.blobs[0])
        ours, theirs = list(sys.version_info[:2]), list(session["python"])
        if ours != theirs:
            raise VersionMismatch(
                f"the caller runs Python {theirs[0]}.{theirs[1]} and the worker on {socket.gethostname()} Python"
                f" {ours[0]}.{ours[1]}, which cannot run each other's functions: use one version on all machines"
            )
        self._describing = 2 if session["code"] else 1
        if self._caller is not None:
            self._caller.take_over(run.blobs[0], session)
            self._logs.take_over(session)
        self._session = run.blobs[0]


def _presentable(error: BaseException, name: str) -> BaseException:
    """An exception that may be raised in the caller without ending it."""
    if isinstance(error, Exception):
        return error
    did = f"called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"raised {type(error).__name__}"
    return TaskError(f"task {name!r} {did}, which ends the task and not the program that called it")


def _end_fork(error: BaseException | None) -> NoReturn:
    """End a process that the task has forked and that has come to the task's end: the slot's socket is not its own."""
    code = 0 if error is None else 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    _flush_output()
    os._exit(code & 0xFF)


def _is_around_the_task(frame: FrameType) -> bool:
    return frame.f_code.co_filename in (__file__, batch.__file__)


def _call_that_raised(error: BaseException) -> str:
    """The call of the task in which it was raised, in short; empty if the task did not get so far."""
    call, trace = "", error.__traceback__
    while trace is not None and _is_around_the_task(trace.tb_frame):
        seen = trace.tb_frame.f_locals
        if "function" in seen and "kwargs" in seen and seen["function"] is not batch.run_batch:
            call = tracebacks.short_call(seen["function"], seen["args"], seen["kwargs"])
        trace = trace.tb_next
    return call


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
            `SlotConfig`.
    """
    sock, stops = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    for descriptor in (sock.fileno(), stops):
        os.set_inheritable(descriptor, False)
    os.set_blocking(stops, False)
    _die_with(int(arguments[2]))
    _yield_to_the_others()
    faulthandler.enable()  # a crash in compiled code so tells where, as loky's do
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    Slot(sock, SlotConfig(*arguments[3:]), stops).serve()
