"""A task runs with the caller's own code: two projects on one cluster, old copies on a worker, data beside modules."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from minidask.host.folders import sweep
from tests.helpers import Program, Programs, wait_until

pytestmark = pytest.mark.timeout(240)  # many programs are started, one after another

PRELUDE = """
import os, sys, minidask
client = minidask.Client(sys.argv[1])
def run(function, *arguments):
    return client.submit(function, *arguments).result(60)
"""


def project(folder: Path, **modules: str) -> Path:
    """A folder with these modules."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in modules.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def ran(folder: Path, address: str, text: str, *options: str, cwd: Path | None = None, **environment: str) -> str:
    """What a script of a project prints; `run(function, *arguments)` is there."""
    script = folder / "program.py"
    script.write_text(PRELUDE + textwrap.dedent(text))
    result = subprocess.run(
        [sys.executable, *options, str(script), address],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd or folder,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def address(programs: Programs) -> str:
    """That of a scheduler with one slot, so that all tasks come to it, started in a folder of its own."""
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "w")
    return address


def far_worker(programs: Programs, address: str, hidden: Path, *options: str, **environment: str) -> Program:
    """A worker for which a folder is empty, as on another machine."""
    command = [sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", "--name", "far", *options]
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    line = f"mount -t tmpfs none {hidden} && cd / && exec " + " ".join(command)
    worker = programs.start("unshare", "-m", "sh", "-c", line, **environment)
    worker.wait_for("joined the scheduler")
    return worker


@pytest.fixture
def far(programs: Programs, tmp_path: Path) -> str:
    """The address of a scheduler whose one slot sees nothing of the folder `callers`."""
    (tmp_path / "callers").mkdir()
    _, address = programs.scheduler()
    far_worker(programs, address, tmp_path / "callers")
    return address


ASKS = "import helper; print(run(helper.which), run(lambda: __import__('helper').which()))"


def test_two_projects_with_modules_of_one_name_on_one_cluster_edited_between(address: str, tmp_path: Path) -> None:
    one = project(tmp_path / "one", helper="def which():\n    return 'one'")
    two = project(tmp_path / "two", helper="def which():\n    return 'two'")
    assert ran(one, address, ASKS) == "one one"
    assert ran(two, address, ASKS) == "two two"
    assert ran(one, address, ASKS) == "one one"
    project(one, helper="def which():\n    return 'new'")
    assert ran(one, address, ASKS) == "new new"
    assert ran(two, address, ASKS) == "two two"


def test_the_same_where_only_the_tasks_import_the_modules(address: str, tmp_path: Path) -> None:
    asks = "print(run(lambda: __import__('helper').which()))"
    one = project(tmp_path / "one", helper="def which():\n    return 'one'")
    two = project(tmp_path / "two", helper="def which():\n    return 'two'")
    assert ran(one, address, asks) == "one"
    assert ran(two, address, asks) == "two"
    (two / "helper.py").unlink()
    fails = "print(type(client.submit(lambda: __import__('helper')).exception(60)).__name__)"
    assert ran(two, address, fails) == "ModuleNotFoundError"


def test_functions_that_look_the_same_see_the_modules_of_their_own_client(address: str, tmp_path: Path) -> None:
    """Sent by value under one name, as nothing in them tells the clients apart."""
    script = PRELUDE + textwrap.dedent("""
        import helper
        def which(): return helper.which()
        print(run(which), flush=True)
        open("ran", "w").close()
        while not os.path.exists("go"):
            pass
        print(run(which), run(which), flush=True)
    """)
    clients = []
    for name in ("one", "two"):
        folder = project(tmp_path / name, helper=f"def which():\n    return {name!r}")
        clients.append(
            subprocess.Popen([sys.executable, "-c", script, address], cwd=folder, stdout=subprocess.PIPE, text=True)
        )
    try:
        for name in ("one", "two"):
            wait_until((tmp_path / name / "ran").exists, "each client had run a task")
        for client, name in zip(clients, ("one", "two"), strict=True):
            (tmp_path / name / "go").touch()
            assert client.communicate(timeout=60)[0] == f"{name}\n{name} {name}\n"
    finally:
        for client in clients:
            client.kill()
            client.communicate()


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


def test_a_working_directory_that_is_gone(programs: Programs, tmp_path: Path) -> None:
    program = programs.script(
        """
import os, sys, minidask
os.mkdir(sys.argv[1]); os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])
with minidask.Client(n_workers=1) as client:
    print("first", client.submit(abs, -1).result(60))
    os.chdir("/")
    print("then", client.submit(os.getcwd).result(60))
""",
        str(tmp_path / "gone"),
    )
    program.wait_for("then /")
    assert program.exit_code() == 0, program.text


def test_an_old_copy_on_the_worker_is_not_what_tasks_use(programs: Programs, tmp_path: Path) -> None:
    old = project(tmp_path / "old", helper="def which():\n    return 'old'", other="x = 'old'")
    new = project(tmp_path / "new", helper="def which():\n    return 'new'")
    _, address = programs.scheduler()
    worker = programs.start(sys.executable, "-m", "minidask.worker", address, "--nworkers", "1", PYTHONPATH=str(old))
    worker.wait_for("joined the scheduler")
    assert ran(
        new, address, "print(run(lambda: __import__('helper').which()), run(lambda: __import__('other').x))"
    ) == ("new old")
    assert ran(new, address, ASKS) == "new new"


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


def test_a_module_that_travels_keeps_its_place_where_the_folder_is_the_same(address: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "one", helper="import os\ndef where():\n    return __file__, os.getcwd()")
    (folder / "large").write_bytes(b"x")
    assert ran(folder, address, "import helper; print(run(helper.where) == helper.where())") == "True"
    assert not list(folder.rglob("*.pyc")) or all("program" not in path.name for path in folder.rglob("*.pyc"))


def test_edits_count_from_when_they_are_loaded(address: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "one", helper="def which():\n    return 'first'")
    asks = """
        import helper, importlib, pathlib
        def edited(text): pathlib.Path(helper.__file__).write_text(f"def which():\\n    return {text!r}")
        print(run(helper.which))
        edited("not loaded")
        print(run(helper.which), run(lambda: __import__("helper").which()))
        importlib.reload(helper)
        print(run(helper.which))
        edited("another one, which is longer")
        print(run(helper.which), run(lambda: __import__("helper").which()))
        importlib.reload(helper)
        print(run(helper.which))
    """
    assert ran(folder, address, asks).splitlines() == [
        "first",
        "first first",
        "not loaded",
        "not loaded not loaded",
        "another one, which is longer",
    ]


def test_two_versions_of_a_project_at_once_keep_their_classes(address: str, tmp_path: Path) -> None:
    """Each client's tasks see the state of its own modules, which stays from one task to the next."""
    text = """
        class Thing:
            made = 0
            def __init__(self): type(self).made += 1
        def make():
            thing = Thing()
            return {name!r}, Thing.made
    """
    script = """
        import helper, threading
        def same(thing): import helper; return type(thing) is helper.Thing and helper.make()
        print(run(same, helper.Thing()), flush=True)
        sys.stdin.readline()
        print(run(same, helper.Thing()), run(lambda: __import__("helper").make()), flush=True)
    """
    clients = []
    for name in ("one", "two"):
        folder = project(tmp_path / name, helper=text.replace("{name!r}", repr(name)))
        (folder / "program.py").write_text(PRELUDE + textwrap.dedent(script))
        clients.append(
            subprocess.Popen(
                [sys.executable, str(folder / "program.py"), address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    try:
        for client, name in zip(clients, ("one", "two"), strict=True):
            assert client.stdout is not None
            assert client.stdout.readline() == f"('{name}', 1)\n"
        for client, name in zip(clients, ("one", "two"), strict=True):
            out, _ = client.communicate("\n", timeout=60)
            assert out == f"('{name}', 2) ('{name}', 3)\n"
    finally:
        for client in clients:
            client.kill()
            client.communicate()


def test_tasks_begin_in_the_callers_directory(address: str, far: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "callers" / "project")
    (folder / "there.txt").write_text("text")
    near = """
        print(run(os.getcwd) == os.getcwd(), run(lambda: open("there.txt").read()))
        run(os.chdir, "/")
        print(run(os.getcwd) == os.getcwd())
        os.chdir("/")
        print(run(os.getcwd))
    """
    assert ran(folder, address, near) == "True text\nTrue\n/"
    away = """
        error = client.submit(lambda: open("there.txt").read()).exception(60)
        print(type(error).__name__, *error.__notes__)
    """
    text = ran(folder, far, away)
    assert text.startswith("FileNotFoundError") and "the task works in '/'" in text, text
    assert f"that of the caller, {str(folder)!r}, is not on this machine" in text


def test_a_child_on_top_of_its_parent_does_not_move_it(address: str, tmp_path: Path) -> None:
    folder = project(tmp_path / "one", helper="import os\ndef f():\n    return os.getcwd()")
    asks = """
        import helper
        def parent():
            import helper, os
            os.chdir("/")
            child = minidask.get_client().submit(helper.f).result(60)
            return child, os.getcwd()
        print(run(parent), run(helper.f) == os.getcwd())
    """
    assert ran(folder, address, asks) == "('/', '/') True"


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


def test_library_folders_of_the_caller_never_reach_a_worker(address: str, tmp_path: Path) -> None:
    library = tmp_path / "env" / "lib" / "python3" / "site-packages"
    project(library, theirs="x = 1")
    folder = project(tmp_path / "one")
    asks = f"""
        sys.path.insert(0, {str(library)!r})
        import theirs
        print({str(library)!r} in run(lambda: sys.path))
        print(type(client.submit(lambda: __import__("theirs")).exception(60)).__name__)
    """
    assert ran(folder, address, asks) == "False\nModuleNotFoundError"


def test_a_strange_or_endless_import_path_starts_a_cluster(programs: Programs, tmp_path: Path) -> None:
    program = programs.script(
        """
import pathlib, sys
sys.path += [pathlib.Path("/nowhere"), b"/bytes", 3, None, "/not-utf8/\\udcff", ""]
sys.path += [f"/no/such/folder/{i:0100}" for i in range(1500)]
import minidask
with minidask.Client(n_workers=1) as client:
    print("first", client.submit(abs, -1).result(60), len(sys.path) > 1500)
"""
    )
    assert "first 1 True" in program.wait_for("first")
    assert program.exit_code() == 0, program.text
