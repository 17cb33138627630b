"""Injects each fault while a search runs, and prints what its user saw, and what was left behind.

    python -m tests.faults [--list] [--times 10] [NAME ...]

Most faults hit a grid search over the digits in the middle. The result has to be that of the sequential search. A line
has the fault, what the user saw, the seconds from the fault until the search went on, and what was left behind. The
exit code is 1 if anything is not as docs/faults.md promises.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import minidask
from bench.hosts import Hosts, ip, possible
from minidask.errors import KilledWorker, TaskTimeout
from minidask.host.folders import PREFIX, SHARED_MEMORY, sweep
from tests.helpers import RUN, Program, Programs, alive, at_rest, our_processes, wait_until

GRID = {"C": [0.1, 0.3, 1, 3, 10, 30, 100], "gamma": [0.0001, 0.001, 0.01]}
FITS = 63
MIDDLE = FITS // 3
"""Fits before the fault."""
IN_FLIGHT = 8
"""Calls that joblib has under way: what may run again when all is killed."""
SAME = "the sequential result"


class Skipped(Exception):
    """A fault cannot be injected here, and why."""


# --- the search ---


def note(notes: str, fit: str = "") -> None:
    """Write that a fit begins, in one piece, whatever others write."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{time.time():.6f} {os.getpid()} {fit}\n".encode())
    os.close(file)


class Noted(SVC):  # type: ignore[misc]
    """A classifier that notes each fit, and once does what the file beside its notes tells it."""

    def __init__(self, C: float = 1.0, gamma: float = 0.001, notes: str = os.devnull) -> None:
        super().__init__(C=C, gamma=gamma)
        self.notes = notes

    def fit(self, X: Any, y: Any) -> Noted:
        note(self.notes, f"{self.C}/{self.gamma}/{X.sum()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self.notes}.fault", f"{self.notes}.done")  # one fit alone succeeds in this
            WITHIN_A_TASK[Path(f"{self.notes}.done").read_text()]()
        time.sleep(0.05)
        return super().fit(X, y)  # type: ignore[no-any-return]


def take_memory() -> None:
    taken = []
    for _ in range(100):
        taken.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.02)


WITHIN_A_TASK: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(1),
    "memory": take_memory,
}


def scores(notes: str) -> list[float]:
    """The search; also what the user's program below runs."""
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(Noted(notes=notes), GRID, cv=3, n_jobs=-1, refit=False).fit(X[:500], y[:500])
    found: list[float] = search.cv_results_["mean_test_score"].tolist()
    return found


def doubled(array: Any, i: int) -> Any:
    return array * 2 + i


def user_program(options: argparse.Namespace) -> None:
    """A search in a program of its own, for faults that hit that program or its machine."""
    place: dict[str, Any] = {"address": options.scheduler} if options.scheduler else {"n_workers": 2}
    kept: dict[str, Any] = {"resume": options.resume} if options.resume else {}
    with minidask.Client(**place) as client, parallel_config("minidask", scheduler=client, **kept):
        client.wait_for_workers(1)
        if options.hang:
            client.gather(client.map(time.sleep, [600] * 4))
        if options.fill:
            with contextlib.suppress(OSError), open("/dev/shm/others", "wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            array = np.arange(1 << 19, dtype=float)
            for i, result in enumerate(Parallel()(delayed(doubled)(array, i) for i in range(6))):
                assert (result == array * 2 + i).all()
        print("scores", scores(options.user), flush=True)


class Note(NamedTuple):
    """A fit has begun: when, in which process, and which one."""

    when: float
    pid: int
    fit: str


class Scene:
    """Where a fault is injected: a folder, programs, a search, and the moment of the fault."""

    def __init__(self, folder: Path, expected: list[float], times: int) -> None:
        self.folder = folder
        self.expected = expected
        self.times = times
        self.notes = folder / "notes"
        self.programs = Programs(folder)
        self.when = 0.0

    def noted(self) -> list[Note]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [Note(float(when), int(pid), fit) for when, pid, fit in (line.split(" ") for line in lines)]

    def wait_for_the_middle(self) -> None:
        wait_until(lambda: len(self.noted()) >= MIDDLE, "the search was in its middle", 60)

    @contextlib.contextmanager
    def in_the_middle(self, fault: Callable[[], Any]) -> Iterator[None]:
        """Inject a fault while the block runs."""
        failed: list[Exception] = []

        def inject() -> None:
            try:
                self.wait_for_the_middle()
                self.when = time.time()
                fault()
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=inject)
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def search(self, client: minidask.Client, fault: Callable[[], Any]) -> str:
        """Search, with this fault in the middle."""
        client.wait_for_workers(2)
        with parallel_config("minidask", scheduler=client), self.in_the_middle(fault):
            found = scores(str(self.notes))
        assert found == self.expected, "the result is not the sequential one"
        return SAME

    def user(self, *options: str, before: list[str] | None = None) -> Program:
        command = [*(before or []), sys.executable, "-m", "tests.faults", "--user", str(self.notes), *options]
        return self.programs.start(*command)

    def result_of(self, user: Program) -> str:
        assert user.exit_code(60) == 0, user.text
        assert f"scores {self.expected}\n" in user.text, "the result is not the sequential one"
        return SAME

    def gone_on(self) -> float:
        """Seconds from the fault until a fit that it has ended began again; if there is none, until any fit began."""
        before = {note.fit for note in self.noted() if note.when <= self.when}
        after = [note for note in self.noted() if note.when > self.when]
        return min([note.when for note in after if note.fit in before] or [note.when for note in after]) - self.when


class Seen(NamedTuple):
    """What the user saw, and after how many seconds it went on, if that can be told."""

    what: str
    seconds: float | None


# --- slots and tasks, on a cluster on this machine ---


def kill_slot(scene: Scene) -> Seen:
    with minidask.Client(n_workers=2, forward_output=False) as client:
        seen = scene.search(client, lambda: os.kill(scene.noted()[-1].pid, signal.SIGKILL))
    return Seen(seen, scene.gone_on())


def within_a_task(scene: Scene, fault: str, **options: Any) -> Seen:
    def begin() -> None:
        Path(f"{scene.notes}.new").write_text(fault)
        os.rename(f"{scene.notes}.new", f"{scene.notes}.fault")

    with minidask.Client(n_workers=2, forward_output=False, **options) as client:
        seen = scene.search(client, begin)
    scene.when = os.stat(f"{scene.notes}.done").st_ctime + 0.01  # when a fit has found it; times of files are coarse
    return Seen(seen, scene.gone_on())


def hang(scene: Scene) -> Seen:
    """One of 40 calls never comes back from C, and holds the lock of its interpreter."""

    def call(i: int) -> int:
        if i == 20:
            note(str(scene.notes))
            ctypes.PyDLL(None).sleep(600)
        time.sleep(0.01)
        return -i

    with minidask.Client(n_workers=2, forward_output=False) as client:
        limits = {"task_timeout": 1.0, "on_error": "return"}
        with parallel_config("minidask", scheduler=client, **limits):
            results = list(Parallel()(delayed(call)(i) for i in range(40)))
        seconds = time.time() - scene.noted()[0].when
    assert isinstance(results[20], TaskTimeout), results[20]
    assert [r for r in results if r is not results[20]] == [-i for i in range(40) if i != 20]
    return Seen("TaskTimeout in its place, 39 results", seconds)


def poison(scene: Scene) -> Seen:
    def call(i: int) -> int:
        note(f"{scene.notes}{i}")
        if i == 25:
            os._exit(1)
        return -i

    with minidask.Client(n_workers=2, forward_output=False) as client:
        with parallel_config("minidask", scheduler=client, on_error="return"):
            results = list(Parallel()(delayed(call)(i) for i in range(51)))
        seconds = time.time() - float(Path(f"{scene.notes}25").read_text().split()[0])
    assert isinstance(results[25], KilledWorker), results[25]
    assert [r for r in results if r is not results[25]] == [-i for i in range(51) if i != 25]
    tries = [len(Path(f"{scene.notes}{i}").read_text().splitlines()) for i in range(51)]
    assert tries == [3 if i == 25 else 1 for i in range(51)], f"tries: {tries}"
    return Seen("KilledWorker in its place, 50 results", seconds)


def kill_node(scene: Scene) -> Seen:
    with minidask.Client(n_workers=2, forward_output=False) as client:
        node = client.scheduler_info()["pid"]
        seen = scene.search(client, lambda: os.kill(node, signal.SIGKILL))
    return Seen(seen, scene.gone_on())


# --- machines, a scheduler and other clients ---


class Machines:
    """A scheduler, which can be started again on its port, and two machines of one slot each."""

    def __init__(self, scene: Scene) -> None:
        self._programs = scene.programs
        self.scheduler, self.address = scene.programs.scheduler()
        self.workers = [scene.programs.worker(self.address, "--nworkers", "1") for _ in range(2)]

    def restart_scheduler(self) -> None:
        self.scheduler.send(signal.SIGKILL)
        self.scheduler.exit_code()
        port = self.address.rpartition(":")[2]
        self.scheduler = self._programs.start(sys.executable, "-m", "minidask.scheduler", "--port", port)
        self.scheduler.wait_for("listens on")

    def stop_for(self, seconds: float) -> None:
        """All processes of a machine stand still."""
        stopped = [
            self.workers[0].process.pid,
            *(p.pid for p in psutil.Process(self.workers[0].process.pid).children()),
        ]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for pid in stopped:
                os.kill(pid, number)
            if number == signal.SIGSTOP:
                time.sleep(seconds)


def on_machines(scene: Scene, fault: Callable[[Machines], Any], most_fits: int = FITS + IN_FLIGHT) -> Seen:
    machines = Machines(scene)
    with minidask.Client(machines.address) as client:
        seen = scene.search(client, lambda: fault(machines))
    fits = len(scene.noted())
    assert fits <= most_fits, f"{fits} fits began, of {FITS}"
    return Seen(seen, scene.gone_on())


def drain(scene: Scene) -> Seen:
    def ask(machines: Machines) -> None:
        machines.workers[0].ask_to_end()
        assert machines.workers[0].exit_code() == 0

    seen = on_machines(scene, ask, most_fits=FITS)
    return Seen(f"{seen.what}, no fit ran twice", seen.seconds)


def restart_scheduler_often(scene: Scene) -> Seen:
    """One call, which ends when the scheduler has been killed often enough."""
    machines = Machines(scene)
    longest, enough = 0.0, False

    def calls() -> Iterator[Any]:
        while not enough:
            yield delayed(pow)(len(given), 2)
            given.append(0)

    def kill_often() -> None:
        nonlocal longest, enough
        try:
            for _ in range(scene.times):
                began, before = time.monotonic(), len(given)
                machines.restart_scheduler()
                wait_until(lambda before=before: len(given) > before + 20, "the call went on", 60)  # type: ignore[misc]
                longest = max(longest, time.monotonic() - began)
        finally:
            enough = True

    given: list[int] = []
    with minidask.Client(machines.address) as client, parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2)
        thread = threading.Thread(target=kill_often)
        thread.start()
        results = list(Parallel(return_as="generator", batch_size=1)(calls()))
        thread.join()
    assert results == [i * i for i in range(len(given))], "a result is wrong or missing"
    return Seen(f"{len(given)} right results of one call, {scene.times} kills", longest)


def kill_client(scene: Scene) -> Seen:
    """Another client's tasks hold all slots until it is killed; then the search has them."""
    machines = Machines(scene)
    with minidask.Client(machines.address) as client:
        other = scene.user("--scheduler", machines.address, "--hang")
        wait_until(lambda: client.scheduler_info()["tasks"]["running"] == 2, "its tasks ran")
        other.send(signal.SIGKILL)
        killed = time.monotonic()
        wait_until(lambda: at_rest(client), "its tasks had ended")
        seconds = time.monotonic() - killed
        seen = scene.search(client, lambda: None)
    return Seen(f"the others: {seen}", seconds)


# --- a network and a file system of one's own ---


def cut(scene: Scene, cut_host: int) -> Seen:
    """Host 0 has the client, 1 the scheduler, 2 and 3 a machine each; a card is off for 5 seconds."""
    if not possible():
        raise Skipped("network namespaces need root, and `ip` (Debian's iproute2)")
    with Hosts(4) as hosts:

        def start(number: int, *command: str) -> Program:
            return scene.programs.start(*hosts.on(number, sys.executable, "-m", *command))

        try:
            start(1, "minidask.scheduler", "--host", hosts.address(1)).wait_for("listens on")
            address = f"{hosts.address(1)}:8786"
            workers = [start(number, "minidask.worker", address, "--nworkers", "1") for number in (2, 3)]
            for worker in workers:
                worker.wait_for("joined the scheduler")
            user = scene.user("--scheduler", address, before=hosts.on(0))
            scene.wait_for_the_middle()
            scene.when = time.time()
            for state in ("down", "up"):
                ip("link", "set", f"{hosts.mark}v{cut_host}", state)
                time.sleep(5 if state == "down" else 0)
            ended = time.time()
            seen = scene.result_of(user)
            after = [note.when for note in scene.noted() if note.when > ended]
        finally:
            scene.programs.end_all()  # before their network goes
    return Seen(seen, (after[0] if after else ended) - scene.when)


def kill_all_and_resume(scene: Scene) -> Seen:
    user = scene.user("--resume", str(scene.folder / "kept"))
    scene.wait_for_the_middle()
    os.killpg(user.process.pid, signal.SIGKILL)
    user.exit_code()
    scene.when = time.time()
    seen = scene.result_of(scene.user("--resume", str(scene.folder / "kept")))
    fits = len(scene.noted())
    assert fits <= FITS + IN_FLIGHT, f"{fits} fits began, of {FITS}"
    return Seen(f"{seen}, {fits - FITS} of {FITS} fits twice", scene.gone_on())


def fill_shared_memory(scene: Scene) -> Seen:
    if os.getuid() != 0 or not shutil.which("unshare"):
        raise Skipped("a file system of one's own needs root, and `unshare`")
    script = 'mount -t tmpfs -o size=16M tmpfs /dev/shm && exec "$@"'
    user = scene.user("--fill", before=["unshare", "--mount", "sh", "-c", script, "sh"])
    seen = scene.result_of(user)
    warnings = user.text.count("large data goes to")
    assert warnings == 1, f"{warnings} warnings: {user.text}"
    return Seen(f"{seen}, and one warning", None)


class Fault(NamedTuple):
    """A fault, what docs/faults.md promises, and what injects it."""

    name: str
    promised: str
    inject: Callable[[Scene], Seen]


FAULTS = [
    Fault("slot-killed", SAME, kill_slot),
    Fault("slot-segfault", SAME, lambda scene: within_a_task(scene, "segfault")),
    Fault("slot-exit", SAME, lambda scene: within_a_task(scene, "exit")),
    Fault("slot-memory", SAME, lambda scene: within_a_task(scene, "memory", memory_limit="500MiB")),
    Fault("task-hangs", "TaskTimeout in its place, 39 results", hang),
    Fault("poison", "KilledWorker in its place, 50 results", poison),
    Fault("node-killed", SAME, kill_node),
    Fault("machine-killed", SAME, lambda scene: on_machines(scene, lambda m: m.workers[0].send(signal.SIGKILL))),
    Fault("machine-stopped", SAME, lambda scene: on_machines(scene, lambda m: m.stop_for(3))),
    Fault("machine-drained", f"{SAME}, no fit ran twice", drain),
    Fault("machine-cut", SAME, lambda scene: cut(scene, 2)),
    Fault("scheduler-killed", SAME, lambda scene: on_machines(scene, lambda m: m.restart_scheduler())),
    Fault("scheduler-killed-often", "right results", restart_scheduler_often),
    Fault("client-killed", f"the others: {SAME}", kill_client),
    Fault("client-cut", SAME, lambda scene: cut(scene, 0)),
    Fault("all-killed", SAME, kill_all_and_resume),
    Fault("shared-memory-full", f"{SAME}, and one warning", fill_shared_memory),
]


# --- running them ---


def left_behind(programs: Programs, descriptors: int) -> list[str]:
    """What is there that was not there before: a killed program's memory goes when the next program starts."""
    gc.collect()
    sweep()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not our_processes(), "our processes had ended", 10)
    pids = [os.getpid(), *programs.pids()]
    files = [str(path) for pid in pids for path in SHARED_MEMORY.glob(f"{PREFIX}{pid}-*")]
    now = psutil.Process().num_fds()
    more = [f"{now - descriptors} descriptors"] if now > descriptors else []
    return [*files, *map(str, our_processes()), *(f"process {pid}" for pid in alive(programs.pids())), *more]


def run(fault: Fault, expected: list[float], times: int) -> bool:
    """Inject it, and print a line; whether all was as promised."""
    print(f"{fault.name:23}", end="", flush=True)
    descriptors = psutil.Process().num_fds()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), expected, times)
        try:
            seen = fault.inject(scene)
        except Skipped as reason:
            print(f"skipped: {reason}")
            return True
        except Exception as error:
            print(f"NOT AS PROMISED ({fault.promised}): {type(error).__name__}: {error}", flush=True)
            return False
        finally:
            scene.programs.end_all()
        left = left_behind(scene.programs, descriptors)
    seconds = "" if seen.seconds is None else f"{seen.seconds:.2f} s"
    print(f"{seen.what:50} {seconds:>7}   {', '.join(left) or 'nothing'}", flush=True)
    if fault.promised not in seen.what:
        print(f"NOT AS PROMISED: {fault.promised}")
    return not left and fault.promised in seen.what


def run_all(faults: list[Fault], times: int) -> bool:
    with tempfile.TemporaryDirectory() as state:
        os.environ.update({RUN: str(os.getpid()), "XDG_STATE_HOME": state})
        for variable in ("MINIDASK_ACCESS_FILE", "MINIDASK_SCHEDULER"):
            os.environ.pop(variable, None)
        logging.getLogger("minidask").setLevel(logging.ERROR)  # that a scheduler is lost is known here
        with parallel_config("sequential"):
            expected = scores(os.devnull)
        with minidask.Client(n_workers=1) as client:
            client.submit(abs, -1).result()  # what opens descriptors once does it now
        print(f"{'fault':23}{'what the user saw':50} {'went on':>7}   left behind")
        outcomes = [run(fault, expected, times) for fault in faults]
    return all(outcomes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults, by name; all unless you say")
    parser.add_argument("--list", action="store_true", help="print the faults, with what is promised")
    parser.add_argument("--times", type=int, default=10, help="how often scheduler-killed-often kills, in one call")
    parser.add_argument("--user", metavar="NOTES", help=argparse.SUPPRESS)
    for name in ("--scheduler", "--resume"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--hang", "--fill"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.user:
        user_program(options)
        return 0
    if unknown := set(options.names) - {fault.name for fault in FAULTS}:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; --list names all")
    faults = [fault for fault in FAULTS if not options.names or fault.name in options.names]
    if options.list:
        for fault in faults:
            print(f"{fault.name:23}{fault.promised}")
        return 0
    return 0 if run_all(faults, options.times) else 1


if __name__ == "__main__":
    sys.exit(main())
