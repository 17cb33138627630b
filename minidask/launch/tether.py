"""A daemon on a tether: it lives as long as somebody holds the standard input of this program open.

    starter's machine                      another machine
    minidask-launch ── ssh ── sshd ──────► tether ──► minidask-worker
                     stdin: the access file, then nothing; its end: SIGTERM

The kernel closes the starter's end even if the starter is killed. So no daemon is left behind, and the access file
reaches the machine without a command line, an environment or a file of the user's.

    python -m minidask.launch.tether ADDRESS MODULE [ARGUMENT ...]

ADDRESS `:8786` is port 8786 of the machine that this ssh connection came from: only this side knows by which of its
addresses that machine was reached. An empty ADDRESS means that the module takes none.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from minidask.host.folders import runtime_folder, sweep

LONGEST_ACCESS = 1000


def found(address: str, ssh_connection: str) -> str:
    """Complete an address without a host. Returns it as it is if it has one.

    Args:
        address: as the starter has given it.
        ssh_connection: the variable SSH_CONNECTION of sshd: client, port, server, port.

    Raises:
        ValueError: it has no host, and no ssh connection tells one.
    """
    if not address.startswith(":"):
        return address
    host = ssh_connection.partition(" ")[0]
    if not host:
        raise ValueError("this is no ssh connection, so the scheduler's address must have a host")
    return f"tcp://[{host}]{address}" if ":" in host else f"tcp://{host}{address}"


def main(arguments: list[str] | None = None) -> int:
    """Run a daemon until it ends, or standard input does. Returns the daemon's exit code."""
    address, module, *options = sys.argv[1:] if arguments is None else arguments
    access = sys.stdin.buffer.readline(LONGEST_ACCESS)
    folder = None
    if access.strip():
        sweep()
        folder = runtime_folder()
        path = folder / "access"
        path.touch(mode=0o600)
        path.write_bytes(access)
        options += ["--access-file", str(path)]
    try:
        where = [found(address, os.environ.get("SSH_CONNECTION", ""))] if address else []
        daemon = subprocess.Popen([sys.executable, "-m", module, *where, *options], stdin=subprocess.DEVNULL)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: daemon.send_signal(number))
        _wait_for_the_end(daemon)
        return daemon.wait()
    finally:
        if folder is not None:
            _remove(folder)


def _wait_for_the_end(daemon: subprocess.Popen[bytes]) -> None:
    """Return when the daemon has ended. The end of standard input asks it to end, once."""
    life = os.pidfd_open(daemon.pid)
    try:
        while True:
            ready, _, _ = select.select([life, sys.stdin.buffer], [], [])
            if life in ready:
                return
            if not os.read(sys.stdin.fileno(), LONGEST_ACCESS):
                daemon.terminate()
                select.select([life], [], [])
                return
    finally:
        os.close(life)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
