"""What a peer that joins says of itself becomes its record. Part of `SchedulerCore`, and as pure."""

from __future__ import annotations

from minidask.host.texts import printable
from minidask.host.versions import PYTHON, described, minor
from minidask.wire.infos import ClientInfo, WorkerInfo, checked

from .amounts import amounts_of
from .events import Joined
from .tasks import ClientRecord, WorkerRecord


def client_of(event: Joined) -> ClientRecord:
    """Return the record of a client.

    Raises:
        ProtocolError: what it says of itself is malformed.
    """
    info, _ = checked(ClientInfo, event.info)
    return ClientRecord(
        event.peer, printable(info.name or event.address), info.forward_output, info.nested,
        printable(minor(info.python)), keys=tuple(info.keys), slot_of=info.slot_of, uid=info.uid,
        returns_within=info.reconnect_timeout,
    )  # fmt: skip


def worker_of(event: Joined, now: float) -> tuple[WorkerRecord, dict[int, int], dict[int, int]]:
    """Return the record of a worker, the attempts by task that it has brought along, and those of them that have ended.

    Raises:
        ProtocolError: what it says of itself is malformed.
    """
    info, more = checked(WorkerInfo, event.info)
    told = described({PYTHON: info.python, "packages": info.packages})
    versions = {printable(package): printable(version) for package, version in told.items()}
    shown = {**more, "host": info.host, "pid": info.pid, "prefetch": info.prefetch, "serves": info.serves,
             "place": info.place, "python": versions.get(PYTHON, "")}  # fmt: skip
    shown = {printable(key): printable(value) if type(value) is str else value for key, value in shown.items()}
    shown["packages"] = {package: version for package, version in versions.items() if package != PYTHON}
    resources = {printable(name): amount for name, amount in info.resources.items()}
    shown["resources"] = resources
    worker = WorkerRecord(
        event.peer, event.address, printable(info.name or event.address), info.slots, info.prefetch, shown, now,
        serves=info.serves, place=info.place, versions=versions, python=minor(versions.get(PYTHON)), uid=info.uid,
        resources=amounts_of(resources),
    )  # fmt: skip
    return worker, dict(info.holds), dict(info.ended)
