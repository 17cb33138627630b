"""Versions of Python and of packages: which go together, and what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from minidask.host.packages import COMPARED, distribution_of, installed
from minidask.host.versions import described, fits, minor


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.11.7", "3.11"), ("3.13.0rc1", "3.13"), ("3.12", "3.12"), ("3", ""), ("", ""), (None, ""), (3.11, "")],
)
def test_the_part_of_a_version_that_has_to_agree(version: object, expected: str) -> None:
    assert minor(version) == expected


def test_which_go_together() -> None:
    assert fits("3.11", ["3.12", "3.11"]) and fits("", ["3.12"]) and fits("3.11", [""])
    assert not fits("3.11", ["3.12"]) and not fits("", []) and not fits("3.11", [])


def test_the_versions_of_what_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import importlib.metadata

    found = installed()
    for name in COMPARED:
        assert found.get(name) == importlib.metadata.version(name)
    (tmp_path / "scikit_learn-0.0.dist-info").mkdir()
    (tmp_path / "Pandas-9.9-py3.11.egg-info").mkdir()
    (tmp_path / "numpy.egg-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    assert installed() == {**found, "scikit-learn": "0.0", "pandas": "9.9"}
    assert described({"python": 3, "packages": {"a": "1" * 1000, "b": 2}}) == {"a": "1" * 64}


def test_a_module_is_known_by_its_distribution() -> None:
    found = distribution_of("sklearn.linear_model")
    assert found is not None and found.name == "scikit-learn"
    assert distribution_of("no_such_module") is None
