"""A model of which a machine has one copy, in shared memory: arrays are mapped from there.

scikit-learn's trees cannot be mapped, as they copy their nodes into memory of their own. So each is built when it
predicts, and dropped then.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

LARGE_BYTES = 1 << 20
"""A larger array has shared memory of its own, as everywhere."""
MAX_ALONE = 500
"""At most so many have; a pickle has room for 1024 buffers."""
ALIGNED = 64
"""Arrays begin at multiples of this."""


class SharedTrees:
    """What all of scikit-learn's trees of a model are made of; each is built anew when it is used.

    Their arrays go into shared memory, where large arrays go. Small ones are put side by side for that.
    """

    def __init__(self, made_of: list[Any]) -> None:
        self.made_of = made_of

    def build(self, number: int) -> Any:
        make, args, state = self.made_of[number]
        tree = make(*args)
        tree.__setstate__(state)
        return tree

    def __reduce__(self) -> Any:
        buffers = list[pickle.PickleBuffer]()
        text = pickle.dumps(self.made_of, 5, buffer_callback=buffers.append)
        arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
        least = max(LARGE_BYTES, sum(map(len, arrays)) // MAX_ALONE)
        small = [np.pad(array, (0, -len(array) % ALIGNED)) for array in arrays if len(array) < least]
        places = [array if len(array) >= least else len(array) for array in arrays]
        return _shared_trees, (text, np.concatenate([np.empty(0, np.uint8), *small]), places)


def _shared_trees(text: bytes, small: Any, places: list[Any]) -> SharedTrees:
    start, arrays = 0, []
    for place in places:
        if isinstance(place, int):
            arrays.append(small[start : start + place])
            start += place + -place % ALIGNED
        else:
            arrays.append(place)
    return SharedTrees(pickle.loads(text, buffers=arrays))


class SharedTree:
    """One of `SharedTrees`: it is built for each call, and dropped then."""

    def __init__(self, trees: SharedTrees, number: int) -> None:
        self._trees, self._number = trees, number

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._trees.build(self._number), name)


class _Lightening(pickle.Pickler):
    def __init__(self, file: io.BytesIO, trees: SharedTrees, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(file, 5, buffer_callback=buffers.append)
        self.trees = trees
        self.boosted = False  # whether gradient boosting was met: its compiled code takes only scikit-learn's trees

    def persistent_id(self, obj: Any) -> str | None:
        return "trees" if obj is self.trees else None

    def reducer_override(self, obj: Any) -> Any:
        kind = type(obj)
        self.boosted = self.boosted or kind.__module__ == "sklearn.ensemble._gb"
        if (kind.__module__, kind.__name__) != ("sklearn.tree._tree", "Tree") or self.boosted:
            return NotImplemented
        self.trees.made_of.append(obj.__reduce__())
        return SharedTree, (self.trees, len(self.trees.made_of) - 1)


class _Lightened(pickle.Unpickler):
    def __init__(self, text: bytes, trees: SharedTrees, buffers: list[pickle.PickleBuffer]) -> None:
        super().__init__(io.BytesIO(text), buffers=buffers)
        self.trees = trees

    def persistent_load(self, pid: str) -> Any:
        return self.trees


def light(model: Any) -> Any:
    """Return a copy of a model that shares all arrays with it, and has a `SharedTree` for each tree."""
    text, trees, buffers = io.BytesIO(), SharedTrees([]), list[pickle.PickleBuffer]()
    try:
        _Lightening(text, trees, buffers).dump(model)
    except (pickle.PicklingError, AttributeError, TypeError):  # of __main__, say: cloudpickle takes it as it is
        return model
    return _Lightened(text.getvalue(), trees, buffers).load()
