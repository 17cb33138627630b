"""Everything of Python and of other packages that minidask changes at run time: what, where, and why.

Nobody imports this table; it is for readers. `tests/project/test_patches.py` reads all sources, and fails if one
assigns to something of another package that the table does not have.
"""

from __future__ import annotations

from typing import NamedTuple


class Patch(NamedTuple):
    """One thing that is changed.

    Attributes:
        what: its names, separated by spaces; a leading dot marks an attribute of one object, not of a class or module.
        where: the file that changes it, and the processes in which that happens.
        why: the reason.
    """

    what: str
    file: str
    where: str
    why: str


PATCHES = (
    Patch(
        "threading.Thread.start",
        "minidask/task/context.py",
        "processes with slots",
        "A thread works for the task that has started it; context variables are inherited from Python 3.14 on only.",
    ),
    Patch(
        ".run",
        "minidask/task/context.py",
        "one thread that a task starts",
        "The thread notes its task before it runs anything; joined to `Thread.start`.",
    ),
    Patch(
        "joblib.parallel.eval_expr",
        "minidask/backend/inside_joblib.py",
        "all that load joblib, on Python 3.11",
        "`ast.parse` counts the depth of all threads together there, so that one of two `Parallel` calls may fail.",
    ),
    Patch(
        "joblib.pool.CustomizablePickler.reducer_override",
        "minidask/backend/inside_joblib.py",
        "slots in which a task loads joblib",
        "joblib's multiprocessing pools look functions up by name; in a slot some have come by value.",
    ),
    Patch(
        "._wait_retrieval",
        "minidask/backend/inside_joblib.py",
        "one `Parallel` object with a generator, in a task",
        "joblib's loop sleeps while it waits; a task that waits is to run other calls in its slot.",
    ),
    Patch(
        "._print",
        "minidask/backend/inside_joblib.py",
        "one `Parallel` object with `verbose`",
        "What joblib prints would run into a progress bar.",
    ),
    Patch(
        "._get_batch_size",
        "minidask/backend/inside_joblib.py",
        "one `Parallel` object with `task_timeout`, `on_error`, `retries` or `resume`",
        "A limit, an error and a try are those of one call, and `batch_size` may put several into a batch.",
    ),
    Patch(
        "._cached_effective_n_jobs ._original_iterator",
        "minidask/backend/inside_joblib.py",
        "one `Parallel` object during a call",
        "A call uses slots that join during it; a progress bar looks ahead, and puts back what it took.",
    ),
    Patch(
        "sys.meta_path",
        "minidask/host/imports.py",
        "all, until a library is loaded that we add something to",
        "The joblib backend is registered when joblib is loaded; to load joblib for that takes 0.2 s.",
    ),
    Patch(
        "sys.meta_path",
        "worker/slot/process.py",
        "slots",
        "Whoever looks sees what a slot imports; the finder notes that, and finds nothing.",
    ),
    Patch(
        "sys.meta_path sys.modules sys.path",
        "worker/slot/modules.py",
        "slots",
        "Each caller has its own modules and import path while its tasks run.",
    ),
    Patch(
        "sys.argv",
        "minidask/task/traits.py",
        "slots",
        "A task finds the caller's command line, as a child process would.",
    ),
    Patch(
        ".authkey",
        "minidask/task/traits.py",
        "slots in which a task loads `multiprocessing`",
        "A task connects to the caller's managers, as a child process would; the attribute is a public one.",
    ),
    Patch(
        "multiprocessing.shared_memory.resource_tracker",
        "minidask/task/traits.py",
        "slots in which a task loads it",
        "A segment that a task only attaches would be removed when the slot ends.",
    ),
    Patch(
        "logging.Logger.callHandlers",
        "worker/slot/logs.py",
        "slots",
        "Records that no handler in the slot takes go to the caller. A handler of ours would keep `basicConfig` away.",
    ),
    Patch(
        "os.environ",
        "minidask/task/batch.py",
        "slots, during a batch with `inner_max_num_threads`",
        "Libraries that the task loads read there how many threads they may have.",
    ),
    Patch(
        "cloudpickle.register_pickle_by_value",
        "minidask/pickling/byvalue.py",
        "children of `multiprocessing`, by its start method spawn",
        "Their program is a module, `__mp_main__`, that no worker can import.",
    ),
    Patch(
        "sklearn.callback._transport.Client",
        "minidask/task/sklearn_callbacks.py",
        "all that load scikit-learn's callbacks",
        "Callbacks connect to the caller's process; from another machine they go through the scheduler.",
    ),
    Patch(
        "._condition ._waiters ._done_callbacks ._result ._exception",
        "minidask/client/future.py",
        "one `Future`, which is derived from the standard one",
        "A standard future is locked for good if a signal's handler raises while it is waited for; and it must be made"
        " anew in a forked process. Results are unpickled when they are asked for.",
    ),
    Patch(
        "._waiters",
        "minidask/client/helping.py",
        "one `Future` in a task",
        "A task that waits by `concurrent.futures.wait` is to run other calls in its slot.",
    ),
    Patch(
        ".event",
        "minidask/client/helping.py",
        "one waiter of `concurrent.futures`, in a task",
        "The same.",
    ),
    Patch(
        ".n .total .initial .start_t .disable",
        "minidask/client/progress.py",
        "one progress bar of tqdm's",
        "A bar shows counts of the cluster, begins when the call did, and is quiet in a forked process.",
    ),
)
