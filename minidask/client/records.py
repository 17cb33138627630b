"""What tasks log, in this process's own loggers: its levels and handlers decide what becomes of a record."""

from __future__ import annotations

import logging
import sys

import msgpack

from minidask.client.screen import bars_aside
from minidask.wire.messages import Payload


def log_here(records: Payload) -> None:
    """Log these, as they come from `minidask.worker.slot.logs`."""
    for packed in records:
        attributes = msgpack.unpackb(packed, unicode_errors="surrogatepass", strict_map_key=False)
        record = logging.makeLogRecord(attributes)
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            with bars_aside(sys.stderr):
                logger.handle(record)
