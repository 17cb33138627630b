"""Starts slot processes. It imports little, so that they can be on their way while their daemon still loads itself."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from minidask.host import descriptors
from minidask.host.spawn import start_python
from minidask.task.context import SlotConfig


class Launched(NamedTuple):
    """A slot process that was started: our ends of its socket, its output pipes, by stream, and its pipe for stops."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    outputs: dict[str, int]
    stops: int


def launch(environment: Mapping[str, str], slot_config: SlotConfig) -> Launched:
    """Start a slot in a process and process group of its own.

    Args:
        environment: variables beside the inherited ones.
        slot_config: what it has to know.

    Raises:
        OSError: there are no more processes, descriptors or memory to be had; nothing is left of it.
    """
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as handed_over:
        ours, theirs = socket.socketpair()
        kept.callback(ours.close)
        handed_over.callback(theirs.close)
        pipes = []
        for reader, writer in ((kept, handed_over), (kept, handed_over), (handed_over, kept)):
            pipes.append(os.pipe())
            reader.callback(os.close, pipes[-1][0])
            writer.callback(os.close, pipes[-1][1])
        stdout, stderr, (told, stops) = pipes
        numbers = [str(number) for number in (theirs.fileno(), told, os.getpid())]
        process = start_python(
            "minidask.worker.slot.loop",
            [*numbers, *slot_config],
            [theirs.fileno(), told],
            stdin=subprocess.DEVNULL,
            stdout=stdout[1],
            stderr=stderr[1],
            env={**os.environ, **environment},
            process_group=0,  # Ctrl-C is for the user's own process; and what the slot forks dies with it
        )
        kept.pop_all()
    descriptors.restore(process.pid)
    os.set_blocking(stops, False)
    return Launched(process, ours, {"stdout": stdout[0], "stderr": stderr[0]}, stops)
