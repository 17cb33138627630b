"""The access file: it holds the secret that scheduler, workers and clients share, and only its owner can read it.

    SECRET                                       64 hex digits
    SECRET tcp://node1:8786                      the same, and where the scheduler listens
    SECRET no-encryption tcp://node1:8786        the same, and its TCP connections are not encrypted

The scheduler writes all that when it starts, if it listens at a TCP address. So whoever has the file finds the
scheduler, does as it does, and needs no option. A stranger cannot talk anybody out of encryption: only the file can.

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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from minidask.errors import AuthenticationError
from minidask.host.signals import pass_on
from minidask.net.addresses import Address

SECRET_BYTES = 32
PLAIN = "no-encryption"


class Access(NamedTuple):
    """What an access file says.

    Attributes:
        secret: of the cluster.
        encrypted: whether the scheduler's TCP connections are.
        address: where other machines find the scheduler; None if the file does not say so.
        source: the path of the file, for people.
    """

    secret: bytes
    encrypted: bool = True
    address: Address | None = None
    source: str = "no file"


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


def access_for(address: Address, access_file: str | Path | None = None) -> Access:
    """Read the access file for the scheduler at an address.

    It is `access_file` if one is given, else `$MINIDASK_ACCESS_FILE`. Otherwise it is the file `access` beside a Unix
    socket, or else the default access file.

    Raises:
        AuthenticationError: the file is missing, or not safe to use.
    """
    if access_file is not None:
        return load_access(Path(access_file))
    if not os.environ.get("MINIDASK_ACCESS_FILE") and address.scheme == "unix":
        beside = Path(address.path).parent / "access"
        if os.access(beside, os.F_OK):
            return load_access(beside)
    return load_access(default_access_file())


def load_access(path: Path) -> Access:
    """Read an access file.

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
    found = re.fullmatch(f"([0-9a-fA-F]{{{2 * SECRET_BYTES}}})( {PLAIN})?(?: (tcp://\\S+))?", text)
    try:
        if found is not None:
            address = Address.parse(found[3]) if found[3] else None
            return Access(bytes.fromhex(found[1]), found[2] is None, address, str(_absolute(path)))
    except ValueError as error:
        pass_on(error)
    raise AuthenticationError(
        f"the access file {path} does not hold a secret of {2 * SECRET_BYTES} hex digits, and an address: remove it,"
        " and a scheduler that starts writes a new one"
    )


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


def load_or_create_access(access_file: str | Path) -> Access:
    """Read an access file. If there is none, write one with a new secret first.

    Programs that do so at the same time get the same secret.

    Raises:
        AuthenticationError: the file cannot be written or read, others can read it, or it holds something else.
    """
    path = _absolute(Path(access_file))
    try:
        if not path.exists():
            _create(path, Access(new_secret()))
    except OSError as error:
        raise AuthenticationError(f"the access file {path} cannot be written: {error.strerror}") from error
    return load_access(path)


def new_secret() -> bytes:
    """Draw a secret that nobody has."""
    return secrets.token_bytes(SECRET_BYTES)


def save_access(access: Access) -> None:
    """Write an access file anew, in one step, where it says something else.

    Raises:
        AuthenticationError: the file cannot be written or read.
    """
    path = Path(access.source)
    try:
        if load_access(path) != access:
            _write(_absolute(path), access, os.replace)
    except OSError as error:
        raise AuthenticationError(f"the access file {path} cannot be written: {error.strerror}") from error


def put_back(access_file: str | Path, access: Access) -> None:
    """Write an access file again, if somebody has removed it.

    Raises:
        OSError: the file cannot be written.
    """
    if not Path(access_file).exists():
        _create(Path(access_file), access)


def _create(path: Path, access: Access) -> None:
    for parent in [*reversed(path.parent.parents), path.parent]:
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)  # `parents=True` would have the umask decide for all but the last
    _write(path, access, _link)


def _link(draft: Path, path: Path) -> None:
    try:
        os.link(draft, path)  # fails if another program was faster; its file is as good
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links: of several programs at once, the last one wins
        os.replace(draft, path)


def _write(path: Path, access: Access, put: Callable[[Path, Path], object]) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            words = [access.secret.hex(), "" if access.encrypted else PLAIN, str(access.address or "")]
            file.write(" ".join(filter(None, words)) + "\n")
        put(draft, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
