"""An installation that is broken fails where it is used, and not where joblib is imported."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, warnings
sys.modules["minidask.backend.backend"] = None  # what Python does then is what it does for a module that is missing
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import minidask
    import joblib
assert joblib.Parallel(n_jobs=1)(joblib.delayed(abs)(i) for i in (-1, 2)) == [1, 2]
text, = [str(warning.message) for warning in caught if "minidask" in str(warning.message)]
assert text.startswith("minidask cannot be used through joblib"), text
try:
    joblib.parallel_config("minidask")
except ValueError as error:
    print("refused")
"""


def test_a_broken_backend_leaves_joblib_as_it_is() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50)
    assert ended.stdout == "refused\n", ended.stderr
