"""The place of a fit in its search, as it is sent to a slot."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from sklearn.linear_model import Ridge

from minidask.pickling.sharing import dumps

contexts = pytest.importorskip("sklearn.callback._callback_context")
pytest.importorskip("minidask.task.sklearn_callbacks")


def search(fits: int, callbacks: list[str]) -> Any:
    """The place of the last fit in a search with so many."""
    root = contexts.CallbackContext._from_estimator(Ridge(), "fit", 0, None, True)
    root._callbacks = callbacks
    places = [root.subcontext("fold", max_subtasks=0) for _ in range(fits)]
    return places[-1]


def sent(place: Any) -> Any:
    return pickle.loads(dumps(place, "the place")[0])


def test_the_place_of_a_fit_is_sent_with_the_way_up_and_not_with_all_other_fits() -> None:
    assert len(dumps(search(200, []), "the place")[0]) < 2 * len(dumps(search(1, []), "the place")[0])
    place = sent(search(200, []))
    assert (place.task_id, place.task_name, place.parent.task_name, place.parent.parent) == (199, "fold", "fit", None)


def test_a_fit_within_that_fit_finds_its_place_below_it() -> None:
    estimator = Ridge()
    estimator._parent_callback_ctx = sent(search(3, []))
    below = contexts.CallbackContext._from_estimator(estimator, "fit", 0, 2, True)
    assert (below.parent.task_name, below.task_id, below.source_task_name) == ("fit", 2, "fold")
    assert below.subcontext("epoch").parent is below


def test_with_callbacks_all_places_are_sent() -> None:
    place = sent(search(3, ["callback"]))
    assert [other.task_id for other in place.parent] == [0, 0, 1, 2]
