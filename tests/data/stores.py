"""Stores in a test's own folder, and data for them."""

from __future__ import annotations

from pathlib import Path

from minidask.data.store import NO_BLOBS, BlobStore
from minidask.wire.large import blob_id

KIB = 1024


def data(number: int, size: int = 10 * KIB) -> bytes:
    return bytes([number]) * size


def blob(number: int, size: int = 10 * KIB) -> bytes:
    return blob_id([data(number, size)])


def files(store: BlobStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()} - set(NO_BLOBS)


def new_store(folder: Path, budget: int) -> BlobStore:
    for name in ("memory", "disk"):
        (folder / name).mkdir()
    return BlobStore.create(folder / "memory", budget, folder / "disk")
