"""minidask's own programs, those of the examples, and broken ones, checked by the conformance kit."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from minidask.conformance import __main__ as kit

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
OWN_CLIENT = """\
import sys
import numpy as np
import minidask

with minidask.Client(sys.argv[1], access_file=sys.argv[2]) as client:
    futures = [*client.map(pow, [2] * 20, range(20)), client.submit(len, np.ones(1 << 18))]
    assert client.gather(futures) == [2**i for i in range(20)] + [1 << 18]
"""
OWN = {
    "client": [sys.executable, "-c", OWN_CLIENT, "{address}", "{access}"],
    "worker": [sys.executable, "-m", "minidask.worker", "{address}", "--access-file", "{access}", "--nworkers", "1"],
    "scheduler": [
        sys.executable, "-m", "minidask.scheduler", "--port", "{port}", "--access-file", "{access}",
        "--heartbeat-timeout", "6",
    ],
}  # fmt: skip
FROM_SCRATCH = {
    "client": ["client.js", "{access}"],
    "worker": ["worker_from_scratch.py", "{access}"],
    "scheduler": ["scheduler_from_scratch.py", "{access}", "{port}"],
}


def command_of(part: str, program: Path) -> list[str]:
    """The command of an example, which may be a changed copy of it."""
    runs = sys.executable
    if program.suffix == ".js":
        node = shutil.which("node")
        if node is None and os.getuid() != 0:
            pytest.skip("needs Node.js, which tests/run installs for root")
        assert node is not None
        runs = node
    return [runs, str(program), *FROM_SCRATCH[part][1:]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", OWN)
def test_minidasks_programs_are_full_ones(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.main([part, "--level", "full", "--", *OWN[part]]) == 0, capsys.readouterr().out


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", FROM_SCRATCH)
def test_the_examples_are_minimal_ones(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.main([part, "--", *command_of(part, EXAMPLES / FROM_SCRATCH[part][0])]) == 0, capsys.readouterr().out


@pytest.mark.parametrize(
    ("part", "check", "right", "wrong"),
    [
        ("worker", "time-limit", 'self._stop("timeout"', 'self._stop("cancelled"'),
        ("worker", "secret", "if not hmac.compare_digest(theirs,", "if not hmac.compare_digest(theirs, theirs) and ("),
        ("worker", "no-blob", "self._send([FETCH_FAILED, first, ", "self._blobs.clear() and ([FETCH_FAILED, first, "),
        ("worker", "info", '"slots": 1', '"resources": {"gpu": 0}, "slots": 1'),
        ("worker", "heartbeat", "self._send([HEARTBEAT, 0, 0])", "pass"),
        ("client", "secret", "if (!crypto.timingSafeEqual(expected, theirs))", "if (!theirs)"),
        ("client", "large-headers", "if (tag === 0xdc || tag === 0xdd)", "if (tag === 0xdd)"),
        ("client", "other-messages", "(code !== TASK_DONE) continue", "(code > 11) throw 1; if (code === 8) continue"),
        ("scheduler", "wrong-proof", 'refuse("authentication"', 'refuse("protocol"'),
        ("scheduler", "priority", "if other.submit[2] >= task.submit[2]", ""),
        ("scheduler", "group-limit", "if running < limit:", "if True:"),
        ("scheduler", "lacking-resources", "if code == SUBMIT and fields[9]:", "if False:"),
        ("scheduler", "ask", "[ANSWER, fields[0], info]", "[ANSWER, 0, info]"),
    ],
)  # fmt: skip
def test_a_broken_program_fails_the_right_check(
    part: str, check: str, right: str, wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = FROM_SCRATCH[part][0]
    source = (EXAMPLES / name).read_text()
    assert right in source
    broken = tmp_path / f"broken{Path(name).suffix}"
    broken.write_text(source.replace(right, wrong))
    sound = {"worker": "done", "client": "info", "scheduler": "task-done"}[part]
    options = ["--only", check, "--only", sound]
    assert kit.main([part, *options, "--", *command_of(part, broken)]) == 1
    printed = capsys.readouterr().out
    assert re.findall(r"^FAILED +(\S+)", printed, re.MULTILINE) == [check], printed


def test_every_check_names_a_heading_of_the_protocol() -> None:
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    for checks, _ in kit.PARTS.values():
        assert [check for check in checks if check.heading not in headings or not check.expects] == []
        assert len({check.name for check in checks}) == len(checks)
    assert sum(len(checks) for checks, _ in kit.PARTS.values()) >= 60
