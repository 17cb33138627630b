"""The engines that are measured, each as a context in which joblib uses it with a given number of workers.

An engine that cannot be imported is left out, and the table says why. `threading` is joblib itself: the floor under
every figure that goes through `Parallel`. `floor` is the bare machine, see `floors.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import joblib


@dataclass(frozen=True)
class Engine:
    """One way to run `joblib.Parallel`.

    Attributes:
        name: as given to `--engines`.
        needs: the packages to install.
        imports: the modules that a program with this engine imports.
        open: starts the engine with so many workers, and makes it joblib's backend within the block.
    """

    name: str
    needs: tuple[str, ...]
    imports: tuple[str, ...]
    open: Callable[[int], contextlib.AbstractContextManager[None]]

    def unusable(self) -> str:
        """Return why this engine cannot be used on this machine; an empty text if it can."""
        missing = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if missing:
            return f"{', '.join(missing)} is not installed"
        command = [sys.executable, "-c", "".join(f"import {module}\n" for module in self.imports)]
        result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return (
            result.stderr.strip().rpartition("\n")[2] or f"exit code {result.returncode}" if result.returncode else ""
        )


@contextlib.contextmanager
def _minidask(workers: int) -> Iterator[None]:
    import minidask

    with minidask.Client(n_workers=workers) as client, joblib.parallel_config("minidask", scheduler=client):
        yield


@contextlib.contextmanager
def _joblibs_own(name: str, workers: int) -> Iterator[None]:
    with joblib.parallel_config(name, n_jobs=workers):
        yield


@contextlib.contextmanager
def _loky(workers: int) -> Iterator[None]:
    from joblib.externals.loky import get_reusable_executor

    with _joblibs_own("loky", workers):
        yield
    get_reusable_executor().shutdown(wait=True)


@contextlib.contextmanager
def _dask(workers: int) -> Iterator[None]:
    from dask.distributed import Client

    with (
        Client(n_workers=workers, threads_per_worker=1, dashboard_address=None, set_as_default=True),
        joblib.parallel_config("dask"),
    ):
        yield


@contextlib.contextmanager
def _ray(workers: int) -> Iterator[None]:
    import ray
    from ray.util.joblib import register_ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        register_ray()
        with joblib.parallel_config("ray", n_jobs=workers):
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _ipyparallel(workers: int) -> Iterator[None]:
    import ipyparallel

    cluster = ipyparallel.Cluster(n=workers, log_level=40)
    client = cluster.start_and_connect_sync(activate=False)
    try:
        client.load_balanced_view().register_joblib_backend("ipyparallel")
        with joblib.parallel_config("ipyparallel", n_jobs=workers):
            yield
    finally:
        client.close()
        cluster.stop_cluster_sync()


FLOOR = "floor"

ENGINES = (
    Engine("minidask", ("minidask", "minidask.scheduler", "minidask.worker"), ("minidask",), _minidask),
    Engine("loky", ("joblib",), ("joblib",), _loky),
    Engine("dask", ("dask", "distributed"), ("dask.distributed",), _dask),
    Engine("ray", ("ray",), ("ray", "ray.util.joblib"), _ray),
    Engine("ipyparallel", ("ipyparallel",), ("ipyparallel",), _ipyparallel),
    Engine("threading", ("joblib",), ("joblib",), lambda workers: _joblibs_own("threading", workers)),
    Engine(FLOOR, (), (), lambda workers: contextlib.nullcontext()),
)
