"""Phrases that messages share read the same everywhere."""

from __future__ import annotations

from distcls.config.wording import nearest


def test_nearest_names_one_word_or_nothing():
    assert nearest("rresnet9", ["cnn2", "resnet9"]) == " Did you mean 'resnet9'?"
    assert nearest("xyz", ["cnn2", "resnet9"]) == ""
