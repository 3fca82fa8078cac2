"""An ensemble's probabilities are the mean of its members'."""

from __future__ import annotations

import torch

from distcls.inference.ensemble import averaged


def test_the_softmax_is_the_mean_of_probabilities():
    members = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) * 5 for i in range(3)]
    expected = torch.stack([one.softmax(1) for one in members]).mean(0)
    assert torch.allclose(averaged(members).softmax(1), expected, atol=1e-6)


def test_one_member_keeps_its_bits():
    logits = torch.randn(5, 4)
    assert averaged([logits]) is logits
