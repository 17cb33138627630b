"""`minidask-launch`'s options, as its documents use them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from minidask.launch.__main__ import _parse, main

COMMANDS = re.findall(
    r"^minidask-launch (.+?)(?: > \S+)?$", (Path(__file__).parents[2] / "docs/cluster.md").read_text(), re.M
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_documents_is_understood(command: str) -> None:
    assert _parse(shlex.split(command)).engine == command.split()[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_documents_can_be_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    at = words.index("--") if "--" in words else len(words)
    assert main([*words[:at], "--print", *words[at:]]) == 0
    assert "minidask" in capsys.readouterr().out
