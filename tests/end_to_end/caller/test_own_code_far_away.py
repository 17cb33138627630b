"""A task runs with the caller's own code on a machine that has none of the caller's files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from minidask.host.folders import sweep
from tests.end_to_end.caller.projects import PRELUDE, far_worker, project, ran
from tests.helpers import Programs, wait_until

pytestmark = pytest.mark.timeout(240)  # many programs are started, one after another


def test_copies_go_with_the_worker(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "callers").mkdir()
    _, address = programs.scheduler()
    worker = far_worker(programs, address, tmp_path / "callers")
    folder = project(tmp_path / "callers" / "project", helper="def where():\n    return __file__")
    copy = Path(ran(folder, address, "import helper; print(run(helper.where))"))
    assert copy.exists() and folder not in copy.parents
    worker.end()
    assert not copy.exists() and not copy.parents[3].exists()
    again = far_worker(programs, address, tmp_path / "callers")
    copy = Path(ran(folder, address, "import helper; print(run(helper.where))"))
    again.process.kill()
    again.process.wait()
    wait_until(lambda: not copy.exists() or sweep(), "what was killed had been swept")


def test_a_project_too_large_to_send_is_compared(far: str, tmp_path: Path) -> None:
    folder = project(
        tmp_path / "callers" / "project", small="x = 'small'", large="x = '" + "l" * 21 * 1024 * 1024 + "'"
    )
    asks = """
        import small, large
        print(run(lambda: __import__("small").x))
        print(type(client.submit(lambda: __import__("large")).exception(60)).__name__)
    """
    assert ran(folder, far, asks) == "small\nModuleNotFoundError"


def test_what_a_far_worker_needs_comes_along(far: str, tmp_path: Path) -> None:
    folder = project(
        tmp_path / "callers" / "project",
        helper="""
            from pathlib import Path
            import importlib.resources
            def beside(): return Path(__file__).with_name("data.json").read_text()
            def late():
                import sibling, package.sub, package.deep.er
                text = importlib.resources.files("package").joinpath("tables/t.csv").read_text()
                large = Path(package.__file__).with_name("large").stat().st_size
                return sibling.x, package.sub.x, package.deep.er.x, text, large
        """,
        sibling="x = 1",
        package__in____init__="",
        package__in__sub="x = 2",
        package__in__deep__in____init__="",
        package__in__deep__in__er="from .. import sub\nx = sub.x + 1",
        space__in__inner="x = 4\ndef f(): return x",
    )
    (folder / "data.json").write_text("data")
    (folder / "package" / "tables").mkdir()
    (folder / "package" / "large").write_bytes(os.urandom(3_000_000))
    (folder / "package" / "tables" / "t.csv").write_text("1,2")
    asks = """
        import helper, space.inner
        print(run(helper.beside), run(helper.late), run(space.inner.f), run(lambda: helper.__file__ != os.devnull))
        class Mine: pass
        def file(): import helper; return helper.__file__
        print(run(file) != helper.__file__, run(os.getcwd), os.path.exists(run(file)))
    """
    first, second = ran(folder, far, asks).splitlines()
    assert first == "data (1, 2, 3, '1,2', 3000000) 4 True"
    assert second == "True / True"


def test_nested_tasks_anywhere_have_the_outer_callers_code(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "callers").mkdir()
    _, address = programs.scheduler()
    far_worker(programs, address, tmp_path / "callers")
    far_worker(programs, address, tmp_path / "callers", "--name", "far2")
    folder = project(
        tmp_path / "callers" / "project",
        helper="""
            import minidask, time
            def leaf(i): time.sleep(0.1); import sibling; return sibling.x + i
            def tree(): return sum(minidask.get_client().gather(minidask.get_client().map(leaf, range(6))))
        """,
        sibling="x = 1",
    )
    asks = """
        import helper
        client.wait_for_workers(2, timeout=60)
        print([f.result(60) for f in [client.submit(helper.tree) for _ in range(3)]])
    """
    assert ran(folder, address, asks) == "[21, 21, 21]"


C_SOURCE = """
#include <Python.h>
static PyObject* value(PyObject* self, PyObject* args) { return PyLong_FromLong(VALUE); }
static PyMethodDef methods[] = {{"value", value, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "compiled", 0, -1, methods};
PyMODINIT_FUNC PyInit_compiled(void) { return PyModule_Create(&module); }
"""


def compiled(folder: Path, value: int) -> None:
    """Put an extension module into a folder."""
    import sysconfig

    source = folder / "compiled.c"
    source.write_text(C_SOURCE)
    command = ["cc", "-shared", "-fPIC", f"-DVALUE={value}", f"-I{sysconfig.get_path('include')}", str(source), "-o"]
    target = folder / f"compiled{sysconfig.get_config_var('EXT_SUFFIX')}"
    try:
        subprocess.run([*command, str(target)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a C compiler and Python's headers")


def test_a_compiled_module_is_compared(programs: Programs, tmp_path: Path) -> None:
    theirs, ours = project(tmp_path / "theirs"), project(tmp_path / "callers" / "ours")
    compiled(theirs, 1)
    compiled(ours, 2)
    _, address = programs.scheduler()
    far_worker(programs, address, tmp_path / "callers", PYTHONPATH=str(theirs))
    asks = """
        import compiled
        error = client.submit(compiled.value).exception(60)
        print(type(error).__name__, error)
        print(type(client.submit(lambda: __import__("compiled").value()).exception(60)).__name__)
        print(run(abs, -1))
    """
    text = ran(ours, address, asks)
    assert text.startswith("VersionMismatch module 'compiled' is another one on worker 'far' on"), text
    assert str(theirs) in text and str(ours) in text
    assert text.splitlines()[1:] == ["VersionMismatch", "1"]
    compiled(theirs, 2)
    assert ran(theirs, address, "import compiled; print(run(compiled.value))") == "2"


@pytest.mark.parametrize("how", ["module", "stdin", "zip", "link", "empty entry", "later"])
def test_ways_to_find_modules(how: str, far: str, tmp_path: Path) -> None:
    callers = tmp_path / "callers"
    folder = project(callers / "real", helper="def which():\n    return 'right'")
    body = PRELUDE + "import helper\nprint(run(helper.which), run(lambda: __import__('helper').which()))\n"
    command, cwd, text = [sys.executable], callers, None
    if how == "module":
        project(folder, pkg__in____init__="", pkg__in__main=PRELUDE + "from . import mod\nprint(*[run(mod.f)] * 2)")
        project(folder, pkg__in__mod="def f():\n    return 'right'")
        command += ["-m", "pkg.main"]
        cwd = folder
    elif how in ("stdin", "empty entry"):
        command, cwd, text = [*command, "-"], folder, body
        if how == "empty entry":
            text = "import sys\nsys.path.insert(0, '')\n" + body
    elif how == "zip":
        import zipfile

        with zipfile.ZipFile(callers / "lib.zip", "w") as archive:
            archive.write(folder / "helper.py", "helper.py")
        command, text = [*command, "-"], f"import sys\nsys.path.insert(0, {str(callers / 'lib.zip')!r})\n" + body
    elif how == "link":
        (callers / "linked").symlink_to(folder)
        command, text = [*command, "-"], f"import sys\nsys.path.insert(0, {str(callers / 'linked')!r})\n" + body
    else:
        command, text = (
            [*command, "-"],
            body.replace("import helper", f"run(abs, 1); sys.path.append({str(folder)!r})\nimport helper"),
        )
    result = subprocess.run(
        [*command, far], cwd=cwd, input=text, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.stdout == "right right\n", result.stderr
