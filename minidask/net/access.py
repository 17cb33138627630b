"""The access file: it holds the secret that scheduler, workers and clients share, and only its owner can read it.

Everybody who knows the secret may run code on every worker. So a file that others can read is refused, as `ssh` refuses
such a key. The scheduler writes the file when it starts for the first time. Clients and workers of the same user find
it by themselves. To other machines the user copies it.

Several programs may start at once, and each may find no file. So a new file is written under another name, and then
linked to its own: one link succeeds, and all programs read that file. Nobody ever reads half a secret.
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
    """The path of the access file where no other is named. A `~` in it is not expanded yet.

    It is `$MINIDASK_ACCESS_FILE`, or else `minidask/access` in the user's state directory.
    """
    named = os.environ.get("MINIDASK_ACCESS_FILE")
    if named:
        return Path(named)
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        return Path(state) / "minidask" / "access"
    return Path("~/.local/state/minidask/access")


def secret_for(address: Address, access_file: str | Path | None = None) -> bytes:
    """Read the secret for the scheduler at an address.

    The secret is in `access_file` if one is given, else in `$MINIDASK_ACCESS_FILE`. Otherwise it is in the file
    `access` beside a Unix socket, or else in the default access file.

    Raises:
        AuthenticationError: the file is missing, or not safe to use.
    """
    if access_file is not None:
        return load_secret(Path(access_file))
    if not os.environ.get("MINIDASK_ACCESS_FILE") and address.scheme == "unix":
        beside = Path(address.path).parent / "access"
        if os.access(beside, os.F_OK):
            return load_secret(beside)
    return load_secret(default_access_file())


def load_secret(path: Path) -> bytes:
    """Read the secret from an access file.

    Raises:
        AuthenticationError: the file is missing, others can read it, or it holds something else.
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
    return os.open(path, flags | os.O_NONBLOCK)  # opening a named pipe would wait for its other end


def _check_owner(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise AuthenticationError(f"the access file {path} is not a regular file")
    if status.st_uid not in (os.geteuid(), 0):
        raise AuthenticationError(f"the access file {path} belongs to another user: name one of your own")
    if status.st_mode & 0o077:
        mend = f"chmod 600 {shlex.quote(str(path))}"
        raise AuthenticationError(f"others can read the access file {path}, so it is no secret: {mend}")


def load_or_create_secret(access_file: str | Path) -> bytes:
    """Read the secret from an access file. If there is no such file, write a new secret into it first.

    Programs that do so at the same time get the same secret.

    Raises:
        AuthenticationError: the file cannot be written or read, others can read it, or it holds something else.
    """
    path = _absolute(Path(access_file))
    try:
        if not path.exists():
            _create(path, secrets.token_bytes(SECRET_BYTES))
    except OSError as error:
        raise AuthenticationError(f"the access file {path} cannot be written: {error.strerror}") from error
    return load_secret(path)


def put_back(access_file: str | Path, secret: bytes) -> None:
    """Write a secret into its access file again, if somebody has removed the file.

    Raises:
        OSError: the file cannot be written.
    """
    if not Path(access_file).exists():
        _create(Path(access_file), secret)


def _create(path: Path, secret: bytes) -> None:
    for parent in [*reversed(path.parent.parents), path.parent]:
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would have the umask decide for all but the last
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secret.hex() + "\n")
        try:
            os.link(draft, path)  # fails if another program was faster; its file is as good
        except FileExistsError:
            pass
        except OSError:  # a file system without hard links: of several programs at once, the last one wins
            os.replace(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
