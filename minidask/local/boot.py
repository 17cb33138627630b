"""The node process's first steps: its slots are started before the node itself, far larger, is loaded.

    LocalCluster ─spawns─► local_boot ─spawns─► slots
                               └─ then becomes ─► local_node

The one argument is the file descriptor of the control channel, whose first line is the configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket

from minidask.host import descriptors
from minidask.host.resources import thread_limits
from minidask.task.context import SlotConfig
from minidask.worker.launch import launch


def main(arguments: list[str]) -> None:
    """The node process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the user's process, which ends this one if it ends
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    with control.makefile("rb", buffering=0) as lines:  # unbuffered: what follows the first line stays in the channel
        config = json.loads(lines.readline() or b"null")
    if config is None:
        return  # the user's process is gone already
    environment = thread_limits(config["slots"], os.environ)
    slot_config = SlotConfig(config["store"], config["address"], config["access_file"])
    descriptors.raise_limit()
    launched = []
    with contextlib.suppress(OSError):  # the node tries again, and says so
        for _ in range(config["slots"]):
            launched.append(launch(environment, slot_config))

    from minidask.local.node import serve  # noqa: PLC0415 - only now, see above

    serve(control, config, launched)
