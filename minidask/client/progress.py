"""Progress bars: a thin shell around tqdm, which is loaded only when a bar is asked for.

    calls submitted, futures done ─► CallCounter ─► Tally ─┐
    the scheduler's answers ─────────► _News ────────┴─► a thread, four times a second ─► tqdm

Nothing here waits for the screen while it holds what others count with: a terminal may be stopped.
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

from minidask.client.interrupts import INTERRUPT_SECONDS, Condition
from minidask.client.tally import Cluster, Line, Part, Tally, cluster_of, since
from minidask.errors import MinidaskError
from minidask.host.forks import Layer, on_fork
from minidask.host.signals import Uninterrupted, start, suppress

if TYPE_CHECKING:
    from minidask.client.future import Future
    from minidask.client.shell import ClientShell

DRAW_SECONDS = 0.25
SHORT_SECONDS = 1.0
LAST_WORD_SECONDS = 0.5


class Bar:
    """One line on the screen, for as long as calls are counted on it.

    Args:
        gathers: whether calls that follow one another share the line as long as each takes less than a second. The
            line is then off the screen between them, and stays there from `release` on.

    Raises:
        MinidaskError: tqdm is not installed.
    """

    def __init__(self, gathers: bool = False) -> None:
        self._tqdm = _load_tqdm()
        self._gathers = gathers
        self.counting = Condition()  # garbage collection may lead to a future that ends
        self._tally = Tally()
        self._life = threading.RLock()  # held while calls begin and end
        self._calls = 0
        self._ended_well = True
        self._began = self._stretch_began = self._drawn_at = 0.0
        self._name = ""
        self._news: _News | None = None
        self._line: Any = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        _bars.add(self)

    def begin(self, shell: ClientShell, name: str = "", total: int | None = None) -> CallCounter:
        """Count some calls, of which there will be `total`, None if nobody knows yet."""
        with self._life:
            self._calls += 1
            self._name = name or self._name
            if self._calls == 1:
                self._stretch_began = time.time()
                if not self._tally:
                    self._began, self._news = self._stretch_began, _News(shell)
                self._end = threading.Event()
                self._thread = threading.Thread(target=self._draw_until_the_end, name="minidask-progress", daemon=True)
                start(self._thread)
            with self.counting:
                return CallCounter(self, self._tally.open(total))

    def end(self, part: Part, ended_well: bool) -> None:
        """No more calls of this part will come."""
        with self._life:
            with self.counting:
                self._tally.close(part, ended_well)
            self._calls -= 1
            self._ended_well &= ended_well
            if not self._calls:
                self._pause()

    def release(self) -> None:
        """No more calls are to be gathered: leave the line on the screen."""
        self._gathers = False
        # Garbage collection may lead here from anywhere: from a thread, too, that whoever ends calls waits for.
        if self._pid == os.getpid() and self._life.acquire(blocking=False):
            try:
                if not self._calls:
                    self._leave()
            finally:
                self._life.release()

    def _pause(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        short = time.time() - self._stretch_began < SHORT_SECONDS
        if not (self._gathers and short and self._ended_well):
            self._leave()
        elif self._line is not None:
            self._line.clear()

    def _leave(self) -> None:
        """Leave the last state on the screen, and begin anew."""
        if self._tally:
            assert self._news is not None
            self._news.last_word()
            self._draw(last=True)
        self._line = None
        self._tally = Tally()
        self._ended_well = True

    # --- drawing ---

    def _draw_until_the_end(self) -> None:
        while not self._end.wait(max(0.0, max(self._began, self._drawn_at) + DRAW_SECONDS - time.time())):
            assert self._news is not None
            self._news.follow()
            self._draw()

    def _draw(self, last: bool = False) -> None:
        assert self._news is not None
        self._drawn_at = time.time()
        with self.counting:
            line = self._tally.line(self._news.cluster)
        if sys.stderr is None or self._pid != os.getpid():
            return
        with suppress(Exception):  # the screen is gone, or is an object of the caller's: no reason to end a call
            self._show(line)
            if last:
                if getattr(self._line, "pos", 0):  # one line below another bar's, which tqdm would leave there too
                    self._line.clear()
                self._line.close()

    def _show(self, line: Line) -> None:
        if self._line is None:
            self._line = self._tqdm(total=line.total, initial=line.over, desc=self._name or None, dynamic_ncols=True)
            self._line.initial, self._line.start_t = 0, self._began
        if line.total != self._line.total:
            if hasattr(self._line, "container"):  # a notebook's bar has a length of its own
                self._line.reset(line.total)
                self._line.start_t = self._began
            self._line.total = line.total
        self._line.n = line.over
        self._line.set_description_str(self._name, refresh=False)  # tqdm itself puts the colon
        self._line.set_postfix_str(line.note)

    def abandon(self) -> None:
        """In a forked child: the line is the parent's, and so are the threads that hold the locks."""
        self.counting, self._life = Condition(), threading.RLock()
        if self._line is not None:
            self._line.disable = True

    # --- for users ---

    @contextlib.contextmanager
    def over(self, shell: ClientShell) -> Iterator[None]:
        """Show all that a client submits within the block."""
        with self._counting(shell) as calls:
            shell.count_on(calls)
            try:
                yield
            finally:
                shell.count_no_more_on(calls)

    def wait(self, shell: ClientShell, futures: Sequence[Future]) -> None:
        """Show these futures until all are done."""
        with self._counting(shell) as calls:
            for future in futures:
                calls.watch(future)
            while concurrent.futures.wait(futures, INTERRUPT_SECONDS).not_done:
                pass

    @contextlib.contextmanager
    def _counting(self, shell: ClientShell) -> Iterator[CallCounter]:
        begun: list[CallCounter] = []
        try:
            with Uninterrupted():  # what was begun is to be ended
                begun.append(self.begin(shell, total=0))
            yield begun[0]
        finally:
            for calls in begun:
                calls.end()


class CallCounter:
    """Counts calls on a bar."""

    def __init__(self, bar: Bar, part: Part) -> None:
        self.bar = bar
        self._part = part
        self._watched: set[Future] = set()

    def expect(self, total: int) -> None:
        """So many there will be."""
        with self.bar.counting:
            self._part.total = total

    def submitted(self, count: int) -> None:
        """So many more were submitted."""
        with self.bar.counting:
            self._part.submitted += count

    def over(self, future: Future, count: int) -> None:
        """A future of so many calls is done; one that failed counts as one call."""
        with self.bar.counting:
            if future.cancelled():
                self._part.cancelled += count
            elif future.failed:
                self._part.failed += 1
            else:
                self._part.done += count

    def watch(self, future: Future) -> None:
        """Count a future of one call, now and when it is done."""
        with self.bar.counting:
            self._watched.add(future)
            self._part.submitted += 1
            self._part.total = self._part.submitted
        future.add_done_callback(self._watched_over)

    def _watched_over(self, future: Future) -> None:
        with self.bar.counting:
            self.over(future, 1)
            self._watched.discard(future)
            self.bar.counting.notify_all()

    def _all_counted(self) -> bool:
        with self.bar.counting:
            return not any(future.done() for future in self._watched)

    def end(self, ended_well: bool = True) -> None:
        """No more will come; those that are done by now are still counted."""
        with Uninterrupted():
            self.bar.counting.sleepers.sleep_until(self._all_counted, LAST_WORD_SECONDS)
            self.bar.end(self._part, ended_well)


class _News:
    """What the scheduler says of a client's tasks, since this was made. Asked again when it has answered."""

    def __init__(self, shell: ClientShell) -> None:
        self.cluster: Cluster | None = None
        self._shell = shell
        self._before: Cluster | None = None
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._asked = self._ended = False
        self._ask()

    def follow(self) -> None:
        """Take what has come, and ask for more."""
        self._take(0)
        self._ask()

    def last_word(self) -> None:
        """Wait a moment for the last count of nested tasks."""
        if not self._shell.reader.in_this_thread():
            self._take(LAST_WORD_SECONDS)  # the answer to a question of before
            self._ask()
            self._take(LAST_WORD_SECONDS)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            try:
                self._shell.ask(self._answers.put)
            except MinidaskError:  # the connection is gone: the calls themselves will tell
                self._answers.put(None)

    def _take(self, seconds: float) -> None:
        if self._ended:
            return
        with contextlib.suppress(queue.Empty):
            info = self._answers.get(seconds > 0, seconds or None)
            cluster = None if info is None else cluster_of(info)
            self._ended = cluster is None
            if cluster is not None:
                self._asked = False
                if self._before is None:
                    self._before = cluster  # from before the calls came
                else:
                    self.cluster = since(cluster, self._before)


def _load_tqdm() -> Any:
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415 - only whoever asks for a bar needs it
    except ImportError as error:
        raise MinidaskError(f"a progress bar needs tqdm: pip install 'minidask[progress]' ({error})") from None
    return tqdm


_bars: weakref.WeakSet[Bar] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for bar in _bars:
        bar.abandon()


on_fork(Layer.SCREEN, _after_fork_in_child)
