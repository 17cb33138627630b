"""How a workload is timed: the call, and a check that its result is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def timed(call: Callable[[], Any], check: Callable[[Any], bool]) -> float:
    """Seconds that `call` takes.

    Raises:
        AssertionError: `check` does not accept its result.
    """
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    if not check(result):
        raise AssertionError("the result is wrong")
    return seconds
