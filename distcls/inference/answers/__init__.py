"""Answers of a classifier: what it predicts for an image, and how that is written."""
