"""A task runs with the caller's own code: two projects on one cluster, old copies on a worker, data beside modules."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.end_to_end.caller.projects import PRELUDE, project, ran
from tests.helpers import Programs, wait_until

pytestmark = pytest.mark.timeout(240)  # many programs are started, one after another


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
