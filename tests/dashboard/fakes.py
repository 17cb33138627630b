"""A cluster that there is not: the events of so many machines that end so many calls a second."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from minidask.client.events import ClusterEvent

EVIL = "<script>document.title='evil'</script><img src=x onerror=\"document.title='evil'\">"
NAMES = ("fit_forest", "score", "load_part", "cross_validate", "transform")


def event(kind: str, time: float = 0.0, **fields: Any) -> ClusterEvent:
    return ClusterEvent(kind, time, **fields)


class FakeCluster:
    """Makes the events of a cluster, half a second at a time. Times go on from `now`.

    Args:
        machines, workers: how many, and of each.
        rate: calls that end in a second, of all workers.
        evil: the name of a machine, a client and some calls.
    """

    def __init__(self, now: float, machines: int = 2, workers: int = 4, rate: float = 20.0, evil: str = EVIL) -> None:
        self.now = now
        self.addresses = [f"tcp://10.0.{n // 250}.{n % 250 + 1}:40{n:03}" for n in range(machines)]
        self.workers = workers
        self.rate = rate
        self._random = random.Random(0)
        self._evil = evil
        self._task = 0
        self._over = {(a, n): 0 for a in self.addresses for n in range(workers)}
        self._failed = dict(self._over)
        self._free_at = dict.fromkeys(self._over, now)
        self._finished = 0

    def begin(self) -> list[ClusterEvent]:
        """The first events."""
        machines = [
            {
                "address": a,
                "name": f"node{n + 1}",
                "workers": self.workers,
                "host": f"node{n + 1}.lab",
                "python": "3.11",
            }
            for n, a in enumerate(self.addresses)
        ]
        machines[-1]["name"] = self._evil
        info = {"address": "tcp://10.0.0.1:8786", "version": "1", "machines": machines, **self._counts()}
        return [event("snapshot", self.now, info=info)]

    def _counts(self) -> dict[str, Any]:
        waiting = max(0, 40_000 - self._finished)
        clients = [
            {"id": 1, "name": "sarah@desk search.py 4711", "queued": waiting, "running": len(self._over), "failed": 3,
             "finished": self._finished, "nested": {"submitted": 120}},
            {"id": 2, "name": self._evil, "queued": 3, "running": 0, "finished": 5, "failed": 0, "nested": {}},
        ]  # fmt: skip
        tasks = {"queued": waiting + 3, "running": len(self._over), "finished": self._finished + 5}
        return {"clients": clients, "tasks": tasks}

    def step(self) -> Iterator[ClusterEvent]:
        """The events of the next half second."""
        rnd, each = self._random, len(self._over) / self.rate
        self.now += 0.5
        for n, address in enumerate(self.addresses):
            usage = {
                "cpu": rnd.uniform(70, 99), "memory": 3.1e9 + 1e8 * rnd.random(), "memory_total": 16e9,
                "received": 1e6 * rnd.random(), "sent": 4e5, "store": 3e8,
            }  # fmt: skip
            yield event("usage", self.now, machine=address, info=usage)
            for worker in range(self.workers):
                yield from self._worker(n, address, worker, each)
        counts = self._counts()
        yield event("counts", self.now, info=counts)
        if rnd.random() < 0.3:
            info = {
                "blob": f"{rnd.randrange(20) * 0x9E3779B97F4A7C15 % 2**64:016x}" * 2,
                "source": rnd.choice(["", *self.addresses]),
            }
            yield event("fetched", self.now, machine=rnd.choice(self.addresses), size=rnd.randrange(10**9), info=info)

    def _worker(self, n: int, address: str, worker: int, each: float) -> Iterator[ClusterEvent]:
        rnd, lane = self._random, (address, worker)
        while True:
            began = self._free_at[lane] + (0.2 * each if rnd.random() < 0.05 else 0.0005)
            seconds = each * rnd.uniform(0.5, 1.5) * (4 if rnd.random() < 0.02 else 1)
            self._task += 1
            name = self._evil if rnd.random() < 0.01 else NAMES[int(began / max(1.0, 8 * each)) % len(NAMES)]
            common: dict[str, Any] = {"task": self._task, "name": name, "machine": address}
            if began + seconds > self.now:
                yield event(
                    "submitted", began - 1, task=self._task, name=name, client=1, info={"group": 1, "parent": 0}
                )
                yield event("started", began, **common, client=1, attempt=1)
                sums = {"over": self._over[lane], "failed": self._failed[lane], "busy_seconds": 1.0, "idle": False}
                yield event(
                    "running", began, **common, worker=worker, seconds=self.now - began, memory=180 << 20, info=sums
                )
                self._free_at[lane] = began
                return
            raised = rnd.random() < 0.005
            how = "raised" if raised else "done"
            self._over[lane] += 1
            self._failed[lane] += raised
            self._finished += 1
            self._free_at[lane] = began + seconds
            yield event(
                "call", began, **common, worker=worker, seconds=seconds, cpu=seconds * 0.9, memory=190 << 20, how=how
            )
            text = "ValueError: \\x1b[31m<b>bad</b> input" if raised else ""
            yield event("ended", began + seconds, **common, client=1, how=how, seconds=seconds, text=text)
