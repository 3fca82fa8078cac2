"""A run as a web service: its routes, its batches and its demo page."""
