"""Builds models and loads their initial weights."""
