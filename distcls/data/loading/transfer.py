"""Copies tensors from host to device without either waiting for the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch

Tables = dict[str, torch.Tensor]
T = TypeVar("T")

ALIGNMENT = 16
"""Bytes: each table starts at a multiple of this, so that its numbers can be read in place."""


def to_device(tables: Tables, device: torch.device) -> Tables:
    """Return the tables on the device. A GPU gets all of them in a single copy from pinned memory."""
    if device.type in ("cpu", "mps"):
        return {name: move(table, device) for name, table in tables.items()}
    packed = pack(tables, pinned=device.type == "cuda")
    return unpack(packed.to(device, non_blocking=True), tables)


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy without waiting where that is safe: MPS would read memory already freed (pytorch/pytorch#189690)."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def pack(tables: Tables, pinned: bool) -> torch.Tensor:
    """Return all tables in one uint8 vector."""
    packed = torch.empty(sum(map(_room, tables.values())), dtype=torch.uint8, pin_memory=pinned)
    offset = 0
    for table in tables.values():
        packed[offset : offset + table.nbytes] = table.contiguous().view(-1).view(torch.uint8)
        offset += _room(table)
    return packed


def unpack(packed: torch.Tensor, tables: Tables) -> Tables:
    """Return views of a packed vector, with the names, shapes and types of the tables packed into it."""
    views, offset = {}, 0
    for name, table in tables.items():
        views[name] = packed[offset : offset + table.nbytes].view(table.dtype).view(table.shape)
        offset += _room(table)
    return views


def _room(table: torch.Tensor) -> int:
    return -(-table.nbytes // ALIGNMENT) * ALIGNMENT


def copied_ahead(
    items: Iterator[T], tensors: Callable[[T], Iterable[torch.Tensor]], device: torch.device
) -> Iterator[T]:
    """Fetch each item before the previous one is used, so that it is copied to a GPU while the GPU computes.

    tensors: returns the tensors that were made on the device for an item.
    """
    return _copied_ahead(items, tensors, device) if device.type == "cuda" else items


def _copied_ahead(
    items: Iterator[T], tensors: Callable[[T], Iterable[torch.Tensor]], device: torch.device
) -> Iterator[T]:
    ahead = torch.cuda.Stream(device)
    waiting: list[T] = []
    while True:
        with torch.cuda.stream(ahead):
            coming = list(itertools.islice(items, 1))
        yield from waiting
        if not coming:
            return
        now = torch.cuda.current_stream(device)
        now.wait_stream(ahead)
        for tensor in tensors(coming[0]):
            tensor.record_stream(now)
        waiting = coming
