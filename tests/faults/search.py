"""The search that faults hit, and the program of a user who runs it."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

import minidask

GRID = {"C": [0.1, 0.3, 1, 3, 10, 30, 100], "gamma": [0.0001, 0.001, 0.01]}
FITS = 63
MIDDLE = FITS // 3
"""Fits before the fault."""
IN_FLIGHT = 8
"""Calls that joblib has under way: what may run again when all is killed."""
SAME = "the sequential result"


def note(notes: str, fit: str = "") -> None:
    """Write that a fit begins, in one piece, whatever others write."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{time.time():.6f} {os.getpid()} {fit}\n".encode())
    os.close(file)


class Noted(SVC):  # type: ignore[misc]
    """A classifier that notes each fit, and once does what the file beside its notes tells it."""

    def __init__(self, C: float = 1.0, gamma: float = 0.001, notes: str = os.devnull) -> None:
        super().__init__(C=C, gamma=gamma)
        self.notes = notes

    def fit(self, X: Any, y: Any) -> Noted:
        note(self.notes, f"{self.C}/{self.gamma}/{X.sum()}")
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{self.notes}.fault", f"{self.notes}.done")  # one fit alone succeeds in this
            WITHIN_A_TASK[Path(f"{self.notes}.done").read_text()]()
        time.sleep(0.05)
        return super().fit(X, y)  # type: ignore[no-any-return]


def take_memory() -> None:
    taken = []
    for _ in range(100):
        taken.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.02)


WITHIN_A_TASK: dict[str, Callable[[], Any]] = {
    "segfault": lambda: ctypes.string_at(0),
    "exit": lambda: os._exit(1),
    "memory": take_memory,
}


def scores(notes: str) -> list[float]:
    """The search; also what the user's program below runs."""
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(Noted(notes=notes), GRID, cv=3, n_jobs=-1, refit=False).fit(X[:500], y[:500])
    found: list[float] = search.cv_results_["mean_test_score"].tolist()
    return found


def doubled(array: Any, i: int) -> Any:
    return array * 2 + i


def user_program(options: argparse.Namespace) -> None:
    """A search in a program of its own, for faults that hit that program or its machine."""
    place: dict[str, Any] = {"address": options.scheduler} if options.scheduler else {"n_workers": 2}
    kept: dict[str, Any] = {"resume": options.resume} if options.resume else {}
    with minidask.Client(**place) as client, parallel_config("minidask", scheduler=client, **kept):
        client.wait_for_workers(1)
        if options.hang:
            client.gather(client.map(time.sleep, [600] * 4))
        if options.fill:
            with contextlib.suppress(OSError), open("/dev/shm/others", "wb") as file:
                while True:
                    file.write(bytes(1 << 20))
            array = np.arange(1 << 19, dtype=float)
            for i, result in enumerate(Parallel()(delayed(doubled)(array, i) for i in range(6))):
                assert (result == array * 2 + i).all()
        print("scores", scores(options.user), flush=True)
