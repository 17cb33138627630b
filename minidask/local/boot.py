"""The first steps of the node process: it starts its slots, and only then loads the rest of itself.

    LocalCluster ─spawns─► boot.main ─spawns─► slots
                           └─ then becomes ─► node.serve

Scheduler, worker and event loop take a tenth of a second to load, and so does a slot. This way they load side by side,
and the first result comes sooner. So this file must import little.
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
    """Launch the slots, then run the node until its control channel ends.

    Args:
        arguments: the descriptor of the control channel, and the configuration. It does not come through the channel,
            whose other end may be gone: this process has to know then what to remove.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the user's process; this one ends with that
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    config = NodeConfig.from_json(arguments[1])
    environment = thread_limits(config.slots, os.environ)
    descriptors.raise_limit()
    launched = []
    with contextlib.suppress(OSError):  # the node tries again, and logs the error
        for _ in range(config.slots):
            launched.append(launch(environment, config.slot))

    from minidask.local.node import serve  # noqa: PLC0415 - only now, see above

    serve(control, config, launched)
