"""The checks of a scheduler: the kit is its clients and its workers."""

from __future__ import annotations

import socket
import time
from typing import Any

from minidask._version import __version__
from minidask.errors import MinidaskError
from minidask.wire import messages as m
from minidask.wire.handshake import NONCE_BYTES, PROTOCOL
from minidask.wire.large import CHUNK_BYTES, OUT_OF_BAND_BYTES, blob_id
from minidask.wire.messages import OUTLIVES
from minidask.wire.observing import Events, Explain, Subscribe
from minidask.wire.packing import unpack

from .checks import Checks, Differs, expect, expect_refusal
from .crowd import (
    PYTHON,
    SECONDS,
    SchedulerStage,
    done,
    expect_goodbye,
    expect_quiet,
    expect_task_lost,
    submit,
)
from .peer import Peer, handshake_frame

CHECKS = Checks()
HANDSHAKE_SECONDS = 5.0
OUTCOMES = (m.TaskDone, m.TaskRaised, m.TaskLost)
PAYLOAD: m.Payload = [b"a pickle", b"beside it" * OUT_OF_BAND_BYTES]


# --- the handshake ---


@CHECKS("Handshake")
def welcome(stage: SchedulerStage) -> None:
    """challenge with a right proof, and a welcome with version and heartbeat_timeout."""
    found = stage.client().peer_info
    expect(isinstance(found.get("version"), str), f"the welcome was {found}")
    expect(isinstance(found.get("heartbeat_timeout"), float | int), f"the welcome was {found}")


@CHECKS("Handshake")
def wrong_proof(stage: SchedulerStage) -> None:
    """a proof of another secret is answered by refuse, "authentication"."""
    peer = stage.connect()
    peer.say_bytes(handshake_frame("hello", PROTOCOL, __version__, "client", bytes(NONCE_BYTES)))
    peer.next_frame()
    peer.say_bytes(handshake_frame("proof", bytes(32), b"\x92\xa4info\x80"))
    expect_refusal(peer, "authentication")


@CHECKS("Handshake")
def another_protocol(stage: SchedulerStage) -> None:
    """another protocol version is answered by refuse, "version", whatever else the hello holds."""
    peer = stage.connect()
    peer.say_bytes(handshake_frame("hello", PROTOCOL + 1, "99.0", "client", bytes(NONCE_BYTES), "more"))
    expect_refusal(peer, "version")


@CHECKS("Handshake")
def another_role(stage: SchedulerStage) -> None:
    """a role that there is not is answered by refuse, "protocol"."""
    peer = stage.connect()
    peer.say_bytes(handshake_frame("hello", PROTOCOL, __version__, "king", bytes(NONCE_BYTES)))
    expect_refusal(peer, "protocol")


@CHECKS("Handshake")
def deadline(stage: SchedulerStage) -> None:
    """a connection without a handshake ends after 5 seconds."""
    peer = stage.connect()
    began = time.monotonic()
    expect(peer.is_closed(SECONDS), "it is still open")
    took = time.monotonic() - began
    expect(took > HANDSHAKE_SECONDS - 1.5, f"it was closed after {took:.1f} seconds")


@CHECKS("Handshake")
def keys_of_later_versions(stage: SchedulerStage) -> None:
    """what it does not know of an info it ignores."""
    worker = stage.worker(of_a_later_version=[{"x": 1}])
    client = stage.client(of_a_later_version=b"x")
    client.wait_for(m.Workers)
    client.say(submit(1))
    worker.wait_for(m.Run)


@CHECKS("Frames")
def header_limit(stage: SchedulerStage) -> None:
    """a header of more than 4 KiB before authentication ends the connection."""
    peer = stage.connect()
    peer.say_bytes(b"mD\0\0" + (5000).to_bytes(4, "little"))
    expect(peer.is_closed(HANDSHAKE_SECONDS - 1), "it is still open")


@CHECKS("Frames")
def no_buffers_before_authentication(stage: SchedulerStage) -> None:
    """a buffer before authentication ends the connection."""
    peer = stage.connect()
    peer.say_bytes(b"mD\1\0" + (10).to_bytes(4, "little") + (1).to_bytes(8, "little"))
    expect(peer.is_closed(HANDSHAKE_SECONDS - 1), "it is still open")


@CHECKS("Encryption")
def certificate(stage: SchedulerStage) -> None:
    """it shows the certificate of the secret, and accepts no other one."""
    stage.connect()
    try:
        peer = Peer.connect(stage.at, stage.strangers)
    except (OSError, MinidaskError):
        return
    closed = peer.is_closed(HANDSHAKE_SECONDS - 1)
    peer.close()
    raise Differs("both certificates were taken" + " at first" * closed)


@CHECKS("Encryption", "full")
def not_encrypted(stage: SchedulerStage) -> None:
    """who does not encrypt gets a refuse that is not encrypted."""
    stage.connect()
    with socket.create_connection((stage.at.host, stage.at.port), SECONDS) as sock:
        peer = Peer(sock, None)
        peer.say_bytes(handshake_frame("hello", PROTOCOL, __version__, "client", bytes(NONCE_BYTES)))
        expect(peer.refusal() in ("authentication", "protocol", "version"), "no refuse came")


@CHECKS("Frames", "full")
def http(stage: SchedulerStage) -> None:
    """an HTTP request gets an answer of HTTP."""
    stage.connect()
    with socket.create_connection((stage.at.host, stage.at.port), SECONDS) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        found = sock.recv(100)
    expect(found.startswith(b"HTTP/1.0 400"), f"the answer was {found!r}")


# --- workers ---


@CHECKS("Scheduler to client")
def workers(stage: SchedulerStage) -> None:
    """Workers is the first message to a client, and has all of them."""
    stage.worker(2, name="alpha", packages={"numpy": "2.0"})
    first = stage.client().next()
    expect(isinstance(first, m.Workers), f"the first was {first}")
    rows = [tuple(row)[1:] for row in getattr(first, "workers", [])]
    expect(rows == [("alpha", 2, {"python": PYTHON, "numpy": "2.0"})], f"the workers were {rows}")


@CHECKS("Scheduler to client")
def worker_changed(stage: SchedulerStage) -> None:
    """WorkerChanged tells of a worker that joins, has other slots, and leaves."""
    client = stage.client()
    worker = stage.worker(2, name="alpha")
    joined = client.wait_for(m.WorkerChanged)
    expect(joined[1:3] == ("alpha", 2), f"it said {joined}")
    worker.say(m.Resized(1))
    resized = client.wait_for(m.WorkerChanged)
    expect(resized[:3] == (joined.address, "alpha", 1), f"it said {resized}")
    worker.close()
    left = client.wait_for(m.WorkerChanged)
    expect((left.address, left.slots) == (joined.address, None), f"it said {left}")


@CHECKS("Worker to scheduler")
def heartbeat(stage: SchedulerStage) -> None:
    """Heartbeat comes within heartbeat_timeout seconds, with the number of messages received."""
    worker = stage.worker()
    worker.say(m.Heartbeat(0, 0), m.Heartbeat(0, 0))
    limit = float(worker.peer_info["heartbeat_timeout"])
    found = worker.wait_for(m.Heartbeat, limit)
    expect((found.memory, found.received) == (0, 2), f"it said {found} after two messages")


@CHECKS("Worker to scheduler", "full")
def silent_worker(stage: SchedulerStage) -> None:
    """a worker from which no byte comes for heartbeat_timeout seconds is lost."""
    client = stage.client()
    limit = float(client.peer_info["heartbeat_timeout"])
    stage.worker()
    client.wait_for(m.WorkerChanged)
    left = client.wait_for(m.WorkerChanged, limit + SECONDS)
    expect(left.slots is None, f"it said {left}")


# --- a task ---


@CHECKS("Client to scheduler")
def run(stage: SchedulerStage) -> None:
    """Submit leads to Run, with name, timeout and payload as submitted."""
    worker, client = stage.pair()
    client.say(submit(7, name="\udcffname", timeout=30.0, payload=PAYLOAD))
    found = worker.wait_for(m.Run)
    expect(found.name == "\udcffname" and found.timeout == 30.0, f"it was {found[:5]}")
    expect([bytes(buffer) for buffer in found.payload] == PAYLOAD, "the payload was another one")
    expect(found.host == 0 and not found.lease, f"host and lease were {found[6:8]}")


@CHECKS("Scheduler to client")
def task_done(stage: SchedulerStage) -> None:
    """Done leads to TaskDone, with the client's number, duration, the worker's name and the payload."""
    worker, client = stage.pair()
    client.say(submit(7))
    ran = worker.wait_for(m.Run)
    worker.say(m.Done(ran.task, ran.attempt, 0.5, [*PAYLOAD]))
    found = client.wait_for(m.TaskDone)
    expect((found.task, found.duration) == (7, 0.5) and found.worker.startswith("worker"), f"it was {found[:3]}")
    expect([bytes(buffer) for buffer in found.payload] == PAYLOAD, "the payload was another one")


@CHECKS("Scheduler to client")
def task_raised(stage: SchedulerStage) -> None:
    """Failed leads to TaskRaised, with the traceback and the payload, and the task is not tried again."""
    worker, client = stage.pair()
    client.say(submit(7))
    ran = worker.wait_for(m.Run)
    worker.say(m.Failed(ran.task, ran.attempt, 0.5, "a traceback", [b"a pair"]))
    found = client.wait_for(m.TaskRaised)
    expect((found.task, found.traceback, bytes(found.payload[0])) == (7, "a traceback", b"a pair"), f"it was {found}")
    expect_quiet(worker, m.Run)


@CHECKS("Messages")
def int_for_float(stage: SchedulerStage) -> None:
    """an integer goes for a float."""
    worker, client = stage.pair()
    client.say(submit(7, timeout=30))
    ran = worker.wait_for(m.Run)
    worker.say(m.Done(ran.task, ran.attempt, 0, [b"the result"]))
    client.wait_for(m.TaskDone)


@CHECKS("What happens when")
def three_deaths(stage: SchedulerStage) -> None:
    """a task whose process dies is tried again; after the third death it is lost, "killed"."""
    worker, client = stage.pair()
    client.say(submit(7))
    attempts = []
    for _ in range(3):
        ran = worker.wait_for(m.Run)
        attempts.append(ran.attempt)
        worker.say(m.Died(ran.task, ran.attempt, "signal 9", ""))
    expect_task_lost(client, 7, "killed")
    expect(attempts == sorted(set(attempts)), f"the attempts were {attempts}")
    expect_quiet(worker, m.Run)


@CHECKS("What happens when")
def lost_worker(stage: SchedulerStage) -> None:
    """what a lost worker ran runs elsewhere."""
    first, client = stage.pair()
    client.say(submit(7))
    ran = first.wait_for(m.Run)
    second = stage.worker()
    first.close()
    again = second.wait_for(m.Run)
    expect(again.attempt > ran.attempt, f"its attempt was {again.attempt}, after {ran.attempt}")
    second.say(done(again))
    expect(client.wait_for(m.TaskDone).task == 7, "another task was done")


@CHECKS("Worker to scheduler")
def stale(stage: SchedulerStage) -> None:
    """what a worker says of an attempt that is not the current one is dropped."""
    worker, client = stage.pair()
    client.say(submit(7))
    ran = worker.wait_for(m.Run)
    worker.say(m.Died(ran.task, ran.attempt, "signal 9", ""))
    again = worker.wait_for(m.Run)
    worker.say(m.Failed(ran.task, ran.attempt, 0.5, "stale", [b"stale"]), done(again))
    found = client.wait_for(OUTCOMES)
    expect(isinstance(found, m.TaskDone), f"it said {found}")
    expect_quiet(client, *OUTCOMES)


@CHECKS("What happens when")
def time_limit(stage: SchedulerStage) -> None:
    """Stopped with the reason "timeout" leads to TaskLost with that reason."""
    worker, client = stage.pair()
    client.say(submit(7, timeout=0.5))
    ran = worker.wait_for(m.Run)
    worker.say(m.Stopped(ran.task, ran.attempt, m.Reason.TIMEOUT, "its time is up"))
    expect_task_lost(client, 7, "timeout")


@CHECKS("What happens when")
def gave_back(stage: SchedulerStage) -> None:
    """a task that was given back runs again, and no such attempt counts as a death."""
    worker, client = stage.pair()
    client.say(submit(7))
    for _ in range(4):
        ran = worker.wait_for(m.Run)
        worker.say(m.GaveBack(ran.task, ran.attempt))
    worker.say(done(worker.wait_for(m.Run)))
    client.wait_for(m.TaskDone)


@CHECKS("What happens when")
def no_data(stage: SchedulerStage) -> None:
    """Stopped with the reason "no-data" leads to another attempt."""
    worker, client = stage.pair()
    client.say(submit(7))
    ran = worker.wait_for(m.Run)
    worker.say(m.Stopped(ran.task, ran.attempt, m.NO_DATA, "for a test"))
    again = worker.wait_for(m.Run)
    expect(again.attempt > ran.attempt, f"its attempt was {again.attempt}, after {ran.attempt}")


@CHECKS("Handshake")
def slots(stage: SchedulerStage) -> None:
    """a worker without prefetch has no more Runs than slots, and gets the next one when one is over."""
    worker, client = stage.pair(slots=2)
    client.say(*(submit(number) for number in range(1, 5)))
    first, _ = worker.wait_for(m.Run), worker.wait_for(m.Run)
    expect_quiet(worker, m.Run)
    worker.say(done(first))
    worker.wait_for(m.Run)
    expect_quiet(worker, m.Run)


@CHECKS("Worker to scheduler")
def no_slots(stage: SchedulerStage) -> None:
    """a worker that has resized itself to 0 gets no Run."""
    worker, client = stage.pair()
    worker.say(m.Resized(0))
    client.wait_for(m.WorkerChanged)
    client.say(submit(1))
    expect_quiet(worker, m.Run)
    worker.say(m.Resized(1))
    worker.wait_for(m.Run)


@CHECKS("Client to scheduler")
def priority(stage: SchedulerStage) -> None:
    """of the tasks that wait, one with a higher priority begins first, and equal ones in their order."""
    worker, client = stage.pair()
    client.say(submit(1))
    ran = worker.wait_for(m.Run)
    client.say(submit(2), submit(3), submit(4, priority=5), m.Ask(1))
    client.wait_for(m.Answer)  # now it has all
    order = []
    for _ in range(3):
        worker.say(done(ran))
        ran = worker.wait_for(m.Run)
        order.append(ran.name)
    expect(order == ["task 4", "task 2", "task 3"], f"the order was {order}")


@CHECKS("Client to scheduler")
def group_limit(stage: SchedulerStage) -> None:
    """of a group with a limit so many tasks run at once, and others are not held up by it."""
    worker, client = stage.pair(slots=3)
    client.say(m.OpenGroup(9, 1, []), submit(1, group=9), submit(2, group=9), submit(3))
    names = {(first := worker.wait_for(m.Run)).name, (second := worker.wait_for(m.Run)).name}
    expect(names == {"task 1", "task 3"}, f"{names} began")
    expect_quiet(worker, m.Run)
    worker.say(done(first if first.name == "task 1" else second))
    expect(worker.wait_for(m.Run).name == "task 2", "another task began")


@CHECKS("Resources")
def lacking_resources(stage: SchedulerStage) -> None:
    """a task that needs what no worker has does not begin, and holds up no other one."""
    worker, client = stage.pair()
    client.say(submit(1, resources={"gpu": 1.0}), submit(2))
    ran = worker.wait_for(m.Run)
    expect(ran.name == "task 2", f"{ran.name} began")
    worker.say(done(ran))
    expect_quiet(worker, m.Run)


@CHECKS("Resources", "full")
def resources(stage: SchedulerStage) -> None:
    """a task begins where its resources are free, and holds them until it is over; others go past it."""
    worker = stage.worker(3, resources={"gpu": 1})
    client = stage.client()
    client.wait_for(m.Workers)
    client.say(submit(1, resources={"gpu": 0.6}), submit(2, resources={"gpu": 0.5}), submit(3))
    first, second = worker.wait_for(m.Run), worker.wait_for(m.Run)
    expect([first.name, second.name] == ["task 1", "task 3"], f"{first.name} and {second.name} began")
    expect_quiet(worker, m.Run)
    worker.say(done(second))
    expect_quiet(worker, m.Run)
    worker.say(m.Died(first.task, first.attempt, "signal 9", ""))
    name = worker.wait_for(m.Run).name
    expect(name in ("task 1", "task 2"), f"{name} began")
    expect_quiet(worker, m.Run)


@CHECKS("Client to scheduler")
def cancel_what_waits(stage: SchedulerStage) -> None:
    """a task that waits and is cancelled never begins, and has no result."""
    worker, client = stage.pair()
    client.say(submit(1), submit(2), submit(3), m.Cancel([2], False))
    names = []
    for _ in range(2):
        ran = worker.wait_for(m.Run)
        names.append(ran.name)
        worker.say(done(ran))
    expect(names == ["task 1", "task 3"], f"{names} began")
    expect_quiet(worker, m.Run)


@CHECKS("Client to scheduler")
def cancel_what_runs(stage: SchedulerStage) -> None:
    """Cancel with force stops a task that runs; Done that crosses it is dropped, and the slot serves the next one."""
    worker, client = stage.pair()
    client.say(submit(1), submit(2))
    ran = worker.wait_for(m.Run)
    client.say(m.Cancel([1], True))
    found = worker.wait_for(m.Stop)
    expect(found == (ran.task, ran.attempt), f"it said {found}")
    worker.say(done(ran))
    again = worker.wait_for(m.Run)
    worker.say(done(again))
    expect(client.wait_for(m.TaskDone).task == 2, "the cancelled task was done")


@CHECKS("Client to scheduler")
def client_leaves(stage: SchedulerStage) -> None:
    """when a client disconnects, its tasks are stopped, and those of others go on."""
    worker, client = stage.pair()
    client.say(submit(1), submit(2))
    ran = worker.wait_for(m.Run)
    other = stage.client()
    other.say(submit(1, name="other"))
    client.close()
    expect(worker.wait_for(m.Stop) == (ran.task, ran.attempt), "another attempt was stopped")
    worker.say(m.Stopped(ran.task, ran.attempt, m.Reason.CANCELLED, ""))
    expect(worker.wait_for(m.Run).name == "other", "a task of the client that has left began")


@CHECKS("Scheduler to client")
def output(stage: SchedulerStage) -> None:
    """Output goes to the client that the Run names, as TaskOutput."""
    worker, client = stage.pair()
    client.say(submit(1))
    ran = worker.wait_for(m.Run)
    worker.say(m.Output(ran.client, 0, "stderr", "a line\n"))
    found = client.wait_for(m.TaskOutput)
    expect(found[1:] == ("stderr", "a line\n"), f"it was {found}")


@CHECKS("Client to scheduler")
def ask(stage: SchedulerStage) -> None:
    """Ask is answered by Answer with its number."""
    _, client = stage.pair()
    client.say(m.Ask(5))
    found = client.wait_for(m.Answer)
    expect(found.request == 5 and found.info, f"it was {found}")


# --- data ---


@CHECKS("Scheduler to worker")
def blob(stage: SchedulerStage) -> None:
    """PutBlob goes to a worker once, before the first Run that needs it."""
    worker, client = stage.pair(slots=2)
    name = blob_id([b"data"])
    client.say(m.PutBlob(name, [b"data"]), submit(1, blobs=[name]), submit(2, blobs=[name]))
    seen = [message for message in (worker.next() for _ in range(4)) if not isinstance(message, m.Heartbeat)][:3]
    kinds = [type(message).__name__ for message in seen]
    expect(kinds == ["PutBlob", "Run", "Run"], f"there came {kinds}")
    expect(seen[1].blobs == [name], f"the Run had {seen[1]}")  # type: ignore[union-attr]


@CHECKS("Large data, chunk by chunk")
def offered_blob(stage: SchedulerStage) -> None:
    """OfferBlob leads to NeedBlob; FetchChunk goes on to the client with a peer, and its Chunk back with peer 0."""
    worker, client = stage.pair()
    data = b"x" * (CHUNK_BYTES + 10)
    name = blob_id([data])
    client.say(m.OfferBlob(name, len(data), ""), submit(1, blobs=[name]))
    need = worker.wait_for(m.NeedBlob)
    expect((need.blob, need.size, need.source) == (name, len(data), ""), f"it said {need}")
    worker.say(m.FetchChunk(name, CHUNK_BYTES, 10, 0))
    asked = client.wait_for(m.FetchChunk)
    expect(asked[:3] == (name, CHUNK_BYTES, 10) and asked.peer, f"it asked for {asked}")
    client.say(m.Chunk(name, CHUNK_BYTES, asked.peer, [data[CHUNK_BYTES:]]))
    chunk = worker.wait_for(m.Chunk)
    expect(chunk[:3] == (name, CHUNK_BYTES, 0) and bytes(chunk.payload[0]) == data[CHUNK_BYTES:], f"it was {chunk}")
    worker.say(m.HaveBlob(name))


@CHECKS("Large data, chunk by chunk")
def blob_that_is_gone(stage: SchedulerStage) -> None:
    """FetchFailed is answered by NeedBlob or BlobLost."""
    worker, client = stage.pair()
    name = blob_id([b"gone"])
    client.say(m.OfferBlob(name, CHUNK_BYTES, ""), submit(1, blobs=[name]))
    worker.wait_for(m.NeedBlob)
    worker.say(m.FetchFailed(name, "", "for a test"))
    worker.wait_for((m.NeedBlob, m.BlobLost))


@CHECKS("Large results")
def large_result(stage: SchedulerStage) -> None:
    """OfferResult leads to ResultOffered; FetchChunk, Chunk and ResultTaken pass between that client and worker."""
    worker, client = stage.pair()
    client.say(submit(7))
    ran = worker.wait_for(m.Run)
    name = b"a large result.."
    worker.say(m.OfferResult(ran.task, ran.attempt, name, 4))
    offered = client.wait_for(m.ResultOffered)
    expect(offered[:3] == (7, name, 4), f"it said {offered}")
    client.say(m.FetchChunk(name, 0, 4, offered.peer))
    asked = worker.wait_for(m.FetchChunk)
    expect(asked[:3] == (name, 0, 4), f"it asked for {asked}")
    worker.say(m.Chunk(name, 0, asked.peer, [b"data"]))
    chunk = client.wait_for(m.Chunk)
    expect(chunk[:3] == (name, 0, offered.peer) and bytes(chunk.payload[0]) == b"data", f"it was {chunk}")
    client.say(m.ResultTaken(name, offered.peer))
    expect(worker.wait_for(m.ResultTaken) == (name, 0), "ResultTaken named another one")
    worker.say(m.Done(ran.task, ran.attempt, 0.5, [b"pickle", name + b"w"]))
    client.wait_for(m.TaskDone)


@CHECKS("Scheduler to worker", "full")
def released_blob(stage: SchedulerStage) -> None:
    """ReleaseBlobs goes to the worker when neither the client nor a task needs the blob."""
    worker, client = stage.pair()
    name = blob_id([b"data"])
    client.say(m.PutBlob(name, [b"data"]), submit(1, blobs=[name]), m.ReleaseBlobs([name]))
    ran = worker.wait_for(m.Run)
    expect_quiet(worker, m.ReleaseBlobs)
    worker.say(done(ran))
    expect(worker.wait_for(m.ReleaseBlobs).blobs == [name], "it named another blob")


# --- what breaks the rules ---


@CHECKS("Messages")
def no_message(stage: SchedulerStage) -> None:
    """a header that is no message is answered by Goodbye with the reason, and others go on."""
    worker, client = stage.pair()
    other = stage.client()
    other.say_bytes(handshake_frame(4, 1))
    expect_goodbye(other)
    client.say(submit(1))
    worker.wait_for(m.Run)


@CHECKS("Messages", "full")
def unknown_code(stage: SchedulerStage) -> None:
    """an unknown code is answered by Goodbye."""
    client = stage.client()
    client.say_bytes(handshake_frame(9999))
    expect_goodbye(client)


@CHECKS("Messages", "full")
def not_for_a_client(stage: SchedulerStage) -> None:
    """a message that its sender may not send is answered by Goodbye."""
    client = stage.client()
    client.say(m.Heartbeat(0, 0), m.Done(1, 1, 0.5, [b"x"]))
    expect_goodbye(client)


@CHECKS("Messages", "full")
def impossible_values(stage: SchedulerStage) -> None:
    """an impossible value is answered by Goodbye."""
    for broken in (submit(-1), submit(1, timeout=0.0), submit(1, parent=[1]), m.OfferBlob(bytes(16), 0, "")):
        client = stage.client()
        client.say(broken)
        expect_goodbye(client)


@CHECKS("Client to scheduler", "full")
def shutdown(stage: SchedulerStage) -> None:
    """Shutdown is answered by Goodbye, unless the welcome has said shutdown."""
    client = stage.client()
    if not client.peer_info.get("shutdown"):
        client.say(m.Shutdown())
        expect_goodbye(client)


# --- more of a full scheduler ---


@CHECKS("Scheduler to client", "full")
def another_python(stage: SchedulerStage) -> None:
    """a task goes only to workers of its client's Python; if there is none, it is lost, "version"."""
    stage.worker(python="3.99.1")
    client = stage.client()
    client.wait_for(m.Workers)
    client.say(submit(1))
    expect_task_lost(client, 1, "version")


@CHECKS("Client to scheduler", "full")
def pin(stage: SchedulerStage) -> None:
    """a task with a pin runs on that worker alone, and is lost with it."""
    stage.worker()
    client = stage.client()
    client.wait_for(m.Workers)
    second = stage.worker()
    address = client.wait_for(m.WorkerChanged).address
    client.say(submit(1, pin=address), submit(2, pin=address))
    second.wait_for(m.Run)
    second.close()
    reasons = {client.wait_for(m.TaskLost).reason for _ in range(2)}
    expect(reasons == {"worker-left"}, f"the reasons were {reasons}")


@CHECKS("Everything of a client", "full")
def cancel_all(stage: SchedulerStage) -> None:
    """CancelAll is answered by TaskLost for each task, and stops those that run."""
    worker, client = stage.pair()
    client.say(submit(1), submit(2))
    ran = worker.wait_for(m.Run)
    client.say(m.CancelAll(True))
    lost = {(found.task, found.reason) for found in (client.wait_for(m.TaskLost) for _ in range(2))}
    expect(lost == {(1, "cancelled"), (2, "cancelled")}, f"it said {lost}")
    expect(worker.wait_for(m.Stop) == (ran.task, ran.attempt), "another attempt was stopped")


@CHECKS("Client to scheduler", "full")
def restart(stage: SchedulerStage) -> None:
    """Restart goes to all workers, and is answered when all have said Restarted."""
    worker, client = stage.pair()
    other = stage.worker()
    client.say(m.Restart(5))
    for each in (worker, other):
        expect_quiet(client, m.Answer)
        each.say(m.Restarted(each.wait_for(m.Restart).request))
    expect(client.wait_for(m.Answer) == (5, {}), "the answer was another one")


@CHECKS("Client to scheduler", "full")
def explain(stage: SchedulerStage) -> None:
    """Explain is answered by a text, why."""
    _, client = stage.pair()
    client.say(submit(1), submit(2), Explain(5, 2, True))
    found = client.wait_for(m.Answer)
    expect(found.request == 5 and isinstance(found.info.get("why"), str), f"it was {found}")


@CHECKS("Events", "full")
def events(stage: SchedulerStage) -> None:
    """Subscribe is answered by Events that begin with a snapshot, and then have what happens."""
    worker, client = stage.pair()
    client.say(Subscribe(True))
    kinds = [row[0] for row in rows(client.wait_for(Events))]
    expect(kinds[:1] == ["snapshot"], f"the rows were {kinds}")
    client.say(submit(1))
    worker.say(done(worker.wait_for(m.Run)))
    seen: list[str] = []
    while "ended" not in seen:
        seen += [row[0] for row in rows(client.wait_for(Events))]
    found = [kind for kind in seen if kind in ("submitted", "started", "ended")]
    expect(found == ["submitted", "started", "ended"], f"the rows were {seen}")


def rows(message: Events) -> list[Any]:
    """The rows of Events."""
    return list(unpack(bytes(message.payload[0])))


@CHECKS("Tasks within tasks", "full")
def children(stage: SchedulerStage) -> None:
    """a task that a task submits runs; when the attempt of the parent is over, it is lost, "cancelled", and stopped."""
    worker = stage.worker(2, uid="uid of children")
    client = stage.client()
    client.say(submit(1))
    parent = worker.wait_for(m.Run)
    inner = stage.client(nested=True, slot_of="uid of children")
    inner.say(submit(1, name="nobody's child", parent=[parent.task + 1, 1]))
    expect_task_lost(inner, 1, "no-parent")
    inner.say(submit(2, name="child", parent=[parent.task, parent.attempt]))
    child = worker.wait_for(m.Run)
    expect(child.name == "child", f"{child.name} began")
    worker.say(done(parent))
    expect_task_lost(inner, 2, "cancelled")
    expect(worker.wait_for(m.Stop) == (child.task, child.attempt), "another attempt was stopped")


@CHECKS("What a task tells its caller", "full")
def caller_messages(stage: SchedulerStage) -> None:
    """TaskMessage goes to the client as CallerMessage, in order, before the outcome."""
    worker, client = stage.pair()
    client.say(submit(1))
    ran = worker.wait_for(m.Run)
    texts = [b"one", b"two"]
    worker.say(*(m.TaskMessage(ran.task, ran.attempt, "a channel", [text]) for text in texts), done(ran))
    found = []
    while not isinstance(message := client.next(), m.TaskDone):
        found += [bytes(message.payload[0])] if isinstance(message, m.CallerMessage) else []
    expect(found == texts, f"there came {found}")


@CHECKS("The call queue", "full")
def lease(stage: SchedulerStage) -> None:
    """a lease whose slot dies is not tried again: TaskLost, "killed"."""
    worker, client = stage.pair()
    client.say(m.OpenGroup(9, 0, []), submit(1, group=9, lease=True))
    ran = worker.wait_for(m.Run)
    expect(ran.lease, "the Run is no lease")
    worker.say(m.Died(ran.task, ran.attempt, "signal 9", ""))
    expect_task_lost(client, 1, "killed")


@CHECKS("A lost scheduler", "full")
def adopted(stage: SchedulerStage) -> None:
    """an attempt that a worker holds, and whose client submits the task again, goes on: Adopted, no Run."""
    key = 12345
    number = key * OUTLIVES + 7
    worker = stage.worker(holds=[[number, 1]])
    client = stage.client(keys=[54321, key], uid="uid of adopted")
    client.wait_for(m.Workers)
    client.say(submit(7), m.Resubmitted())
    expect(worker.wait_for(m.Adopted)[:2] == (number, 1), "another attempt was adopted")
    worker.say(m.Done(number, 1, 0.5, [b"the result"]))
    expect(client.wait_for(m.TaskDone).task == 7, "another task was done")
    expect_quiet(worker, m.Run)


@CHECKS("A lost scheduler", "full")
def held_for_nobody(stage: SchedulerStage) -> None:
    """what a worker holds, and its client does not submit, is stopped with Resubmitted."""
    key = 23456
    worker = stage.worker(holds=[[key * OUTLIVES + 7, 1]])
    client = stage.client(keys=[65432, key], uid="uid of held for nobody")
    client.say(m.Resubmitted())
    expect(worker.wait_for(m.Stop) == (key * OUTLIVES + 7, 1), "another attempt was stopped")
