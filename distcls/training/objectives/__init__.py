"""Objectives, which a training step minimises: one file for each, and `build.py`, which lists them."""
