"""Tables arrive as they were sent, in one piece and ahead of their use."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from distcls.data.loading.transfer import copied_ahead, pack, to_device, unpack

TABLES = {
    "shift": torch.arange(6).view(3, 2),
    "mirrored": torch.tensor([True, False, True]),
    "share": torch.tensor([0.25, 0.5, 1.0]),
    "color": torch.rand(3, 3, 3, dtype=torch.float64)[:, ::2],
    "none": torch.empty(0, 4),
}


def test_tables_of_any_type_are_unpacked_as_they_were_packed():
    packed = pack(TABLES, pinned=False)
    there = unpack(packed, TABLES)
    assert list(there) == list(TABLES)
    for name, table in TABLES.items():
        assert there[name].dtype == table.dtype and torch.equal(there[name], table)
        assert not table.numel() or there[name].untyped_storage().data_ptr() == packed.data_ptr()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_they_arrive_on_the_device(device):
    there = to_device(TABLES, torch.device(device))
    assert {name: (t.shape, t.dtype, t.device.type) for name, t in there.items()} == {
        name: (t.shape, t.dtype, device) for name, t in TABLES.items()
    }


def test_a_gpu_is_sent_the_next_item_before_it_is_given_this_one(monkeypatch):
    events = []

    def made():
        for i in range(3):
            events.append(f"send {i}")
            yield SimpleNamespace(i=i, record_stream=lambda _, i=i: events.append(f"keep {i}"))

    stream = SimpleNamespace(wait_stream=lambda _: events.append("wait"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda _: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    for item in copied_ahead(made(), lambda item: [item], torch.device("cuda")):
        events.append(f"use {item.i}")
    assert events == [
        *["send 0", "wait", "keep 0", "send 1", "use 0", "wait", "keep 1", "send 2", "use 1", "wait", "keep 2", "use 2"]
    ]
