"""Results in a file: found by the next run, written at once, and never in the way of the call."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidask.errors import MinidaskError
from minidask.pickling.sharing import dumps
from minidask.resume.outcomes import Outcomes


def keep(path: Path, *values: Any) -> None:
    """Keep these values as the results of `abs(0)`, `abs(1)` …"""
    with closing(Outcomes(path, "plain")) as outcomes:
        for i, value in enumerate(values):
            key = outcomes.key(abs, (i,), {})
            assert key is not None
            outcomes.keep(key, dumps(value, "a result"))


def found(path: Path, count: int, form: str = "plain") -> list[Any]:
    with closing(Outcomes(path, form)) as outcomes:
        answers = [outcomes.find(outcomes.key(abs, (i,), {})) for i in range(count)]
    return ["nothing" if answer is None else answer.value for answer in answers]


def test_the_next_run_finds_the_results(tmp_path: Path) -> None:
    keep(tmp_path / "f", "zero", None, [2])
    assert found(tmp_path / "f", 4) == ["zero", None, [2], "nothing"]
    assert found(tmp_path / "f", 1, "list") == ["nothing"], "batches have another form"


def test_an_array_comes_back_writable_and_is_kept_as_it_was_when_it_came(tmp_path: Path) -> None:
    array = np.arange(100_000.0)
    with closing(Outcomes(tmp_path / "f", "plain")) as outcomes:
        key = outcomes.key(abs, (0,), {})
        assert key is not None
        outcomes.keep(key, dumps(array, "a result"))
        array[:] = -1
    (back,) = found(tmp_path / "f", 1)
    assert (back == np.arange(100_000.0)).all()
    back[0] = 3


def test_calls_with_the_same_content_have_an_outcome_each(tmp_path: Path) -> None:
    for run in range(2):
        with closing(Outcomes(tmp_path / "f", "plain")) as outcomes:
            for value in ("first", "second"):
                key = outcomes.key(abs, (0,), {})
                assert key is not None
                answer = outcomes.find(key)
                assert (answer and answer.value) == (value if run else None)
                if not run:
                    outcomes.keep(key, dumps(value, "a result"))


def test_what_comes_from_several_threads_is_all_there(tmp_path: Path) -> None:
    with closing(Outcomes(tmp_path / "f", "plain")) as outcomes:
        keys = [outcomes.key(abs, (i,), {}) for i in range(200)]

        def keeps(some: list[bytes | None]) -> None:
            for key in some:
                assert key is not None
                outcomes.keep(key, dumps(key, "a result"))

        threads = [threading.Thread(target=keeps, args=(keys[start::4],)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found(tmp_path / "f", 200) == keys


def test_a_damaged_record_is_told_once_and_computed_again(tmp_path: Path) -> None:
    keep(tmp_path / "f", "zero" * 50, "one" * 50, "two" * 50)
    content = (tmp_path / "f").read_bytes()
    (tmp_path / "f").write_bytes(content.replace(b"oneone", b"onfone", 1).replace(b"twotwo", b"twotwp", 1))
    with pytest.warns(RuntimeWarning, match="damaged") as warned:
        assert found(tmp_path / "f", 3) == ["zero" * 50, "nothing", "nothing"]
    assert len(warned) == 1


def test_a_full_disk_is_told_once_and_the_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.warns(RuntimeWarning, match="no more results are kept.*No space left") as warned:
        keep(tmp_path / "f", 1, 2, 3)
    assert len(warned) == 1


def test_a_disk_that_fails_to_sync_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.warns(RuntimeWarning, match="no more results are kept"):
        keep(tmp_path / "f", 1)


def test_a_call_that_cannot_be_pickled_is_told_once(tmp_path: Path) -> None:
    with closing(Outcomes(tmp_path / "f", "plain")) as outcomes:
        with pytest.warns(RuntimeWarning, match="cannot be kept") as warned:
            assert [outcomes.key(id, (threading.Lock(),), {}) for _ in range(3)] == [None] * 3
        assert len(warned) == 1


def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MinidaskError, match="No such file"):
        Outcomes(tmp_path / "missing" / "f", "plain")
    (tmp_path / "f").write_text("something else")
    with pytest.raises(MinidaskError, match="no file of kept outcomes"):
        Outcomes(tmp_path / "f", "plain")


def test_the_file_is_closed_when_nobody_holds_it(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    outcomes = Outcomes(tmp_path / "f", "plain")
    del outcomes
    assert len(os.listdir("/proc/self/fd")) == before


def test_how_a_search_is_run_and_shown_does_not_count(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.model_selection._validation import _fit_and_score
    from sklearn.utils.parallel import _FuncWrapper

    def keys(**options: Any) -> bytes | None:
        with closing(Outcomes(tmp_path / "f", "list")) as outcomes:
            return outcomes.key(_FuncWrapper(_fit_and_score), (LogisticRegression(), np.eye(3)), options)

    first = keys(caller=GridSearchCV(LogisticRegression(), {}, n_jobs=1), candidate_progress=(0, 5), error_score=1)
    second = keys(caller=GridSearchCV(LogisticRegression(), {}, n_jobs=2), candidate_progress=(0, 9), error_score=1)
    assert first == second != keys(error_score=2)
