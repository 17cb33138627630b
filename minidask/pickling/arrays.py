"""How two kinds of arrays are pickled that NumPy would copy into the pickle: views with gaps, and memory maps.

Bytes inside a pickle are sent with each task, and no two tasks share them. So a view with gaps is sent as an array
without gaps, whose buffer stays beside the pickle. A memory map of a file is sent as the file's name, if the receiver
has that file: tasks read it and write to it there, as with joblib's own backends.

Nothing here imports NumPy. A program with an array has imported it, and one without would wait for it.
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
    """Return how an array is pickled, as `__reduce_ex__` does; NotImplemented if NumPy's own way is as good.

    Args:
        files: whether the receiver has the files of this machine.
        lent: whether the array is an argument, which the sender keeps, and not a result.
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
    """Whether the array has what its file has. A copy-on-write map may have other content."""
    try:
        length = os.path.getsize(memmap.filename)
    except (OSError, TypeError) as error:  # the file is gone, or has no name
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
    """Map an array that lies in a file. Pickles call this.

    Args:
        name: the path of the file.
        mode: as `numpy.memmap` takes it.
        start: the offset in the file of the bytes that the array covers.
        length: the number of those bytes.
        first: the offset of the array's first item in those bytes.
        dtype, shape, strides: of the array.
    """
    import numpy  # noqa: PLC0415 - only a receiver of arrays needs it

    return numpy.ndarray(shape, dtype, numpy.memmap(name, numpy.uint8, mode, start, (length,)), first, strides)


def _copied(array: Any, lost_writes: bool, numpy: Any) -> Any:
    """Pickle an array of a file as data; read-only if a task would expect its writes to reach the file."""
    plain = array.view(numpy.ndarray)
    reduced = (plain if plain.flags.forc else numpy.ascontiguousarray(plain)).__reduce_ex__(5)
    return (read_only, reduced) if lost_writes and array.nbytes else reduced


def read_only(make: Any, arguments: Any) -> Any:
    """Make an array, and have writes to it fail. Pickles call this."""
    array = make(*arguments)
    array.flags.writeable = False
    return array
