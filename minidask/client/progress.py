"""Progress bars: a thin shell around tqdm, which is loaded only when a bar is asked for.

    CallCounts of a `Parallel` run ──────┐
    CallCounts of futures ───────────────┼─► Tally ─► a thread, four times a second ─► tqdm
    the scheduler's answers ─► _Answers ─┘

Those who count do not know of bars: a bar's thread reads their counts when it draws, without a lock. So a terminal that
is stopped holds up nobody but that thread.

The client counts what it submits. It knows more than the scheduler: which of its calls are in the block that a bar is
for, what was cancelled, what could not be pickled or unpickled, and how things stood when the scheduler was lost. The
scheduler is asked for the rest: how many calls run now, and how many nested ones there are. It is asked again when it
has answered, four times a second at most, and only while a bar is shown.

Calls of less than a second that follow one another share one line. A line each would push everything else off the
screen, and where such a series ends nobody can say before the `with` block does.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from minidask.client.glance import importing
from minidask.client.interrupts import INTERRUPT_SECONDS
from minidask.client.state import ClusterState
from minidask.client.tally import BarText, CallCounts, SchedulerCounts, Tally, counts_of_asker, since
from minidask.errors import MinidaskError
from minidask.host.forks import Layer, on_fork
from minidask.host.signals import Uninterrupted, start, suppress

if TYPE_CHECKING:
    from minidask.client.eventreader import EventReader
    from minidask.client.future import Future
    from minidask.client.shell import ClientShell

DRAW_SECONDS = 0.25
SHORT_SECONDS = 1.0
LAST_WORD_SECONDS = 0.5
SLOW_SECONDS = 1.0
"""If nothing is over after so long, it is looked why."""


class Bar:
    """One line on the screen. It is drawn while there are counts that have begun and not ended.

    Args:
        gathers: whether calls that follow one another share the line as long as each takes less than a second. The
            line is then off the screen between them, and stays there from `release` on.

    Raises:
        MinidaskError: tqdm is not installed.
    """

    def __init__(self, gathers: bool = False) -> None:
        self._tqdm_class = _load_tqdm()
        self._gathers = gathers
        self._tally = Tally()
        self._life = threading.RLock()  # held while counts begin and end; never by the thread that draws
        self._open = 0
        self._ended_well = True
        self._began = 0.0  # on tqdm's clock, which may jump; the others do not
        self._line_began = self._stretch_began = self._drawn_at = 0.0
        self._name = ""
        self._answers: _Answers | None = None
        self._imports: _Imports | None = None
        self._bar: Any = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        _bars.add(self)

    def begin(self, shell: ClientShell, counts: CallCounts, name: str = "") -> None:
        """Show some counts, until `end` is called with them.

        Args:
            shell: the client that submits the calls.
            counts: they go on changing while the bar shows them.
            name: is shown before the bar; empty: the name of the calls before.
        """
        with self._life:
            self._open += 1
            self._name = name or self._name
            if self._open == 1:
                self._stretch_began = time.monotonic()
                if not self._tally:
                    self._began, self._line_began = time.time(), self._stretch_began
                    self._answers, self._imports = _Answers(shell), _Imports(shell)
                self._end = threading.Event()
                self._thread = threading.Thread(target=self._draw_until_the_end, name="minidask-progress", daemon=True)
                start(self._thread)
            self._tally.open(counts)

    def end(self, counts: CallCounts, ended_well: bool) -> None:
        """Note that these counts change no more; the bar is drawn a last time if they were the last ones."""
        with Uninterrupted(), self._life:
            self._tally.close(counts, ended_well)
            self._open -= 1
            self._ended_well &= ended_well
            if not self._open:
                self._pause()

    def release(self) -> None:
        """Stop gathering calls on this line, and leave it on the screen."""
        self._gathers = False
        # Garbage collection may lead here from any thread, also from one that the holder of the lock waits for.
        if self._pid == os.getpid() and self._life.acquire(blocking=False):
            try:
                if not self._open:
                    self._leave()
            finally:
                self._life.release()

    def _pause(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        short = time.monotonic() - self._stretch_began < SHORT_SECONDS
        if not (self._gathers and short and self._ended_well):
            self._leave()
        elif self._bar is not None:
            self._bar.clear()

    def _leave(self) -> None:
        """Leave the last state on the screen, and begin anew."""
        if self._tally:
            assert self._answers is not None
            self._answers.wait_for_last()
            self._draw(last=True)
        self._bar = None
        self._tally = Tally()
        self._ended_well = True

    # --- drawing ---

    def _draw_until_the_end(self) -> None:
        while not self._end.wait(max(0.0, max(self._line_began, self._drawn_at) + DRAW_SECONDS - time.monotonic())):
            assert self._answers is not None
            self._answers.follow()
            self._draw()
        if self._imports is not None:
            self._imports.close()

    def _draw(self, last: bool = False) -> None:
        assert self._answers is not None
        self._drawn_at = time.monotonic()
        text = self._tally.text(self._answers.latest)
        if self._imports is not None and not last and (imports := self._imports.note(text.over)):
            text = text._replace(note=", ".join(filter(None, (text.note, imports))))
        if sys.stderr is None or self._pid != os.getpid():
            return
        with suppress(Exception):  # the screen is gone, or is an object of the caller's: no reason to end a call
            self._show(text)
            if last:
                if getattr(self._bar, "pos", 0):  # one line below another bar's, which tqdm would leave there too
                    self._bar.clear()
                self._bar.close()

    def _show(self, text: BarText) -> None:
        if self._bar is None:
            self._bar = self._tqdm_class(
                total=text.total, initial=text.over, desc=self._name or None, dynamic_ncols=True
            )
            self._bar.initial, self._bar.start_t = 0, self._began
        if text.total != self._bar.total:
            if hasattr(self._bar, "container"):  # a notebook's bar has a length of its own
                self._bar.reset(text.total)
                self._bar.start_t = self._began
            self._bar.total = text.total
        self._bar.n = text.over
        self._bar.set_description_str(self._name, refresh=False)  # tqdm itself puts the colon
        self._bar.set_postfix_str(text.note)

    def abandon(self) -> None:
        """In a forked child: draw no more. The line on the screen is the parent's, as is the thread with the lock."""
        self._life = threading.RLock()
        if self._bar is not None:
            self._bar.disable = True

    # --- for users ---

    @contextlib.contextmanager
    def over(self, shell: ClientShell) -> Iterator[None]:
        """Show all that a client submits within the block."""
        with self._watching(shell) as watched:
            shell.count_on(watched)
            try:
                yield
            finally:
                shell.count_no_more_on(watched)

    def wait(self, shell: ClientShell, futures: Sequence[Future]) -> None:
        """Show these futures until all are done."""
        with self._watching(shell) as watched:
            for future in futures:
                watched.watch(future)
            while concurrent.futures.wait(futures, INTERRUPT_SECONDS).not_done:
                pass

    @contextlib.contextmanager
    def _watching(self, shell: ClientShell) -> Iterator[WatchedFutures]:
        watched = WatchedFutures(self)
        begun: list[WatchedFutures] = []
        try:
            with Uninterrupted():  # what was begun is to be ended
                self.begin(shell, watched.counts)
                begun.append(watched)
            yield watched
        finally:
            for each in begun:
                if self._pid == os.getpid():  # else another thread of the parent's may have held the lock
                    each.count_done()
                self.end(each.counts, ended_well=True)


class WatchedFutures:
    """Counts futures of one call each, for a bar."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar
        self.counts = CallCounts(total=0)
        self._lock = threading.RLock()  # garbage collection may lead to a future that ends
        self._not_counted: set[Future] = set()

    def watch(self, future: Future) -> None:
        """Count a future, now and when it is done."""
        with self._lock:
            self._not_counted.add(future)
            self.counts.submitted += 1
            self.counts.total = self.counts.submitted
        future.add_done_callback(self._count)

    def count_done(self) -> None:
        """Count all futures that are done, even if another thread has not called their callbacks yet."""
        with self._lock:
            for future in list(self._not_counted):
                if future.done():
                    self._count(future)

    def _count(self, future: Future) -> None:
        with self._lock:
            if future in self._not_counted:
                self._not_counted.discard(future)
                self.counts.add(1, failed=future.failed, cancelled=future.cancelled())


class _Imports:
    """Looks why nothing is over yet: workers may be importing. As soon as something is over it looks no more."""

    def __init__(self, shell: ClientShell) -> None:
        self._shell = shell
        self._began = time.monotonic()
        self._events: EventReader | None = None
        self._state = ClusterState()
        self._ended = False

    def note(self, over: int) -> str:
        """What workers import, in a few words. It does not wait.

        Args:
            over: how many calls are over.
        """
        if over or self._ended or self._shell.core.closed:
            self.close()
            return ""
        if self._events is None:
            if time.monotonic() < self._began + SLOW_SECONDS:
                return ""
            self._events = self._shell.events.open()
        for event in self._events.get(0):
            self._state.take(event)
        return importing(self._state.machines.values())

    def close(self) -> None:
        """Look no more."""
        self._ended = True
        if self._events is not None:
            self._events.close()
            self._events = None


class _Answers:
    """Asks the scheduler for a client's counts; nested tasks from before the first answer are left out."""

    def __init__(self, shell: ClientShell) -> None:
        self.latest: SchedulerCounts | None = None
        """The counts of the last answer; None until the second one, as the first is what later ones start from."""
        self._shell = shell
        self._before: SchedulerCounts | None = None
        self._received: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._asked = self._ended = False
        self._ask()

    def follow(self) -> None:
        """Take the answer if it has come, and then ask again. It does not wait."""
        self._take(0)
        self._ask()

    def wait_for_last(self) -> None:
        """Wait for the last count of nested tasks, half a second at most for each of two answers.

        The reading thread does not wait: no answer could come.
        """
        if not self._shell.reader.in_this_thread():
            self._take(LAST_WORD_SECONDS)  # the answer to a question of before
            self._ask()
            self._take(LAST_WORD_SECONDS)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            try:
                self._shell.ask(self._received.put)
            except MinidaskError:  # the connection is gone: the calls themselves will tell
                self._received.put(None)

    def _take(self, seconds: float) -> None:
        if self._ended:
            return
        with contextlib.suppress(queue.Empty):
            info = self._received.get(seconds > 0, seconds or None)
            counts = None if info is None or "error" in info else counts_of_asker(info)
            self._ended = counts is None
            if counts is not None:
                self._asked = False
                if self._before is None:
                    self._before = counts
                else:
                    self.latest = since(counts, self._before)


def _load_tqdm() -> Any:
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415 - loaded when a bar is asked for
    except ImportError as error:
        raise MinidaskError(f"a progress bar needs tqdm: pip install 'minidask[progress]' ({error})") from None
    return tqdm


_bars: weakref.WeakSet[Bar] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for bar in _bars:
        bar.abandon()


on_fork(Layer.SCREEN, _after_fork_in_child)
