"""scikit-learn on data larger than memory: chunks by name, and what fits, searches and predicts over them.

    data = minidask.ml.chunks("folder", y="target")

docs/ml.md tells what there is, and when to use something else.
"""

from __future__ import annotations

from minidask.ml.clustering import KMeans
from minidask.ml.data import Chunks
from minidask.ml.incremental import Incremental
from minidask.ml.linear import LogisticRegression, PoissonRegressor
from minidask.ml.moments import PCA, LinearRegression, Ridge, TruncatedSVD
from minidask.ml.postfit import ParallelPostFit
from minidask.ml.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    QuantileTransformer,
    StandardScaler,
)
from minidask.ml.search import HyperbandSearchCV, IncrementalSearchCV, SuccessiveHalvingSearchCV
from minidask.ml.sources import chunks
from minidask.ml.voting import BlockwiseVotingClassifier, BlockwiseVotingRegressor

__all__ = [
    "PCA", "BlockwiseVotingClassifier", "BlockwiseVotingRegressor", "Chunks", "HyperbandSearchCV", "Incremental",
    "IncrementalSearchCV", "KMeans", "LinearRegression", "LogisticRegression", "MaxAbsScaler", "MinMaxScaler",
    "OneHotEncoder", "OrdinalEncoder", "ParallelPostFit", "PoissonRegressor", "QuantileTransformer", "Ridge",
    "StandardScaler", "SuccessiveHalvingSearchCV", "TruncatedSVD", "chunks",
]  # fmt: skip
