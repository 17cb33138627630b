"""The inside of joblib: the only file that uses names which joblib keeps to itself.

joblib's contract for backends is public, and `backend.py` keeps to it. Four things cannot be done by the contract:

- A thread that waits for results must know whether there are more to come, without joblib's sleep of 10 ms.
- An error of a user's iterable must reach the user, although the thread that ran the iterable is ours.
- A call must use slots that join the cluster during the call.
- A progress bar must know how many calls there will be.

Here these have plain names. A release of joblib that moves its own names breaks this file and no other.

joblib is imported in functions only: as soon as it is loaded, it has `backend.py` loaded, which needs this file.
"""

from __future__ import annotations

import functools
import pickle
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import cloudpickle

from minidask.client.screen import beside_bars
from minidask.pickling.functions import importable

PENDING = "Pending"
"""joblib's `TASK_PENDING`."""
LOOK_SECONDS = 0.01
"""How soon to look again where joblib has no batch to time yet; joblib's own loop waits as long."""


class InsideParallel:
    """A `joblib.Parallel` object during a call, under plain names.

    Args:
        parallel: the object.
    """

    def __init__(self, parallel: Any) -> None:
        self.parallel = parallel
        self.is_generator: bool = parallel.return_generator
        self.raise_error: Callable[[], None] = parallel._raise_error_fast  # no frame of ours in a user's traceback
        """Raises what a batch raised, if one has failed."""
        self._batch_class: Any = None

    # --- the state of the call ---

    @property
    def call_id(self) -> Any:
        """Differs from call to call of one object."""
        return self.parallel._call_id

    @property
    def slots(self) -> int:
        """The slots that joblib counts with: it keeps twice as many batches under way, unless the user says."""
        return int(self.parallel._cached_effective_n_jobs)

    @property
    def is_aborting(self) -> bool:
        """Whether a batch has failed, or the call was interrupted."""
        return bool(self.parallel._aborting)

    def is_unfinished(self) -> bool:
        """Whether batches are still to be submitted, or to complete."""
        return bool(type(self.parallel)._wait_retrieval(self.parallel))

    def must_wait(self) -> bool:
        """Whether the call has neither finished nor failed."""
        return self.is_unfinished() and not self.is_aborting

    def must_wait_for_next(self) -> bool:
        """Whether a generator has no result to give yet, and will have one."""
        jobs = self.parallel._jobs
        has_next = bool(jobs) and (not self.parallel.return_ordered or jobs[0].status != PENDING)
        return not has_next and self.must_wait()

    def seconds_left(self, oldest: int) -> tuple[float | None, int]:
        """Return how long to wait until joblib's `timeout` is over for the oldest pending batch.

        joblib's own `get_status` fails the batch when the time is over.

        Args:
            oldest: the position that the last call returned; 0 at first. Batches before it have completed.

        Returns:
            Seconds, None without a timeout; and the position of the oldest pending batch.
        """
        timeout = self.parallel.timeout
        if timeout is None:
            return None, oldest
        jobs = self.parallel._jobs
        while oldest < len(jobs) and jobs[oldest].get_status(timeout=timeout) != PENDING:
            oldest += 1
        if oldest == len(jobs) or self.is_aborting:
            return LOOK_SECONDS, oldest
        waited = time.time() - jobs[oldest]._completion_timeout_counter
        return max(0.0, timeout - waited) + 0.001, oldest

    # --- errors ---

    def forgets_error(self) -> bool:
        """Whether a batch has failed and joblib's own loop may not see it: then `raise_error` has to be called.

        joblib raises what a batch raised, unless no batch is left to wait for: then it forgets the error. A generator's
        callbacks run in another thread, so the last batch may end at any moment.
        """
        return self.is_aborting and (self.is_generator or not self.is_unfinished())

    def remember_batch_class(self, callback: object) -> None:
        """Note joblib's class for a submitted batch, which `fail` needs: the callback is an object of it."""
        self._batch_class = type(callback)

    def fail(self, error: BaseException) -> None:
        """End the call with an error, which the user's thread raises: joblib does the same in its own callbacks."""
        assert self._batch_class is not None, "no batch was submitted"
        batch = self._batch_class(0, 1, self.parallel)
        if self.parallel.return_ordered:
            self.parallel._jobs.append(batch)
        batch._register_outcome({"result": error, "status": "Error"})

    # --- dispatching ---

    def dispatch_for(self, slots: int, batches: int) -> None:
        """Have joblib count with this many slots from now on, and submit this many batches more.

        joblib keeps as many batches under way as it chose to at the start of the call.
        """
        self.parallel._cached_effective_n_jobs = slots
        for _ in range(batches):
            if self.iterator is not None and not self.is_aborting:
                self.parallel.dispatch_next()

    def dispatching(self) -> AbstractContextManager[Any]:
        """Return joblib's lock. While it is held, no other thread takes items from the user's iterable."""
        lock: AbstractContextManager[Any] = self.parallel._lock
        return lock

    @property
    def iterator(self) -> Iterator[Any] | None:
        """The rest of the user's iterable; None once joblib has taken all of it. To be used while `dispatching`."""
        iterator: Iterator[Any] | None = self.parallel._original_iterator
        return iterator

    @iterator.setter
    def iterator(self, iterator: Iterator[Any]) -> None:
        self.parallel._original_iterator = iterator

    def calls_taken(self) -> int:
        """Return how many calls joblib has taken from the iterable; some may not have been submitted yet."""
        return int(self.parallel.n_dispatched_tasks) + sum(map(len, list(self.parallel._ready_batches.queue)))

    # --- what is replaced on one object ---

    def make_batches_of_one(self) -> None:
        """Have joblib submit each call by itself, also if the user has set `batch_size`.

        That stays so: an object has one backend, with the same options in each call.
        """
        self.parallel._get_batch_size = lambda: 1

    def wait_by(self, wait: Callable[[], None]) -> None:
        """Have `wait` called where joblib would sleep until there is a next result.

        joblib's loop over a generator's results asks whether there are more, and sleeps if the next one is not there.
        After `wait`, the next one is there.
        """

        def wait_retrieval() -> bool:
            wait()
            return self.is_unfinished()

        self.parallel._wait_retrieval = wait_retrieval

    def wait_as_joblib(self) -> None:
        """Have joblib wait for results by its own loop again, as before `wait_by`."""
        self.parallel.__dict__.pop("_wait_retrieval", None)

    def print_beside_bars(self) -> None:
        """Keep what `verbose` has joblib print out of the way of progress bars."""
        parallel = self.parallel
        if "_print" not in vars(parallel) and hasattr(parallel, "_print"):
            to_stderr = parallel.verbose < 50  # joblib's rule
            parallel._print = beside_bars(parallel._print, lambda: sys.stderr if to_stderr else sys.stdout)


# --- what is replaced in the whole process ---


def pools_pickle_by_value() -> None:
    """Have joblib's multiprocessing pools, in a task, pickle functions and classes that came by value in that way.

    The processes of such a pool are forks of the slot, where none of those is found by its name.
    """
    from joblib.pool import CustomizablePickler  # noqa: PLC0415 - see the module's docstring

    CustomizablePickler.reducer_override = _by_value


def _by_value(pickler: Any, obj: Any) -> Any:
    if isinstance(obj, types.FunctionType | type) and not importable(obj):
        return pickle.loads, (cloudpickle.dumps(obj),)
    return NotImplemented


def evaluate_one_at_a_time() -> None:
    """Have joblib evaluate `pre_dispatch` in one thread at a time, on Python 3.11.

    `ast.parse` there counts the depth of all threads together (cpython gh-106905). When a garbage collection inside of
    it hands over to another thread, one of two `Parallel` calls raises SystemError. With `processes=False`, nested
    calls are in threads.
    """
    if sys.version_info < (3, 12):
        import joblib.parallel as joblib_parallel  # noqa: PLC0415 - see the module's docstring

        joblib_parallel.eval_expr = _one_at_a_time(joblib_parallel.eval_expr)


def _one_at_a_time(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    @functools.wraps(function)
    def alone(*args: Any) -> Any:
        with lock:
            return function(*args)

    return alone
