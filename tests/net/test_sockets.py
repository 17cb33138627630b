"""Sockets in the file system: for their user alone, and in nobody's place."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from minidask.net.sockets import listen_unix


@pytest.fixture(autouse=True)
def _no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_only_the_user_can_connect_from_the_first_moment_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    modes: list[int] = []
    monkeypatch.setattr(os, "chmod", lambda path, mode: modes.append(stat.S_IMODE(os.stat(path).st_mode)))
    with listen_unix(str(path)):
        assert modes == [0o600], "the mode that `bind` has given it"


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with listen_unix(path) as first:
        first.listen()
        with pytest.raises(OSError, match="a program listens there"):
            listen_unix(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    with listen_unix(path) as second:
        second.listen()


def test_what_is_no_socket_stays(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(file)
    for path in (file, link, tmp_path):
        with pytest.raises(OSError, match="no socket of this user's"):
            listen_unix(str(path))
    assert file.read_text() == "precious"
    assert link.is_symlink()


def test_a_socket_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "s")
    listen_unix(path).close()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OSError, match="no socket of this user's"):
        listen_unix(path)
