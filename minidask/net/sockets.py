"""What the client's blocking sockets and the daemons' asyncio sockets have in common: options, and one error text."""

from __future__ import annotations

import errno
import math
import os
import socket
import stat
import struct
from typing import Any

from minidask.errors import AuthenticationError, SchedulerLost
from minidask.host.signals import pass_on, suppress
from minidask.net.addresses import Address

TCP_INFO_FIELDS = "=2xBB52xI"  # of the kernel's `struct tcp_info`: retransmits, probes, last_ack_recv
TCP_INFO_BYTES = struct.calcsize(TCP_INFO_FIELDS)
DEAD_SECONDS = 30
"""A peer whose machine has not answered the kernel for so long is taken for dead."""


def dead_seconds(heartbeat_timeout: float) -> int:
    """The kernel's limit beside that of the programs, which notice first and say so."""
    return max(DEAD_SECONDS, math.ceil(2 * heartbeat_timeout))


def keep_alive(sock: Any, seconds: int = DEAD_SECONDS) -> None:
    """Set a socket's options: the kernel notices a dead peer within so many seconds, and sends small messages at once.

    Does nothing for a Unix socket, or for None.
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    settings = {"TCP_KEEPIDLE": seconds // 3, "TCP_KEEPINTVL": seconds // 6, "TCP_KEEPCNT": 4}
    for name, value in {**settings, "TCP_USER_TIMEOUT": 1000 * seconds}.items():
        option = getattr(socket, name, None)
        if option is not None:  # macOS names or lacks some of them
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)


def check_user(sock: Any) -> None:
    """Check who has opened the other end of a Unix socket. Does nothing for another socket, or where no kernel tells.

    Raises:
        AuthenticationError: it is neither this user nor root.
    """
    if sock is None or sock.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
        return
    _, user, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if user not in (os.geteuid(), 0):
        raise AuthenticationError(f"the other end of the Unix socket belongs to another user, number {user}")


def listen_unix(path: str) -> socket.socket:
    """Make a socket at a path in the file system; only this user can connect to it.

    A socket of this user where nobody listens any more is replaced. Nothing else that is there is touched.

    Raises:
        OSError: something else is at the path, or it cannot be made there.
    """
    sock = socket.socket(socket.AF_UNIX)
    try:
        if _is_left_over(path):
            os.unlink(path)
        os.fchmod(sock.fileno(), 0o600)  # before `bind`, so that there is no moment at which others can connect
        sock.bind(path)
        os.chmod(path, 0o600)  # where the kernel does not look at the first one, as on macOS
    except BaseException:
        sock.close()
        raise
    return sock


def _is_left_over(path: str) -> bool:
    """Whether there is a socket of this user at a path where nobody listens.

    Raises:
        OSError: something else is there.
    """
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise FileExistsError(errno.EEXIST, "what is there is no socket of this user's")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError as error:
            pass_on(error)  # its queue is full, for example: somebody has it
    raise OSError(errno.EADDRINUSE, "a program listens there")


def endure(sock: Any) -> bool:
    """Keep a connection however long the peer does not read, as long as its machine answers the kernel.

    The kernel's own limit takes a peer that is stopped, and has no room for more bytes, for one that is dead. The
    caller has to look at `unanswered` instead. Returns whether that is possible: on Linux, for TCP.
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6) or not hasattr(socket, "TCP_INFO"):
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)
    return True


def unanswered(sock: Any) -> float:
    """For how many seconds the peer's machine has answered nothing, if it was sent something since; else 0."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    if len(info) < TCP_INFO_BYTES:
        return 0.0
    retransmits, probes, last_answer = struct.unpack(TCP_INFO_FIELDS, info)
    return last_answer / 1000 if retransmits or probes else 0.0


def no_scheduler(address: Address, error: OSError) -> SchedulerLost:
    """Make the error for an address where no scheduler answers. It tells the reason and what to do."""
    reason = error.strerror or str(error) or type(error).__name__
    start = "minidask-scheduler" if address.scheme == "tcp" else "a scheduler"
    return SchedulerLost(
        f"no scheduler answers at {address}: {reason}. Start {start} there, or check the address and the firewall"
    )
