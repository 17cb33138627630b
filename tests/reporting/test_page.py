"""A report's page: see minidask/reporting/page.py. For people's eyes there is a real browser."""

from __future__ import annotations

import html.parser
import importlib.resources

from hypothesis import given
from hypothesis import strategies as st

from minidask.client.events import ClusterEvent
from minidask.reporting.page import page

from .runs import call, event, run, snapshot
from .test_figures import EVENTS

STYLE = importlib.resources.files("minidask.reporting").joinpath("page.css").read_text(encoding="utf-8")
EVIL = "</title></style><script>alert(1)</script><img src=x onerror='alert(1)'>\"'&\x1b[2J"
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "dl", "div", "dt", "dd",
    "small", "svg", "g", "path", "text", "rect", "ul", "li", "i", "table", "thead", "tbody", "tr", "th", "td", "meter",
}  # fmt: skip
EMPTY = {"meta"}


class Reader(html.parser.HTMLParser):
    """Reads a page: all is closed, only elements of ours are there, and nobody is asked for anything."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        assert not {name for name, _ in attrs if name.startswith("on")} | {"src", "href", "style"} & {
            n for n, _ in attrs
        }
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> str:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert "url(" not in text and "@import" not in text
    return " ".join(reader.text)


def test_it_has_sentences_figures_and_tables() -> None:
    calls = [call(n % 4, n // 4, 1.0, "score") for n in range(20)]
    failed = [call(0, 6.0, 0.5, how="raised"), event("ended", 7.0, name="fit", how="raised", text="ValueError: mine")]
    text = read(page(run(10.0, [snapshot(m1=4), *calls, *failed], 1.0), "search.py", "today", STYLE))
    for part in (
        "search.py",
        "today",
        "of the time",
        "ideal 5.1",
        "score",
        "Machines",
        "m1",
        "ValueError: mine",
        "failed",
    ):
        assert part in text


def test_names_and_errors_of_others_are_shown_and_nothing_else() -> None:
    events = [
        snapshot(**{EVIL: 2}), call(0, 0.0, 1.0, EVIL, machine=f"tcp://{EVIL}:1"),
        event("ended", 1.0, name=EVIL, machine=EVIL, how="raised", text=EVIL),
    ]  # fmt: skip
    text = page(run(2.0, events), EVIL, EVIL, STYLE)
    assert "<script" not in text and "<img" not in text and "\x1b" not in text
    assert "<script>alert(1)</script>" in read(text)


@given(st.lists(EVENTS, max_size=30), st.floats(0, 20))
def test_there_is_a_page_whatever_is_told(events: list[ClusterEvent], seconds: float) -> None:
    read(page(run(seconds, [snapshot(m1=2), *events]), "x", "y", STYLE))


def test_it_stays_small_however_many_calls_there_were() -> None:
    assert len(page(run(1.0, [snapshot(m1=4)]), "x", "y", STYLE)) < 10_000
    many = [call(n % 64, n // 64 * 0.01, 0.009, f"name{n % 50}") for n in range(64 * 2000)]
    assert len(page(run(20.0, [snapshot(m1=64), *many]), "x", "y", STYLE)) < 2_500_000
