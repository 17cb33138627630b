"""Short calls of a function that uses a large object of its module: calls a second on minidask and on loky.

python examples/large_global.py

loky sends the object with every call (joblib's issue 1733). minidask sends it once.
"""

import time

import joblib
import numpy as np

import minidask

table = np.random.default_rng(0).random((10_000, 1000))  # 80 MB


def mean(row: int) -> float:
    return float(table[row].mean())


def rate(backend: str, calls: int) -> float:
    """Calls a second, after a first one."""
    with joblib.parallel_config(backend, n_jobs=2):
        joblib.Parallel()(joblib.delayed(mean)(row) for row in range(2))
        began = time.perf_counter()
        joblib.Parallel(batch_size=1)(joblib.delayed(mean)(row) for row in range(calls))
        return calls / (time.perf_counter() - began)


if __name__ == "__main__":
    with minidask.Client(n_workers=2):
        print(f"minidask: {rate('minidask', 5000):7,.0f} calls a second", flush=True)
    print(f"loky:     {rate('loky', 20):7,.0f} calls a second")
