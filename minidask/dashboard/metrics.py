"""The model's figures for Prometheus, by its conventions: base units, counters that end in `_total`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from minidask.viewers.state import MachineState

from .model import Model


class _Collector:
    def __init__(self, model: Model) -> None:
        self._model = model

    def collect(self) -> Iterator[Metric]:
        """Return all figures as they are now."""
        model, state = self._model, self._model.state
        machines = list(state.machines.values())
        yield GaugeMetricFamily("minidask_up", "Whether there is a scheduler.", value=float(not model.lost))
        yield GaugeMetricFamily("minidask_machines", "Machines in the cluster.", value=len(machines))
        yield GaugeMetricFamily("minidask_clients", "Clients.", value=len(state.clients))
        for key, text in (("queued", "that wait for a worker"), ("running", "that are on a worker")):
            yield GaugeMetricFamily(f"minidask_tasks_{key}", f"Tasks {text}.", value=_number(state.tasks.get(key)))
        finished = _number(state.tasks.get("finished"))
        yield CounterMetricFamily("minidask_tasks_finished", "Tasks that are over.", value=finished)
        yield CounterMetricFamily("minidask_fetches", "Transfers of large data.", value=model.fetched[0])
        yield CounterMetricFamily("minidask_fetched_bytes", "Bytes of large data fetched.", value=model.fetched[1])
        yield CounterMetricFamily("minidask_events_missed", "Events that were left out.", value=model.missed)
        for name, text, what in (
            ("workers", "Workers of a machine.", lambda m: m.size),
            ("workers_busy", "Workers of a machine that run a call.", lambda m: m.busy),
            ("machine_cpu_ratio", "Busy share of a machine's processors, 0 to 1.", lambda m: _of(m, "cpu") / 100),
            ("machine_memory_used_bytes", "Memory in use on a machine.", lambda m: _of(m, "memory")),
            ("machine_memory_bytes", "Memory of a machine.", lambda m: _of(m, "memory_total")),
            ("machine_store_bytes", "Large data in the store of a machine.", lambda m: _of(m, "store")),
            ("machine_receive_bytes_per_second", "Bytes over the network.", lambda m: _of(m, "received")),
            ("machine_transmit_bytes_per_second", "Bytes over the network.", lambda m: _of(m, "sent")),
        ):
            gauge = GaugeMetricFamily(f"minidask_{name}", text, labels=["machine"])
            for machine in machines:
                gauge.add_metric([machine.name], what(machine))
            yield gauge
        for name, text, what in (
            ("calls", "Calls that have ended.", lambda m: m.over),
            ("calls_failed", "Calls that have raised.", lambda m: m.failed),
            ("busy_seconds", "Seconds that calls took.", _busy_seconds),
        ):  # fmt: skip
            counter = CounterMetricFamily(f"minidask_{name}", text, labels=["machine"])
            for machine in machines:
                counter.add_metric([machine.name], what(machine))
            yield counter


def exposition(model: Model) -> bytes:
    """Return the text that Prometheus reads."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(model))  # any object with `collect`
    return generate_latest(registry)


def _busy_seconds(machine: MachineState) -> float:
    return sum(_number(worker.info["busy_seconds"]) for worker in machine.workers.values())


def _of(machine: MachineState, key: str) -> float:
    return _number(machine.usage.get(key))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
