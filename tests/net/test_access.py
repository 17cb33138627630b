"""The access file: a secret that only its owner reads."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from minidask.errors import AuthenticationError
from minidask.net.access import access_for, default_access_file, load_access, load_or_create_access, save_access
from minidask.net.addresses import Address


def test_a_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "access"
    access = load_or_create_access(path)
    assert len(access.secret) == 32 and access.encrypted
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_or_create_access(path) == load_access(path) == access
    assert [entry.name for entry in path.parent.iterdir()] == ["access"]


def test_no_folder_is_open_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        load_or_create_access(tmp_path / ".local" / "state" / "minidask" / "access")
    finally:
        os.umask(before)
    for path in (tmp_path / ".local").rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    assert stat.S_IMODE((tmp_path / ".local").stat().st_mode) == 0o700


def test_programs_that_start_at_once_end_with_the_same_secret(tmp_path: Path) -> None:
    secrets: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: secrets.append(load_or_create_access(tmp_path / "access"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 16
    assert len(set(secrets)) == 1


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("address", [None, "tcp://node1:8786", "tcp://[fd00::1]:80"])
def test_what_is_saved_is_read(encrypted: bool, address: str | None, tmp_path: Path) -> None:
    access = load_or_create_access(tmp_path / "access")
    assert access.address is None and access.encrypted
    saved = access._replace(encrypted=encrypted, address=address and Address.parse(address))
    save_access(saved)
    assert load_access(tmp_path / "access") == load_or_create_access(tmp_path / "access") == saved
    assert stat.S_IMODE((tmp_path / "access").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        ("ab" * 32, 0o644, "chmod 600"),
        ("ab" * 32, 0o660, "chmod 600"),
        ("ab" * 31, 0o600, "64 hex digits"),
        ("xy" * 32, 0o600, "64 hex digits"),
        ("ab " * 32, 0o600, "64 hex digits"),
        ("", 0o600, "64 hex digits"),
        ("ab" * 32 + " tcp://a:b:c", 0o600, "64 hex digits"),
        ("ab" * 32 + " something else", 0o600, "64 hex digits"),
        ("é" * 64, 0o600, "64 hex digits"),
    ],
)
def test_an_unsafe_or_broken_file_is_refused(content: str, mode: int, text: str, tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(AuthenticationError, match=text):
        load_access(path)


def test_no_file_and_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="start minidask-scheduler as this user, or copy"):
        load_access(tmp_path / "missing")
    with pytest.raises(AuthenticationError, match=r"directory|regular file"):
        load_access(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(AuthenticationError, match="cannot be written"):
        load_or_create_access(tmp_path / "file" / "access")


def test_a_pipe_in_the_place_of_the_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "access", 0o600)
    with pytest.raises(AuthenticationError, match="not a regular file"):
        load_access(tmp_path / "access")


def test_where_the_secret_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, default, beside = tmp_path / "named", tmp_path / "state" / "minidask" / "access", tmp_path / "s" / "access"
    secrets = [load_or_create_access(path) for path in (named, default, beside)]
    unix, tcp = Address.parse(f"unix://{tmp_path}/s/socket"), Address.parse("host")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MINIDASK_ACCESS_FILE", raising=False)
    assert [access_for(tcp, named), access_for(tcp), access_for(unix)] == secrets
    assert access_for(Address.parse(f"unix://{tmp_path}/other")) == secrets[1]
    monkeypatch.setenv("MINIDASK_ACCESS_FILE", str(named))
    assert access_for(tcp) == access_for(unix) == secrets[0]
    monkeypatch.delenv("MINIDASK_ACCESS_FILE")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_access_file().expanduser() == Path("/home/somebody/.local/state/minidask/access")


def test_a_secret_is_written_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", unsupported)
    secret = load_or_create_access(tmp_path / "access")
    assert load_access(tmp_path / "access") == secret
    assert [path.name for path in tmp_path.iterdir()] == ["access"]
