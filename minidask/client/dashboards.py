"""The dashboard of a client: a program of its own, which ends with the client.

Client.dashboard() ─ starts ─► minidask-dashboard ─ the link ─► here
                    └─ a pipe, which it reads until we are gone ─┘
"""

from __future__ import annotations

import html
import os
import select
import subprocess
import time
from collections.abc import Iterable

from minidask.errors import MinidaskError
from minidask.host.spawn import start_python
from minidask.net.tls_options import TLSChoice, TLSFiles

START_SECONDS = 30.0
END_SECONDS = 5.0


class DashboardLink(str):
    """The link to a dashboard. It has the token in it: whoever has the link sees what the cluster does."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        link = html.escape(self, quote=True)
        return f'<a href="{link}" target="_blank" rel="noopener">dashboard: {link.partition("?")[0]}</a>'


class DashboardProcess:
    """A `minidask-dashboard` of this process's own.

    Args:
        address: of the scheduler.
        access_file: the file with the shared secret; None for the usual places.
        tls: how a TCP connection is encrypted; None: as the access file says.
        port: where it listens; 0: any; None: its default, or any if that is taken.

    Attributes:
        link: opens it in a browser.

    Raises:
        MinidaskError: it has ended at once, and says why; or it has not begun in time.
        OSError: the system has no process or descriptor to spare.
    """

    def __init__(self, address: str, access_file: object, tls: TLSChoice, port: int | None) -> None:
        arguments = [address, *_options(access_file, tls)]
        arguments += [] if port is None else ["--port", str(port)]
        theirs, ours = os.pipe()
        try:
            self._process = start_python(
                "minidask.dashboard.__main__", [*arguments, "--end-with", str(theirs)], [theirs],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._pipe = open(ours, "wb", buffering=0)  # noqa: SIM115 - held until the end
        try:
            self.link = DashboardLink(self._link())
        except BaseException:
            self.close()
            raise

    def _link(self) -> str:
        out = self._process.stdout
        assert out is not None
        end, said = time.monotonic() + START_SECONDS, b""
        while (left := end - time.monotonic()) > 0:
            if not select.select([out], [], [], left)[0]:
                break
            more = os.read(out.fileno(), 4096)
            said += more
            for line in said.split(b"\n")[:-1]:
                if line.startswith(b"http://"):
                    return line.decode()
            if not more:
                raise MinidaskError(f"the dashboard has not begun: {said.decode(errors='replace').strip()}")
        raise MinidaskError(f"the dashboard has not begun within {START_SECONDS:g} seconds")

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it. Further calls do nothing."""
        self._pipe.close()
        if self._process.stdout is not None:
            self._process.stdout.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _options(access_file: object, tls: TLSChoice) -> Iterable[str]:
    if access_file is not None:
        yield from ("--access-file", str(access_file))
    if isinstance(tls, TLSFiles):
        for option, path in zip(("--tls-ca-file", "--tls-cert", "--tls-key"), tls, strict=True):
            yield from (option, str(path))
    elif tls is False:
        yield "--no-encryption"
