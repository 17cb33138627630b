"""What the scheduler takes in of what clients ask for, tasks above all. Part of `SchedulerCore`, and as pure."""

from __future__ import annotations

from minidask.errors import ProtocolError
from minidask.wire import messages as m

from .quota import ALL, RECORD_BYTES, TASKS, Quota, size_of
from .tasks import ClientRecord, GroupRecord, TaskRecord

# More than anybody can have. What one peer says is passed on to others, so it has to be within the wire's limits.
MAX_BLOBS = 1 << 19
MAX_NAME = 1 << 20
MAX_GROUPS = 100_000


def check_submission(client: ClientRecord, message: m.Submit) -> None:
    """Check what no client of ours would send.

    Raises:
        ProtocolError: the connection is to be closed.
    """
    if message.task in client.tasks:
        raise ProtocolError(f"task {message.task} is submitted twice")
    if len(message.blobs) > MAX_BLOBS or len(message.name) > MAX_NAME:
        raise ProtocolError(f"task {message.task} needs too many blobs, {len(message.blobs)}, or has too long a name")
    if not message.payload:
        raise ProtocolError(f"task {message.task} has no payload")
    if message.group in client.groups and message.pin is not None:
        raise ProtocolError(f"task {message.task} is pinned to a worker, so it cannot be of a group")
    if message.lease and (message.pin is not None or message.parent or client.nested):
        raise ProtocolError(f"task {message.task} is a lease, so it can have neither pin nor parent")
    if message.resources and (message.pin is not None or message.lease):
        raise ProtocolError(f"task {message.task} is a lease or pinned to a worker, so it cannot need resources")
    if message.timeout is not None and not message.timeout > 0:
        raise ProtocolError(f"task {message.task} has a timeout of {message.timeout} seconds; it must be above 0")


def check_group(client: ClientRecord, message: m.OpenGroup, quota: Quota) -> None:
    """Check that a group can be opened.

    Raises:
        ProtocolError: the connection is to be closed.
    """
    if message.group in client.groups or message.group <= 0 or message.limit < 0:
        raise ProtocolError(f"group {message.group} with limit {message.limit} cannot be opened")
    if len(client.groups) >= MAX_GROUPS:
        raise ProtocolError(f"group {message.group} cannot be opened, as {MAX_GROUPS} others are open")
    if why := quota.why_not(client.peer, RECORD_BYTES, ALL):
        raise ProtocolError(f"group {message.group} cannot be opened: {why}")


def check_parent(parent: list[int]) -> None:
    """Check the name of the task that a message is from.

    Raises:
        ProtocolError: the connection is to be closed.
    """
    if len(parent) != 2:
        raise ProtocolError(f"a parent is named by two numbers, not {len(parent)}")


def check_counts(message: m.RanInline) -> None:
    """Check how many calls a client says to have run.

    Raises:
        ProtocolError: the connection is to be closed.
    """
    if not 0 <= message.failed <= message.finished:
        raise ProtocolError(f"{message.failed} of {message.finished} calls cannot have failed")


def refusal_of(
    client: ClientRecord, message: m.Submit, group: GroupRecord | None, parent: TaskRecord | None, quota: Quota
) -> tuple[m.Reason, str] | None:
    """Why a task cannot be taken in: no reason to end the connection, and with it every other task."""
    if why := quota.why_not(client.peer, size_of(message), TASKS):
        return m.Reason.FULL, why
    for blob in message.blobs:
        if blob not in client.blobs:
            return m.Reason.INTERNAL, f"its client does not hold blob {blob.hex()}"
    if message.group and group is None:
        return m.Reason.INTERNAL, f"group {message.group} is not open"
    if message.parent and parent is None:
        return m.Reason.NO_PARENT, "the task that has submitted it has ended, or is not known yet"
    return (m.Reason.VERSION, client.refused) if client.refused else None
