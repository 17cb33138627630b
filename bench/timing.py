"""Times a call, and checks its result: a wrong result must not count as a fast one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], Any], check: Callable[[Any], bool]) -> float:
    """Return the seconds that `call` takes.

    Raises:
        AssertionError: `check` does not accept the call's result.
    """
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    if not check(result):
        raise AssertionError("the result is wrong")
    return seconds
