"""minidask's own worker, the worker of the examples, and broken ones, checked by the conformance kit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from minidask.conformance import __main__ as kit
from minidask.conformance import worker

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "worker_from_scratch.py"


def test_minidasks_worker_is_a_full_one(capsys: pytest.CaptureFixture[str]) -> None:
    own = [sys.executable, "-m", "minidask.worker", "{address}", "--access-file", "{access}", "--nworkers", "1"]
    assert kit.main(["worker", "--level", "full", "--", *own]) == 0, capsys.readouterr().out


def test_the_examples_worker_is_a_minimal_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.main(["worker", "--", sys.executable, str(EXAMPLE), "{access}"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ("time-limit", 'self._stop("timeout")', 'self._stop("cancelled")'),
        ("secret", "if not hmac.compare_digest(theirs,", "if not hmac.compare_digest(theirs, theirs) and ("),
        ("no-blob", "self._send([FETCH_FAILED, first, ", "self._lost.add(first) and ([FETCH_FAILED, first, "),
        ("info", '"slots": 1', '"resources": {"gpu": 0}, "slots": 1'),
        ("heartbeat", "self._send([HEARTBEAT, 0, 0])", "pass"),
    ],
)
def test_a_broken_worker_fails_the_right_check(
    check: str, right: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = EXAMPLE.read_text()
    assert right in source
    broken = tmp_path / "broken.py"
    broken.write_text(source.replace(right, wrong))
    assert kit.main(["worker", "--only", check, "--only", "done", "--", sys.executable, str(broken), "{access}"]) == 1
    printed = capsys.readouterr().out
    assert re.findall(r"^FAILED +(\S+)", printed, re.MULTILINE) == [check], printed


def test_every_check_names_a_heading_of_the_protocol() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    assert [check for check in worker.CHECKS if check.heading not in headings or not check.expects] == []
    assert len({check.name for check in worker.CHECKS}) == len(worker.CHECKS)
