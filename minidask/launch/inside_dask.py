"""A cluster of ours inside a Dask cluster that runs: one worker on each node, with the threads and memory of Dask's."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minidask.launch import inside
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import Plan


class DaskEngine:
    """Has one of Dask's workers on each node hold a worker of ours.

    Args:
        client: of Dask.
        plan: for the workers.
    """

    def __init__(self, client: Any, plan: Plan) -> None:
        self._client, self._plan = client, plan
        self._nodes: dict[str, list[str]] = {}  # host -> addresses of Dask's workers there
        self._threads: dict[str, int] = client.nthreads()
        for address in sorted(self._threads):
            self._nodes.setdefault(urlsplit(address).hostname or address, []).append(address)
        self._started: set[str] = set()

    @property
    def nodes(self) -> int:
        """How many there are."""
        return len(self._nodes)

    def start(self, n: int) -> list[str]:
        """Start workers on `n` nodes that have none."""
        limits = self._client.run(_memory_limit)
        access = Path(self._plan.access_file).read_bytes()
        free = [name for name in self._nodes if name not in self._started][:n]
        for name in free:
            threads = sum(self._threads[address] for address in self._nodes[name])
            memory = sum(limits.get(address) or 0 for address in self._nodes[name])
            limit = ["--memory-limit", str(memory // threads)] if memory else []
            command = [*self._plan.on_tether(name), "--nworkers", str(threads), *limit]
            self._run(name, inside.hold, name, command, access)
            self._started.add(name)
        return free

    def stop(self, ids: Collection[str]) -> None:
        """Have them drain and end."""
        for name in ids:
            self._run(name, inside.let_go, name)
        self._started -= set(ids)

    def alive(self, ids: Iterable[str]) -> dict[str, str]:
        """Ask Dask's workers."""
        return {name: self._run(name, inside.state, name) for name in ids}

    def describe(self) -> str:
        """What is done, for people."""
        return "\n".join(f"{address[0]}: one worker, for {len(address)} of Dask" for address in self._nodes.values())

    def _run(self, name: str, function: Any, *arguments: Any) -> Any:
        holder = self._nodes[name][0]
        answers = self._client.run(function, *arguments, workers=[holder], on_error="return")
        answer = answers.get(holder, "Dask's worker there has ended")
        return f"{type(answer).__name__}: {answer}" if isinstance(answer, BaseException) else answer


def _memory_limit(dask_worker: Any) -> int | None:
    limit: int | None = dask_worker.memory_manager.memory_limit
    return limit


def dask(client: Any, **options: Any) -> LaunchedCluster:
    """Put a cluster into the Dask cluster of a `distributed.Client`; its `close()` takes it away again.

        with minidask.launch.dask(dask_client) as cluster, minidask.Client(cluster): ...

    Each node runs as many tasks at once as Dask's workers there have threads. Dask does not know that its cores are
    taken: do not let both compute at the same time.

    Args:
        client: of Dask, connected.
        options: as in `LaunchedCluster`.
    """
    nodes = len({urlsplit(address).hostname for address in client.nthreads()})
    return inside.whole(lambda plan: DaskEngine(client, plan), nodes, **options)
