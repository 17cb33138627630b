"""Large data, as the worker's core sees it: blobs on their way here, calls held for them, and results on their way out.

    NeedBlob ─► wanted ─► Fetch … BlobHere ─► held calls are released
    Done with large parts ─► Delivery ─► OfferResult … ResultTaken ─► Done is passed on

Pure: every method returns effects, or calls that may go on. The bytes are the business of `transfers.py`.
A result waits here as a delivery only if its client is on another machine. A client that shares the store takes a
result by itself, so its outcome is passed on at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from minidask.wire import messages as m

from .events import AwaitTaker, Effect, Fetch, Forget, RemoveResult, ToScheduler, ToSlot
from .slots import Busy, Ending, SlotRecord


@dataclass(slots=True, eq=False)
class Delivery:
    """An outcome that waits until its client has fetched all large buffers of the result; `left` are those missing."""

    done: m.Done
    left: set[bytes]


class WorkerData:
    """The blobs and results of one worker.

    Args:
        shared: whether clients take large results from the store themselves.

    Attributes:
        blobs: payloads by blob id; a large blob is in the store, and its payload here is empty.
        wanted: large blobs on their way.
        held: calls that wait for those.
        deliveries: outcomes whose results are being fetched, by task.
        awaited: the slots whose leases wait for a blob, by blob.
        kept: blobs of a lost scheduler that calls still need; what the next one sends is its own.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.blobs: dict[bytes, m.Payload] = {}
        self.wanted: set[bytes] = set()
        self.held: list[m.Run] = []
        self.deliveries: dict[int, Delivery] = {}
        self.awaited: dict[bytes, set[int]] = {}
        self.kept: set[bytes] = set()

    # --- blobs, and the calls that need them ---

    def hold(self, run: m.Run) -> bool:
        """Hold a call back if one of its blobs is still on its way. Returns whether the call is held."""
        if not self.wanted or self.wanted.isdisjoint(run.blobs):
            return False
        self.held.append(run)
        return True

    def put(self, blob: bytes, payload: m.Payload) -> None:
        """Take a small blob from the scheduler."""
        self.blobs[blob] = payload
        self.kept.discard(blob)

    def fetch(self, message: m.NeedBlob) -> list[Effect]:
        """Start to fetch a blob, or continue from another source."""
        self.kept.discard(message.blob)
        self.wanted.add(message.blob)
        return [Fetch(message.blob, message.size, message.source, message.places)]

    def arrived(self, blob: bytes) -> list[m.Run]:
        """Note that a wanted blob is in the store. Returns the held calls that miss nothing any more."""
        self.wanted.discard(blob)
        self.blobs[blob] = []
        released = [run for run in self.held if self.wanted.isdisjoint(run.blobs)]
        self.held = [run for run in self.held if not self.wanted.isdisjoint(run.blobs)]
        return released

    def unavailable(self, blob: bytes, text: str, slots: Iterable[SlotRecord]) -> list[Effect]:
        """Report the held calls that need a wanted blob as stopped: it will not arrive. `text` is the reason."""
        if blob not in self.wanted:
            return []
        effects = self.forget([blob], slots)
        for run in [run for run in self.held if blob in run.blobs]:
            self.held.remove(run)
            effects.append(ToScheduler(m.Stopped(run.task, run.attempt, m.NO_DATA, text)))
        return effects

    def missing_in(self, slot: SlotRecord, run: m.Run) -> list[Effect]:
        """Effects that send a slot those blobs of a call that it has not had yet."""
        effects: list[Effect] = []
        for blob in run.blobs:
            if blob not in slot.blobs and blob in self.blobs:
                slot.blobs.add(blob)
                effects.append(ToSlot(slot.number, m.PutBlob(blob, self.blobs[blob])))
        return effects

    def want(self, slot: SlotRecord, message: m.WantBlobs) -> list[Effect]:
        """Send a slot the blobs that its lease lacks; those that are not here come with `send_awaited`."""
        here = [blob for blob in message.blobs if blob in self.blobs]
        away = [blob for blob in message.blobs if blob not in self.blobs]
        slot.blobs.update(here)
        effects: list[Effect] = [ToSlot(slot.number, m.PutBlob(blob, self.blobs[blob])) for blob in here]
        for blob in away:
            self.awaited.setdefault(blob, set()).add(slot.number)
        return [*effects, ToScheduler(message._replace(blobs=away))] if away else effects

    def send_awaited(self, blob: bytes, slots: Mapping[int, SlotRecord], text: str | None = None) -> list[Effect]:
        """Send a blob to the slots that wait for it; with a `text`, that it will not come."""
        waiting = [slots[number] for number in self.awaited.pop(blob, ()) if number in slots]
        if text is not None:
            return [ToSlot(slot.number, m.BlobLost(blob, text)) for slot in waiting]
        for slot in waiting:
            slot.blobs.add(blob)
        return [ToSlot(slot.number, m.PutBlob(blob, self.blobs[blob])) for slot in waiting]

    def forget(self, blobs: list[bytes], slots: Iterable[SlotRecord]) -> list[Effect]:
        """Forget blobs that the scheduler has released, here and in every slot that has them."""
        effects: list[Effect] = []
        for blob in blobs:
            self.blobs.pop(blob, None)
        self.wanted.difference_update(blobs)
        for slot in slots:
            shared = slot.blobs.intersection(blobs)
            if shared:
                slot.blobs -= shared
                effects.append(ToSlot(slot.number, m.ReleaseBlobs(sorted(shared))))
        return [*effects, Forget(blobs)] if blobs else effects

    # --- large results ---

    def pass_on(self, done: m.Done | m.CallDone, large: Mapping[bytes, int]) -> list[Effect]:
        """Pass on an outcome whose `large` buffers, with their sizes by id, are in the store; deliver them first."""
        if self.shared or isinstance(done, m.CallDone):
            return [AwaitTaker(done.task, done.attempt, list(large)), ToScheduler(done)]
        self.deliveries[done.task] = Delivery(done, set(large))
        return [ToScheduler(m.OfferResult(done.task, done.attempt, blob, size)) for blob, size in large.items()]

    def result_fetched(self, blob: bytes) -> list[Effect]:
        """Remove a buffer that the client has fetched. With the last one of a result, the outcome is passed on."""
        effects: list[Effect] = []
        for task, delivery in list(self.deliveries.items()):
            if blob in delivery.left:
                delivery.left.discard(blob)
                effects.append(RemoveResult(blob))
                if not delivery.left:
                    del self.deliveries[task]
                    effects.append(ToScheduler(delivery.done))
        return effects

    def drop_delivery(self, task: int) -> list[Effect]:
        """Remove what is left of a result that nobody wants any more."""
        return [RemoveResult(blob) for blob in sorted(self.deliveries.pop(task).left)]

    # --- the end ---

    def withdraw(self, task: int, attempt: int) -> list[Effect] | None:
        """Drop an attempt that is held or being delivered. Returns the effects; None if it is neither."""
        for run in self.held:
            if (run.task, run.attempt) == (task, attempt):
                self.held.remove(run)
                return []
        delivery = self.deliveries.get(task)
        return self.drop_delivery(task) if delivery is not None and delivery.done.attempt == attempt else None

    def drop_everything(self, slots: Iterable[SlotRecord]) -> list[Effect]:
        """Forget all blobs, held calls and deliveries, as their scheduler is gone; but not what calls need that go on.

        A slot may have been sent such a call and not have begun to unpickle it.
        """
        self.held.clear()
        self.awaited.clear()
        self.kept = self.blobs.keys() & _needed(call for slot in slots for call in slot.calls if isinstance(call, Busy))
        effects = self.forget([blob for blob in [*self.blobs, *self.wanted] if blob not in self.kept], slots)
        for task in list(self.deliveries):
            effects += self.drop_delivery(task)
        return effects

    def let_go(self, slots: Iterable[SlotRecord]) -> list[Effect]:
        """Forget what was kept for calls of a lost scheduler, once they have ended."""
        over = self.kept - _needed(call for slot in slots for call in slot.calls)
        self.kept -= over
        return self.forget(sorted(over), slots)


def _needed(calls: Iterable[Busy | Ending]) -> set[bytes]:
    return {blob for call in calls for blob in call.run.blobs}
