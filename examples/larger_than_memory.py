"""A model search and predictions over a file of many chunks, of which no process holds more than a few.

python examples/larger_than_memory.py
python examples/larger_than_memory.py node1:8786
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier

import minidask
from minidask import ml

client = minidask.Client(*sys.argv[1:])
print(client)

with tempfile.TemporaryDirectory() as folder:  # of a disk that all machines have, if there are several
    digits = load_digits()
    rng = np.random.default_rng(0)
    for number in range(20):  # 80 MB of digits with noise, 4 MB at a time
        rows = rng.integers(len(digits.data), size=8_000)
        np.save(Path(folder) / f"X{number:02}.npy", digits.data[rows] + rng.normal(0, 4, (len(rows), 64)))
        np.save(Path(folder) / f"y{number:02}.npy", digits.target[rows])
    X, y = (sorted(Path(folder).glob(f"{name}*.npy")) for name in "Xy")
    data = ml.chunks((X, np.concatenate([np.load(path) for path in y])))
    print(data)

    space = {"alpha": np.logspace(-6, 1, 50), "penalty": ["l1", "l2", "elasticnet"]}
    search = ml.HyperbandSearchCV(SGDClassifier(random_state=0), space, max_iter=9, random_state=0).fit(data)
    print(f"best score {search.best_score_:.4f} with {search.best_params_}, of {search.metadata_['n_models']} models")

    predicted = search.predict(data, out=Path(folder) / "predicted.npy")
    print(f"{len(predicted)} predictions, accuracy {search.score(data):.4f}")
