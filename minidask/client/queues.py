"""The files of a client's call queues: what `ClientCore` decides about them is done here.

All of it is for holders of the client's lock: what the core has decided is carried out before it decides anything else.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from minidask.client.core import ClientCore
from minidask.client.queued import (
    AskBack,
    CloseQueue,
    Drain,
    Free,
    Put,
    PutAgain,
    QueueEffect,
    Revoke,
    Withdraw,
    as_task,
)
from minidask.data.callqueue import CallQueue, ResultPipe, Written
from minidask.host.signals import pass_on
from minidask.wire import messages as m
from minidask.wire.tickets import ELSEWHERE

_numbers = itertools.count()


class Queues:
    """All queues of one client.

    Args:
        core: of the client.
        folder: of the store that client and slots share; None where slots take no leases.
    """

    def __init__(self, core: ClientCore[Any], folder: Path | None) -> None:
        self._core = core
        self._folder = folder
        self._queues: dict[int, CallQueue] = {}
        self._pipe: ResultPipe | None = None

    def add(self, group: int, limit: int) -> bool:
        """Have the calls of a new group go through a queue, if slots take leases, and there is room for its files.

        Returns:
            Whether `fileno` is to be read from now on.
        """
        if self._folder is None:
            return False
        first = self._pipe is None
        try:
            if self._pipe is None:
                self._pipe = ResultPipe(self._folder, next(_numbers))
            queue = CallQueue(self._folder, str(self._pipe.path), next(_numbers))
        except OSError as error:
            pass_on(error)
            return first and self._pipe is not None
        self._queues[group] = queue
        self._core.queues.add(group, limit, queue.files)
        return first

    def fileno(self) -> int:
        """The descriptor that gets readable when there are results."""
        assert self._pipe is not None
        return self._pipe.fileno()

    def carry_out(self, effects: Iterable[Any]) -> list[Any]:
        """Carry out those effects that are about queues. Returns all others, in order."""
        others = []
        for effect in effects:
            if type(effect) is Put:
                others += self._put(effect)
            elif isinstance(effect, PutAgain | Free | Revoke | AskBack | Drain | Withdraw | CloseQueue):
                others += self._carry_out(effect)
            else:
                others.append(effect)
        for message in others:
            if type(message) is m.Submit and not message.lease:
                self._core.keep(message)
        return others

    def _put(self, put: Put) -> list[Any]:
        queue = self._queues.get(put.group)
        if queue is None:
            return []
        where = queue.put(put.ticket, put.call)
        if where is Written.BESIDE:
            self._core.queues[put.group].beside.add(put.ticket)
        return self.carry_out(self._core.queues.refused(*put)) if where is Written.REFUSED else []

    def _carry_out(self, effect: QueueEffect) -> list[m.Submit]:
        queue = self._queues.get(effect.group)
        if queue is None:
            return []
        match effect:
            case PutAgain(_, ticket):
                queue.put_again(ticket)
            case Revoke(_, ticket):
                queue.revoke(ticket)
            case AskBack(_, leases):
                queue.ask_back(leases)
            case Drain():
                queue.drain()
            case Free(_, ticket):
                queue.free(ticket)
            case Withdraw(group, ticket):
                call = queue.call(ticket)
                queue.free(ticket)
                return [as_task(group, call)]
            case CloseQueue(group):
                self._queues.pop(group).close()
        return []

    def claim(self, number: int) -> int:
        """What the lease with this number, which has ended, had in hand; 0 for any other task."""
        lease = self._core.queues.lease(number)
        queue = self._queues.get(lease[0]) if lease is not None else None
        if lease is None or queue is None:
            return 0
        claim = queue.claim(lease[1])
        queue.clear_claim(lease[1])
        return claim

    def results(self) -> Iterator[tuple[int, int, float, bytes]]:
        """Read the results that have come: number and ticket of each call, seconds that it took, and the pickle."""
        for number, ticket, duration, size, pickle in self._pipe.read() if self._pipe is not None else ():
            if size & ELSEWHERE:
                queue = self._queues.get(self._core.group_of(number))
                pickle = queue.result_in_line(ticket, size & ~ELSEWHERE) if queue is not None else b""
            yield number, ticket, duration, pickle

    def close(self) -> None:
        """Remove all queues."""
        while self._queues:
            self._queues.popitem()[1].close()
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def abandon(self) -> None:
        """In a forked child: let go of what is the parent's."""
        while self._queues:
            self._queues.popitem()[1].abandon()
        if self._pipe is not None:
            self._pipe.abandon()
            self._pipe = None
