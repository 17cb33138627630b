"""The callers' own modules in a slot, which outlives many versions of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping


def forget_changed(known: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str]:
    """Have the caller's own modules imported again if one of them is not what it was.

    All of them, for those that have not changed may hold something of those that have.

    Args:
        known: hashes of sources, by module, as callers had them when this slot may have imported them.
        theirs: the same of the caller whose task is next.

    Returns:
        What is known now.
    """
    if any(known.get(name, digest) != digest and name in sys.modules for name, digest in theirs.items()):
        for name in theirs:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
    return {**known, **theirs}
