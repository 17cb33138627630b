"""`minidask.ml` beside dask-ml, on one machine: `python -m bench.ml --dask-ml PYTHON`, a Python that has dask-ml.

Both have two workers of one thread, and read the same files, a chunk at a time. Each round starts both anew, and the
rounds take turns. Times are medians; small calls before them have made the imports. `loop` is scikit-learn alone.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 40
CHUNK = 20_000
WORKERS = 2
SPACE = {"alpha": np.logspace(-6, 1, 200).tolist(), "penalty": ["l2", "l1", "elasticnet"]}
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Calls = Iterator[tuple[str, Callable[[], Any]]]
"""A title, and a call that returns None, or the score of what it has made."""


def make(folder: Path, rows: int) -> None:
    """Write features of which ten blobs are hidden in noise, and their classes."""
    rng = np.random.default_rng(0)
    centers, y = rng.normal(0, 1.5, (10, COLUMNS)), rng.integers(10, size=rows)
    np.save(folder / "X.npy", centers[y] + rng.normal(0, 2, (rows, COLUMNS)))
    np.save(folder / "y.npy", y)
    np.save(folder / "halves.npy", y % 2)


def read(path: str, first: int) -> Any:
    """Read the rows of a chunk."""
    return np.array(np.load(path, mmap_mode="r")[first : first + CHUNK])


def forest_of(folder: Path) -> Any:
    """Return a forest that knows the classes; each version of scikit-learn has its own, which is made once."""
    import sklearn
    from sklearn.ensemble import RandomForestClassifier

    path = folder / f"forest-{sklearn.__version__}"
    if not path.exists():
        X, y = read(str(folder / "X.npy"), 0), read(str(folder / "y.npy"), 0)
        path.write_bytes(pickle.dumps(RandomForestClassifier(50, random_state=0).fit(X, y)))
    return pickle.loads(path.read_bytes())


def inertia(model: Any, folder: Path) -> float:
    """Return the negative mean of squared distances to the nearest center, of the first chunk."""
    from sklearn.metrics import pairwise_distances_argmin_min

    centers = np.asarray(model.cluster_centers_)
    return -float((pairwise_distances_argmin_min(read(str(folder / "X.npy"), 0), centers)[1] ** 2).mean())


def ours(folder: Path) -> Calls:
    from sklearn.linear_model import SGDClassifier

    import minidask
    from minidask import ml

    forest = forest_of(folder)
    with minidask.Client(n_workers=WORKERS):
        data = ml.chunks((folder / "X.npy", folder / "y.npy"), rows=CHUNK)
        ml.StandardScaler().fit(data[:2])
        ml.Incremental(SGDClassifier()).fit(data[:2])
        list(ml.ParallelPostFit(ml.PCA(2).fit(data[:2])).stream(data[:2], "transform"))
        classes = np.arange(10)
        yield "predict by a forest", lambda: ml.ParallelPostFit(forest).predict(data)
        yield "Incremental, SGD", lambda: ml.Incremental(SGDClassifier(random_state=0)).fit(data, classes=classes)
        yield "StandardScaler", lambda: ml.StandardScaler().fit(data)
        yield "PCA(10)", lambda: ml.PCA(10).fit(data)
        yield "KMeans(10)", lambda: inertia(ml.KMeans(10, random_state=0, max_iter=20).fit(data), folder)
        halves = ml.chunks((folder / "X.npy", folder / "halves.npy"), rows=CHUNK)
        yield "LogisticRegression", lambda: ml.LogisticRegression().fit(halves).score(halves)
        yield (
            "Hyperband, 27 calls",
            lambda: (
                ml.HyperbandSearchCV(SGDClassifier(random_state=0), SPACE, 27, random_state=0)
                .fit(data, classes=classes)
                .best_score_
            ),
        )


def dask_ml(folder: Path) -> Calls:
    import dask
    import dask.array as da
    import dask_ml.cluster
    import dask_ml.decomposition
    import dask_ml.linear_model
    import dask_ml.model_selection
    import dask_ml.preprocessing
    import dask_ml.wrappers
    from distributed import Client
    from sklearn.linear_model import SGDClassifier

    def array(name: str) -> Any:
        whole = np.load(folder / name, mmap_mode="r")
        parts = [
            da.from_delayed(dask.delayed(read)(str(folder / name), a), (CHUNK, *whole.shape[1:]), whole.dtype)
            for a in range(0, len(whole), CHUNK)
        ]
        return da.concatenate(parts)

    forest = forest_of(folder)
    with Client(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None):
        X, y = array("X.npy"), array("y.npy")
        dask_ml.preprocessing.StandardScaler().fit(X[: 2 * CHUNK])
        dask_ml.wrappers.Incremental(SGDClassifier()).fit(X[:CHUNK], y[:CHUNK], classes=list(range(10)))
        classes = list(range(10))
        yield "predict by a forest", lambda: dask_ml.wrappers.ParallelPostFit(forest).predict(X).compute()
        yield (
            "Incremental, SGD",
            lambda: dask_ml.wrappers.Incremental(SGDClassifier(random_state=0)).fit(X, y, classes=classes),
        )
        yield "StandardScaler", lambda: dask_ml.preprocessing.StandardScaler().fit(X)
        yield "PCA(10)", lambda: dask_ml.decomposition.PCA(10).fit(X)
        yield "KMeans(10)", lambda: inertia(dask_ml.cluster.KMeans(10, random_state=0, max_iter=20).fit(X), folder)
        halves, logistic = array("halves.npy"), dask_ml.linear_model.LogisticRegression(solver="lbfgs")
        yield "LogisticRegression", lambda: float(logistic.fit(X, halves).score(X, halves).compute())
        yield (
            "Hyperband, 27 calls",
            lambda: (
                dask_ml.model_selection.HyperbandSearchCV(SGDClassifier(random_state=0), SPACE, 27, random_state=0)
                .fit(X, y, classes=classes)
                .best_score_
            ),
        )


def loop(folder: Path) -> Calls:
    from sklearn.linear_model import SGDClassifier

    rows = len(np.load(folder / "X.npy", mmap_mode="r"))
    X, y, forest = str(folder / "X.npy"), str(folder / "y.npy"), forest_of(folder)

    def learn() -> None:
        model = SGDClassifier(random_state=0)
        for first in range(0, rows, CHUNK):
            model.partial_fit(read(X, first), read(y, first), classes=np.arange(10))

    def predict() -> None:
        for first in range(0, rows, CHUNK):
            forest.predict(read(X, first))

    SGDClassifier().partial_fit(read(X, 0), read(y, 0), classes=np.arange(10))
    yield "predict by a forest", predict
    yield "Incremental, SGD", learn


SIDES = {"minidask": ours, "dask-ml": dask_ml, "loop": loop}


def measure(side: str, folder: Path, only: str) -> dict[str, tuple[float | None, Any]]:
    """Return the seconds of each call, and what it returned; None and the error of one that fails."""
    found: dict[str, tuple[float | None, Any]] = {}
    for title, call in SIDES[side](folder):
        if only not in title:
            continue
        begun = time.perf_counter()
        try:
            value = call()
        except Exception as error:  # noqa: BLE001 - of a library with another version
            found[title] = None, f"{type(error).__name__}: {error}"[:200]
        else:
            found[title] = time.perf_counter() - begun, value if isinstance(value, float) else None
    return found


def report(rounds: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table, in Markdown."""
    print(
        "| what | minidask.ml | dask-ml | ratio | loop | score here | score of dask-ml |\n|---|---|---|---|---|---|---|"
    )
    for title in rounds["minidask"][0]:
        cells = {}
        for side, found in rounds.items():
            times = [one[title][0] for one in found if title in one]
            cells[side] = statistics.median(times) if times and None not in times else None
        mine, other, alone = (cells.get(side) for side in SIDES)
        shown = ["-" if t is None else f"{t:.2f} s" for t in (mine, other, alone)]
        ratio = "-" if mine is None or other is None else f"{mine / other:.2f}"
        scores = [rounds[side][0].get(title, (0, None))[1] for side in ("minidask", "dask-ml") if side in rounds]
        named = ["" if score is None else f"{score:.6g}" if isinstance(score, float) else score for score in scores]
        print(f"| {title} | {shown[0]} | {shown[1]} | {ratio} | {shown[2]} | {' | '.join(named)} |", flush=True)


def main() -> None:
    """Run all rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dask-ml", metavar="PYTHON", help="a Python that has dask-ml; without, it is left out")
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", metavar="TEXT", default="", help="only what has this in its title")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.folder, options.only)))
        return
    pythons = {"minidask": sys.executable, "loop": sys.executable}
    if options.dask_ml:
        pythons["dask-ml"] = options.dask_ml
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in pythons}
    environment = {**os.environ, **dict.fromkeys(THREADS, "1"), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), options.rows)
        for _ in range(options.rounds):
            for side, python in pythons.items():
                command = [python, __file__, "--side", side, "--folder", folder, "--only", options.only]
                ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                rounds[side].append(json.loads(ended.stdout.splitlines()[-1]))
    report(rounds)


if __name__ == "__main__":
    main()
