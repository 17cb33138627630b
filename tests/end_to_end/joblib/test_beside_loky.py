"""Programs whose answer must be right whatever runs them: on minidask and, where it is right, on loky, side by side.

Each is a script of its own, as a user would write it: what it prints is the answer.
"""

from __future__ import annotations

import resource
import sys
import textwrap
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.helpers import Programs

BEGIN = """\
import sys, joblib
from joblib import Parallel, delayed
import minidask

BACKEND = sys.argv[1]

def parallel(tasks, **options):
    with joblib.parallel_config(BACKEND, n_jobs=2):
        return Parallel(**options)(tasks)

"""


class Program(NamedTuple):
    """A script, what it prints, and what loky makes of it: the same if `loky` is empty."""

    code: str
    answer: str
    loky: str = ""
    prepare: Callable[[], None] | None = None


def few_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, most), most))


PROGRAMS = {
    # --- what a task sees does not depend on which tasks ran before it ---
    "random state of the module": Program(
        """
        import random, time
        import numpy as np

        STATE, SEEN, COUNTS = np.random.RandomState(0), [], {}

        def draw(i, pause):
            time.sleep(pause)
            SEEN.append(i)
            COUNTS[i] = COUNTS.get(i, 0) + 1
            return round(float(STATE.uniform()), 6), SEEN, COUNTS

        runs = []
        for _ in range(4):
            pauses = [random.random() / 100 for _ in range(12)]
            runs.append(parallel([delayed(draw)(i, pauses[i]) for i in range(12)], batch_size=1))
        print(all(run == runs[0] for run in runs), runs[0][5])
        """,
        "True (0.548814, [5], {5: 1})",
    ),
    "state in defaults, closures, attributes and bound methods": Program(
        """
        import functools, itertools

        def with_default(x, seen=[]):
            seen.append(x)
            return len(seen)

        def closed_over():
            total = [0]
            def add(x):
                total[0] += 1
                return total[0]
            return add

        def with_attribute(x):
            with_attribute.count = getattr(with_attribute, "count", 0) + 1
            return with_attribute.count

        class Counter:
            made = []
            def __init__(self):
                self.numbers = itertools.count(1)
            def next(self, x):
                self.made.append(x)
                return next(self.numbers), len(self.made)

        def decorated(function):
            calls = []
            @functools.wraps(function)
            def inner(x):
                calls.append(x)
                return len(calls)
            return inner

        counter = Counter()
        for function in (
            with_default, closed_over(), with_attribute, counter.next, functools.partial(with_default, seen=[]),
            decorated(abs),
        ):
            print(set(parallel([delayed(function)(i) for i in range(8)], batch_size=1)))
        """,
        "{1}\n{1}\n{1}\n{(1, 1)}\n{1}\n{1}",
        loky="a class's own attributes live on in its processes",
    ),
    # --- a result leaves the caller's own classes alone ---
    "a result's class": Program(
        """
        class Model:
            registry = ["caller's"]
            scale = 1
            def predict(self):
                return self.scale

        def fit(i):
            Model.registry.append(i)
            Model.scale = 5
            return Model()

        before = dict(vars(Model))
        models = parallel([delayed(fit)(i) for i in range(4)], batch_size=1)
        print({type(model) is Model for model in models}, [model.predict() for model in models], Model.registry)
        print({name for name, value in vars(Model).items() if before.get(name) is not value})
        """,
        '{True} [1, 1, 1, 1] ["caller\'s"]\nset()',
        loky="the caller's class gets the methods and attributes of the one that came back",
    ),
    "a subclass that overrides with an equal value": Program(
        """
        class Base:
            version = 1

        class Derived(Base):
            version = 1

        def own():
            Base.version = 2
            return Derived.version

        print(parallel([delayed(own)() for _ in range(2)]))
        """,
        "[1, 1]",
        loky="the subclass loses what it has of its own",
    ),
    # --- many large results ---
    "1,200 results of a MiB": Program(
        """
        import numpy as np

        results = parallel([delayed(np.full)(131072, i) for i in range(1200)])
        print(len(results), all(int(array[-1]) == i for i, array in enumerate(results)))
        """,
        "1200 True",
        prepare=few_descriptors,
    ),
    # --- what a child of the caller would have ---
    "a manager's proxies": Program(
        """
        import multiprocessing

        def work(i, found, lock):
            with lock:
                found.append(i)

        with multiprocessing.Manager() as manager:
            found, lock = manager.list(), manager.Lock()
            parallel([delayed(work)(i, found, lock) for i in range(6)])
            print(sorted(found))
        """,
        "[0, 1, 2, 3, 4, 5]",
    ),
    "the caller's shared memory": Program(
        """
        from multiprocessing.shared_memory import SharedMemory

        def write(name, i):
            memory = SharedMemory(name)
            memory.buf[i] = i
            memory.close()

        memory = SharedMemory(create=True, size=16)
        for _ in range(2):
            parallel([delayed(write)(memory.name, i) for i in range(8)])
            if BACKEND == "minidask":
                minidask.get_client().close()  # its slots end
            else:
                from joblib.externals.loky import get_reusable_executor
                get_reusable_executor().shutdown()
        again = SharedMemory(memory.name)
        print(list(again.buf[:8]))
        again.close()
        memory.close()
        memory.unlink()
        """,
        "[0, 1, 2, 3, 4, 5, 6, 7]",
    ),
    "multiprocessing inside a task": Program(
        """
        def inner(i):
            return sum(Parallel(n_jobs=2, backend="multiprocessing")(delayed(abs)(-k) for k in range(i + 2)))

        print(parallel(delayed(inner)(i) for i in range(4)))
        """,
        "[1, 3, 6, 10]",
    ),
    # --- logging and output ---
    "logging set up in the task": Program(
        """
        import logging, os, tempfile

        logging.basicConfig(level=logging.INFO, stream=sys.stderr)

        def work(i, path):
            logging.basicConfig(filename=path, level=logging.INFO, format="%(message)s")
            logging.info("line %d", i)

        folder = tempfile.mkdtemp()
        path = os.path.join(folder, "log")
        parallel([delayed(work)(i, path) for i in range(6)])
        print(sorted(open(path).read().split("\\n"))[1:])
        """,
        "['line 0', 'line 1', 'line 2', 'line 3', 'line 4', 'line 5']",
    ),
    "a screen of the caller's own": Program(
        """
        class Window:
            def __init__(self, screen):
                self.screen = screen
            def write(self, text):
                if "hello" in text:
                    raise RuntimeError("the window is gone")
                return self.screen.write(text)

        def work(i):
            print("hello", i)
            return i

        sys.stdout = Window(sys.stdout)
        print(parallel(delayed(work)(i) for i in range(4)), parallel(delayed(work)(i) for i in range(4)))
        sys.stdout = sys.stdout.screen
        """,
        "[0, 1, 2, 3] [0, 1, 2, 3]",
        loky="it ends the program: the object has no flush",
    ),
    # --- paths and names ---
    "a path object in sys.path": Program(
        """
        import pathlib

        sys.path.insert(0, pathlib.Path("/nowhere"))
        sys.path += ["/" + "x" * 200 + str(i) for i in range(700)]
        print(parallel(delayed(abs)(-i) for i in range(3)))
        """,
        "[0, 1, 2]",
        loky="Argument list too long",
    ),
    # --- signals of the caller's own ---
    "an alarm while arguments are pickled": Program(
        """
        import signal, time

        class Late(Exception):
            pass

        class Slow:
            def __reduce__(self):
                end = time.monotonic() + 0.2
                while time.monotonic() < end:
                    pass
                return Slow, ()

        def late(*_):
            raise Late

        signal.signal(signal.SIGALRM, late)
        parallel(delayed(abs)(i) for i in range(2))
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            try:
                parallel(delayed(id)(Slow()) for i in range(4))
            except Late:
                print("late")
        print(parallel(delayed(abs)(i) for i in range(2)))
        """,
        "late\nlate\nlate\nlate\nlate\n[0, 1]",
        loky="now and then a thread of its own dies of it",
    ),
    "a time limit by alarm": Program(
        """
        import signal, time

        def late(*_):
            raise TimeoutError("the limit")

        signal.signal(signal.SIGALRM, late)
        for _ in range(5):
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            try:
                parallel(delayed(time.sleep)(30) for i in range(2))
            except TimeoutError as error:
                print(error)
        print(parallel(delayed(abs)(i) for i in range(2)))
        """,
        "the limit\nthe limit\nthe limit\nthe limit\nthe limit\n[0, 1]",
        loky="now and then a process of its own is sent half of what it reads: EOFError",
    ),
    # --- scripts in a child ---
    "a spawned child's own functions": Program(
        """
        import multiprocessing

        def square(x):
            return x * x

        def child(backend, answers):
            with joblib.parallel_config(backend, n_jobs=2):
                answers.put(Parallel()(delayed(square)(i) for i in range(3)))

        if __name__ == "__main__":
            context = multiprocessing.get_context("spawn")
            answers = context.Queue()
            process = context.Process(target=child, args=(BACKEND, answers))
            process.start()
            print(answers.get())
            process.join()
        """,
        "[0, 1, 4]",
        loky="it hangs",
    ),
}


def run(program: Program, backend: str, programs: Programs) -> str:
    script = programs.folder / "program.py"
    script.write_text(BEGIN + textwrap.dedent(program.code))
    command = [sys.executable, str(script), backend]
    started = programs.start(*command, prepare=program.prepare)
    assert started.exit_code(50) == 0, started.text
    return started.text


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_minidask(name: str, programs: Programs) -> None:
    assert PROGRAMS[name].answer in run(PROGRAMS[name], "minidask", programs)


@pytest.mark.parametrize("name", [name for name, program in PROGRAMS.items() if not program.loky])
def test_on_loky(name: str, programs: Programs) -> None:
    assert PROGRAMS[name].answer in run(PROGRAMS[name], "loky", programs)
