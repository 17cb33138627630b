"""What tasks log: records in the caller's handlers and levels; or whatever a task has set up itself."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import joblib
import pytest
from joblib import Parallel, delayed

import minidask
from tests.helpers import Programs, wait_until


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Any:
    handler, root = Kept(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    yield handler.records
    root.removeHandler(handler)
    root.setLevel(before)


def warn(text: str, *args: object, name: str = "tests.task") -> None:
    logging.getLogger(name).warning(text, *args)


def test_a_record_arrives_as_a_record(client: minidask.Client, kept: list[Any]) -> None:
    def work() -> None:
        logging.getLogger("quiet.library").addHandler(logging.NullHandler())
        try:
            1 / 0  # noqa: B018
        except ZeroDivisionError:
            extra = {"kind": "x", "strange": threading.Lock(), "huge": 2**99, "cafe": "caf\udce9"}
            logging.getLogger("quiet.library").error("%s of %d", "one", 2, exc_info=True, extra=extra)

    client.submit(work).result(10)
    (record,) = kept
    assert (record.name, record.levelno, record.getMessage()) == ("quiet.library", logging.ERROR, "one of 2")
    assert (record.kind, record.huge, record.cafe) == ("x", str(2**99), "caf\udce9")
    assert record.strange.startswith("<unlocked")
    assert record.funcName == "work"
    assert record.worker == record.processName
    assert record.worker == "local"
    assert record.process != os.getpid()
    assert "ZeroDivisionError" in logging.Formatter("%(message)s").format(record)


def test_records_come_before_the_outcome_and_in_order(client: minidask.Client, kept: list[Any]) -> None:
    def work(i: int) -> None:
        for k in range(20):
            warn("%d %d", i, k)

    for i in range(5):
        client.submit(work, i).result(10)
        assert [record.getMessage() for record in kept] == [f"{i} {k}" for k in range(20)]
        kept.clear()


def test_nothing_else_is_printed(client: minidask.Client, kept: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    with joblib.parallel_config("minidask", n_jobs=2):
        Parallel()(delayed(warn)("said") for _ in range(4))
    assert [record.getMessage() for record in kept] == ["said"] * 4
    assert capfd.readouterr() == ("", "")


def test_the_levels_are_the_callers(client: minidask.Client, kept: list[Any]) -> None:
    def work() -> None:
        for name in ("loud", "soft", "other"):
            logging.getLogger(f"tests.{name}").info(name)

    loud, soft = logging.getLogger("tests.loud"), logging.getLogger("tests.soft")
    try:
        loud.setLevel(logging.DEBUG)
        client.submit(work).result(10)
        assert [record.getMessage() for record in kept] == ["loud"]
        kept.clear()
        logging.getLogger().setLevel(logging.INFO)
        loud.setLevel(logging.NOTSET)
        soft.setLevel(logging.ERROR)
        client.submit(work).result(10)
        assert [record.getMessage() for record in kept] == ["loud", "other"]
    finally:
        loud.setLevel(logging.NOTSET)
        soft.setLevel(logging.NOTSET)


@pytest.mark.parametrize("backend", ["minidask", "loky"])
def test_what_a_task_sets_up_itself_counts(tmp_path: Path, kept: list[Any], backend: str) -> None:
    def work(i: int) -> None:
        logging.basicConfig(filename=tmp_path / "log", format="%(name)s %(message)s")
        warn("line %d", i)

    with minidask.Client(n_workers=2), joblib.parallel_config(backend, n_jobs=2):
        Parallel()(delayed(work)(i) for i in range(6))
    assert sorted((tmp_path / "log").read_text().splitlines()) == [f"tests.task line {i}" for i in range(6)]
    assert kept == []


def test_records_of_nested_tasks_and_threads_come_too(client: minidask.Client, kept: list[Any]) -> None:
    def work() -> None:
        thread = threading.Thread(target=warn, args=("thread",))
        thread.start()
        thread.join()
        minidask.get_client().gather(minidask.get_client().map(warn, ["a", "b", "c"]))

    client.submit(work).result(20)
    assert sorted(record.getMessage() for record in kept) == ["a", "b", "c", "thread"]


def test_a_task_that_logs_without_end_drowns_nothing(client: minidask.Client, kept: list[Any]) -> None:
    def work() -> None:
        for _ in range(20_000):
            warn("x" * 100)

    client.submit(work).result(60)
    assert 100 < len(kept) < 20_000

    def told() -> bool:
        client.submit(warn, "later").result(10)
        return any("records were dropped here" in record.getMessage() for record in kept)

    wait_until(told, "it was said that records were dropped")


def test_a_handler_that_raises_ends_nothing(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("broken")

    broken = Broken()
    logging.getLogger().addHandler(broken)
    try:
        for _ in range(3):
            client.submit(warn, "text").result(10)
    finally:
        logging.getLogger().removeHandler(broken)
    assert client.submit(abs, -1).result(10) == 1


def test_it_can_be_turned_off(client: minidask.Client, kept: list[Any]) -> None:
    with minidask.Client(client.address, forward_output=False) as quiet:
        quiet.submit(warn, "unheard").result(10)
        client.submit(warn, "heard").result(10)
    assert [record.getMessage() for record in kept] == ["heard"]


def test_a_record_with_wrong_arguments_is_complained_of(
    client: minidask.Client, kept: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    client.submit(warn, "%d", "x").result(10)
    assert "--- Logging error ---" in capsys.readouterr().err
    assert kept == []


def test_between_machines_and_without_handlers(programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--nworkers", "1", "--name", "node2")
    script = programs.script(
        f"""
import logging, minidask
def warn(text):
    logging.getLogger("there").warning(text)
with minidask.Client({address!r}) as client:
    client.submit(warn, "plain").result(20)
    logging.basicConfig(format="%(worker)s %(processName)s %(name)s %(message)s")
    client.submit(warn, "formatted").result(20)
"""
    )
    assert script.exit_code() == 0, script.text
    assert script.text == "plain\nnode2 node2 there formatted\n"
