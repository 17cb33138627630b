"""How one of our programs starts another: with the same interpreter and the same import path.

The arguments and the import path are in a file without a name, which the child inherits as an open descriptor. A
command line would not do: it has a limit, knows no NUL, and every user can read it.
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

    The child imports the same modules as this process, whatever its folder is. It needs no file of the user's program,
    so that may be a REPL, or a script on standard input. `python -m` could do neither.

    Args:
        module: the whole name of the module.
        arguments: for its `main`, of any length.
        pass_fds: the file descriptors that the child inherits.
        options: for `subprocess.Popen`.

    Raises:
        OSError: the system has no process, descriptor or memory to spare.
    """
    try:
        os.getcwd()
    except OSError as error:  # the folder was removed, and Python 3.13 does not start in such a one
        pass_on(error)
        options["cwd"] = "/"
    letter = unnamed_file(marshal.dumps((search_path(), list(arguments))))
    try:
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # -O, -W, -X: multiprocessing's way
        command = [sys.executable, *flags, "-c", _BOOT.format(module=module), str(letter)]
        return subprocess.Popen(command, pass_fds=[*pass_fds, letter], **options)
    finally:
        os.close(letter)


def search_path() -> list[str]:
    """The entries of `sys.path` that are paths, made absolute. The import system ignores all other entries."""
    found = []
    for entry in list(sys.path):
        try:
            found.append(os.path.abspath(os.fsdecode(entry)))
        except (TypeError, ValueError, OSError) as error:  # the entry is no path, or the working directory is gone
            pass_on(error)
            continue
    return found


def unnamed_file(content: bytes) -> int:
    """Make a file without a name, with this content. Returns a descriptor that reads it from the start."""
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
