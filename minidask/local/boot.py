"""The node process's first steps: its slots are started before the node itself, far larger, is loaded.

    LocalCluster ─spawns─► boot.main ─spawns─► slots
                           └─ then becomes ─► node.serve

The one argument is the file descriptor of the control channel, whose first line is the configuration.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from minidask.host import descriptors
from minidask.host.resources import thread_limits
from minidask.local.config import NodeConfig
from minidask.worker.launch import launch


def main(arguments: list[str]) -> None:
    """Launch the slots, then run the node until the control channel ends; `arguments` holds that descriptor."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the user's process, which ends this one if it ends
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    with control.makefile("rb", buffering=0) as lines:  # unbuffered: what follows the first line stays in the channel
        line = lines.readline()
    if not line:
        return  # the user's process is gone already
    config = NodeConfig.from_line(line)
    environment = thread_limits(config.slots, os.environ)
    descriptors.raise_limit()
    launched = []
    with contextlib.suppress(OSError):  # the node tries again, and says so
        for _ in range(config.slots):
            launched.append(launch(environment, config.slot))

    from minidask.local.node import serve  # noqa: PLC0415 - only now, see above

    serve(control, config, launched)
