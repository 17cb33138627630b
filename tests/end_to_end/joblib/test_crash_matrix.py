"""Pickling or unpickling raises, exits or crashes, for each thing that travels: a named error; the next call works."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import pytest
from joblib import Parallel, delayed, parallel_config

import minidask
from minidask import errors


def fail(how: str) -> Any:
    match how:
        case "raises":
            raise ValueError("on purpose")
        case "exits":
            sys.exit(3)
        case "crashes":
            os._exit(7)


class Odd:
    """What fails when it is pickled, or unpickled."""

    def __init__(self, when: str, how: str) -> None:
        self.when, self.how = when, how

    def __call__(self) -> None:
        pass

    def __reduce__(self) -> Any:
        if self.when == "pickled":
            fail(self.how)
        return fail, (self.how,)


class OddError(Exception):
    def __init__(self, when: str, how: str) -> None:
        super().__init__(when, how)
        self.odd = Odd(when, how)

    def __reduce__(self) -> Any:
        return self.odd.__reduce__()


def raise_odd(when: str, how: str) -> NoReturn:
    raise OddError(when, how)


CALLS: dict[str, Any] = {
    "function": lambda when, how: delayed(Odd(when, how))(),
    "argument": lambda when, how: delayed(id)(Odd(when, how)),
    "result": lambda when, how: delayed(Odd)(when, how),
    "exception": lambda when, how: delayed(raise_odd)(when, how),
}
RAISED: dict[tuple[str, str], tuple[type[BaseException], type[BaseException]]] = {
    ("function", "pickled"): (errors.SerializationError, SystemExit),
    ("function", "unpickled"): (errors.SerializationError, errors.SerializationError),
    ("argument", "pickled"): (errors.SerializationError, SystemExit),
    ("argument", "unpickled"): (errors.SerializationError, errors.SerializationError),
    ("result", "pickled"): (errors.SerializationError, errors.TaskError),
    ("result", "unpickled"): (errors.SerializationError, errors.SerializationError),
    ("exception", "pickled"): (errors.TaskError, errors.TaskError),
    ("exception", "unpickled"): (errors.TaskError, errors.TaskError),
}
"""What the user sees if it raises, and if it exits."""

IN_A_SLOT = [("function", "unpickled"), ("argument", "unpickled"), ("result", "pickled"), ("exception", "pickled")]
"""Elsewhere a crash is the end of the user's program, as with anything."""

PLACES = [
    (*place, how, kind) for place, kinds in RAISED.items() for how, kind in zip(("raises", "exits"), kinds, strict=True)
]
PLACES += [(*place, "crashes", errors.KilledWorker) for place in IN_A_SLOT]


@pytest.mark.parametrize(("thing", "when", "how", "kind"), PLACES, ids=["-".join(place[:3]) for place in PLACES])
def test_it_is_a_named_error_and_the_next_call_works(
    client: minidask.Client, thing: str, when: str, how: str, kind: type[BaseException]
) -> None:
    calls = [delayed(abs)(-1), CALLS[thing](when, how), delayed(abs)(-2)]
    with parallel_config("minidask", scheduler=client):
        with pytest.raises(kind) as found:
            Parallel(n_jobs=2)(calls)
        assert type(found.value) is kind
        assert Parallel(n_jobs=2)(delayed(abs)(-i) for i in range(3)) == [0, 1, 2]
