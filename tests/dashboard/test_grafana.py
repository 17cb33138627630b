"""The dashboard for Grafana asks for nothing but what /metrics has."""

from __future__ import annotations

import importlib.resources
import itertools
import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from minidask.dashboard.__main__ import main
from minidask.dashboard.metrics import exposition
from minidask.dashboard.model import Model

from .fakes import FakeCluster

TEXT = importlib.resources.files("minidask.dashboard").joinpath("grafana.json").read_text(encoding="utf-8")
DASHBOARD = json.loads(TEXT)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
FUNCTIONS = {"sum", "min", "rate", "increase", "by", "label_values"}


def exposed() -> dict[str, set[str]]:
    """The names of all samples of a cluster that runs, each with its labels."""
    model, cluster = Model(), FakeCluster(1000.0)
    model.take(cluster.begin())
    model.take(cluster.step())
    model.tick(cluster.now)
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition(model).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", [*QUERIES, DASHBOARD["templating"]["list"][1]["query"]])
def test_a_query_names_only_what_is_there(query: str) -> None:
    there = exposed()
    words = set(re.findall(r"[a-zA-Z_]\w*", re.sub(r'"[^"]*"|\[[^\]]*\]', "", query)))
    names = {word for word in words if word.startswith("minidask_")}
    assert names and names <= set(there)
    assert words - names <= FUNCTIONS | {"machine"}
    if "machine" in words:
        assert all("machine" in there[name] for name in names)
    counters = {name for name in names if name.endswith("_total")}
    for counter in counters:
        assert re.search(rf"(rate|increase)\({counter}(\{{[^}}]*\}})?\[[^\]]+\]\)", query), "a counter only grows"
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")


def test_all_that_is_there_is_shown() -> None:
    assert {name for name in exposed() if not any(re.search(rf"\b{name}\b", query) for query in QUERIES)} == set()


def test_no_two_panels_lie_over_each_other() -> None:
    for one, other in itertools.combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in PANELS)


def test_all_data_comes_from_the_source_that_is_chosen() -> None:
    sources = {
        json.dumps(s) for panel in PANELS for s in (panel["datasource"], *(t["datasource"] for t in panel["targets"]))
    }
    assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "machine"]


def test_it_is_printed_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--grafana"]) == 0
    assert capsys.readouterr().out == TEXT
