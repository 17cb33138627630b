"""Which versions go together: of Python, whose functions are byte code, and of the packages that tasks work with. Pure.

Versions are a dict of texts: `{"python": "3.11.7", "numpy": "2.1.0", ...}`. What says nothing of its Python, as a
client in another language, goes with all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

PYTHON = "python"
MAX_VERSION = 64  # characters, of what a peer says


def minor(version: object) -> str:
    """The `major.minor` of a Python version, within which functions can be sent; "" if that is not known."""
    if not isinstance(version, str) or "." not in version:
        return ""
    return ".".join(version[:MAX_VERSION].split(".")[:2])


def fits(python: str, others: Collection[str]) -> bool:
    """Whether there is one among these that runs what this Python has pickled; all as `minor` gives them."""
    return bool(others) and (not python or python in others or "" in others)


def mismatch(python: str, others: Iterable[tuple[str, str]]) -> str:
    """What to say to whoever runs this Python where all workers, by name and Python, run others."""
    workers = ", ".join(f"{name} (Python {version})" for name, version in others)
    return (
        f"the caller runs Python {python} and every machine another one, which cannot run its functions: {workers};"
        f" start minidask-worker with Python {minor(python)}, or the caller with theirs"
    )


def described(info: Mapping[str, object]) -> dict[str, str]:
    """The versions in what a peer says of itself; what is no text there is left out."""
    packages = info.get("packages")
    stated = {PYTHON: info.get(PYTHON), **(packages if isinstance(packages, dict) else {})}
    return {
        name: version[:MAX_VERSION]
        for name, version in stated.items()
        if isinstance(name, str) and isinstance(version, str)
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str], *, missing: bool = False) -> list[str]:
    """The names of what is there in another version; with `missing`, also of what is only here."""
    return [
        name
        for name, version in ours.items()
        if (name in theirs and theirs[name] != version) or (missing and name not in theirs)
    ]


def table(columns: Mapping[str, Mapping[str, str]], names: Iterable[str]) -> str:
    """The versions of these names, as text in columns, each under its title."""
    rows = [["", *columns]]
    rows += [[name, *(versions.get(name, "-") for versions in columns.values())] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
