"""The messages of one call, and their sequence diagram as SVG."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from minidask.wire.messages import Message, Run, Submit, TaskDone, TaskLost, TaskRaised

from .relay import SCHEDULER, Passage, Sighting
from .words import fields_of

KEPT = 1000  # of what came before the call: its data may be among that
MOST_ARROWS = 500
TASK_BITS = 40  # the scheduler's number of a task: the client's key, and below that the client's number
LANE, ROW, TOP, LEFT = 300, 46, 60, 110
WIDEST = 44  # characters of a label


class Arrow(NamedTuple):
    """A message in the diagram. `fields` is all that it holds, as text."""

    at: float
    sender: str
    receiver: str
    name: str
    fields: str
    size: int
    where: str


class CallSequence:
    """Finds the messages of one call among all that are seen.

    Args:
        number: which call: 1 is the first that any client submits.
    """

    def __init__(self, number: int = 1) -> None:
        self.arrows: list[Arrow] = []
        self._left = number
        self._before: collections.deque[tuple[Passage, set[bytes], Arrow]] = collections.deque(maxlen=KEPT)
        self._client: Passage | None = None
        self._submit: Submit | None = None
        self._blobs: set[bytes] = set()
        self._number: int | None = None
        self._settled = False

    def add(self, seen: Sighting, where: str) -> None:
        """Look at a message. `where` says where the protocol's text defines it."""
        message = seen.message
        if message is None:
            return
        arrow = Arrow(seen.at, seen.sender, seen.receiver, type(message).__name__, fields_of(message), seen.size, where)
        if self._submit is None:
            if isinstance(message, Submit) and seen.from_program and not message.lease:
                self._left -= 1
                if not self._left:
                    self._begin(seen.passage, message)
                    self.arrows.append(arrow)
                    return
            self._before.append((seen.passage, _data_of(message), arrow))
        elif len(self.arrows) < MOST_ARROWS and self._is_part(seen.passage, message):
            self.arrows.append(arrow)

    def _begin(self, client: Passage, submit: Submit) -> None:
        self._client, self._submit, self._blobs = client, submit, set(submit.blobs)
        self.arrows = [arrow for passage, data, arrow in self._before if passage is client and data & self._blobs]
        keys = client.info.get("keys")
        if isinstance(keys, list) and keys and isinstance(keys[0], int):
            self._number = keys[0] << TASK_BITS | submit.task

    def _is_part(self, passage: Passage, message: Message) -> bool:
        """Whether a message is about the call, or about data that it needs."""
        assert self._submit is not None
        if passage is self._client:
            if self._settled:
                return False  # the client may use the number again
            task = self._submit.task
            found = getattr(message, "task", None) == task or task in getattr(message, "tasks", ())
            self._settled = found and isinstance(message, TaskDone | TaskRaised | TaskLost)
        elif passage.role == "client":
            return False
        else:
            if self._number is None and isinstance(message, Run) and self._submit.payload == message.payload:
                self._number = message.task  # the client has told no key
            found = self._number is not None and getattr(message, "task", None) == self._number
        if found:
            self._blobs |= _blobs_of(message)
        return found or bool(_data_of(message) & self._blobs)

    def svg(self) -> str:
        """The diagram: a lane for each program, time goes down. Pointing at a message shows all of its fields."""
        return draw(f"One call: {self._submit.name}" if self._submit is not None else "", self.arrows)


def _blobs_of(message: Message) -> set[bytes]:
    one: Any = getattr(message, "blob", None)
    return {*getattr(message, "blobs", ()), *([one] if one is not None else [])}


def _data_of(message: Message) -> set[bytes]:
    """What a message that is about data alone is about. Other tasks may need the same data: they are no part of it."""
    return set() if hasattr(message, "task") else _blobs_of(message)


def draw(title: str, arrows: Iterable[Arrow]) -> str:
    """Draw messages between programs, in their order, as SVG."""
    arrows = list(arrows)
    programs = {name for arrow in arrows for name in (arrow.sender, arrow.receiver)}
    lanes = sorted(programs, key=lambda name: (name.startswith("worker"), name == SCHEDULER, name))
    x = {name: LEFT + LANE // 2 + LANE * i for i, name in enumerate(lanes)}
    width, bottom = LEFT + LANE * max(1, len(lanes)), TOP + ROW * (len(arrows) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 20}" font-family="sans-serif"'
        ' font-size="12">',
        '<defs><marker id="tip" markerWidth="9" markerHeight="8" refX="9" refY="4" orient="auto">'
        '<path d="M0,0 L9,4 L0,8 z"/></marker></defs>',
        f'<rect width="100%" height="100%" fill="white"/><title>{_text(title)}</title>',
    ]
    for name in lanes:
        parts += [
            f'<text x="{x[name]}" y="{TOP - 30}" text-anchor="middle" font-weight="bold">{_text(name)}</text>',
            f'<line x1="{x[name]}" y1="{TOP - 20}" x2="{x[name]}" y2="{bottom}" stroke="#999"/>',
        ]
    for i, arrow in enumerate(arrows):
        y, (start, end) = TOP + ROW * (i + 1), (x[arrow.sender], x[arrow.receiver])
        label = f"{arrow.fields[:WIDEST]}…" if len(arrow.fields) > WIDEST else arrow.fields
        parts += [
            f'<g class="message"><title>{_text(arrow.fields)}</title>',
            f'<text x="10" y="{y}" fill="#555">{1000 * (arrow.at - arrows[0].at):.1f} ms</text>',
            f'<text x="{(start + end) / 2}" y="{y - 18}" text-anchor="middle" font-weight="bold">{_text(arrow.name)}'
            f'<tspan font-weight="normal" fill="#555"> {arrow.size} B, {_text(arrow.where)}</tspan></text>',
            f'<text x="{(start + end) / 2}" y="{y - 5}" text-anchor="middle" font-size="10">{_text(label)}</text>',
            f'<line x1="{start}" y1="{y}" x2="{end}" y2="{y}" stroke="black" marker-end="url(#tip)"/></g>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def _text(text: str) -> str:
    """Text for XML, which has no form at all for most characters that do not print."""
    return escape("".join(c if c.isprintable() else "�" for c in text))
