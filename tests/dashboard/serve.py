"""A dashboard of a cluster that there is not, to be looked at: `python -m tests.dashboard.serve --machines 200`."""

from __future__ import annotations

import argparse
import resource
import sys
import threading
import time

from minidask.dashboard.metrics import exposition
from minidask.dashboard.server import Dashboard, DashboardServer

from .fakes import FakeCluster


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--past", type=int, default=20, help="seconds that it has run already")
    parser.add_argument("--plain", action="store_true", help="without names that are markup")
    options = parser.parse_args()
    dashboard = Dashboard(lambda task: f"it waits: all workers are busy; {task} are before it", exposition)
    server = DashboardServer("127.0.0.1", 0, dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    evil = {"evil": "predict"} if options.plain else {}
    cluster = FakeCluster(time.time() - options.past, options.machines, options.workers, options.rate, **evil)
    dashboard.model.take(cluster.begin())
    while cluster.now < time.time() - 0.5:
        dashboard.model.take(cluster.step())
        dashboard.model.tick(cluster.now)
    print(server.link("127.0.0.1"), flush=True)
    spent, told = 0.0, time.monotonic()
    while True:
        events = list(cluster.step())
        began = time.thread_time()
        with dashboard.lock:
            dashboard.model.take(events)
            dashboard.model.tick(cluster.now)
        spent += time.thread_time() - began
        if time.monotonic() > told + 5:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(f"{spent / (time.monotonic() - told):.1%} of a core for the model, {memory} MiB", file=sys.stderr)
            spent, told = 0.0, time.monotonic()
        time.sleep(max(0.0, cluster.now - time.time()))


if __name__ == "__main__":
    main()
