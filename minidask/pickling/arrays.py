"""The arrays that NumPy copies into a pickle, where no two tasks can share them: views with gaps, and memory maps.

A view is taken as an array without gaps, whose buffer goes beside the pickle. A memory map of a file goes as the file's
name to where that file is, as joblib has it: tasks read it and write to it there. Nothing here imports NumPy: whoever
holds an array has done it.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

from minidask.host.signals import pass_on
from minidask.wire.large import OUT_OF_BAND_BYTES


def reduction(
    obj: Any, *, files: bool = False, lent: bool = False, contiguous: Callable[[Any], Any] | None = None
) -> Any:
    """What pickle is to do with an array, as `__reduce_ex__` tells it; NotImplemented if that is as good itself.

    Args:
        files: whether the receiver has the files of this machine.
        lent: whether it is an argument, which the sender keeps, and not a result.
        contiguous: makes the array without gaps; None: NumPy does.
    """
    numpy = sys.modules.get("numpy")
    if numpy is None or type(obj) not in (numpy.ndarray, numpy.memmap):
        return NotImplemented
    memmap = _memory_map(obj, numpy)
    if memmap is not None:
        if files and _is_in_file(obj, memmap):
            return _named(obj, memmap, numpy)
        return _copied(obj, lent and memmap.mode in ("r+", "w+"), numpy)
    if obj.nbytes < OUT_OF_BAND_BYTES or obj.dtype.hasobject or obj.flags.forc:
        return NotImplemented
    return (contiguous or numpy.ascontiguousarray)(obj).__reduce_ex__(5)


def _memory_map(array: Any, numpy: Any) -> Any:
    """The `numpy.memmap` of a file that this array is, or is a view of; None for any other array."""
    while isinstance(array, numpy.ndarray):
        if type(array) is numpy.memmap and isinstance(array.base, mmap.mmap):
            return array
        array = array.base
    return None


def _address(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _bounds(array: Any) -> tuple[int, int]:
    """The first address that the array covers, and the one after its last."""
    steps = [(count - 1) * stride for count, stride in zip(array.shape, array.strides, strict=True)]
    first = _address(array)
    return first + sum(s for s in steps if s < 0), first + sum(s for s in steps if s > 0) + array.itemsize


def _is_in_file(array: Any, memmap: Any) -> bool:
    """Whether what the array shows is what the file has; a copy-on-write map may have been written to."""
    try:
        length = os.path.getsize(memmap.filename)
    except (OSError, TypeError) as error:  # it is gone, or had no name
        pass_on(error)
        return False
    return bool(memmap.mode != "c" and length >= memmap.offset + memmap.nbytes and array.nbytes)


def _named(array: Any, memmap: Any, numpy: Any) -> Any:
    low, high = _bounds(array)
    start, mode, name = memmap.offset + low - _address(memmap), "r+" if array.flags.writeable else "r", memmap.filename
    if type(array) is numpy.memmap and array.flags.forc:
        return numpy.memmap, (name, array.dtype, mode, start, array.shape, "C" if array.flags.c_contiguous else "F")
    return map_file, (name, mode, start, high - low, _address(array) - low, array.dtype, array.shape, array.strides)


def map_file(
    name: Any,
    mode: Literal["r", "r+"],
    start: int,
    length: int,
    first: int,
    dtype: Any,
    shape: tuple[int, ...],
    strides: Any,
) -> Any:
    """What a pickle calls for an array that shows a part of a file.

    Args:
        mode: as `numpy.memmap` takes it.
        start: of the bytes that the array covers, in the file.
        length: of those bytes.
        first: where in them the array's first item is.
    """
    import numpy  # noqa: PLC0415 - only a receiver of arrays needs it

    return numpy.ndarray(shape, dtype, numpy.memmap(name, numpy.uint8, mode, start, (length,)), first, strides)


def _copied(array: Any, in_vain: bool, numpy: Any) -> Any:
    """Have an array of a file pickled as data; read-only if writes would not reach the file, as the task expects."""
    plain = array.view(numpy.ndarray)
    reduced = (plain if plain.flags.forc else numpy.ascontiguousarray(plain)).__reduce_ex__(5)
    return (read_only, reduced) if in_vain and array.nbytes else reduced


def read_only(make: Any, arguments: Any) -> Any:
    """What a pickle calls for an array that nobody is to write to."""
    array = make(*arguments)
    array.flags.writeable = False
    return array
