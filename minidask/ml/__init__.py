"""scikit-learn on data larger than memory: chunks by name, and what fits, searches and predicts over them.

    data = minidask.ml.chunks("folder", y="target")

docs/ml.md tells what there is, and when to use something else.
"""

from __future__ import annotations

from minidask.ml.data import Chunks
from minidask.ml.incremental import Incremental
from minidask.ml.postfit import ParallelPostFit
from minidask.ml.search import HyperbandSearchCV, IncrementalSearchCV, SuccessiveHalvingSearchCV
from minidask.ml.sources import chunks

__all__ = [
    "Chunks", "HyperbandSearchCV", "Incremental", "IncrementalSearchCV", "ParallelPostFit", "SuccessiveHalvingSearchCV",
    "chunks",
]  # fmt: skip
