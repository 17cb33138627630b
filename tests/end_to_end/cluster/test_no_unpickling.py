"""The daemons find no class and no function for a pickle. All other tests show that they need none."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, pickle, sys
import minidask.{module} as program

def run_loop(main):
    main.close()
    assert pickle.loads(pickle.dumps([1, "a"])) == [1, "a"]
    try:
        pickle.loads(pickle.dumps(os.getcwd))
    except RuntimeError as error:
        print(error)
    return 0

program.run_loop = run_loop
program.{start}
"""


@pytest.mark.parametrize(
    ("module", "start"),
    [
        ("scheduler.__main__", "main(['--port', '0'])"),
        ("worker.__main__", "main(['127.0.0.1:1', '--nworkers', '1'])"),
        ("local.node", "serve(None, None, [])"),
    ],
)
def test_a_daemon_unpickles_no_function(module: str, start: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(module=module, start=start)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ended.stdout == "this process unpickles nothing, but was given a pickle of posix.getcwd\n", ended.stderr
