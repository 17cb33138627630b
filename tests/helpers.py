"""What tests of several folders call: programs of ours, waiting, and what is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import minidask
from minidask.host.folders import PREFIX, SHARED_MEMORY, is_alive
from minidask.wire.messages import Message, OfferBlob, Submit

DEADLINE = 30.0
RUN = "MINIDASK_TESTS"  # the variable that all processes of a run of the tests share: the number of its first one


def wait_until(condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
    """Wait for a condition, and fail with its name if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} seconds in vain until {what}"
        time.sleep(0.005)


def send_under_alarms(send: Callable[[list[bytes]], None], strike: Callable[..., None], most: int) -> bytes:
    """Send numbered messages until a signal's handler that raises has interrupted 300; returns what is to arrive."""
    before = signal.signal(signal.SIGALRM, strike)
    struck = number = 0
    gc.disable()  # what other tests have left would have its finalizers struck, and Python swallows what they raise
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
        while struck < 300 and number < most:
            number += 1
            try:
                send([b"%09d;" % number, b"x" * (number % 3)])
            except KeyboardInterrupt:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert struck
    return b"".join(b"%09d;" % n + b"x" * (n % 3) for n in range(1, number + 1))


@contextlib.contextmanager
def counted_steps() -> Iterator[list[int]]:
    """Count the calls of functions in the block: a measure of its work that no load of the machine changes."""
    steps = [0]

    def count(*_: object) -> None:
        steps[0] += 1

    sys.setprofile(count)
    try:
        yield steps
    finally:
        sys.setprofile(None)


def our_processes() -> list[psutil.Process]:
    """The processes of minidask that this run of the tests has started, also those whose parents have ended."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(process.info["cmdline"] or [])
        if "minidask" in line and ("from minidask" in line or "minidask-" in line or "-m minidask" in line):
            found.append(process)
    mine = {p.pid for p in psutil.Process().children(recursive=True)}
    run = os.environ[RUN]
    return [p for p in found if (p.pid in mine or (p.info["environ"] or {}).get(RUN) == run) and alive([p.pid])]


def alive(pids: list[int]) -> list[int]:
    """Those of the processes that run; one that ended and that nobody has asked about does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
    return found


def leftovers() -> list[str]:
    """Stores in shared memory that are this process's, or of one that has ended."""
    found = []
    for path in SHARED_MEMORY.glob(f"{PREFIX}[0-9]*-*"):
        pid = int(path.name.removeprefix(PREFIX).partition("-")[0])
        if pid == os.getpid() or not is_alive(pid):
            found.append(str(path))
    return found


def at_rest(client: minidask.Client) -> bool:
    tasks = client.scheduler_info()["tasks"]
    return not tasks["queued"] and not tasks["running"]


def pinned(client: minidask.Client) -> list[Path]:
    """The pins of this process's in the cluster's store, but for those of what describes the process."""
    queues = ("arena", "calls", "results")
    assert client.shell.store is not None
    session: Any = client.shell._session
    own = {blob.hex() for blob in [*session.blobs(), *session._old]}
    found = client.shell.store.folder.glob(f"*.{os.getpid()}-*")
    return [path for path in found if path.name.partition(".")[0] not in {*own, *queues}]


def forget_garbage(client: minidask.Client) -> None:
    """Have released what earlier tests left in cycles, as handles of `scatter=` are: a test counts its own pins."""
    gc.collect()
    assert client.submit(len, "").result(20) == 0
    wait_until(lambda: not pinned(client), "nothing of earlier tests was held")


def offered(messages: list[Message]) -> int:
    """How many pieces of large data were sent ahead."""
    return sum(isinstance(message, OfferBlob) for message in messages)


def largest_task(messages: list[Message]) -> int:
    """Bytes of the largest of the tasks."""
    return max(sum(map(len, message.payload)) for message in messages if isinstance(message, Submit))


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """An address where what comes is dropped, as behind a firewall, or with the cable pulled out."""
    with contextlib.ExitStack() as sockets:
        server = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # nobody accepts: when the line is full, what else comes is dropped
            caller = sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(server.getsockname())
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


class Program:
    """One of our daemons, or a script, as a process whose output is kept in a file."""

    def __init__(self, command: list[str], log: Path, prepare: Callable[[], None] | None, **environment: str) -> None:
        self.log = log
        self._asked = False
        self._file = log.open("w")
        self.process = subprocess.Popen(
            command,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=prepare,
        )

    @property
    def text(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> str:
        """Wait until the program has printed `text`; returns all it printed."""
        wait_until(lambda: text in self.text or self.process.poll() is not None, f"{text!r} was printed")
        assert text in self.text, f"it ended without {text!r}: {self.text}"
        return self.text

    def exit_code(self, seconds: float = DEADLINE) -> int:
        return self.process.wait(seconds)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def ask_to_end(self) -> None:
        """Ask once: a worker takes a second SIGTERM for haste."""
        if not self._asked and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self._asked = True

    def end(self) -> None:
        self.ask_to_end()
        if self.process.poll() is None:
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._file.close()


class Programs:
    """Starts programs; the fixture ends them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[Program] = []

    def start(self, *command: str, prepare: Callable[[], None] | None = None, **environment: str) -> Program:
        """Start a program; `prepare` is called in its process before it begins."""
        program = Program(list(command), self.folder / f"{len(self._started)}.log", prepare, **environment)
        self._started.append(program)
        return program

    def scheduler(self, *options: str) -> tuple[Program, str]:
        """A scheduler on a port of the kernel's choice, and its address."""
        program = self.start(sys.executable, "-m", "minidask.scheduler", "--port", "0", *options)
        text = program.wait_for("minidask.Client(")
        return program, text.split('minidask.Client("')[1].split('"')[0]

    def worker(self, address: str, *options: str) -> Program:
        """A worker that has joined."""
        program = self.start(sys.executable, "-m", "minidask.worker", address, *options)
        program.wait_for("joined the scheduler")
        return program

    def script(self, text: str, *arguments: str, **environment: str) -> Program:
        path = self.folder / f"script{len(self._started)}.py"
        path.write_text(text)
        return self.start(sys.executable, str(path), *arguments, **environment)

    def pids(self) -> list[int]:
        return [program.process.pid for program in self._started]

    def end_all(self) -> None:
        for program in reversed(self._started):
            program.ask_to_end()
        for program in reversed(self._started):
            program.end()


class Started:
    """Programs that run in one folder, each with its children in a session of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._programs: list[subprocess.Popen[str]] = []

    def start(self, file: str, seed: int) -> subprocess.Popen[str]:
        """Start a script of the folder, with this seed for the hashes of texts."""
        program = subprocess.Popen(
            [sys.executable, file],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def kill(self, program: subprocess.Popen[str]) -> str:
        """Kill a program and all of its children, if it still runs; return what it has printed."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        return program.communicate(timeout=20)[0]

    def end_all(self) -> None:
        for program in self._programs:
            if program.returncode is None:
                self.kill(program)


def pids_of(client: minidask.Client) -> set[int]:
    """The processes of a cluster on this machine: its node and its slots."""
    node = psutil.Process(client.scheduler_info()["pid"])
    return {node.pid, *(process.pid for process in node.children())}


def delayed_calls(function: Callable[..., Any], count: int) -> Iterator[Any]:
    """Calls of a function with 0, 1, 2 … for `joblib.Parallel`, as a generator."""
    from joblib import delayed

    return (delayed(function)(i) for i in range(count))
