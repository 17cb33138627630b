"""What tasks print, on the caller's screen: marked with the worker or not, and beside progress bars."""

from __future__ import annotations

import re

import pytest

import minidask
from minidask.client.screen import show_output
from tests.helpers import Programs


def say(text: str, end: str = "\n") -> None:
    print(text, end=end)


def test_on_one_machine_lines_come_as_they_are(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    client.submit(say, "one\ntwo").result(10)
    assert capsys.readouterr().out == "one\ntwo\n"


def test_parts_of_a_line_make_one_line(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        client.submit(say, ".", end="").result(10)
    assert capsys.readouterr().out == "..."


def test_the_mark_is_an_option(client: minidask.Client, capsys: pytest.CaptureFixture[str]) -> None:
    with minidask.Client(client.address, output_prefix=True) as marked:
        marked.submit(say, "one\n\ntwo", end="").result(10)
    assert re.fullmatch(r"\[local\.\d\] one\n\[local\.\d\] \n\[local\.\d\] two\n", capsys.readouterr().out)
    with pytest.raises(TypeError, match="output_prefix must be True, False or None"):
        minidask.Client(client.address, output_prefix="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("mark", [None, False])
def test_between_machines_lines_are_marked_unless_told_otherwise(
    programs: Programs, capsys: pytest.CaptureFixture[str], mark: bool | None
) -> None:
    _, address = programs.scheduler()
    programs.worker(address, "--name", "node2", "--nworkers", "1")
    with minidask.Client(address, output_prefix=mark) as client:
        client.wait_for_workers(1)
        client.submit(say, "far").result(10)
    assert capsys.readouterr().out == ("[node2.0] far\n" if mark is None else "far\n")


def test_only_line_ends_end_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_output("node2.0", "stdout", "a\x0cb\u2028c\n")
    assert capsys.readouterr().out == "[node2.0] a\x0cb\u2028c\n"


BAR = """
import sys, joblib, minidask
from joblib import Parallel, delayed
import minidask.client.progress as progress
progress.DRAW_SECONDS = 0.01
def work(i):
    import time
    time.sleep(0.02)
    if i % 10 == 0:
        print("said", i, file=sys.stderr, end=sys.argv[1])
client = minidask.Client(n_workers=2)
with joblib.parallel_config("minidask", progress=True):
    Parallel(verbose=int(sys.argv[2]), batch_size=1)(delayed(work)(i) for i in iter(range(60)))
"""


@pytest.mark.parametrize("end", ["\n", "!"])
def test_a_bar_beside_joblibs_own_lines_and_the_tasks(programs: Programs, end: str) -> None:
    script = programs.script(BAR, end, "10")
    assert script.exit_code() == 0, script.text
    raw = script.log.read_bytes().decode()
    assert "work: " in raw
    assert ": :" not in raw
    for what in ("[Parallel(n_jobs=-1)]: Done", "said "):
        before = raw.split(what)[:-1]
        assert len(before) >= 6
        assert all(text[-1] in "\r\n" for text in before if text), (what, raw)


def test_a_bar_of_an_unknown_number_of_calls_has_one_colon(programs: Programs) -> None:
    script = programs.script(BAR, "\n", "0")
    assert script.exit_code() == 0, script.text
    drawn = re.findall(r"work: +\d+it", script.log.read_bytes().decode())
    assert len(drawn) > 3
