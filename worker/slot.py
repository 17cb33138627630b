"""A slot: one process, one thread, one loop. Read a call, run it in the main thread, reply.

It may be killed at any moment: it holds nothing that is not also held elsewhere. SIGINT asks the call
that runs now to end, as Ctrl-C would; outside of a call it is ignored. The same loop, in a thread and
without signals, serves `processes=False`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from types import FrameType, TracebackType
from typing import Any

from minidask.blobstore import BlobStore
from minidask.errors import SerializationError, TaskError, VersionMismatch
from minidask.payload import BlobTable, dumps, handed_over, loads, use_blobs
from minidask.wire.frames import AUTHENTICATED, FrameDecoder
from minidask.wire.messages import Done, Failed, Message, PutBlob, ReleaseBlobs, Run, SlotReady, decode, encode

MAX_TRACEBACK = 64 * 1024
MAX_IOVEC = 512


class Slot:
    """The loop of one slot.

    Args:
        sock: the connected socket to the worker daemon, blocking.
        store: folder of the machine's blob store.
        alone: whether the process is the slot's own: then it may set its signals, paths and logging.
    """

    def __init__(self, sock: socket.socket, store: str, *, alone: bool) -> None:
        self._sock = sock
        self._alone = alone
        self._decoder = FrameDecoder(AUTHENTICATED)
        self._store = BlobStore(store)
        self._blobs = BlobTable(self._store)
        self._session: bytes | None = None
        self._in_call = False

    def serve(self) -> None:
        """Serve calls until the worker daemon closes the socket."""
        use_blobs(self._blobs)
        if self._alone:
            signal.signal(signal.SIGINT, self._interrupt)
        self._send(SlotReady(os.getpid()))
        while True:
            count = self._sock.recv_into(self._decoder.get_buffer())
            if not count:
                return
            for frame in self._decoder.received(count):
                self._handle(decode(frame))

    def _handle(self, message: Message) -> None:
        if isinstance(message, Run):
            outcome = self._run(message)
            if self._alone:
                _flush_output()
            self._send(outcome)
        elif isinstance(message, PutBlob):
            self._blobs.put(message.blob, message.payload)
        elif isinstance(message, ReleaseBlobs):
            for blob in message.blobs:
                self._blobs.forget(blob)

    def _send(self, message: Message) -> None:
        pieces = [memoryview(piece) for piece in encode(message)]
        while pieces:
            sent = self._sock.sendmsg(pieces[:MAX_IOVEC])
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if sent:
                pieces[0] = pieces[0][sent:]

    # --- one call ---

    def _run(self, run: Run) -> Message:
        modules = len(sys.modules)
        began = time.perf_counter()
        try:
            self._apply_session(run)
            try:
                self._in_call = True
                function, args, kwargs = loads(run.payload, f"task {run.name!r}")
                result = function(*args, **kwargs)
                payload = dumps(result, f"the result of task {run.name!r}, of type {type(result).__name__},")
            finally:
                self._in_call = False
            payload = handed_over(payload, self._store)
            return Done(run.task, run.attempt, time.perf_counter() - began, payload)
        except KeyboardInterrupt as error:
            self._in_call = False
            if self._alone and len(sys.modules) != modules:
                os._exit(0)  # an import may have been cut in two, and that cannot be mended here: start afresh
            return self._failed(run, error, began)
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its outcome
            self._in_call = False
            return self._failed(run, error, began)

    def _failed(self, run: Run, error: BaseException, began: float) -> Failed:
        duration = time.perf_counter() - began
        lines = traceback.format_exception(type(error), error, _below_this_file(error.__traceback__))
        text = "".join(lines)[-MAX_TRACEBACK:]
        try:
            payload = dumps(_presentable(error, run.name), "the exception")
        except SerializationError:
            payload = []  # the text of the traceback tells it then
        return Failed(run.task, run.attempt, duration, text, payload)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        if self._in_call:
            raise KeyboardInterrupt

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


def _below_this_file(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of the loop itself: they tell the user nothing."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
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
    """The slot process: `arguments` are the socket's file descriptor, the daemon's process id, the store's folder."""
    sock = socket.socket(fileno=int(arguments[0]))
    sock.set_inheritable(False)
    _die_with(int(arguments[1]))
    _yield_to_the_others()
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True, errors="backslashreplace")
    with contextlib.suppress(ConnectionError):  # the daemon is gone, and with it all reason to be here
        Slot(sock, arguments[2], alone=True).serve()
