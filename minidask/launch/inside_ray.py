"""A cluster of ours inside a Ray cluster that runs: one worker on each node, held by an actor that owns the cores."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from minidask.errors import MinidaskError
from minidask.launch import inside
from minidask.launch.cluster import LaunchedCluster
from minidask.launch.engine import ALIVE, Plan


class RayHolder:
    """The actor: it holds one worker of ours, and Ray gives its cores to nobody else meanwhile."""

    def hold(self, name: str, command: list[str], access: bytes) -> None:
        """Start the worker."""
        inside.hold(name, command, access)

    def let_go(self, name: str) -> None:
        """Have it drain and end."""
        inside.let_go(name)

    def state(self, name: str) -> str:
        """Return `ALIVE`, or why it has ended."""
        return inside.state(name)


class RayEngine:
    """Has an actor on each node hold a worker of ours.

    Args:
        ray: the module, initialized.
        plan: for the workers.
    """

    def __init__(self, ray: Any, plan: Plan) -> None:
        self._ray, self._plan = ray, plan
        self._nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")}
        self._actors: dict[str, Any] = {}

    def start(self, n: int) -> list[str]:
        """Start workers on `n` nodes that have none."""
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        access = Path(self._plan.access_file).read_bytes()
        free = [name for name in self._nodes if name not in self._actors][:n]
        for name in free:
            cores = max(1, int(self._nodes[name]["Resources"]["CPU"]))
            here = strategies.NodeAffinitySchedulingStrategy(name, soft=False)
            actor = self._ray.remote(RayHolder).options(num_cpus=cores, scheduling_strategy=here).remote()
            actor.hold.remote(name, [*self._plan.on_tether(name), "--nworkers", str(cores)], access)
            self._actors[name] = actor
        return free

    def stop(self, ids: Collection[str]) -> None:
        """Have them drain; their actors end then, and give the cores back."""
        for name in ids:
            actor = self._actors.pop(name)
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(actor.let_go.remote(name))
            del actor  # Ray ends it when nobody holds it: its end is the worker's

    def alive(self, ids: Iterable[str]) -> dict[str, str]:
        """Ask the actors. One that waits for cores has not answered yet, and counts as alive."""
        return {name: self._state(name) for name in ids}

    def _state(self, name: str) -> str:
        if name not in self._actors:
            return "it was let go"
        try:
            return str(self._ray.get(self._actors[name].state.remote(name), timeout=1))
        except self._ray.exceptions.GetTimeoutError:
            return ALIVE
        except self._ray.exceptions.RayError as error:
            return f"its actor has ended: {error}"

    def describe(self) -> str:
        """What is done, for people."""
        return "\n".join(f"{node['NodeManagerHostname']}: one actor, one worker" for node in self._nodes.values())


def ray(**options: Any) -> LaunchedCluster:
    """Put a cluster into the Ray cluster that this program is connected to; its `close()` takes it away again.

        ray.init()
        with minidask.launch.ray() as cluster, minidask.Client(cluster): ...

    An actor on each node owns all cores there meanwhile.

    Args:
        options: as in `LaunchedCluster`.

    Raises:
        MinidaskError: this program is connected to no Ray cluster.
    """
    ray: Any = importlib.import_module("ray")  # it is optional
    if not ray.is_initialized():
        raise MinidaskError("this program is connected to no Ray cluster: ray.init() first")
    nodes = sum(node["Alive"] and bool(node["Resources"].get("CPU")) for node in ray.nodes())
    return inside.whole(lambda plan: RayEngine(ray, plan), nodes, **options)
