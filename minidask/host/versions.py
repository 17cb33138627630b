"""Which versions go together: versions of Python, and of the packages that tasks work with. Pure.

A function of `__main__` travels as byte code, which another minor version of Python cannot run. So Pythons must match.
Packages may differ; users are shown the differences when a task fails. Both are texts in one dict:
`{"python": "3.11.7", "numpy": "2.1.0", ...}`. A peer that does not tell its Python fits all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from minidask.host.texts import printable

PYTHON = "python"
MAX_VERSION = 64  # characters: a peer may send any text as its version


def minor(version: object) -> str:
    """The `major.minor` of a Python version, as "3.11"; "" if the version is not known.

    Within one, functions can be sent.
    """
    if not isinstance(version, str) or "." not in version:
        return ""
    return ".".join(version[:MAX_VERSION].split(".")[:2])


def fits(python: str, others: Collection[str]) -> bool:
    """Whether one of the other Pythons can run functions of this one. All are as `minor` returns them."""
    return bool(others) and (not python or python in others or "" in others)


def mismatch(python: str, others: Iterable[tuple[str, str]]) -> str:
    """The error text for a client whose Python no worker has.

    Args:
        python: the client's version.
        others: the name and the Python version of each worker.
    """
    workers = ", ".join(f"{name} (Python {version})" for name, version in others)
    return (
        f"the caller runs Python {python} and every machine another one, which cannot run its functions: {workers};"
        f" start minidask-worker with Python {minor(python)}, or the caller with theirs"
    )


def described(info: Mapping[str, object]) -> dict[str, str]:
    """The versions that a peer's description contains. Entries that are no texts are left out."""
    packages = info.get("packages")
    stated = {PYTHON: info.get(PYTHON), **(packages if isinstance(packages, dict) else {})}
    return {
        name: version[:MAX_VERSION]
        for name, version in stated.items()
        if isinstance(name, str) and isinstance(version, str)
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str], *, missing: bool = False) -> list[str]:
    """The packages that both sides have in different versions; with `missing`, also those that only we have."""
    return [
        name
        for name, version in ours.items()
        if (name in theirs and theirs[name] != version) or (missing and name not in theirs)
    ]


def table(columns: Mapping[str, Mapping[str, str]], names: Iterable[str]) -> str:
    """A text with the versions of these packages, one column for each title; "-" where a package is missing."""
    rows = [["", *columns]]
    rows += [[name, *(versions.get(name, "-") for versions in columns.values())] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(printable("  ".join(map(str.ljust, row, widths)).rstrip()) for row in rows)
