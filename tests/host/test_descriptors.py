"""Open files: what a cluster needs is compared with the limit of the process."""

from __future__ import annotations

import resource

import pytest

from minidask import errors
from minidask.host import descriptors


def test_no_more_than_is_allowed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    descriptors.check(100_000)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20, 20))
    with pytest.raises(errors.MinidaskError, match=r"1 workers? needs? 38 open files.*LimitNOFILE[^,]*$"):
        descriptors.check(1)
