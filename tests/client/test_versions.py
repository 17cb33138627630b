"""What a client tells of workers with other Pythons and packages, and which of them are of use to it."""

from __future__ import annotations

import pytest

from minidask import errors
from minidask.client.versions import VersionWatch, all_versions, comparison
from minidask.client.workers import WorkerTable
from minidask.host.versions import differences

OURS, PATCHED, OTHER = "3.11.7", "3.11.2", "3.12.1"


def table(*workers: tuple[str, dict[str, str]]) -> WorkerTable:
    found = WorkerTable(OURS)
    found.set_all([[f"tcp://{name}", name, 2, versions] for name, versions in workers])
    return found


def test_only_workers_of_this_python_count() -> None:
    room = table(("a", {"python": PATCHED}), ("b", {"python": OTHER}), ("c", {}))
    assert room.nthreads() == {"tcp://a": 2, "tcp://c": 2}
    assert room.slots() == 4
    assert list(room.unusable()) == ["tcp://b"]
    assert room.refusal() == ""
    only = table(("b", {"python": OTHER}))
    assert "Python 3.11.7" in only.refusal() and "b at tcp://b (Python 3.12.1)" in only.refusal()
    only.update_one("tcp://b", "b", 0, {"python": OTHER})
    assert only.refusal() == ""  # it is about to end
    assert table().refusal() == ""


def test_each_other_python_is_warned_of_once_and_packages_once() -> None:
    own = {"python": OURS, "numpy": "2.1", "pandas": "2.0", "scipy": "1.0"}
    room = table(
        ("a", {"python": OURS, "numpy": "1.9"}), ("b", {"python": OTHER}), ("c", {"python": OURS, "numpy": "2.1"})
    )
    watch = VersionWatch(own, room)
    with pytest.warns(errors.VersionWarning) as caught:
        watch.warn()
    python, packages = (str(warning.message) for warning in caught)
    assert "machine b at tcp://b runs Python 3.12.1 and this client 3.11.7" in python
    assert packages.endswith("\n        client  a\nnumpy   2.1     1.9\npandas  2.0     -\nscipy   1.0     -")
    room.update_one("tcp://d", "d", 1, {"python": OURS, "numpy": "0.1"})
    room.update_one("tcp://b:2", "b", 1, {"python": OTHER})
    watch.warn()  # nothing new: a warning is an error in these tests


def test_what_a_worker_lacks_is_no_reason_to_warn_but_no_match_either() -> None:
    own, theirs = {"python": OURS, "pandas": "2.0"}, {"python": OURS}
    assert differences(own, theirs) == []
    assert differences(own, theirs, missing=True) == ["pandas"]
    assert differences(theirs, own, missing=True) == []
    info = {"version": "1", "packages": {"minidask": "1"}, "machines": [{"address": "tcp://a", "python": OURS}]}
    own["minidask"] = "1"
    found = all_versions(own, info, check=False)
    assert found["machines"] == {"tcp://a": {"python": OURS}}
    with pytest.raises(errors.VersionMismatch, match=r"\n\s+client\s+tcp://a\npandas"):
        all_versions(own, info, check=True)


def test_workers_that_agree_share_a_column() -> None:
    text = comparison({"numpy": "2"}, {f"w{number}": {"numpy": "1"} for number in range(40)} | {"x": {"numpy": "3"}})
    assert text == "       client  w0 and 39 more  x\nnumpy  2       1               3"
