"""The run folder: where a run lives, what it is doing, and its numbers."""
