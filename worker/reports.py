"""What a worker has reported and may have to report again. Pure.

    no scheduler       every report is kept until there is one
    a scheduler        outcomes are kept until it has said that they have come: what is under way when a connection is
                       cut, or lies before a scheduler that hangs and is killed, is lost

An outcome that comes twice does no harm: it is stale, as its task is over. Nothing else is told twice. People would see
twice what a task tells its caller, and a death would count as two. Nor is an outcome that names data in the store: that
is removed when the client has it. Nor that of a task whose number means another task to another scheduler.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

from minidask.wire import messages as m
from minidask.wire.large import OUT_OF_BAND_BYTES

MOST_KEPT = 50
"""So many outcomes at most, the newest ones: all are named in the handshake, and that is short."""


class _Kept(NamedTuple):
    report: m.Report
    number: int


class Reports:
    """The reports of one worker."""

    def __init__(self) -> None:
        self._sent: collections.deque[_Kept] = collections.deque(maxlen=MOST_KEPT)
        self._unsent: list[m.Report] = []
        self.unsent_bytes = 0
        """How much waits for a scheduler."""
        self._count = 0

    def joined(self) -> list[m.Report]:
        """There is a new connection. Returns what is to be sent over it."""
        reports = self._all()
        self._sent.clear()
        self._unsent.clear()
        self.unsent_bytes = self._count = 0
        return reports

    def sent(self, message: m.Message) -> None:
        """Note a message that was sent over the connection: each one, so that they are counted."""
        self._count += 1
        if isinstance(message, m.Done | m.Failed) and _may_be_told_again(message):
            self._sent.append(_Kept(message, self._count))

    def unsent(self, report: m.Report) -> None:
        """Note a report for which there is no scheduler."""
        self._unsent.append(report)
        self.unsent_bytes += sum(map(len, getattr(report, "payload", ())))

    def have_come(self, count: int) -> None:
        """The scheduler has had so many messages over the connection."""
        while self._sent and self._sent[0].number <= count:
            self._sent.popleft()

    def attempts(self) -> dict[int, int]:
        """The attempts that `joined` tells of, by task."""
        return {report.task: report.attempt for report in self._all()}

    def ended(self) -> dict[int, int]:
        """Those of them that have an outcome."""
        return {report.task: report.attempt for report in self._all() if isinstance(report, m.Done | m.Failed)}

    def _all(self) -> list[m.Report]:
        return [*(kept.report for kept in self._sent), *self._unsent]


def _may_be_told_again(report: m.Done | m.Failed) -> bool:
    names_data = any(len(buffer) < OUT_OF_BAND_BYTES for buffer in report.payload[1:])
    return report.task >= m.OUTLIVES and not names_data
