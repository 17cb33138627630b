"""The secret that scheduler, workers and clients share, in a file for its owner alone.

A scheduler writes the file; clients and workers of the same user find it by themselves. On other
machines it is to be copied there.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import stat
from pathlib import Path

from minidask.errors import AuthenticationError
from minidask.host.signals import pass_on
from minidask.net.addresses import Address

SECRET_BYTES = 32


def default_access_file() -> Path:
    """`$MINIDASK_ACCESS_FILE`, else `minidask/access` in the user's state directory."""
    named = os.environ.get("MINIDASK_ACCESS_FILE")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "minidask" / "access"
    return Path("~/.local/state/minidask/access")


def secret_for(address: Address, access_file: str | Path | None = None) -> bytes:
    """The secret for the scheduler at an address.

    It is in `access_file` if given, else in `$MINIDASK_ACCESS_FILE`, else for a Unix socket in the file
    `access` beside it, else in the default place.

    Raises:
        AuthenticationError: there is no such file, or it is not safe to use.
    """
    if access_file is not None:
        return load_secret(Path(access_file))
    if not os.environ.get("MINIDASK_ACCESS_FILE") and address.scheme == "unix":
        beside = Path(address.path).parent / "access"
        if os.access(beside, os.F_OK):
            return load_secret(beside)
    return load_secret(default_access_file())


def load_secret(path: Path) -> bytes:
    """Read the secret from a file.

    Raises:
        AuthenticationError: the file is missing, not its owner's alone, or holds something else.
    """
    try:
        with open(_absolute(path), encoding="ascii", opener=_open_at_once) as file:
            _check_owner(path, os.fstat(file.fileno()))
            text = file.read(1000).strip()
    except FileNotFoundError:
        raise AuthenticationError(
            f"there is no access file {path}: start minidask-scheduler as this user, or copy the file from the"
            " scheduler's machine and name it with --access-file, access_file= or MINIDASK_ACCESS_FILE"
        ) from None
    except OSError as error:
        pass_on(error)
        raise AuthenticationError(f"the access file {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        text = ""
    if re.fullmatch(f"[0-9a-fA-F]{{{2 * SECRET_BYTES}}}", text) is None:
        raise AuthenticationError(
            f"the access file {path} does not hold a secret of {2 * SECRET_BYTES} hex digits: remove it, and a"
            " scheduler that starts writes a new one"
        )
    return bytes.fromhex(text)


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise AuthenticationError(
            f"there is no home directory to look for {path} in: set HOME, or name the access file with --access-file,"
            " access_file= or MINIDASK_ACCESS_FILE"
        ) from error


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would have us wait for its other end


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AuthenticationError(f"the access file {path} is not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise AuthenticationError(f"the access file {path} belongs to another user: name one of your own")
    if status.st_mode & 0o077:
        mend = f"chmod 600 {shlex.quote(str(path))}"
        raise AuthenticationError(f"others can read the access file {path}, so it is no secret: {mend}")


def load_or_create_secret(access_file: str | Path) -> bytes:
    """Read the secret, or make a fresh one where there is no file yet. Two that start at once end with the same.

    Raises:
        AuthenticationError: as `load_secret`, or the file cannot be written.
    """
    path = _absolute(Path(access_file))
    try:
        if not path.exists():
            _create(path, secrets.token_bytes(SECRET_BYTES))
    except OSError as error:
        raise AuthenticationError(f"the access file {path} cannot be written: {error.strerror}") from error
    return load_secret(path)


def put_back(access_file: str | Path, secret: bytes) -> None:
    """Write the file of a secret again, if somebody has removed it.

    Raises:
        OSError: it cannot be written.
    """
    if not Path(access_file).exists():
        _create(Path(access_file), secret)


def _create(path: Path, secret: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secret.hex() + "\n")
        try:
            os.link(draft, path)  # whoever comes first has made it; a half-written file is never seen
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: the last one of several that start at once has made it
            os.replace(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
