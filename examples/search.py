"""A hyper-parameter search on all cores of this machine, or on the cluster whose address is given as argument.

python examples/search.py
python examples/search.py node1:8786
"""

import sys

import joblib
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import RandomizedSearchCV
from sklearn.svm import SVC

import minidask

client = minidask.Client(*sys.argv[1:])
print(client)

digits = load_digits()
param_space = {
    "C": np.logspace(-6, 6, 13),
    "gamma": np.logspace(-8, 8, 17),
    "tol": np.logspace(-4, -1, 4),
    "class_weight": [None, "balanced"],
}
search = RandomizedSearchCV(SVC(kernel="rbf"), param_space, cv=3, n_iter=50, verbose=10, random_state=0)

with joblib.parallel_backend("minidask"):
    search.fit(digits.data, digits.target)

print(f"best score {search.best_score_:.4f} with {search.best_params_}")
