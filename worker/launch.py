"""Starts slot processes.

What a slot process has from its daemon, and why:

    daemon                              slot process (a process group of its own)
    ──────                              ────────────
    socket   ◄───── messages ─────►     socket
    outputs  ◄───── bytes ─────────     stdout, stderr: two pipes
    stops    ────── attempts ──────►    the stop pipe: `slot/stops.py` tells what for
    reads    ──── shared memory ───     the count of reads: `slot/lease.py` tells what for
    recorder ◄─── shared memory ────    what runs in the slot: `slot/recorder.py` tells what for
    life     ───── nothing ────────     the life pipe: its end is the daemon's end

- *This module imports little.* The node launches its slots before it loads itself (`minidask/local/boot.py`), so they
  load while it does. The first result of a fresh cluster then comes after 250 ms in the place of 355.
- *joblib is not imported* before a task does it (`minidask/task/batch.py`): with numpy it takes 85 ms in each slot.
- *A group of its own*, since Ctrl-C is for the user's own process. What a task forks is in that group too, and is
  killed with it.
- *Pipes, and not a replaced `sys.stdout`*: compiled code and children print there too.
- *What the slot has to know lies in an unnamed file* (`minidask/host/spawn.py`), as a command line is too short for it.
- *The user's own limit of descriptors* is restored: the daemon has raised its own (`minidask/host/descriptors.py`), and
  `select` in a task fails with numbers above 1,023.
- *The kernel kills a slot whose daemon has ended* (`PR_SET_PDEATHSIG`). The slot holds nothing that is not also held
  elsewhere, so it may be killed at any moment. What the slot has started is asked to end, also by the kernel: nobody
  writes into the life pipe, so it gets readable when the daemon has ended, and that sends a signal to the group.

A slot runs as `SCHED_BATCH`. Linux by default lets a process that was asleep preempt the one that has woken it. A slot
that gets a call would thus take the processor from the node in the middle of its work:

    default       node: read │ send      │ read │ send        one message each time it runs
                  slot:      │ run reply │      │ run …
    SCHED_BATCH   node: read send read send │                 several messages each time it runs
                  slot:                     │ run reply run …

As a batch process the slot has the same share of the processor, and waits until the other one sleeps. That halves the
context switches: 97 → 85 µs for a no-op task with more processes than cores.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from minidask.host import descriptors
from minidask.host.spawn import start_python, unnamed_file
from minidask.task.context import SlotConfig

from .slot.reads import OutputCount
from .slot.recorder import RECORDER_BYTES, Recorder


@functools.cache
def _life_pipe() -> tuple[int, int]:
    """A pipe that this process has as long as it lives: all its slots share it."""
    return os.pipe()


class Launched(NamedTuple):
    """A slot process that was started.

    Attributes:
        process: of the slot.
        sock: this process's end of its socket.
        outputs: descriptors of its output pipes, by stream.
        stops: descriptor of the stop pipe, which does not block.
        reads: counts the readings of output.
        recorder: has what runs in the slot.
    """

    process: subprocess.Popen[bytes]
    sock: socket.socket
    outputs: dict[str, int]
    stops: int
    reads: OutputCount
    recorder: Recorder


def launch(environment: Mapping[str, str], slot_config: SlotConfig) -> Launched:
    """Start a slot in a process and process group of its own.

    Args:
        environment: variables beside the inherited ones.
        slot_config: what the slot has to know.

    Raises:
        OSError: the system has no process, descriptor or memory to spare. Nothing is left behind then.
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
        stdout, stderr, (stops_read, stops) = pipes
        shared = unnamed_file(bytes(8))
        handed_over.callback(os.close, shared)
        os.pwrite(shared, bytes(1), RECORDER_BYTES - 1)  # a hole before it: memory is taken for what is written
        reads, recorder = OutputCount(shared), Recorder(shared)
        kept.callback(reads.close)
        kept.callback(recorder.close)
        inherited = [theirs.fileno(), stops_read, shared, _life_pipe()[0]]
        numbers = [str(number) for number in (*inherited, os.getpid())]
        process = start_python(
            "minidask.worker.slot.process",
            [*numbers, *slot_config],
            inherited,
            stdin=subprocess.DEVNULL,
            stdout=stdout[1],
            stderr=stderr[1],
            env={**os.environ, **environment},
            process_group=0,  # Ctrl-C is for the user's own process; and what the slot forks dies with it
        )
        kept.pop_all()
    descriptors.restore(process.pid)
    os.set_blocking(stops, False)
    return Launched(process, ours, {"stdout": stdout[0], "stderr": stderr[0]}, stops, reads, recorder)
