"""Workers import modules before the calls that need them come, and a slow first call says what it imports."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import minidask
from minidask import errors
from tests.helpers import DEADLINE, Programs, wait_until


def loaded(names: list[str]) -> list[bool]:
    import time

    time.sleep(0.2)  # so that each worker gets one
    return [name in sys.modules for name in names]


def everywhere(client: minidask.Client, *names: str) -> set[bool]:
    """Whether these modules are loaded in all workers."""
    found = client.gather([client.submit(loaded, list(names)) for _ in range(4 * client.slots())])
    return {each for of_one in found for each in of_one}


def preload_in_task() -> None:
    minidask.get_client().preload("cProfile")


def import_slowly(name: str) -> str:
    return __import__(name).__name__


@pytest.fixture
def modules(tmp_path: Path) -> Callable[[str, str], str]:
    """Makes modules that workers find, and this process does not; returns the folder for PYTHONPATH."""

    def make(name: str, text: str) -> str:
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        return str(folder)

    return make


def test_a_client_has_all_workers_import_modules_also_those_that_start_later() -> None:
    with minidask.Client(n_workers=2, timeout=DEADLINE) as client:
        names = ["cProfile", "xmlrpc.client"]
        assert everywhere(client, *names) == {False}
        client.preload(*names)
        assert everywhere(client, *names) == {True}
        client.restart()
        assert everywhere(client, *names) == {True}, "the fresh ones have them too"
        assert client.cluster is not None
        client.cluster.scale(3)
        client.wait_for_workers(3, DEADLINE)
        assert everywhere(client, *names) == {True}
        client.preload("mailbox")
        assert everywhere(client, *names, "mailbox") == {True}, "beside those of before"


def test_a_client_that_has_just_begun_preloads_in_workers_that_still_start() -> None:
    with minidask.Client(n_workers=3, timeout=DEADLINE) as client:
        client.preload("cProfile")
        assert everywhere(client, "cProfile") == {True}


def test_a_module_that_cannot_be_imported_is_told_and_changes_nothing() -> None:
    with minidask.Client(n_workers=1) as client:
        with pytest.raises(ModuleNotFoundError, match="No module named 'nowhere_to_be_found'"):
            client.preload("cProfile", "nowhere_to_be_found")
        client.restart(DEADLINE)
        assert everywhere(client, "cProfile") == {False}


@pytest.mark.parametrize(
    ("names", "error"), [((), TypeError), ((3,), TypeError), ((["a"],), TypeError), (("a b",), ValueError),
                         (("",), ValueError), (("a..b",), ValueError), (("-x",), ValueError)],
)  # fmt: skip
def test_what_is_no_module_is_refused(
    client: minidask.Client, names: tuple[object, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        client.preload(*names)  # type: ignore[arg-type]


def test_a_task_cannot_preload(client: minidask.Client) -> None:
    with pytest.raises(errors.MinidaskError, match=r"a task cannot preload\(\) the workers"):
        client.submit(preload_in_task).result(DEADLINE)


def test_with_threads_a_module_is_imported_in_this_process() -> None:
    with minidask.Client(processes=False, timeout=DEADLINE) as client:
        sys.modules.pop("sched", None)
        client.preload("sched")
        assert "sched" in sys.modules


def test_a_worker_preloads_what_its_command_line_says(programs: Programs, modules: Callable[[str, str], str]) -> None:
    folder = modules("preloaded_here", "import broken_elsewhere")
    modules("broken_elsewhere", "raise ValueError('out of order')")
    _, address = programs.scheduler()
    options = ("--nworkers", "2", "--preload", "cProfile", "--preload", "preloaded_here")
    worker = programs.start(
        sys.executable, "-m", "minidask.worker", address, *options, PYTHONPATH=folder,
    )  # fmt: skip
    with minidask.Client(address) as client:
        client.wait_for_workers(2, DEADLINE)
        assert everywhere(client, "cProfile") == {True}
        told = worker.wait_for("module preloaded_here cannot be preloaded: ValueError: out of order")
        assert "worker 0, between calls, wrote" in told or "worker 1, between calls, wrote" in told
        (lines,) = client.logs([*client.nthreads()]).values()
        assert any("cannot be preloaded" in line for line in lines)


def test_a_slow_first_call_says_in_its_bar_what_workers_import(
    programs: Programs, modules: Callable[[str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    looks = "\n".join(["import time", "for n in range(10):", "    time.sleep(0.5)", "    try:",
                       "        import not_there", "    except ImportError: pass"])  # fmt: skip
    folder = modules("slow_to_import", looks)
    _, address = programs.scheduler()
    programs.start(sys.executable, "-m", "minidask.worker", address, "--nworkers", "2", PYTHONPATH=folder)
    with minidask.Client(address) as client:
        client.wait_for_workers(2, DEADLINE)
        futures = [client.submit(import_slowly, "slow_to_import") for _ in range(2)]
        client.progress(futures)
        shown = capsys.readouterr().err
        assert "2 workers are importing slow_to_import" in shown
        assert "importing" not in shown.split("\r")[-1], "it is over"
        wait_until(lambda: not client.shell.events._readers, "nobody looked any more")
