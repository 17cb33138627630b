"""Kills slots while calls go through a call queue, and looks whether any call is lost, run twice at once, or blamed.

    python -m tests.kills [--calls 100000] [--kills 5000] [--poisons 50] [--replacements 50] [--seed N]

The calls tell in a file that they begin and end, and the killer tells there whom it kills, before it does. Each note is
one `O_APPEND` write, so the file has the order of all that happened: a call that begins while another attempt of it has
neither ended nor been killed ran twice at once. A process that begins its first call after a death has taken the place
of the one that died: how long that takes is measured while there is work for all slots.

A slot dies by a signal, or by an order that the next call finds: it then calls `os._exit`, or takes memory until its
slot is over the limit.

A call whose slot is killed three times is lost by design. So a `KilledWorker` is right if three slots were killed in
its run, and the run is then made again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from joblib import Parallel, delayed, parallel_config

import minidask
from minidask.errors import KilledWorker
from tests.helpers import wait_until

NOTE = "<cQId"  # what happens, the call's number, the process, and when, by the clock of the whole machine
NOTE_BYTES = struct.calcsize(NOTE)
BEGINS, ENDS, KILLED, DEAD = b"b", b"e", b"k", b"d"
WAYS_TO_RETURN = ("list", "generator", "generator_unordered")
INNOCENTS = 50
MEMORY_LIMIT = 300 << 20
SIGNALS = {"kill": signal.SIGKILL, "segfault": signal.SIGSEGV, "abort": signal.SIGABRT}
ORDERS = ("exit", "memory")
WAYS_TO_DIE = (*SIGNALS, *ORDERS)


def note(path: str, what: bytes, call: int, process: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, struct.pack(NOTE, what, call, process, time.monotonic()))
    finally:
        os.close(file)


def die(way: str) -> None:
    """End this process in one of the ways."""
    if way == "exit":
        os._exit(1)
    if way == "memory":
        taken = []
        while True:
            taken.append(bytearray(b"x") * (8 << 20))
            time.sleep(0.005)
    os.kill(os.getpid(), SIGNALS[way])
    time.sleep(60)


# --- calls ---


def nothing(number: int) -> int:
    return -number


def count(number: int) -> int:
    return sum(range(number % 50_000))


def moment(number: int) -> int:
    time.sleep(0.005)
    return -number


def sized(number: int) -> bytes:
    return bytes([number % 251]) * (number * 7919 % 200_000)


def noted(path: str, call: int, function: Callable[[int], Any]) -> tuple[int, Any]:
    note(path, BEGINS, call, os.getpid())
    with contextlib.suppress(FileNotFoundError):
        taken = f"{path}.{os.getpid()}"
        os.rename(f"{path}.order", taken)  # one call alone succeeds in this
        note(path, KILLED, call, os.getpid())
        die(Path(taken).read_text())
    result = function(call)
    note(path, ENDS, call, os.getpid())
    return call, result


def innocent(path: str, call: int) -> tuple[int, Any]:
    return noted(path, call, nothing)


def poison(path: str, call: int, way: str) -> None:
    note(path, BEGINS, call, os.getpid())
    die(way)


# --- killing ---


class Killer:
    """Kills slots of a cluster in a thread of its own, at random moments.

    Args:
        node: the process whose children the slots are.
        path: of the notes.
        chance: where random numbers come from.
        seconds: between two kills, on average.
        most: how many slots to kill.
    """

    def __init__(self, node: int, path: str, chance: random.Random, seconds: float, most: int) -> None:
        self.kills = 0
        self._node = node
        self._path = path
        self._chance = chance
        self._seconds = seconds
        self._most = most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill_all)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _kill_all(self) -> None:
        while self.kills < self._most and not self._over.wait(self._chance.uniform(0, 2 * self._seconds)):
            # Memory takes a while to be used up, so that comes to a part of the others only.
            self.kills += self.kill_one(self._chance.choices(WAYS_TO_DIE, (10, 10, 10, 10, 1))[0])

    def kill_one(self, way: str) -> bool:
        """Kill a slot in one of the ways, and wait for its death; whether there was one."""
        slot = self._order(way) if way in ORDERS else self._signal(SIGNALS[way])
        if slot is None:
            return False
        while _lives(slot):
            time.sleep(0.001)
        note(self._path, DEAD, 0, slot)
        Path(f"{self._path}.{slot}").unlink(missing_ok=True)  # the order that it has taken
        return True

    def _signal(self, number: signal.Signals) -> int | None:
        """Send a slot a signal that it dies of; returns its process."""
        slots = self.busy_slots()
        if not slots:
            return None
        slot = self._chance.choice(slots)
        note(self._path, KILLED, 0, slot)
        with contextlib.suppress(ProcessLookupError):
            os.kill(slot, number)
        return slot

    def _order(self, way: str) -> int | None:
        """Leave an order for the next call; returns the process that has taken it, and None if none did."""
        Path(f"{self._path}-new").write_text(way)
        os.rename(f"{self._path}-new", f"{self._path}.order")
        while os.path.exists(f"{self._path}.order"):
            if self._over.wait(0.002):
                return None
        folder, _, name = self._path.rpartition("/")
        taken = [file for file in os.listdir(folder) if file.startswith(f"{name}.")]
        return int(taken[0].rpartition(".")[2])

    def busy_slots(self) -> list[int]:
        """The slots that have run a call: to kill those that only start tells nothing of queues."""
        began = {process for what, _, process, _ in notes(self._path, last=5000) if what == BEGINS}
        with open(f"/proc/{self._node}/task/{self._node}/children") as file:
            return [slot for slot in map(int, file.read().split()) if slot in began and _lives(slot)]


def _lives(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def notes(path: str, last: int | None = None) -> Iterator[tuple[bytes, int, int, float]]:
    """All that was noted, or so many of the last notes."""
    with open(path, "rb") as file:
        if last is not None:
            size = os.fstat(file.fileno()).st_size // NOTE_BYTES
            file.seek(max(size - last, 0) * NOTE_BYTES)
        data = file.read()
    return struct.iter_unpack(NOTE, data[: len(data) // NOTE_BYTES * NOTE_BYTES])


def named(path: str) -> Iterator[tuple[bytes, int, str, float]]:
    """All that was noted, with a name for each process: the kernel gives a number again."""
    dead: collections.Counter[int] = collections.Counter()
    for what, call, process, when in notes(path):
        yield what, call, f"{process}.{dead[process]}", when
        dead[process] += what == DEAD


def run_twice_at_once(path: str) -> list[str]:
    """The calls that began while another attempt of theirs ran, or after it had ended in a slot that was not killed."""
    killed: set[str] = set()
    began: dict[int, str] = {}
    over: set[int] = set()
    found = []
    for what, call, process, _ in named(path):
        if what == KILLED:
            killed.add(process)
        elif what == DEAD:
            continue
        elif what == BEGINS:
            if call in began and began[call] not in killed:
                found.append(f"call {call} began in {process}, and had {'ended' if call in over else 'begun'} before")
            began[call] = process
            over.discard(call)
        elif began.get(call) != process:
            found.append(f"call {call} ended in {process}, and had begun in {began.get(call)} since")
        else:
            over.add(call)
    return found


# --- the three parts ---


class Summary(NamedTuple):
    """What has come of it; the last four have to be 0."""

    calls: int
    kills: int
    lost: int
    seconds: float
    wrong_results: int
    wrong_losses: int
    doubles: int
    wrong_blame: int

    @property
    def wrong(self) -> int:
        return sum(self[-4:])


def kill_at_random(client: minidask.Client, path: str, calls: int, kills: int, seconds: float, seed: int) -> Summary:
    """Run so many calls at least, until so many slots were killed."""
    chance = random.Random(seed)
    began = time.monotonic()
    counts: collections.Counter[str] = collections.Counter()
    node = client.scheduler_info()["pid"]
    with Killer(node, path, random.Random(seed + 1), seconds, kills) as killer:
        while counts["calls"] < calls or killer.kills < kills:
            numbers = range(counts["calls"], counts["calls"] + chance.randrange(1, 400))
            counts["calls"] += len(numbers)
            killed_before = killer.kills
            functions = [chance.choice([nothing, nothing, count, sized]) for _ in numbers]
            way = chance.choice(WAYS_TO_RETURN)
            parallel = Parallel(n_jobs=chance.choice([2, -1]), batch_size=chance.choice([1, "auto"]), return_as=way)
            try:
                found = list(parallel(delayed(noted)(path, *call) for call in zip(numbers, functions, strict=True)))
            except KilledWorker as error:
                counts["lost"] += 1
                if killer.kills - killed_before < 3 or "task 'noted': it was tried 3 times" not in str(error):
                    counts["wrong losses"] += 1
                    print(f"lost after {killer.kills - killed_before} kills: {error}", flush=True)
                continue
            expected = [(number, function(number)) for number, function in zip(numbers, functions, strict=True)]
            if (sorted(found) if way == "generator_unordered" else found) != expected:
                counts["wrong results"] += 1
                print(f"wrong results of calls {numbers}, by {way}", flush=True)
            if chance.random() < 0.02:
                print(f"{counts['calls']} calls, {killer.kills} kills, {time.monotonic() - began:.0f} s", flush=True)
    doubles = run_twice_at_once(path)
    print("\n".join(doubles[:20]))
    took = time.monotonic() - began
    return Summary(
        counts["calls"], killer.kills, counts["lost"], took, counts["wrong results"], counts["wrong losses"],
        len(doubles), 0,
    )  # fmt: skip


def time_replacements(client: minidask.Client, path: str, times: int, seed: int) -> list[float]:
    """Seconds from deaths, one after the other, until a process that is new has begun a call."""
    over = threading.Event()
    seconds: list[float] = []
    slots = client.slots()
    killer = Killer(client.scheduler_info()["pid"], path, random.Random(seed), 0.0, 0)

    def calls() -> Iterator[Any]:
        for number in itertools.count():
            if over.is_set():
                return
            yield delayed(noted)(path, number, moment)

    def kill_some() -> None:
        try:
            for number in range(times):
                wait_until(lambda: len(killer.busy_slots()) == slots, "all slots had a call", 60)
                before = set(killer.busy_slots())
                assert killer.kill_one(WAYS_TO_DIE[number % len(WAYS_TO_DIE)])
                wait_until(lambda before=before: set(killer.busy_slots()) - before, "there was another one", 60)  # type: ignore[misc]
                (new,) = set(killer.busy_slots()) - before
                died = max(when for what, _, _, when in notes(path) if what == DEAD)
                seconds.append(
                    min(w for what, _, slot, w in notes(path) if (what, slot) == (BEGINS, new) and w > died) - died
                )
        finally:
            over.set()

    thread = threading.Thread(target=kill_some)
    thread.start()
    found = list(Parallel(n_jobs=-1, batch_size=1, return_as="generator")(calls()))
    thread.join()
    assert found == [(number, -number) for number in range(len(found))], "wrong results"
    return sorted(seconds)


def poison_some(client: minidask.Client, folder: Path, times: int, seed: int) -> Summary:
    """Run one call that kills its slot among innocent ones, so many times: through a call queue, and as tasks."""
    chance = random.Random(seed)
    began = time.monotonic()
    wrong_blame = wrong_results = doubles = 0
    for number in range(times):
        path = str(folder / f"poison{number}")
        Path(path).touch()
        bad = chance.randrange(INNOCENTS + 1)
        way = chance.choices(WAYS_TO_DIE, (10, 10, 10, 10, 1))[0]
        calls: list[Any] = [delayed(innocent)(path, call) for call in range(INNOCENTS)]
        calls.insert(bad, delayed(poison)(path, INNOCENTS, way))
        outcomes = chance.choice([all_or_error, outcomes_of_parallel, outcomes_of_tasks])(client, calls, chance)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        text = str(errors[0]) if len(errors) == 1 and isinstance(errors[0], KilledWorker) else repr(errors)
        attempts = [call for what, call, _, _ in notes(path) if what == BEGINS]
        if not text.startswith("task 'poison': it was tried 3 times") or attempts.count(INNOCENTS) != 3:
            wrong_blame += 1
            print(f"{attempts.count(INNOCENTS)} attempts of the poison: {text}", flush=True)
        results = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        if results and sorted(results) != [(call, nothing(call)) for call in range(INNOCENTS)]:
            wrong_results += 1
            print(f"wrong results: {results}", flush=True)
        if twice := [call for call in range(INNOCENTS) if attempts.count(call) > 1]:
            doubles += 1
            print(f"innocent calls that ran more than once: {twice}", flush=True)
        os.unlink(path)
        if number % 50 == 49:
            print(f"{number + 1} poisons, {time.monotonic() - began:.0f} s", flush=True)
    seconds = time.monotonic() - began
    return Summary(times * (INNOCENTS + 1), 3 * times, times, seconds, wrong_results, 0, doubles, wrong_blame)


def all_or_error(client: minidask.Client, calls: list[Any], chance: random.Random) -> list[Any]:
    """What a `Parallel` call raises; a list of results if it raises nothing."""
    try:
        parallel = Parallel(batch_size=1, pre_dispatch="all", return_as=chance.choice(WAYS_TO_RETURN))
        return list(parallel(calls))
    except KilledWorker as error:
        return [error]


def outcomes_of_parallel(client: minidask.Client, calls: list[Any], chance: random.Random) -> list[Any]:
    with parallel_config("minidask", scheduler=client, on_error="return"):
        return list(Parallel(batch_size=1, return_as=chance.choice(WAYS_TO_RETURN))(calls))


def outcomes_of_tasks(client: minidask.Client, calls: list[Any], chance: random.Random) -> list[Any]:
    futures = [client.submit(function, *arguments) for function, arguments, _ in calls]
    return [future.exception() or future.result() for future in futures]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=5000)
    parser.add_argument("--poisons", type=int, default=50, help="how often one call kills its own slot")
    parser.add_argument("--replacements", type=int, default=50, help="how often the time to a replacement is measured")
    parser.add_argument("--seconds", type=float, default=0.1, help="between two kills, on average")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        minidask.Client(n_workers=options.slots, memory_limit=MEMORY_LIMIT, forward_output=False) as client,
    ):
        path = os.path.join(folder, "notes")
        Path(path).touch()
        with parallel_config("minidask", scheduler=client):
            seconds = time_replacements(client, path, options.replacements, options.seed)
            if seconds:
                print(
                    f"from a death until its replacement begins a call: median {seconds[len(seconds) // 2]:.2f} s,"
                    f" longest {seconds[-1]:.2f} s, {sum(s > 1 for s in seconds)} of {len(seconds)} above 1 s",
                    flush=True,
                )
            Path(path).write_bytes(b"")
            poisoned = poison_some(client, Path(folder), options.poisons, options.seed)
            print("poison:", poisoned, flush=True)
            killed = kill_at_random(client, path, options.calls, options.kills, options.seconds, options.seed)
            print("kills:", killed, flush=True)
    return 1 if poisoned.wrong or killed.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
