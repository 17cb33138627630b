"""The same search on whatever cluster there is: the backend is one word of the command line.

python examples/any_backend.py                              on this machine, by minidask
python examples/any_backend.py minidask node1:8786          or minidask /path/of/an/access/file
python examples/any_backend.py dask tcp://node1:8786
python examples/any_backend.py ray auto
python examples/any_backend.py loky

A third word is the number of candidates, 20 if it is left out.
"""

import contextlib
import sys
import time

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC


def backend(name: str, address: str | None) -> contextlib.AbstractContextManager:
    """Connect to a cluster, and make it joblib's backend within the block."""
    if name == "minidask":
        import minidask

        if address and "/" in address and "://" not in address:
            return joblib.parallel_config("minidask", scheduler=minidask.Client(access_file=address))
        return joblib.parallel_config("minidask", scheduler=minidask.Client(address))
    if name == "dask":
        import distributed

        distributed.Client(address)
        return joblib.parallel_config("dask")
    if name == "ray":
        import ray
        from ray.util.joblib import register_ray

        ray.init(address, log_to_driver=False, logging_level="error")
        register_ray()
    return joblib.parallel_config(name, n_jobs=-1)


def main() -> None:
    name, address, candidates, *_ = [*sys.argv[1:], *("minidask", "", "20")[len(sys.argv) - 1 :]]
    digits = load_digits()
    grid = {"C": np.logspace(-3, 3, 7), "gamma": np.logspace(-5, 1, 7)}
    search = RandomizedSearchCV(SVC(), grid, cv=3, n_iter=int(candidates), random_state=0)
    with backend(name, address or None):
        joblib.Parallel()(joblib.delayed(abs)(i) for i in range(8))  # what starts when it is first used
        began = time.perf_counter()
        search.fit(digits.data, digits.target)
    print(f"{name}: best score {search.best_score_:.4f}, {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
