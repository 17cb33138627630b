"""What a dashboard makes of a cluster's events: see minidask/dashboard/model.py."""

from __future__ import annotations

import json
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from minidask.client import stories
from minidask.client.events import FIELDS, ClusterEvent
from minidask.dashboard import model as model_module
from minidask.dashboard import spans
from minidask.dashboard.metrics import exposition
from minidask.dashboard.model import Model
from minidask.dashboard.spans import Spans
from minidask.dashboard.table import Changes

from .fakes import EVIL, FakeCluster, event

PAGES = ["now", "tasks", "time", "data", "log"]
M1 = "tcp://m1"


def room() -> Model:
    """A model of one machine of two workers."""
    model = Model()
    machines = [{"address": M1, "name": "m1", "workers": 2}]
    clients = [{"id": 1, "name": "sarah", "queued": 3, "running": 1, "finished": 7, "failed": 0}]
    model.take([event("snapshot", 1.0, info={"machines": machines, "clients": clients, "tasks": {"queued": 3}})])
    return model


def task(kind: str, at: float, number: int = 5, **fields: Any) -> ClusterEvent:
    return event(kind, at, task=number, name="fit", client=1, **{"machine": M1, **fields})


def seen(model: Model, page: str = "now") -> dict[str, Any]:
    model.tick(10.0)
    return json.loads(json.dumps(model.update(page, 0), allow_nan=False))


def test_the_first_update_has_all_and_the_next_only_what_has_changed() -> None:
    model = room()
    first = seen(model)
    assert first["machines"]["set"][M1]["name"] == "m1"
    assert first["clients"]["set"]["1"][:4] == ["sarah", 3, 1, 7]
    assert set(model.update("now", first["number"])) == {"number"}
    model.take([event("machine", 2.0, machine="tcp://m2", name="m2", size=1)])
    model.tick(10.5)
    update = model.update("now", first["number"])
    assert set(update["machines"]["set"]) == {"tcp://m2"} and "all" not in update["machines"]
    assert "clients" not in update


def test_a_machine_that_leaves_is_gone_with_its_workers() -> None:
    model = room()
    info = {"over": 1, "failed": 0, "busy_seconds": 1.0, "idle": False}
    model.take([event("running", 2.0, machine=M1, worker=0, name="fit", task=5, info=info)])
    number = seen(model)["number"]
    model.take([event("machine-left", 3.0, machine=M1, name="m1", text="cable", size=2)])
    model.tick(11.0)
    update = model.update("log", number)
    assert update["machines"] == {"gone": [M1]}
    assert update["workers"] == {"gone": [f"{M1}#0"]}
    assert ["error", "machine m1 has left: cable; tasks to be run elsewhere: 2"] in [
        line[1:3] for line in update["log"]
    ]


def test_a_worker_that_imports_says_what() -> None:
    model = room()
    info = {"over": 0, "failed": 0, "busy_seconds": 0.0, "idle": True, "importing": "sklearn"}
    model.take([event("running", 2.0, machine=M1, worker=0, info=info)])
    assert seen(model)["workers"]["set"][f"{M1}#0"] == ["", 0, 0, "", 0, 0, "sklearn"]


def test_what_runs_has_begun_once_though_clocks_tell_it_differently() -> None:
    model = room()
    info = {"over": 1, "failed": 0, "busy_seconds": 1.0, "idle": False}
    began = []
    for jitter in (0.0, 0.13, -0.09):
        model.take([event("running", 2.0 + jitter, machine=M1, worker=0, name="fit", task=5, info=info)])
        began.append(seen(model)["workers"]["set"][f"{M1}#0"][1])
    assert began == [2.0, 2.0, 2.0]
    model.take([event("running", 8.0, machine=M1, worker=0, name="fit", task=6, info=info)])
    assert seen(model)["workers"]["set"][f"{M1}#0"][1] == 8.0


# --- stories ---


def test_a_story_tells_each_attempt_where_and_why_it_ended() -> None:
    model = room()
    model.take([
        task("submitted", 1.0, machine="", info={"group": 1, "parent": 4}),
        task("started", 2.0, attempt=1),
        task("again", 3.0, how="died", text="signal 11"),
        task("started", 4.0, attempt=2),
        task("call", 4.5, worker=1, seconds=0.5, cpu=0.4, memory=100, how="raised"),
        task("ended", 5.0, how="raised", seconds=0.5, text="ValueError: no"),
    ])  # fmt: skip
    story = model.story("t5")
    assert story is not None
    assert (story["state"], story["text"], story["client"]) == ("failed", "ValueError: no", "sarah")
    assert (story["worker"], story["seconds"], story["cpu"], story["parent"]) == (1, 0.5, 0.4, "t4")
    assert [what for _, what, _ in story["steps"]] == [
        "submitted", "attempt 1 sent to", "attempt ended: died", "attempt 2 sent to", "raised",
    ]  # fmt: skip
    assert "m1" in [text for _, _, text in story["steps"]]


@pytest.mark.parametrize("order", [("call", "ended"), ("ended", "call")])
def test_the_worker_and_the_scheduler_tell_of_an_end_in_either_order(order: tuple[str, ...]) -> None:
    model = room()
    fields = {"call": {"worker": 1, "how": "done", "seconds": 1.0, "cpu": 0.5}, "ended": {"how": "done"}}
    model.take([task("started", 1.0, attempt=1), *(task(kind, 2.0, **fields[kind]) for kind in order)])
    story = model.story("t5")
    assert story is not None
    assert (story["state"], story["worker"], story["cpu"]) == ("done", 1, 0.5)


def test_calls_of_parallel_have_stories_of_their_own() -> None:
    model = room()
    model.take([event("call", 2.0, machine=M1, worker=0, task=9, call=n, name="score", how="done") for n in (1, 2)])
    assert {row[0] for row in seen(model, "tasks")["tasks"]["rows"]} == {"c1", "c2"}


def test_after_a_gap_a_task_is_unknown_until_it_is_told_of_again() -> None:
    model = room()
    model.take([task("started", 2.0, 5, attempt=1), task("started", 2.0, 6, attempt=1)])
    model.take([event("snapshot", 3.0, info={"machines": [], "clients": [], "tasks": {}}), task("started", 0.0, 6)])
    assert [model.story(key)["state"] for key in ("t5", "t6")] == ["unknown", "running"]  # type: ignore[index]


def test_words_of_a_search_must_all_be_there() -> None:
    model = room()
    model.take([task("ended", 5.0, 5, how="raised", text="OSError: disk"), task("ended", 6.0, 6, how="done")])
    found = [
        model.update("tasks", 0, query)["tasks"]["count"] for query in ("", "FIT", "fit disk", "done m1", "nothing")
    ]
    assert found == [2, 2, 1, 1, 0]


def test_failures_are_kept_while_thousands_succeed() -> None:
    model = room()
    model.take([task("ended", 1.0, 1, how="raised", text="OSError")])
    model.take([task("ended", 2.0, n, how="done") for n in range(2, stories.MOST_STORIES + 100)])
    assert model.story("t1") is not None
    assert model.story("t2") is None
    assert len(model.stories) == stories.MOST_STORIES + 1


# --- data ---


def test_who_has_large_data_from_before_is_known_from_the_snapshot() -> None:
    model = room()
    model.take([event("data", 1.0, size=1 << 21, info={"blob": "ab" * 16, "machines": [M1]})])
    model.take([event("data", 1.0, size=100, info={"blob": "cd" * 16, "machines": [M1]})])
    assert list(seen(model, "data")["blobs"]["set"]) == ["ab" * 16]


# --- time ---


def call(at: float, seconds: float, how: str = "done", name: str = "fit") -> ClusterEvent:
    return event("call", at, name=name, seconds=seconds, how=how)


def rows(*calls: ClusterEvent) -> list[tuple[str, int, int]]:
    """The spans of these calls in one worker: name, calls, whether it failed."""
    changes = Changes()
    found = Spans(changes)
    for one in calls:
        found.take("lane", one, "t1")
    found.close()
    return [(row[0], row[3], row[4]) for row in found.since(0)["lane"]]  # type: ignore[index]


def test_short_calls_one_after_another_are_one_span() -> None:
    assert rows(*(call(n * 0.001, 0.0009) for n in range(50))) == [("fit", 50, 0)]
    assert len(rows(*(call(n * 0.001, 0.0009) for n in range(500)))) == 5


def test_gaps_failures_and_other_names_stay_to_be_seen() -> None:
    assert len(rows(call(0, 0.001), call(0.01, 0.001))) == 2
    assert rows(call(0, 0.001), call(0.001, 0.001, "raised"), call(0.002, 0.001))[1] == ("fit", 1, 1)
    assert [row[0] for row in rows(call(0, 0.001), call(0.001, 0.001, name="score"))] == ["fit", "score"]
    assert len(rows(call(0, 1.0), call(1.0, 1.0))) == 2


# --- bounds, and what others send ---


def test_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, bound in ((stories, "MOST_STORIES"), (stories, "MOST_FAILED"), (spans, "MOST_SPANS"),
                          (model_module, "MOST_LINES"), (model_module, "MOST_BLOBS")):  # fmt: skip
        monkeypatch.setattr(module, bound, 50)
    cluster = FakeCluster(1000.0, machines=2, workers=2, rate=200)
    model = Model()
    model.take(cluster.begin())
    sizes = []
    for n in range(200):
        model.take(cluster.step())
        model.take([task("ended", cluster.now, 10**6 + n, how="raised", text="e"), *_odd(n, cluster.now)])
        model.tick(cluster.now)
        sizes.append(sum(len(json.dumps(model.update(page, 0))) for page in PAGES))
    assert len(model.stories) <= 100 and len(model.spans) <= 50
    assert max(sizes[100:]) < 1.5 * max(sizes[60:100])


def _odd(n: int, now: float) -> list[ClusterEvent]:
    """What is new each time: names of calls, machines and clients that come and go, data."""
    info = {"blob": f"{n:032x}", "source": ""}
    return [
        event("call", now, name=f"call{n}", machine=M1, worker=0, seconds=0.1, how="done"),
        event("machine", now, machine=f"tcp://x{n}", name=f"x{n}", size=1),
        event("machine-left", now, machine=f"tcp://x{n}", name=f"x{n}", text="bye"),
        event("client", now, client=100 + n, name="c"),
        event("client-left", now, client=100 + n, name="c", text="bye"),
        event("fetched", now, machine=M1, size=10, info=info),
    ]


values = st.one_of(st.integers(), st.floats(), st.text(max_size=5), st.none(), st.lists(st.integers(), max_size=2))
rows_of_infos = st.dictionaries(st.sampled_from(["id", "name", "queued", "address", "nested"]), values)
names_of_infos = ["machines", "clients", "tasks", "cpu", "memory", "blob", "source", "parent", "address"]
infos = st.dictionaries(st.sampled_from(names_of_infos), st.one_of(values, st.lists(rows_of_infos, max_size=2)))
events_of_anybody = st.builds(
    event,
    st.sampled_from([*FIELDS, "call", "usage", "missed"]),
    st.floats(),
    machine=st.sampled_from(["", M1]),
    name=st.text(max_size=5),
    how=st.sampled_from(["done", "raised", "new"]),
    task=st.integers(0, 3),
    client=st.integers(0, 3),
    size=st.integers(0),
    seconds=st.floats(),
    info=infos,
)


@given(st.lists(events_of_anybody, max_size=10))
def test_whatever_comes_each_page_gets_json_that_a_browser_can_read(events: list[ClusterEvent]) -> None:
    model = room()
    model.take(events)
    model.tick(10.0)
    for page in PAGES:
        json.dumps(model.update(page, 0), allow_nan=False)
    for key in ("t1", "t2", "t3"):
        json.dumps(model.story(key), allow_nan=False)
    assert exposition(model)


def test_escape_sequences_of_others_are_told_as_they_can_be_shown() -> None:
    model = Model()
    machines = [{"address": "tcp://x", "name": EVIL + "\x1b[31m\u202e", "workers": 1}]
    clients = [{"id": 1, "name": "\x07\x1b]0;x"}]
    model.take([event("snapshot", 1.0, info={"machines": machines, "clients": clients, "tasks": {}})])
    text = json.dumps(seen(model), ensure_ascii=False)
    assert "\\\\x1b[31m\\\\u202e" in text and "\\u001b" not in text and "\u202e" not in text


def test_a_lost_scheduler_is_shown_and_its_return() -> None:
    model = room()
    model.lose(5.0, "no answer")
    model.lose(6.0, "no answer")
    assert seen(model, "log")["totals"]["set"]["all"]["lost"] == "no answer"
    model.lose(7.0, "")
    assert [line[2] for line in seen(model, "log")["log"]] == [
        "no scheduler: no answer",
        "the scheduler is there again",
    ]


def test_the_figures_for_prometheus_have_its_names_and_escapes() -> None:
    cluster = FakeCluster(1000.0, machines=2)
    model = Model()
    model.take(cluster.begin())
    for _ in range(5):
        model.take(cluster.step())
    text = exposition(model).decode()
    assert "minidask_machines 2.0" in text
    assert "# TYPE minidask_calls_total counter" in text
    assert 'minidask_workers{machine="node1"} 4.0' in text
    assert all(math.isfinite(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if not line.startswith("#"))
