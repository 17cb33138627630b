"""A task's error, as a person reads it."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import joblib
import numpy as np
import pytest

import minidask
from minidask.pickling.tracebacks import note, remote_text, short_call, with_source
from tests.helpers import Programs

SCRIPT = """\
import sys, threading, traceback
import joblib, minidask

def divide(x):
    return 1 / (x - x)  # here it goes wrong

def halve(x, *, by=2):
    try:
        divide(x)
    except ZeroDivisionError as error:
        raise ValueError(f"cannot halve {x}") from error

class Stubborn(Exception):
    __slots__ = ()
    def __setattr__(self, name, value):
        raise AttributeError("frozen")
    def __reduce__(self):
        return Stubborn, self.args

def stubborn(x):
    raise Stubborn(x)

def unpicklable():
    raise ValueError(threading.Lock())

client = minidask.Client(sys.argv[1]) if len(sys.argv) > 1 else minidask.Client(n_workers=2)
for call in (
    lambda: client.submit(halve, 7, by=3).result(),
    lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(halve)(i) for i in range(3)),
    lambda: client.submit(stubborn, 1).result(),
    lambda: client.submit(unpicklable).result(),
    lambda: client.submit(sys.exit, 3).result(),
):
    try:
        with joblib.parallel_config("minidask"):
            call()
    except Exception:
        traceback.print_exc()
    print("=====", file=sys.stderr)
"""


def check(shown: str, script: Path) -> None:
    submitted, batch, stubborn, unpicklable, ended, _ = shown.split("=====\n")
    for text in (submitted, batch):
        assert "dynamic-code" not in text
        assert f'  File "{script}", line 5, in divide\n    return 1 / (x - x)  # here it goes wrong\n' in text
        assert f'  File "{script}", line 9, in halve\n    divide(x)\n' in text
        assert "ZeroDivisionError: division by zero\n\nThe above exception was the direct cause" in text
        assert "ValueError: cannot halve" in text
        assert "worker/slot.py" not in text and "batch.py" not in text
    where = f"of {socket.gethostname()}, process "
    assert "\ntask halve(7, by=3), on worker " in submitted and where in submitted
    assert "\ntask halve(" in batch and where in batch
    assert "joblib_backend" not in batch and "contextlib" not in batch
    assert "Stubborn: 1\ntask stubborn(1), on worker" in stubborn
    assert "TaskError: task 'unpicklable' raised an exception that cannot be pickled" in unpicklable
    assert "\ntask unpicklable(), on worker" in unpicklable
    assert "TaskError: task 'exit' called sys.exit(3)" in ended and "\ntask exit(3), on worker" in ended


def test_a_script_reads_its_own_lines_and_which_call_it_was(programs: Programs) -> None:
    program = programs.script(SCRIPT)
    assert program.exit_code() == 0, program.text
    check(program.text, programs.folder / "script0.py")


def test_the_worker_does_not_show_lines_of_a_file_of_its_own_by_that_name(programs: Programs) -> None:
    """The script is changed once it runs: the worker reads the file, and the client still knows what it has run."""
    cached = SCRIPT.replace(
        "client = ",
        "import linecache, pathlib; linecache.getlines(__file__)\n"
        "pathlib.Path(__file__).write_text('# another one\\n' * 40); linecache.checkcache = lambda *_: None\n"
        "client = ",
    )
    program = programs.script(cached)
    assert program.exit_code() == 0, program.text
    check(program.text, programs.folder / "script0.py")


def test_a_worker_on_the_network_tells_the_same(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    programs.start(sys.executable, "-m", "minidask.worker", address, "--nworkers", "2", "--name", "w1").wait_for(
        "joined"
    )
    program = programs.script(SCRIPT, address)
    assert program.exit_code() == 0, program.text
    check(program.text, programs.folder / "script2.py")
    assert "on worker w1 of" in program.text


@pytest.mark.parametrize("return_as", ["list", "generator", "generator_unordered"])
def test_an_error_that_comes_before_any_other_task_is_raised(return_as: str, client: minidask.Client) -> None:
    with joblib.parallel_config("minidask"), pytest.raises(ZeroDivisionError) as raised:
        list(joblib.Parallel(n_jobs=2, return_as=return_as)(joblib.delayed(divmod)(1, i) for i in range(2)))
    assert raised.value.__notes__[0].startswith("task divmod(1, 0), on worker")


def test_nested_tasks_tell_of_each_level(client: minidask.Client) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        client.submit(outer, 5).result()
    assert [line.partition(", on worker")[0] for line in raised.value.__notes__] == [
        "task divmod(5, 0)",
        "task outer(5)",
    ]


def outer(x: int) -> Any:
    return minidask.get_client().submit(divmod, x, 0).result()


def test_lines_that_are_there_already_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text("first\n  second\n")
    bare = f'Traceback:\n  File "{path}", line 2, in f\n  File "{path}", line 1, in g\nError: x'
    full = f'Traceback:\n  File "{path}", line 2, in f\n    second\n  File "{path}", line 1, in g\n    first\nError: x'
    assert with_source(bare) == full == with_source(full)
    group = f'  | Traceback:\n  |   File "{path}", line 1, in f\n  | Error: x'
    assert with_source(group) == f'  | Traceback:\n  |   File "{path}", line 1, in f\n  |     first\n  | Error: x'
    assert with_source('  File "nowhere", line 3, in f') == '  File "nowhere", line 3, in f'
    assert with_source(f'  File "{path}", line 99, in f\n') == f'  File "{path}", line 99, in f\n'


def test_groups_and_contexts_are_told_as_python_does() -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    path = __file__  # a file that exists here, with other lines
    exec(compile("def bad():\n    try: 1 / 0\n    except ZeroDivisionError: [][1]", path, "exec"), space)

    def ours(frame: FrameType) -> bool:
        return frame.f_code.co_name == "test_groups_and_contexts_are_told_as_python_does"

    try:
        try:
            space["bad"]()
        except IndexError as error:
            raise ExceptionGroup("several", [error, KeyError(1)]) from None
    except ExceptionGroup as error:
        text = remote_text(error, ours)
        whole = "".join(traceback.format_exception(error))
    assert "ZeroDivisionError" in text and "IndexError" in text and "KeyError: 1" in text and "several" in text
    assert f'File "{path}", line 2, in bad\n' in text
    shown_by_python = [line for line in whole.split("\n") if "line 2, in bad" in line]
    assert len(shown_by_python) == 1
    after = text.split(f'File "{path}", line 2, in bad\n')[1].split("\n")[0]
    assert "ZeroDivisionError" in after  # and not the second line of this file


def test_arguments_are_told_in_short() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    class Ruder:
        @property
        def shape(self) -> Any:
            raise RuntimeError("no")

    assert short_call(divmod, (1,), {"by": "x" * 500}).startswith("divmod(1, by='xxxx")
    assert len(short_call(divmod, tuple("x" * 500 for _ in range(3)), {})) < 300
    assert short_call(np.dot, (np.zeros((1000, 20)),), {}) == "dot(<ndarray of shape (1000, 20)>)"
    assert short_call(print, ("a\nb",), {}) == "print('a\\nb')"
    assert short_call(print, (Rude(),), {}).startswith("print(<Rude instance at")
    assert short_call(print, (Ruder(),), {}) == "print(arguments whose repr raises RuntimeError)"
    assert note("g", "g(1)", "w").startswith("task g(1), on worker w of ")
    assert note("g", "", "w").startswith("task 'g', on worker w of ")
    assert note("run", "g(1)", "w").startswith("task 'run': g(1), on worker w of ")
    assert note("g", "g(1)", "w").endswith(f"process {os.getpid()}, in {os.getcwd()}")
