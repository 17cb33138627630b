"""What describes the caller is sent again when it has changed, and what it replaces is released."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import minidask
from minidask.wire import messages as m
from tests.helpers import forget_garbage, pinned, wait_until


def released(messages: list[m.Message]) -> set[bytes]:
    return {blob for message in messages if isinstance(message, m.ReleaseBlobs) for blob in message.blobs}


def test_a_description_that_was_replaced_is_released(
    client: minidask.Client, messages: list[m.Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.submit(os.getcwd).result(20) == os.getcwd()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert client.submit(os.getcwd).result(20) == str(tmp_path / name)
    sessions = [message.blobs[0] for message in messages if isinstance(message, m.Submit)]
    assert len(set(sessions)) == 4
    wait_until(lambda: released(messages) >= set(sessions[:-1]), "the old ones were released")
    assert sessions[-1] not in released(messages)


def test_old_code_leaves_the_store(client: minidask.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of the tests is large, so it is in the store; a module that is imported makes it another blob."""
    forget_garbage(client)
    monkeypatch.syspath_prepend(tmp_path)
    for number in range(3):
        (tmp_path / f"another_{number}.py").write_text(f"# {'x' * 40_000}\ndef f():\n    return {number}\n")
        module = __import__(f"another_{number}")
        assert client.submit(module.f).result(20) == number
    assert client.submit(abs, -1).result(20) == 1
    wait_until(lambda: not pinned(client), "only the last code was held")


def test_a_task_that_waits_keeps_the_description_that_it_began_with(
    client: minidask.Client, messages: list[m.Message], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be tried again, after its process has died."""
    flag = tmp_path / "flag"

    def waits() -> int:
        wait_until(flag.exists, "it may go on")
        return logging.root.level

    first = client.submit(waits)
    monkeypatch.chdir(tmp_path)
    assert client.submit(abs, -1).result(20) == 1
    sessions = [message.blobs[0] for message in messages if isinstance(message, m.Submit)]
    assert sessions[0] != sessions[1] and sessions[0] not in released(messages)
    flag.touch()
    assert first.result(20) == logging.root.level
