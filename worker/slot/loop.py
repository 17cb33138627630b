"""A slot: one process, one loop. Read a call, run it in the main thread, reply.

    daemon ─► socket ─► _receive ─► _given ─► _run ─► _outcome ─► _called ─► the user's function
                                                │                   └─ raised ─► failures.failed
                                                └─► Done or Failed ─► socket ─► daemon

A slot may be killed at any moment: it holds nothing that is not also held elsewhere. SIGINT stops a call (`stops.py`).
The same loop, in a thread and without signals, serves `processes=False`.

A task that waits for its own tasks lends its slot to them: `begin_wait`, `receive`, `run_call` and `end_wait` run them
on the same stack, one level deeper. `worker/lending.py` tells why, and `minidask/task/context.py` who calls these.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minidask.data.store import DISK, BlobStore
from minidask.errors import MinidaskError, SchedulerLost
from minidask.host.signals import handler_of
from minidask.pickling.payload import SlotBlobs, handed_over, loads
from minidask.pickling.sharing import dumps
from minidask.task import batch
from minidask.task.context import SlotConfig, bind_slot
from minidask.task.retries import tries_again
from minidask.task.session import refuse_other_python
from minidask.wire import messages as m
from minidask.wire.codec import decode, encode
from minidask.wire.frames import AUTHENTICATED, FrameDecoder

from . import failures
from .caller import Caller
from .lease import Lease
from .logs import Logs
from .reads import OutputCount
from .recorder import Recorder
from .stops import RunningCall, RunningCalls

MAX_IOVEC = 512


class Slot:
    """The loop of one slot, and what the code of its tasks finds there (`SlotOfTask`).

    Args:
        sock: the connected socket to the worker daemon, blocking.
        slot_config: the store, and how tasks find the scheduler.
        stops: descriptor of the stop pipe; None if the process is not the slot's own. The slot then leaves signals,
            import paths and logging alone.
        reads: counts the daemon's readings of output; None if the process is not the slot's own.
        recorder: is told what runs; None: a new one.

    Attributes:
        told: whether the call that runs has told its caller something.
    """

    def __init__(
        self, sock: socket.socket, slot_config: SlotConfig, stops: int | None, reads: OutputCount | None = None,
        recorder: Recorder | None = None,
    ) -> None:  # fmt: skip
        self.scheduler = slot_config.scheduler
        self.access_file = slot_config.access_file
        self.tls = slot_config.tls
        self.uid = slot_config.uid
        self.store = BlobStore(slot_config.store)
        self.client: Any = None
        self._sock = sock
        self._alone = stops is not None
        self._reads = reads
        self._recorder = recorder or Recorder()
        self._lease: Lease | None = None
        self._yield: m.Yield | None = None  # the last one, which may come together with its lease
        self.told = False
        self._pid = os.getpid()
        self._decoder = FrameDecoder(AUTHENTICATED)
        self._blobs = SlotBlobs(self.store, to_process=self._alone)
        self._session: bytes | None = None
        self._describing = 1  # so many of a task's blobs describe its caller
        self._caller: Caller | None = None
        self.described: Callable[[], Mapping[bytes, m.Payload]] | None = None
        if self._alone:
            self._caller = Caller(self._blobs, (self.store.folder / DISK).resolve() / "code")
            self.described = self._caller.describe
            self._logs = Logs(self.tell_caller)
        self._calls = RunningCalls(stops)
        self._given: collections.deque[m.Run] = collections.deque()  # calls that have come and not begun
        self._waiting: dict[tuple[int, ...], int] = {}  # by attempt: how many of its threads wait for its own tasks
        self._resumed: list[int] = []  # tasks whose `Resumed` the daemon has not echoed yet
        self._sending = threading.RLock()
        """Held while those, or the running calls, change together with a message about it."""
        self._receiving = threading.Lock()
        self._outgoing: collections.deque[list[memoryview]] = collections.deque()
        self._writing = False

    def serve(self) -> None:
        """Serve calls until the worker daemon closes the socket."""
        bind_slot(self, to_process=self._alone)
        self._heed_stops()
        self.send(m.SlotReady())
        with contextlib.suppress(ConnectionError):  # the daemon is gone: the slot has nobody to work for
            while True:
                with self._receiving:
                    self._receive()
                while self._given:
                    self._run(self._given.popleft())
        if self.client is not None:
            self.client.close()

    def _handle(self, message: m.Message) -> None:
        match message:
            case m.Run():
                if message.host not in self._resumed:
                    self._given.append(message)
            case m.PutBlob(blob, payload):
                self._blobs.put(blob, payload)
                if self._lease is not None:
                    self._lease.blob_came(blob)
            case m.ReleaseBlobs(blobs):
                for blob in blobs:
                    self._blobs.forget(blob)
            case m.Resumed(task):
                self._resumed.remove(task)
            case m.Yield():
                self._yield = message
                if self._lease is not None:
                    self._lease.heed(message)
            case m.BlobLost(blob, text) if self._lease is not None:
                self._lease.blob_lost(blob, text)

    def send(self, message: m.Message) -> None:
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

    # --- for the code of tasks: `minidask.task.context.SlotOfTask` ---

    @property
    def call(self) -> list[int]:
        """Number and attempt of the task that this thread works for; empty between tasks."""
        return self._calls.current

    def work_for(self, call: list[int]) -> list[int]:
        """Have this thread work for an attempt from now on. Returns the attempt before; empty if there was none."""
        return self._calls.work_for(call)

    def tell_caller(self, channel: str, payload: m.Payload) -> bool:
        """Send a payload to the process that this thread's task comes from. Returns False between tasks."""
        call = self.call
        if call:
            self.told = True
            self.send(m.TaskMessage(call[0], call[1], channel, payload))
        return bool(call)

    def fileno(self) -> int:
        """The descriptor that gets readable when there may be a call to run."""
        return self._sock.fileno()

    def begin_wait(self, call: list[int]) -> None:
        """Note that a thread of this attempt waits. The first one to wait has the daemon lend the slot."""
        with self._sending:
            if self._calls.runs(call):
                threads = self._waiting[tuple(call)] = self._waiting.get(tuple(call), 0) + 1
                if threads == 1:
                    self.send(m.Waiting(*call))

    def end_wait(self, call: list[int]) -> None:
        """Note that a thread of this attempt resumes. With the last one, guests that have not begun are dropped."""
        with self._sending:
            threads = self._waiting.get(tuple(call), 0)
            if threads > 1:
                self._waiting[tuple(call)] = threads - 1
            elif threads:
                del self._waiting[tuple(call)]
                self._given = collections.deque(run for run in self._given if run.host != call[0])
                self._resumed.append(call[0])
                self.send(m.Resumed(*call))

    def cut_off(self, call: Sequence[int]) -> None:
        """Note that an attempt has lost its tasks with their scheduler: it is tried again, whatever it ends with."""
        self._calls.cut_off(call)

    def receive(self, *, wait: bool = False) -> None:
        """Read and handle messages, blocking until some come; return at once if another thread reads already.

        Args:
            wait: wait until that other thread has read, and read then.

        Raises:
            ConnectionError: the daemon has gone.
        """
        if self._receiving.acquire(blocking=wait):
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
        """Whether a guest is there to be run, on top of a call that waits. Any thread that waits may run it."""
        return bool(self._given)

    def run_call(self) -> None:
        """Run the next lent call, and reply. Its host counts as waiting until the call ends."""
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

    def _run(self, run: m.Run) -> None:
        """Run a call, on top of the calls that wait in this thread, and reply."""
        call = self._calls.begin(run.task, run.attempt)
        try:
            outcome: m.Message = self._served(run, call) if run.lease else self.outcome(run, call)
            if call.cut_off and not run.lease:
                text = "the tasks within it were lost with their scheduler"
                outcome = m.Stopped(run.task, run.attempt, m.CUT_OFF, text)
        except BaseException:
            self._calls.end(call)
            raise
        self.flush_output(call)
        with self._sending:
            self._waiting.pop(tuple(call.attempt), None)  # a thread that it has left behind may still wait
            self.send(outcome)
            self._calls.end(call)  # last: from now on a stop may raise in the call below

    def flush_output(self, call: RunningCall) -> None:
        """Write out what a call that has ended has printed, and take back the signal that it may have taken."""
        if self._alone:
            failures.flush_output()
        if not call.before:  # no call below it has a handler to lose
            self._heed_stops()

    def _served(self, run: m.Run, call: RunningCall) -> m.Message:
        """Run the calls of a lease."""
        began = time.perf_counter()
        if self._reads is None:
            return self.failed(run, MinidaskError("a slot in a thread takes no lease"), began)
        try:
            self._lease = Lease(self, run, call, self._reads)
            if self._yield is not None:
                self._lease.heed(self._yield)
        except OSError as error:
            return self.failed(run, error, began)
        try:
            return self._lease.serve()
        finally:
            self._lease = None

    def has_unfinished(self, call: RunningCall) -> bool:
        """Whether a call has left tasks, or threads that wait for tasks, behind."""
        return bool(self._waiting) or (self.client is not None and len(self.client.core) > 0)

    def lacking(self, blobs: list[bytes]) -> list[bytes]:
        """Those blobs that the slot does not have."""
        return self._blobs.lacking(blobs)

    def _heed_stops(self) -> None:
        """Take SIGINT, also back from a task, or from a library, that has taken it for itself."""
        ours = self._alone and threading.get_ident() == threading.main_thread().ident
        if ours and handler_of(signal.SIGINT) != self._calls.interrupt:
            signal.signal(signal.SIGINT, self._calls.interrupt)

    def outcome(self, run: m.Run, call: RunningCall, number: int = 0) -> m.Done | m.Failed:
        """Run a call in the caller's session, again if it is to be. Returns the message that tells how it ended.

        Args:
            number: the client's for a call of a lease.
        """
        began = self._recorder.begin(run, number, bool(call.before))
        outcome: m.Done | m.Failed | None = None
        tries = 0
        while outcome is None:
            tries += 1
            try:
                if not call.before:  # the call below it has the same caller, and its own working directory
                    self._apply_session(run)
            except BaseException as error:  # noqa: BLE001 - this task alone fails
                outcome = self.failed(run, error, began)
                break
            blobs = self._blobs.begin(run.blobs[self._describing :], run.payload)
            try:
                outcome = self._called(run, call, began, tries)
            finally:
                blobs.end()
        self._recorder.end(began, isinstance(outcome, m.Failed))
        return outcome

    def _called(self, run: m.Run, call: RunningCall, began: float, tries: int) -> m.Done | m.Failed | None:
        """Unpickle a call and run it. Returns None if it has raised and is to be tried again."""
        function: Any = None
        try:
            try:
                call.interruptible = True
                function, args, kwargs = loads(run.payload, f"task {run.name!r}")
                if run.timeout is not None and tries == 1:
                    self.send(m.Began(run.task, run.attempt))
                result = batch.run_task(function, args, kwargs)
                if os.getpid() != self._pid:
                    failures.end_fork(None)
                payload = dumps(result, f"the result of task {run.name!r}, of type {type(result).__name__},")
            finally:
                call.interruptible = False
            payload = handed_over(payload, self.store)
            return m.Done(run.task, run.attempt, time.perf_counter() - began, payload)
        except KeyboardInterrupt as error:
            call.interruptible = False
            if call.cut_import:
                os._exit(0)  # half an import cannot be mended: the daemon starts a fresh slot
            return self.failed(run, error, began, tries)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            call.interruptible = False
            ended = call.stopped or call.stop_pending or os.getpid() != self._pid
            if not ended and tries_again(function, error, tries):
                return None
            return self.failed(run, error, began, tries)

    def failed(self, run: m.Run, error: BaseException, began: float, tries: int = 1) -> m.Failed:
        """The message for a call that raised; in a fork of the slot, ends that process instead."""
        if os.getpid() != self._pid:
            failures.end_fork(error)
        seconds = time.perf_counter() - began
        if isinstance(error, SchedulerLost) and self.client is not None and self.client.core.lost:
            self.cut_off([run.task, run.attempt])
        if self._caller is not None:
            self._caller.explain(error)
        in_session = bool(run.blobs) and run.blobs[0] == self._session
        session = self._blobs.resolve(run.blobs[0]) if in_session else None
        return failures.failed(error, run, seconds, session, (__file__, batch.__file__), tries)

    # --- the caller's session ---

    def _apply_session(self, run: m.Run) -> None:
        """Take over the session of the task's caller, which is its first blob, and go to the caller's directory."""
        if run.blobs and run.blobs[0] != self._session:
            self._begin_session(run)
        if self._caller is not None:
            self._caller.go_home()

    def _begin_session(self, run: m.Run) -> None:
        self._session = None  # if the new session cannot be taken over, the old one is not in force either
        session = self._blobs.resolve(run.blobs[0])
        refuse_other_python(session)
        self._describing = 2 if session["code"] else 1
        if self._caller is not None:
            self._caller.take_over(run.blobs[0], session)
            self._logs.take_over(session)
        self._session = run.blobs[0]
