"""Puts the daemons of a cluster on machines, by engines that exist. It places programs, and owns no state of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minidask.launch.cluster import LaunchedCluster

__all__ = ["dask", "ray"]


def dask(client: Any, **options: Any) -> LaunchedCluster:
    """Put a cluster into a Dask cluster that runs: see `minidask/launch/inside_dask.py`."""
    from minidask.launch import inside_dask  # noqa: PLC0415 - loaded when it is needed

    return inside_dask.dask(client, **options)


def ray(**options: Any) -> LaunchedCluster:
    """Put a cluster into a Ray cluster that runs: see `minidask/launch/inside_ray.py`."""
    from minidask.launch import inside_ray  # noqa: PLC0415 - loaded when it is needed

    return inside_ray.ray(**options)
