"""`minidask.report()` around runs of real clusters: see minidask/reporting/."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import minidask
from minidask.client.registry import live_clients
from tests.helpers import DEADLINE, Programs
from tests.reporting.test_page import read


def work(seconds: float) -> None:
    time.sleep(seconds)


def fails(text: str) -> None:
    raise ValueError(text)


def use(data: Any, _: int) -> float:
    time.sleep(0.2)
    return float(data.sum())


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_gets_a_page(client: minidask.Client, tmp_path: Path) -> None:
    with minidask.report(tmp_path / "run.html") as report, joblib.parallel_config("minidask"):
        Parallel(n_jobs=2, batch_size=1)(delayed(work)(0.01) for _ in range(10))
        assert report.sentences == []
        client.submit(fails, "<b>mine</b>").exception(DEADLINE)
    text = read((tmp_path / "run.html").read_text())
    assert "work" in text and "ValueError: <b>mine</b>" in text and "local" in text
    assert str(report) == "\n".join(report.sentences)
    assert all(sentence in text for sentence in report.sentences)
    assert report.sentences[-1] == "1 call raised an error, or was stopped."


def test_a_straggler_is_found(client: minidask.Client, tmp_path: Path) -> None:
    with minidask.report(tmp_path / "run.html", client=client) as report, joblib.parallel_config("minidask"):
        Parallel(n_jobs=2, batch_size=1)(delayed(work)(0.05 if n < 20 else 1.5) for n in range(21))
    assert "of the time only 1 of 2 workers had work: one call of work took" in report.sentences[0]


def test_machines_their_data_and_a_death_are_told_apart(programs: Programs, tmp_path: Path) -> None:
    _, address = programs.scheduler()
    for name in ("left", "right"):
        programs.worker(address, "--nworkers", "1", "--name", name)
    with minidask.Client(address) as client:
        data = client.scatter(np.ones(1_000_000))
        with minidask.report(tmp_path / "run.html") as report:
            client.gather(client.map(use, [data] * 8, range(8)))
            with pytest.raises(minidask.errors.MinidaskError):
                client.submit(dies).result(DEADLINE)
    page = (tmp_path / "run.html").read_text()
    cells = r"(?:<td[^<]*</td>)*?"
    row = rf"<tr><td>{{}}</td><td class=n>1</td><td class=n>(\d+)</td>{cells}<td class=n>[\d.]+ MiB in"
    left, right = (re.search(row.format(name), page) for name in ("left", "right"))
    assert left is not None and right is not None
    assert int(left[1]) + int(right[1]) == 8 + 3, "what a worker has run before it died, and in what it died, is there"
    assert "3 times a call lost the process that ran it." in report.sentences
    assert "1 call was given up, as its process had died." in report.sentences


def test_without_a_client_one_is_there_for_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minidask.reporting.report.find_client", lambda: None)
    before = list(live_clients)
    with minidask.report(tmp_path / "run.html") as report, joblib.parallel_config("minidask"):
        assert len(live_clients) == len(before) + 1
        Parallel(n_jobs=2, batch_size=1)(delayed(work)(0.01) for _ in range(4))
    assert live_clients == before
    assert "work" in (tmp_path / "run.html").read_text() and report.sentences


def test_an_error_ends_the_block_and_the_page_is_there(client: minidask.Client, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), minidask.report(tmp_path / "run.html"):
        client.submit(fails, "mine").result(DEADLINE)
    assert "fails" in read((tmp_path / "run.html").read_text())


@pytest.mark.parametrize("path", [None, "", 7, b"x", "a\0b"])
def test_what_is_no_path_is_refused(path: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="path"):
        minidask.report(path)


def test_what_is_no_client_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"client must be a minidask\.Client, got str"):
        minidask.report(tmp_path / "run.html", client="tcp://127.0.0.1:1")  # type: ignore[arg-type]


def test_a_file_that_cannot_be_written_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), minidask.report(tmp_path / "none" / "run.html"):
        pytest.fail("it has begun")


def reported_within(path: str) -> str:
    try:
        minidask.report(path)
    except ValueError as error:
        return str(error)
    return ""


def test_a_task_is_told_to_leave_that_to_its_caller(client: minidask.Client, tmp_path: Path) -> None:
    assert "outermost call" in client.submit(reported_within, str(tmp_path / "x.html")).result(DEADLINE)
