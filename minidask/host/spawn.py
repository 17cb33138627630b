"""How one of our programs starts another: the same interpreter with the same import path, in a group of its own.

What the other has to know lies in an open file without a name. A command line has a limit, knows no NUL, and is seen by
everybody; an import path may be long, and hold what is no string.
"""

from __future__ import annotations

import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from minidask.host.signals import pass_on

_BOOT = (
    "import sys, marshal; letter = open(int(sys.argv.pop()), 'rb');"
    " sys.path[:], arguments = marshal.load(letter); letter.close();"
    " from {module} import main; main(arguments)"
)


def start_python(
    module: str, arguments: Sequence[str], pass_fds: Sequence[int], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process that calls `main(arguments)` of a module.

    `-c` with the import path handed over, and not `-m`: the child imports what this process would, whatever
    its folder, and needs no file of the user's, so a REPL or a script on standard input will do.

    Args:
        module: its whole name.
        arguments: for its `main`, of any length.
        pass_fds: the file descriptors that it inherits.
        options: for `subprocess.Popen`.
    """
    try:
        os.getcwd()
    except OSError as error:  # it was removed, and Python 3.13 does not start there
        pass_on(error)
        options["cwd"] = "/"
    letter = _letter(marshal.dumps((search_path(), list(arguments))))
    try:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # -O, -W, -X: multiprocessing's way
        command = [sys.executable, *flags, "-c", _BOOT.format(module=module), str(letter)]
        return subprocess.Popen(command, pass_fds=[*pass_fds, letter], **options)
    finally:
        os.close(letter)


def search_path() -> list[str]:
    """What of `sys.path` names a place, as absolute strings; the import system ignores anything else."""
    found = []
    for entry in list(sys.path):
        try:
            found.append(os.path.abspath(os.fsdecode(entry)))
        except (TypeError, ValueError, OSError) as error:  # no path at all, or the working directory is gone
            pass_on(error)
            continue
    return found


def _letter(content: bytes) -> int:
    """A file descriptor from which this is read."""
    try:
        letter = os.memfd_create("minidask")
    except (AttributeError, OSError) as error:  # not Linux, or a sandbox forbids it
        pass_on(error)
        with tempfile.TemporaryFile() as file:
            letter = os.dup(file.fileno())
    with open(letter, "wb", closefd=False) as writing:
        writing.write(content)
    os.lseek(letter, 0, os.SEEK_SET)
    return letter
