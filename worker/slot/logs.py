"""Log records of tasks go to the handlers of their caller.

The caller has set up where its program logs to: a file, a console, a service. A slot process has no handlers, and
`logging` would print warnings to standard error, without format. So a record that no handler of this process takes is
sent to the caller, whose loggers handle it there:

    Logger.callHandlers ─ no handler here ─► tell_caller ─► the loggers of the caller

A task may set up handlers of its own; these then get the records. No handler of this project is on the root logger, for
`logging.basicConfig` does nothing where there is one.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from minidask.host.output import TokenBucket
from minidask.task.session import SessionInfo
from minidask.wire.messages import RECORDS, Payload

_formatter = logging.Formatter()


class Logs:
    """Sends the records of tasks to their caller, and has its log levels. Replaces `Logger.callHandlers`.

    Args:
        tell_caller: called with the channel and packed records; returns False between tasks, where there is no caller.
    """

    def __init__(self, tell_caller: Callable[[str, Payload], bool]) -> None:
        self._tell_caller = tell_caller
        self._wanted = False
        self._levels: Mapping[str, int] = {}
        self._bucket = TokenBucket()
        self._dropped = 0
        self._process = os.getpid()
        self._replace_call_handlers()

    def take_over(self, session: SessionInfo) -> None:
        """Set the levels that the caller has. From now on, send records to the caller if it wants to have them."""
        levels = session.get("levels", {})
        self._wanted = session.get("records", False)
        logging.getLogger().setLevel(session["log_level"])
        logging.disable(session.get("disabled", logging.NOTSET))
        for name in self._levels.keys() - levels.keys():
            if logging.getLogger(name).level == self._levels[name]:  # no task has set another one
                logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        self._levels = levels

    def _replace_call_handlers(self) -> None:
        """Replace the method of all loggers that looks for handlers.

        `logging.lastResort` would not do: a library's `NullHandler` counts as a handler, and then it is not asked.
        """
        plain = logging.Logger.callHandlers

        @functools.wraps(plain)
        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            to_caller = self._wanted and os.getpid() == self._process  # not in a process that a task has forked
            if not to_caller or _has_handlers(logger) or not self._sent(record):
                plain(logger, record)

        logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign, assignment]

    def _sent(self, record: logging.LogRecord) -> bool:
        """Send a record, or drop it over the rate limit. Returns False if `logging` itself is to handle the record."""
        try:
            packed = _packed(record)
        except Exception:  # noqa: BLE001 - its arguments' own code may raise anything
            return False
        if not self._bucket.take(len(packed), time.monotonic()):
            self._dropped += 1
            return True
        records: Payload = [packed]
        if self._dropped:
            note = "%d records were dropped here, over the rate limit"
            values = (self._dropped,)
            records.insert(0, _packed(logging.LogRecord("minidask", logging.WARNING, __file__, 0, note, values, None)))
        self._dropped = 0
        return self._tell_caller(RECORDS, records)


def _has_handlers(logger: logging.Logger) -> bool:
    """Whether a handler in this process takes a logger's records; a `NullHandler` takes none."""
    current: logging.Logger | None = logger
    while current is not None:
        if any(not isinstance(handler, logging.NullHandler) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _packed(record: logging.LogRecord) -> bytes:
    """A record's attributes as msgpack: the message complete, the exception as text, other objects as their `repr`."""
    worker = os.environ.get("MINIDASK_WORKER", "local")
    attributes = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None}
    attributes |= {"worker": worker, "processName": worker}
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = _formatter.formatException(record.exc_info)
    try:
        return _pack(attributes)
    except (ValueError, OverflowError, TypeError):  # an integer of more than 64 bits, or an object nested too deeply
        plain = {name: v if isinstance(v, str | int | float | None) else repr(v) for name, v in attributes.items()}
        return _pack({name: repr(v) if isinstance(v, int) and abs(v) >= 2**63 else v for name, v in plain.items()})


def _pack(attributes: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(attributes, default=repr, unicode_errors="surrogatepass")
    return packed
