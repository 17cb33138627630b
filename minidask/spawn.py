"""How one of our programs starts another: the same interpreter with the same import path, in a group of its own."""

from __future__ import annotations

import os
import sys

_BOOT = "import sys; sys.path[:] = sys.argv.pop(1).split({sep!r}); from {module} import main; main(sys.argv[1:])"


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line that calls `main(arguments)` of a module.

    `-c` with the import path handed over, and not `-m`: the child imports what this process would, whatever
    its folder, and needs no file of the user's, so a REPL or a script on standard input will do.
    """
    search_path = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return [sys.executable, "-c", _BOOT.format(sep=os.pathsep, module=module), search_path, *arguments]
