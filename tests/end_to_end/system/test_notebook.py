"""In a notebook, as people use one: cells run one after the other in a kernel, and what each shows is looked at."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.helpers import wait_until


class Notebook:
    """A kernel, and the cells that were run in it."""

    def __init__(self) -> None:
        self.book = new_notebook()
        self.client = nbclient.NotebookClient(self.book, timeout=60, allow_errors=True)

    def run(self, source: str) -> list[Any]:
        """Run one more cell; returns its outputs."""
        self.book.cells.append(new_code_cell(source))
        number = len(self.book.cells) - 1
        cell = self.client.execute_cell(self.book.cells[number], number)
        return list(cell.outputs)

    def text(self, source: str, stream: str = "stdout") -> str:
        """Run one more cell; returns what it printed."""
        outputs = self.run(source)
        errors = ["\n".join(output.traceback) for output in outputs if output.output_type == "error"]
        assert not errors, errors
        return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == stream)


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    notebook = Notebook()
    with notebook.client.setup_kernel():
        notebook.run("import joblib, minidask, os, pathlib, sys, time\nclient = minidask.Client(n_workers=2)")
        try:
            yield notebook
        finally:
            notebook.run("client.close()")


def test_functions_of_cells_and_their_new_definitions(notebook: Notebook) -> None:
    use = """
with joblib.parallel_config("minidask"):
    print(joblib.Parallel()(joblib.delayed(helped)(i) for i in range(4)), client.submit(helped, 1).result())
"""
    define = "def factor(): return {}\ndef helped(x): return factor() * x\n"
    assert notebook.text(define.format(10) + use) == "[0, 10, 20, 30] 10\n"
    assert notebook.text("def factor(): return 100") == ""
    assert notebook.text(use) == "[0, 100, 200, 300] 100\n"
    assert notebook.text("class Box:\n    def __init__(self, x): self.x = x\ndef factor(): return Box(1).x") == ""
    assert notebook.text(use) == "[0, 1, 2, 3] 1\n"
    assert notebook.text("print(type(client.submit(Box, 5).result()) is Box)") == "True\n"


def test_output_of_tasks_is_shown_in_the_cell_that_runs_them(notebook: Notebook) -> None:
    for text in ("first", "second"):
        assert notebook.text(f"client.submit(print, {text!r}).result()") == f"{text}\n"
    (error,) = notebook.run("client.submit(lambda: 1 / 0).result()")
    assert error.ename == "ZeroDivisionError"
    assert "on worker local" in "".join(error.traceback)


def test_an_error_shows_the_cells_own_lines_and_no_frames_of_ours(notebook: Notebook) -> None:
    notebook.text("def wrong(x):\n    return x / 0  # this line")
    for call in (
        "client.submit(wrong, 1).result()",
        "client.gather(client.map(wrong, range(2)))",
        "client.gather({'a': [client.submit(wrong, 1)], 'b': 2 * [client.submit(abs, 1)]})",
        "client.run(wrong, 1)",
        "joblib.Parallel()(joblib.delayed(wrong)(i) for i in range(4))",
    ):
        (error,) = notebook.run(f"with joblib.parallel_config('minidask'):\n    {call}")
        shown = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        assert error.ename == "ZeroDivisionError"
        assert "in wrong\n    return x / 0  # this line" in shown
        assert "task wrong(" in shown
        assert "contextlib" not in shown and "minidask/" not in shown


def test_a_client_shows_itself_as_a_table(notebook: Notebook) -> None:
    (output,) = notebook.run("client")
    assert "<table>" in output.data["text/html"]


def test_a_progress_bar_is_drawn_in_the_cell(notebook: Notebook) -> None:
    outputs = notebook.run(
        'with joblib.parallel_config("minidask", progress=True):\n'
        "    joblib.Parallel()(joblib.delayed(abs)(i) for i in range(40))"
    )
    # A widget where ipywidgets is installed, and else text, after what tqdm says of the lack.
    shown = "".join(output.text if output.output_type == "stream" else output.data["text/plain"] for output in outputs)
    assert "40/40 [" in shown


def test_cells_may_await_futures(notebook: Notebook) -> None:
    (output,) = notebook.run("import asyncio\nawait asyncio.wrap_future(client.submit(abs, -7))")
    assert output.data["text/plain"] == "7"


@pytest.mark.parametrize(
    "call",
    [
        "joblib.Parallel(batch_size=1)(joblib.delayed(nap)(i) for i in range(2))",
        "client.gather(client.map(nap, range(2)))",
        "client.progress(client.map(nap, range(2)))",
    ],
)
def test_the_kernel_can_be_interrupted(call: str, notebook: Notebook, tmp_path: Path) -> None:
    pid = int(notebook.text("print(os.getpid())"))
    notebook.text(f"def nap(i):\n    pathlib.Path({str(tmp_path)!r}, str(i)).touch()\n    time.sleep(60)")

    def interrupt() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "the tasks ran")
        os.kill(pid, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    outputs = notebook.run(f"with joblib.parallel_config('minidask'):\n    {call}")
    interrupter.join()
    assert [output.ename for output in outputs if output.output_type == "error"] == ["KeyboardInterrupt"]
    notebook.text("import threading\nassert 'minidask-progress' not in [t.name for t in threading.enumerate()]")
    if "Parallel" not in call:
        notebook.text("client.close(); client = minidask.Client(n_workers=2)")
    assert notebook.text("print(client.submit(abs, -1).result(10))") == "1\n"
