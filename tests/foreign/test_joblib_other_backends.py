"""joblib's own tests of its other backends, with minidask imported: most of the time of its suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.joblib_suite import OURS, SITE, run_suite


@pytest.mark.timeout(1200)
def test_joblibs_own_tests_of_other_backends(tmp_path: Path) -> None:
    run_suite(tmp_path, SITE, "joblib.test.test_parallel", "-k", f"not ({OURS})")
