"""Starts slot processes. It imports little, so that they can be on their way while their daemon still loads itself."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from minidask.nesting import Surroundings
from minidask.spawn import start_python


class Launched(NamedTuple):
    """A slot process that was started: our ends of its socket, its output pipes, by stream, and its pipe for stops."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    outputs: dict[str, int]
    stops: int


def launch(environment: Mapping[str, str], around: Surroundings) -> Launched:
    """Start a slot in a process and process group of its own.

    Args:
        environment: variables beside the inherited ones.
        around: what it has to know.
    """
    ours, theirs = socket.socketpair()
    outputs = {"stdout": os.pipe(), "stderr": os.pipe()}
    told, stops = os.pipe()
    numbers = [str(number) for number in (theirs.fileno(), told, os.getpid())]
    process = start_python(
        "minidask.worker.slot",
        [*numbers, *around],
        [theirs.fileno(), told],
        stdin=subprocess.DEVNULL,
        stdout=outputs["stdout"][1],
        stderr=outputs["stderr"][1],
        env={**os.environ, **environment},
        process_group=0,  # Ctrl-C is for the user's own process; and what the slot forks dies with it
    )
    theirs.close()
    os.close(told)
    for _, write_end in outputs.values():
        os.close(write_end)
    os.set_blocking(stops, False)
    return Launched(process, ours, {stream: read_end for stream, (read_end, _) in outputs.items()}, stops)
