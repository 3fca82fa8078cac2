"""Draws the plots of a run and of its data."""
