"""Leapfrogging in one slot: a call that waits for tasks of its own lends its slot to them.

    slot.below   [outer call: waits] [its child: waits]      hosts, outermost first
    slot.state                                         [grandchild: runs]     the guest on top

A call that waits cannot leave the slot, since it is in the middle of its own stack. So the slot runs the guest on top
of it, one level deeper, and the host resumes only once the guest has returned. The scheduler therefore sends a guest
only to a slot where one of the guest's own ancestors waits: whatever waits depends on its descendants alone, so some
call can always proceed. Another task's call on top could block the host for as long as it liked.

`Waiting` and `Resumed` travel to the scheduler while a guest may travel the other way. A guest that crosses with
`Resumed` has not begun: the slot has dropped it, and the worker gives it back.
"""

from __future__ import annotations

from collections.abc import Iterable

from minidask.wire import messages as m

from .events import Effect, ToScheduler, ToSlot
from .slots import CALLS, Busy, Ending, SlotRecord, report_stopped


def lent_slot(slots: Iterable[SlotRecord], host: int) -> SlotRecord | None:
    """The slot that the task `host` lends; None if that task does not wait, or has a guest already."""
    for slot in slots:
        if isinstance(slot.state, Busy) and slot.state.waits and slot.state.run.task == host:
            return slot
    return None


def put_on_top(slot: SlotRecord) -> None:
    """Make room for a guest: the call that waits in this slot becomes its host."""
    if isinstance(slot.state, CALLS):
        slot.below.append(slot.state)


def wait(slot: SlotRecord, message: m.Waiting) -> list[Effect]:
    """Note that a call waits for its own tasks, and report it. Only the innermost call of a slot can."""
    call = slot.find(message.task, message.attempt)
    if not isinstance(call, Busy) or call is not slot.state:
        return []
    slot.state = call._replace(waits=True)
    return [ToScheduler(message)]


def resume(slot: SlotRecord, message: m.Resumed) -> list[Effect]:
    """Resume a call. A guest that was sent to its slot but not started is returned to the scheduler."""
    effects: list[Effect] = []
    call = slot.find(message.task, message.attempt)
    if isinstance(call, Busy):
        slot.replace(call, call._replace(waits=False))
        effects.append(ToScheduler(message))
    if call is not None and isinstance(slot.state, CALLS) and slot.state.run.host == message.task:
        guest = slot.state
        slot.remove(guest)
        if isinstance(guest, Ending):
            effects += report_stopped(guest)
        else:
            effects.append(ToScheduler(m.GaveBack(guest.run.task, guest.run.attempt)))
    return [*effects, ToSlot(slot.number, message)]
