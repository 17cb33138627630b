"""Progress bars: what they show, from counts alone; and that they come, end and keep quiet as they should."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from operator import neg
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV

import minidask
from minidask import errors
from minidask.client import progress
from tests.helpers import Programs, wait_until


@pytest.fixture(autouse=True)
def no_bar_is_left_running() -> Iterator[None]:
    yield
    threads = [thread.name for thread in threading.enumerate()]
    assert "minidask-progress" not in threads


def with_bar(client: minidask.Client) -> Any:
    return joblib.parallel_config("minidask", scheduler=client, progress=True)


def last_line(text: str) -> str:
    """What is left on the screen of a bar, which is all there is of it."""
    assert text.endswith("\n"), f"the line is not ended: {text!r}"
    lines = text.splitlines() if "\r" not in text else text.rstrip("\n").split("\r")
    assert text.count("\n") == 1, f"there is more than one line: {text!r}"
    return lines[-1].strip()


def test_a_search_shows_all_its_fits(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    search = GridSearchCV(DummyClassifier(), {"strategy": ["prior", "uniform", "stratified"]}, cv=5)
    with with_bar(client):
        search.fit([[0]] * 20, [0, 1] * 10)
    captured = capsys.readouterr()
    assert captured.out == ""
    line = last_line(captured.err)
    assert line.startswith("_fit_and_score: 100%|")
    assert "15/15 [" in line


def test_a_call_shows_how_it_gets_on(
    client: minidask.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    go = tmp_path / "go"
    text = ""

    def waits(i: int) -> None:
        while i >= 10 and not go.exists():
            time.sleep(0.01)

    def call() -> None:
        with with_bar(client):
            Parallel(batch_size=1)([delayed(waits)(i) for i in range(24)])

    def shows_the_middle() -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return re.search(r"10/24 \[.*, 2 running", text) is not None

    thread = threading.Thread(target=call)
    thread.start()
    wait_until(shows_the_middle, "the middle of the call was shown")
    go.touch()
    thread.join(20)
    assert "24/24 [" in last_line(text + capsys.readouterr().err)


def test_nothing_is_printed_and_nothing_loaded_where_no_bar_is_asked_for(programs: Programs) -> None:
    script = programs.script(
        "import sys, joblib, minidask\nclient = minidask.Client(n_workers=2)\n"
        "with joblib.parallel_config('minidask'): joblib.Parallel()(joblib.delayed(abs)(i) for i in range(9))\n"
        "client.gather(client.map(abs, range(9)))\n"
        "assert not [name for name in sys.modules if 'tqdm' in name or 'progress' in name and 'minidask' in name]"
    )
    assert script.exit_code() == 0, script.text
    assert script.text == ""


def test_short_calls_share_a_line_that_stays_when_the_block_ends(
    client: minidask.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 60)
    with with_bar(client):
        for _ in range(10):
            Parallel()(delayed(neg)(i) for i in range(5))
        drawn = capsys.readouterr().err
        assert "\n" not in drawn
    assert "50/50 [" in last_line(capsys.readouterr().err)


def test_calls_of_several_threads_are_added_up(
    client: minidask.Client, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 60)
    with with_bar(client):
        backends = [joblib.parallel.get_active_backend()[0]]

        def call() -> None:
            with joblib.parallel_config(backends[0]):
                Parallel(batch_size=1)([delayed(time.sleep)(0.002) for _ in range(25)])

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        backends.clear()
    assert "100/100 [" in last_line(capsys.readouterr().err)


def fails_at_ten(i: int) -> None:
    if i == 10:
        raise ValueError("ten")
    if i > 10:
        time.sleep(60)  # until it is stopped


@pytest.mark.parametrize("return_as", ["list", "generator"])
def test_a_call_that_fails_leaves_its_state(
    return_as: str, client: minidask.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with with_bar(client):
        with pytest.raises(ValueError, match="ten"):
            list(Parallel(batch_size=1, return_as=return_as)([delayed(fails_at_ten)(i) for i in range(50)]))
        line = last_line(capsys.readouterr().err)
        assert "1 failed" in line
        assert re.search(r" 1[01]/50 \[", line)  # 9 may still run when 10 has failed
    assert capsys.readouterr().err == ""


@pytest.mark.alone(reason="it sends Ctrl-C to its own process")
def test_ctrl_c_leaves_the_state(client: minidask.Client, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def started(i: int) -> None:
        (tmp_path / str(i)).touch()
        time.sleep(60)

    def interrupt() -> None:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "the calls ran")
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupter = threading.Thread(target=interrupt)
    try:
        interrupter.start()
        with pytest.raises(KeyboardInterrupt), with_bar(client):
            Parallel(batch_size=1)([delayed(started)(i) for i in range(7)])
    finally:
        interrupter.join()
        signal.signal(signal.SIGINT, before)
    assert "0/7 [" in last_line(capsys.readouterr().err)


def test_an_abandoned_generator_ends_its_bar(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with with_bar(client):
        results = Parallel(batch_size=1, return_as="generator")(
            [delayed(time.sleep)(0 if i == 0 else 30) for i in range(9)]
        )
        next(results)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            del results
        assert "1/9 [" in last_line(capsys.readouterr().err)


def test_a_call_of_nothing_and_one_that_cannot_start(
    client: minidask.Client, capsys: pytest.CaptureFixture[str]
) -> None:
    with with_bar(client):
        assert Parallel()([]) == []
        with pytest.raises(TypeError):
            Parallel()(5)
    assert capsys.readouterr().err == ""


def test_a_client_shows_all_that_it_submits(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with client.progress():
        client.gather([*client.map(neg, range(10)), client.submit(neg, 1)])
        with joblib.parallel_config("minidask", scheduler=client):
            Parallel()(delayed(neg)(i) for i in range(50))
    assert "61/61 [" in last_line(capsys.readouterr().err)
    client.submit(neg, 1).result(10)
    assert capsys.readouterr().err == ""


def test_the_scheduler_counts_what_a_client_has_submitted(client: minidask.Client) -> None:
    with minidask.Client(client.address, name="counted") as other:
        for future in [*other.map(neg, range(3)), other.submit(neg, "x"), other.submit(os._exit, 1)]:
            future.exception(20)
        (counts,) = [entry for entry in other.scheduler_info()["clients"] if entry["name"] == "counted"]
    assert (counts["submitted"], counts["finished"], counts["failed"]) == (5, 5, 2)
    assert counts["nested"] == {"submitted": 0, "finished": 0, "failed": 0}


def test_a_bar_over_a_block_does_not_wait(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with client.progress():
        future = client.submit(time.sleep, 30)
    assert "0/1 [" in last_line(capsys.readouterr().err)
    client.cancel(future, force=True)


def test_futures_are_shown_until_they_are_done(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    futures = [*client.map(time.sleep, [0.01] * 20), client.submit(neg, "x"), client.submit(time.sleep, 30)]
    futures[-1].cancel()
    client.progress(futures)
    assert all(future.done() for future in futures)
    line = last_line(capsys.readouterr().err)
    assert "21/22 [" in line
    assert "1 failed, 1 cancelled" in line
    client.cancel(futures, force=True)
    with pytest.raises(TypeError, match="submit"):
        client.progress([5])  # type: ignore[list-item]


def test_a_lost_cluster_ends_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with minidask.Client(n_workers=1, reconnect_timeout=0) as client:
        future = client.submit(time.sleep, 60)
        os.kill(client.scheduler_info()["pid"], signal.SIGKILL)
        client.progress(future)
        assert "1 failed" in last_line(capsys.readouterr().err)
        with pytest.raises(errors.SchedulerLost), client.progress():
            client.submit(neg, 1)


def test_what_tasks_print_does_not_run_into_the_bar(programs: Programs) -> None:
    script = programs.script(
        """
import time, joblib, minidask
def talk(i):
    time.sleep(0.05)
    print("said", i)
client = minidask.Client(n_workers=2, output_prefix=True)
with joblib.parallel_config("minidask", progress=True):
    joblib.Parallel(batch_size=1)([joblib.delayed(talk)(i) for i in range(40)])
"""
    )
    assert script.exit_code() == 0, script.text
    raw = script.log.read_bytes().decode()
    assert raw.count("] said ") == 40
    assert all(before[-1] in "\r\n" for before in raw.split("[local.")[:-1] if before)


def test_without_tqdm_the_error_says_what_to_install(client: minidask.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    asks: list[Callable[[], object]] = [
        client.progress,
        lambda: client.progress([]),
        lambda: joblib.parallel_config("minidask", progress=True),
    ]
    for ask in asks:
        with pytest.raises(errors.MinidaskError, match=r"pip install 'minidask\[progress\]'"):
            ask()
    with pytest.raises(TypeError, match="True or False"):
        joblib.parallel_config("minidask", progress="yes")


def test_a_closed_screen_is_no_error(client: minidask.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w") as screen:
        monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    with with_bar(client):
        assert Parallel()([delayed(neg)(1)]) == [-1]
