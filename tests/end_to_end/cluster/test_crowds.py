"""Strangers by the hundred: none is let in, they cost the daemons little, and honest ones work and join."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crowd import MOST_MIB, Scene
from tests.helpers import Programs


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("at_worker", "hosts"), [(False, 50), (False, 0), (True, 50)])
def test_a_crowd_of_strangers_is_turned_away_and_honest_ones_work_and_join(
    at_worker: bool, hosts: int, programs: Programs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    scene = Scene(programs)
    result = scene.crowd(at_worker, 600, rate=200, hosts=hosts, rounds=1)
    assert result.outcomes == {"refused": 600}
    assert result.mib < MOST_MIB and result.descriptors < 150
    assert result.here and len(result.joins) > 1 and not result.failed
    assert "Traceback" not in scene.scheduler.text + scene.worker.text
