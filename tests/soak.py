"""Three clients run checked calls of ten kinds while slots, machines and the scheduler are killed, stopped, drained.

    python -m tests.soak --minutes 12 --seed 7

Whatever dies, each call must return what it returns without faults, or raise the error that it is to raise. A call
whose task was killed three times fails by design: a `KilledWorker` is right if so many kills fell into its time.

At the end nothing may have grown: memory, descriptors, threads and processes of the scheduler and of the clients, and
what is in shared memory. The exit code is 1 if a result was wrong, a call failed, or something has grown. The same seed
gives the same faults and calls, though not at the very same moments.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask.errors import KilledWorker, TaskTimeout
from minidask.host.folders import PREFIX, SHARED_MEMORY, sweep
from tests.helpers import RUN, Program, Programs, alive, at_rest, our_processes, wait_until

CLIENTS = 3
KILLS_OF_A_TASK = 3
LONGEST_CALL = 120.0
"""Seconds after which a client prints where all its threads are, and ends: it hangs."""


# --- what the tasks do ---


def negative(number: int) -> int:
    time.sleep(0.002)
    return -number


def text_of(number: int) -> str:
    return f"{number:x}" * (number % 3000)


def nested(number: int) -> int:
    inner: list[int] = Parallel(n_jobs=2)(delayed(negative)(number + i) for i in range(4))
    return sum(inner)


def item(array: Any, index: int) -> float:
    return float(array[index])


def filled(number: int) -> Any:
    return np.full(1 << 19, float(number))  # 4 MiB


def fails(number: int) -> int:
    if number % 3 == 0:
        raise ValueError(number)
    return number


# --- the kinds of calls: each asserts that its results are right ---


def as_list(client: minidask.Client, numbers: list[int]) -> None:
    assert Parallel(n_jobs=-1)(delayed(negative)(i) for i in numbers) == [-i for i in numbers]


def as_generator(client: minidask.Client, numbers: list[int]) -> None:
    found = Parallel(n_jobs=2, return_as="generator")(delayed(text_of)(i) for i in numbers)
    assert list(found) == [text_of(i) for i in numbers]


def unordered(client: minidask.Client, numbers: list[int]) -> None:
    found = Parallel(n_jobs=-1, return_as="generator_unordered")(delayed(negative)(i) for i in numbers)
    assert sorted(found) == sorted(-i for i in numbers)


def mapped(client: minidask.Client, numbers: list[int]) -> None:
    assert client.gather(client.map(text_of, numbers)) == [text_of(i) for i in numbers]


def nesting(client: minidask.Client, numbers: list[int]) -> None:
    few = numbers[:10]
    assert Parallel(n_jobs=-1)(delayed(nested)(i) for i in few) == [-4 * i - 6 for i in few]


def scattered(client: minidask.Client, numbers: list[int]) -> None:
    array = np.arange(1 << 18, dtype=float) + numbers[0]
    handle = client.scatter(array)
    assert client.gather([client.submit(item, handle, i) for i in numbers]) == [array[i] for i in numbers]


def large(client: minidask.Client, numbers: list[int]) -> None:
    few = numbers[:6]
    for number, array in zip(few, client.gather(client.map(filled, few)), strict=True):
        assert len(array) == 1 << 19 and (array == number).all()


def with_limit(client: minidask.Client, numbers: list[int]) -> None:
    hangs = client.submit(time.sleep, 600, timeout=0.3)
    quick = [client.submit(negative, i, timeout=60) for i in numbers[:20]]
    assert client.gather(quick) == [-i for i in numbers[:20]]
    try:
        hangs.result()
    except TaskTimeout:
        return
    raise AssertionError("a task that hangs has returned")


def cancelled(client: minidask.Client, numbers: list[int]) -> None:
    hang = [client.submit(time.sleep, 600) for _ in numbers[:6]]
    quick = client.submit(negative, numbers[0])
    client.cancel(hang, force=True)
    assert quick.result() == -numbers[0]
    assert all(future.cancelled() for future in hang)


def with_errors(client: minidask.Client, numbers: list[int]) -> None:
    expected = ["ValueError" if i % 3 == 0 else i for i in numbers]
    with parallel_config("minidask", scheduler=client, on_error="return"):
        outcomes_of_parallel = Parallel(n_jobs=-1)(delayed(fails)(i) for i in numbers)
    outcomes_of_map = client.gather(client.map(fails, numbers), errors="return")
    for outcomes in (outcomes_of_parallel, outcomes_of_map):
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, ValueError):
                raise outcome
        found = [type(o).__name__ if isinstance(o, Exception) else o for o in outcomes]
        assert found == expected, f"{found} and not {expected}"


KINDS: list[Callable[[minidask.Client, list[int]], None]] = [
    as_list, as_generator, unordered, mapped, nesting, scattered, large, with_limit, cancelled, with_errors,
]  # fmt: skip


# --- a client: a program of its own ---


class Usage(NamedTuple):
    """What a process uses."""

    mib: int
    descriptors: int
    threads: int
    children: int


MAY_GROW = Usage(mib=40, descriptors=8, threads=3, children=0)
"""What a run may leave: caches, and what the allocator keeps. It is the same after a minute and after an hour."""


def usage(pid: int) -> Usage:
    process = psutil.Process(pid)
    private = process.memory_full_info().uss >> 20  # what is shared is of the store, which is looked at by itself
    return Usage(private, process.num_fds(), process.num_threads(), len(process.children()))


class Caller:
    """Runs calls of all kinds on a client, and counts what came of them."""

    def __init__(self, client: minidask.Client, chance: random.Random, folder: Path) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.longest = 0.0
        self._client = client
        self._chance = chance
        self._kills = folder / "kills"

    def call(self, kind: Callable[[minidask.Client, list[int]], None]) -> None:
        numbers = [self._chance.randrange(100_000) for _ in range(self._chance.randrange(10, 100))]
        kills = self._kills.stat().st_size
        began = time.monotonic()
        faulthandler.dump_traceback_later(LONGEST_CALL, exit=True)
        self.counts["calls"] += 1
        try:
            kind(self._client, numbers)
        except KilledWorker as error:
            if self._kills.stat().st_size - kills >= KILLS_OF_A_TASK:
                self.counts["killed three times"] += 1
            else:
                self._failed(kind, "errors", error)
        except AssertionError as error:
            self._failed(kind, "wrong", error)
        except Exception as error:
            self._failed(kind, "errors", error)
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.longest = max(self.longest, time.monotonic() - began)

    def _failed(self, kind: Callable[..., None], what: str, error: Exception) -> None:
        self.counts[what] += 1
        told = "".join(traceback.format_exception(error))
        print(f"FAILED {kind.__name__} at {time.strftime('%T')}: {told}", flush=True)


def tell(what: str, **values: Any) -> None:
    print(f"{what} {json.dumps(values)}", flush=True)


def run_client(address: str, seed: int, folder: Path) -> None:
    """Run calls until there is a file `stop`."""
    chance = random.Random(seed)
    with minidask.Client(address) as client, parallel_config("minidask", scheduler=client):
        client.wait_for_workers(2)
        caller = Caller(client, chance, folder)
        for kind in KINDS * 2:
            caller.call(kind)
        gc.collect()
        tell("WARM", usage=usage(os.getpid()))
        while not (folder / "stop").exists():
            caller.call(chance.choice(KINDS))
        gc.collect()
        with contextlib.suppress(AssertionError):  # the other clients may still run theirs
            wait_until(lambda: at_rest(client), "all was at rest", 10)
        tell("OVER", usage=usage(os.getpid()), counts=caller.counts, longest=round(caller.longest, 1))


def told(program: Program, what: str) -> dict[str, Any]:
    text = program.wait_for(f"{what} {{")
    found: dict[str, Any] = json.loads(text.split(f"{what} ")[1].splitlines()[0])
    return found


# --- the cluster and its faults ---


class Cluster:
    """A scheduler and three machines of two slots, of which one stays; the faults are its methods."""

    def __init__(self, programs: Programs, chance: random.Random, kills: Path) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.programs: list[Program] = []
        self._started = programs
        self._chance = chance
        self._kills = kills
        self.scheduler, self.address = programs.scheduler()
        self.programs.append(self.scheduler)
        self._machines = [self._machine() for _ in range(2)]

    def _machine(self) -> Program:
        program = self._started.worker(self.address, "--nworkers", "2", "--death-timeout", "60")
        self.programs.append(program)
        return program

    def _killed(self) -> None:
        with self._kills.open("ab") as file:
            file.write(b"x")

    def _slots(self) -> list[int]:
        """The slots that have started: three that die as they start are the end of their machine, by design."""
        slots = [slot for machine in self._machines for slot in psutil.Process(machine.process.pid).children()]
        found = []
        for slot in slots:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.time() - slot.create_time() > 1:
                    found.append(slot.pid)
        return found

    def kill_slots(self, count: int = 1) -> None:
        slots = self._slots()
        for slot in self._chance.sample(slots, min(count, len(slots))):
            self._killed()
            with contextlib.suppress(ProcessLookupError):
                os.kill(slot, self._chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSEGV]))

    def kill_two_slots(self) -> None:
        self.kill_slots(2)

    def stop_for_a_while(self) -> None:
        """A slot, a machine or the scheduler stands still."""
        pids = [self.scheduler.process.pid, *(machine.process.pid for machine in self._machines), *self._slots()[:2]]
        pid = self._chance.choice(pids)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self._chance.uniform(0.05, 2))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def kill_machine(self) -> None:
        """The first one stays, as otherwise no machine would be left at times."""
        self._killed()
        self._machines[1].send(signal.SIGKILL)
        self._machines[1].exit_code()
        self._machines[1] = self._machine()

    def drain_machine(self) -> None:
        leaving = self._machines[1]
        leaving.ask_to_end()
        self._machines[1] = self._machine()

    def join_and_leave(self) -> None:
        self._machines.append(self._machine())
        time.sleep(self._chance.uniform(0.1, 1))
        self._machines.pop().ask_to_end()

    def kill_scheduler(self) -> None:
        self.scheduler.send(signal.SIGKILL)
        self.scheduler.exit_code()
        time.sleep(self._chance.uniform(0, 1))
        port = self.address.rpartition(":")[2]
        self.scheduler = self._started.start(sys.executable, "-m", "minidask.scheduler", "--port", port)
        self.programs.append(self.scheduler)
        self.scheduler.wait_for("listens on")

    def inject(self) -> None:
        """One fault, by its weight."""
        kinds: dict[Callable[[], None], int] = {
            self.kill_slots: 12, self.kill_two_slots: 4, self.stop_for_a_while: 3, self.kill_machine: 1,
            self.drain_machine: 1, self.join_and_leave: 1, self.kill_scheduler: 2,
        }  # fmt: skip
        (fault,) = self._chance.choices([*kinds], [*kinds.values()])
        self.counts[fault.__name__] += 1
        fault()


def say(began: float, text: str) -> None:
    print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)


def growth(name: str, before: Usage, after: Usage) -> list[str]:
    print(f"{name:12}  {before}  →  {after}")
    fields = zip(Usage._fields, before, after, MAY_GROW, strict=True)
    return [f"{name}: {field} from {a} to {b}" for field, a, b, most in fields if b > a + most]


def left_behind(pids: list[int]) -> list[str]:
    """What is left of these programs when all have ended; killed ones leave what the next program removes."""
    sweep()
    with contextlib.suppress(AssertionError):
        wait_until(lambda: not our_processes(), "our processes had ended", 10)
    files = [str(path) for pid in pids for path in SHARED_MEMORY.glob(f"{PREFIX}{pid}-*")]
    return [*files, *map(str, our_processes()), *(f"process {pid}" for pid in alive(pids))]


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for the logs and the access file: not those of the person who runs this."""
    with tempfile.TemporaryDirectory() as name:
        os.environ.update({RUN: str(os.getpid()), "XDG_STATE_HOME": name})
        for variable in ("MINIDASK_ACCESS_FILE", "MINIDASK_SCHEDULER"):
            os.environ.pop(variable, None)
        yield Path(name)


def soak(seconds: float, seed: int, pause: float, folder: Path) -> list[str]:
    """Run it all; returns what was wrong."""
    chance = random.Random(seed)
    programs = Programs(folder)
    kills = folder / "kills"
    kills.touch()
    began = time.monotonic()
    wrong: list[str] = []
    try:
        cluster = Cluster(programs, chance, kills)
        command = [sys.executable, "-m", "tests.soak", "--client", cluster.address, "--folder", str(folder)]
        clients = [programs.start(*command, "--seed", str(seed + 1 + i)) for i in range(CLIENTS)]
        before = [Usage(*told(client, "WARM")["usage"]) for client in clients]
        scheduler_before = usage(cluster.scheduler.process.pid)
        say(began, "the clients are warm, the faults begin")
        end = time.monotonic() + seconds
        next_line = time.monotonic() + 30
        while time.monotonic() < end and all(client.process.poll() is None for client in clients):
            time.sleep(chance.uniform(0, 2 * pause))
            cluster.inject()
            if time.monotonic() > next_line:
                next_line += 30
                failed = sum(client.text.count("\nFAILED") for client in clients)
                say(began, f"{dict(cluster.counts)}, {failed} calls have failed")
        (folder / "stop").touch()
        over = [told(client, "OVER") for client in clients]
        wait_until(lambda: all(client.process.poll() == 0 for client in clients), "all clients had ended", 60)
        time.sleep(1)  # until the scheduler has seen it
        counts: collections.Counter[str] = collections.Counter()
        for client in over:
            counts.update(client["counts"])
        print(f"faults: {dict(cluster.counts)}")
        longest = max(client["longest"] for client in over)
        print(f"calls: {dict(counts)}, the longest took {longest} s")
        wrong += [f"{counts[what]} {what}" for what in ("wrong", "errors") if counts[what]]
        for number, (start, client) in enumerate(zip(before, over, strict=True)):
            wrong += growth(f"client {number}", start, Usage(*client["usage"]))
        wrong += growth("scheduler", scheduler_before, usage(cluster.scheduler.process.pid))
        pids = [program.process.pid for program in [*cluster.programs, *clients]]
    finally:
        programs.end_all()
        for log in sorted(folder.glob("*.log")):
            for part in log.read_text(errors="replace").split("\nFAILED ")[1:]:
                print(f"{log.name}: {part.partition(chr(10) + 'WARM')[0][:3000]}")
    left = left_behind(pids)
    print(f"left in shared memory and of processes: {left or 'nothing'}")
    return wrong + left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--pause", type=float, default=0.6, help="seconds between two faults, on average")
    parser.add_argument("--client", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the logs there")
    options = parser.parse_args()
    if options.client:
        run_client(options.client, options.seed, options.folder)
        return 0
    print(f"seed {options.seed}", flush=True)
    with own_folder() as folder:
        try:
            wrong = soak(options.minutes * 60, options.seed, options.pause, folder)
        finally:
            if options.keep:
                options.keep.mkdir(parents=True, exist_ok=True)
                for log in folder.glob("*.log"):
                    (options.keep / log.name).write_bytes(log.read_bytes())
    print("WRONG: " + "; ".join(wrong) if wrong else "all was right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
