"""Messages as a liar would make them: valid ones, misplaced ones, and ones that are wrong in a field or a byte.

A liar listens. The numbers, names and ids in what it has been sent, and in what others use, are the ones that it uses
most: so its messages are about tasks that run, blobs that exist and peers that are there.
"""

from __future__ import annotations

import functools
import random
import types
import typing
from typing import Annotated, Any, Union

from minidask.wire import messages as m
from minidask.wire.bounds import Depth, OneOf, Range
from minidask.wire.codec import encode
from minidask.wire.frames import MAGIC, PREFIX, SIZES
from minidask.wire.large import blob_id
from minidask.wire.packing import pack

FROM_CLIENT = (
    m.PutBlob, m.OfferBlob, m.ReleaseBlobs, m.OpenGroup, m.CloseGroup, m.Submit, m.Submit, m.Submit, m.Cancel,
    m.CancelAll, m.Restart, m.Resubmitted, m.Ask, m.FetchChunk, m.Chunk, m.NoBlob, m.ResultTaken, m.RanInline,
    m.Shutdown,
)  # fmt: skip
FROM_WORKER = (
    m.Done, m.Failed, m.Died, m.Stopped, m.GaveBack, m.CallDone, m.CallFailed, m.WantBlobs, m.OfferResult, m.Waiting,
    m.Resumed, m.Output, m.TaskMessage, m.Heartbeat, m.Resized, m.Restarted, m.HaveBlob, m.FetchFailed, m.FetchChunk,
    m.Chunk, m.NoBlob,
)  # fmt: skip
FROM_PEER = (m.FetchChunk, m.Chunk, m.NoBlob)
BY_ROLE: dict[str, tuple[type[Any], ...]] = {"client": FROM_CLIENT, "worker": FROM_WORKER, "peer": FROM_PEER}
ODD_TEXTS = ("", "x", "\x1b[31m", "stdout", "\udc80", "tcp://127.0.0.1:1", "n" * 5000, "3.11.7", "cancelled")
ODD_NUMBERS = (
    0,
    1,
    2,
    3,
    1 << 20,
    1 << 31,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -1,
    -(1 << 63),
)
ODD_SECONDS = (0.0, 1e-3, 1.0, -1.0, 1e308, float("inf"), float("nan"), 5e-324)
KEPT = 64


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


class Liar:
    """Makes messages of one role.

    Args:
        role: "client", "worker" or "peer".
        chance: all randomness.
    """

    def __init__(self, role: str, chance: random.Random) -> None:
        self.role = role
        self._chance = chance
        self._number = 0
        self._groups: list[int] = []
        self._blobs: list[bytes] = []
        self._attempts: list[list[int]] = [[1, 1]]
        self._heard: dict[type, list[Any]] = {int: [1, 2, 3], str: ["f"], bytes: [blob_id([b"x"])]}

    def hear(self, value: Any) -> None:
        """Learn the values in something: a message, or one of its fields."""
        if isinstance(value, m.Run):
            self._attempts = [*self._attempts[1 - KEPT :], [value.task, value.attempt]]
        if isinstance(value, list | tuple):
            for each in list(value)[:20]:
                self.hear(each)
        elif type(value) in self._heard and len(value if type(value) is not int else ()) <= KEPT:
            heard = self._heard[type(value)]
            heard.append(value)
            if len(heard) > KEPT:
                heard.pop(self._chance.randrange(len(heard)))

    def word(self) -> bytes:
        """The bytes of the next message."""
        chance = self._chance
        kinds = BY_ROLE[self.role] if chance.random() < 0.98 else m.CODES
        kind = chance.choice(kinds)
        if kind is m.Shutdown and chance.random() < 0.9:
            kind = m.Submit
        wild = chance.random() < 0.05
        hints = _hints(kind)
        bad = chance.choice(kind._fields) if wild and kind._fields else None
        fields = [
            self._odd() if name == bad and chance.random() < 0.3 else self._value(hints[name], name == bad)
            for name in kind._fields
        ]
        if "attempt" in kind._fields and chance.random() < 0.6 and not wild:
            fields[:2] = chance.choice(self._attempts[-8:])
        if not wild and chance.random() < 0.8:
            self._make_sensible(kind, fields)
        payload = []
        if "payload" in kind._fields:
            fields.pop()
            payload = [
                chance.randbytes(chance.choice((0, 1, 17, 40, 300))) for _ in range(chance.choice((0, 1, 1, 1, 2, 3)))
            ]
        if kind is m.PutBlob and chance.random() < 0.9:
            fields[0] = blob_id(payload)
            self._blobs = [*self._blobs[-3:], fields[0]] if payload else self._blobs
        data = frame(pack([m.CODES.index(kind), *fields]), payload)
        return self._damaged(data) if chance.random() < 0.01 else data

    def _make_sensible(self, kind: type[Any], fields: list[Any]) -> None:
        """Make it what a client of ours could say now: fresh numbers, groups that are open, blobs that it holds."""
        chance = self._chance
        parent = list(chance.choice(self._attempts[-8:])) if chance.random() < 0.6 else []
        if kind is m.Submit:
            self._number += 1
            group = chance.choice([0, *self._groups])
            lease = not parent and chance.random() < 0.1
            fields[0], fields[2] = self._number, chance.randrange(20)
            fields[4:9] = group, None, chance.sample(self._blobs, min(len(self._blobs), 1)), parent, lease
        elif kind is m.OpenGroup:
            self._number += 1
            self._groups = [*self._groups[-3:], self._number]
            fields[:] = self._number, chance.randrange(4), parent
        elif kind is m.Cancel:
            fields[0] = [chance.randrange(self._number + 1)]
        elif kind is m.ReleaseBlobs:
            fields[0], self._blobs = self._blobs[:1], self._blobs[1:]

    def _value(self, hint: Any, bad: bool) -> Any:
        """A value that a field with this annotation may have; or rather not, if it is to be `bad`."""
        chance = self._chance
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (Union, types.UnionType):
            return self._value(chance.choice(arguments), bad)
        if origin is Annotated:
            return self._within(arguments[0], arguments[1], bad)
        if hint == m.Payload:
            return []
        if hasattr(hint, "_fields"):
            hints = _hints(hint)
            return [self._value(hints[name], bad) for name in hint._fields]
        if origin is list:
            return [self._value(arguments[0], bad) for _ in range(chance.choice((0, 1, 1, 2, 5)))]
        if origin is dict:
            return {
                self._value(arguments[0], False): self._value(arguments[1], bad)
                for _ in range(chance.choice((0, 1, 3)))
            }
        if hint is bool:
            return chance.random() < 0.5
        if hint is str:
            return chance.choice((*self._heard[str], *ODD_TEXTS))
        return None

    def _within(self, kind: Any, bound: Any, bad: bool) -> Any:
        chance = self._chance
        if isinstance(bound, OneOf):
            return chance.choice([*map(str, bound.texts)]) if not bad else chance.choice(ODD_TEXTS)
        if isinstance(bound, Depth):
            return {} if not bad else {"a": [[[[[[[[[[0]]]]]]]]]]}
        if isinstance(bound, Range) and kind is int:
            if bad:
                return chance.choice(ODD_NUMBERS)
            known = [number for number in self._heard[int] if bound.low <= number <= bound.high]
            if known and chance.random() < 0.8:
                return chance.choice(known)
            return chance.choice([n for n in ODD_NUMBERS if bound.low <= n <= bound.high] or [int(bound.low)])
        if isinstance(bound, Range):
            fitting = [seconds for seconds in ODD_SECONDS if bound.low <= seconds <= bound.high]
            return chance.choice(ODD_SECONDS if bad else fitting)
        if kind is bytes:
            size = bound.low if not bad else chance.choice((0, 1, 15, 17, 200))
            known = [value for value in self._heard[bytes] if len(value) == size]
            return chance.choice(known) if known and chance.random() < 0.8 else chance.randbytes(size)
        if getattr(bound, "even", False):
            numbers = self._heard[int]
            if not bad and chance.random() < 0.5:
                return chance.choice(self._attempts[-8:])
            return [chance.choice(numbers) for _ in range(chance.choice((0, 2)) if not bad else 3)]
        return self._value(kind, bad)

    def _odd(self) -> Any:
        nested: Any = []
        for _ in range(self._chance.choice((1, 9, 400))):
            nested = [nested]
        return self._chance.choice((None, True, 1.5, "x", b"y", nested, {}, {"a": nested}, 1 << 63))

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(self._chance.choice((1, 1, 3))):
            damaged[self._chance.randrange(len(damaged))] = self._chance.randrange(256)
        return bytes(damaged)


def frame(header: bytes, payload: list[bytes]) -> bytes:
    """A frame, without a look at what is in it."""
    sizes = SIZES[len(payload)].pack(*map(len, payload))
    return b"".join((PREFIX.pack(MAGIC, len(payload), len(header)), sizes, header, *payload))


def honest(message: m.Message) -> bytes:
    """The bytes of a message that is as it should be."""
    return b"".join(map(bytes, encode(message)))
