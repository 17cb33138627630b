"""What a worker has reported and may have to report again. Pure.

    no scheduler       every report is kept until there is one
    a scheduler        outcomes are kept until it is heard a moment later: what is under way when a connection is cut,
                       or lies before a scheduler that hangs and is killed, is lost

An outcome that comes twice does no harm: it is stale, as its task is over. Nothing else is told twice. People would see
twice what a task tells its caller, and a death would count as two. Nor is an outcome that names data in the store: that
is removed when the client has it. Nor that of a task whose number means another task to another scheduler.
"""

from __future__ import annotations

import collections
from typing import NamedTuple

from minidask.wire import messages as m
from minidask.wire.large import OUT_OF_BAND_BYTES

UNDER_WAY_SECONDS = 1.0
"""How old a report is, at least, that the scheduler has if it is heard now."""


class _Kept(NamedTuple):
    report: m.Report
    sent_at: float


class Reports:
    """The reports of one worker."""

    def __init__(self) -> None:
        self._sent: collections.deque[_Kept] = collections.deque()
        self._unsent: list[m.Report] = []

    def sent(self, report: m.Done | m.Failed, now: float) -> None:
        """Note an outcome that was sent."""
        if _may_be_told_again(report):
            self._sent.append(_Kept(report, now))

    def unsent(self, report: m.Report) -> None:
        """Note a report for which there is no scheduler."""
        self._unsent.append(report)

    def heard(self, now: float) -> None:
        """The scheduler was heard: it has what was sent a while ago."""
        while self._sent and self._sent[0].sent_at < now - UNDER_WAY_SECONDS:
            self._sent.popleft()

    def attempts(self) -> dict[int, int]:
        """The attempts that `again` tells of, by task."""
        return {report.task: report.attempt for report in self._all()}

    def ended(self) -> dict[int, int]:
        """Those of them that have an outcome."""
        return {report.task: report.attempt for report in self._all() if isinstance(report, m.Done | m.Failed)}

    def again(self, now: float) -> list[m.Report]:
        """What to send to a scheduler that was just joined."""
        reports = self._all()
        self._unsent = []
        self._sent = collections.deque(_Kept(report, now) for report in reports if _may_be_told_again(report))
        return reports

    def _all(self) -> list[m.Report]:
        return [*(kept.report for kept in self._sent), *self._unsent]


def _may_be_told_again(report: m.Report) -> bool:
    if not isinstance(report, m.Done | m.Failed) or report.task < m.OUTLIVES:
        return False
    return all(len(buffer) >= OUT_OF_BAND_BYTES for buffer in report.payload[1:])
