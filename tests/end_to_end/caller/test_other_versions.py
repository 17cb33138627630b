"""A room in which not all machines are alike: real daemons, one of them of another Python, or with other packages."""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from pathlib import Path

import joblib
import pytest

import minidask
from minidask import errors
from minidask.host.packages import python_version
from tests.helpers import Program, Programs, wait_until

ANOTHER = "3.99.1"


def another_python(programs: Programs, address: str, name: str = "wrong") -> Program:
    """A worker that takes itself for one of another Python: such a one need not be on this machine."""
    text = (
        "import sys\nfrom minidask.host import packages\n"
        f"packages.python_version = lambda: {ANOTHER!r}\n"
        "from minidask.worker.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    worker = programs.script(text, address, "--nworkers", "4", "--name", name)
    worker.wait_for("joined the scheduler")
    return worker


def other_packages(programs: Programs, address: str, folder: Path, name: str = "old") -> Program:
    """A worker with a scikit-learn that nobody else has, as far as its metadata tell."""
    metadata = folder / "scikit_learn-0.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: scikit-learn\nVersion: 0.0\n")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", "--name", name]
    worker = programs.start(*command, PYTHONPATH=path)
    worker.wait_for("joined the scheduler")
    return worker


def test_every_task_of_a_mixed_room_is_right(programs: Programs) -> None:
    scheduler, address = programs.scheduler()
    wrong = another_python(programs, address)
    programs.worker(address, "--nworkers", "2", "--name", "right")
    with pytest.warns(errors.VersionWarning, match=f"machine wrong at .* runs Python {ANOTHER} and this client"):
        client = minidask.Client(address)
    with client:
        futures = client.map(lambda i: i * i, range(20))
        assert client.gather(futures) == [i * i for i in range(20)]
        assert {future.worker for future in futures} == {"right"}
        with joblib.parallel_config("minidask", scheduler=client):
            assert joblib.effective_n_jobs(-1) == 2
            assert joblib.Parallel(n_jobs=-1)(joblib.delayed(lambda i: -i)(i) for i in range(20)) == [
                -i for i in range(20)
            ]
        assert client.slots() == 2
        ((right, count),) = client.nthreads().items()
        assert count == 2
        with pytest.warns(errors.VersionWarning, match=rf"leaves out .* wrong at \S+ \({ANOTHER}\)"):
            assert client.run(python_version) == {right: python_version()}
        assert repr(client).endswith("1 machine, 2 workers, 1 machine of another Python unused>")
        assert "none: another Python" in client._repr_html_() and ANOTHER in client._repr_html_()
        workers = {worker["name"]: worker for worker in client.scheduler_info()["machines"]}
        assert {name: worker["usable"] for name, worker in workers.items()} == {"wrong": False, "right": True}
        assert workers["wrong"]["python"] == ANOTHER and workers["wrong"]["tasks"] == 0
    for daemon in (scheduler, wrong):
        daemon.wait_for(f"machine wrong runs Python {ANOTHER} and client ")


def test_where_all_are_wrong_everything_says_so_at_once(programs: Programs) -> None:
    _, address = programs.scheduler()
    another_python(programs, address, "w1")
    another_python(programs, address, "w2")
    with pytest.warns(errors.VersionWarning) as warned:
        client = minidask.Client(address)
    assert len(warned) == 2
    with client, joblib.parallel_config("minidask", scheduler=client):
        began = time.monotonic()
        for ask in (
            lambda: client.submit(abs, -1).result(50),
            lambda: client.gather(client.map(abs, [-1, -2])),
            lambda: client.wait_for_workers(1, 50),
            lambda: client.run(os.getpid),
            lambda: joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-i) for i in range(4)),
            lambda: joblib.Parallel(n_jobs=-1, return_as="generator")(joblib.delayed(abs)(-i) for i in range(4)),
        ):
            with pytest.raises(errors.VersionMismatch) as caught:
                ask()
            text = str(caught.value)
            assert f"caller runs Python {'.'.join(python_version().split('.')[:2])}" in text
            assert all(re.search(rf"{name} at \S+ \(Python {ANOTHER}\)", text) for name in ("w1", "w2"))
        assert time.monotonic() - began < 20
        programs.worker(address, "--nworkers", "1")
        client.wait_for_workers(1, 30)
        assert client.submit(abs, -1).result(30) == 1


def test_a_wrong_worker_that_joins_later_is_warned_of_and_left_alone(programs: Programs) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "right")
    with warnings.catch_warnings(record=True) as caught, minidask.Client(address) as client:
        warnings.simplefilter("always")
        another_python(programs, address)
        wait_until(lambda: caught, "the client had warned")
        assert "machine wrong at " in str(caught[0].message)
        assert {client.submit(os.getppid).result(30) for _ in range(5)} == {client.submit(os.getppid).result(30)}
        assert client.slots() == 1


def test_other_packages_are_told_in_a_table(programs: Programs, tmp_path: Path) -> None:
    import sklearn

    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "new")
    other_packages(programs, address, tmp_path)
    with pytest.warns(errors.VersionWarning) as caught:
        client = minidask.Client(address)
    with client:
        (warning,) = caught
        rows = [line.split() for line in str(warning.message).splitlines()[1:]]
        assert rows == [["client", "old"], ["scikit-learn", sklearn.__version__, "0.0"]]
        found = client.get_versions()
        assert found["client"]["scikit-learn"] == sklearn.__version__
        assert found["client"]["python"] == found["scheduler"]["python"] == python_version()
        assert found["client"]["minidask"] == minidask.__version__
        assert sorted(of["scikit-learn"] for of in found["machines"].values()) == sorted(["0.0", sklearn.__version__])
        with pytest.raises(errors.VersionMismatch, match=r"\nscikit-learn\s+\S+\s+0\.0$"):
            client.get_versions(check=True)
        assert client.submit(abs, -1).result(30) == 1


def test_on_one_machine_all_are_alike(client: minidask.Client) -> None:
    found = client.get_versions(check=True)
    assert list(found["machines"].values()) == [found["client"]] == [found["scheduler"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minidask.Client(client.address).close()


# --- an import that fails ---


def without_sklearn(programs: Programs, address: str) -> Program:
    """A worker to which scikit-learn is not installed."""
    text = (
        "import sys, importlib.abc\n"
        "site = '''import sys, importlib.abc\n"
        "class Refuse(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'sklearn':\n"
        "            raise ModuleNotFoundError('No module named ' + repr(name), name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n'''\n"
        "import os, tempfile\n"
        "folder = sys.argv[1]\n"
        "open(folder + '/sitecustomize.py', 'w').write(site)\n"
        "os.environ['PYTHONPATH'] = folder + os.pathsep + os.environ.get('PYTHONPATH', '')\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'minidask.worker', *sys.argv[2:]])\n"
    )
    folder = programs.folder / "refuses"
    folder.mkdir()
    worker = programs.script(text, str(folder), address, "--nworkers", "1", "--name", "poor")
    worker.wait_for("joined the scheduler")
    return worker


def test_a_package_that_only_the_caller_has_is_named_as_pip_knows_it(programs: Programs) -> None:
    import sklearn
    from sklearn.linear_model import LinearRegression

    _, address = programs.scheduler()
    without_sklearn(programs, address)
    with minidask.Client(address) as client:
        with pytest.raises(errors.SerializationError) as caught:
            client.submit(LinearRegression().get_params).result(30)
        text = str(caught.value)
        assert "module 'sklearn" in text and "on worker 'poor'" in text
        assert f"'sklearn' is of scikit-learn: the caller has version {sklearn.__version__}" in text
        assert f"-m pip install scikit-learn=={sklearn.__version__}" in text

        def importing() -> None:
            import sklearn.svm  # noqa: F401

        with pytest.raises(ModuleNotFoundError) as missing:
            client.submit(importing).result(30)
        _, _, advice = missing.value.__notes__
        assert "'sklearn' is of scikit-learn" in advice
        assert "missing_module" not in missing.value.__dict__
